//! What is said of certificates and keys when the configuration is read, and so before any handshake.

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair};

use super::*;

struct Pair {
    certificate: String,
    key: String,
}

fn pair(change: impl FnOnce(&mut CertificateParams)) -> Pair {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::new(["gpu.example".to_owned()]).unwrap();
    change(&mut params);
    Pair {
        certificate: params.self_signed(&key).unwrap().pem(),
        key: key.serialize_pem(),
    }
}

/// Problems, else warnings, of a listener and of a host with these files.
fn told(certificate: &str, key: &str, ca: &str) -> Vec<Vec<String>> {
    let folder = tempfile::tempdir().unwrap();
    for (name, text) in [("c", certificate), ("k", key), ("a", ca)] {
        std::fs::write(folder.path().join(name), text).unwrap();
    }
    let auth = "auth: {keys: [{name: k, key: secret}]}\n";
    let server = "listen: [{tls: {certificate: c, key: k, client_ca: a}}]\n";
    let server = format!("{auth}{server}{MINIMAL}");
    let client = "url: 'https://gpu:1', tls: {certificate: c, key: k, ca: a}";
    let client = format!("{auth}pool: {{hosts: [{{name: a, {client}}}]}}\n");
    let name = format!("{}/", folder.path().display());
    let told = [server, client].map(|text| match read_in(&text, folder.path()) {
        Ok(config) => config.warnings.iter().map(ToString::to_string).collect(),
        Err(problems) => problems,
    });
    let shorten = |text: &String| text.replace(&name, "");
    told.map(|texts| texts.iter().map(shorten).collect()).into()
}

fn assert_told(told: &[Vec<String>], expected: &str) {
    for texts in told {
        assert!(
            texts.iter().any(|text| text.contains(expected)),
            "{expected}: {told:#?}"
        );
    }
}

const FIRST_VERSION: &str = include_str!("first_version.pem");
const KEY_OF_FIRST_VERSION: &str = include_str!("first_version.key.pem");

#[test]
fn what_can_be_used_is_taken_without_a_word() {
    let good = pair(|_| ());
    let all = format!("{}{}", good.key, good.certificate);
    let marked = format!("\u{feff}{}\u{feff}{}", good.key, good.certificate);
    for text in [&all, &marked, &all.replace('\n', "\r\n")] {
        for texts in told(text, text, text) {
            assert_eq!(texts, [""; 0], "{text}");
        }
    }
}

#[test]
fn what_no_handshake_would_take_is_refused_with_its_reason() {
    let (good, other) = (pair(|_| ()), pair(|_| ()));
    let (own, key) = (&*good.certificate, &*good.key);
    let locked = key.replace("PRIVATE KEY", "ENCRYPTED PRIVATE KEY");
    let half = format!("{own}-----BEGIN CERTIFICATE-----\nhunter2");
    let garbage = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
    let odd_key = "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n";
    let behind = format!("{}{own}", other.certificate);
    let table = [
        (
            own,
            &*other.key,
            own,
            ".key: k holds another key than that of the certificate",
        ),
        (
            &behind,
            key,
            own,
            ".key: k holds the key of a later certificate in the file",
        ),
        (
            FIRST_VERSION,
            KEY_OF_FIRST_VERSION,
            own,
            ".certificate: c holds a certificate of X.509 version 1",
        ),
        (own, &locked, own, ".key: k asks for a passphrase"),
        (own, own, own, ".key: k holds no private key"),
        (
            own,
            odd_key,
            own,
            ".key: k holds a key of a kind that can't be used",
        ),
        (key, key, own, ".certificate: c holds no certificate"),
        ("", key, own, ".certificate: c holds no certificate"),
        (&half, key, own, ".certificate: c is damaged"),
        (
            garbage,
            key,
            own,
            ".certificate: c holds a certificate that can't be read",
        ),
        (own, key, "", "ca: a holds no certificate"),
        (
            own,
            key,
            garbage,
            "ca: a holds a certificate that can't be read",
        ),
    ];
    for (certificate, key, ca, expected) in table {
        let told = told(certificate, key, ca);
        assert_told(&told, expected);
        assert!(!format!("{told:?}").contains("hunter2"));
    }
}

#[test]
fn what_others_will_refuse_is_warned_of() {
    let good = pair(|_| ());
    let ended = pair(|params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let early = pair(|params| params.not_before = rcgen::date_time_ymd(2090, 1, 1));
    let authority = pair(|params| {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let (own, key) = (&*good.certificate, &*good.key);
    assert_told(
        &told(&ended.certificate, &ended.key, own),
        "tls.certificate: the certificate of 'CN=rcgen self signed cert' ended on",
    );
    assert_told(
        &told(&early.certificate, &early.key, own),
        "is not valid before",
    );
    assert_told(
        &told(own, key, &authority.certificate),
        "ca: the certificate of",
    );
    let mixed = format!("{own}{FIRST_VERSION}");
    assert_told(&told(&mixed, key, own), "do not sign one another");
}

#[test]
fn every_file_is_read_before_anything_is_said() {
    let missing = "listen: [{tls: {certificate: c, key: /, client_ca: a}}]\n";
    let told = problems(missing);
    assert_eq!(told.len(), 3, "{told:#?}");
    assert!(
        told[1].contains("names a folder; write the path of one"),
        "{told:#?}"
    );
}
