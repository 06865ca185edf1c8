//! What is going on, in words that need no manual. Pure.
//!
//! A host's *why* says what stands between it and more work, and when that may end.

use std::borrow::Cow;
use std::time::Duration;

use super::summary::turns_all_away;
use super::view::Level;
use crate::pool::{Cause, EventKind, HostView, Phase, Transition, Trust};
use crate::telemetry::{Counts, Tried};

/// A host that fails more often than this deserves a look, though it is up.
const WORTH_A_LOOK: f64 = 0.05;
/// Of a host whose checks have not said more.
const NOT_READY: &str = "it is up but not ready: no model can be used";

/// When the state of a host may end by itself, if that is known.
pub(super) fn until(host: &HostView) -> Option<Duration> {
    match host.phase {
        _ if host.is_draining() => None,
        Phase::Ejected { .. } => (!host.hold_left.is_zero()).then_some(host.hold_left),
        _ => host.busy_for,
    }
}

/// Why a host gets less than it could; `None` if nothing stands in the way.
pub(super) fn why(host: &HostView, minute: Counts) -> Option<String> {
    let condition = match host.phase {
        Phase::Unknown => Some(match &host.problem {
            Some(problem) => format!("not up yet: {problem}"),
            None => "not checked yet".to_owned(),
        }),
        Phase::Up => why_distrusted(host)
            .or_else(|| why_limited(host))
            .or_else(|| why_doubtful(host, minute)),
        Phase::Trial => {
            Some("on trial: one request at a time until one is answered well".to_owned())
        }
        Phase::NotReady { .. } => Some(host.problem.as_deref().unwrap_or(NOT_READY).to_owned()),
        Phase::Ejected { cause, .. } => {
            let reason = reason(cause, host.problem.as_deref());
            Some(format!("{reason}; {}", way_back(host)))
        }
    };
    if !host.is_draining() {
        return condition;
    }
    let order = match host.origin.withdrawn() {
        Some(reason) if !host.draining => reason.to_string(),
        _ => "drained by an operator".to_owned(),
    };
    let order = match host.in_flight {
        0 => order,
        1 => format!("{order}; 1 request still runs"),
        running => format!("{order}; {running} requests still run"),
    };
    match condition {
        Some(condition) => Some(format!("{order}; {condition}")),
        None => Some(order),
    }
}

/// Why a host that is up takes less than it could.
fn why_limited(host: &HostView) -> Option<String> {
    if let Some(busy_for) = host.busy_for {
        return Some(format!(
            "it said that it is full; it is asked again in {}",
            whole_seconds(busy_for)
        ));
    }
    if host.capacity == 0 {
        return Some("it says that it has no slots".to_owned());
    }
    if host.foreign >= host.capacity {
        return Some("requests of others use all of its slots".to_owned());
    }
    if host.foreign > 0 {
        return Some(format!("others use {} of its slots", host.foreign));
    }
    if host.starting && !host.is_draining() {
        return Some("back for a short time: its slots are opened one by one".to_owned());
    }
    let limited = "it turned requests away, so it gets fewer at once for a while";
    (!host.is_draining() && host.slots < host.capacity).then(|| limited.to_owned())
}

/// Why a host that is up and takes all it can may be worth a look all the same.
fn why_doubtful(host: &HostView, minute: Counts) -> Option<String> {
    if let Some(problem) = &host.problem {
        return Some(format!("up, but its last check failed: {problem}"));
    }
    if turns_all_away(minute) {
        let all = minute.all();
        return Some(format!(
            "up, but it turned away all {all} attempts of the last minute"
        ));
    }
    let is_doubtful = minute.share(minute.badly) > WORTH_A_LOOK;
    is_doubtful.then(|| {
        let (failed, all) = (minute.badly, minute.all());
        format!("up, but {failed} of {all} attempts on it failed in the last minute")
    })
}

fn cause_of(cause: Cause) -> &'static str {
    match cause {
        Cause::Checks => "its health checks fail",
        Cause::Hung => "its health checks get no answer",
        Cause::Connect => "it does not accept connections",
        Cause::Answers => "it broke requests (reset, cut, late, or with errors of its own)",
        Cause::Misconfigured => {
            "it refuses the proxy's API key, or its account has used up what it may; correct its api_key"
        }
    }
}

/// Why a host is ejected, as exactly as is known. `problem`: what its last check found wrong. Checks
/// don't see how a host breaks requests.
fn reason(cause: Cause, problem: Option<&str>) -> Cow<'_, str> {
    match (cause, problem) {
        (_, None) => cause_of(cause).into(),
        (Cause::Answers, Some(problem)) => format!("{}, and {problem}", cause_of(cause)).into(),
        (_, Some(problem)) => problem.into(),
    }
}

fn way_back(host: &HostView) -> String {
    if !host.hold_left.is_zero() {
        return format!("not back before {}", whole_seconds(host.hold_left));
    }
    match host.next_check {
        Some(next) if next.is_zero() => "back after a good check, which is under way".to_owned(),
        Some(next) => format!("back after a good check, next in {}", whole_seconds(next)),
        None => "back after a good check".to_owned(),
    }
}

/// What happened to a host, in one word for programs.
pub(super) fn kind(kind: EventKind) -> &'static str {
    match kind {
        EventKind::Health(Transition::Up) => "up",
        EventKind::Health(Transition::Trial) => "trial",
        EventKind::Health(Transition::NotReady) => "not_ready",
        EventKind::Health(Transition::Ejected(_)) => "ejected",
        EventKind::Busy(_) => "busy",
        EventKind::NotBusy => "free",
        EventKind::Added => "added",
        EventKind::Removed => "removed",
        EventKind::Draining => "draining",
        EventKind::Undrained => "undrained",
        EventKind::Capacity(_) => "capacity",
        EventKind::Audited(trust) => trust.as_str(),
    }
}

/// What happened to a host, and how much to care.
pub(super) fn event(kind: EventKind, problem: Option<&str>) -> (Level, String) {
    let good = |text: &str| (Level::Good, text.to_owned());
    match kind {
        EventKind::Health(Transition::Up) => good("is up"),
        EventKind::Health(Transition::Trial) => (
            Level::Attention,
            "is on trial: one request at a time until one is answered well".to_owned(),
        ),
        EventKind::Health(Transition::NotReady) => (
            Level::Attention,
            problem
                .unwrap_or(NOT_READY)
                .trim_start_matches("it ")
                .to_owned(),
        ),
        EventKind::Health(Transition::Ejected(cause)) => (
            Level::Down,
            format!("is ejected: {}", reason(cause, problem)),
        ),
        EventKind::Busy(retry_after) => (
            Level::Attention,
            format!("is busy: full for {}", whole_seconds(retry_after)),
        ),
        EventKind::NotBusy => good("has a free slot again"),
        EventKind::Added => good("joined the pool"),
        EventKind::Removed => good("left the pool; it finishes what it has"),
        EventKind::Draining => (Level::Attention, "is drained by an operator".to_owned()),
        EventKind::Undrained => good("gets requests again"),
        EventKind::Audited(trust) => audited(trust, problem.unwrap_or_default()),
        EventKind::Capacity(1) => good("has 1 slot"),
        EventKind::Capacity(slots) => (Level::Good, format!("has {slots} slots")),
    }
}

/// What an audit has shown. `what`: the model, and what is wrong.
fn audited(trust: Trust, what: &str) -> (Level, String) {
    match trust {
        Trust::Unknown => (Level::Attention, format!("can't be audited: {what}")),
        Trust::Alone => (
            Level::Good,
            format!("has nothing to be compared with: {what}"),
        ),
        Trust::Agrees => (Level::Good, format!("answers right: {what}")),
        Trust::Disputed => (Level::Attention, format!("disagrees with others: {what}")),
        Trust::Deviates => (Level::Down, format!("answers wrong: {what}")),
    }
}

/// Models with which the host answers wrong, or other than others, as an audit has shown.
fn why_distrusted(host: &HostView) -> Option<String> {
    let audits = host.audits.iter();
    let told = audits.filter_map(|(model, audited)| {
        let why = audited.why.as_deref()?;
        let what = match audited.trust {
            Trust::Deviates => "answers wrong, so it gets no requests for that",
            Trust::Unknown => "can't be audited, so that nobody knows whether it answers right",
            _ => "disagrees with others, and nobody knows which is right",
        };
        Some(format!(
            "with {model} it {what} ({why})",
            model = model.as_str()
        ))
    });
    let told: Vec<String> = told.collect();
    (!told.is_empty()).then(|| told.join("; "))
}

/// Rounded up: "0 s" would look like now.
fn whole_seconds(time: Duration) -> String {
    let seconds = time.as_secs() + u64::from(time.subsec_nanos() > 0);
    format!("{seconds} s")
}

/// For which of so many items of a request an attempt was, or for whose else; nothing, if it was for that request.
pub(super) fn share(attempt: &Tried, of: u32) -> String {
    match (attempt.items, attempt.others) {
        (Some(items), _) => format!(" ({items} of {of} items)"),
        (None, Some(1)) => " (with another request)".to_owned(),
        (None, Some(others)) => format!(" (with {others} other requests)"),
        (None, None) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::admin::view::{Condition, PoolState};
    use crate::pool::{Origin, PoolView, Withdrawn};
    use crate::telemetry::Lately;

    fn ejected(cause: Cause) -> Phase {
        Phase::Ejected {
            cause,
            hold_until: Instant::now(),
            good_checks: 0,
        }
    }

    fn host(phase: Phase) -> HostView {
        HostView::for_testing("a".parse().unwrap(), phase)
    }

    fn changed(phase: Phase, change: impl FnOnce(&mut HostView)) -> HostView {
        let mut host = host(phase);
        change(&mut host);
        host
    }

    fn drained(host: HostView, in_flight: u32) -> HostView {
        HostView {
            draining: true,
            in_flight,
            ..host
        }
    }

    fn withdrawn(host: HostView, reason: Withdrawn, in_flight: u32) -> HostView {
        let origin = Origin::Kubernetes {
            pod: None,
            withdrawn: Some(reason),
        };
        HostView {
            origin,
            in_flight,
            ..host
        }
    }

    /// Condition and reason as shown.
    fn shown(host: HostView) -> (Condition, String) {
        let pool = PoolView::for_testing(vec![host]);
        let host = PoolState::new(&pool, &Lately::default()).hosts.remove(0);
        (host.state, host.why.unwrap_or_default())
    }

    #[test]
    fn a_host_that_takes_less_says_why() {
        let problem = || Some("its /health answers 404".to_owned());
        let up = |change: fn(&mut HostView)| changed(Phase::Up, change);
        let busy = || up(|host| host.busy_for = Some(Duration::from_millis(3200)));
        let table = [
            (host(Phase::Up), Condition::Up, ""),
            (host(Phase::Unknown), Condition::Unknown, "not checked yet"),
            (
                changed(Phase::Unknown, |host| host.problem = problem()),
                Condition::Unknown,
                "not up yet: its /health answers 404",
            ),
            (
                changed(Phase::Up, |host| host.problem = problem()),
                Condition::Up,
                "up, but its last check failed: its /health answers 404",
            ),
            (
                host(Phase::Trial),
                Condition::Trial,
                "on trial: one request at a time until one is answered well",
            ),
            (
                busy(),
                Condition::Busy,
                "it said that it is full; it is asked again in 4 s",
            ),
            (
                up(|host| host.foreign = 1),
                Condition::Up,
                "others use 1 of its slots",
            ),
            (
                up(|host| host.foreign = 3),
                Condition::Up,
                "requests of others use all of its slots",
            ),
            (
                up(|host| (host.slots, host.starting) = (1, true)),
                Condition::Up,
                "back for a short time: its slots are opened one by one",
            ),
            (
                up(|host| host.slots = 1),
                Condition::Up,
                "it turned requests away, so it gets fewer at once for a while",
            ),
            (
                drained(up(|host| host.slots = 0), 2),
                Condition::Draining,
                "drained by an operator; 2 requests still run",
            ),
            (
                drained(busy(), 0),
                Condition::Drained,
                "drained by an operator; it said that it is full; it is asked again in 4 s",
            ),
            (
                withdrawn(host(Phase::Up), Withdrawn::Terminating, 2),
                Condition::Draining,
                "Kubernetes is terminating it; 2 requests still run",
            ),
            (
                withdrawn(host(Phase::Up), Withdrawn::NotReady, 0),
                Condition::Drained,
                "Kubernetes says that it is not ready",
            ),
        ];
        for (host, state, why) in table {
            assert_eq!(shown(host), (state, why.to_owned()));
        }
    }

    #[test]
    fn an_ejected_host_says_why_and_when_it_may_be_back() {
        let out = |cause, change: fn(&mut HostView)| changed(ejected(cause), change);
        let table = [
            (
                out(Cause::Connect, |_| {}),
                Condition::Ejected,
                "it does not accept connections; back after a good check",
            ),
            (
                out(Cause::Checks, |host| {
                    host.next_check = Some(Duration::from_millis(3500));
                }),
                Condition::Ejected,
                "its health checks fail; back after a good check, next in 4 s",
            ),
            (
                out(Cause::Hung, |host| host.next_check = Some(Duration::ZERO)),
                Condition::Ejected,
                "its health checks get no answer; back after a good check, which is under way",
            ),
            (
                out(Cause::Answers, |host| {
                    host.hold_left = Duration::from_secs(8);
                }),
                Condition::Ejected,
                "it broke requests (reset, cut, late, or with errors of its own); not back before 8 s",
            ),
            (
                out(Cause::Misconfigured, |_| {}),
                Condition::Misconfigured,
                "it refuses the proxy's API key, or its account has used up what it may; correct its api_key; back after a good check",
            ),
            (
                out(Cause::Connect, |host| {
                    host.problem = Some("its name can't be resolved".to_owned());
                }),
                Condition::Ejected,
                "its name can't be resolved; back after a good check",
            ),
            (
                out(Cause::Answers, |host| {
                    host.problem = Some("its /health answers 404".to_owned());
                }),
                Condition::Ejected,
                "it broke requests (reset, cut, late, or with errors of its own), and its /health \
                 answers 404; back after a good check",
            ),
        ];
        for (host, state, why) in table {
            assert_eq!(shown(host), (state, why.to_owned()));
        }
    }

    #[test]
    fn a_host_that_is_up_but_fails_often_is_worth_a_look() {
        let minute = |badly| Counts {
            well: 100 - badly,
            badly,
            ..Counts::default()
        };
        let up = host(Phase::Up);
        assert_eq!(why(&up, minute(4)), None);
        assert_eq!(
            why(&up, minute(25)).unwrap(),
            "up, but 25 of 100 attempts on it failed in the last minute"
        );
        let full = |full| Counts {
            full,
            ..Counts::default()
        };
        assert_eq!(why(&up, full(2)), None);
        assert_eq!(
            why(&up, full(3)).unwrap(),
            "up, but it turned away all 3 attempts of the last minute"
        );
    }

    #[test]
    fn events_say_how_bad_they_are() {
        let (level, text) = event(EventKind::Health(Transition::Ejected(Cause::Hung)), None);
        assert_eq!(level, Level::Down);
        assert_eq!(text, "is ejected: its health checks get no answer");
        let (level, text) = event(EventKind::Busy(Duration::from_millis(2500)), None);
        let ejection = EventKind::Health(Transition::Ejected(Cause::Checks));
        let (_, why) = super::event(ejection, Some("its /health answers 404"));
        assert_eq!(why, "is ejected: its /health answers 404");
        assert_eq!(
            (level, text.as_str()),
            (Level::Attention, "is busy: full for 3 s")
        );
    }
}
