//! Hosts for this module's tests.

use super::{Member, Verdict, result};
use crate::budget::Budget;
use crate::config::{Config, Discover, OpenAi};
use crate::message::{Answer, Call};

/// A host with nothing special about it.
pub(super) fn member(name: &str, url: &str) -> Member {
    let hosts = format!("pool: {{hosts: [{{name: '{name}', url: '{url}'}}]}}");
    Member::new(&Config::for_testing(&hosts).pool.hosts[0])
}

/// How one is asked that speaks OpenAI's API and calls models so.
pub(super) fn openai(aliases: &[(&str, &str)]) -> OpenAi {
    let owned = |(called, name): &(&str, &str)| ((*called).to_owned(), (*name).to_owned());
    OpenAi {
        model_alias: aliases.iter().map(owned).collect(),
        health_path: "/health".to_owned(),
        normalize: false,
        truncate: false,
    }
}

/// One that stands for all that are found behind its name.
pub(super) fn discovered(name: &str, url: &str) -> Member {
    let mut member = member(name, url);
    member.host.discover = Some(Discover::Dns { interval: None });
    member
}

/// How an attempt ends that is answered so.
pub(crate) fn judged(answer: Answer, call: &Call, budget: &Budget) -> Verdict {
    result::judged(answer, None, call, budget)
}
