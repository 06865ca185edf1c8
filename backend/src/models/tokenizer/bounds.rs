//! What a tokenizer may ask for: how large its tables are, and how much it may make of a text.
//!
//! Its authors are strangers. A vocabulary takes more memory than its file, a step before the
//! vocabulary can make a text longer, and steps multiply. What goes beyond is refused when the model
//! is loaded, by name and with the limit.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use tokenizers::{AddedToken, Encoding, ModelWrapper, Token};
use tokenizers::{NormalizedString, Normalizer, NormalizerWrapper, PostProcessor, Tokenizer};

use super::refused;

/// Pieces of a vocabulary, or rules to merge them; XLM-V has 901,629.
const MOST_PIECES: usize = 2 << 20;
/// Bytes of a piece of a unigram model, which are as many levels of a tree. sentencepiece makes none
/// of more than 16 characters unless told to.
const MOST_PIECE: usize = 1 << 10;
/// Nodes of that tree. XLM-RoBERTa's has under a million.
const MOST_NODES: usize = 4 << 20;
/// Bytes of a node in memory.
const NODE: u64 = 300;
/// Tokens besides the vocabulary: some models of speech have 30,000.
const MOST_ADDED: usize = 1 << 16;
/// Bytes of such a token; the longest are runs of spaces or dashes.
const MOST_ADDED_BYTES: usize = 1 << 10;
/// Bytes of all of them, in the form in which they are looked for: each takes up to 190 in memory. 30,000
/// tokens of speech have 0.3 MB.
const MOST_ADDED_TOGETHER: usize = 1 << 20;
/// Steps of a normaliser or a pre-tokenizer; those published have up to eight.
const MOST_STEPS: usize = 32;
/// Bytes of what a step puts into a text, or of the pattern that it looks for. GPT-4's has 300.
const MOST_PATTERN: usize = 4 << 10;
/// How many times as long as what is found what is put in its place may be. Published are four times:
/// a mark of three bytes for runs of spaces.
const MOST_REPLACED: usize = 16;
/// How many times as long the steps together could make a text at worst. XLM-RoBERTa's: 132, ALBERT's:
/// 3,000, both if a text were made of nothing but the characters that grow most, again and again.
const MOST_GROWTH: usize = 4096;
/// How many times as long they may make a text in fact. Unicode's own forms make 11 of 1.
const MOST_GROWN: usize = 16;
/// Bytes that may come of a text at worst without a look at what does.
const UNCHECKED: usize = 512 << 10;
/// Bytes of a text that are looked at together.
const LOOK: usize = 64;
/// Bytes that may come of a short text: some steps put a few before each.
const SHORT: usize = 4 << 10;
/// Characters of a word that is cut into word pieces, in time that grows with their square. All that
/// are published have 100.
const MOST_WORD: usize = 200;
/// Special tokens around a text; those published have up to four.
const MOST_FRAME: usize = 64;

fn check(what: &str, found: usize, most: usize) -> tokenizers::Result<()> {
    if found <= most {
        return Ok(());
    }
    Err(refused(format!("{what}: {found}, the limit is {most}")))
}

/// Refuses a part of a file that is too long.
pub(super) fn check_bytes(part: &str, bytes: usize, most: usize) -> tokenizers::Result<()> {
    check(&format!("bytes of '{part}'"), bytes, most)
}

/// Refuses a vocabulary, or a list of merges, of too many entries.
pub(super) fn check_count(entries: usize) -> tokenizers::Result<()> {
    check("entries of the vocabulary", entries, MOST_PIECES)
}

/// Refuses a unigram model whose tree would be too deep, or too large.
pub(super) fn check_pieces(pieces: &[(String, f64)]) -> tokenizers::Result<()> {
    check_count(pieces.len())?;
    let longest = pieces.iter().map(|(piece, _)| piece.len()).max();
    check("bytes of a piece", longest.unwrap_or(0), MOST_PIECE)?;
    let nodes = nodes(pieces.iter().map(|(piece, _)| piece));
    check("different beginnings of pieces", nodes, MOST_NODES)
}

fn nodes<'a>(pieces: impl Iterator<Item = &'a String>) -> usize {
    let mut sorted: Vec<&[u8]> = pieces.map(String::as_bytes).collect();
    sorted.sort_unstable();
    let mut before: &[u8] = &[];
    let mut nodes = 0;
    for piece in sorted {
        let shared = before.iter().zip(piece).take_while(|(a, b)| a == b).count();
        nodes += piece.len() - shared;
        before = piece;
    }
    nodes
}

/// Bytes of memory for the tree, which a file may hold in few; 0: the model has none.
pub(super) fn tree_bytes(tokenizer: &Tokenizer) -> u64 {
    match tokenizer.get_model() {
        ModelWrapper::Unigram(model) => {
            NODE.saturating_mul(nodes(model.iter().map(|(piece, _)| piece)) as u64)
        }
        _ => 0,
    }
}

/// Refuses words so long that a text of them takes minutes.
pub(super) fn check_word(most: Option<usize>) -> tokenizers::Result<()> {
    check("max_input_chars_per_word", most.unwrap_or(0), MOST_WORD)
}

/// Adds `tokens`, unless that makes too many, or too long ones, besides the vocabulary.
pub(super) fn add(tokenizer: &mut Tokenizer, tokens: Vec<AddedToken>) -> tokenizers::Result<()> {
    let known = tokenizer.get_added_vocabulary().get_vocab();
    check("added tokens", known.len() + tokens.len(), MOST_ADDED)?;
    let mut bytes: usize = known.keys().map(String::len).sum();
    for token in &tokens {
        let own = token.content.len();
        check("bytes of an added token", own, MOST_ADDED_BYTES)?;
        bytes += match tokenizer.get_normalizer() {
            Some(normalizer) if token.normalized => {
                grown(normalizer, &token.content, MOST_ADDED_TOGETHER)?
            }
            _ => own,
        };
        check("bytes of all added tokens", bytes, MOST_ADDED_TOGETHER)?;
    }
    tokenizer.add_tokens(tokens)?;
    Ok(())
}

/// The steps in `part`, which may be sequences of sequences.
fn flat(part: &Value) -> tokenizers::Result<Vec<&Value>> {
    let mut steps = vec![part];
    let mut flat = Vec::new();
    let mut seen = 0;
    while let Some(step) = steps.pop() {
        seen += 1;
        check("steps before the vocabulary", seen, MOST_STEPS)?;
        let inner = ["normalizers", "pretokenizers"].map(|key| step[key].as_array());
        match inner.into_iter().flatten().next() {
            Some(inner) => {
                check("steps before the vocabulary", inner.len(), MOST_STEPS)?;
                steps.extend(inner);
            }
            None => flat.push(step),
        }
    }
    Ok(flat)
}

/// How many times as long a normaliser could make a text at worst.
pub(super) fn growth(normalizer: &Value) -> tokenizers::Result<usize> {
    let mut all = 1_usize;
    for step in flat(normalizer)? {
        let bytes = |value: &Value| value.as_str().map_or(0, str::len);
        let pattern = &step["pattern"];
        let growth = match step["type"].as_str().unwrap_or_default() {
            "Replace" => {
                let longest = bytes(&pattern["Regex"]).max(bytes(&pattern["String"]));
                check("bytes of a pattern", longest, MOST_PATTERN)?;
                // A regular expression may find an empty place, one beside each character.
                let growth = match bytes(&pattern["String"]) {
                    0 => 1 + bytes(&step["content"]),
                    found => bytes(&step["content"]).div_ceil(found),
                };
                let what = "times that a text may grow where a pattern is found";
                check(what, growth, MOST_REPLACED)?;
                growth
            }
            "Prepend" => 1 + bytes(&step["prepend"]),
            "Precompiled" => {
                let table = step["precompiled_charsmap"].as_str().unwrap_or_default();
                longest_replacement(&STANDARD.decode(table)?)?
            }
            "NFKC" | "NFKD" => 11,
            "NFC" | "NFD" => 3,
            "BertNormalizer" => 6,
            "Lowercase" | "ByteLevel" => 2,
            _ => 1,
        };
        all = all.saturating_mul(growth.max(1));
        check(
            "times that a text may grow before the vocabulary",
            all,
            MOST_GROWTH,
        )?;
    }
    Ok(all)
}

/// Bytes of the longest replacement in a table of sentencepiece's: after a tree, whose length the
/// first four bytes tell, texts with a zero byte after each.
pub(super) fn longest_replacement(table: &[u8]) -> tokenizers::Result<usize> {
    let broken = || refused("the table of character replacements is broken");
    let (tree, rest) = table.split_first_chunk().ok_or_else(broken)?;
    let tree = usize::try_from(u32::from_le_bytes(*tree))?;
    let texts = rest.get(tree..).filter(|_| tree > 0).ok_or_else(broken)?;
    let longest = texts.split(|byte| *byte == 0).map(<[u8]>::len).max();
    let longest = longest.unwrap_or(0);
    check("bytes of a character's replacement", longest, MOST_GROWTH)?;
    Ok(longest)
}

/// Refuses what would look at a text too often, or make it longer each time.
pub(super) fn check_pre_tokenizer(pre_tokenizer: &Value) -> tokenizers::Result<()> {
    let mut growing = 0;
    for step in flat(pre_tokenizer)? {
        let pattern = &step["pattern"];
        let pattern = pattern["Regex"].as_str().or(pattern["String"].as_str());
        check(
            "bytes of a pattern",
            pattern.map_or(0, str::len),
            MOST_PATTERN,
        )?;
        growing += usize::from(matches!(
            step["type"].as_str(),
            Some("ByteLevel" | "Metaspace")
        ));
    }
    check("steps of bytes or blanks before the vocabulary", growing, 2)
}

/// Refuses special tokens beyond all measure, and a frame in which the text stands more than once.
pub(super) fn check_frame(tokenizer: &Tokenizer, frame: usize) -> tokenizers::Result<()> {
    check("special tokens around a text", frame, MOST_FRAME)?;
    let Some(processor) = tokenizer.get_post_processor() else {
        return Ok(());
    };
    let one = Encoding::from_tokens(vec![Token::new(0, "x".to_owned(), (0, 1))], 0);
    let framed = processor.process(one, None, true)?.len();
    if framed == frame + 1 {
        return Ok(());
    }
    Err(refused("a text is not once in what is made of it"))
}

/// Refuses a text that grows more in the normaliser than Unicode's forms justify. `growth` is what it
/// may come to at worst; the text is only looked at where that would be much.
pub(super) fn check_text(
    tokenizer: &Tokenizer,
    growth: usize,
    text: &str,
) -> tokenizers::Result<()> {
    let Some(normalizer) = tokenizer.get_normalizer() else {
        return Ok(());
    };
    if text.len().saturating_mul(growth) <= UNCHECKED {
        return Ok(());
    }
    grown(normalizer, text, SHORT + MOST_GROWN * text.len()).map(drop)
}

/// Bytes that come of `text`, refused beyond `most`: step by step, so that no step gets more than that.
fn grown(normalizer: &NormalizerWrapper, text: &str, most: usize) -> tokenizers::Result<usize> {
    let mut grown = text.to_owned();
    for step in steps(normalizer) {
        grown = applied(step, &grown, most)?;
    }
    Ok(grown.len())
}

fn steps(normalizer: &NormalizerWrapper) -> Vec<&NormalizerWrapper> {
    match normalizer {
        NormalizerWrapper::Sequence(inner) => inner.as_ref().iter().flat_map(steps).collect(),
        step => vec![step],
    }
}

/// About what `step` makes of `text`. It gets piece by piece what most steps take character by character;
/// what some find or leave out depends on the whole.
fn applied(step: &NormalizerWrapper, text: &str, most: usize) -> tokenizers::Result<String> {
    use NormalizerWrapper::{Prepend, Replace, StripNormalizer};
    let look = match step {
        Replace(_) | Prepend(_) | StripNormalizer(_) => text.len(),
        _ => LOOK,
    };
    let (mut rest, mut made) = (text, String::new());
    while !rest.is_empty() {
        let (piece, others) = rest.split_at(rest.ceil_char_boundary(look));
        let mut piece = NormalizedString::from(piece);
        step.normalize(&mut piece)?;
        made.push_str(piece.get());
        let what = "bytes that the normaliser makes of a text";
        check(what, made.len(), most)?;
        rest = others;
    }
    Ok(made)
}
