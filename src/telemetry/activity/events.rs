//! What happened to hosts: what repeats is one entry, with how often and when first and last; and what
//! comes and goes with the load does not push out what matters for long.

use std::time::SystemTime;

use super::ring::Ring;
use crate::config::HostName;
use crate::pool::{Event, EventKind, Transition};

/// Entries kept of hosts that were taken out …
const EJECTIONS: usize = 50;
/// … of others that matter for long …
const LASTING: usize = 50;
/// … and of those that come and go with the load.
const PASSING: usize = 20;

/// Something that happened to a host, once or more often.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Happened {
    /// When it happened first …
    pub first: SystemTime,
    /// … and last.
    pub at: SystemTime,
    /// How often. A host that is full and free by turns counts once for each time that it was full.
    pub count: u32,
    /// To whom.
    pub host: HostName,
    /// What.
    pub kind: EventKind,
    /// What its last check found wrong, if it is ejected.
    pub problem: Option<String>,
}

/// What counts as the same thing again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Group {
    /// It is full, or has a free slot again.
    Load,
    /// It is taken out, whatever for.
    Ejected,
    /// It is up.
    Up,
    /// It is on trial.
    Trial,
    /// It has nothing to serve.
    NotReady,
    /// It told its slots.
    Capacity,
    /// It joined the pool, or left it.
    Membership,
    /// An operator's order.
    Order,
    /// An audit showed something else than before.
    Audit,
}

/// See the module.
#[derive(Debug)]
pub(super) struct Events {
    ejections: Ring<Happened>,
    lasting: Ring<Happened>,
    passing: Ring<Happened>,
}

impl Group {
    /// Of an event.
    pub fn of(kind: EventKind) -> Self {
        match kind {
            EventKind::Busy(_) | EventKind::NotBusy => Self::Load,
            EventKind::Health(Transition::Ejected(_)) => Self::Ejected,
            EventKind::Health(Transition::Up) => Self::Up,
            EventKind::Health(Transition::Trial) => Self::Trial,
            EventKind::Health(Transition::NotReady) => Self::NotReady,
            EventKind::Capacity(_) => Self::Capacity,
            EventKind::Added | EventKind::Removed => Self::Membership,
            EventKind::Draining | EventKind::Undrained => Self::Order,
            EventKind::Audited(_) => Self::Audit,
        }
    }

    /// In one word.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Load => "load",
            Self::Ejected => "ejected",
            Self::Up => "up",
            Self::Trial => "trial",
            Self::NotReady => "not_ready",
            Self::Capacity => "capacity",
            Self::Membership => "membership",
            Self::Order => "order",
            Self::Audit => "audit",
        }
    }
}

impl Default for Events {
    fn default() -> Self {
        Self {
            ejections: Ring::new(EJECTIONS),
            lasting: Ring::new(LASTING),
            passing: Ring::new(PASSING),
        }
    }
}

impl Events {
    /// `number`: above all before it.
    pub(super) fn push(&mut self, number: u64, event: &Event, at: SystemTime) {
        let group = Group::of(event.kind);
        let ring = match group {
            Group::Ejected => &mut self.ejections,
            Group::Load => &mut self.passing,
            _ => &mut self.lasting,
        };
        let before = ring.take(|it| it.host == event.host && Group::of(it.kind) == group);
        let (first, times) = before.map_or((at, 0), |before| (before.first, before.count));
        let again = u32::from(times == 0 || event.kind != EventKind::NotBusy);
        let happened = Happened {
            first,
            at,
            count: times.saturating_add(again),
            host: event.host.clone(),
            kind: event.kind,
            problem: event.problem.clone(),
        };
        ring.push(number, happened);
    }

    /// Those that happened, perhaps again, from number `since` on, oldest first.
    pub(super) fn since(&self, since: u64) -> Vec<(u64, Happened)> {
        let rings = [&self.ejections, &self.lasting, &self.passing];
        let mut events: Vec<_> = rings
            .iter()
            .flat_map(|ring| ring.since(since))
            .map(|(number, event)| (number, event.clone()))
            .collect();
        events.sort_by_key(|(number, _)| *number);
        events
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::pool::Cause;

    const EJECTED: EventKind = EventKind::Health(Transition::Ejected(Cause::Hung));
    const UP: EventKind = EventKind::Health(Transition::Up);

    fn at(second: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(second)
    }

    fn busy() -> EventKind {
        EventKind::Busy(Duration::from_secs(6))
    }

    /// Each happens a second after the one before.
    fn after(happened: &[(&str, EventKind)]) -> Events {
        let mut events = Events::default();
        for (number, (host, kind)) in (0..).zip(happened) {
            let event = Event {
                host: host.parse().unwrap(),
                kind: *kind,
                problem: None,
            };
            events.push(number, &event, at(number));
        }
        events
    }

    fn told(events: &[(u64, Happened)]) -> Vec<(&str, EventKind, u32, SystemTime, SystemTime)> {
        let each = events.iter().map(|(_, it)| {
            let host = it.host.as_ref();
            (host, it.kind, it.count, it.first, it.at)
        });
        each.collect()
    }

    #[test]
    fn what_repeats_is_one_entry_for_each_host() {
        let free = EventKind::NotBusy;
        let events = after(&[
            ("a", busy()),
            ("b", EJECTED),
            ("a", free),
            ("c", busy()),
            ("a", busy()),
            ("b", UP),
            ("a", free),
            ("b", EJECTED),
        ]);
        let expected = [
            ("c", busy(), 1, at(3), at(3)),
            ("b", UP, 1, at(5), at(5)),
            ("a", free, 2, at(0), at(6)),
            ("b", EJECTED, 2, at(1), at(7)),
        ];
        assert_eq!(told(&events.since(0)), expected);
        let again = events.since(7);
        assert_eq!(told(&again), expected[3..], "only what is news");
    }

    #[test]
    fn many_hosts_do_not_wash_ejections_away() {
        let names: Vec<String> = (0..1000).map(|number| format!("h{number}")).collect();
        let mut happened = vec![("a", EJECTED)];
        for name in &names {
            happened.extend([(name.as_str(), UP), (name, busy())]);
        }
        let events = after(&happened).since(0);
        assert_eq!(events[0].1.kind, EJECTED);
        assert_eq!(events.len(), 1 + LASTING + PASSING);
    }
}
