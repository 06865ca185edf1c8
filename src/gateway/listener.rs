//! What becomes of a new connection: counted, secured where TLS is configured, and served in the
//! protocol that its client speaks.
//!
//! Accepting is ours rather than pingora's, which takes on as many connections as come before the first of
//! them is counted, and spins or sleeps for a second when the system has no file for one. So is the TLS
//! handshake: pingora's has a fixed time, and can't have its certificate replaced while it runs.

use std::future::poll_fn;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsRawFd as _;
use std::sync::Arc;

use bytes::BytesMut;
use gpu_bridge_framing::Linger;
use gpu_bridge_places::{Full, Place, Places};
use pingora::listeners::tls::Acceptor;
use pingora::protocols::l4::stream::Stream as TcpStream;
use pingora::protocols::{ALPN, GetSocketDigest as _, Peek as _, SocketDigest, Stream};
use rustls::ServerConfig;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::time::{Instant, timeout};

use super::forwarding::peer_of;
use super::handler::Handler;
use super::http1::{self, Then};
use super::http2;
use super::refusals;
use super::respond::Reply;

/// Serves the connections of one address.
pub struct Listener {
    handler: Arc<Handler>,
    places: Places,
    /// Which of the addresses of the configuration.
    position: usize,
    close_idle: watch::Receiver<bool>,
}

impl Listener {
    /// `position`: in `listen`. `close_idle`: connections of HTTP/1 without a request are
    /// closed once it is true; those of HTTP/2 can be told to send nothing more, and are, as soon as
    /// nothing is accepted any more.
    pub fn new(
        handler: Arc<Handler>,
        places: Places,
        position: usize,
        close_idle: watch::Receiver<bool>,
    ) -> Self {
        Self {
            handler,
            places,
            position,
            close_idle,
        }
    }

    /// Serves the connections that `socket` has, until it is told that nothing more is to be accepted.
    pub async fn run(self: Arc<Self>, socket: Arc<TcpListener>, stopping: watch::Receiver<bool>) {
        let mut stopped = stopping.clone();
        loop {
            let (stream, peer, room) = tokio::select! {
                biased;
                _ = stopped.wait_for(|stop| *stop) => return,
                accepted = self.places.accept(&socket, || false) => accepted,
            };
            let entered = self.enter(peer.ip().to_canonical());
            let stream = known(stream.into(), peer);
            let (listener, stopping) = (Arc::clone(&self), stopping.clone());
            tokio::spawn(async move {
                match entered {
                    Ok(place) => listener.hold(stream, &place, &stopping).await,
                    Err(full) => listener.turn_away(stream, full).await,
                }
                drop(room);
            });
        }
    }

    async fn hold(&self, stream: Stream, place: &Place, stopping: &watch::Receiver<bool>) {
        let _counted = self.handler.observers.metrics.process.connected();
        tokio::select! {
            biased;
            () = self.serve(stream, place, stopping) => {}
            () = place.overdue() => {}
        }
    }

    async fn serve(&self, stream: Stream, place: &Place, stopping: &watch::Receiver<bool>) {
        let secured = tokio::select! {
            biased;
            // What is boxed takes no room in a connection that idles in HTTP/1.
            secured = Box::pin(self.secure(stream)) => secured,
            // There is nothing to say in a handshake.
            () = place.displaced() => None,
        };
        let Some(stream) = secured else {
            return;
        };
        if stream.selected_alpn_proto() == Some(ALPN::H2) {
            return Box::pin(http2::serve(&self.handler, stream, place, stopping)).await;
        }
        if let Then::Http2(stream, read) =
            http1::serve(&self.handler, stream, place, &self.close_idle).await
            && let Some(stream) = rewind(stream, &read)
        {
            Box::pin(http2::serve(&self.handler, stream, place, stopping)).await;
        }
    }

    /// A place for a new connection. A trusted proxy stands for many clients: it may have any number.
    fn enter(&self, peer: IpAddr) -> Result<Place, Full> {
        let config = self.handler.config.get();
        let most = config.limits.max_connections_per_client;
        let most = most.map_or_else(|| self.places.share(), |most| most.get() as usize);
        let client = Some(peer).filter(|peer| !config.headers.trusts(*peer));
        self.places.enter(client, most, Instant::now())
    }

    /// With what the next handshake is done; `None`: there is none. A certificate that is replaced touches no
    /// connection.
    fn tls(&self) -> Option<Arc<ServerConfig>> {
        let config = self.handler.config.get();
        let tls = config.listen.get(self.position)?.tls.as_ref()?;
        Some(Arc::clone(&tls.settings))
    }

    /// Does the TLS handshake, if there is to be one. `None`: it failed.
    async fn secure(&self, stream: Stream) -> Option<Stream> {
        let Some(settings) = self.tls() else {
            return Some(stream);
        };
        let peer = peer_of(stream.get_socket_digest().as_deref());
        let handshake = handshake(tcp(stream)?, settings);
        let patience = self.handler.config.get().timeouts.client_head;
        let problem = match timeout(patience, handshake).await {
            Ok(Ok(stream)) => return Some(stream),
            Ok(Err(problem)) => problem,
            Err(_) => Failure::Probe("not finished in time (timeouts.client_head)".to_owned()),
        };
        self.handler.observers.metrics.process.failed_handshake();
        let address = peer.map(tracing::field::display);
        match problem {
            Failure::Client(problem) => {
                tracing::info!(address, problem, "a TLS handshake with a client failed");
            }
            Failure::Probe(problem) => {
                tracing::debug!(address, problem, "no TLS handshake came about");
            }
        }
        None
    }

    async fn turn_away(&self, mut stream: Stream, full: Full) {
        self.handler.observers.metrics.process.refused_connection();
        // Over TLS nothing can be said without a handshake, and that is work for one more.
        if self.tls().is_none() {
            // Best effort: a client that is not reading loses nothing it has a right to.
            let answer = http1::last_answer(refusals::no_place(full));
            let _ = stream.write_all(&answer).await;
            let _ = AsyncWriteExt::shutdown(&mut stream).await;
        }
    }
}

/// Answers in plain HTTP, as well as that is possible, and hangs up once the client has had the time to
/// read it.
async fn farewell(mut stream: TcpStream, reply: Reply) {
    let mut linger = Linger::default();
    if stream.write_all(&http1::last_answer(reply)).await.is_ok() {
        let _ = poll_fn(|context| linger.poll_close(&mut stream, context)).await;
    }
}

async fn handshake(mut stream: TcpStream, settings: Arc<ServerConfig>) -> Result<Stream, Failure> {
    let mut first = [0];
    // If there is none, the handshake will say why.
    let peeked = stream.try_peek(&mut first).await;
    if peeked.is_ok() && first.iter().all(u8::is_ascii_alphabetic) {
        farewell(stream, refusals::no_tls()).await;
        return Err(Failure::Probe("the client spoke plain HTTP".to_owned()));
    }
    let acceptor = Acceptor::from_server_config(settings);
    let secured = acceptor.tls_handshake(stream).await;
    secured
        .map(|stream| Box::new(stream) as Stream)
        .map_err(|error| failure(&error))
}

/// Why there is no secure connection.
enum Failure {
    /// Somebody wanted one, and did not agree with us about how.
    Client(String),
    /// Nobody wanted one: a health check, a port scan, plain HTTP. They come by the thousand.
    Probe(String),
}

/// pingora keeps of the cause its text only, behind several of its own.
fn failure(error: &pingora::Error) -> Failure {
    const PROBES: [&str; 5] = [
        "corrupt message",
        "eof",
        "reset",
        "Broken pipe",
        "not connected",
    ];
    let context = error.context.as_ref().map_or("", |text| text.as_str());
    let problem = context.rsplit("error: ").next().unwrap_or(context);
    if PROBES.iter().any(|probe| problem.contains(probe)) {
        Failure::Probe(problem.to_owned())
    } else {
        Failure::Client(in_words(problem))
    }
}

/// rustls tells what the client said by the name that the alert has in its code.
fn in_words(problem: &str) -> String {
    let Some(alert) = problem.strip_prefix("received fatal alert: ") else {
        return problem.to_owned();
    };
    let said = match alert {
        "UnknownCA" => "it does not trust who signed the certificate",
        "CertificateExpired" => "the certificate has expired",
        "BadCertificate" | "CertificateUnknown" => "it does not accept the certificate",
        "HandshakeFailure" | "ProtocolVersion" => "there is no version or cipher that both speak",
        other => return format!("the client ended it with the alert {other}"),
    };
    format!("the client ended it: {said}")
}

/// A new connection, and from where it comes, which the system knows only as long as it is open.
fn known(mut stream: TcpStream, peer: SocketAddr) -> Stream {
    // Without it answers are later, and no worse.
    let _ = stream.set_nodelay();
    let digest = SocketDigest::from_raw_fd(stream.as_raw_fd());
    // Nobody has asked yet.
    let _ = digest.peer_addr.set(Some(peer.into()));
    stream.set_socket_digest(digest);
    Box::new(stream)
}

/// Every connection starts as one of TCP.
fn tcp(stream: Stream) -> Option<TcpStream> {
    let stream = stream.into_any().downcast::<TcpStream>().ok()?;
    Some(*stream)
}

/// Puts back what was read.
fn rewind(stream: Stream, read: &BytesMut) -> Option<Stream> {
    let mut stream = tcp(stream)?;
    stream.rewind(read);
    Some(Box::new(stream))
}

#[cfg(test)]
mod tests {
    use super::in_words;

    #[test]
    fn what_a_client_says_of_a_handshake_is_told_in_words() {
        let unknown = "the client ended it: it does not trust who signed the certificate";
        assert_eq!(in_words("received fatal alert: UnknownCA"), unknown);
        let other = "the client ended it with the alert UserCanceled";
        assert_eq!(in_words("received fatal alert: UserCanceled"), other);
        assert_eq!(
            in_words("peer sent no certificates"),
            "peer sent no certificates"
        );
    }
}
