//! What holds for any body: a request within the limits or a refusal that is JSON, and the same
//! decision as a plain reading of the document as a tree.

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;

/// JSON-like values with the names that matter, often malformed in a detail.
fn almost_a_request() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("1".to_owned()),
        Just("null".to_owned()),
        Just(r#""\ud800""#.to_owned()),
        "\"[a-z🚀\\\\]{0,8}\"",
        "[ -~]{0,4}",
    ];
    let list = prop::collection::vec(leaf.clone(), 0..6).prop_map(|v| format!("[{}]", v.join(",")));
    let value = prop_oneof![leaf, list];
    let name = prop_oneof![
        "texts",
        "model",
        "candidates",
        "references",
        "lang",
        "model_type"
    ];
    let field = (name, value).prop_map(|(name, value)| format!("\"{name}\":{value}"));
    prop::collection::vec(field, 0..6).prop_map(|fields| format!("{{{}}}", fields.join(",")))
}

/// Any JSON value, with the names that matter more often than others.
fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        ".{0,7}".prop_map(Value::from),
    ];
    let name = prop_oneof!["texts", "model", ".{0,3}"];
    leaf.prop_recursive(4, 24, 5, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::vec((name.clone(), inner), 0..5)
                .prop_map(|fields| Value::Object(fields.into_iter().collect())),
        ]
    })
}

/// A document that was right before a piece of it was lost, doubled or replaced.
fn damaged() -> impl Strategy<Value = String> {
    let request = prop::collection::vec(".{0,6}", 0..5).prop_map(|texts| json!({"texts": texts}));
    let document = prop_oneof![any_value(), request];
    let piece = prop_oneof![
        "[{}\\[\\]:,\"\\\\]{0,3}",
        "[0-9.eE+-]{1,3}",
        r"\\u[0-9a-fA-F]{0,5}",
        "\\PC{0,2}",
        "[\\x00-\\x20]{1,2}",
    ];
    (document, any::<Index>(), 0..3_usize, piece).prop_map(|(document, at, lost, piece)| {
        let text: Vec<char> = document.to_string().chars().collect();
        let at = at.index(text.len() + 1);
        let after = text.iter().skip(at + lost);
        text[..at]
            .iter()
            .copied()
            .chain(piece.chars())
            .chain(after.copied())
            .collect()
    })
}

/// Whatever the body is, what comes of it can be used.
fn answers_in_order(bytes: &[u8], is_json: bool) {
    let body = RawBody { bytes, is_json };
    let within = |texts: &[String]| {
        texts.len() <= LIMITS.batch_size
            && texts
                .iter()
                .all(|text| text.chars().count() <= LIMITS.text_length)
    };
    match embed(body, &LIMITS) {
        Ok(request) => assert!(within(&request.texts)),
        Err(refusal) => tells(&refusal, bytes),
    }
    match bertscore(body, &LIMITS) {
        Ok(request) => {
            assert!(within(&request.candidates) && within(&request.references));
            assert_eq!(request.candidates.len(), request.references.len());
        }
        Err(refusal) => tells(&refusal, bytes),
    }
}

/// A refusal tells something, and nothing about places where no body is.
fn tells(refusal: &Refusal, body: &[u8]) {
    let Refusal::Invalid(_) = refusal else { return };
    let told = problems(refusal);
    let told = told.as_array().unwrap();
    assert!(!told.is_empty());
    for problem in told {
        assert_eq!(problem["loc"][0], "body");
        if let Some(position) = problem["loc"][1].as_u64() {
            assert!(usize::try_from(position).unwrap() <= body.len());
        }
    }
}

/// The texts and the model of a request, read in the plain way.
fn plainly_read(text: &str) -> Option<EmbedRequest> {
    let document: Value = serde_json::from_str(text).ok()?;
    let short = |text: &Value| {
        let text = text.as_str()?;
        (text.chars().count() <= LIMITS.text_length).then(|| text.to_owned())
    };
    let fields = document.as_object()?;
    let texts = fields.get("texts")?.as_array()?;
    let texts: Option<Vec<String>> = texts.iter().map(short).collect();
    let model = fields
        .get("model")
        .map_or(Some(""), Value::as_str)?
        .to_owned();
    let texts = texts.filter(|texts| texts.len() <= LIMITS.batch_size)?;
    let dimensions = match fields.get("dimensions") {
        None | Some(Value::Null) => None,
        Some(value) => Some(usize::try_from(value.as_u64()?).ok()?.try_into().ok()?),
    };
    Some(EmbedRequest {
        texts,
        model,
        dimensions,
    })
}

fn agrees_with_a_plain_reading(text: &str) {
    let plainly: Result<Value, _> = serde_json::from_str(text);
    assert_eq!(json::check(text).is_ok(), plainly.is_ok(), "{text}");
    let request = embed(json_body(text.as_bytes()), &LIMITS).ok();
    // A byte order mark or zeros at the start tell of an encoding, for which plain reading knows
    // nothing.
    let encoded = text.starts_with('\u{feff}') || text.bytes().take(4).any(|byte| byte == 0);
    if !encoded {
        assert_eq!(request, plainly_read(text), "{text}");
    }
}

/// As JSON with everything escaped that may be.
fn escaped(text: &str) -> String {
    let units = text.encode_utf16().map(|unit| format!("\\u{unit:04X}"));
    format!("\"{}\"", units.collect::<String>())
}

proptest! {
    #[test]
    fn arbitrary_bytes_are_refused_or_valid(
        bytes in prop::collection::vec(any::<u8>(), 0..200), is_json: bool
    ) {
        answers_in_order(&bytes, is_json);
    }

    #[test]
    fn near_requests_are_refused_or_valid(text in almost_a_request(), is_json: bool) {
        answers_in_order(text.as_bytes(), is_json);
        agrees_with_a_plain_reading(&text);
    }

    #[test]
    fn damaged_documents_are_refused_or_valid(text in damaged()) {
        answers_in_order(text.as_bytes(), true);
        agrees_with_a_plain_reading(&text);
    }

    #[test]
    fn whole_documents_are_read_as_plain_reading_reads_them(document in any_value()) {
        answers_in_order(document.to_string().as_bytes(), true);
        agrees_with_a_plain_reading(&document.to_string());
    }

    #[test]
    fn bytes_in_any_encoding_are_refused_or_valid(text in damaged(), swapped: bool, wide: bool) {
        let bytes: Vec<u8> = match (swapped, wide) {
            (false, false) => text.encode_utf16().flat_map(u16::to_le_bytes).collect(),
            (true, false) => text.encode_utf16().flat_map(u16::to_be_bytes).collect(),
            (false, true) => text.chars().flat_map(|c| u32::from(c).to_le_bytes()).collect(),
            (true, true) => text.chars().flat_map(|c| u32::from(c).to_be_bytes()).collect(),
        };
        answers_in_order(&bytes, true);
        answers_in_order(bytes.get(1..).unwrap_or_default(), true);
    }

    #[test]
    fn every_legal_text_arrives_as_it_was_sent(texts in prop::collection::vec(".{0,5}", 0..=3)) {
        let body = json!({ "texts": &texts }).to_string();
        prop_assert_eq!(&embed(json_body(body.as_bytes()), &LIMITS).unwrap().texts, &texts);
        let all: Vec<String> = texts.iter().map(|text| escaped(text)).collect();
        let body = format!("{{\"texts\" : [{}]}}", all.join(" ,\r\n\t"));
        prop_assert_eq!(embed(json_body(body.as_bytes()), &LIMITS).unwrap().texts, texts);
    }

    #[test]
    fn every_legal_pair_arrives_as_it_was_sent(
        pairs in prop::collection::vec((".{0,5}", ".{0,5}"), 0..=3), model in ".{0,9}"
    ) {
        let (candidates, references): (Vec<String>, Vec<String>) = pairs.into_iter().unzip();
        let body = json!({
            "references": &references, "model_type": &model, "lang": "en", "candidates": &candidates,
        });
        let request = bertscore(json_body(body.to_string().as_bytes()), &LIMITS).unwrap();
        let scoring = Scoring::default();
        prop_assert_eq!(request, BertscoreRequest { candidates, references, model, scoring });
    }

    #[test]
    fn a_refusal_quotes_the_client_s_own_document(document in any_value()) {
        prop_assume!(!document.is_null());
        let text = document.to_string();
        if let Err(Refusal::Invalid(body)) = embed(json_body(text.as_bytes()), &LIMITS) {
            let told: Value = serde_json::from_slice(&body).unwrap();
            let kind = told["detail"][0]["type"].as_str().unwrap();
            let quoted = format!("\"input\":{text}}}");
            if ["missing", "model_attributes_type"].contains(&kind) {
                prop_assert!(String::from_utf8(body).unwrap().contains(&quoted));
            }
        }
    }
}
