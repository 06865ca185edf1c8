//! Texts to token ids.
//!
//! `tokenizer.json` may carry truncation and padding from the day it was saved (all-MiniLM-L6-v2:
//! 128 tokens, always padded to 128). Both are replaced: truncation by the limit that the caller
//! works out, padding by none, since batches are padded by whoever builds them. Older BERT folders
//! have only `vocab.txt`; their tokenizer is built from it.

use std::path::Path;

use tokenizers::models::wordpiece::WordPiece;
use tokenizers::normalizers::BertNormalizer;
use tokenizers::pre_tokenizers::bert::BertPreTokenizer;
use tokenizers::processors::template::TemplateProcessing;
use tokenizers::{AddedToken, PostProcessor, Tokenizer, TruncationParams};

use super::config::TokenizerConfig;
use super::error::LoadError;

/// The special tokens of a BERT, besides those that mark start and end. `vocab.txt` doesn't say.
const SPECIAL_INSIDE: [&str; 3] = ["[PAD]", "[UNK]", "[MASK]"];

/// A model's tokenizer, with the limit of one use of the model.
pub(crate) struct TextTokenizer {
    tokenizer: Tokenizer,
    frame: usize,
}

impl TextTokenizer {
    /// Loads the tokenizer in `folder`; texts are cut after `max_length` tokens, special ones
    /// included.
    pub(crate) fn load(
        folder: &Path,
        config: &TokenizerConfig,
        max_length: usize,
    ) -> Result<Self, LoadError> {
        let fail = |problem: String| LoadError::Tokenizer {
            path: folder.to_owned(),
            problem,
        };
        let mut tokenizer = open(folder, config).map_err(|error| fail(error.to_string()))?;
        let frame = tokenizer
            .get_post_processor()
            .map_or(0, |p| p.added_tokens(false));
        if frame == 0 {
            return Err(fail(
                "the tokenizer puts no special tokens around a text".to_owned(),
            ));
        }
        if max_length <= frame {
            let room = format!("a limit of {max_length} tokens leaves no room for text");
            return Err(fail(format!("{room}, since {frame} are special")));
        }
        let truncation = TruncationParams {
            max_length,
            ..TruncationParams::default()
        };
        tokenizer.with_padding(None);
        tokenizer
            .with_truncation(Some(truncation))
            .map_err(|error| fail(error.to_string()))?;
        Ok(Self { tokenizer, frame })
    }

    /// The ids of `text` without the white space around it, special tokens included: as many as
    /// [`frame`](Self::frame) or more.
    pub(crate) fn ids(&self, text: &str) -> tokenizers::Result<Vec<u32>> {
        Ok(self
            .tokenizer
            .encode_fast(strip(text), true)?
            .get_ids()
            .to_vec())
    }

    /// How many special tokens every text gets; an empty text has only those.
    pub(crate) fn frame(&self) -> usize {
        self.frame
    }

    /// The id of `token`, if it is in the vocabulary.
    pub(crate) fn id_of(&self, token: &str) -> Option<u32> {
        self.tokenizer.token_to_id(token)
    }
}

/// `text` without the white space around it, as Python's `str.strip` has it: that counts the four
/// separators U+001C–U+001F, which Unicode's `White_Space` leaves out.
fn strip(text: &str) -> &str {
    text.trim_matches(|c: char| c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c))
}

fn open(folder: &Path, config: &TokenizerConfig) -> tokenizers::Result<Tokenizer> {
    let (saved, vocabulary) = (folder.join("tokenizer.json"), folder.join("vocab.txt"));
    if saved.is_file() {
        return Tokenizer::from_file(saved);
    }
    if vocabulary.is_file() {
        return from_vocabulary(&vocabulary, config);
    }
    Err("there is neither tokenizer.json nor vocab.txt".into())
}

/// The tokenizer that BERT's authors published, from its list of word pieces, one a line.
fn from_vocabulary(path: &Path, config: &TokenizerConfig) -> tokenizers::Result<Tokenizer> {
    let path = path.to_str().ok_or("the path is not valid UTF-8")?;
    let pieces = WordPiece::from_file(path)
        .unk_token("[UNK]".to_owned())
        .build()?;
    let mut tokenizer = Tokenizer::new(pieces);
    tokenizer.with_normalizer(Some(BertNormalizer::new(
        true,
        true,
        None,
        config.lower_case,
    )))?;
    tokenizer.with_pre_tokenizer(Some(BertPreTokenizer));
    let id = |token: &str| {
        let id = tokenizer
            .token_to_id(token)
            .ok_or_else(|| format!("vocab.txt lacks '{token}'"));
        id.map(|id| (token.to_owned(), id))
    };
    let template = TemplateProcessing::builder()
        .try_single(format!("{} $A {}", config.start, config.end))?
        .special_tokens(vec![id(&config.start)?, id(&config.end)?])
        .build()?;
    let marks = [config.start.as_str(), config.end.as_str()];
    let special = SPECIAL_INSIDE.into_iter().chain(marks);
    let special: Vec<&str> = special.filter(|token| id(token).is_ok()).collect();
    tokenizer.add_special_tokens(
        special
            .into_iter()
            .map(|token| AddedToken::from(token, true)),
    )?;
    tokenizer.with_post_processor(Some(template));
    Ok(tokenizer)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::models::test_support::{folder_with, golden, golden_json};

    fn load(folder: &Path, max_length: usize) -> TextTokenizer {
        let config = TokenizerConfig::read(folder).expect("config");
        TextTokenizer::load(folder, &config, max_length).expect("loads")
    }

    /// A folder with the golden vocabulary and nothing else.
    fn vocabulary_only() -> tempfile::TempDir {
        let folder = folder_with(&[]);
        let copy = folder.path().join("vocab.txt");
        std::fs::copy(golden("tiny/bert/vocab.txt"), copy).expect("copy");
        folder
    }

    #[test]
    fn both_kinds_of_folder_give_the_reference_ids() {
        let bare = vocabulary_only();
        let tokenizers = [load(&golden("tiny/bert"), 128), load(bare.path(), 128)];
        let file = golden_json("tiny/bert/hidden_states.json");
        for item in file["items"].as_array().expect("items") {
            let text = item["text"].as_str().expect("text");
            for tokenizer in &tokenizers {
                let ids = serde_json::json!(tokenizer.ids(text).expect(text));
                assert_eq!(ids, item["input_ids"], "{text:?}");
            }
        }
    }

    #[test]
    fn special_tokens_written_out_are_special() {
        let bare = vocabulary_only();
        for folder in [golden("tiny/bert").as_path(), bare.path()] {
            assert_eq!(load(folder, 128).ids("[SEP]").expect("ids"), [2, 3, 3]);
        }
    }

    #[test]
    fn saved_truncation_and_padding_are_replaced() {
        let text = std::fs::read_to_string(golden("tiny/bert/tokenizer.json")).expect("golden");
        let truncation =
            r#""truncation": {"max_length": 4, "strategy": "LongestFirst", "stride": 0}"#;
        let padding = r#""padding": {"strategy": {"Fixed": 64}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"}"#;
        let text = text.replace(r#""truncation": null"#, truncation);
        let text = text.replace(r#""padding": null"#, padding);
        let folder = folder_with(&[("tokenizer.json", &text)]);
        let tokenizer = load(folder.path(), 6);
        assert_eq!(tokenizer.ids("x").expect("ids"), [2, 64, 3]);
        assert_eq!(
            tokenizer.ids("x x x x x x x x").expect("ids"),
            [2, 64, 64, 64, 64, 3]
        );
    }

    #[test]
    fn an_empty_text_is_the_frame_alone() {
        let tokenizer = load(&golden("tiny/bert"), 128);
        assert_eq!(tokenizer.ids("").expect("ids").len(), tokenizer.frame());
    }

    #[test]
    fn unusable_tokenizers_are_errors() {
        let config = TokenizerConfig::read(&golden("tiny/bert")).expect("config");
        let error = |folder: &Path, limit: usize| {
            let loaded = TextTokenizer::load(folder, &config, limit);
            loaded.err().expect("unusable").to_string()
        };
        assert!(error(&golden("tiny/bert"), 2).contains("leaves no room"));
        assert!(error(folder_with(&[]).path(), 128).contains("neither tokenizer.json nor"));
        let broken = folder_with(&[("tokenizer.json", "{}")]);
        assert!(!error(broken.path(), 128).is_empty());
        let no_frame = folder_with(&[("vocab.txt", "[UNK]\n")]);
        assert!(error(no_frame.path(), 128).contains("vocab.txt lacks '[CLS]'"));
    }

    #[test]
    fn stripping_is_pythons() {
        assert_eq!(
            strip("\u{1c}\u{1f} \t\u{a0}\u{3000}\u{85}a b\u{2028}\n"),
            "a b"
        );
        assert_eq!(strip("\u{200b}a\u{feff}"), "\u{200b}a\u{feff}");
    }
}
