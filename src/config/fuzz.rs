//! What must hold of any text that is read as a configuration.

use std::fmt::Write as _;
use std::path::Path;

use super::{MOST_PROBLEMS, Surroundings, parse, text};

/// Stands for whatever must not be shown.
const PLANTED: &str = "planted-secret-0123456789";

/// It is taken, or refused for reasons that stand in the text and tell no secret.
pub(crate) fn configurations(bytes: &[u8]) {
    let Ok(text) = text::decode(bytes.to_vec()) else {
        return;
    };
    let surroundings = Surroundings {
        variable: &|name| (name.len() < 9).then(|| PLANTED.to_owned()),
        folder: Path::new("/nonexistent"),
    };
    let mut told = String::new();
    let problems = match parse(&text, &surroundings) {
        Ok(config) => {
            // Writing to memory does not fail.
            let _ = write!(told, "{config:?}");
            assert!(!config.listen.is_empty());
            config.warnings
        }
        Err(problems) => {
            assert!(!problems.is_empty());
            problems
        }
    };
    assert!(problems.len() <= MOST_PROBLEMS + 1);
    let lines = text.lines().count() + 1;
    for problem in problems {
        assert!(
            problem
                .place
                .is_none_or(|place| (1..=lines).contains(&place.line) && place.column > 0)
        );
        told.push_str(&problem.explained(Path::new("file")));
    }
    assert!(!told.contains(PLANTED) || text.contains(PLANTED), "{told}");
}
