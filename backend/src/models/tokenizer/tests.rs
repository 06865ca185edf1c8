use std::collections::BTreeMap;

use serde::Deserialize;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::*;
use crate::models::test_support::{folder_with, golden, golden_json};

const EMBEDDING: Use = Use::Embedding { lower_case: false };

fn load(folder: &Path, max_length: usize) -> TextTokenizer {
    let config = TokenizerConfig::read(folder).expect("config");
    TextTokenizer::load(folder, &config, max_length, EMBEDDING).expect("loads")
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

/// The golden tokenizer with these settings of its own, at most 6 tokens long.
fn saved_with(part: &str, value: &Value) -> Result<TextTokenizer, LoadError> {
    let text = std::fs::read_to_string(golden("tiny/bert/tokenizer.json")).expect("golden");
    let text = text.replace(
        &format!(r#""{part}": null"#),
        &format!(r#""{part}": {value}"#),
    );
    let folder = folder_with(&[("tokenizer.json", &text)]);
    let config = TokenizerConfig::read(folder.path()).expect("config");
    TextTokenizer::load(folder.path(), &config, 6, EMBEDDING)
}

/// What transformers 5.24 with tokenizers 0.23 does.
#[test]
fn of_saved_truncation_and_padding_only_the_direction_of_the_former_counts() {
    let truncation = |key: &str, value: Value| {
        let mut all = json!({"max_length": 4, "strategy": "LongestFirst", "stride": 0});
        all[key] = value;
        ("truncation", all)
    };
    let padding = |key: &str, value: Value| {
        let mut all = json!({"strategy": {"Fixed": 64}, "direction": "Right",
            "pad_to_multiple_of": null, "pad_id": 0, "pad_type_id": 0, "pad_token": "[PAD]"});
        all[key] = value;
        ("padding", all)
    };
    let (first, last) = ([2, 64, 65, 66, 41, 3], [2, 43, 44, 45, 46, 3]);
    for ((part, value), ids) in [
        (truncation("max_length", json!(0)), Some(first)),
        (truncation("max_length", json!(u64::MAX)), Some(first)),
        (truncation("strategy", json!("OnlySecond")), Some(first)),
        (truncation("direction", json!("Left")), Some(last)),
        (truncation("stride", json!(4)), Some(first)),
        (truncation("stride", json!(5)), None),
        (truncation("max_length", json!(-1)), None),
        (truncation("direction", json!("left")), None),
        (("truncation", json!(3)), None),
        (padding("strategy", json!({"Fixed": 0})), Some(first)),
        (padding("strategy", json!({"Fixed": u64::MAX})), Some(first)),
        (padding("strategy", json!({"Fixed": -1})), None),
        (padding("pad_to_multiple_of", json!(0)), Some(first)),
        (padding("pad_to_multiple_of", json!(u64::MAX)), Some(first)),
        (padding("direction", json!("Left")), Some(first)),
        (padding("pad_token", json!("<none>")), Some(first)),
        (("padding", json!([])), None),
    ] {
        let what = format!("{part}: {value}");
        match (saved_with(part, &value), ids) {
            (Ok(tokenizer), Some(ids)) => {
                assert_eq!(tokenizer.ids("x").expect("ids"), [2, 64, 3], "{what}");
                let long = tokenizer.ids("x y z a b c d e f").expect("ids");
                assert_eq!(long, ids, "{what}");
            }
            (Err(error), None) => {
                let told = error.to_string();
                assert!(told.contains(&format!("'{part}'")), "{what}: {told}");
            }
            (loaded, _) => panic!("{what}: {:?}", loaded.map(drop)),
        }
    }
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
        let loaded = TextTokenizer::load(folder, &config, limit, EMBEDDING);
        loaded.err().expect("unusable").to_string()
    };
    assert!(error(&golden("tiny/bert"), 2).contains("leaves no room"));
    assert!(error(folder_with(&[]).path(), 128).contains("neither tokenizer.json nor"));
    let broken = folder_with(&[("tokenizer.json", "{}")]);
    assert!(!error(broken.path(), 128).is_empty());
    let no_frame = folder_with(&[("vocab.txt", "[UNK]\n")]);
    assert!(error(no_frame.path(), 128).contains("vocab.txt: the vocabulary lacks '[CLS]'"));
}

#[test]
fn stripping_is_pythons() {
    assert_eq!(
        strip("\u{1c}\u{1f} \t\u{a0}\u{3000}\u{85}a b\u{2028}\n"),
        "a b"
    );
    assert_eq!(strip("\u{200b}a\u{feff}"), "\u{200b}a\u{feff}");
}

/// What transformers makes of tokenizers in raw files (`scripts/tokenizer_reference.py`).
#[derive(Deserialize)]
struct References {
    texts: Vec<String>,
    cases: BTreeMap<String, Case>,
}

#[derive(Deserialize)]
struct Case {
    /// Where each file comes from.
    files: BTreeMap<String, String>,
    settings: Value,
    cls: u32,
    sep: u32,
    /// By text.
    embedding: Vec<Vec<u32>>,
    bert_score: Vec<Vec<u32>>,
}

impl Case {
    fn folder(&self) -> TempDir {
        let settings = self.settings.to_string();
        let folder = folder_with(&[("tokenizer_config.json", &settings)]);
        for (name, from) in &self.files {
            let from = golden("tiny").join(from);
            std::fs::copy(from, folder.path().join(name)).expect(name);
        }
        folder
    }
}

fn references() -> References {
    serde_json::from_value(golden_json("tiny/tokenizers/ids.json")).expect("golden format")
}

fn load_for(folder: &Path, purpose: Use) -> TextTokenizer {
    let config = TokenizerConfig::read(folder).expect("config");
    TextTokenizer::load(folder, &config, 512, purpose).expect("loads")
}

/// The hard texts of which `tokenizer` gives other ids than `expected`.
fn differing<'a>(
    tokenizer: &TextTokenizer,
    texts: &'a [String],
    expected: &[Vec<u32>],
) -> Vec<&'a str> {
    let same = |(text, ids): &(&String, &Vec<u32>)| tokenizer.ids(text).expect("ids") == **ids;
    let differing = texts.iter().zip(expected).filter(|pair| !same(pair));
    differing.map(|(text, _)| text.as_str()).collect()
}

#[test]
fn raw_files_give_the_ids_of_transformers() {
    let References { texts, cases } = references();
    for (name, case) in &cases {
        let tokenizer = load_for(case.folder().path(), EMBEDDING);
        // The reference was given them without the white space around them.
        let texts: Vec<String> = texts.iter().map(|text| strip(text).to_owned()).collect();
        let differing = differing(&tokenizer, &texts, &case.embedding);
        assert!(differing.is_empty(), "{name}: {differing:?}");
        let marks = (tokenizer.cls_id(), tokenizer.sep_id());
        assert_eq!(marks, (Some(case.cls), Some(case.sep)), "{name}");
    }
}

/// Where a tokenizer in Python differs from the one in Rust and is not imitated: characters that
/// Unicode has not assigned (removed in Python), sentencepiece's own sign for a space and its mark
/// for unknown pieces written out in a text, user-defined pieces, the rarely used `split_by_punct`.
fn not_imitated(case: &str) -> &'static [&'static str] {
    const SPLIT: [&str; 7] = [
        "z [UNK][PAD]",
        "<s>a</s> b <mask> c<pad><unk>",
        "don't can't I'll we've 'tis",
        "1,234.56 + 7€ = ½ ²",
        "▁already ▁ there",
        "a <mask> b",
        "€€€",
    ];
    match case {
        "bert" | "bert_cased" | "bert_accents" | "mpnet" => &["\u{378}"],
        "deberta_v2" => &["z [UNK][PAD]", "▁already ▁ there", "€€€"],
        "deberta_v2_split" => &SPLIT,
        _ => &[],
    }
}

#[test]
fn bert_score_has_the_ids_of_the_tokenizers_in_python() {
    let References { texts, cases } = references();
    for (name, case) in &cases {
        let tokenizer = load_for(case.folder().path(), Use::BertScore);
        let differing = differing(&tokenizer, &texts, &case.bert_score);
        assert_eq!(differing, not_imitated(name), "{name}");
    }
}

#[test]
fn a_saved_tokenizer_and_its_raw_files_agree() {
    let texts = references().texts;
    let byte_pairs = &["deberta_v1/vocab.json", "deberta_v1/merges.txt"];
    for (name, raw) in [
        ("bert", &["bert/vocab.txt"][..]),
        ("roberta", &["roberta/vocab.json", "roberta/merges.txt"]),
        ("deberta_v1", byte_pairs),
        ("distilbert", &["distilbert/vocab.txt"]),
        ("mpnet", &["mpnet/vocab.txt"]),
        ("deberta_v2", &["deberta_v2/spm.model"]),
        ("modernbert", byte_pairs),
    ] {
        let saved = golden("tiny").join(name);
        let folder = folder_with(&[]);
        let settings = ["config.json", "tokenizer_config.json"].map(|file| saved.join(file));
        let raw = raw.iter().map(|file| golden("tiny").join(file));
        for file in raw.chain(settings) {
            let copy = folder.path().join(file.file_name().expect("a file"));
            std::fs::copy(&file, copy).expect(name);
        }
        for purpose in [EMBEDDING, Use::BertScore] {
            let (saved, built) = (load_for(&saved, purpose), load_for(folder.path(), purpose));
            // These saved tokenizers lack the mask's flag for the space before it.
            for text in texts
                .iter()
                .filter(|text| !text.contains(" <mask>") && !text.contains(" [MASK]"))
            {
                let ids = [&saved, &built].map(|tokenizer| tokenizer.ids(text).expect("ids"));
                assert_eq!(ids[0], ids[1], "{name} {purpose:?} {text:?}");
            }
        }
    }
}

#[test]
fn settings_win_over_the_saved_tokenizer() {
    let saved = |name: &str| {
        std::fs::read_to_string(golden("tiny").join(name).join("tokenizer.json")).expect("golden")
    };
    let load = |saved: &str, settings: &str| {
        let files = [
            ("tokenizer.json", saved),
            ("tokenizer_config.json", settings),
        ];
        load_for(folder_with(&files).path(), EMBEDDING)
    };
    let (bert, roberta) = (saved("bert"), saved("roberta"));
    let ids = |tokenizer: TextTokenizer, text: &str| tokenizer.ids(text).expect("ids");

    let cased = r#"{"tokenizer_class": "BertTokenizer", "do_lower_case": false}"#;
    let lower = r#"{"tokenizer_class": "BertTokenizer"}"#;
    let general = r#"{"tokenizer_class": "PreTrainedTokenizerFast", "do_lower_case": false}"#;
    assert_eq!(
        ids(load(&bert, lower), "WORD"),
        ids(load(&bert, lower), "word")
    );
    assert_ne!(
        ids(load(&bert, cased), "WORD"),
        ids(load(&bert, lower), "word")
    );
    assert_eq!(
        ids(load(&bert, general), "WORD"),
        ids(load(&bert, lower), "word")
    );

    let prefix = r#"{"tokenizer_class": "RobertaTokenizer", "add_prefix_space": true}"#;
    let none = r#"{"tokenizer_class": "RobertaTokenizer"}"#;
    let spaced = roberta.replace(
        r#""add_prefix_space": false"#,
        r#""add_prefix_space": true"#,
    );
    assert_eq!(
        ids(load(&roberta, prefix), "word"),
        ids(load(&spaced, prefix), "word")
    );
    assert_eq!(
        ids(load(&roberta, none), "word"),
        ids(load(&spaced, none), "word")
    );
    assert_ne!(
        ids(load(&roberta, none), "word"),
        ids(load(&roberta, prefix), "word")
    );
    for as_saved in [
        r#"{"tokenizer_class": "PreTrainedTokenizerFast"}"#,
        r#"{"tokenizer_class": "TokenizersBackend", "add_prefix_space": false}"#,
    ] {
        assert_eq!(
            ids(load(&spaced, as_saved), "word"),
            ids(load(&roberta, prefix), "word")
        );
    }

    let deberta = saved("deberta_v2");
    let cased = r#"{"tokenizer_class": "DebertaV2Tokenizer"}"#;
    let lower = r#"{"tokenizer_class": "DebertaV2Tokenizer", "do_lower_case": true}"#;
    assert_eq!(
        ids(load(&deberta, lower), "The Function"),
        ids(load(&deberta, cased), "the function")
    );
}

#[test]
fn special_tokens_that_only_the_settings_name_are_special() {
    let saved = golden("tiny/bert/tokenizer.json");
    let saved = std::fs::read_to_string(saved).expect("golden");
    for settings in [
        r#"{"additional_special_tokens": ["foo"]}"#,
        r#"{"extra_special_tokens": ["foo"]}"#,
        r#"{"extra_special_tokens": {"x_token": "foo"}}"#,
        r#"{"mask_token": "foo"}"#,
    ] {
        let folder = folder_with(&[
            ("tokenizer.json", &saved),
            ("tokenizer_config.json", settings),
        ]);
        let tokenizer = load_for(folder.path(), EMBEDDING);
        // The id that transformers gives it.
        assert_eq!(
            tokenizer.ids("foo").expect("ids"),
            [2, 801, 3],
            "{settings}"
        );
    }
}

/// The folders with a model of each family.
const GOLDEN_FOLDERS: [&str; 10] = [
    "bert",
    "roberta",
    "xlm_roberta",
    "deberta_v1",
    "deberta_v1_span24",
    "distilbert",
    "mpnet",
    "deberta_v2",
    "deberta_v2_conv",
    "modernbert",
];

/// As bert-score asks for it.
fn load_with_own_limit(folder: &Path) -> TextTokenizer {
    let config = TokenizerConfig::read(folder).expect("config");
    let limit = config.max_length.expect("a limit");
    TextTokenizer::load(folder, &config, limit, Use::BertScore).expect("loads")
}

/// Every golden folder's `bertscore.json` has the number of tokens of its texts.
#[test]
fn bert_score_counts_tokens_as_the_reference() {
    for name in GOLDEN_FOLDERS {
        let reference = golden_json(&format!("tiny/{name}/bertscore.json"));
        let tokenizer = load_with_own_limit(&golden("tiny").join(name));
        for pair in reference["items"].as_array().expect("items") {
            let count = |key: &str| {
                tokenizer
                    .ids(pair[key].as_str().expect(key))
                    .expect("ids")
                    .len()
            };
            let counts = serde_json::json!([count("candidate"), count("reference")]);
            assert_eq!(counts, pair["n_tokens"], "{name}: {pair}");
        }
    }
}

#[test]
fn every_golden_folder_tokenizes_as_its_hidden_states_were_made() {
    for name in GOLDEN_FOLDERS {
        let tokenizer = load_with_own_limit(&golden("tiny").join(name));
        let file = golden_json(&format!("tiny/{name}/hidden_states.json"));
        for item in file["items"].as_array().expect("items") {
            let text = item["text"].as_str().expect("text");
            let ids = serde_json::json!(tokenizer.ids(text).expect(text));
            assert_eq!(ids, item["input_ids"], "{name} {text:?}");
        }
    }
}

/// Whatever the text, there is an answer of bounded length. (Time is looked at by hand.)
#[test]
fn hostile_texts_have_ids() {
    let texts = [
        "x".repeat(10_000),
        "\u{301}".repeat(10_000),
        "\0".repeat(10_000),
        " ".repeat(10_000) + "x",
        "你".repeat(10_000),
        "<mask> ".repeat(2_000),
        "▁".repeat(10_000),
        "a\u{301}\u{302}".repeat(5_000),
    ];
    for (name, case) in &references().cases {
        let tokenizer = load_for(case.folder().path(), Use::BertScore);
        for text in &texts {
            let ids = tokenizer.ids(text).expect("ids");
            assert!((2..=512).contains(&ids.len()), "{name}: {} ids", ids.len());
        }
    }
}

#[test]
fn broken_raw_files_are_errors() {
    let bpe = std::fs::read_to_string(golden("tiny/roberta/vocab.json")).expect("golden");
    let class = |class: &str| format!(r#"{{"tokenizer_class": "{class}"}}"#);
    for (name, file, content, expected) in [
        (
            "XLMRobertaTokenizer",
            "sentencepiece.bpe.model",
            "\u{a}\u{7f}",
            "not a sentencepiece",
        ),
        (
            "XLMRobertaTokenizer",
            "sentencepiece.bpe.model",
            "",
            "has only 0 pieces",
        ),
        (
            "DebertaV2Tokenizer",
            "spm.model",
            "\u{a}\u{2}\u{a}\0",
            "piece 0 is empty",
        ),
        (
            "RobertaTokenizer",
            "vocab.json",
            &bpe,
            "neither tokenizer.json nor merges.txt",
        ),
        (
            "BertTokenizer",
            "merges.txt",
            "",
            "neither tokenizer.json nor vocab.txt",
        ),
        (
            "T5Tokenizer",
            "spiece.model",
            "",
            "'T5Tokenizer' cannot be built",
        ),
    ] {
        let folder = folder_with(&[(file, content), ("tokenizer_config.json", &class(name))]);
        let config = TokenizerConfig::read(folder.path()).expect("config");
        let loaded = TextTokenizer::load(folder.path(), &config, 9, EMBEDDING);
        let error = loaded.err().expect(name).to_string();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn a_truncated_sentencepiece_model_never_panics() {
    let model = std::fs::read(golden("tiny/tokenizers/deberta_v2.model")).expect("golden");
    let folder = folder_with(&[("config.json", r#"{"model_type": "deberta-v2"}"#)]);
    let config = TokenizerConfig::read(folder.path()).expect("config");
    for length in (0..model.len()).step_by(7) {
        std::fs::write(folder.path().join("spm.model"), &model[..length]).expect("write");
        if let Ok(tokenizer) = TextTokenizer::load(folder.path(), &config, 9, EMBEDDING) {
            assert!(tokenizer.ids("hello").is_ok());
        }
    }
}

#[test]
fn the_tree_of_a_unigram_model_is_counted() {
    for (model, has_tree) in [("bert", false), ("xlm_roberta", true)] {
        let tokenizer = load(&golden("tiny").join(model), 64);
        assert_eq!(tokenizer.bytes_beyond(0) > 0, has_tree, "{model}");
        assert_eq!(tokenizer.bytes_beyond(u64::MAX), 0, "{model}");
    }
}
