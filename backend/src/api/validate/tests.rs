mod properties;

use std::num::NonZeroUsize;

use serde_json::{Value, json};

use super::*;

const LIMITS: Limits = Limits {
    batch_size: 3,
    text_length: 5,
};

fn json_body(bytes: &[u8]) -> RawBody<'_> {
    RawBody {
        bytes,
        is_json: true,
    }
}

fn problems(refusal: &Refusal) -> Value {
    match refusal {
        Refusal::Invalid(body) => serde_json::from_slice::<Value>(body).unwrap()["detail"].take(),
        other => panic!("no list of problems: {other:?}"),
    }
}

fn embed_problems(text: &str) -> Value {
    problems(&embed(json_body(text.as_bytes()), &LIMITS).unwrap_err())
}

fn bertscore_problems(text: &str) -> Value {
    problems(&bertscore(json_body(text.as_bytes()), &LIMITS).unwrap_err())
}

#[test]
fn a_request_is_read_whatever_else_it_carries() {
    let text = r#" {"texts":["x"],"zzz":{"texts":1},"te\u0078ts":["a\u00e9","b"],"model":"m"} "#;
    let expected = EmbedRequest {
        texts: vec!["aé".into(), "b".into()],
        model: "m".into(),
        dimensions: None,
    };
    assert_eq!(
        embed(json_body(text.as_bytes()), &LIMITS).unwrap(),
        expected
    );
}

#[test]
fn defaults_are_empty() {
    let request = embed(json_body(br#"{"texts":[]}"#), &LIMITS).unwrap();
    assert_eq!(
        request,
        EmbedRequest {
            texts: vec![],
            model: String::new(),
            dimensions: None,
        }
    );
}

#[test]
fn dimensions_are_a_whole_number_above_0() {
    let with = |value: &str| format!(r#"{{"texts":[],"dimensions":{value}}}"#);
    let read = |value: &str| {
        let text = with(value);
        let request = embed(json_body(text.as_bytes()), &LIMITS).unwrap();
        request.dimensions.map(NonZeroUsize::get)
    };
    assert_eq!((read("64"), read("null")), (Some(64), None));
    for wrong in ["0", "-1", "1.5", "true", "[]"] {
        let problems = embed_problems(&with(wrong));
        assert_eq!(problems[0]["loc"], json!(["body", "dimensions"]), "{wrong}");
        assert_eq!(problems[0]["type"], "int_type", "{wrong}");
    }
}

#[test]
fn both_lists_of_a_bertscore_request_are_read() {
    let text = br#"{"candidates":["a"],"references":["b"],"lang":"de","model_type":""}"#;
    let expected = BertscoreRequest {
        candidates: vec!["a".into()],
        references: vec!["b".into()],
        model: String::new(),
        scoring: Scoring::default(),
    };
    assert_eq!(bertscore(json_body(text), &LIMITS).unwrap(), expected);
}

#[test]
fn scores_are_weighted_and_rescaled_only_if_the_request_says_so() {
    let scoring = |fields: &str| {
        let text = format!(r#"{{"candidates":[],"references":[]{fields}}}"#);
        let request = bertscore(json_body(text.as_bytes()), &LIMITS).unwrap();
        (request.scoring.idf, request.scoring.baseline)
    };
    let (idf, rescaled) = (r#","idf":true"#, r#","rescale_with_baseline":true"#);
    let language = |name: &str| Some(name.to_owned());
    let german = r#","lang":"DE""#;
    for (fields, expected) in [
        (String::new(), (false, None)),
        (german.to_owned(), (false, None)),
        (
            format!(r#"{idf},"rescale_with_baseline":false"#),
            (true, None),
        ),
        (rescaled.to_owned(), (false, language("en"))),
        (format!("{german}{rescaled}{idf}"), (true, language("de"))),
    ] {
        assert_eq!(scoring(&fields), expected, "{fields}");
    }
    let odd = r#"{"candidates":[],"references":[],"idf":"yes","rescale_with_baseline":null}"#;
    let problem = |field: &str, input: Value| {
        json!({"type": "bool_type", "loc": ["body", field],
        "msg": "Input should be a valid boolean", "input": input})
    };
    let expected = [
        problem("idf", json!("yes")),
        problem("rescale_with_baseline", json!(null)),
    ];
    assert_eq!(bertscore_problems(odd), json!(expected));
}

#[test]
fn each_problem_has_pydantic_s_form() {
    let missing = "Field required";
    let list = "Input should be a valid list";
    let string = "Input should be a valid string";
    let object = "Input should be a valid dictionary or object to extract fields from";
    let item = |kind: &str, loc: Value, msg: &str, input: Value| json!([{"type": kind, "loc": loc, "msg": msg, "input": input}]);
    let texts = || json!(["body", "texts"]);
    let table = [
        ("{}", item("missing", texts(), missing, json!({}))),
        (
            "null",
            item("missing", json!(["body"]), missing, Value::Null),
        ),
        (
            r#"{"texts":"abc"}"#,
            item("list_type", texts(), list, json!("abc")),
        ),
        (
            r#"{"texts":{"a":1}}"#,
            item("list_type", texts(), list, json!({"a": 1})),
        ),
        (
            r#"{"texts":null}"#,
            item("list_type", texts(), list, Value::Null),
        ),
        (
            r#"{"texts":["a",[1]]}"#,
            item(
                "string_type",
                json!(["body", "texts", 1]),
                string,
                json!([1]),
            ),
        ),
        (
            r#"{"texts":["a"],"model":null}"#,
            item("string_type", json!(["body", "model"]), string, Value::Null),
        ),
        (
            "[1]",
            item("model_attributes_type", json!(["body"]), object, json!([1])),
        ),
        (
            " true ",
            item(
                "model_attributes_type",
                json!(["body"]),
                object,
                json!(true),
            ),
        ),
    ];
    for (text, expected) in table {
        assert_eq!(embed_problems(text), expected, "{text}");
    }
}

#[test]
fn no_body_and_other_content_types_are_told() {
    let empty = embed(
        RawBody {
            bytes: b"",
            is_json: false,
        },
        &LIMITS,
    )
    .unwrap_err();
    let expected =
        json!([{"type": "missing", "loc": ["body"], "msg": "Field required", "input": null}]);
    assert_eq!(problems(&empty), expected);

    let form = embed(
        RawBody {
            bytes: b"a\"=1",
            is_json: false,
        },
        &LIMITS,
    )
    .unwrap_err();
    assert_eq!(problems(&form)[0]["type"], "model_attributes_type");
    assert_eq!(problems(&form)[0]["input"], "a\"=1");

    let binary = embed(
        RawBody {
            bytes: b"\xFF",
            is_json: false,
        },
        &LIMITS,
    )
    .unwrap_err();
    assert!(matches!(binary, Refusal::Unparsable));
}

#[test]
fn what_is_no_json_is_quoted_up_to_a_bound_and_never_within_a_character() {
    let form = "x".repeat(QUOTED - 1) + "é and more";
    let body = RawBody {
        bytes: form.as_bytes(),
        is_json: false,
    };
    let told = problems(&embed(body, &LIMITS).unwrap_err());
    assert_eq!(told[0]["input"].as_str(), Some(&form[..QUOTED - 1]));
}

#[test]
fn malformed_json_is_told_with_its_place() {
    let expected = json!([{
        "type": "json_invalid", "loc": ["body", 9], "msg": "JSON decode error", "input": {},
        "ctx": {"error": "Expecting value"}
    }]);
    assert_eq!(embed_problems(r#"{"texts":}"#), expected);
}

#[test]
fn limits_are_told_in_order_and_count_code_points() {
    let msg = |text: &str| embed_problems(text)[0]["msg"].as_str().unwrap().to_owned();
    assert!(
        embed(
            json_body(r#"{"texts":["🚀🚀🚀🚀🚀","",""]}"#.as_bytes()),
            &LIMITS
        )
        .is_ok()
    );
    assert_eq!(
        msg(r#"{"texts":["a","🚀🚀🚀🚀🚀🚀","1234567"]}"#),
        "Value error, texts[1] length 6 exceeds max text length of 5"
    );
    assert_eq!(
        msg(r#"{"texts":["123456","","",""]}"#),
        "Value error, texts array length 4 exceeds max batch size of 3"
    );
    assert_eq!(
        msg(r#"{"texts":["123456","","",1]}"#),
        "Input should be a valid string"
    );
    assert_eq!(
        embed_problems(r#"{"texts":["123456"]}"#),
        json!([{
            "type": "value_error", "loc": ["body", "texts"],
            "msg": "Value error, texts[0] length 6 exceeds max text length of 5",
            "input": ["123456"], "ctx": {"error": {}}
        }])
    );
}

#[test]
fn problems_come_in_the_order_of_the_fields() {
    let told = bertscore_problems(r#"{"model_type":1,"lang":2,"references":["123456"]}"#);
    let places: Vec<&Value> = told
        .as_array()
        .unwrap()
        .iter()
        .map(|item| &item["loc"][1])
        .collect();
    assert_eq!(places, ["candidates", "references", "lang", "model_type"]);
}

#[test]
fn lists_of_unequal_length_are_refused_after_all_else() {
    let unequal = |text: &str| bertscore(json_body(text.as_bytes()), &LIMITS).unwrap_err();
    let refusal = unequal(r#"{"candidates":["a"],"references":[]}"#);
    assert!(matches!(refusal, Refusal::UnequalLengths));
    let refusal = unequal(r#"{"candidates":["a"],"references":[],"lang":1}"#);
    assert!(matches!(refusal, Refusal::Invalid(_)));
}

#[test]
fn wrong_items_are_told_up_to_a_bound() {
    let many = format!(r#"{{"texts":[{}0]}}"#, "0,".repeat(5_000));
    assert_eq!(
        embed_problems(&many).as_array().unwrap().len(),
        MAX_WRONG_ITEMS
    );
}

#[test]
fn absurd_nesting_and_invalid_utf8_cannot_be_parsed() {
    let deep = format!(r#"{{"texts":{}{}}}"#, "[".repeat(2_000), "]".repeat(2_000));
    for bytes in [deep.as_bytes(), b"{\"texts\":[\"\xFF\xFE\"]}"] {
        assert!(matches!(
            embed(json_body(bytes), &LIMITS),
            Err(Refusal::Unparsable)
        ));
    }
}

#[test]
fn every_legal_request_fits_the_largest_body() {
    let limits = Limits {
        batch_size: 7,
        text_length: 11,
    };
    let texts = vec![r"\ud83d\ude80".repeat(limits.text_length); limits.batch_size];
    let indent = format!("\"\n{}, \"", " ".repeat(40));
    let list = texts.join(&indent);
    let body = format!(r#"{{"candidates":["{list}"],"references":["{list}"]}}"#);
    assert!(body.len() <= limits.max_body());
    assert_eq!(
        bertscore(json_body(body.as_bytes()), &limits)
            .unwrap()
            .candidates
            .len(),
        7
    );
    assert!(
        Limits {
            batch_size: 100,
            text_length: 10_000
        }
        .max_body()
            < 25 << 20
    );
    let huge = Limits {
        batch_size: usize::MAX,
        text_length: usize::MAX,
    };
    assert_eq!(huge.max_body(), usize::MAX);
}
