//! Answers as hosts write them, and as none should.

use proptest::prelude::*;

use super::*;

fn count(kind: Kind, answer: &str) -> Result<usize, Misshapen> {
    seen_anyhow(kind, answer.as_bytes())
}

/// Where chunks end does not matter.
fn seen_anyhow(kind: Kind, answer: &[u8]) -> Result<usize, Misshapen> {
    let whole = seen(kind, [answer]);
    for size in [1, 7] {
        let found = seen(kind, answer.chunks(size));
        assert_eq!(found, whole, "{}", answer.escape_ascii());
    }
    whole
}

fn seen<'a>(kind: Kind, chunks: impl IntoIterator<Item = &'a [u8]>) -> Result<usize, Misshapen> {
    let mut glance = Glance::at(kind);
    chunks.into_iter().for_each(|chunk| glance.see(chunk));
    glance.end()
}

#[test]
fn an_answer_tells_for_how_many_it_is() {
    let embeddings = [
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
        (
            r#"{"embeddings":[[0.5,-1e-3],[1,null]],"model":"m","dimensions":2}"#,
            2,
        ),
        (
            r#"{"embeddings":[[1E5,1e+05,0.0e0],[3.4e38,-1.5E+30,0]],"x":[1e999,"a,]b",[2]]}"#,
            2,
        ),
        (
            "{ \"model\" : \"m\", \"embeddings\" : [ [ 1 ] , [ 2 ] ,[3]] }",
            3,
        ),
        (r#"{"embedd\u0069ngs":[[1E2]]}"#, 1),
        ("\u{feff}{\"embeddings\":[[1]]}", 1),
    ];
    for (answer, expected) in embeddings {
        assert_eq!(count(Kind::Texts, answer), Ok(expected), "{answer}");
    }
    let text = r#"\u00e4\n\"é"#.repeat(MOST_BESIDE / 8);
    let long = format!(r#"{{"embeddings":[[1]],"note":"{text}","more":["{text}"]}}"#);
    assert_eq!(seen(Kind::Texts, long.as_bytes().chunks(5)), Ok(1));
    let many = format!(
        r#"{{"embeddings":[[1]],"note":[{}]}}"#,
        "{},".repeat(MOST_BESIDE)
    );
    assert_eq!(
        seen(Kind::Texts, [many.as_bytes()]),
        Err(Misshapen::TooMuch)
    );
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
    use Misshapen::{
        Empty, NoName, NoNumbers, NoResult, NotJson, NotWhole, TooLarge, Twice, Uneven,
    };

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
        (r#"{"embeddings":[[1]],"model":"\x"}"#, NotJson),
        (r#"{"embeddings":[[1]],"model":"\u12g4"}"#, NotJson),
        ("{\"embeddings\":[[1]],\"model\":\"\n\"}", NotJson),
        (r#"{"embeddings":[[1]],"model":5}"#, NoName),
        (r#"{"model":["m"],"embeddings":[[1]]}"#, NoName),
        (r#"{"embeddings":[[1]],"x":[1,]}"#, NotJson),
        (r#"{"embeddings":[[1]],"x":[1,NaN]}"#, NotJson),
        ("{\"embeddings\":[\u{c}[1]]}", NoNumbers),
        ("{\"embeddings\":[[\u{c}1]]}", NoNumbers),
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
        (r#"{"embeddings":[[00.1]]}"#, NoNumbers),
        (r#"{"embeddings":[[1,-01]]}"#, NoNumbers),
        (r#"{"embeddings":[[1.2.3]]}"#, NoNumbers),
        (r#"{"embeddings":[[0,null,1e39]]}"#, TooLarge),
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
        (r#"{"precision":[1],"recall":[1],"f1":[.5]}"#, NoNumbers),
        (r#"{"precision":[1],"recall":[1],"f1":[1],"f1":[1]}"#, Twice),
    ];
    for (answer, expected) in scores {
        assert_eq!(count(Kind::Pairs, answer), Err(expected), "{answer}");
    }
    for text in [
        &b"\xff"[..],
        b"\xe4",
        b"\xed\xa0\x80",
        &[b"x".repeat(99), b"\xc3".to_vec()].concat(),
    ] {
        let answer = [br#"{"embeddings":[[1]],"model":""#, text, br#""}"#].concat();
        assert_eq!(seen_anyhow(Kind::Texts, &answer), Err(NotJson));
    }
}

/// As `serde_json` reads it: for how many items `answer` is, if all of it is right.
fn read(answer: &[u8]) -> Option<usize> {
    let read: serde_json::Value = serde_json::from_slice(answer).ok()?;
    let rows = read["embeddings"].as_array()?;
    let mut lengths = Vec::new();
    for row in rows {
        let row = row.as_array()?;
        let is_right = |it: &serde_json::Value| {
            it.is_null() || it.as_f64().is_some_and(|it| it.abs() < 3.41e38)
        };
        lengths.push(Some(row.len()).filter(|it| *it > 0 && row.iter().all(is_right))?);
    }
    lengths.dedup();
    (lengths.len() < 2).then_some(rows.len())
}

proptest! {
    /// Where chunks end does not matter.
    #[test]
    fn chunks_may_end_anywhere(
        rows in prop::collection::vec(prop::collection::vec(-9.0..9.0, 3..600), 1..5),
        sizes in prop::collection::vec(1..400usize, 1..9),
        is_indented in any::<bool>(),
    ) {
        let answer = serde_json::json!({"model": "a \"quoted\" [name]", "embeddings": rows});
        let answer = if is_indented { format!("{answer:#}") } else { answer.to_string() };
        let mut rest = answer.as_bytes();
        let mut sizes = sizes.iter().cycle();
        let chunks = std::iter::from_fn(|| {
            let size = (*sizes.next()?).min(rest.len());
            let (chunk, after) = rest.split_at(size);
            rest = after;
            (size > 0).then_some(chunk)
        });
        let is_even = rows.iter().all(|row| row.len() == rows[0].len());
        let expected = if is_even { Ok(rows.len()) } else { Err(Misshapen::Uneven) };
        prop_assert_eq!(seen(Kind::Embeddings, chunks), expected);
    }

    /// An answer is right if a parser says so that builds all of it, but one with a list that comes twice.
    #[test]
    fn it_is_what_a_parser_reads(
        rows in prop::collection::vec(prop::collection::vec(-9.0..9.0, 2), 1..4),
        faults in prop::collection::vec((any::<prop::sample::Index>(), 0..3_usize, prop::sample::select(vec![
            "[", "]", "[1,2]", ",", ":", "\"embeddings\"", "{", "}", "null", " ", "\"", "\\", "-", "+", "7", "0", ".",
            "e", "E", "1e39", "1e999", "\n", "\u{e4}", "\u{c}", "NaN", "\\u00e4", "[null, 1]", "\"a]\"",
        ])), 0..4),
    ) {
        let mut answer = serde_json::json!({"embeddings": rows, "model": "m", "x": [1, "y"]}).to_string();
        for (place, cut, piece) in faults {
            let at = answer.floor_char_boundary(place.index(answer.len() + 1));
            let end = answer.floor_char_boundary((at + cut).min(answer.len()));
            answer.replace_range(at..end, piece);
        }
        let found = seen_anyhow(Kind::Embeddings, answer.as_bytes());
        // Beside the results it may be as large as it likes.
        let is_beyond = serde_json::from_str::<serde_json::Value>(&answer)
            .is_err_and(|error| error.to_string().starts_with("number out of range"));
        if found != Err(Misshapen::Twice) && !is_beyond {
            prop_assert_eq!(found.ok(), read(answer.as_bytes()), "{}", answer);
        }
    }
}
