//! Which hosts there are: those of the configuration, and those found behind names in it.
//!
//! ```text
//! configuration ──▶ configured ─┐
//!                               ├─ members ─▶ Hosts, pool
//! look-ups ───────▶ found ──────┘
//! ```
//!
//! Either side may change at any time; what follows is worked out from both, under one lock, so that
//! no change undoes another. One endless task for each name looks it up.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::background::Background;
use super::discovery::{self, Answer, Known, News};
use super::resolver::Resolver;
use super::{Hosts, Member, UnusableHost};
use crate::config::{self, HostName};
use crate::pool::Pool;

/// See the module.
pub struct Membership {
    shared: Arc<Shared>,
    /// The tasks, by the host that they are for.
    look_ups: Mutex<HashMap<HostName, LookUp>>,
}

/// What the tasks use.
struct Shared {
    pool: Pool,
    hosts: Arc<Hosts>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    configured: Vec<Member>,
    /// By the host whose name was looked up.
    found: HashMap<HostName, Found>,
}

struct Found {
    question: Question,
    known: Known,
}

/// What is asked for one host of the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    host: HostName,
    /// The name in its URL.
    name: String,
    interval: Option<Duration>,
    server: Option<SocketAddr>,
}

struct LookUp {
    question: Question,
    _task: Background,
}

impl Membership {
    /// Nobody yet.
    pub fn new(pool: Pool, hosts: Arc<Hosts>) -> Self {
        let state = Mutex::default();
        Self {
            shared: Arc::new(Shared { pool, hosts, state }),
            look_ups: Mutex::default(),
        }
    }

    /// Puts these hosts in the place of those there are. Hosts to discover stay as they were found
    /// before, as long as the name in their URL stays. `resolver`: whom to ask, if not whom the
    /// system asks. Needs a runtime.
    ///
    /// # Errors
    /// The first host that can't be connected to as configured; nothing is changed then.
    pub fn set(
        &self,
        hosts: &[config::Host],
        resolver: Option<SocketAddr>,
    ) -> Result<(), UnusableHost> {
        let configured = hosts.iter().map(Member::load).collect::<Result<_, _>>()?;
        let questions: HashMap<_, _> = hosts
            .iter()
            .filter_map(|host| Some((host.name.clone(), Question::about(host, resolver)?)))
            .collect();
        let mut look_ups = self.look_ups.lock();
        self.shared.configure(configured, &questions);
        look_ups.retain(|host, look_up| questions.get(host) == Some(&look_up.question));
        for (host, question) in questions {
            look_ups
                .entry(host)
                .or_insert_with(|| LookUp::start(question, Arc::clone(&self.shared)));
        }
        Ok(())
    }
}

impl Shared {
    fn configure(&self, configured: Vec<Member>, questions: &HashMap<HostName, Question>) {
        let mut state = self.state.lock();
        let mut before = std::mem::take(&mut state.found);
        state.configured = configured;
        state.found = questions
            .iter()
            .map(|(host, question)| {
                let same = before
                    .remove(host)
                    .filter(|found| found.question.name == question.name);
                let found = Found {
                    question: question.clone(),
                    known: same.map(|found| found.known).unwrap_or_default(),
                };
                (host.clone(), found)
            })
            .collect();
        self.apply(&state);
    }

    /// When to ask again.
    fn take_in(&self, question: &Question, answer: &Answer) -> Duration {
        let mut state = self.state.lock();
        let found = state.found.get_mut(&question.host);
        let Some(found) = found.filter(|found| found.question == *question) else {
            // Nobody asks this any more; the task is about to end.
            return Duration::MAX;
        };
        let before: Vec<_> = found.known.addresses().collect();
        let step = found.known.take_in(answer, question.interval);
        let is_new = !found.known.addresses().eq(before);
        let (host, name, known) = (
            &question.host,
            &question.name,
            found.known.addresses().count(),
        );
        match step.news {
            Some(News::Problem(problem)) => tracing::warn!(
                %host,
                name,
                known,
                problem,
                "hosts can't be discovered as they should; those known stay"
            ),
            Some(News::Well) => tracing::info!(%host, name, known, "hosts are discovered again"),
            None => {}
        }
        if is_new {
            self.apply(&state);
        }
        step.next
    }

    fn apply(&self, state: &State) {
        let members = discovery::members(&state.configured, |host| {
            let found = state.found.get(host);
            found.into_iter().flat_map(|found| found.known.addresses())
        });
        self.hosts.set(&self.pool, members);
    }
}

impl Question {
    fn about(host: &config::Host, server: Option<SocketAddr>) -> Option<Self> {
        Some(Self {
            host: host.name.clone(),
            name: host.url.host().to_owned(),
            interval: host.discover?.interval,
            server,
        })
    }
}

impl LookUp {
    fn start(question: Question, shared: Arc<Shared>) -> Self {
        let resolver = Resolver {
            server: question.server,
        };
        let asked = question.clone();
        let task = Background::spawn(async move {
            loop {
                let answer = resolver.look_up(&asked.name).await;
                let next = shared.take_in(&asked, &answer);
                tokio::time::sleep(next).await;
            }
        });
        Self {
            question,
            _task: task,
        }
    }
}
