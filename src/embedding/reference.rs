//! A file that says what models make of the fixed texts.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{TEXTS, Vectors};

/// Of models by their names in `/info`, such as `embed:all-MiniLM-L6-v2`.
#[derive(Clone, Debug, PartialEq, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Reference {
    /// What the vectors are of.
    texts: Vec<String>,
    /// The vectors.
    pub models: BTreeMap<String, Vectors>,
}

/// Why a file is none. A clause that follows its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum BadReference {
    /// It is something else, or was edited.
    #[error("is no reference; make one with `gpu-bridge audit --write FILE`")]
    Unreadable,
    /// A version of the proxy made it that asks for other texts.
    #[error(
        "is of other texts than this version's; make it anew with `gpu-bridge audit --write FILE`"
    )]
    OtherTexts,
}

impl Reference {
    /// Of these models.
    pub fn new(models: BTreeMap<String, Vectors>) -> Self {
        let texts = TEXTS.map(str::to_owned).to_vec();
        Self { texts, models }
    }

    /// What a file holds.
    ///
    /// # Errors
    /// [`BadReference`].
    pub fn read(content: &[u8]) -> Result<Self, BadReference> {
        let read: Self = serde_json::from_slice(content).map_err(|_| BadReference::Unreadable)?;
        if read.texts != TEXTS {
            return Err(BadReference::OtherTexts);
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::super::vectors::testing::{model, vectors};
    use super::*;

    #[test]
    fn a_file_is_read_as_it_was_written() {
        let of = |seed| vectors(model(seed, 5));
        let models = [("embed:a", of(1)), ("embed:b", of(2))];
        let models = models.map(|(name, vectors)| (name.to_owned(), vectors));
        let reference = Reference::new(models.into());
        let json = serde_json::to_string(&reference).unwrap();
        assert_eq!(Reference::read(json.as_bytes()), Ok(reference));
        let other = json.replace("lazy dog", "lazy cat");
        assert_eq!(
            Reference::read(other.as_bytes()),
            Err(BadReference::OtherTexts)
        );
        for bad in ["", "{}", &json[1..], &json.replace("\"texts\"", "\"text\"")] {
            assert_eq!(
                Reference::read(bad.as_bytes()),
                Err(BadReference::Unreadable)
            );
        }
        let nonsense = r#"{"texts":[],"models":{"embed:a":[[null]]}}"#;
        assert_eq!(
            Reference::read(nonsense.as_bytes()),
            Err(BadReference::Unreadable)
        );
    }
}
