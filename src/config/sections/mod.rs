//! The sections of the configuration: their keys, their defaults, and what must fit together.

mod access;
mod audit;
mod bounds;
mod discover;
mod pool;

use std::collections::HashMap;
use std::hash::Hash;

pub use access::{Admin, Auth, ClientKey, Cors, Headers, Listen, ServerTls};
pub use audit::{Audit, MinCosine, Pinned};
pub use bounds::{Batching, Health, Limits, Queue, Retries, Timeouts};
pub use discover::{Discover, NOT_BUILT, Service};
pub use pool::{Api, ClientTls, Host, OpenAi, Policy, Pool};
use serde_yaml::Value;

use super::names;
use super::reader::Section;
use super::report::Report;
use super::{Config, Sources, Surroundings};

/// Reads everything. `None`, here and below, if something is wrong that was reported, or absent.
pub(super) fn read(
    value: &Value,
    surroundings: &Surroundings<'_>,
    report: &Report,
) -> Option<Config> {
    Section::read(value, String::new(), surroundings, report, |root| {
        let listen = access::listen(root);
        let admin = root.section("admin", access::admin);
        let auth = root.section("auth", access::auth);
        let pool = root.section("pool", pool::pool);
        let health = root.section("health", bounds::health);
        let limits = root.section("limits", bounds::limits);
        let queue = root.section("queue", |section| bounds::queue(section, &limits));
        let retries = root.section("retries", bounds::retries);
        let batching = root.section("batching", bounds::batching);
        let timeouts = root.section("timeouts", bounds::timeouts);
        let headers = root.section("headers", access::headers);
        let cors = root.section("cors", access::cors);
        let audit = root.section("audit", audit::audit);
        let config = Config {
            listen: listen?,
            admin: admin?,
            auth: auth?,
            pool: pool?,
            health,
            queue,
            retries,
            batching,
            timeouts,
            limits,
            headers: headers?,
            cors: cors?,
            audit: audit?,
            warnings: Vec::new(),
            sources: Sources::default(),
        };
        access::refuse_confusion(root, &config);
        access::warn_of_loops(root, &config);
        Some(config)
    })
}

/// Reads the section `admin` alone.
pub(super) fn read_admin(
    value: &Value,
    surroundings: &Surroundings<'_>,
    report: &Report,
) -> Option<Admin> {
    let Some(section) = value.get("admin") else {
        // By a slip in its name, or in that of the file, orders would reach another proxy than is meant.
        return Section::read(value, String::new(), surroundings, report, |root| {
            for name in names::top() {
                let _ = root.has(name);
            }
            root.section("admin", access::admin)
        });
    };
    let path = "admin".to_owned();
    Section::read(section, path, surroundings, report, access::admin)
}

/// The values of the items that could be read, with their positions.
fn values<T, V>(items: &[Option<T>], value: impl Fn(&T) -> V) -> impl Iterator<Item = (usize, V)> {
    items
        .iter()
        .enumerate()
        .filter_map(move |(position, item)| Some((position, value(item.as_ref()?))))
}

/// Reports values that stand more than once, without repeating them (they may be keys).
fn refuse_repeated<V: Eq + Hash>(
    section: &Section<'_>,
    key: &'static str,
    field: &str,
    values: impl Iterator<Item = (usize, V)>,
) {
    let mut first = HashMap::new();
    for (position, value) in values {
        if let Some(earlier) = first.get(&value) {
            let text = format!("is the same as of {key}[{earlier}]; each must be unique");
            section.problem_in(key, position, field, &text);
        } else {
            first.insert(value, position);
        }
    }
}
