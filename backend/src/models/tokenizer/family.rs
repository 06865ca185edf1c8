//! Which family of tokenizers a folder belongs to, decided from names alone.
//!
//! The order is that of transformers' `AutoTokenizer`: the tokenizer's class where the folder names
//! one, else the model's type. A class of `XLMRobertaTokenizer` in a folder with the model type
//! `bert` (multilingual MiniLM) is therefore an XLM-RoBERTa tokenizer. Only a folder that names
//! neither, or a class that says nothing about the files (`PreTrainedTokenizerFast`), goes by the
//! files that are there.

/// A way to build a tokenizer from the files that a model's authors published.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Family {
    /// Word pieces of lower-cased or cased words: BERT, `DistilBERT`, ELECTRA.
    Bert,
    /// BERT's word pieces between RoBERTa's marks.
    Mpnet,
    /// Byte pairs as GPT-2 has them, between `<s>` and `</s>`.
    Roberta,
    /// The same byte pairs between `[CLS]` and `[SEP]`.
    Deberta,
    /// Byte pairs of the text in Unicode's normal form C, between `[CLS]` and `[SEP]`.
    ModernBert,
    /// A unigram model whose ids are shifted, as fairseq numbered them.
    XlmRoberta,
    /// A unigram model with BERT's marks among its pieces.
    DebertaV2,
}

/// The special tokens of a family, for folders that don't name theirs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Marks {
    pub(crate) cls: &'static str,
    pub(crate) sep: &'static str,
    pub(crate) unk: &'static str,
    pub(crate) pad: &'static str,
    pub(crate) mask: &'static str,
    /// Whether the mask takes the space before it: it stands for a word that begins with one.
    pub(crate) mask_strips_left: bool,
}

const BRACKETS: Marks = Marks {
    cls: "[CLS]",
    sep: "[SEP]",
    unk: "[UNK]",
    pad: "[PAD]",
    mask: "[MASK]",
    mask_strips_left: false,
};

const ANGLES: Marks = Marks {
    cls: "<s>",
    sep: "</s>",
    unk: "<unk>",
    pad: "<pad>",
    mask: "<mask>",
    mask_strips_left: true,
};

impl Family {
    /// The files of all families.
    pub(crate) const ALL_FILES: [&str; 5] = [
        "vocab.txt",
        "vocab.json",
        "merges.txt",
        "sentencepiece.bpe.model",
        "spm.model",
    ];

    /// The files that a tokenizer of this family is built from.
    pub(crate) fn files(self) -> &'static [&'static str] {
        match self {
            Self::Bert | Self::Mpnet => &["vocab.txt"],
            Self::Roberta | Self::Deberta | Self::ModernBert => &["vocab.json", "merges.txt"],
            Self::XlmRoberta => &["sentencepiece.bpe.model"],
            Self::DebertaV2 => &["spm.model"],
        }
    }

    /// The defaults of the family's class in transformers.
    pub(crate) fn marks(self) -> Marks {
        match self {
            Self::Roberta | Self::XlmRoberta => ANGLES,
            Self::Mpnet => Marks {
                unk: "[UNK]",
                ..ANGLES
            },
            Self::Deberta | Self::ModernBert => Marks {
                mask_strips_left: true,
                ..BRACKETS
            },
            Self::Bert | Self::DebertaV2 => BRACKETS,
        }
    }

    /// The kind of its model, as `tokenizer.json` names it.
    pub(crate) fn model(self) -> &'static str {
        match self {
            Self::Bert | Self::Mpnet => "WordPiece",
            Self::Roberta | Self::Deberta | Self::ModernBert => "BPE",
            Self::XlmRoberta | Self::DebertaV2 => "Unigram",
        }
    }

    /// Whether its class in transformers 5 puts the special tokens that the settings name in the place
    /// of those that `tokenizer.json` has.
    pub(crate) fn takes_marks_from_settings(self) -> bool {
        matches!(self, Self::Bert | Self::Mpnet | Self::DebertaV2)
    }

    fn of_class(class: &str) -> Option<Self> {
        Some(match class.strip_suffix("Fast").unwrap_or(class) {
            // The same under nine names.
            "BertTokenizer"
            | "ConvBertTokenizer"
            | "DPRContextEncoderTokenizer"
            | "DPRQuestionEncoderTokenizer"
            | "DistilBertTokenizer"
            | "ElectraTokenizer"
            | "LayoutLMTokenizer"
            | "MobileBertTokenizer"
            | "SqueezeBertTokenizer" => Self::Bert,
            "MPNetTokenizer" => Self::Mpnet,
            "RobertaTokenizer" => Self::Roberta,
            "DebertaTokenizer" => Self::Deberta,
            "XLMRobertaTokenizer" => Self::XlmRoberta,
            "DebertaV2Tokenizer" => Self::DebertaV2,
            _ => return None,
        })
    }

    fn of_model(model_type: &str) -> Option<Self> {
        Some(match model_type {
            "bert" | "distilbert" | "electra" => Self::Bert,
            "mpnet" => Self::Mpnet,
            "roberta" => Self::Roberta,
            "deberta" => Self::Deberta,
            "modernbert" => Self::ModernBert,
            "xlm-roberta" => Self::XlmRoberta,
            "deberta-v2" => Self::DebertaV2,
            _ => return None,
        })
    }

    fn of_files(present: impl Fn(&str) -> bool) -> Option<Self> {
        let by_file = [Self::Bert, Self::Roberta, Self::XlmRoberta, Self::DebertaV2];
        let complete = |family: &Self| family.files().iter().all(|file| present(file));
        by_file.into_iter().find(complete)
    }
}

/// Classes in transformers that are in Python only, and read no `tokenizer.json`.
const PYTHON_ONLY: [&str; 7] = [
    "BertGenerationTokenizer",
    "BertJapaneseTokenizer",
    "BertweetTokenizer",
    "CanineTokenizer",
    "FlaubertTokenizer",
    "PhobertTokenizer",
    "XLMTokenizer",
];

/// Whether a class gives other ids than a `tokenizer.json` beside it.
pub(crate) fn is_python_only(class: &str) -> bool {
    PYTHON_ONLY.contains(&class)
}

/// Whether a class that makes the tokens around a text itself puts one before, and one after it, where
/// `add_bos_token` and `add_eos_token` say nothing.
pub(crate) fn own_frame(class: &str) -> Option<(bool, bool)> {
    match class.strip_suffix("Fast").unwrap_or(class) {
        "CodeLlamaTokenizer" | "GemmaTokenizer" | "LlamaTokenizer" => Some((true, false)),
        "GPTNeoXTokenizer" => Some((false, false)),
        _ => None,
    }
}

/// Whether a class without a family here runs a `tokenizer.json` as it is, in published folders.
pub(crate) fn runs_as_saved(class: &str) -> bool {
    let class = class.strip_suffix("Fast").unwrap_or(class);
    own_frame(class).is_some() || ["CamembertTokenizer", "HerbertTokenizer"].contains(&class)
}

/// Whether a class (by its names in transformers 4 and 5) runs any `tokenizer.json` as it is.
pub(crate) fn is_general(class: &str) -> bool {
    class == "PreTrainedTokenizerFast" || class == "TokenizersBackend"
}

/// The family of a folder that names this tokenizer `class` and `model_type` and has the files for
/// which `present` holds. `None`: a class or a model that this program has no tokenizer for.
pub(crate) fn family(
    class: Option<&str>,
    model_type: Option<&str>,
    present: impl Fn(&str) -> bool,
) -> Option<Family> {
    match (class.filter(|class| !is_general(class)), model_type) {
        (Some(class), _) => Family::of_class(class),
        (None, Some(model_type)) => Family::of_model(model_type),
        (None, None) => Family::of_files(present),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_class_decides_then_the_model_then_the_files() {
        use Family::{Bert, Deberta, DebertaV2, ModernBert, Mpnet, Roberta, XlmRoberta};
        let bpe: &[&str] = &["vocab.json", "merges.txt"];
        for (class, model_type, files, expected) in [
            (Some("BertTokenizer"), Some("bert"), &[][..], Some(Bert)),
            (Some("DistilBertTokenizerFast"), None, &[], Some(Bert)),
            (
                Some("MPNetTokenizer"),
                Some("mpnet"),
                &["vocab.txt"],
                Some(Mpnet),
            ),
            (
                Some("XLMRobertaTokenizer"),
                Some("bert"),
                &[],
                Some(XlmRoberta),
            ),
            (
                Some("RobertaTokenizer"),
                Some("deberta"),
                &[],
                Some(Roberta),
            ),
            (Some("CamembertTokenizer"), Some("roberta"), bpe, None),
            (
                Some("PreTrainedTokenizerFast"),
                Some("modernbert"),
                &[],
                Some(ModernBert),
            ),
            (
                Some("PreTrainedTokenizerFast"),
                None,
                &["spm.model"],
                Some(DebertaV2),
            ),
            (None, Some("deberta"), bpe, Some(Deberta)),
            (None, Some("deberta-v2"), &[], Some(DebertaV2)),
            (None, Some("electra"), &["vocab.txt"], Some(Bert)),
            (None, Some("t5"), &["vocab.txt"], None),
            (None, None, &["vocab.txt"], Some(Bert)),
            (None, None, bpe, Some(Roberta)),
            (None, None, &["merges.txt"], None),
            (None, None, &["sentencepiece.bpe.model"], Some(XlmRoberta)),
        ] {
            let found = family(class, model_type, |file| files.contains(&file));
            assert_eq!(found, expected, "{class:?} {model_type:?} {files:?}");
        }
    }
}
