//! Where in the text each value stands.
//!
//! `serde_yaml` gives values without places, so the text is read a second time, by a parser that
//! gives events with places, only to find them.

use std::collections::HashMap;

use saphyr_parser::{Event, Parser, Span};

use super::MOST_PROBLEMS;

/// Line and column, both from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) line: usize,
    pub(super) column: usize,
}

/// The places of all keys and values, by path (`pool.hosts[1].url`).
#[derive(Debug, Default)]
pub(super) struct Places {
    keys: HashMap<String, Place>,
    values: HashMap<String, Place>,
    /// Keys that stand in one mapping more than once: path, first place, next place.
    pub(super) repeated: Vec<(String, Place, Place)>,
    /// Where it is nested too deep; nothing behind that was looked at.
    pub(super) too_deep: Option<Place>,
    /// Where it holds too much; the same.
    pub(super) too_large: Option<Place>,
    size: Size,
    /// Where another document starts.
    pub(super) second_document: Option<Place>,
}

/// What is nested deeper is no configuration; parsers take long over it, and its paths fill the memory.
const MAX_DEPTH: usize = 64;

/// Keys and values, each alias counted as all that it stands for. A host has about ten, so that there is
/// room for twenty thousand.
const MAX_NODES: usize = 250_000;

/// How many keys and values there are, and in what has an anchor. Aliases of aliases are the short way to
/// billions of them.
#[derive(Debug, Default)]
struct Size {
    nodes: usize,
    /// Those in what each anchor names.
    anchors: HashMap<usize, usize>,
    /// For each open mapping and sequence: its anchor, and how many nodes there were before it.
    open: Vec<(usize, usize)>,
}

impl Size {
    fn take(&mut self, event: &Event<'_>) {
        match event {
            Event::MappingStart(anchor, ..) | Event::SequenceStart(anchor, ..) => {
                self.open.push((*anchor, self.nodes));
                self.nodes += 1;
            }
            Event::MappingEnd | Event::SequenceEnd => {
                if let Some((anchor, before)) = self.open.pop() {
                    self.anchors
                        .insert(anchor, self.nodes.saturating_sub(before));
                }
            }
            Event::Scalar(..) => self.nodes += 1,
            Event::Alias(anchor) => {
                let named = self.anchors.get(anchor).copied().unwrap_or(1);
                self.nodes = self.nodes.saturating_add(named);
            }
            _ => {}
        }
    }
}

/// An open mapping or sequence.
enum Open {
    Mapping { path: String, key: Option<String> },
    Sequence { path: String, next: usize },
}

impl Places {
    /// Finds what can be found; a text that is not YAML has places up to its first mistake.
    pub(super) fn find(text: &str) -> Self {
        let mut places = Self::default();
        if let Some(place) = too_deep(text) {
            places.too_deep = Some(place);
            return places;
        }
        let mut open = Vec::new();
        for (event, span) in Parser::new_from_str(text).map_while(Result::ok) {
            places.size.take(&event);
            if places.size.open.len() > MAX_DEPTH {
                places.too_deep = Some(place_of(span));
                break;
            }
            if places.size.nodes > MAX_NODES {
                places.too_large = Some(place_of(span));
                break;
            }
            places.take(event, span, &mut open);
        }
        places
    }

    /// The place of a key, else of its value, else of what they are in.
    pub(super) fn of_key(&self, path: &str) -> Option<Place> {
        self.keys.get(path).copied().or_else(|| self.of_value(path))
    }

    /// The place of a value, else of what it is in.
    pub(super) fn of_value(&self, path: &str) -> Option<Place> {
        let mut path = path;
        loop {
            if let Some(place) = self.values.get(path) {
                return Some(*place);
            }
            if path.is_empty() {
                return None;
            }
            path = path.rfind(['.', '[']).map_or("", |end| &path[..end]);
        }
    }

    fn take(&mut self, event: Event<'_>, span: Span, open: &mut Vec<Open>) {
        let place = place_of(span);
        match event {
            Event::MappingStart(..) => {
                let path = self.value(place, open);
                open.push(Open::Mapping { path, key: None });
            }
            Event::SequenceStart(..) => {
                let path = self.value(place, open);
                open.push(Open::Sequence { path, next: 0 });
            }
            Event::MappingEnd | Event::SequenceEnd => {
                open.pop();
            }
            Event::DocumentStart(_) if !self.values.is_empty() => {
                self.second_document.get_or_insert(place);
            }
            Event::Scalar(text, ..) => self.scalar(&text, place, open),
            Event::Alias(_) => {
                self.value(place, open);
            }
            _ => {}
        }
    }

    /// A scalar is a key if a mapping waits for one.
    fn scalar(&mut self, text: &str, place: Place, open: &mut [Open]) {
        if let Some(Open::Mapping {
            path,
            key: key @ None,
        }) = open.last_mut()
        {
            let path = join(path, text);
            *key = Some(text.to_owned());
            let is_inside = |(outer, ..): &(String, Place, Place)| {
                let rest = path.strip_prefix(outer.as_str());
                rest.is_some_and(|rest| rest.starts_with(['.', '[']))
            };
            if let Some(first) = self.keys.insert(path.clone(), place)
                && self.repeated.len() < MOST_PROBLEMS
                && !self.repeated.iter().any(is_inside)
            {
                self.repeated.push((path, first, place));
            }
        } else {
            self.value(place, open);
        }
    }

    /// Notes the place of a value and returns its path.
    fn value(&mut self, place: Place, open: &mut [Open]) -> String {
        let path = match open.last_mut() {
            None => String::new(),
            Some(Open::Mapping { path, key }) => join(path, &key.take().unwrap_or_default()),
            Some(Open::Sequence { path, next }) => {
                *next += 1;
                format!("{path}[{}]", *next - 1)
            }
        };
        self.values.insert(path.clone(), place);
        path
    }
}

/// Before any parser looks at it: by what opens a level, in one line for lists.
fn too_deep(text: &str) -> Option<Place> {
    let mut brackets = 0_usize;
    for (number, line) in text.lines().enumerate() {
        let mut deepest = brackets;
        for byte in line.bytes() {
            match byte {
                b'[' | b'{' => brackets += 1,
                b']' | b'}' => brackets = brackets.saturating_sub(1),
                _ => {}
            }
            deepest = deepest.max(brackets);
        }
        let indicators = line.split_whitespace();
        let indicators = indicators.filter(|word| *word == "-" || *word == "?");
        if deepest.max(indicators.count()) > MAX_DEPTH {
            let line = number + 1;
            return Some(Place { line, column: 1 });
        }
    }
    None
}

fn place_of(span: Span) -> Place {
    Place {
        line: span.start.line(),
        column: span.start.col() + 1,
    }
}

/// The path of `key` in `path`.
pub(super) fn join(path: &str, key: &str) -> String {
    if path.is_empty() {
        key.to_owned()
    } else {
        format!("{path}.{key}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_keys_and_values() {
        let places = Places::find("a:\n  - {b: 1}\n  - c: &x\n      d: 2\nz: *x\n");
        let at = |line, column| Some(Place { line, column });
        assert_eq!(places.of_key("a"), at(1, 1));
        assert_eq!(places.of_value("a[0].b"), at(2, 9));
        assert_eq!(places.of_key("a[1].c.d"), at(4, 7));
        assert_eq!(places.of_value("a[1].c.d"), at(4, 10));
        assert_eq!(places.of_value("a[1].c.missing.deeper"), at(3, 8));
        assert_eq!(places.of_value("z.d"), at(5, 4));
    }
}
