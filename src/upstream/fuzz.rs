//! What must hold of any bytes that hosts answer with.

#![expect(clippy::panic, reason = "compiled for tests and fuzzing only")]

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use bytes::BytesMut;
use gpu_bridge_wire::{Info, openai};

use super::meaning::{Key, is_cut, meaning, meaning_in_openai};
use super::openai::info;
use super::readiness;
use super::response::{Framing, Head, Heads, MOST_HEADERS, NotHttp};
use super::told::{Load, Told};
use crate::config::OpenAi;
use crate::headers::{goes_on, words};

/// Heads of answers are found alike however they come, read as httparse reads them, and mean something.
pub(crate) fn answers(bytes: &[u8]) {
    let (size, bytes) = bytes.split_first().unwrap_or((&0, &[]));
    let (found, end) = heads(bytes, bytes.len());
    let (in_pieces, _) = heads(bytes, usize::from(*size));
    assert_eq!(format!("{in_pieces:?}"), format!("{found:?}"), "in pieces");
    let mut rest = bytes;
    for head in found.iter().flatten() {
        rest = &rest[parsed(rest, head)..];
        let now = SystemTime::UNIX_EPOCH + Duration::from_hours(24 * 365 * 50);
        for meaning in [meaning, meaning_in_openai] {
            let _ = meaning(head, Key::Unknown, now);
        }
    }
    let is_good = found.iter().all(Result::is_ok);
    assert!(!is_good || rest.len() == end.len());
    let _ = is_cut(&end);
}

/// The heads at the start of `bytes`, which come in pieces of this size, and what follows them.
fn heads(bytes: &[u8], size: usize) -> (Vec<Result<Head, NotHttp>>, BytesMut) {
    let (mut heads, mut came, mut found) = (Heads::default(), BytesMut::new(), Vec::new());
    for piece in bytes.chunks(size.max(1)) {
        came.extend_from_slice(piece);
        while let Some(head) = heads.take(&mut came).transpose() {
            let is_bad = head.is_err();
            found.push(head);
            if is_bad {
                return (found, came);
            }
        }
    }
    (found, came)
}

/// The length of the head at the start, which httparse must read in the same way.
fn parsed(bytes: &[u8], head: &Head) -> usize {
    let mut room = [httparse::EMPTY_HEADER; MOST_HEADERS];
    let mut response = httparse::Response::new(&mut room);
    let Ok(httparse::Status::Complete(length)) = response.parse(bytes) else {
        panic!("no head: {}", bytes.escape_ascii());
    };
    assert_eq!(response.code, Some(head.status.as_u16()));
    let theirs = response
        .headers
        .iter()
        .map(|it| (it.name.to_ascii_lowercase(), it.value));
    let theirs: Vec<_> = theirs.collect();
    for (name, value) in &head.headers {
        assert!(
            theirs
                .iter()
                .any(|it| it.0 == name.as_str() && it.1 == value.as_bytes())
        );
    }
    let connection = theirs.iter().filter(|it| it.0 == "connection");
    let named: Vec<_> = words(connection.map(|it| it.1)).collect();
    let go_on = theirs.iter().filter(|(name, _)| {
        let is_named = named
            .iter()
            .any(|word| word.eq_ignore_ascii_case(name.as_bytes()));
        !is_named && name.parse().is_ok_and(|name| goes_on(&name))
    });
    assert_eq!(go_on.count(), head.headers.len());
    let has = |wanted: &str| theirs.iter().any(|it| it.0 == wanted);
    match head.framing {
        Framing::Chunked => {
            assert!(has("transfer-encoding") && (head.is_last || !has("content-length")));
        }
        Framing::Unframed => {
            assert!(head.is_last && !has("transfer-encoding") && !has("content-length"));
        }
        Framing::Length(_) => {}
    }
    length
}

/// Of what a host tells of itself, little is kept and little is shown.
pub(crate) fn checks(bytes: &[u8]) {
    if let Ok(health) = serde_json::from_slice::<readiness::Told>(bytes) {
        let told = health.not_ready().unwrap_or_default();
        assert!(
            told.len() < 1000 && !told.contains(char::is_control),
            "{told:?}"
        );
    }
    assert_eq!(readiness::Told::of_anybody(bytes).health.status, "ok");
    if let Ok(load) = serde_json::from_slice::<Load>(bytes) {
        let slots = load.slots(1);
        assert!(
            slots
                .max_concurrent
                .max(slots.available)
                .max(slots.in_flight)
                <= 4096
        );
    }
    let api = OpenAi {
        model_alias: BTreeMap::new(),
        health_path: "/health".to_owned(),
        normalize: false,
        truncate: false,
    };
    let listed = openai::listed_models(bytes);
    let listed = listed.map(|(ids, maker)| info(&api, ids, maker.as_deref()));
    for told in listed
        .into_iter()
        .chain(serde_json::from_slice::<Info>(bytes))
    {
        let kept = Told::new(told, None).info;
        let texts = [&kept.device, &kept.device_name, &kept.pytorch_version];
        assert!(texts.iter().all(|text| text.chars().count() <= 80));
        assert!(kept.loaded_models.len() <= 4096);
    }
}
