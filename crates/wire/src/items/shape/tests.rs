//! Answers as hosts write them, and as none should.

use proptest::prelude::*;

use super::*;

fn count(kind: Kind, answer: &str) -> Result<usize, Misshapen> {
    let whole = seen(kind, [answer.as_bytes()]);
    // Where chunks end does not matter.
    for size in [1, 7] {
        let chunks = answer.as_bytes().chunks(size);
        assert_eq!(seen(kind, chunks), whole, "{answer}");
    }
    // A look alone may not know, but is never wrong.
    if let Some(found) = glance(kind, [answer.as_bytes()]).end() {
        assert_eq!(found.is_ok(), whole.is_ok(), "{answer}");
    }
    whole
}

fn glance<'a>(kind: Kind, chunks: impl IntoIterator<Item = &'a [u8]>) -> Glance {
    let mut glance = Glance::at(kind);
    chunks.into_iter().for_each(|chunk| glance.see(chunk));
    glance
}

fn seen<'a>(
    kind: Kind,
    chunks: impl IntoIterator<Item = &'a [u8]> + Clone,
) -> Result<usize, Misshapen> {
    answered(glance(kind, chunks.clone()), chunks)
}

fn is_plain(answer: &str) -> bool {
    let glance = glance(Kind::Embeddings, [answer.as_bytes()]);
    matches!(glance.look.end(), Some(Ok(_)))
}

#[test]
fn an_answer_tells_for_how_many_it_is() {
    let plain = [
        (r#"{"embeddings":[],"model":"m","dimensions":0}"#, 0),
        (
            r#"{"embeddings":[[0.5,-1e-3],[1,-0]],"model":"m","dimensions":2}"#,
            2,
        ),
        (r#"{"embeddings":[[1E-7,5e-400]],"usage":[1, 2,3]}"#, 1),
        (
            r#"{"x":[[1,2],{"embeddings":[[1]]},"embeddings",[3]],"embeddings":[[1]]}"#,
            1,
        ),
        (
            r#"{"model":"]\"[{\\","embeddings":[[ 1, -2],[3, 4]],"embedding":null}"#,
            2,
        ),
        ("\r\n{ \"embeddings\" :\n[\n[\n1, 2], [3, 4] ]\t}\n", 2),
    ];
    let odd = [
        (
            r#"{"embeddings":[[0.5,-1e-3],[1,null]],"model":"m","dimensions":2}"#,
            2,
        ),
        (
            r#"{"embeddings":[[1E5,1e+05,0.0e0],[1e308,-1.5E+300,0]]}"#,
            2,
        ),
        (
            "{ \"model\" : \"m\", \"embeddings\" : [ [ 1 ] , [ 2 ] ,[3]] }",
            3,
        ),
        (r#"{"embedd\u0069ngs":[[1E2]]}"#, 1),
        ("\u{feff}{\"embeddings\":[[1]]}", 1),
    ];
    let table = plain.map(|it| (it, true)).into_iter();
    for ((answer, expected), is_plain) in table.chain(odd.map(|it| (it, false))) {
        assert_eq!(count(Kind::Texts, answer), Ok(expected), "{answer}");
        let is_marked = answer.starts_with('\u{feff}');
        assert_eq!(self::is_plain(answer), is_plain || is_marked, "{answer}");
    }
    let digits = ["1", &"0".repeat(307)].concat();
    let text = "x".repeat(2 * MOST_BESIDE);
    let long = format!(r#"{{"embeddings":[[{digits}]],"note":"{text}"}}"#);
    assert_eq!(seen(Kind::Texts, [long.as_bytes()]), Ok(1));
    // Half of it is none, which is seen at once; what a null is among numbers, is not.
    for (answer, expected) in [
        (r#"{"embeddings":[[1,2],[3"#, Some(Err(Misshapen::NotWhole))),
        (
            r#"{"embeddings":[[1,2]],"model":"m"#,
            Some(Err(Misshapen::NotWhole)),
        ),
        (r#"{"embeddings":[[1,2]]"#, Some(Err(Misshapen::NotWhole))),
        (
            r#"{"embeddings":[[1],[2,3]]}"#,
            Some(Err(Misshapen::Uneven)),
        ),
        (r#"{"embeddings":[[null,1]]}"#, None),
        (r#"{"embeddings":[[1,1E5]]}"#, None),
        (r#"{"embeddings":[[1],[2]],"note":[1,"a"]}"#, None),
        (
            r#"{"embeddings":[[1,2],[1,NaN]]}"#,
            Some(Err(Misshapen::NoNumbers)),
        ),
        (
            r#"{"embeddings":[ [1,"]"],[1,2]]}"#,
            Some(Err(Misshapen::NoNumbers)),
        ),
        (r#"{"embeddings":[[1],[2]]}"#, Some(Ok(2))),
    ] {
        let found = glance(Kind::Texts, [answer.as_bytes()]).end();
        assert_eq!(found, expected, "{answer}");
    }
    let scores = [
        (
            r#"{"precision":[1,0.5],"recall":[1,null],"f1":[0,0],"model":"m"}"#,
            2,
        ),
        (r#"{"f1":[],"recall":[],"precision":[ ],"model":"m"}"#, 0),
        (
            r#"{"f1":[1],"recall":[1],"precision":[0.5],"other":[1,2]}"#,
            1,
        ),
    ];
    for (answer, expected) in scores {
        assert_eq!(count(Kind::Pairs, answer), Ok(expected), "{answer}");
    }
}

#[test]
fn what_is_no_answer_is_not_taken_for_one() {
    use Misshapen::{Empty, NoNumbers, NoResult, NotJson, NotWhole, TooLarge, Twice, Uneven};

    let huge = format!(r#"{{"embeddings":[[{}]]}}"#, "9".repeat(310));
    let embeddings = [
        ("", NotWhole),
        (" \n", NotWhole),
        ("{}", NoResult),
        ("[]", NoResult),
        ("null", NoResult),
        ("[[1]]", NoResult),
        (r#"["embeddings",[[1]]]"#, NoResult),
        ("<html>", NotJson),
        (r#"{"detail":"no"}"#, NoResult),
        (r#"{"embeddings":[[1,2],[3,"#, NotWhole),
        (r#"{"embeddings":[[1,2]],"model":"m"#, NotWhole),
        (r#"{"embeddings":[[1,2]],"model":"m\"#, NotWhole),
        (r#"{"embeddings":[[1]]}xyz"#, NotJson),
        (r#"{"embeddings":[[1]]}{"embeddings":[[1]]}"#, NotJson),
        (r#"{"embeddings":[[1]]}]"#, NotJson),
        (r#"{"embeddings":[[1]],}"#, NotJson),
        (r#"{"embeddings":[[1]] "model":"m"}"#, NotJson),
        (r#"{"embeddings":[[1]],"model":NaN}"#, NotJson),
        (r#")]}',{"embeddings":[[1]]}"#, NotJson),
        (r#"{"embeddings":[[[1]]]}"#, NoNumbers),
        (r#"{"embeddings":[[1]],"embeddings":[[1]]}"#, Twice),
        (r#"{"embeddings":[[1]],"embeddings":null}"#, Twice),
        (r#"{"embeddings":[[1]],"embedd\u0069ngs":[[1]]}"#, Twice),
        (r#"{"x":{"embeddings":[[1]]}}"#, NoResult),
        (r#"{"embeddings":"[[1]]"}"#, NoResult),
        (r#"{"embeddings":null}"#, NoResult),
        (r#"{"embeddings":{}}"#, NoResult),
        (r#"{"embeddings":5}"#, NoResult),
        (r#"{"embeddings":[[1,2],[3]]}"#, Uneven),
        (r#"{"embeddings":[[1],[]]}"#, Empty),
        (r#"{"embeddings":[[],[ ]]}"#, Empty),
        (r#"{"embeddings":[[1,NaN]]}"#, NoNumbers),
        (r#"{"embeddings":[[1,-Infinity]]}"#, NoNumbers),
        (r#"{"embeddings":[["1"]]}"#, NoNumbers),
        (r#"{"embeddings":[[false]]}"#, NoNumbers),
        (r#"{"embeddings":[[1],null]}"#, NoNumbers),
        (r#"{"embeddings":[1]}"#, NoNumbers),
        (r#"{"embeddings":[5,5]}"#, NoNumbers),
        (r#"{"embeddings":["a"]}"#, NoNumbers),
        (r#"{"embeddings":[{"a":1}]}"#, NoNumbers),
        (r#"{"embeddings":[[1,,2]]}"#, NoNumbers),
        (r#"{"embeddings":[[1,2,]]}"#, NoNumbers),
        (r#"{"embeddings":[[1 2]]}"#, NoNumbers),
        (r#"{"embeddings":[[1.]]}"#, NoNumbers),
        (r#"{"embeddings":[[--1]]}"#, NoNumbers),
        (r#"{"embeddings":[[1e-]]}"#, NoNumbers),
        (r#"{"embeddings":[[0,1e999]]}"#, TooLarge),
        (r#"{"embeddings":[[-1E+400]]}"#, TooLarge),
        (&huge, TooLarge),
    ];
    for (answer, expected) in embeddings {
        assert_eq!(count(Kind::Texts, answer), Err(expected), "{answer}");
    }
    let scores = [
        (r#"{"precision":[1],"recall":[1],"model":"m"}"#, NoResult),
        (r#"{"precision":[1],"recall":[1],"f1":1}"#, NoResult),
        (r#"{"precision":[1],"recall":[1],"f1":[1,2]}"#, Uneven),
        (r#"{"precision":[1],"recall":[1],"f1":[]}"#, Uneven),
        (r#"{"precision":[1],"recall":[1],"f1":[[1]]}"#, NoNumbers),
        (r#"{"precision":[1],"recall":[1],"f1":[NaN]}"#, NoNumbers),
        (r#"{"precision":[1],"recall":[1],"f1":[1e309]}"#, TooLarge),
        (r#"{"precision":[1],"recall":[1],"f1":[1],"f1":[1]}"#, Twice),
    ];
    for (answer, expected) in scores {
        assert_eq!(count(Kind::Pairs, answer), Err(expected), "{answer}");
    }
}

proptest! {
    /// Where chunks end does not matter, and what programs write is plain.
    #[test]
    fn chunks_may_end_anywhere(
        rows in prop::collection::vec(prop::collection::vec(-9.0..9.0, 3..600), 1..5),
        sizes in prop::collection::vec(1..400usize, 1..9),
        is_indented in any::<bool>(),
    ) {
        let answer = serde_json::json!({"model": "a \"quoted\" [name]", "embeddings": rows});
        let answer = if is_indented { format!("{answer:#}") } else { answer.to_string() };
        prop_assert_eq!(is_plain(&answer), !is_indented);
        let mut rest = answer.as_bytes();
        let mut sizes = sizes.iter().cycle();
        let chunks: Vec<&[u8]> = std::iter::from_fn(|| {
            let size = (*sizes.next()?).min(rest.len());
            let (chunk, after) = rest.split_at(size);
            rest = after;
            (size > 0).then_some(chunk)
        }).collect();
        let is_even = rows.iter().all(|row| row.len() == rows[0].len());
        let expected = if is_even { Ok(rows.len()) } else { Err(Misshapen::Uneven) };
        prop_assert_eq!(seen(Kind::Embeddings, chunks), expected);
    }

    /// A look takes nothing for an answer that a parser does not.
    #[test]
    fn what_looks_plain_is_what_a_parser_reads(
        pieces in prop::collection::vec(prop::sample::select(vec![
            "[", "]", "[1,2]", ",", "[[1],[2]]", ":", "\"embeddings\"", "{", "}", "null", " ", "\"m\"", "-", "7",
        ]), 0..12),
    ) {
        let inner = pieces.concat();
        for answer in [format!(r#"{{"embeddings":[{inner}]}}"#), format!(r#"{{"embeddings":[[1],[{inner}]]}}"#), inner] {
            let read: Option<serde_json::Value> = serde_json::from_str(&answer).ok();
            let found = seen(Kind::Embeddings, [answer.as_bytes()]);
            if let Some(alone) = glance(Kind::Embeddings, [answer.as_bytes()]).end() {
                prop_assert_eq!(alone.is_ok(), found.is_ok(), "{}", answer);
            }
            if let Ok(count) = found {
                let rows = read.as_ref().and_then(|read| read["embeddings"].as_array());
                prop_assert_eq!(rows.map(Vec::len), Some(count), "{}", answer);
            }
        }
    }
}
