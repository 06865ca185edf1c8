//! Other people's words, fit to be shown: names of models and devices, what files and hosts say.
//!
//! A terminal obeys some characters, does not show others, and lets some change what stands around
//! them; so one text can pass for another, or for a line of ours. Such characters are written as JSON
//! writes them (`\n`, `\u202e`), so that JSON treated so still says the same. What people read in any
//! language stays as it is.

use std::borrow::Cow;
use std::fmt::Write as _;

use icu_properties::props::{DefaultIgnorableCodePoint, EastAsianWidth, GeneralCategory};
use icu_properties::{CodePointMapData, CodePointSetData};

/// Marks on one character. Languages need up to three or four; more reach into the lines around.
const MAX_MARKS: usize = 4;
/// Looks like a blank, and is none to Unicode.
const BRAILLE_BLANK: char = '\u{2800}';
/// Makes one emoji of two.
const JOINER: char = '\u{200d}';
/// Asks for a symbol in colour.
const AS_EMOJI: char = '\u{fe0f}';

/// `text` on one line, with every character either seen for what it is or told by its number.
pub fn printable(text: &str) -> Cow<'_, str> {
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~')) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len());
    let mut before = Before::default();
    for char in text.chars() {
        if before.shows(char) {
            shown.push(char);
        } else {
            escape(char, &mut shown);
        }
    }
    Cow::Owned(shown)
}

/// The same of each line of `text`.
pub fn printable_lines(text: &str) -> String {
    let lines: Vec<_> = text.split('\n').map(printable).collect();
    lines.join("\n")
}

/// Columns that a printable text takes on a terminal.
pub fn columns(text: &str) -> usize {
    text.chars().map(columns_of).sum()
}

/// `text`, which is printable, cut to so many columns, with a sign that there was more.
pub fn cut(text: &str, width: usize) -> Cow<'_, str> {
    if columns(text) <= width {
        return Cow::Borrowed(text);
    }
    let mut left = width.saturating_sub(1);
    let fits = |char: &char| {
        let rest = left.checked_sub(columns_of(*char));
        left = rest.unwrap_or_default();
        rest.is_some()
    };
    let start: String = text.chars().take_while(fits).collect();
    Cow::Owned(start + "…")
}

fn columns_of(char: char) -> usize {
    let width = CodePointMapData::<EastAsianWidth>::new().get(char);
    if is_mark(category(char)) || matches!(char, JOINER) {
        0
    } else if width == EastAsianWidth::Wide || width == EastAsianWidth::Fullwidth {
        2
    } else {
        1
    }
}

/// What stands before the next character.
#[derive(Default)]
struct Before {
    /// Marks on the character there; `None` if it can carry none.
    marks: Option<usize>,
    is_symbol: bool,
}

impl Before {
    /// Takes `char` in. Can it be shown?
    fn shows(&mut self, char: char) -> bool {
        let category = category(char);
        if matches!(char, JOINER | AS_EMOJI) && self.is_symbol {
            // Not twice in a row, but a joiner after the other.
            self.is_symbol = char == AS_EMOJI;
            return true;
        }
        if is_mark(category) && !is_invisible(char) {
            self.marks = self.marks.map(|marks| marks + 1);
            return self.marks.is_some_and(|marks| marks <= MAX_MARKS);
        }
        let shown = char == ' ' || !(is_unseen(category) || is_invisible(char));
        *self = Self {
            marks: (shown && char != ' ').then_some(0),
            is_symbol: shown && is_symbol(category),
        };
        shown
    }
}

fn category(char: char) -> GeneralCategory {
    CodePointMapData::<GeneralCategory>::new().get(char)
}

fn is_mark(category: GeneralCategory) -> bool {
    use GeneralCategory::{EnclosingMark, NonspacingMark, SpacingMark};
    matches!(category, EnclosingMark | NonspacingMark | SpacingMark)
}

/// Emoji and their skin tones.
fn is_symbol(category: GeneralCategory) -> bool {
    use GeneralCategory::{ModifierSymbol, OtherSymbol};
    matches!(category, ModifierSymbol | OtherSymbol)
}

fn is_unseen(category: GeneralCategory) -> bool {
    use GeneralCategory::{
        Control, Format, LineSeparator, ParagraphSeparator, PrivateUse, SpaceSeparator, Surrogate,
        Unassigned,
    };
    matches!(
        category,
        Control
            | Format
            | LineSeparator
            | ParagraphSeparator
            | PrivateUse
            | SpaceSeparator
            | Surrogate
            | Unassigned
    )
}

fn is_invisible(char: char) -> bool {
    char == BRAILLE_BLANK || CodePointSetData::new::<DefaultIgnorableCodePoint>().contains(char)
}

fn escape(char: char, shown: &mut String) {
    match char {
        '\n' => shown.push_str("\\n"),
        '\r' => shown.push_str("\\r"),
        '\t' => shown.push_str("\\t"),
        _ => {
            for unit in char.encode_utf16(&mut [0; 2]) {
                // Writing to a string does not fail.
                let _ = write!(shown, "\\u{unit:04x}");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_people_read_stays() {
        for text in [
            "",
            "org/all-MiniLM-L6-v2",
            "a \\ \"b\"",
            "通义千问/嵌入模型",
            "モデル・名ガガ",
            "café cafe\u{301} Việt Vie\u{302}\u{323}t",
            "שלום עולם السلام",
            "हिन्दी ไทยที่",
            "🤗 ❤️ 👍🏽 👩‍🚀 ❤️‍🔥 🇨🇭",
            "naïve–“quoted”…€½",
        ] {
            assert_eq!(printable(text), text);
        }
    }

    #[test]
    fn what_deceives_is_told_by_its_number() {
        let marks = "\u{301}".repeat(6);
        for (text, expected) in [
            ("a\nb\r\tc", r"a\nb\r\tc"),
            ("\x1b[2J\x1b]0;t\x07", r"\u001b[2J\u001b]0;t\u0007"),
            ("\u{9b}31m\0\x7f\u{85}", r"\u009b31m\u0000\u007f\u0085"),
            ("a\u{202e}b\u{2066}\u{200f}", r"a\u202eb\u2066\u200f"),
            ("a\u{2028}b\u{2029}", r"a\u2028b\u2029"),
            (
                "a\u{200b}\u{200d}b\u{feff}\u{ad}",
                r"a\u200b\u200db\ufeff\u00ad",
            ),
            (
                "a\u{fe0f}b\u{e0041}\u{e0100}",
                r"a\ufe0fb\udb40\udc41\udb40\udd00",
            ),
            (
                "\u{3164}\u{115f}\u{2800}\u{a0}\u{3000}",
                r"\u3164\u115f\u2800\u00a0\u3000",
            ),
            ("\u{e000}\u{378}\u{fff9}", r"\ue000\u0378\ufff9"),
            ("\u{301}a", r"\u0301a"),
            (" \u{20dd}\n\u{301}", r" \u20dd\n\u0301"),
            ("❤\u{200d}\u{200d}", "❤\u{200d}\\u200d"),
            (
                &format!("e{marks}"),
                &format!("e{}\\u0301\\u0301", &marks[..8]),
            ),
        ] {
            assert_eq!(printable(text), expected);
        }
        assert_eq!(printable_lines("a\n\u{7}\n"), "a\n\\u0007\n");
    }

    #[test]
    fn columns_are_those_of_terminals() {
        for (text, expected) in [
            ("", 0),
            ("ab", 2),
            ("é", 1),
            ("e\u{301}", 1),
            ("模型", 4),
            ("🤗", 2),
        ] {
            assert_eq!(columns(text), expected, "{text}");
        }
        for (text, width, expected) in [
            ("model", 5, "model"),
            ("model", 4, "mod…"),
            ("模型名", 6, "模型名"),
            ("模型名", 5, "模型…"),
            ("模型名", 4, "模…"),
            ("model", 0, "…"),
        ] {
            assert_eq!(cut(text, width), expected, "{text} {width}");
        }
    }

    proptest! {
        #[test]
        fn nothing_is_left_that_acts_or_hides(text in any::<String>()) {
            let shown = printable(&text);
            for char in shown.chars().filter(|char| !matches!(*char, ' ' | JOINER | AS_EMOJI)) {
                prop_assert!(!is_unseen(category(char)) && !is_invisible(char), "{char:?}");
            }
            prop_assert_eq!(printable(&shown), &*shown);
            prop_assert_eq!(shown.lines().count(), usize::from(!text.is_empty()));
        }

        #[test]
        fn json_says_the_same(text in any::<String>()) {
            let json = serde_json::to_string(&text).unwrap();
            let read: String = serde_json::from_str(&printable(&json)).unwrap();
            prop_assert_eq!(read, text);
        }
    }
}
