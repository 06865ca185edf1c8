//! Why no host takes a request at this moment, in a few words for people. Pure.

use std::time::Duration;

use crate::pool::{Condition, Glance, HostView, Pool};

/// More would be no help.
const MAX_HOSTS: usize = 8;

/// What the hosts are up to.
pub fn shortage(pool: &Pool) -> String {
    told(&pool.glance(MAX_HOSTS))
}

fn told(pool: &Glance) -> String {
    if pool.hosts.is_empty() {
        return "the pool has no hosts".to_owned();
    }
    pool.told(|host| format!("{} {}", host.name, condition(host)))
}

fn condition(host: &HostView) -> String {
    match host.condition() {
        Condition::Up | Condition::Busy | Condition::Trial => load(host),
        Condition::Unknown => "is not checked yet".to_owned(),
        Condition::Misconfigured => "refuses the proxy's key".to_owned(),
        Condition::NotReady => "is not ready".to_owned(),
        out @ (Condition::Ejected | Condition::Draining | Condition::Drained) => {
            format!("is {out}")
        }
    }
}

fn load(host: &HostView) -> String {
    if let Some(busy_for) = host.busy_for {
        return format!("is full for {} s", whole_seconds(busy_for));
    }
    let HostView {
        in_flight,
        slots,
        foreign,
        ..
    } = host;
    match foreign {
        0 => format!("has {in_flight} of {slots} slots in use"),
        _ => format!("has {in_flight} of {slots} slots in use, others use {foreign}"),
    }
}

/// Rounded up.
fn whole_seconds(time: Duration) -> u64 {
    time.as_secs() + u64::from(time.subsec_nanos() > 0)
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::*;
    use crate::pool::{Cause, Phase};

    fn host(name: &str, phase: Phase, change: impl FnOnce(&mut HostView)) -> HostView {
        let mut host = HostView::for_testing(name.parse().unwrap(), phase);
        change(&mut host);
        host
    }

    #[test]
    fn each_host_is_told_with_what_stands_in_the_way() {
        let ejected = |cause| Phase::Ejected {
            cause,
            hold_until: Instant::now(),
            good_checks: 0,
        };
        let hosts = vec![
            host("a", Phase::Up, |host| host.in_flight = 2),
            host("b", Phase::Up, |host| {
                host.busy_for = Some(Duration::from_millis(3100));
            }),
            host("c", Phase::Trial, |host| {
                (host.in_flight, host.slots, host.foreign) = (1, 1, 3);
            }),
            host("d", ejected(Cause::Connect), |_| ()),
            host("e", ejected(Cause::Misconfigured), |_| ()),
            host("f", Phase::Up, |host| host.draining = true),
            host("i", Phase::Unknown, |host| {
                (host.in_flight, host.draining) = (1, true);
            }),
            host("g", Phase::Unknown, |_| ()),
            host("h", Phase::NotReady { trial: false }, |_| ()),
        ];
        let expected = "a has 2 of 2 slots in use, b is full for 4 s, \
            c has 1 of 1 slots in use, others use 3, d is ejected, e refuses the proxy's key, \
            f is drained, i is draining, g is not checked yet, h is not ready";
        assert_eq!(told(&Glance { hosts, more: 0 }), expected);
    }

    #[test]
    fn a_large_pool_is_cut_short() {
        let hosts = vec![host("h0", Phase::Unknown, |_| ())];
        let text = told(&Glance { hosts, more: 12 });
        assert_eq!(text, "h0 is not checked yet, and 12 more");
        let hosts = Vec::new();
        assert_eq!(told(&Glance { hosts, more: 0 }), "the pool has no hosts");
    }
}
