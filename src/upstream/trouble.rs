//! What keeps a host from being used, by kind.
//!
//! What operators read is made from these kinds and never from the texts of hosts, resolvers or
//! libraries: those could hold anything, and differ each time.

use std::time::Duration;
use std::{fmt, io};

use pingora::{Error, ErrorType};

use super::exchange::Broken;

/// See the module. Its `Display` is a clause about the host.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trouble {
    /// Its name stands for no address.
    NoAddress,
    /// Nobody told what its name stands for.
    Unresolved,
    /// Nothing listens there.
    Refused,
    /// No way leads there.
    NoRoute,
    /// Making a connection takes too long.
    ConnectTimedOut,
    /// No connection for another reason.
    NoConnection,
    /// No connection that can be trusted.
    Tls(TlsTrouble),
    /// A connection, but no answer within that time.
    Silent(Duration),
    /// It stopped in the middle of an exchange, without a word or with a reset.
    Cut,
    /// It stopped reading or writing in the middle of an exchange.
    Stalled,
    /// What it sends is no HTTP.
    NotHttp,
    /// It answers something else than 200 to a health check.
    Status(u16),
    /// It answers 200 to a health check, but no JSON.
    NotJson,
    /// It answers 200 and JSON, but not what a GPU host says.
    NotAGpuHost,
    /// Its answer to a health check does not end.
    Endless,
    /// It says itself that it is not well.
    Unwell,
    /// It answers with our API key, so it sends back what it gets.
    Echo,
    /// It refuses our API key, or what is asked with it, with this status.
    KeyRefused(u16),
    /// This machine is short of that.
    Short(&'static str),
    /// This machine stood still meanwhile.
    Halted,
}

/// Why a TLS handshake failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TlsTrouble {
    Expired,
    NotYet,
    UnknownAuthority,
    WrongName,
    /// It does not speak TLS.
    NotTls,
    /// It ended the handshake.
    Declined,
    Other,
}

impl Trouble {
    /// Why no connection could be made.
    pub(super) fn connecting(error: &Error) -> Self {
        match error.etype() {
            ErrorType::ConnectRefused => Self::Refused,
            ErrorType::ConnectNoRoute => Self::NoRoute,
            ErrorType::ConnectTimedout | ErrorType::TLSHandshakeTimedout => Self::ConnectTimedOut,
            ErrorType::TLSHandshakeFailure | ErrorType::InvalidCert => {
                Self::Tls(TlsTrouble::of(error))
            }
            _ => Self::NoConnection,
        }
    }

    /// Why there is no whole answer although there was a connection.
    pub(super) fn exchanging(broken: &Broken) -> Self {
        match broken {
            Broken::Io(error) if error.kind() == io::ErrorKind::TimedOut => Self::Stalled,
            // With TLS 1.3, a host that wants a certificate of ours says so after the handshake.
            Broken::Io(error) if TlsTrouble::of(error) == TlsTrouble::Declined => {
                Self::Tls(TlsTrouble::Declined)
            }
            Broken::Io(_) | Broken::Closed => Self::Cut,
            Broken::NotHttp => Self::NotHttp,
        }
    }
}

impl TlsTrouble {
    /// pingora keeps nothing of rustls' error but its text; what is looked for are parts of it that are
    /// the names of its kinds.
    fn of(error: &dyn fmt::Display) -> Self {
        let text = error.to_string();
        let kinds = [
            (
                "invalid peer certificate: certificate expired",
                Self::Expired,
            ),
            (
                "invalid peer certificate: certificate not valid yet",
                Self::NotYet,
            ),
            (
                "invalid peer certificate: certificate not valid for name",
                Self::WrongName,
            ),
            (
                "invalid peer certificate: UnknownIssuer",
                Self::UnknownAuthority,
            ),
            ("received corrupt message", Self::NotTls),
            ("received fatal alert", Self::Declined),
            ("tls handshake eof", Self::Declined),
        ];
        let kind = kinds.iter().find(|(part, _)| text.contains(part));
        kind.map_or(Self::Other, |(_, kind)| *kind)
    }
}

impl fmt::Display for Trouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoAddress => {
                "its name can't be resolved: it has no address; correct its url, or the DNS"
            }
            Self::Unresolved => "its name can't be resolved",
            Self::Refused => "it does not accept connections: nothing listens at its address",
            Self::NoRoute => "no route leads to it",
            Self::ConnectTimedOut => "connecting to it gets no answer; is it off?",
            Self::NoConnection => "it can't be connected to",
            Self::Tls(tls) => return tls.fmt(f),
            Self::Silent(time) => {
                return write!(f, "it does not answer within {} s", time.as_secs_f64());
            }
            Self::Cut => "it closed the connection before its answer was whole",
            Self::Stalled => "it stopped in the middle of the exchange",
            Self::NotHttp => "what it sends is not HTTP",
            Self::Status(status) => return write!(f, "its /health answers {status}"),
            Self::NotJson => "its /health answers no JSON",
            Self::NotAGpuHost => "its /health does not answer like a GPU host's; correct its url",
            Self::Endless => "its answer does not end",
            Self::Echo => "it sends the proxy's API key back; is it a GPU host? Correct its url",
            Self::Unwell => "its /health says that it is not well",
            Self::Short(what) => {
                return write!(
                    f,
                    "it was not asked: the proxy's own machine is short of {what}"
                );
            }
            Self::Halted => "nobody knows: the proxy itself stood still while it was asked",
            Self::KeyRefused(status @ (402 | 429)) => {
                return write!(
                    f,
                    "the account of the proxy's key has used up what it may ({status}); raise that, or set another api_key"
                );
            }
            Self::KeyRefused(status) => {
                return write!(
                    f,
                    "it refuses the proxy's API key ({status}); correct its api_key"
                );
            }
        })
    }
}

impl fmt::Display for TlsTrouble {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Expired => "TLS: its certificate has expired",
            Self::NotYet => "TLS: its certificate is not valid yet",
            Self::UnknownAuthority => {
                "TLS: its certificate is from an authority that is not trusted; see tls.ca"
            }
            Self::WrongName => "TLS: its certificate is for another name; see tls.server_name",
            Self::NotTls => "it does not speak TLS; should its url start with http://?",
            Self::Declined => {
                "TLS: it ended the handshake; does it ask for a certificate (tls.certificate)?"
            }
            Self::Other => "TLS: the handshake failed",
        })
    }
}

#[cfg(test)]
mod tests {
    use rustls::CertificateError;
    use rustls::pki_types::{ServerName, UnixTime};

    use super::*;

    fn error(kind: ErrorType, text: &str) -> Error {
        *Error::explain(kind, text.to_owned())
    }

    #[test]
    fn each_kind_of_error_has_its_trouble() {
        let table = [
            (ErrorType::ConnectRefused, Trouble::Refused),
            (ErrorType::ConnectNoRoute, Trouble::NoRoute),
            (ErrorType::ConnectTimedout, Trouble::ConnectTimedOut),
            (ErrorType::ConnectError, Trouble::NoConnection),
            (
                ErrorType::TLSHandshakeFailure,
                Trouble::Tls(TlsTrouble::Other),
            ),
        ];
        for (kind, trouble) in table {
            assert_eq!(Trouble::connecting(&error(kind, "secret")), trouble);
        }
        let io = |kind: io::ErrorKind| Broken::Io(kind.into());
        let table = [
            (io(io::ErrorKind::TimedOut), Trouble::Stalled),
            (Broken::Closed, Trouble::Cut),
            (io(io::ErrorKind::ConnectionReset), Trouble::Cut),
            (Broken::NotHttp, Trouble::NotHttp),
        ];
        for (broken, trouble) in table {
            assert_eq!(Trouble::exchanging(&broken), trouble);
        }
    }

    /// Written by rustls itself, so that another version of it can't change its words unseen.
    #[test]
    fn failures_of_tls_are_told_apart() {
        let time = UnixTime::now();
        let certificate = rustls::Error::InvalidCertificate;
        let expired = CertificateError::ExpiredContext {
            time,
            not_after: time,
        };
        let not_yet = CertificateError::NotValidYetContext {
            time,
            not_before: time,
        };
        let wrong_name = CertificateError::NotValidForNameContext {
            expected: ServerName::try_from("expected").unwrap(),
            presented: vec!["other".to_owned()],
        };
        let odd = rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType);
        let alert = rustls::Error::AlertReceived(rustls::AlertDescription::CertificateRequired);
        let table = [
            (certificate(expired), TlsTrouble::Expired),
            (certificate(not_yet), TlsTrouble::NotYet),
            (certificate(wrong_name), TlsTrouble::WrongName),
            (
                certificate(CertificateError::UnknownIssuer),
                TlsTrouble::UnknownAuthority,
            ),
            (odd, TlsTrouble::NotTls),
            (alert, TlsTrouble::Declined),
            (rustls::Error::DecryptError, TlsTrouble::Other),
        ];
        for (cause, trouble) in table {
            let text = format!("TLS connect() failed: {cause}, SNI: a");
            let error = error(ErrorType::TLSHandshakeFailure, &text);
            assert_eq!(Trouble::connecting(&error), Trouble::Tls(trouble), "{text}");
        }
    }
}
