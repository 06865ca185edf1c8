//! What must hold of any bytes that are read as bodies of clients or hosts. `serde_json`'s tree of values, which
//! nothing here uses otherwise, says what they mean.

#![expect(
    clippy::expect_used,
    clippy::panic,
    reason = "compiled for tests and fuzzing only"
)]

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;

use crate::items::{Cut, Glance, Kind, Piece, Run, compose};
use crate::openai::{self, Complaint, Embeddings, Encoding, Expected, Form, Question, Request};
use crate::{Health, Info, Status, without_mark};

/// As `gpu_bridge_fuzz` has them.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("items", items),
    ("openai_requests", openai_requests),
    ("openai_answers", openai_answers),
    ("openai_hosts", openai_hosts),
    ("told", told),
];

/// How it is told that something is JSON, and yet no value.
const BEYOND: [&str; 5] = [
    "invalid unicode code point",
    "recursion limit",
    "number out of range",
    "unexpected end of hex",
    "lone leading",
];

/// The input's first byte chooses, the rest is read.
fn chosen(bytes: &[u8]) -> (usize, &[u8]) {
    let (first, rest) = bytes.split_first().unwrap_or((&0, &[]));
    (usize::from(*first), rest)
}

/// `None`: it means nothing to `serde_json`, which has bounds of its own on depth and numbers, and takes no unpaired
/// surrogates, which may stand where nothing looks at texts.
fn value(json: &[u8]) -> Option<Value> {
    match serde_json::from_slice(json) {
        Ok(value) => Some(value),
        Err(error) if BEYOND.iter().any(|it| error.to_string().starts_with(it)) => None,
        Err(error) => panic!("no JSON: {error}: {}", json.escape_ascii()),
    }
}

/// What is cut is what a parser reads, and joined again it is what it was.
fn items(bytes: &[u8]) {
    let (choice, body) = chosen(bytes);
    let kinds = [
        (Kind::Texts, &["texts"][..]),
        (Kind::Pairs, &["candidates", "references"]),
        (Kind::Embeddings, &["embeddings"]),
        (Kind::Scores, &["precision", "recall", "f1"]),
    ];
    let (kind, lists) = kinds[choice % kinds.len()];
    let Some(cut) = Cut::read(kind, body) else {
        return;
    };
    let Some(whole) = value(body) else {
        return;
    };
    let count = cut.items();
    let mut glance = Glance::at(kind);
    glance.see(body);
    if kind == kind.answer()
        && let Ok(found) = glance.end()
    {
        assert_eq!(found, count, "seen at a glance");
    }
    for (list, name) in lists.iter().enumerate() {
        let read: Vec<Value> = (0..count)
            .filter_map(|at| value(cut.item(body, at)[list]))
            .collect();
        assert_eq!(whole[name], Value::from(read), "{name}");
    }
    let names = cut.options(body).into_iter().map(|(name, option)| {
        assert!(
            option[0] != b'"' || serde_json::from_slice::<String>(option).is_ok(),
            "{}",
            option.escape_ascii()
        );
        name
    });
    let expected = whole
        .as_object()
        .expect("an object")
        .keys()
        .map(String::as_bytes);
    assert!(names.eq(expected.filter(|name| !lists.iter().any(|list| list.as_bytes() == *name))));
    let middle = choice / kinds.len() % (count + 1);
    let parts = [0..middle, middle..count].map(|items| Run { of: 0, items });
    let joined = composed(&[body], std::slice::from_ref(&cut), &parts);
    assert_eq!(value(&joined), Some(whole), "cut at {middle}, and joined");
    let [first, second] = parts.map(|part| composed(&[body], std::slice::from_ref(&cut), &[part]));
    let pieces = [second.as_slice(), &first];
    let cuts: Vec<Cut> = pieces
        .iter()
        .filter_map(|part| Cut::read(kind, part))
        .collect();
    if let [second_cut, first_cut] = &cuts[..] {
        let runs = [(1, first_cut.items()), (0, second_cut.items())].map(|(of, count)| Run {
            of,
            items: 0..count,
        });
        assert_eq!(
            value(&composed(&pieces, &cuts, &runs)),
            value(body),
            "parts, and joined"
        );
    } else {
        assert!(middle == 0 || middle == count, "a part can't be cut again");
    }
}

fn composed(bodies: &[&[u8]], cuts: &[Cut], runs: &[Run]) -> Vec<u8> {
    let pieces = compose(cuts, runs);
    let pieces = pieces.iter().map(|piece| match piece {
        Piece::Of(at, range) => &bodies[*at][range.clone()],
        Piece::Comma => b",",
    });
    pieces.collect::<Vec<_>>().concat()
}

/// A request that is taken asks for the texts, the model and the length that it names, whatever else it holds; one
/// that is refused is told so in few words.
fn openai_requests(bytes: &[u8]) {
    match Request::read(bytes) {
        Ok(request) => {
            let (Some(asked), Some(sent)) = (value(&request.body), value(bytes)) else {
                return;
            };
            let texts = match &sent["input"] {
                Value::String(text) => vec![Value::from(text.as_str())],
                list => list.as_array().expect("a list").clone(),
            };
            assert!(
                texts
                    .iter()
                    .all(|text| text.as_str().is_some_and(|text| !text.is_empty()))
            );
            assert_eq!(request.form.texts, texts.len());
            assert_eq!(
                (&asked["texts"], &asked["model"]),
                (&Value::from(texts), &sent["model"])
            );
            assert_eq!(asked["dimensions"], sent["dimensions"]);
            assert_eq!(
                request.form.encoding == Encoding::Base64,
                sent["encoding_format"] == "base64"
            );
            assert!(
                Cut::read(Kind::Texts, &request.body)
                    .is_some_and(|cut| cut.items() == request.form.texts)
            );
        }
        Err(refusal) => {
            assert!(refusal.message.len() < 600, "{}", refusal.message.len());
            assert!(
                !refusal.message.contains(char::is_control),
                "{:?}",
                refusal.message
            );
        }
    }
}

/// An answer that is translated holds the numbers of the host's, as many as were asked for.
fn openai_answers(bytes: &[u8]) {
    let (choice, answer) = chosen(bytes);
    let encoding = [Encoding::Float, Encoding::Base64][choice & 1];
    let dimensions = std::num::NonZeroU32::new(u32::try_from(choice >> 1 & 3).expect("two bits"));
    let form = Form {
        encoding,
        dimensions,
        texts: choice >> 3 & 3,
    };
    let Ok(translated) = openai::translate(answer, form, 7) else {
        return;
    };
    let (Some(translated), Some(answer)) = (value(&translated), value(without_mark(answer))) else {
        return;
    };
    let none = Vec::new();
    let rows = answer["embeddings"].as_array().unwrap_or(&none);
    let data = translated["data"].as_array().expect("a list");
    assert_eq!((data.len(), rows.len()), (form.texts, form.texts));
    for (row, told) in rows.iter().zip(data) {
        let told = &told["embedding"];
        match encoding {
            Encoding::Float => assert_eq!(row, told),
            Encoding::Base64 => {
                let bytes = STANDARD
                    .decode(told.as_str().expect("a text"))
                    .expect("base64");
                assert_eq!(bytes.len(), 4 * row.as_array().expect("a list").len());
            }
        }
        let length = row.as_array().map(Vec::len);
        assert!(
            dimensions.is_none_or(|wanted| length == usize::try_from(wanted.get()).ok()),
            "{row}"
        );
    }
}

/// What a host that speaks only this dialect is asked is what was asked of us; what it answers is finite and even, or
/// of no use.
fn openai_hosts(bytes: &[u8]) {
    let (choice, body) = chosen(bytes);
    if let Ok(question) = Question::read(body)
        && let (Some(asked), Some(sent)) = (value(&question.body("m\"", true)), value(body))
    {
        assert_eq!(
            (&asked["input"], &asked["model"]),
            (&sent["texts"], &Value::from("m\""))
        );
        assert_eq!(
            sent["texts"].as_array().map(Vec::len),
            Some(question.texts())
        );
    }
    let expected = Expected {
        count: choice & 3,
        dimensions: Some(choice >> 2 & 3).filter(|length| *length > 0),
        model: Some("m").filter(|_| choice & 16 > 0),
        called: "m\"",
        normalize: choice & 32 > 0,
    };
    if let Ok(read) = Embeddings::read(body, expected) {
        let answer = value(&read.body).expect("finite numbers");
        let rows: Vec<Vec<f64>> =
            serde_json::from_value(answer["embeddings"].clone()).expect("lists of numbers");
        assert_eq!(rows.len(), expected.count);
        let length = answer["dimensions"]
            .as_u64()
            .and_then(|it| usize::try_from(it).ok());
        assert!(
            rows.iter()
                .all(|row| Some(row.len()) == length && row.iter().all(|it| it.is_finite()))
        );
        assert!(rows.is_empty() || Cut::read(Kind::Embeddings, &read.body).is_some());
    }
    let complaint = Complaint::read(body);
    assert!(complaint.message.chars().count() <= 500 && value(&complaint.detail()).is_some());
    let (status, error) = openai::error(400, body, None, None);
    assert!(
        status == 400 && value(&error).is_some_and(|error| error["error"]["message"].is_string())
    );
    let _ = openai::listed_models(body);
}

/// What a host tells of itself is read, or it is not; what was read is said again as it was.
fn told(bytes: &[u8]) {
    macro_rules! is_said_again {
        ($($kind:ty),*) => {$(
            if let Ok(told) = serde_json::from_slice::<$kind>(bytes) {
                let said = serde_json::to_vec(&told).expect("it serialises");
                assert_eq!(serde_json::from_slice::<$kind>(&said).expect("it can be read"), told);
            }
        )*};
    }
    is_said_again!(Health, Info, Status);
}

#[cfg(test)]
mod tests {
    #[test]
    fn whatever_comes() {
        gpu_bridge_fuzz::run(super::TARGETS);
    }
}
