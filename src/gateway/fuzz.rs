//! What must hold of any bytes that clients send.

use std::time::Instant as Clock;

use serde_json::Value;
use tokio::time::Instant;

use super::flood::Flood;
use super::peek::{Peek, Reader};
use super::route::Route;
use crate::pool::Model;

/// What a look at a body finds is what a parser finds, in whatever pieces it comes.
pub(crate) fn peeks(bytes: &[u8]) {
    let (choice, body) = bytes.split_first().unwrap_or((&0, &[]));
    let (route, items, model) = match choice & 1 {
        0 => (Route::Embed, "texts", "model"),
        _ => (Route::Bertscore, "candidates", "model_type"),
    };
    let found = peek(route, body, body.len());
    assert_eq!(
        peek(route, body, usize::from(choice >> 1)),
        found,
        "in pieces"
    );
    if let Ok(Value::Object(parsed)) = serde_json::from_slice(body) {
        let named = parsed
            .get(model)
            .and_then(Value::as_str)
            .unwrap_or_default();
        let named = Model::new(&format!("{}:{named}", route.as_str()));
        let count = parsed
            .get(items)
            .and_then(Value::as_array)
            .map_or(0, Vec::len);
        assert_eq!((found.model, found.work.items as usize), (named, count));
    }
}

fn peek(route: Route, body: &[u8], size: usize) -> Peek {
    let mut reader = Reader::new(route);
    body.chunks(size.max(1))
        .for_each(|piece| reader.read(piece));
    reader.finish()
}

/// Frames of HTTP/2 are told apart however they are cut.
pub(crate) fn floods(bytes: &[u8]) {
    let (size, frames) = bytes.split_first().unwrap_or((&0, &[]));
    let now = Instant::from_std(Clock::now());
    let [one, other] = [usize::from(*size), frames.len()].map(|size| {
        let mut flood = Flood::new(now);
        frames
            .chunks(size.max(1))
            .for_each(|piece| flood.read(piece, now));
        flood
    });
    // A piece may pay for the frames before it, never beyond the allowance: only that is not the same.
    assert_eq!(one.is_spent(), other.is_spent());
    assert_eq!(format!("{one:?}"), format!("{other:?}"));
}
