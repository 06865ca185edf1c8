//! Reading one mapping of the configuration, key by key.
//!
//! A [`Section`] remembers which keys it was asked for; those that are there and were not asked for
//! are unknown, and refused: ask for all of them, also after a problem. A value that is wrong is reported with its path, and reading goes on
//! with a stand-in, so that one run finds all problems.

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::fmt::Display;
use std::num::NonZeroU32;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytesize::ByteSize;
use rustls::pki_types::CertificateDer;
use serde_yaml::{Mapping, Value};

use super::expand::{self, BadReference};
use super::names::Name;
use super::places::join;
use super::report::Report;
use super::secret::Secret;
use super::text::{self, no_file};
use super::{MinCosine, Pinned, Surroundings, names};
use crate::embedding::Reference;
use gpu_bridge_certificates::{self as certificates, Authorities, BadPem, Identity};

/// Settings that there were once, and why there are none now and what to write instead.
const REMOVED: [(&str, &str); 1] = [(
    "retries.hedge",
    "since what hangs is moved to a sibling in any case; delete it",
)];
/// Longer ones are mistakes, and would overflow sums with the time of day.
const DURATIONS: RangeInclusive<Duration> = Duration::from_millis(1)..=Duration::from_hours(24);

const NOT_A_SIZE: &str = "is not a size; write e.g. 64KiB, 32MiB, 1GiB or a number of bytes";

/// One mapping; see the module.
pub(super) struct Section<'a> {
    path: String,
    /// `None` if it is absent.
    map: Option<&'a Mapping>,
    asked: RefCell<Vec<&'static str>>,
    surroundings: &'a Surroundings<'a>,
    report: &'a Report,
}

impl<'a> Section<'a> {
    /// Reads the mapping `value`, then refuses its unknown keys.
    pub(super) fn read<T>(
        value: &'a Value,
        path: String,
        surroundings: &'a Surroundings<'a>,
        report: &'a Report,
        read: impl FnOnce(&Self) -> T,
    ) -> T {
        let map = match value {
            Value::Mapping(map) => Some(map),
            Value::Null => None,
            Value::Sequence(_) => {
                report.add(
                    &path,
                    false,
                    "must be a mapping (key: value), not a list; take the '- ' out",
                );
                None
            }
            Value::String(text) if text.contains(':') => {
                let told = "must be a mapping (key: value), with a space after each colon";
                report.add(&path, false, told);
                None
            }
            _ => {
                report.add(&path, false, "must be a mapping (key: value)");
                None
            }
        };
        let section = Self {
            path,
            map,
            asked: RefCell::default(),
            surroundings,
            report,
        };
        let result = read(&section);
        section.refuse_unknown();
        result
    }

    /// The section under `key`; one without keys if it is absent. One that is there but empty is a
    /// problem: commenting out all keys of `auth` must not open the proxy.
    pub(super) fn section<T>(&self, key: &'static str, read: impl FnOnce(&Section<'_>) -> T) -> T {
        let value = self.get(key);
        // The pool has no defaults; what it lacks is told there.
        if value == Some(&Value::Null) && key != "pool" && !self.is_beside_its_settings(key) {
            self.complain(key, "is empty; leave it out for the defaults");
        }
        let value = value.unwrap_or(&Value::Null);
        Section::read(
            value,
            self.path_of(key),
            self.surroundings,
            self.report,
            read,
        )
    }

    /// Do settings of the section `key` stand here, instead of in it? They are told, then.
    fn is_beside_its_settings(&self, key: &str) -> bool {
        let names = self.map.into_iter().flat_map(Mapping::keys);
        let mut names = names.filter_map(Value::as_str);
        self.path.is_empty() && names.any(|name| names::sections_of(name).contains(&key))
    }

    /// The mappings listed under `key`; `None` if there is no such list.
    pub(super) fn list<T>(
        &self,
        key: &'static str,
        read: impl Fn(&Section<'_>) -> T,
    ) -> Option<Vec<T>> {
        let value = self.get(key)?;
        let Value::Sequence(items) = value else {
            return self.problem(key, "must be a list (lines that start with '- ')");
        };
        let item = |(position, item): (usize, &Value)| {
            let path = format!("{}[{position}]", self.path_of(key));
            Section::read(item, path, self.surroundings, self.report, &read)
        };
        Some(items.iter().enumerate().map(item).collect())
    }

    /// A text, with its references to variables replaced.
    pub(super) fn text(&self, key: &'static str) -> Option<String> {
        self.text_unless(key, expand::refuse_bare)
    }

    fn text_unless(
        &self,
        key: &'static str,
        refuse: impl Fn(&str) -> Result<(), BadReference>,
    ) -> Option<String> {
        match self.get(key)? {
            Value::String(text) => {
                if expand::has_percents(text) {
                    let told =
                        "holds %NAME%, which stands for itself; a variable is written ${NAME}";
                    self.warn(key, told);
                }
                let expand = || expand::expand(text, self.surroundings.variable);
                match refuse(text).and_then(|()| expand()) {
                    Ok(text) => Some(text),
                    Err(error) if is_secret(key) => self.problem(key, error.of_secret()),
                    Err(error) => self.problem(key, error),
                }
            }
            Value::Null => self.problem(key, "has no value"),
            Value::Number(_) | Value::Bool(_) => {
                self.problem(key, "must be a text; put it in quotes")
            }
            _ => self.problem(key, "must be a text"),
        }
    }

    /// A text that must be there.
    pub(super) fn required_text(&self, key: &'static str) -> Option<String> {
        if self.get(key).is_none() {
            return self.problem(key, "is missing");
        }
        self.text(key)
    }

    /// A text that must be there and mean something. What is wrong with it is said by its type; the
    /// text itself is not repeated.
    pub(super) fn required<T: FromStr<Err: Display>>(&self, key: &'static str) -> Option<T> {
        match self.required_text(key)?.parse() {
            Ok(value) => Some(value),
            Err(error) => self.problem(key, error),
        }
    }

    /// Texts that each mean something; none if the key is absent.
    pub(super) fn texts<T: FromStr<Err: Display>>(&self, key: &'static str) -> Option<Vec<T>> {
        let items = match self.get(key) {
            None => return Some(Vec::new()),
            Some(Value::Sequence(items)) => items,
            Some(_) => return self.problem(key, "must be a list of texts"),
        };
        let item = |(position, item): (usize, &Value)| {
            let path = format!("{}[{position}]", self.path_of(key));
            self.parsed(item)
                .map_err(|text| self.report.add(&path, false, &text))
                .ok()
        };
        // All of them are read before the first wrong one counts.
        let items: Vec<Option<T>> = items.iter().enumerate().map(item).collect();
        items.into_iter().collect()
    }

    fn parsed<T: FromStr<Err: Display>>(&self, item: &Value) -> Result<T, String> {
        let text = item.as_str().ok_or("must be a text")?;
        let text = expand::expand(text, self.surroundings.variable).map_err(|e| e.to_string())?;
        text.parse().map_err(|error: T::Err| error.to_string())
    }

    /// Texts by texts, each of up to `longest` bytes; none if the key is absent.
    pub(super) fn pairs(&self, key: &'static str, longest: usize) -> BTreeMap<String, String> {
        let map = match self.get(key) {
            None => return BTreeMap::new(),
            Some(Value::Mapping(map)) => map,
            Some(_) => {
                self.complain(key, "must be a mapping (key: value)");
                return BTreeMap::new();
            }
        };
        let text = |value: &Value| {
            let text: String = self.parsed(value)?;
            let fits = (1..=longest).contains(&text.len());
            let why = || format!("must be a text of 1 to {longest} bytes");
            fits.then_some(text).ok_or_else(why)
        };
        let pairs = map.iter().filter_map(|(name, value)| {
            let pair = text(name).and_then(|name| Ok((name, text(value)?)));
            pair.map_err(|why| self.complain(key, format!("holds what {why}")))
                .ok()
        });
        pairs.collect()
    }

    /// What stands for a number, or for yes or no: as it is, or in a variable.
    fn scalar(&self, key: &'static str) -> Option<Cow<'a, Value>> {
        let value = self.get(key)?;
        let has_reference = value.as_str().is_some_and(|text| text.contains("${"));
        if !has_reference {
            return Some(Cow::Borrowed(value));
        }
        let text = self.text(key)?;
        let number = || text.parse().map(<Value as From<u64>>::from).ok();
        let flag = || text.parse().map(Value::Bool).ok();
        let fraction = || text.parse().map(<Value as From<f64>>::from).ok();
        let value = number().or_else(flag).or_else(fraction);
        Some(Cow::Owned(value.unwrap_or(Value::String(text))))
    }

    /// Yes or no.
    pub(super) fn flag(&self, key: &'static str, default: bool) -> bool {
        match self.scalar(key).as_deref() {
            None => default,
            Some(Value::Bool(value)) => *value,
            Some(_) => {
                self.complain(key, "must be true or false");
                default
            }
        }
    }

    /// The certificate and key under the keys of these names, if both are there and fit together.
    pub(super) fn identity(&self) -> Option<Identity> {
        let chain = self.content("certificate", certificates::certificates);
        let key = self.content("key", certificates::private_key);
        let ((certificate, chain), (key, private)) = chain.zip(key)?;
        self.doubt("certificate", &chain);
        if !certificates::is_in_order(&chain) {
            self.warn(
                "certificate",
                "holds certificates that do not sign one another in their order; not everybody will follow",
            );
        }
        match certificates::fit_together(&chain, &private) {
            Err(error @ BadPem::Version) => {
                self.problem("certificate", format!("{} {error}", certificate.display()))
            }
            Err(error) => self.problem("key", format!("{} {error}", key.display())),
            Ok(()) => Some(Identity {
                certificate,
                key,
                chain,
                private: Arc::new(private),
            }),
        }
    }

    /// Those in the file under `key`.
    pub(super) fn authorities(&self, key: &'static str) -> Option<Authorities> {
        let (path, certificates) = self.content(key, certificates::authorities)?;
        self.doubt(key, &certificates);
        Some(Authorities { path, certificates })
    }

    /// What the file under `key` holds; a relative path starts from the folder of the configuration.
    fn content<T, E: Display>(
        &self,
        key: &'static str,
        parse: impl Fn(&[u8]) -> Result<T, E>,
    ) -> Option<(PathBuf, T)> {
        self.get(key)?;
        let text = self.text(key)?;
        if text.contains(['\n', '\r']) {
            return self.problem(key, "must be the path of a file, not what it holds");
        }
        let path = self.surroundings.folder.join(text);
        let text = match self.report.read_source(&path) {
            Ok(text) => text,
            Err(error) => return self.no_file(key, &error),
        };
        match parse(&text::without_mark(text)) {
            Ok(parsed) => Some((path, parsed)),
            Err(error) => self.problem(key, format!("{} {error}", path.display())),
        }
    }

    /// The reference in the file under `key`.
    pub(super) fn reference(&self, key: &'static str) -> Option<Pinned> {
        let (path, reference) = self.content(key, Reference::read)?;
        Some(Pinned {
            path,
            reference: Arc::new(reference),
        })
    }

    fn doubt(&self, key: &'static str, chain: &[CertificateDer<'_>]) {
        for doubt in certificates::doubts(chain, SystemTime::now()) {
            self.warn(key, &doubt);
        }
    }

    /// A duration with a unit.
    pub(super) fn duration(&self, key: &'static str, default: Duration) -> Duration {
        match self.get(key) {
            None => return default,
            Some(Value::Number(number)) => {
                self.complain(key, with_units(number));
                return default;
            }
            Some(_) => {}
        }
        let Some(given) = self.text(key) else {
            return default;
        };
        // A longer text is no sensible duration, and might overflow humantime's sums.
        let duration = Some(&given).filter(|text| text.len() <= 20);
        match duration.and_then(|text| humantime::parse_duration(text).ok()) {
            Some(duration) if DURATIONS.contains(&duration) => return duration,
            Some(_) => self.complain(key, "must be from 1ms to 24h"),
            None => match given.parse() {
                Ok(number) => self.complain(key, with_units(&number)),
                Err(_) => self.complain(key, "is not a duration; write e.g. 500ms, 5s, 1m"),
            },
        }
        default
    }

    /// A number of bytes, of at least one.
    pub(super) fn bytes(&self, key: &'static str, default: usize) -> usize {
        let bytes = match self.get(key) {
            None => return default,
            Some(Value::Number(number)) => number.as_u64(),
            Some(_) => match self.text(key) {
                None => return default,
                Some(text) => text.parse::<ByteSize>().ok().map(|size| size.as_u64()),
            },
        };
        match bytes.and_then(|bytes| usize::try_from(bytes).ok()) {
            Some(bytes) if bytes > 0 => return bytes,
            Some(_) => self.complain(key, "must be at least 1 byte"),
            None => self.complain(key, NOT_A_SIZE),
        }
        default
    }

    /// A whole number.
    pub(super) fn count(
        &self,
        key: &'static str,
        default: u32,
        allowed: RangeInclusive<u32>,
    ) -> u32 {
        let Some(value) = self.scalar(key) else {
            return default;
        };
        let number = value.as_u64().and_then(|number| u32::try_from(number).ok());
        if let Some(number) = number.filter(|number| allowed.contains(number)) {
            return number;
        }
        let (least, most) = (allowed.start(), allowed.end());
        let quotes = match &*value {
            Value::String(text) if text.parse::<u32>().is_ok() => ", without quotes",
            _ => "",
        };
        let text = format!("must be a whole number from {least} to {most}{quotes}");
        self.complain(key, text);
        default
    }

    /// A cosine.
    pub(super) fn min_cosine(&self, key: &'static str) -> MinCosine {
        let Some(value) = self.scalar(key) else {
            return MinCosine::default();
        };
        value.as_f64().and_then(MinCosine::new).unwrap_or_else(|| {
            self.complain(key, "must be a number from 0 to 1, e.g. 0.999");
            MinCosine::default()
        })
    }

    /// A whole number of at least 1.
    pub(super) fn positive(&self, key: &'static str, default: NonZeroU32) -> NonZeroU32 {
        NonZeroU32::new(self.count(key, default.get(), 1..=u32::MAX)).unwrap_or(default)
    }

    /// The same, if it is there.
    pub(super) fn optional_positive(&self, key: &'static str) -> Option<NonZeroU32> {
        self.has(key).then(|| self.positive(key, NonZeroU32::MIN))
    }

    /// A key, written as such or in a file. Never repeated in a problem.
    pub(super) fn secret(&self, key: &'static str, file_key: &'static str) -> Option<Secret> {
        let (text, source) = match (self.get(key), self.get(file_key)) {
            (None, None) => return None,
            (Some(_), Some(_)) => {
                return self.problem(
                    file_key,
                    format!("can't stand beside {key}; keep one of them"),
                );
            }
            (Some(_), None) => (self.text_unless(key, expand::refuse_bare_secret)?, key),
            (None, Some(_)) => (self.file(file_key)?, file_key),
        };
        if text.is_empty() {
            return self.problem(source, "is empty");
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return self.problem(
                source,
                "may hold visible ASCII characters only, without spaces",
            );
        }
        Some(Secret::from(text))
    }

    fn file(&self, key: &'static str) -> Option<String> {
        let path = self.surroundings.folder.join(Path::new(&self.text(key)?));
        let read = self.report.read_source(&path);
        match read.and_then(|bytes| text::decode(bytes).map_err(std::io::Error::other)) {
            Ok(text) => Some(text.trim_end_matches(['\r', '\n']).to_owned()),
            Err(error) => self.no_file(key, &error),
        }
    }

    /// The value of `key` names none that can be read.
    fn no_file<T>(&self, key: &'static str, error: &std::io::Error) -> Option<T> {
        let what = no_file(error);
        self.problem(
            key,
            format!("{what}; write the path of one, from the folder of the configuration"),
        )
    }

    /// Is the value of `key` a number?
    pub(super) fn is_number(&self, key: &'static str) -> bool {
        matches!(self.get(key), Some(Value::Number(_)))
    }

    /// Is `key` there?
    pub(super) fn has(&self, key: &'static str) -> bool {
        self.get(key).is_some()
    }

    /// Says that the value of `key`, though it can be used, is perhaps not what is meant.
    pub(super) fn warn(&self, key: &'static str, text: &str) {
        self.report.warn(&self.path_of(key), text);
    }

    /// The same of the value at `path`.
    pub(super) fn warn_at(&self, path: &str, text: &str) {
        self.report.warn(path, text);
    }

    /// Reports what is wrong with the value of `key`.
    pub(super) fn complain(&self, key: &'static str, text: impl Display) {
        self.report
            .add(&self.path_of(key), false, &text.to_string());
    }

    /// The same, in place of the value that it is not: always `None`.
    pub(super) fn problem<T>(&self, key: &'static str, text: impl Display) -> Option<T> {
        self.complain(key, text);
        None
    }

    /// Reports what is wrong with an item of the list under `key`.
    pub(super) fn problem_in(&self, key: &'static str, position: usize, field: &str, text: &str) {
        let path = format!("{}[{position}].{field}", self.path_of(key));
        self.report.add(&path, false, text);
    }

    fn path_of(&self, key: &str) -> String {
        join(&self.path, key)
    }

    fn get(&self, key: &'static str) -> Option<&'a Value> {
        let mut asked = self.asked.borrow_mut();
        if !asked.contains(&key) {
            asked.push(key);
        }
        self.map?.get(key)
    }

    fn refuse_unknown(&self) {
        let asked = self.asked.borrow();
        for key in self.map.into_iter().flat_map(Mapping::keys) {
            let Some(key) = key.as_str() else {
                self.report.add(&self.path, false, "keys must be texts");
                continue;
            };
            if !asked.contains(&key) {
                self.refuse(key, &asked);
            }
        }
    }

    fn refuse(&self, key: &str, known: &[&str]) {
        let path = self.path_of(key);
        let removed = REMOVED.iter().find(|(removed, _)| *removed == path);
        let meant = names::nearest(key, known.iter().copied());
        let sections = if self.path.is_empty() {
            names::sections_of(key)
        } else {
            Vec::new()
        };
        let text = match (removed, meant) {
            (Some((_, why)), _) => format!("was removed, {why}"),
            _ if !sections.is_empty() => {
                format!("belongs below {}: indent it", sections.join(" or "))
            }
            (None, Some(meant)) => format!("unknown key; did you mean {meant}?"),
            (None, None) => format!("unknown key; known here are {}", known.join(", ")),
        };
        if removed.is_some() || meant.is_some() || names::looks_like_a_setting(key) {
            self.report.add(&path, true, &text);
        } else {
            // Perhaps a secret in the wrong place, as in `key:SECRET` without a space.
            self.report.add_as(&self.path, &path, true, &text);
        }
    }
}

/// May a secret stand there, in the place of the name of its file or variable, too?
fn is_secret(key: &str) -> bool {
    names::name(key) == Name::Secret
}

/// A number that stands where a duration must: which two it may be.
fn with_units(number: &serde_yaml::Number) -> String {
    let seconds = match (number.as_u64(), number.as_f64()) {
        (Some(number), _) if number >= 1000 && number % 1000 == 0 => {
            return format!("needs a unit; write {}s or {number}ms", number / 1000);
        }
        (Some(number), _) => return format!("needs a unit; write {number}s or {number}ms"),
        (None, Some(seconds)) => Duration::try_from_secs_f64(seconds).ok(),
        (None, None) => None,
    };
    match seconds.filter(|time| DURATIONS.contains(time)) {
        Some(time) => format!(
            "needs a unit, and a whole number; write {}ms",
            time.as_millis()
        ),
        None => "needs a unit; write e.g. 500ms, 5s, 1m".to_owned(),
    }
}
