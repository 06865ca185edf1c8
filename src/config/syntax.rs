//! From text to values, and what is wrong with a text that is no YAML: where, and what to write.
//!
//! `serde_yaml` says what it was doing when it gave up. What people did is mostly one of a few things,
//! which are looked for first.

use std::net::Ipv6Addr;

use serde_yaml::Value;

use super::names::{Name, name};
use super::places::{Place, Places};
use super::problem::Problem;

/// Told at once; whoever indents with tabs does so everywhere.
const MAX_TABS: usize = 10;

/// The values of the text.
pub(super) fn read(text: &str, places: &Places) -> Result<Value, Vec<Problem>> {
    if !places.repeated.is_empty() {
        return Err(places.repeated.iter().map(twice).collect());
    }
    let too_deep = "is nested deeper than any setting is";
    let too_large = "holds more keys and values than any configuration does";
    for (place, text) in [(places.too_deep, too_deep), (places.too_large, too_large)] {
        if place.is_some() {
            return Err(vec![Problem::at(place, text.to_owned())]);
        }
    }
    let mut value: Value =
        serde_yaml::from_str(text).map_err(|error| explain(text, places, &error))?;
    value.apply_merge().map_err(|_| {
        let text = "<<: takes a mapping, or a list of mappings, as in <<: *NAME";
        vec![Problem::of_file(text.to_owned())]
    })?;
    Ok(value)
}

fn twice((path, first, again): &(String, Place, Place)) -> Problem {
    let key = path.rsplit(['.', ']']).next().unwrap_or_default();
    let shown = match name(key) {
        Name::Odd => String::new(),
        _ => format!("{key}: "),
    };
    let text = format!(
        "{shown}stands here twice (first in line {}); keep one of them",
        first.line
    );
    Problem::at(Some(*again), text)
}

fn explain(text: &str, places: &Places, error: &serde_yaml::Error) -> Vec<Problem> {
    if let Some(place) = places.second_document {
        let text = "a second document starts here; a configuration is one: take the line --- out";
        return vec![Problem::at(Some(place), text.to_owned())];
    }
    let place = error.location().map(|at| Place {
        line: at.line(),
        column: at.column(),
    });
    let until = place.map_or(usize::MAX, |place| place.line);
    let lines = || text.lines().enumerate().take(until);
    let tabs = text.lines().enumerate().filter_map(tab);
    let tabs: Vec<Problem> = tabs.take(MAX_TABS).collect();
    if !tabs.is_empty() {
        return tabs;
    }
    // Where the parser stumbles may be the line after the mistake.
    let near = lines().skip(until.saturating_sub(2));
    let found = near.filter_map(|line| {
        reference(line)
            .or_else(|| brackets(line))
            .or_else(|| no_space(line))
    });
    let found: Vec<Problem> = found.collect();
    if found.is_empty() {
        vec![in_its_own_words(error, place.map(|at| within(text, at)))]
    } else {
        found
    }
}

/// Behind its end a text shows nothing: what is missing there is missing after its last words.
fn within(text: &str, place: Place) -> Place {
    let is_shown = |line: &&str| !line.trim().is_empty();
    if text
        .lines()
        .skip(place.line.saturating_sub(1))
        .any(|line| is_shown(&line))
    {
        return place;
    }
    let last = text.lines().enumerate().filter(|(_, line)| is_shown(line));
    last.last().map_or(place, |(number, line)| Place {
        line: number + 1,
        column: line.trim_end().chars().count(),
    })
}

fn tab((number, line): (usize, &str)) -> Option<Problem> {
    let indentation = line.split(|char: char| !char.is_whitespace()).next()?;
    let column = indentation.find('\t')? + 1;
    let text = "a tab can't indent YAML; write spaces";
    Some(problem(number, column, text.to_owned()))
}

/// In `{…}` and `[…]` the braces of a reference are taken for a mapping.
fn reference((number, line): (usize, &str)) -> Option<Problem> {
    let at = line.find("${")?;
    let (before, reference) = line.split_at(at);
    if before.ends_with(['\'', '"', '$']) || !before.contains(['{', '[']) {
        return None;
    }
    reference.find('}')?;
    let text = "put it in quotes, since it stands in {…} or […]: \"${NAME}\"";
    Some(problem(number, before.chars().count() + 1, text.to_owned()))
}

/// `[::1]:8765`, whose brackets are taken for a list.
fn brackets((number, line): (usize, &str)) -> Option<Problem> {
    let at = line.find(": [").map(|at| at + 2)?;
    let (address, after) = line[at + 1..].split_once(']')?;
    if !after.starts_with(':') || address.parse::<Ipv6Addr>().is_err() {
        return None;
    }
    let text = "put it in quotes, since [ begins a list: \"[ADDRESS]:PORT\"";
    Some(problem(
        number,
        line[..at].chars().count() + 1,
        text.to_owned(),
    ))
}

/// `key:value`, which is one word.
fn no_space((number, line): (usize, &str)) -> Option<Problem> {
    let start = line.find(|char: char| char.is_ascii_alphabetic())?;
    let (key, value) = line[start..].split_once(':')?;
    if value.is_empty() || value.starts_with(char::is_whitespace) {
        return None;
    }
    if !matches!(name(key), Name::Harmless | Name::Secret)
        || !line[..start].chars().all(|char| " -{".contains(char))
    {
        return None;
    }
    let column = line[..start].chars().count() + key.len() + 1;
    Some(problem(
        number,
        column,
        format!("write a space after '{key}:'"),
    ))
}

fn problem(number: usize, column: usize, text: String) -> Problem {
    let line = number + 1;
    Problem::at(Some(Place { line, column }), text)
}

/// What the parser says, and what mostly is behind it.
fn in_its_own_words(error: &serde_yaml::Error, place: Option<Place>) -> Problem {
    let said = error.to_string();
    // The place is told by ourselves.
    let what = said.split(" at line ").next().unwrap_or(&said);
    // The one thing that is told with a part of the text.
    let what = if what.contains("duplicate entry") {
        "a key stands there twice"
    } else if what.contains("128, expected any YAML value") {
        "a number is larger than any that is read"
    } else {
        what
    };
    let (hint, place) = if what.contains("end of stream") && said.contains("quoted scalar") {
        (
            "; a quote is opened here and never closed",
            context(&said).or(place),
        )
    } else if let Some(opened) = context(&said)
        && said.contains("parsing a flow")
        && place.is_some_and(|place| opened.line < place.line)
    {
        ("; a bracket is opened here and not closed", Some(opened))
    } else if what.contains("cannot start any token") {
        (
            "; put a value that starts with this character in quotes",
            place,
        )
    } else if what.contains("mapping values are not allowed") {
        (
            "; is the line above complete, and is this one indented as its neighbours? A value with ': ' in it must stand in quotes",
            place,
        )
    } else if what.contains("did not find expected key") || what.contains("expected '-' indicator")
    {
        ("; is this line indented as its neighbours?", place)
    } else if what.contains("could not find expected ':'") {
        ("; a key is followed by ': ' and its value", place)
    } else {
        ("", place)
    };
    Problem::at(place, format!("is not YAML that can be used: {what}{hint}"))
}

/// Where what was being read began: the second place that the parser tells.
fn context(said: &str) -> Option<Place> {
    let place = said.rsplit(" at line ").next()?;
    let (line, rest) = place.split_once(" column ")?;
    let digits = rest.split(|char: char| !char.is_ascii_digit()).next()?;
    Some(Place {
        line: line.parse().ok()?,
        column: digits.parse().ok()?,
    })
}
