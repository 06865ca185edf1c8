//! The line that a problem is in, with a caret under it; whatever may be a secret is hidden.
//!
//! ```text
//!   7 |   max_wiat: 3s
//!     |   ^^^^^^^^
//! ```
//!
//! A mistake may be just what makes a secret look like something else, so nothing is shown because it
//! does not look like one: keys are shown if they are settings or could be meant as such, values if
//! they follow a setting that holds no secret and are what no secret is (a number, a word of ours, an
//! address). All other words become `***`.

use std::fmt;

use super::names::{Name, is_word, name};
use super::places::Place;

/// In the place of a word.
const HIDDEN: &str = "***";
/// A longer value is not what these settings hold.
const MAX_VALUE: usize = 60;
/// No secret is as short as this.
const SHORT: usize = 4;
/// … and no number, with its unit, is longer.
const MAX_NUMBER: usize = 12;
/// Bytes of a line that is shown; a longer one would fill a terminal, and be no help.
const MAX_LINE: usize = 500;
/// What words end at.
const MARKS: [char; 5] = ['{', '}', '[', ']', ','];

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Excerpt {
    line: usize,
    shown: String,
    /// Characters before the caret.
    before: usize,
    /// Carets, at least one.
    width: usize,
}

impl Excerpt {
    /// `None`: the text has no such line, or one that is too long to be shown.
    pub(super) fn of(text: &str, place: Place) -> Option<Self> {
        let source = text.lines().nth(place.line.checked_sub(1)?)?;
        if source.len() > MAX_LINE {
            return None;
        }
        let mut hiding = Hiding::default();
        let (mut before, mut width) = (None, 1);
        for (start, word) in words(source) {
            let at = hiding.shown.chars().count();
            hiding.take(word);
            let (length, shown) = (word.chars().count(), hiding.shown.chars().count() - at);
            if before.is_none() && start + length >= place.column {
                let inside = place.column.saturating_sub(start + 1);
                let inside = if shown == length { inside } else { 0 };
                before = Some(at + inside);
                width = shown.saturating_sub(inside).max(1);
            }
        }
        let before = before.unwrap_or(hiding.shown.chars().count());
        Some(Self {
            line: place.line,
            shown: hiding.shown,
            before,
            width,
        })
    }
}

impl fmt::Display for Excerpt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let number = self.line.to_string();
        let margin = " ".repeat(number.len());
        let (before, carets) = (" ".repeat(self.before), "^".repeat(self.width));
        write!(
            f,
            "  {number} | {}\n  {margin} | {before}{carets}",
            self.shown
        )
    }
}

/// The line in pieces: words, marks and blanks, each with the characters before it. A comment is left
/// out.
fn words(line: &str) -> Vec<(usize, &str)> {
    let mut found = Vec::new();
    let (mut rest, mut at) = (line, 0);
    while let Some(first) = rest.chars().next() {
        let before: Option<&(_, &str)> = found.last();
        if first == '#' && before.is_none_or(|(_, word)| word.trim().is_empty()) {
            break;
        }
        let is_single = first.is_whitespace() || MARKS.contains(&first);
        let end = if is_single {
            first.len_utf8()
        } else {
            end_of_quoted(rest).unwrap_or_else(|| end_of_word(rest))
        };
        let (word, after) = rest.split_at(end);
        found.push((at, word));
        (rest, at) = (after, at + word.chars().count());
    }
    found
}

/// Of a quoted value with marks in it, which mean nothing there.
fn end_of_quoted(text: &str) -> Option<usize> {
    let quote = text.chars().next().filter(|it| ['"', '\''].contains(it))?;
    let end = text.get(1..)?.find(quote)? + 2;
    has_marks(text.get(..end)?).then_some(end)
}

/// Has a value marks beside those of references?
fn has_marks(word: &str) -> bool {
    let references = word.matches("${").count();
    word.replace("${", "").matches(MARKS).count() > references
}

/// A reference to a variable, `${…}`, is no mark.
fn end_of_word(text: &str) -> usize {
    let mut in_reference = false;
    let mut before = ' ';
    for (at, char) in text.char_indices() {
        match char {
            '{' if before == '$' => in_reference = true,
            '}' if in_reference => in_reference = false,
            _ if char.is_whitespace() || MARKS.contains(&char) => return at,
            _ => {}
        }
        before = char;
    }
    text.len()
}

/// What of a line may be shown, word by word.
#[derive(Default)]
struct Hiding {
    shown: String,
    /// What the last key says of the words behind it.
    value: Value,
    /// Lists that were opened behind that key.
    lists: usize,
}

#[derive(Clone, Copy, Default, PartialEq, Eq)]
enum Value {
    /// Is nobody's.
    #[default]
    Stray,
    /// Holds no secret.
    Harmless,
    /// Perhaps holds one.
    Secret,
}

impl Hiding {
    fn take(&mut self, word: &str) {
        match word {
            "[" if self.value == Value::Harmless => self.lists += 1,
            "]" => self.lists = self.lists.saturating_sub(1),
            "," | "{" | "}" if self.lists == 0 => self.value = Value::Stray,
            _ => {}
        }
        let is_mark = word.chars().all(|char| MARKS.contains(&char)) || word == "-";
        if word.trim().is_empty() {
            self.shown.push(' ');
        } else if is_mark || self.value == Value::Harmless && is_reference(word) {
            self.shown
                .extend(word.chars().filter(|char| !char.is_control()));
        } else if let Some(key) = word
            .strip_suffix(':')
            .filter(|_| self.value != Value::Secret)
        {
            self.key(key, word);
        } else {
            self.value(word);
        }
    }

    fn key(&mut self, key: &str, word: &str) {
        let bare = key.trim_matches(['\'', '"']);
        let (shown, value) = match name(bare) {
            Name::Harmless => (word, Value::Harmless),
            Name::Secret => (word, Value::Secret),
            Name::Unknown => (word, Value::Stray),
            Name::Odd => (HIDDEN, Value::Secret),
        };
        self.shown.push_str(shown);
        (self.value, self.lists) = (value, 0);
    }

    fn value(&mut self, word: &str) {
        let is_plain = word.chars().all(|char| !char.is_control()) && !has_marks(word);
        if self.value == Value::Harmless && is_plain && is_no_secret(word) {
            self.shown.push_str(word);
        } else if self.value == Value::Harmless
            && is_plain
            && let Some(url) = without_path(word)
        {
            self.shown.extend([url, "/", HIDDEN]);
        } else if let Some((key, _)) = word.split_once(':')
            && self.value == Value::Stray
            && matches!(name(key), Name::Harmless | Name::Secret)
        {
            self.shown.extend([key, ":", HIDDEN]);
        } else {
            self.shown.push_str(HIDDEN);
        }
        if self.lists == 0 && self.value == Value::Harmless {
            self.value = Value::Stray;
        }
    }
}

/// Can a value be nothing that somebody keeps secret, whatever it is meant for?
pub(crate) fn is_no_secret(word: &str) -> bool {
    let word = word.trim_matches(['\'', '"']);
    word.chars().count() <= SHORT || is_word(word) || is_number(word) || is_address(word)
}

/// `60000`, `1.5`, `500ms`, `64KiB`.
fn is_number(word: &str) -> bool {
    let unit = word.trim_start_matches(|char: char| char.is_ascii_digit() || "+-.".contains(char));
    let is_unit = unit.len() <= 3 && unit.bytes().all(|byte| byte.is_ascii_alphabetic());
    unit.len() < word.len() && is_unit && word.len() <= MAX_NUMBER
}

/// An IP address, with a port or the bits of a range if there are any, or a URL without a path.
fn is_address(word: &str) -> bool {
    let of_ip = |char: char| char.is_ascii_hexdigit() || ".:[]/".contains(char);
    let is_ip = word.chars().all(of_ip) && word.matches([':', '.']).count() > 1;
    is_ip && word.len() <= MAX_VALUE || is_origin(word.strip_suffix('/').unwrap_or(word))
}

/// `http://NAME:PORT`, where the name may be one of a variable.
fn is_origin(word: &str) -> bool {
    let after = word
        .strip_prefix("http://")
        .or_else(|| word.strip_prefix("https://"));
    let of_name = |char: char| char.is_ascii_alphanumeric() || "-_.:[]${}".contains(char);
    let is_name = |after: &str| {
        // In the place of a variable's name anything may stand.
        let is_other = |char: char| char.is_ascii_lowercase() || char == '-';
        after.chars().all(of_name) && !(after.contains('$') && after.contains(is_other))
    };
    // Behind a name and a colon may stand what goes with it, a password say.
    let is_port = |after: &str| {
        let behind = after.rsplit_once(':').map_or("", |(_, behind)| behind);
        behind.ends_with(']')
            || behind.bytes().all(|byte| byte.is_ascii_digit())
            || is_reference(behind)
    };
    word.len() <= MAX_VALUE && after.is_some_and(|after| is_name(after) && is_port(after))
}

/// A URL as far as its path, which may hold anything.
fn without_path(word: &str) -> Option<&str> {
    let bare = word.trim_start_matches(['\'', '"']);
    let quote = word.len() - bare.len();
    let (_, rest) = bare.split_once("://")?;
    let end = quote + bare.len() - rest.len() + rest.find('/')?;
    let origin = word.get(..end)?;
    is_origin(origin.get(quote..)?).then_some(origin)
}

/// `${NAME}`, or `$NAME` as shells have it: a name, not what it stands for.
fn is_reference(word: &str) -> bool {
    let word = word.trim_matches(['\'', '"']);
    let Some(name) = word.strip_prefix('$') else {
        return false;
    };
    let in_braces = name
        .strip_prefix('{')
        .and_then(|name| name.strip_suffix('}'));
    let is_name = |name: &str| {
        let mut bytes = name.bytes();
        bytes.all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
    };
    let name = in_braces.unwrap_or(name);
    !name.is_empty() && is_name(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn excerpt(text: &str, line: usize, column: usize) -> String {
        Excerpt::of(text, Place { line, column })
            .unwrap()
            .to_string()
    }

    #[test]
    fn the_caret_stands_under_the_word() {
        let text = "a:\nqueue: {max_wiat: 3s}\r\n";
        assert_eq!(
            excerpt(text, 2, 9),
            "  2 | queue: {max_wiat: 3s}\n    |         ^^^^^^^^^"
        );
        assert_eq!(
            excerpt("queue:\n\tmax_wait: 1", 2, 1),
            "  2 |  max_wait: 1\n    | ^"
        );
        assert_eq!(excerpt("ab", 1, 9), "  1 | ***\n    |    ^");
        assert!(Excerpt::of("", Place { line: 0, column: 0 }).is_none());
    }

    #[test]
    fn what_may_be_a_secret_is_hidden() {
        let table = [
            ("  api_key: hunter2", "  api_key: ***"),
            ("  apiKey: 'hunter2 hunter3'", "  apiKey: *** ***"),
            ("  key:hunter2", "  key:***"),
            (
                "- {name: a, key: hunter2, url: http://a}",
                "- {name: a, key: ***, url: http://a}",
            ),
            ("hunter2", "***"),
            ("token: hunter2", "token: ***"),
            ("auth: hunter2", "auth: ***"),
            ("url: http://u:hunter2@a", "url: ***"),
            ("name: 'a, key: hunter2}", "name: 'a, key: ***}"),
            ("key: hun: ter2", "key: *** ***"),
            ("{name: 'x}', key: \"hunter2}\"}", "{name: ***, key: ***}"),
            (
                "{name: 'a, key: hunter2}', max_wait: 1}",
                "{name: ***, max_wait: 1}",
            ),
            ("{url: 'http://${GPU}:1'}", "{url: 'http://${GPU}:1'}"),
            ("hunter2: x", "*** ***"),
            ("max_wait: 5 # hunter2", "max_wait: 5 "),
            ("key: ${HUNTER2}", "key: ***"),
            ("key: $HUNTER2", "key: ***"),
            ("key_file: hunter2", "key_file: ***"),
            ("api_key_env: hunter2", "api_key_env: ***"),
            ("max_wait: ${NAME}", "max_wait: ${NAME}"),
            ("key: $hunter", "key: ***"),
            (
                "trusted_proxies: [10.0.0.1, fd00::/8, hunter2]",
                "trusted_proxies: [10.0.0.1, fd00::/8, ***]",
            ),
            ("url: sk-hunter2", "url: ***"),
            ("url: http://u:hunter2", "url: ***"),
            ("url: http://u:8765:hunter2/embed", "url: ***"),
            ("url: http://${GPU}:${PORT}", "url: http://${GPU}:${PORT}"),
            ("url: hunter2:8765", "url: ***"),
            ("url: http://gw:9/hunter2/v1", "url: http://gw:9/***"),
            ("url: 'http://gw/hunter2'", "url: 'http://gw/***"),
            (
                "url: 'https://10.0.0.1:8765/'",
                "url: 'https://10.0.0.1:8765/'",
            ),
            ("url: http://::1:8765", "url: http://::1:8765"),
            ("name: hunter2", "name: ***"),
            ("name: gpu1", "name: gpu1"),
            ("address: hunter2", "address: ***"),
            ("address: ::1:8765", "address: ::1:8765"),
            ("max_wait: 1500ms", "max_wait: 1500ms"),
            ("max_wait: hunter2", "max_wait: ***"),
            ("policy: round-robin", "policy: round-robin"),
            ("served_by: false", "served_by: false"),
            (
                "{server_name: hunter2, ca: hunter2}",
                "{server_name: ***, ca: ***}",
            ),
        ];
        for (line, shown) in table {
            assert_eq!(
                Excerpt::of(line, Place { line: 1, column: 1 })
                    .unwrap()
                    .shown,
                shown
            );
        }
    }
}
