//! What a host finds wrong with items of a part of a batch, said of the whole batch.

use serde_json::Value;

/// The lists whose items are told by their place, as `texts[3]`; the last is that of OpenAI's API.
const LISTS: [&str; 4] = ["texts[", "candidates[", "references[", "input["];

/// A refusal, `{"detail": …}`, of a part of a batch that begins with its item `start`, as a refusal of the batch.
/// `None`: it names no item in a way that is known.
#[must_use]
pub fn of_whole(refusal: &[u8], start: usize) -> Option<Vec<u8>> {
    let mut body: Value = serde_json::from_slice(refusal).ok()?;
    let is_moved = match body.get_mut("detail")? {
        Value::String(words) => move_words(words, start),
        Value::Array(problems) => {
            // All of them.
            let moved = problems.iter_mut().map(|it| move_problem(it, start));
            moved.fold(false, |any, moved| any | moved)
        }
        _ => false,
    };
    is_moved.then(|| serde_json::to_vec(&body).ok()).flatten()
}

/// Returns whether it names an item.
fn move_problem(problem: &mut Value, start: usize) -> bool {
    let words = match problem.get_mut("msg") {
        Some(Value::String(words)) => move_words(words, start),
        _ => false,
    };
    // After `body` and the list.
    let place = problem.get_mut("loc").and_then(|loc| loc.get_mut(2));
    let moved = place.and_then(|place| {
        let at = usize::try_from(place.as_u64()?).ok()?;
        *place = at.checked_add(start)?.into();
        Some(())
    });
    words || moved.is_some()
}

/// Returns whether they name an item.
fn move_words(words: &mut String, start: usize) -> bool {
    let moved = LISTS.into_iter().find_map(|list| {
        let (before, after) = words.split_once(list)?;
        let (place, after) = after.split_once(']')?;
        let at = place.parse::<usize>().ok()?.checked_add(start)?;
        Some(format!("{before}{list}{at}]{after}"))
    });
    let is_moved = moved.is_some();
    *words = moved.unwrap_or_else(|| std::mem::take(words));
    is_moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn items_are_named_by_their_place_in_the_whole() {
        let table = [
            (
                r#"{"detail":"texts[3] is too long: 9"}"#,
                Some(r#"{"detail":"texts[35] is too long: 9"}"#),
            ),
            (
                r#"{"detail":"input[3] length 10001 exceeds 512"}"#,
                Some(r#"{"detail":"input[35] length 10001 exceeds 512"}"#),
            ),
            (
                r#"{"detail":[{"loc":["body","texts",3],"msg":"Input should be a valid string"},{"msg":"x"}]}"#,
                Some(
                    r#"{"detail":[{"loc":["body","texts",35],"msg":"Input should be a valid string"},{"msg":"x"}]}"#,
                ),
            ),
            (
                r#"{"detail":[{"loc":["body","references"],"msg":"Value error, references[0] length 7 exceeds 5"}]}"#,
                Some(
                    r#"{"detail":[{"loc":["body","references"],"msg":"Value error, references[32] length 7 exceeds 5"}]}"#,
                ),
            ),
            (
                r#"{"detail":[{"loc":["body",7],"msg":"JSON decode error"}]}"#,
                None,
            ),
            (r#"{"detail":"`inputs` cannot be empty"}"#, None),
            (r#"{"detail":"texts[a] or texts["}"#, None),
            (
                r#"{"detail":[{"loc":["body","texts",18446744073709551615]}]}"#,
                None,
            ),
            (r#"{"detail":{}}"#, None),
            ("[]", None),
            ("", None),
        ];
        for (refusal, expected) in table {
            let moved = of_whole(refusal.as_bytes(), 32);
            let moved = moved.map(|it| String::from_utf8(it).unwrap());
            assert_eq!(moved.as_deref(), expected, "{refusal}");
        }
    }
}
