//! What the pool should know of a request: its model and how much it asks for.
//!
//! A body is read along as it comes, piece by piece, so that no piece takes long and nothing is held.
//! What is inside strings is skipped, which is where nearly all bytes are: this costs much less than
//! passing them on. Only as much of JSON is understood as it takes to find the members of the outermost
//! object and to count the items of a list. A body that is not what it should be is no reason to refuse
//! it here, since a host says better what is wrong.

use crate::pool::{Model, Work};

use super::route::Route;

/// The longest key or name that is looked at, as it is written: each character may be escaped.
const MAX_NAME: usize = 6 * Model::MAX_LEN;
/// Windows' editors put it before a text.
const BYTE_ORDER_MARK: [u8; 3] = [0xEF, 0xBB, 0xBF];

/// See the module.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Peek {
    pub(super) model: Option<Model>,
    pub(super) work: Work,
}

/// Reads a body along.
#[derive(Debug)]
pub(super) struct Reader {
    route: Route,
    length: u64,
    within: Within,
    /// Lists and objects that are open.
    depth: usize,
    /// The outermost object has ended, or there is none.
    is_over: bool,
    /// It has ended and nothing follows.
    is_whole: bool,
    /// What the outermost object tells at this place.
    member: Member,
    /// The string being read, as it is written, if it matters.
    text: Option<Vec<u8>>,
    /// A list of items is open, and the next thing in it is an item.
    item_is_next: bool,
    items: u32,
    model: Named,
}

/// What a request says of its model.
#[derive(Debug, PartialEq, Eq)]
enum Named {
    /// That it is the host's own.
    Default,
    /// So.
    As(String),
    /// What can be nobody's name.
    Unreadable,
}

/// Where between two bytes the next one is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Within {
    Structure,
    String,
    /// After a backslash in a string.
    Escape,
}

/// A part of a member of the outermost object.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Member {
    Key,
    Items,
    Model,
    Other,
}

impl Reader {
    /// For a request for `route`.
    pub(super) fn new(route: Route) -> Self {
        Self {
            route,
            length: 0,
            within: Within::Structure,
            depth: 0,
            is_over: false,
            is_whole: false,
            member: Member::Other,
            text: None,
            item_is_next: false,
            items: 0,
            model: Named::Default,
        }
    }

    /// Takes in the next piece.
    pub(super) fn read(&mut self, piece: &[u8]) {
        let mut rest = piece;
        self.length += piece.len() as u64;
        while let Some((first, after)) = rest.split_first() {
            if self.is_over && !self.is_whole {
                return;
            }
            rest = match self.within {
                Within::Structure => {
                    self.structure(*first);
                    after
                }
                Within::String => self.string(rest),
                Within::Escape => {
                    self.keep(&[*first]);
                    self.within = Within::String;
                    after
                }
            };
        }
    }

    /// What is known at the end.
    pub(super) fn finish(self) -> Peek {
        let (items, model) = if self.is_whole {
            (self.items, self.model)
        } else {
            (0, Named::Unreadable)
        };
        // As hosts name what they have loaded.
        let on_route = |name: &str| Model::new(&[self.route.as_str(), ":", name].concat());
        let model = match model {
            Named::Default => on_route(""),
            Named::As(name) => on_route(&name),
            Named::Unreadable => None,
        };
        Peek {
            model,
            work: Work {
                items,
                bytes: self.length,
            },
        }
    }

    fn structure(&mut self, byte: u8) {
        match byte {
            b' ' | b'\t' | b'\n' | b'\r' | b':' => {}
            _ if self.depth == 0 && BYTE_ORDER_MARK.contains(&byte) => {}
            b',' => self.next(),
            b'}' | b']' => self.close(),
            _ => {
                self.value();
                match byte {
                    b'{' | b'[' => self.open(byte),
                    b'"' => self.open_string(),
                    _ => self.is_over |= self.depth == 0,
                }
            }
        }
    }

    /// Skips to the end of a string, or of `piece`; returns what follows.
    fn string<'a>(&mut self, piece: &'a [u8]) -> &'a [u8] {
        let end = memchr::memchr2(b'"', b'\\', piece).and_then(|at| piece.split_at_checked(at));
        let Some((skipped, [special, after @ ..])) = end else {
            self.keep(piece);
            return &[];
        };
        self.keep(skipped);
        if *special == b'"' {
            self.within = Within::Structure;
            self.close_string();
        } else {
            self.keep(b"\\");
            self.within = Within::Escape;
        }
        after
    }

    /// A value begins, or a key.
    fn value(&mut self) {
        match (self.depth, self.member) {
            // Something after the end.
            (0, _) if self.is_over => self.is_whole = false,
            // The last of several with the same key counts.
            (1, Member::Items) => self.items = 0,
            (1, Member::Model) => self.model = Named::Default,
            (2, _) if self.item_is_next => {
                self.items = self.items.saturating_add(1);
                self.item_is_next = false;
            }
            _ => {}
        }
    }

    fn next(&mut self) {
        match (self.depth, self.member) {
            (1, _) => self.member = Member::Key,
            (2, Member::Items) => self.item_is_next = true,
            _ => {}
        }
    }

    fn open(&mut self, bracket: u8) {
        let is_list = bracket == b'[';
        match self.depth {
            0 if is_list => self.is_over = true,
            0 => self.member = Member::Key,
            // What stands in an object instead of a list is no item.
            1 if !is_list => self.member = Member::Other,
            1 => self.item_is_next = self.member == Member::Items,
            _ => {}
        }
        self.depth = self.depth.saturating_add(1);
    }

    fn close(&mut self) {
        self.item_is_next = false;
        self.depth = self.depth.saturating_sub(1);
        if self.depth == 0 {
            self.is_whole = !self.is_over;
            self.is_over = true;
        }
    }

    fn open_string(&mut self) {
        self.within = Within::String;
        let matters = self.depth == 1 && matches!(self.member, Member::Key | Member::Model);
        self.text = matters.then(Vec::new);
        self.is_over |= self.depth == 0;
    }

    fn close_string(&mut self) {
        let Some(text) = self.text.take() else {
            return;
        };
        let text = unescaped(text);
        match self.member {
            Member::Key => self.member = self.member_called(text.as_deref()),
            _ => self.model = text.map_or(Named::Unreadable, Named::As),
        }
    }

    fn member_called(&self, key: Option<&str>) -> Member {
        match (self.route, key) {
            (Route::Embed, Some("texts")) | (Route::Bertscore, Some("candidates")) => Member::Items,
            (Route::Embed, Some("model")) | (Route::Bertscore, Some("model_type")) => Member::Model,
            _ => Member::Other,
        }
    }

    /// Keeps a part of a string that matters. One that is too long is nobody's name.
    fn keep(&mut self, part: &[u8]) {
        if let Some(text) = &mut self.text {
            let room = (MAX_NAME + 1).saturating_sub(text.len());
            text.extend(part.iter().take(room));
        }
    }
}

/// `None`: it is too long, or no string of JSON.
fn unescaped(mut text: Vec<u8>) -> Option<String> {
    if text.len() > MAX_NAME {
        return None;
    }
    if !text.contains(&b'\\') {
        return String::from_utf8(text).ok();
    }
    text.insert(0, b'"');
    text.push(b'"');
    serde_json::from_slice(&text).ok()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::Value;

    use super::*;

    fn peek(route: Route, pieces: &[&[u8]]) -> Peek {
        let mut reader = Reader::new(route);
        for piece in pieces {
            reader.read(piece);
        }
        reader.finish()
    }

    fn told(route: Route, body: &str) -> (Option<String>, u32) {
        let whole = peek(route, &[body.as_bytes()]);
        let bytes: Vec<&[u8]> = body.as_bytes().chunks(1).collect();
        assert_eq!(whole, peek(route, &bytes), "in single bytes: {body}");
        assert_eq!(whole.work.bytes, body.len() as u64);
        let model = whole.model.map(|model| model.as_str().to_owned());
        (model, whole.work.items)
    }

    #[test]
    fn finds_the_model_and_counts_the_items() {
        let table = [
            (r#"{"texts":["a","b"],"model":"m"}"#, Some("m"), 2),
            ("\u{feff}{\"model\":\"m\",\"texts\":[\"a\"]}", Some("m"), 1),
            (
                " {\n\t\"texts\" : [ ] , \"model\" : \"m\" } \r\n",
                Some("m"),
                0,
            ),
            (
                r#"{"model":"caf\u00e9","texts":[1,[2,3],{"texts":[4,5]},null]}"#,
                Some("café"),
                4,
            ),
            (
                r#"{"te\u0078ts":["\"],[\"","\\"],"mod\u0065l":"x\/y"}"#,
                Some("x/y"),
                2,
            ),
            (
                r#"{"other":{"texts":[1,2],"model":"x"},"texts":["a"]}"#,
                Some(""),
                1,
            ),
            (
                r#"{"other":[["texts",{"texts":[1]}],"model"],"texts":["a"]}"#,
                Some(""),
                1,
            ),
            (r#"{"texts":{"a":[1,2],"b":3},"model":"m"}"#, Some("m"), 0),
            (
                r#"{"model":"a","texts":[1,2],"model":"b","texts":[3]}"#,
                Some("b"),
                1,
            ),
            (
                r#"{"model":"a","texts":[1],"model":null,"texts":null}"#,
                Some(""),
                0,
            ),
            (r#"{"texts":["a"],"model":""}"#, Some(""), 1),
            (r#"{"texts":["a"],"model":["x"]}"#, Some(""), 1),
            (r#"{"texts":["model","texts"],"key":"model"}"#, Some(""), 2),
            (r#"{"candidates":["a"],"model_type":"x"}"#, Some(""), 0),
            (r#"{"texts":"a"}"#, Some(""), 0),
            (r#"{"texts":["a"],"model":"m"} x"#, None, 0),
            (r#"{"texts":["a"],"model":"m"}}"#, None, 0),
            (r#"{"texts":["a"],"model":"m""#, None, 0),
            (r#"{"texts":["a"],"model":"m"#, None, 0),
            (r#"["texts",["a"]]"#, None, 0),
            (r#""texts""#, None, 0),
            ("17", None, 0),
            ("}]", None, 0),
            ("{}", Some(""), 0),
            ("", None, 0),
        ];
        for (body, model, items) in table {
            let model = model.map(|name| format!("embed:{name}"));
            assert_eq!(told(Route::Embed, body), (model, items), "{body}");
        }
    }

    #[test]
    fn pairs_are_counted_by_their_candidates() {
        let body =
            r#"{"references":["x","y"],"model_type":"a/b","candidates":["1","2"],"texts":[3]}"#;
        let model = Some("bertscore:a/b".to_owned());
        assert_eq!(told(Route::Bertscore, body), (model, 2));
    }

    #[test]
    fn names_that_are_too_long_are_nobodys() {
        let body = format!(
            r#"{{"model":"{0}","{0}":1,"texts":["{0}"]}}"#,
            "x".repeat(5000)
        );
        assert_eq!(told(Route::Embed, &body), (None, 1));
        let escaped = r"\u0061".repeat(100);
        let body = format!(r#"{{"model":"{escaped}"}}"#);
        let model = format!("embed:{}", "a".repeat(100));
        assert_eq!(told(Route::Embed, &body), (Some(model), 0));
    }

    fn name() -> impl Strategy<Value = String> {
        let known = ["texts", "model", "candidates", "m"]
            .map(str::to_owned)
            .to_vec();
        prop_oneof![3 => prop::sample::select(known), 1 => any::<String>()]
    }

    fn value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i32>().prop_map(Value::from),
            name().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            let members = prop::collection::vec((name(), inner.clone()), 0..4);
            prop_oneof![
                prop::collection::vec(inner, 0..5).prop_map(Value::from),
                members.prop_map(|members| members.into_iter().collect()),
            ]
        })
    }

    /// A string as JSON, each character escaped or not.
    fn quoted(text: &str, escaped: bool) -> String {
        if !escaped {
            return Value::from(text).to_string();
        }
        let units = text.encode_utf16().map(|unit| format!("\\u{unit:04x}"));
        format!("\"{}\"", units.collect::<String>())
    }

    /// An object of members that may repeat.
    fn object() -> impl Strategy<Value = String> {
        let member = (name(), any::<bool>(), value(), any::<bool>()).prop_map(
            |(key, escaped, value, pretty)| {
                let value = if pretty {
                    format!("{value:#}")
                } else {
                    value.to_string()
                };
                format!("{} :{value}\n", quoted(&key, escaped))
            },
        );
        prop::collection::vec(member, 0..6).prop_map(|members| format!("{{{}}}", members.join(",")))
    }

    fn in_pieces(body: &[u8], cuts: &[prop::sample::Index]) -> Peek {
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(body.len() + 1)).collect();
        at.extend([0, body.len()]);
        at.sort_unstable();
        let pieces: Vec<&[u8]> = at.windows(2).map(|pair| &body[pair[0]..pair[1]]).collect();
        peek(Route::Embed, &pieces)
    }

    proptest! {
        #[test]
        fn agrees_with_a_parser_in_any_pieces(
            body in object(),
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..8),
        ) {
            let parsed: Value = serde_json::from_str(&body).unwrap();
            let model = parsed["model"].as_str().unwrap_or_default();
            let model = Model::new(&format!("embed:{model}"));
            let items = parsed["texts"].as_array().map_or(0, Vec::len);
            let peek = in_pieces(body.as_bytes(), &cuts);
            prop_assert_eq!(peek.model, model);
            prop_assert_eq!(peek.work.items as usize, items);
        }

        #[test]
        fn nonsense_does_no_harm(
            body in r#"[\[\]{}:,"\\ a1]{0,40}"#,
            cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..4),
        ) {
            let whole = peek(Route::Embed, &[body.as_bytes()]);
            prop_assert_eq!(in_pieces(body.as_bytes(), &cuts), whole);
        }
    }
}
