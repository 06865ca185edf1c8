//! Which hosts there are and where: those of the configuration, at the addresses of the names in it, or
//! one for each address or endpoint.
//!
//! ```text
//! configuration ──▶ configured ─┐
//! look-ups ───────▶ found ──────┼─ members, addresses ─▶ Hosts, pool
//! watches ────────▶ served ─────┘
//! ```
//!
//! Each may change at any time; what follows is worked out from all, under one lock, so that
//! no change undoes another. One endless task for each name looks it up, however many hosts have it in
//! their URL, and one for each Service of Kubernetes watches it; nobody waits for them but a host that has no
//! address at all yet.

use std::collections::{HashMap, HashSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::background::Background;
use super::discovery::{self, Answer, Endpoints, Known, News};
use super::kubernetes;
use super::member::Place;
use super::question::{Question, questions, services};
use super::resolver::Resolver;
use super::{Hosts, Member};
use crate::config::{self, Discover, Service};
use crate::pool::{Origin, Pool};

/// How often the name of a host is looked up that is not to be found at its addresses, though the last
/// answer still holds: perhaps it has moved.
const SOUGHT: Duration = Duration::from_secs(2);

/// See the module.
pub struct Membership {
    shared: Arc<Shared>,
    tasks: Mutex<Tasks>,
}

#[derive(Default)]
struct Tasks {
    /// By the name that they look up.
    look_ups: HashMap<String, LookUp>,
    watches: HashMap<Service, Background>,
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
    served: HashMap<Service, Served>,
}

struct Found {
    question: Question,
    known: Known,
    /// The last answer, where there has been one.
    answer: Option<Answer>,
}

/// What is known of a Service.
#[derive(Default)]
struct Served {
    places: Vec<Place>,
    /// What is wrong with it, as it was told last.
    problem: Option<String>,
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
            tasks: Mutex::default(),
        }
    }

    /// Puts these hosts in the place of those there are. What was found behind a name stays known as
    /// long as the name stays. `resolver`: whom to ask, if not whom the
    /// system asks. Needs a runtime.
    pub fn set(&self, hosts: &[config::Host], resolver: Option<SocketAddr>) {
        let configured = hosts.iter().map(Member::new).collect();
        let (questions, services) = (questions(hosts, resolver), services(hosts));
        let mut tasks = self.tasks.lock();
        self.shared.configure(configured, &questions, &services);
        let Tasks { look_ups, watches } = &mut *tasks;
        look_ups.retain(|name, look_up| questions.get(name) == Some(&look_up.question));
        for (name, question) in questions {
            look_ups
                .entry(name)
                .or_insert_with(|| LookUp::start(question, Arc::clone(&self.shared)));
        }
        watches.retain(|service, _| services.contains(service));
        for service in services {
            watches
                .entry(service)
                .or_insert_with_key(|service| watch(service, &self.shared));
        }
    }
}

impl Shared {
    fn configure(
        &self,
        configured: Vec<Member>,
        questions: &HashMap<String, Question>,
        services: &HashSet<Service>,
    ) {
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
        inputs
            .served
            .retain(|service, _| services.contains(service));
        for service in services {
            inputs.served.entry(service.clone()).or_default();
        }
        self.apply(&inputs);
    }

    fn take_in_endpoints(&self, service: &Service, endpoints: Endpoints) {
        let mut inputs = self.inputs.lock();
        let Inputs {
            configured, served, ..
        } = &mut *inputs;
        let Some(served) = served.get_mut(service) else {
            // Nobody wants to know any more; the task is about to end.
            return;
        };
        let is_new = endpoints
            .places
            .as_ref()
            .is_some_and(|it| *it != served.places);
        served.places = endpoints
            .places
            .unwrap_or_else(|| std::mem::take(&mut served.places));
        if let Some(news) = News::of(served.problem.as_ref(), endpoints.problem.as_ref()) {
            let wanted = Some(Discover::Kubernetes(service.clone()));
            let hosts = configured.iter().filter(|it| it.host.discover == wanted);
            tell(
                &hosts.collect::<Vec<_>>(),
                &service.to_string(),
                served.places.len(),
                news,
            );
        }
        served.problem = endpoints.problem;
        if is_new {
            self.apply(&inputs);
        }
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
            let of_name = inputs.configured.iter();
            let of_name = of_name.filter(|member| question.is_of(&member.host));
            tell(&of_name.collect::<Vec<_>>(), &question.name, known, news);
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
        let members = discovery::members(&inputs.configured, |member, discover| match discover {
            Discover::Dns { .. } => inputs.found_at(&member.host.url),
            Discover::Kubernetes(service) => inputs.served_at(service),
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

impl Inputs {
    fn found_at(&self, url: &config::HostUrl) -> Vec<Place> {
        let place = |address: IpAddr| Place {
            address: SocketAddr::new(address, url.port()),
            origin: Origin::Dns,
        };
        let found = self.found.get(url.host()).into_iter();
        let addresses = found.flat_map(|found| found.known.addresses());
        addresses.map(place).collect()
    }

    fn served_at(&self, service: &Service) -> Vec<Place> {
        let served = self.served.get(service);
        served.map_or_else(Vec::new, |served| served.places.clone())
    }
}

/// `known`: how many addresses or endpoints.
fn tell(hosts: &[&Member], name: &str, known: usize, news: News) {
    let names: Vec<_> = hosts
        .iter()
        .map(|member| member.host.name.as_ref())
        .collect();
    let names = names.join(", ");
    let discovered = hosts.iter().any(|member| member.host.discover.is_some());
    match news {
        News::Problem(problem) if discovered => tracing::warn!(
            hosts = names,
            name,
            known,
            problem,
            "hosts can't be discovered as they should; those known stay"
        ),
        News::Well if discovered => {
            tracing::info!(hosts = names, name, known, "hosts are discovered again");
        }
        News::Problem(problem) => tracing::warn!(
            hosts = names,
            name,
            known,
            problem,
            "a name can't be looked up as it should; the addresses known stay"
        ),
        News::Well => {
            tracing::info!(hosts = names, name, known, "a name can be looked up again");
        }
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

fn watch(service: &Service, shared: &Arc<Shared>) -> Background {
    let (service, shared) = (service.clone(), Arc::clone(shared));
    let upkeep = shared.hosts.upkeep.clone();
    Background::spawn(upkeep.keep("discover", move || {
        let (service, shared) = (service.clone(), Arc::clone(&shared));
        async move {
            let tell = |endpoints| shared.take_in_endpoints(&service, endpoints);
            kubernetes::keep_watching(&service, tell).await;
        }
    }))
}
