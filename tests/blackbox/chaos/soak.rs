//! For a long time at 0.8 of what the hosts can do, with something wrong with one of them now and then: memory,
//! files and latency stay as they are. `make soak` writes `bench/SOAK_RESULTS.md` and `bench/soak.svg`.

use std::fmt::Write as _;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rand::rngs::SmallRng;
use rand::{Rng as _, SeedableRng as _};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until};

use super::crowd::Client;
use super::ledger::{Ledger, Who, quantile};
use super::play::Play;
use super::schedule::{Event, Scene, Schedule};

/// Of a request of one item; one more takes a tenth of it.
const WORK: Duration = Duration::from_millis(100);
const LOAD: f64 = 0.8;
/// Between two troubles.
const CALM: Duration = Duration::from_secs(10);
/// Rows of the table.
const ROWS: u32 = 30;
/// What may come and go: of the mean, and in megabytes or files.
const SLACK: (f64, f64) = (1.1, 10.0);

/// Its name, and where it is at some time.
type Curve = (&'static str, fn(&Sample) -> f64);

/// One row.
struct Sample {
    at: Duration,
    requests: usize,
    megabytes: f64,
    files: usize,
    median: Duration,
    p99: Duration,
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "half an hour; `make soak`"]
async fn memory_files_and_latency_stay_as_they_are() {
    let time = std::env::var("SOAK_TIME")
        .ok()
        .and_then(|time| time.parse().ok());
    let schedule = troubles(Duration::from_secs(time.unwrap_or(1800)));
    let ledger = Arc::new(Ledger::default());
    let mut play = Play::set(&schedule, WORK, Arc::clone(&ledger)).await;
    let process = format!("/proc/{}", play.stage.proxy.id());
    let address = play.stage.address();
    let load = load(address, &ledger, rate(&schedule.scene), schedule.time);
    let ((), (), samples) = tokio::join!(
        play.act(&schedule),
        load,
        samples(&ledger, &process, schedule.time)
    );
    let broken = ledger.all_broken();
    assert!(broken.is_empty(), "{broken:#?}");
    let bench = Path::new(env!("CARGO_MANIFEST_DIR")).join("bench");
    std::fs::write(bench.join("SOAK_RESULTS.md"), report(&schedule, &samples)).unwrap();
    std::fs::write(bench.join("soak.svg"), plot(&samples)).unwrap();
    stays("memory", &samples, |sample| sample.megabytes);
    stays("files", &samples, |sample| sample.files as f64);
    stays("median latency", &samples, |sample| {
        sample.median.as_secs_f64() * 1e3
    });
}

/// One after the other. The process stays the same: it is what is watched.
fn troubles(time: Duration) -> Schedule {
    let mut schedule = Schedule::draw(1, time);
    schedule.scene = Scene {
        hosts: vec![2; 4],
        openai: false,
        policy: "least-busy",
        min_gain: "20ms",
        default_checks: true,
        merge: true,
    };
    let mut free = Duration::ZERO;
    schedule.entries.retain(|entry| {
        let there = !matches!(entry.event, Event::Host(host, _) if host > 3);
        let fits = there && entry.event != Event::Upgrade && entry.at >= free;
        if fits {
            free = entry.ends() + CALM;
        }
        fits
    });
    schedule
}

/// Requests in a second: of light clients, which ask for one item each. See `stage::work`.
fn rate(scene: &Scene) -> f64 {
    let hosts = scene.hosts.iter().enumerate();
    let each = WORK.as_secs_f64() * 1.1;
    let capacity: f64 = hosts
        .map(|(at, slots)| *slots as f64 / (each * (1.0 + 0.25 * at as f64)))
        .sum();
    LOAD * capacity
}

/// Requests at random times, whether or not those before are answered.
async fn load(proxy: std::net::SocketAddr, ledger: &Arc<Ledger>, rate: f64, time: Duration) {
    let mut rng = SmallRng::seed_from_u64(1);
    let (idle, end) = (Arc::new(Mutex::new(Vec::new())), Instant::now() + time);
    let (mut tasks, mut next, mut clients) = (JoinSet::new(), Instant::now(), 0);
    while next < end && !ledger.is_broken() {
        next += Duration::from_secs_f64(-rng.random_range(f64::MIN_POSITIVE..1.0).ln() / rate);
        sleep_until(next).await;
        let taken = idle.lock().unwrap().pop();
        let (mut client, mut wire) = taken.unwrap_or_else(|| {
            clients += 1;
            (Client::new(Who::Light, clients, proxy, 1, ledger), None)
        });
        let idle = Arc::clone(&idle);
        tasks.spawn(async move {
            client.ask(&mut wire).await;
            idle.lock().unwrap().push((client, wire));
        });
        while tasks.try_join_next().is_some() {}
    }
    tasks.join_all().await;
}

async fn samples(ledger: &Ledger, process: &str, time: Duration) -> Vec<Sample> {
    let began = Instant::now();
    let mut samples = Vec::new();
    for row in 1..=ROWS {
        sleep((began + time * row / ROWS).saturating_duration_since(Instant::now())).await;
        if ledger.is_broken() {
            break;
        }
        let latencies = ledger.take();
        samples.push(Sample {
            at: began.elapsed(),
            requests: latencies.len(),
            megabytes: megabytes(process),
            files: std::fs::read_dir(format!("{process}/fd")).unwrap().count(),
            median: quantile(latencies.clone(), 0.5).unwrap_or_default(),
            p99: quantile(latencies, 0.99).unwrap_or_default(),
        });
    }
    samples
}

fn megabytes(process: &str) -> f64 {
    let status = std::fs::read_to_string(format!("{process}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line.and_then(|line| line.trim().split(' ').next());
    kilobytes.unwrap().parse::<f64>().unwrap() / 1024.0
}

/// Is the last third like the one before? The first may be anything.
fn stays(what: &str, samples: &[Sample], of: impl Fn(&Sample) -> f64) {
    let third = samples.len() / 3;
    let mean = |part: &[Sample]| part.iter().map(&of).sum::<f64>() / part.len() as f64;
    let (before, after) = (
        mean(&samples[third..2 * third]),
        mean(&samples[2 * third..]),
    );
    let (share, more) = SLACK;
    assert!(
        after <= before * share + more,
        "{what} grows: {before:.1}, then {after:.1}"
    );
}

fn report(schedule: &Schedule, samples: &[Sample]) -> String {
    let minutes = schedule.time.as_secs_f64() / 60.0;
    let load = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut report = format!(
        "# Soak\n\n{minutes:.0} minutes by `make soak`, which writes this file: {:.0} requests a second, {LOAD} of \
         what four hosts of two slots can do, and {} troubles of the kinds that `make chaos` knows, one after the \
         other. Programs as `cargo test` builds them, unoptimised. Every answer was checked, and none was \
         wrong or missing. Load of the machine at the end: {}.\n\n![memory, files, latency](soak.svg)\n\n\
         | after, s | requests | memory, MB | files | median, ms | p99, ms |\n| --- | --- | --- | --- | --- | --- |\n",
        rate(&schedule.scene),
        schedule.entries.len(),
        load.split(' ').next().unwrap_or_default(),
    );
    for sample in samples {
        let (at, requests, files) = (sample.at.as_secs(), sample.requests, sample.files);
        let (median, p99) = (sample.median.as_millis(), sample.p99.as_millis());
        let megabytes = sample.megabytes;
        writeln!(
            report,
            "| {at} | {requests} | {megabytes:.1} | {files} | {median} | {p99} |"
        )
        .unwrap();
    }
    report
}

/// Each of the three on its own scale, which begins at 0.
fn plot(samples: &[Sample]) -> String {
    let curves: [Curve; 3] = [
        ("memory, MB", |sample| sample.megabytes),
        ("files", |sample| sample.files as f64),
        ("median latency, ms", |sample| {
            sample.median.as_secs_f64() * 1e3
        }),
    ];
    let mut svg = String::from(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 640 330\" font-family=\"sans-serif\" font-size=\"12\">\n\
         <rect width=\"640\" height=\"330\" fill=\"white\"/>\n",
    );
    let end = samples.last().map_or(1.0, |sample| sample.at.as_secs_f64());
    for (number, (name, of)) in curves.into_iter().enumerate() {
        let (top, height) = (20.0 + 100.0 * number as f64, 70.0);
        let most = samples.iter().map(of).fold(1.0, f64::max) * 1.2;
        let point = |sample: &Sample| {
            let x = 130.0 + 490.0 * sample.at.as_secs_f64() / end;
            format!("{x:.1},{:.1}", top + height * (1.0 - of(sample) / most))
        };
        let points: Vec<_> = samples.iter().map(point).collect();
        let last = samples.last().map_or(0.0, of);
        writeln!(
            svg,
            "<path d=\"M130 {top}v{height}h490\" fill=\"none\" stroke=\"#999\"/>\n\
             <text x=\"8\" y=\"{}\">{name}</text><text x=\"8\" y=\"{}\">{last:.0} at the end</text>\n\
             <polyline points=\"{}\" fill=\"none\" stroke=\"#1565c0\" stroke-width=\"2\"/>",
            top + 30.0,
            top + 48.0,
            points.join(" ")
        )
        .unwrap();
    }
    writeln!(svg, "<text x=\"540\" y=\"320\">{end:.0} s</text>\n</svg>").unwrap();
    svg
}
