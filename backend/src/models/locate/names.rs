//! What names of models mean. Pure.
//!
//! A model is called `NAME` or `ORG/NAME`. Where the one is asked for and the other is there, they
//! may be the same model, but another organisation's model of that name would give other numbers,
//! silently. So a name without an organisation means the one model of that name, and a name with
//! one means a folder without only if the organisation goes without saying.

use crate::engine::Purpose;
use crate::models::layers;

/// The organisation that sentence-transformers puts before a name without one.
pub(super) const SENTENCE_TRANSFORMERS: &str = "sentence-transformers";
/// Longest name in bytes; the hub allows 96 for each of the two parts.
pub(super) const MAX_NAME: usize = 200;
/// Organisations to which the hub has moved models that had none, by the beginning of their names.
const MOVED: [(&str, &str); 4] = [
    ("bert-", "google-bert"),
    ("distil", "distilbert"),
    ("roberta-", "FacebookAI"),
    ("xlm-roberta-", "FacebookAI"),
];

/// `NAME` or `ORG/NAME`, with nothing in it that has a meaning in a path.
pub(crate) fn is_plain(name: &str) -> bool {
    let parts: Vec<&str> = name.split('/').collect();
    let odd = |c: char| c == '\\' || c.is_control();
    name.len() <= MAX_NAME
        && !name.contains(odd)
        && parts.len() <= 2
        && parts.iter().all(|part| !matches!(*part, "" | "." | ".."))
}

/// What the hub calls the model that `name` stands for; `None` if `name` is no name (but a path).
pub(crate) fn name_on_hub(name: &str, purpose: Purpose) -> Option<String> {
    if !is_plain(name) {
        return None;
    }
    Some(match purpose {
        Purpose::Embed if !name.contains('/') => format!("{SENTENCE_TRANSFORMERS}/{name}"),
        _ => name.to_owned(),
    })
}

/// `name` without its organisation.
pub(crate) fn short(name: &str) -> &str {
    name.split_once('/').map_or(name, |(_, short)| short)
}

/// Whether `name` has an organisation that goes without saying: `ORG/NAME` and `NAME` are one model.
pub(crate) fn is_implied(name: &str) -> bool {
    name.contains('/') && full_names(short(name)).any(|full| full == name)
}

/// The names with an organisation for which a model called `short` may stand.
pub(super) fn full_names(short: &str) -> impl Iterator<Item = String> {
    let moved = MOVED
        .iter()
        .filter(move |(start, _)| short.starts_with(start));
    let moved = moved.filter(move |_| layers::is_published(short));
    let organisations = moved.map(|(_, organisation)| *organisation);
    let organisations = organisations.chain([SENTENCE_TRANSFORMERS]);
    let full = organisations.map(move |organisation| format!("{organisation}/{short}"));
    let listed = layers::published_names().filter(move |name| {
        let parts = name.split_once('/');
        parts.is_some_and(|(_, listed)| listed == short)
    });
    full.chain(listed.map(str::to_owned))
}
