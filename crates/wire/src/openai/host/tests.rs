use std::fmt::Write as _;

use proptest::prelude::*;
use serde_json::json;

use super::*;

fn question(body: &str) -> Result<Question<'_>, Unaskable> {
    Question::read(body.as_bytes())
}

fn expected(count: usize) -> Expected<'static> {
    Expected {
        count,
        dimensions: None,
        model: None,
        called: "m",
        normalize: false,
    }
}

fn read(answer: &str, expected: Expected<'_>) -> Result<String, Wrong> {
    let read = Embeddings::read(answer.as_bytes(), expected)?;
    Ok(String::from_utf8(read.body).unwrap())
}

#[test]
fn texts_go_on_as_they_are_written() {
    let table = [
        (
            r#"{"model":"m","texts":["a","\u00e9 \"]"]}"#,
            r#"{"model":"theirs","encoding_format":"float","input":["a","\u00e9 \"]"]}"#,
        ),
        (
            r#" {"lang":{"x":[1]}, "texts" : [ "a" , "" ], "dimensions":4, "model":"m"} "#,
            r#"{"model":"theirs","encoding_format":"float","dimensions":4,"input":[ "a" , "" ]}"#,
        ),
    ];
    for (body, asked) in table {
        let question = question(body).unwrap();
        let text = String::from_utf8(question.body("theirs", false)).unwrap();
        assert_eq!((text.as_str(), question.texts()), (asked, 2));
        assert_eq!(question.model, "m");
    }
    let cut = question(table[0].0).unwrap().body("a\"b", true);
    let cut: Value = serde_json::from_slice(&cut).unwrap();
    assert_eq!(cut["truncate_prompt_tokens"], -1);
    assert_eq!(cut["model"], "a\"b");
}

#[test]
fn what_is_no_request_for_embeddings_is_not_asked() {
    let table = [
        ("", Unaskable::NotEmbed),
        ("[]", Unaskable::NotEmbed),
        (r#"{"model":"m"}"#, Unaskable::NotEmbed),
        (r#"{"model":"m","texts":"a"}"#, Unaskable::NotEmbed),
        (r#"{"model":"m","texts":["a",1]}"#, Unaskable::NotEmbed),
        (r#"{"model":"m","texts":["\ud800"]}"#, Unaskable::NotEmbed),
        (
            r#"{"model":"m","texts":["a"],"texts":[]}"#,
            Unaskable::NotEmbed,
        ),
        (r#"{"model":7,"texts":["a"]}"#, Unaskable::NotEmbed),
        (
            r#"{"candidates":["a"],"references":["b"]}"#,
            Unaskable::NotEmbed,
        ),
        (r#"{"texts":["a"]}"#, Unaskable::NoModel),
        (r#"{"texts":["a"],"model":""}"#, Unaskable::NoModel),
    ];
    for (body, why) in table {
        assert_eq!(question(body), Err(why), "{body}");
    }
}

#[test]
fn numbers_are_passed_on_as_written_and_in_the_texts_order() {
    let answer = r#"{"object":"list","model":"x","usage":{"prompt_tokens":7},"data":[
        {"index":1,"object":"embedding","embedding":[-0.0, 1E-3]},
        {"index":0,"embedding":[0.10000000149011612,2]}]}"#;
    let read = Embeddings::read(answer.as_bytes(), expected(2)).unwrap();
    let body =
        r#"{"embeddings":[[0.10000000149011612,2],[-0.0, 1E-3]],"model":"m","dimensions":2}"#;
    assert_eq!(String::from_utf8(read.body).unwrap(), body);
    assert_eq!(read.tokens, Some(7));
    let none = Embeddings::none("m");
    assert_eq!(none, br#"{"embeddings":[],"model":"m","dimensions":0}"#);
}

#[test]
fn tokens_are_read_however_they_are_told_and_a_model_only_if_it_is_a_text() {
    for (usage, tokens) in [
        (r#"{"prompt_tokens":7,"total_tokens":9}"#, Some(7)),
        (r#"{"total_tokens":9}"#, Some(9)),
        (r#"{"prompt_tokens":null,"total_tokens":9}"#, Some(9)),
        (r#"{"prompt_tokens":7.0}"#, Some(7)),
        (r#"{"prompt_tokens":7.5}"#, None),
        (r#"{"prompt_tokens":-7}"#, None),
        (r#"{"prompt_tokens":1e30}"#, None),
        (r#"{"prompt_tokens":"7"}"#, None),
        ("[7]", None),
        ("null", None),
    ] {
        for model in ["null", "7", r#"{"id":"x"}"#, r#"["x"]"#, r#""m""#] {
            let answer =
                format!(r#"{{"data":[{{"embedding":[1]}}],"model":{model},"usage":{usage}}}"#);
            let read = Embeddings::read(answer.as_bytes(), expected(1)).unwrap();
            assert_eq!(read.tokens, tokens, "{answer}");
        }
    }
}

#[test]
fn an_answer_is_right_or_refused() {
    let row =
        |index: &str, embedding: &str| format!(r#"{{"index":{index},"embedding":{embedding}}}"#);
    let rows = |rows: &[String]| format!(r#"{{"data":[{}]}}"#, rows.join(","));
    let two = |second: &str| rows(&[row("0", "[1,2]"), row("1", second)]);
    let count = |found| Wrong::Count { found, asked: 2 };
    let table = [
        (String::new(), Wrong::NotWhole),
        ("<html>".to_owned(), Wrong::NotJson),
        (two("[1,2]") + "xyz", Wrong::NotJson),
        (two("[1,2"), Wrong::NotJson),
        ("{}".to_owned(), Wrong::Unreadable),
        (r#"{"data":null}"#.to_owned(), Wrong::Unreadable),
        (
            r#"{"data":[{"index":0},{"index":1}]}"#.to_owned(),
            Wrong::Unreadable,
        ),
        (r#"{"data":[{"embedding":[1]}]}"#.to_owned(), count(1)),
        (rows(&[row("1", "[1]"), row("null", "[1]")]), Wrong::NotEach),
        (rows(&[row("\"0\"", "[1]")]), Wrong::Unreadable),
        (rows(&[]), count(0)),
        (rows(&[row("0", "[1]")]), count(1)),
        (rows(&[row("0", "[1]"), row("0", "[1]")]), Wrong::NotEach),
        (rows(&[row("1", "[1]"), row("2", "[1]")]), Wrong::NotEach),
        (
            rows(&[row("0", "[1]"), row("1", "[1]"), row("1", "[1]")]),
            count(3),
        ),
        (
            rows(&[row("-1", "[1]"), row("1", "[1]")]),
            Wrong::Unreadable,
        ),
        (two("[1]"), Wrong::Uneven),
        (rows(&[row("0", "[]"), row("1", "[]")]), Wrong::Empty),
        (two("\"\""), Wrong::Empty),
        (two("[1,null]"), Wrong::NotFinite),
        (two("[1,1e39]"), Wrong::NotFinite),
        (two("[1,-1e400]"), Wrong::NotFinite),
        (two("[1,\"2\"]"), Wrong::NotFinite),
        (two("[[1,2]]"), Wrong::NotFinite),
        (two("[1,NaN]"), Wrong::NotFinite),
        (two("[NaN,1]"), Wrong::NotFinite),
        (two("[1,\n\n -Infinity]"), Wrong::NotFinite),
        (two("[1,nan]"), Wrong::NotFinite),
        (two("[1,nothing]"), Wrong::NotJson),
        (two("null"), Wrong::NotNumbers),
        (two("7"), Wrong::NotNumbers),
        (two("{\"a\":1}"), Wrong::NotNumbers),
        (two("\"AAAA\""), Wrong::NotBase64),
        (two("\"a text\""), Wrong::NotBase64),
        (two("\"AADAfwAAwH8=\""), Wrong::NotFinite),
        (two("\"AACAPw==\""), Wrong::Uneven),
    ];
    for (answer, wrong) in table {
        assert_eq!(read(&answer, expected(2)), Err(wrong), "{answer}");
    }
    let dimensions = Expected {
        dimensions: Some(1),
        ..expected(2)
    };
    let found = read(&two("[1,2]"), dimensions);
    assert_eq!(found, Err(Wrong::Dimensions { found: 2 }));
}

#[test]
fn rows_without_an_index_are_in_order() {
    for rows in [
        r#"[{"embedding":[1]},{"embedding":[2]},{"embedding":[3]}]"#,
        r#"[{"embedding":[1]},{"embedding":[2],"index":1},{"embedding":[3],"index":2}]"#,
        r#"[{"embedding":[1]},{"embedding":[3],"index":2},{"embedding":[2],"index":1}]"#,
    ] {
        let body = read(&format!(r#"{{"data":{rows}}}"#), expected(3)).unwrap();
        assert!(body.contains("[[1],[2],[3]]"), "{rows}: {body}");
    }
}

#[test]
fn another_model_than_the_one_that_was_asked_for_is_noticed() {
    let answer =
        |model: &str| format!(r#"{{"model":{model},"data":[{{"index":0,"embedding":[1]}}]}}"#);
    let asked = |model| Expected {
        model: Some(model),
        ..expected(1)
    };
    for (wanted, told) in [
        ("a", "\"a\""),
        ("a", "\"org/a\""),
        ("org/a", "\"a\""),
        ("a", "null"),
    ] {
        assert!(
            read(&answer(told), asked(wanted)).is_ok(),
            "{wanted} {told}"
        );
    }
    for (wanted, told) in [
        ("a", "b"),
        ("a", "ba"),
        ("a", "org/b"),
        ("org/a", "other/a"),
    ] {
        let found = read(&answer(&format!("\"{told}\"")), asked(wanted));
        assert_eq!(found, Err(Wrong::Model(told.to_owned())), "{wanted}");
    }
    assert!(
        read(&answer("\"b\""), expected(1)).is_ok(),
        "it lists the name"
    );
}

#[test]
fn embeddings_are_scaled_to_length_1_where_that_is_wanted() {
    let scaled = Expected {
        normalize: true,
        ..expected(2)
    };
    let answer = r#"{"data":[{"index":0,"embedding":[3,4]},{"index":1,"embedding":[0,0]}]}"#;
    let body: Value = serde_json::from_str(&read(answer, scaled).unwrap()).unwrap();
    let near = |number: &Value, wanted: f64| (number.as_f64().unwrap() - wanted).abs() < 1e-7;
    assert!(near(&body["embeddings"][0][0], 0.6) && near(&body["embeddings"][0][1], 0.8));
    assert_eq!(body["embeddings"][1], json!([0.0, 0.0]));
}

proptest! {
    /// Whatever the order and the encoding, each text gets its own numbers.
    #[test]
    fn each_text_gets_its_own_numbers(
        rows in (1..6_usize, 1..5_usize).prop_flat_map(|(rows, length)| {
            let row = prop::collection::vec(-1e3_f32..1e3, length);
            (prop::collection::vec((row, any::<bool>()), rows), any::<u64>())
        }),
    ) {
        let (rows, turn) = rows;
        let mut data: Vec<String> = rows.iter().enumerate().map(|(index, (row, coded))| {
            let bytes: Vec<u8> = row.iter().flat_map(|number| number.to_le_bytes()).collect();
            let embedding = if *coded { json!(STANDARD.encode(bytes)) } else { json!(row) };
            format!(r#"{{"embedding":{embedding},"index":{index}}}"#)
        }).collect();
        let turn = usize::try_from(turn % data.len() as u64).unwrap();
        data.rotate_left(turn);
        let body = read(&format!(r#"{{"data":[{}]}}"#, data.join(",")), expected(rows.len())).unwrap();
        let body: Value = serde_json::from_str(&body).unwrap();
        for (at, (row, _)) in rows.iter().enumerate() {
            let found: Vec<f64> = serde_json::from_value(body["embeddings"][at].clone()).unwrap();
            let near = |(a, b): (&f64, &f32)| (a - f64::from(*b)).abs() <= 1e-6 * a.abs().max(1.0);
            prop_assert!(found.len() == row.len() && found.iter().zip(row).all(near));
        }
    }

    /// Nothing that a host may say makes it panic, or makes an answer that is no JSON.
    #[test]
    fn nonsense_is_refused(answer in any::<Vec<u8>>(), text in "[\\[\\]{}\",:0-9a-z]{0,60}") {
        let mut near = String::new();
        write!(near, r#"{{"data":[{{"index":0,"embedding":[{text}]}}]}}"#).unwrap();
        for answer in [answer.as_slice(), near.as_bytes(), text.as_bytes()] {
            if let Ok(read) = Embeddings::read(answer, expected(1)) {
                prop_assert!(serde_json::from_slice::<Value>(&read.body).is_ok());
            }
            let detail = Complaint::read(answer).detail();
            prop_assert!(serde_json::from_slice::<Value>(&detail).is_ok());
        }
    }
}
