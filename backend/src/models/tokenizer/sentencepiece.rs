//! Unigram models in sentencepiece's own format: XLM-RoBERTa's `sentencepiece.bpe.model` (a unigram
//! model despite its name) and DeBERTa v2's `spm.model`.
//!
//! The parts are those that transformers (`convert_slow_tokenizer`) gives the same files: the
//! model's own table of character replacements, runs of spaces as one, `▁` for a space and in
//! front of the text. XLM-RoBERTa numbers the pieces as fairseq does: `<s>`, `<pad>`, `</s>`,
//! `<unk>`, then the pieces after sentencepiece's three special ones, then `<mask>`.

use std::path::Path;

use prost::Message;
use tokenizers::models::unigram::Unigram;
use tokenizers::normalizers::replace::ReplacePattern;
use tokenizers::normalizers::{Lowercase, Precompiled, Replace, Sequence, Strip};
use tokenizers::pre_tokenizers::metaspace::{Metaspace, PrependScheme};
use tokenizers::pre_tokenizers::punctuation::Punctuation;
use tokenizers::pre_tokenizers::sequence::Sequence as PreTokenizers;
use tokenizers::tokenizer::SplitDelimiterBehavior;
use tokenizers::{AddedToken, NormalizerWrapper, PreTokenizerWrapper, Tokenizer};

use super::config::TokenizerConfig;
use super::family::Family;
use super::{bounds, read_file, refused};

/// The fields of sentencepiece's `ModelProto` that make a tokenizer (`sentencepiece_model.proto`).
#[derive(Clone, PartialEq, Message)]
struct Model {
    #[prost(message, repeated, tag = "1")]
    pieces: Vec<Piece>,
    #[prost(message, optional, tag = "2")]
    trainer: Option<Trainer>,
    #[prost(message, optional, tag = "3")]
    normalizer: Option<Rules>,
}

#[derive(Clone, PartialEq, Message)]
struct Piece {
    #[prost(string, tag = "1")]
    text: String,
    /// Logarithm of its probability.
    #[prost(float, tag = "2")]
    score: f32,
    #[prost(int32, tag = "3", default = 1)]
    kind: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Trainer {
    #[prost(int32, tag = "3", default = 1)]
    model_type: i32,
    #[prost(int32, tag = "40")]
    unknown: i32,
}

#[derive(Clone, PartialEq, Message)]
struct Rules {
    #[prost(bytes = "vec", tag = "2")]
    replacements: Vec<u8>,
}

/// How a piece begins: the field's tag and that its length follows.
const PIECE: u8 = 0x0a;
/// Bytes of the shortest piece.
const SHORTEST_FIELD: usize = 2;
/// `TrainerSpec.ModelType.UNIGRAM`
const UNIGRAM: i32 = 1;
/// `SentencePiece.Type.CONTROL`: never found in a text by the unigram model.
const CONTROL: i32 = 3;
/// `SentencePiece.Type.USER_DEFINED`: found before anything else.
const USER_DEFINED: i32 = 4;
/// sentencepiece's own special pieces at the start of XLM-RoBERTa's list.
const SHIFTED: usize = 3;
/// Stands for a space.
const SPACE: char = '▁';

/// The tokenizer of the folder's sentencepiece model.
pub(super) fn build(
    folder: &Path,
    family: Family,
    config: &TokenizerConfig,
) -> tokenizers::Result<Tokenizer> {
    let name = family.files()[0];
    let bytes = read_file(&folder.join(name))?;
    bounds::check_count(pieces(&bytes))?;
    let model = Model::decode(bytes.as_slice())
        .map_err(|error| format!("{name} is not a sentencepiece model: {error}"))?;
    let problem = |problem: String| refused(format!("{name}: {problem}"));
    check(&model).map_err(problem)?;
    let (pieces, unknown) = vocabulary(&model, family).map_err(problem)?;
    bounds::check_pieces(&pieces)?;
    let mut tokenizer = Tokenizer::new(Unigram::from(pieces, Some(unknown), false)?);
    tokenizer.with_normalizer(Some(normalizer(&model, family, config)?))?;
    tokenizer.with_pre_tokenizer(Some(pre_tokenizer(family, config)));
    bounds::add(&mut tokenizer, marked(&model))?;
    Ok(tokenizer)
}

/// How many pieces a model has, at most, before it is decoded: each takes twenty times its bytes. They
/// are the fields with the tag 1, which come first in a file.
fn pieces(model: &[u8]) -> usize {
    let mut rest = model;
    let mut count = 0;
    while rest.first() == Some(&PIECE) {
        rest = &rest[1..];
        let Ok(length) = prost::decode_length_delimiter(&mut rest) else {
            break;
        };
        count += 1;
        rest = rest.get(length..).unwrap_or_default();
    }
    count + rest.len() / SHORTEST_FIELD
}

/// Refuses what the tokenizer's parts would take badly or compute otherwise than sentencepiece.
fn check(model: &Model) -> Result<(), String> {
    let kind = model.trainer.as_ref().map_or(UNIGRAM, |t| t.model_type);
    if kind != UNIGRAM {
        return Err("only unigram models are supported".to_owned());
    }
    let usable = |piece: &Piece| !piece.text.is_empty() && piece.score.is_finite();
    match model.pieces.iter().position(|piece| !usable(piece)) {
        Some(id) => Err(format!("piece {id} is empty or has no finite score")),
        None => Ok(()),
    }
}

/// The pieces by id, with their scores, and the id for what has no piece.
fn vocabulary(model: &Model, family: Family) -> Result<(Vec<(String, f64)>, usize), String> {
    let pieces = model
        .pieces
        .iter()
        .map(|piece| (piece.text.clone(), f64::from(piece.score)));
    if family != Family::XlmRoberta {
        let unknown = model.trainer.as_ref().map_or(0, |trainer| trainer.unknown);
        let unknown = usize::try_from(unknown).map_err(|_| "has no unknown piece")?;
        return Ok((pieces.collect(), unknown));
    }
    if model.pieces.len() < SHIFTED {
        return Err(format!("has only {} pieces", model.pieces.len()));
    }
    let own = |text: &str| (text.to_owned(), 0.0);
    let first = ["<s>", "<pad>", "</s>", "<unk>"].map(own);
    let all = first.into_iter().chain(pieces.skip(SHIFTED));
    Ok((all.chain([own("<mask>")]).collect(), 3))
}

/// The pieces that are found in a text as they stand, whatever is around them.
fn marked(model: &Model) -> Vec<AddedToken> {
    let marked = model
        .pieces
        .iter()
        .filter(|piece| [CONTROL, USER_DEFINED].contains(&piece.kind));
    let token = |piece: &Piece| {
        AddedToken::from(piece.text.as_str(), piece.kind == CONTROL).normalized(false)
    };
    marked.map(token).collect()
}

fn normalizer(
    model: &Model,
    family: Family,
    config: &TokenizerConfig,
) -> tokenizers::Result<Sequence> {
    let mut steps: Vec<NormalizerWrapper> = Vec::new();
    let spaces = |content: &str| Replace::new(ReplacePattern::Regex(" {2,}".to_owned()), content);
    let replacements = replacements(model)?;
    if family == Family::DebertaV2 {
        if config.lower_case.unwrap_or(false) {
            steps.push(Lowercase.into());
        }
        steps.push(Strip::new(true, true).into());
        steps.extend(replacements.map(NormalizerWrapper::from));
        steps.push(spaces(" ")?.into());
    } else {
        steps.extend(replacements.map(NormalizerWrapper::from));
        steps.push(Strip::new(false, true).into());
        steps.push(spaces("▁")?.into());
    }
    Ok(Sequence::new(steps))
}

/// The model's table of replacements. Its first four bytes are the length of its first part; a
/// wrong one is refused here, since the reader would reserve memory for it.
fn replacements(model: &Model) -> tokenizers::Result<Option<Precompiled>> {
    let table = match &model.normalizer {
        Some(rules) if !rules.replacements.is_empty() => rules.replacements.as_slice(),
        _ => return Ok(None),
    };
    let broken = "the table of character replacements is broken";
    let (length, rest) = table.split_first_chunk().ok_or(broken)?;
    let length = usize::try_from(u32::from_le_bytes(*length))?;
    if length == 0 || length > rest.len() {
        return Err(broken.into());
    }
    bounds::longest_replacement(table)?;
    let table = Precompiled::from(table).map_err(|_| broken)?;
    Ok(Some(table))
}

fn pre_tokenizer(family: Family, config: &TokenizerConfig) -> PreTokenizerWrapper {
    let spaces = Metaspace::new(SPACE, PrependScheme::Always, true);
    if family == Family::DebertaV2 && config.split_punctuation.unwrap_or(false) {
        return PreTokenizers::new(vec![punctuation(), spaces.into()]).into();
    }
    spaces.into()
}

fn punctuation() -> PreTokenizerWrapper {
    Punctuation::new(SplitDelimiterBehavior::Isolated).into()
}

/// Has the tokenizer split a text at punctuation first, unless it does so anyway.
pub(super) fn split_first(tokenizer: &mut Tokenizer) {
    let steps = match tokenizer.get_pre_tokenizer().cloned() {
        None => Vec::new(),
        Some(PreTokenizerWrapper::Sequence(steps)) => steps.as_ref().to_vec(),
        Some(step) => vec![step],
    };
    let splits = |step: &PreTokenizerWrapper| matches!(step, PreTokenizerWrapper::Punctuation(_));
    if !steps.iter().any(splits) {
        let steps = std::iter::once(punctuation()).chain(steps).collect();
        tokenizer.with_pre_tokenizer(Some(PreTokenizers::new(steps)));
    }
}
