//! The load generator: requests at their times, whether or not earlier ones are done (open loop), or
//! a number of connections that each send one after the other (closed loop).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep_until};

use crate::client::Client;
use crate::link::{self, Link};
use crate::schedule::{self, Job, Spec, Texts};
use crate::summary::{Answered, summarize};
use crate::{computed, ideal, payload};

/// What load.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The proxy (or host): IP:PORT.
    #[arg(long)]
    target: SocketAddr,
    #[command(flatten)]
    link: link::Arguments,
    /// Where requests are sent.
    #[arg(long, default_value = "/embed")]
    path: String,
    #[command(flatten)]
    pace: Pace,
    /// How many requests.
    #[arg(long, default_value_t = 1000)]
    requests: usize,
    /// Decides when requests come and how much work they are.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Mean time that a request occupies a slot (lognormal).
    #[arg(long, default_value_t = 200.0)]
    mean_ms: f64,
    /// Standard deviation of that time, as a share of the mean.
    #[arg(long, default_value_t = 0.5)]
    variation: f64,
    /// Texts in each request.
    #[arg(long, default_value_t = 1)]
    texts: usize,
    /// Draw the number of texts instead, from 1 to --texts, and make the work proportional to it.
    #[arg(long)]
    mixed_texts: bool,
    /// Each request has its own texts, and its answer depends on them: for hosts that compute.
    #[arg(long)]
    computed: bool,
    /// Size of a request's body.
    #[arg(long, default_value_t = 256)]
    body_bytes: usize,
    /// Size of an answer, as the hosts were told.
    #[arg(long, default_value_t = 1024)]
    answer_bytes: usize,
    /// How long a client waits for its answer.
    #[arg(long, default_value_t = 60.0)]
    patience_s: f64,
    /// Speed of each slot of all hosts, to compare with the ideal proxy.
    #[arg(long, value_delimiter = ',')]
    slot_speeds: Vec<f64>,
}

#[derive(Clone, Copy, Debug, clap::Args)]
#[group(required = true, multiple = false)]
struct Pace {
    /// Open loop: so many requests a second on average, at random (Poisson).
    #[arg(long)]
    rate: Option<f64>,
    /// Closed loop: so many connections.
    #[arg(long)]
    connections: Option<usize>,
}

/// Sends everything and prints the summary.
pub(crate) async fn run(arguments: Arguments) -> anyhow::Result<()> {
    let spec = Spec {
        requests: arguments.requests,
        rate: arguments.pace.rate,
        mean: Duration::try_from_secs_f64(arguments.mean_ms / 1e3)?,
        variation: arguments.variation,
        texts: if arguments.mixed_texts {
            Texts::UpTo(arguments.texts)
        } else {
            Texts::Always(arguments.texts)
        },
    };
    let jobs = schedule::draw(&spec, arguments.seed);
    let run = Arc::new(Run::new(&arguments, jobs)?);
    let answered = match arguments.pace.connections {
        Some(connections) => run.one_after_the_other(connections).await,
        None => run.when_due().await,
    };
    let ideal = ideal::makespan(&run.jobs, &arguments.slot_speeds);
    let summary = summarize(&run.jobs, &answered, ideal);
    println!("{}", serde_json::to_string(&summary)?);
    Ok(())
}

struct Run {
    jobs: Vec<Job>,
    client: Client,
    /// Of requests and of answers, by number of texts.
    bodies: HashMap<usize, (Bytes, Bytes)>,
    /// Bytes of each body, if they depend on the request.
    computed: Option<usize>,
    started: Instant,
}

impl Run {
    fn new(arguments: &Arguments, jobs: Vec<Job>) -> anyhow::Result<Self> {
        let patience = Duration::try_from_secs_f64(arguments.patience_s)?;
        let link = Link::new(arguments.target, &arguments.link)?;
        let mut bodies = HashMap::new();
        for job in &jobs {
            let both = || {
                let body = payload::request(job.texts, arguments.body_bytes);
                (body, payload::answer(job.texts, arguments.answer_bytes))
            };
            bodies.entry(job.texts).or_insert_with(both);
        }
        Ok(Self {
            jobs,
            client: Client::new(link, arguments.path.clone(), patience, arguments.computed),
            bodies,
            computed: arguments.computed.then_some(arguments.body_bytes),
            started: Instant::now(),
        })
    }

    /// Lateness of this program counts as latency of whom it measures, as it would for a user.
    async fn when_due(self: &Arc<Self>) -> Vec<Answered> {
        let mut tasks = JoinSet::new();
        for (number, job) in self.jobs.iter().enumerate() {
            let due = self.started + job.at;
            sleep_until(due).await;
            let (run, job) = (Arc::clone(self), job.clone());
            tasks.spawn(async move { run.one(number, &job, due).await });
        }
        tasks.join_all().await
    }

    async fn one_after_the_other(self: &Arc<Self>, connections: usize) -> Vec<Answered> {
        let next = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        for _ in 0..connections {
            let (run, next) = (Arc::clone(self), Arc::clone(&next));
            tasks.spawn(async move {
                let mut answered = Vec::new();
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    let Some(job) = run.jobs.get(number) else {
                        return answered;
                    };
                    answered.push(run.one(number, job, Instant::now()).await);
                }
            });
        }
        tasks.join_all().await.concat()
    }

    async fn one(&self, number: usize, job: &Job, due: Instant) -> Answered {
        let (body, expected) = match self.computed {
            None => self.bodies.get(&job.texts).cloned().unwrap_or_default(),
            Some(bytes) => (
                computed::request(number, job.texts, bytes),
                computed::expected(number, job.texts, bytes),
            ),
        };
        let outcome = self.client.ask(body, job.work, expected).await;
        let now = Instant::now();
        Answered {
            outcome,
            work: job.work,
            latency: now - due,
            ended: now - self.started,
        }
    }
}
