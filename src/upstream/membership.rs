//! Which hosts there are and where: those of the configuration, at the addresses of the names in it, or
//! one for each address.
//!
//! ```text
//! configuration ──▶ configured ─┐
//!                               ├─ members, addresses ─▶ Hosts, pool
//! look-ups ───────▶ found ──────┘
//! ```
//!
//! Either side may change at any time; what follows is worked out from both, under one lock, so that
//! no change undoes another. One endless task for each name looks it up, however many hosts have it in
//! their URL; nobody waits for it but a host that has no address at all yet.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::background::Background;
use super::discovery::{self, Answer, Known, News};
use super::resolver::Resolver;
use super::{Hosts, Member};
use crate::config;
use crate::pool::Pool;

/// How often the name of a host is looked up that is not to be found at its addresses, though the last
/// answer still holds: perhaps it has moved.
const SOUGHT: Duration = Duration::from_secs(2);

/// See the module.
pub struct Membership {
    shared: Arc<Shared>,
    /// The tasks, by the name that they look up.
    look_ups: Mutex<HashMap<String, LookUp>>,
}

/// What the tasks use.
struct Shared {
    pool: Pool,
    hosts: Arc<Hosts>,
    inputs: Mutex<Inputs>,
}

#[derive(Default)]
struct Inputs {
    configured: Vec<Member>,
    /// By the name that was looked up.
    found: HashMap<String, Found>,
}

struct Found {
    question: Question,
    known: Known,
    /// The last answer, where there has been one.
    answer: Option<Answer>,
}

/// What is asked about a name.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Question {
    name: String,
    /// The shortest that any of its hosts wants.
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
        let inputs = Mutex::default();
        Self {
            shared: Arc::new(Shared {
                pool,
                hosts,
                inputs,
            }),
            look_ups: Mutex::default(),
        }
    }

    /// Puts these hosts in the place of those there are. What was found behind a name stays known as
    /// long as the name stays. `resolver`: whom to ask, if not whom the
    /// system asks. Needs a runtime.
    pub fn set(&self, hosts: &[config::Host], resolver: Option<SocketAddr>) {
        let configured = hosts.iter().map(Member::new).collect();
        let questions = questions(hosts, resolver);
        let mut look_ups = self.look_ups.lock();
        self.shared.configure(configured, &questions);
        look_ups.retain(|name, look_up| questions.get(name) == Some(&look_up.question));
        for (name, question) in questions {
            look_ups
                .entry(name)
                .or_insert_with(|| LookUp::start(question, Arc::clone(&self.shared)));
        }
    }
}

impl Shared {
    fn configure(&self, configured: Vec<Member>, questions: &HashMap<String, Question>) {
        let mut inputs = self.inputs.lock();
        let mut before = std::mem::take(&mut inputs.found);
        inputs.configured = configured;
        inputs.found = questions
            .iter()
            .map(|(name, question)| {
                let before = before.remove(name);
                let (known, answer) = before
                    .map(|found| (found.known, found.answer))
                    .unwrap_or_default();
                let found = Found {
                    question: question.clone(),
                    known,
                    answer,
                };
                (name.clone(), found)
            })
            .collect();
        self.apply(&inputs);
    }

    /// When to ask again.
    fn take_in(&self, question: &Question, answer: Answer) -> Duration {
        let mut inputs = self.inputs.lock();
        let found = inputs.found.get_mut(&question.name);
        let Some(found) = found.filter(|found| found.question == *question) else {
            // Nobody asks this any more; the task is about to end.
            return Duration::MAX;
        };
        let before: Vec<_> = found.known.addresses().collect();
        let step = found.known.take_in(&answer, question.interval);
        found.answer = Some(answer);
        let is_new = !found.known.addresses().eq(before);
        let known = found.known.addresses().count();
        if let Some(news) = step.news {
            tell(&inputs.configured, question, known, news);
        }
        if is_new {
            self.apply(&inputs);
        } else {
            self.deliver(&inputs, &question.name);
        }
        step.next
    }

    /// Until the last answer ends, or a host is not to be found where it says.
    async fn wait_to_ask(&self, name: &str, time: Duration) {
        let mut left = time;
        while !left.is_zero() {
            let step = left.min(SOUGHT);
            tokio::time::sleep(step).await;
            left = left.saturating_sub(step);
            if self.hosts.is_sought(name) {
                return;
            }
        }
    }

    fn apply(&self, inputs: &Inputs) {
        let members = discovery::members(&inputs.configured, |name| {
            let found = inputs.found.get(name);
            found.into_iter().flat_map(|found| found.known.addresses())
        });
        self.hosts.set(&self.pool, members);
        for name in inputs.found.keys() {
            self.deliver(inputs, name);
        }
    }

    /// Tells the hosts with that name where they are.
    fn deliver(&self, inputs: &Inputs, name: &str) {
        let found = inputs.found.get(name);
        if let Some((found, answer)) = found.and_then(|found| Some((found, found.answer.as_ref()?)))
        {
            let addresses: Vec<_> = found.known.addresses().collect();
            self.hosts.looked_up(name, &addresses, answer.trouble());
        }
    }
}

/// One question for each name that has to be looked up.
fn questions(hosts: &[config::Host], server: Option<SocketAddr>) -> HashMap<String, Question> {
    let mut questions = HashMap::new();
    for host in hosts.iter().filter(|host| !host.url.is_literal()) {
        let name = host.url.host().to_owned();
        let question = questions.entry(name.clone()).or_insert(Question {
            name,
            interval: None,
            server,
        });
        let wanted = host.discover.and_then(|discover| discover.interval);
        question.interval = question.interval.into_iter().chain(wanted).min();
    }
    questions
}

fn tell(configured: &[Member], question: &Question, known: usize, news: News) {
    let name = &question.name;
    let of_name = configured
        .iter()
        .filter(|member| member.host.url.host() == name);
    let hosts: Vec<_> = of_name
        .clone()
        .map(|member| member.host.name.as_ref())
        .collect();
    let hosts = hosts.join(", ");
    let discovered = of_name.clone().any(|member| member.host.discover.is_some());
    match news {
        News::Problem(problem) if discovered => tracing::warn!(
            hosts,
            name,
            known,
            problem,
            "hosts can't be discovered as they should; those known stay"
        ),
        News::Well if discovered => {
            tracing::info!(hosts, name, known, "hosts are discovered again");
        }
        News::Problem(problem) => tracing::warn!(
            hosts,
            name,
            known,
            problem,
            "a name can't be looked up as it should; the addresses known stay"
        ),
        News::Well => tracing::info!(hosts, name, known, "a name can be looked up again"),
    }
}

impl LookUp {
    fn start(question: Question, shared: Arc<Shared>) -> Self {
        let asked = question.clone();
        let upkeep = shared.hosts.upkeep.clone();
        let task = Background::spawn(upkeep.keep("discover", move || {
            keep_asking(asked.clone(), Arc::clone(&shared))
        }));
        Self {
            question,
            _task: task,
        }
    }
}

async fn keep_asking(question: Question, shared: Arc<Shared>) {
    let resolver = Resolver {
        server: question.server,
    };
    loop {
        let answer = resolver.look_up(&question.name).await;
        let next = shared.take_in(&question, answer);
        shared.wait_to_ask(&question.name, next).await;
    }
}
