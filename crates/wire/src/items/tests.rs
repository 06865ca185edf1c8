use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn cut(kind: Kind, body: &str) -> Option<Cut> {
    Cut::read(kind, body.as_bytes())
}

/// The body with these runs of items of `bodies`.
fn composed(kind: Kind, bodies: &[&str], runs: &[Run]) -> String {
    let cuts: Vec<Cut> = bodies.iter().map(|body| cut(kind, body).unwrap()).collect();
    let pieces = compose(&cuts, runs);
    let written = pieces.iter().map(|piece| match piece {
        Piece::Of(at, range) => &bodies[*at][range.clone()],
        Piece::Comma => ",",
    });
    written.collect()
}

fn run(of: usize, items: Range<usize>) -> Run {
    Run { of, items }
}

#[test]
fn what_is_not_plain_is_not_cut() {
    let opaque = [
        "",
        "[]",
        "{}",
        r#"{"texts":[]}"#,
        r#"{"texts":"a"}"#,
        r#"{"texts":null}"#,
        r#"{"texts":["a",1]}"#,
        r#"{"texts":["a",null]}"#,
        r#"{"texts":["a",["b"]]}"#,
        r#"{"texts":["a",]}"#,
        r#"{"texts":["a"]"#,
        r#"{"texts":["a"]}x"#,
        r#"{"texts":["a"]}{"texts":["a"]}"#,
        r#"{"texts":["a"],"texts":["b"]}"#,
        r#"{"texts":["a"],"model":"m","model":"n"}"#,
        r#"{"texts":["a"],"x":1,"y":2,"x":1}"#,
        r#"{"te\u0078ts":["a"]}"#,
        r#"{"texts":["a"],"mod\u0065l":"m"}"#,
        r#"{"texts":["\ud800"]}"#,
        r#"{"texts":["\x"]}"#,
        r#"{"texts":["a"],"model":"\ud800"}"#,
        "{\"texts\":[\"a\nb\"]}",
        r#"{"texts":["a"],"prompts":["p"]}"#,
        r#"{"texts":["a"],"options":{}}"#,
        r#"{"texts":["a"],"model":NaN}"#,
        "\u{feff}{\"texts\":[\"a\"]}",
        r#"{"input":["a"]}"#,
    ];
    for body in opaque {
        assert_eq!(cut(Kind::Texts, body), None, "{body}");
    }
    assert_eq!(Cut::read(Kind::Texts, b"{\"texts\":[\"\xff\"]}"), None);
    assert_eq!(
        Cut::read(Kind::Texts, b"{\"texts\":[\"a\"],\"\xff\":1}"),
        None
    );
    for body in [
        r#"{"candidates":["a"]}"#,
        r#"{"candidates":["a"],"references":["x","y"]}"#,
        r#"{"candidates":["a"],"references":["x"],"idf":true}"#,
        r#"{"candidates":["a"],"references":["x"],"anything":1}"#,
    ] {
        assert_eq!(cut(Kind::Pairs, body), None, "{body}");
    }
    for body in [
        r#"{"embeddings":[[1],2],"model":"m","dimensions":1}"#,
        r#"{"embeddings":[[1]],"model":"m","usage":7}"#,
        r#"{"embeddings":[[1]],"model":{"name":"m"}}"#,
        r#"{"detail":"no"}"#,
    ] {
        assert_eq!(cut(Kind::Embeddings, body), None, "{body}");
    }
    for body in [
        r#"{"precision":[1],"recall":[1],"f1":["1"],"model":"m"}"#,
        r#"{"precision":[1],"recall":[1],"f1":[1,2],"model":"m"}"#,
        r#"{"precision":[1],"recall":[1],"model":"m"}"#,
    ] {
        assert_eq!(cut(Kind::Scores, body), None, "{body}");
    }
}

#[test]
fn bodies_are_put_together_from_items_of_several() {
    let one = r#"{ "model":"m", "texts": [ "a" , "\"]\u00e9", "c" ] }"#;
    let other = r#"{"texts":["x","y"],"model":"m"}"#;
    let table = [
        (
            vec![run(0, 0..3)],
            r#"{ "model":"m", "texts": [ "a" , "\"]\u00e9", "c" ] }"#,
        ),
        (
            vec![run(0, 1..2)],
            r#"{ "model":"m", "texts": [ "\"]\u00e9" ] }"#,
        ),
        (
            vec![run(1, 1..2), run(0, 0..2), run(1, 0..1)],
            r#"{ "model":"m", "texts": [ "y","a" , "\"]\u00e9","x" ] }"#,
        ),
    ];
    for (runs, expected) in table {
        assert_eq!(composed(Kind::Texts, &[one, other], &runs), expected);
    }
    let pairs = r#"{"references":["r1","r2"],"lang":"en","candidates":["c1","c2"]}"#;
    assert_eq!(
        composed(Kind::Pairs, &[pairs], &[run(0, 1..2)]),
        r#"{"references":["r2"],"lang":"en","candidates":["c2"]}"#
    );
}

#[test]
fn numbers_keep_their_characters() {
    let one = r#"{"embeddings":[[0.10,-1e-05],[1]],"model":"m","dimensions":2}"#;
    let other = r#"{"embeddings":[[3.00]],"model":"m","dimensions":2}"#;
    assert_eq!(
        composed(
            Kind::Embeddings,
            &[one, other],
            &[run(0, 0..2), run(1, 0..1)]
        ),
        r#"{"embeddings":[[0.10,-1e-05],[1],[3.00]],"model":"m","dimensions":2}"#
    );
    let scores = r#"{"precision":[1.0,null],"recall":[0.5,2],"f1":[-0,3e1],"model":"m"}"#;
    assert_eq!(
        composed(Kind::Scores, &[scores], &[run(0, 1..2), run(0, 0..1)]),
        r#"{"precision":[null,1.0],"recall":[2,0.5],"f1":[3e1,-0],"model":"m"}"#
    );
}

#[test]
fn options_are_equal_whatever_their_order_and_white_space() {
    let bodies = [
        r#"{"model":"m","texts":["a"],"dimensions":3}"#,
        r#"{"dimensions": 3, "texts":["b", "c"], "model" : "m"}"#,
        r#"{"model":"m","texts":["a"],"dimensions":3.0}"#,
        r#"{"model":"m","texts":["a"]}"#,
    ];
    let cuts = bodies.map(|body| cut(Kind::Texts, body).unwrap());
    let options = |at: usize| cuts[at].options(bodies[at].as_bytes());
    assert_eq!(options(0), options(1));
    assert_ne!(options(0), options(2));
    assert_ne!(options(0), options(3));
    assert_eq!(cuts[1].item(bodies[1].as_bytes(), 1), [br#""c""#]);
    assert_eq!(cuts[1].sizes().collect::<Vec<_>>(), [4, 4]);
}

#[test]
fn what_is_held_is_bounded() {
    let texts = |count: usize| format!("{{\"texts\":[{}]}}", vec!["\"\""; count].join(","));
    let most = cut(Kind::Texts, &texts(MOST_ITEMS)).unwrap();
    assert_eq!(most.items(), MOST_ITEMS);
    assert_eq!(cut(Kind::Texts, &texts(MOST_ITEMS + 1)), None);
    let options: Vec<String> = (0..100).map(|at| format!("\"{at}\":1,")).collect();
    let options = options.concat();
    assert_eq!(
        cut(Kind::Texts, &format!("{{{options}\"texts\":[\"a\"]}}")),
        None
    );
    let deep = format!(
        "{{\"embeddings\":[{}{}]}}",
        "[".repeat(100_000),
        "]".repeat(100_000)
    );
    assert!(cut(Kind::Embeddings, &deep).is_none_or(|cut| cut.items() == 1));
}

/// A body of this kind with such items and options, in any order and spacing.
fn body(kind: Kind, items: &[(Value, Value)], options: &[(String, Value)], first: bool) -> String {
    let list =
        |part: fn(&(Value, Value)) -> &Value| items.iter().map(part).cloned().collect::<Value>();
    let mut members = vec![(kind.lists()[0].to_owned(), list(|item| &item.0))];
    if let Some(second) = kind.lists().get(1) {
        members.push(((*second).to_owned(), list(|item| &item.1)));
    }
    let at = if first { 0 } else { members.len() };
    members.splice(at..at, options.iter().cloned());
    let members = members.iter();
    let members: Vec<String> = members
        .map(|(name, value)| format!("{} :{value:#}\n", json!(name)))
        .collect();
    format!("{{{}}}", members.join(" ,"))
}

fn items() -> impl Strategy<Value = Vec<(Value, Value)>> {
    let text = any::<String>().prop_map(Value::from);
    prop::collection::vec((text.clone(), text), 1..8)
}

fn kind() -> impl Strategy<Value = Kind> {
    prop::sample::select(vec![Kind::Texts, Kind::Pairs])
}

fn options() -> Vec<(String, Value)> {
    vec![
        ("lang".to_owned(), json!("en")),
        ("model_type".to_owned(), json!("m \" é")),
    ]
}

/// Reads a composed body as any parser does.
fn parsed(kind: Kind, bodies: &[&str], runs: &[Run]) -> Value {
    serde_json::from_str(&composed(kind, bodies, runs)).unwrap()
}

proptest! {
    #[test]
    fn parts_joined_are_the_whole(
        kind in kind(),
        items in items(),
        first in any::<bool>(),
        at in any::<prop::sample::Index>(),
    ) {
        let whole = body(kind, &items, &options(), first);
        let at = at.index(items.len() + 1);
        let (before, after) = items.split_at(at);
        let runs = [run(0, 0..at), run(0, at..items.len())];
        for (half, run) in [(before, &runs[0]), (after, &runs[1])] {
            if !half.is_empty() {
                let expected: Value = serde_json::from_str(&body(kind, half, &options(), first)).unwrap();
                let part = composed(kind, &[&whole], std::slice::from_ref(run));
                prop_assert_eq!(&serde_json::from_str::<Value>(&part).unwrap(), &expected);
                let again = cut(kind, &part).unwrap();
                prop_assert_eq!(again.items(), half.len());
            }
        }
        let expected: Value = serde_json::from_str(&whole).unwrap();
        prop_assert_eq!(parsed(kind, &[&whole], &runs), expected);
    }

    #[test]
    fn bodies_merged_and_cut_again_are_the_bodies(
        kind in kind(),
        one in items(),
        other in items(),
        orders in any::<(bool, bool)>(),
    ) {
        let bodies = [body(kind, &one, &options(), orders.0), body(kind, &other, &options(), orders.1)];
        let bodies = [bodies[0].as_str(), bodies[1].as_str()];
        let runs = [run(0, 0..one.len()), run(1, 0..other.len())];
        let merged = composed(kind, &bodies, &runs);
        let expected = body(kind, &[one.clone(), other.clone()].concat(), &options(), true);
        prop_assert_eq!(
            serde_json::from_str::<Value>(&merged).unwrap(),
            serde_json::from_str::<Value>(&expected).unwrap()
        );
        let runs = [run(0, one.len()..one.len() + other.len())];
        let expected: Value = serde_json::from_str(bodies[1]).unwrap();
        prop_assert_eq!(parsed(kind, &[&merged], &runs), expected);
    }

    #[test]
    fn what_is_cut_is_what_a_parser_reads(text in r#"\{("(texts|model|a)" ?: ?(\["a"(,"\\u00e9"|,1)?\]|"m"|7|null|\[\]),?){1,3}\} ?"#) {
        let parsed: Option<Value> = serde_json::from_str(&text).ok();
        if let Some(found) = cut(Kind::Texts, &text) {
            let texts = parsed.unwrap()["texts"].as_array().unwrap().len();
            prop_assert_eq!(found.items(), texts);
        }
    }

    #[test]
    fn nonsense_does_no_harm(bytes in prop::collection::vec(any::<u8>(), 0..60)) {
        for kind in [Kind::Texts, Kind::Pairs, Kind::Embeddings, Kind::Scores] {
            prop_assert!(Cut::read(kind, &bytes).is_none_or(|cut| cut.items() > 0));
        }
    }
}
