//! What the answers of the DNS mean for the hosts behind a name, without asking anybody.
//!
//! The name of a host with `discover` stands for one host at each of its addresses, that of any other for
//! one host that may have several. Addresses come and go with the answers, but not with their absence: what was last found stays while the DNS fails, says that the name does not
//! exist, or knows no address for it. That is an accident far more often than the wish to have no
//! hosts, and dead addresses cost nothing but failing checks. Whoever wants none takes the host out
//! of the configuration.
//!
//! IPv4 and IPv6 are two questions. If one of them gets no answer, its last addresses stay while those
//! of the other are brought up to date.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::time::Duration;

use super::Member;
use super::member::Place;
use super::trouble::Trouble;
use crate::config::{Discover, HostName};

/// More addresses of one name than this are left out.
pub(super) const MAX_ADDRESSES: usize = 256;
/// Bounds on how long an answer is believed, whatever it says.
const TTL: RangeInclusive<Duration> = Duration::from_secs(1)..=Duration::from_mins(1);
/// A failed look-up is repeated after this long at the latest.
const RETRY: Duration = Duration::from_secs(2);

/// The answer to one question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Records {
    /// There are addresses.
    Found {
        addresses: Vec<IpAddr>,
        ttl: Duration,
    },
    /// There are none; why, for the log.
    None(&'static str),
    /// Nobody knows; why, for the log.
    Failed(&'static str),
}

/// Both answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) v4: Records,
    pub(super) v6: Records,
}

/// What is known of one name.
#[derive(Clone, Debug, Default)]
pub(super) struct Known {
    v4: BTreeSet<IpAddr>,
    v6: BTreeSet<IpAddr>,
    /// What is wrong with it, as it was told last.
    problem: Option<String>,
}

/// What is known of the endpoints of a Service.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Endpoints {
    /// Those that there are now, in order; `None`: nobody knows, and those that were known stay.
    pub(super) places: Option<Vec<Place>>,
    /// What is wrong, for people.
    pub(super) problem: Option<String>,
}

impl Endpoints {
    /// Those that were found last stay, and this is why.
    pub(super) fn unknown(problem: impl Into<String>) -> Self {
        Self {
            places: None,
            problem: Some(problem.into()),
        }
    }
}

/// What follows from an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Step {
    /// When to ask again.
    pub(super) next: Duration,
    /// To be logged; the same is not told twice in a row.
    pub(super) news: Option<News>,
}

/// See [`Step::news`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum News {
    /// Something is wrong from now on.
    Problem(String),
    /// All is well again.
    Well,
}

impl News {
    /// What is to be told once something else is wrong than before, or nothing any more.
    pub(super) fn of(before: Option<&String>, now: Option<&String>) -> Option<Self> {
        (before != now).then(|| now.map_or(Self::Well, |problem| Self::Problem(problem.clone())))
    }
}

impl Known {
    /// Takes in an answer. `interval`: how often to ask, if not as the answers say.
    pub(super) fn take_in(&mut self, answer: &Answer, interval: Option<Duration>) -> Step {
        let ttl = answer.ttl();
        if ttl.is_some() {
            answer.v4.bring_up_to_date(&mut self.v4);
            answer.v6.bring_up_to_date(&mut self.v6);
        }
        let problem = self.problem_with(answer);
        let news = News::of(self.problem.as_ref(), problem.as_ref());
        self.problem = problem;
        let next = match (ttl, interval) {
            (Some(_), Some(interval)) => interval,
            (Some(ttl), None) => ttl.clamp(*TTL.start(), *TTL.end()),
            (None, interval) => interval.map_or(RETRY, |interval| interval.min(RETRY)),
        };
        Step { next, news }
    }

    /// Those to use, in order.
    pub(super) fn addresses(&self) -> impl Iterator<Item = IpAddr> {
        self.all().copied().take(MAX_ADDRESSES)
    }

    /// An address of IPv4 may be among those of IPv6, too.
    fn all(&self) -> impl Iterator<Item = &IpAddr> {
        self.v4.union(&self.v6)
    }

    fn problem_with(&self, answer: &Answer) -> Option<String> {
        let found = self.all().count();
        let too_many = || format!("{found} addresses; the first {MAX_ADDRESSES} are used");
        let failed = answer.v4.failure().or_else(|| answer.v6.failure());
        let none = || {
            answer
                .ttl()
                .is_none()
                .then(|| answer.v4.absence())
                .flatten()
        };
        failed
            .or_else(none)
            .map(str::to_owned)
            .or_else(|| (found > MAX_ADDRESSES).then(too_many))
    }
}

impl Answer {
    /// Why it has no address, if it has none.
    pub(super) fn trouble(&self) -> Trouble {
        match (&self.v4, &self.v6) {
            (Records::Failed(_), _) | (_, Records::Failed(_)) => Trouble::Unresolved,
            _ => Trouble::NoAddress,
        }
    }

    pub(super) fn has_addresses(&self) -> bool {
        self.ttl().is_some()
    }

    /// How long it holds; `None` if it has no addresses at all.
    fn ttl(&self) -> Option<Duration> {
        [&self.v4, &self.v6]
            .into_iter()
            .filter_map(|records| match records {
                Records::Found { ttl, addresses } if !addresses.is_empty() => Some(*ttl),
                _ => None,
            })
            .min()
    }
}

impl Records {
    fn bring_up_to_date(&self, known: &mut BTreeSet<IpAddr>) {
        match self {
            Self::Found { addresses, .. } => *known = addresses.iter().copied().collect(),
            Self::None(_) => known.clear(),
            Self::Failed(_) => {}
        }
    }

    fn failure(&self) -> Option<&str> {
        match self {
            Self::Failed(reason) => Some(reason),
            Self::Found { .. } | Self::None(_) => None,
        }
    }

    fn absence(&self) -> Option<&str> {
        match self {
            Self::None(reason) => Some(reason),
            Self::Found { .. } => Some("no usable address"),
            Self::Failed(_) => None,
        }
    }
}

/// What may be an address of a host, in one form only. `0.0.0.0` is how some servers say no; connecting to it
/// would reach ourselves. Nobody is at an address of many, nor can one of a link (`fe80::1`) be reached without the
/// name of the link.
pub(super) fn usable(address: IpAddr) -> Option<IpAddr> {
    let address = address.to_canonical();
    let is_none = match address {
        IpAddr::V4(ip) => ip.is_broadcast(),
        IpAddr::V6(ip) => ip.is_unicast_link_local(),
    };
    (!is_none && !address.is_unspecified() && !address.is_multicast()).then_some(address)
}

/// All hosts that there are to be, in the order of the configuration. `found`: where those are that a
/// discovered one stands for. Where a host is configured under the very name of a discovered one, it is that
/// one, with settings of its own.
pub(super) fn members(
    configured: &[Member],
    found: impl Fn(&Member, &Discover) -> Vec<Place>,
) -> Vec<Member> {
    let own: HashSet<&HostName> = configured
        .iter()
        .filter(|member| member.host.discover.is_none())
        .map(|member| &member.host.name)
        .collect();
    let mut members = Vec::new();
    for member in configured {
        let Some(discover) = &member.host.discover else {
            members.push(member.clone());
            continue;
        };
        let places = found(member, discover).into_iter();
        let discovered = places.map(|place| member.at(place));
        members.extend(discovered.filter(|member| !own.contains(&member.host.name)));
    }
    members
}

#[cfg(test)]
mod tests {
    use super::super::testing::{discovered, member};
    use super::*;
    use crate::pool::Origin;

    const SECOND: Duration = Duration::from_secs(1);

    fn found(ttl: u64, addresses: &[&str]) -> Records {
        Records::Found {
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            ttl: Duration::from_secs(ttl),
        }
    }

    fn none() -> Records {
        Records::None("no such name")
    }

    fn failed() -> Records {
        Records::Failed("timed out")
    }

    fn shown(known: &Known) -> Vec<String> {
        known
            .addresses()
            .map(|address| address.to_string())
            .collect()
    }

    /// Takes in both answers: the addresses then, and the problem that is told, if any.
    fn after(known: &mut Known, v4: Records, v6: Records) -> (Vec<String>, Option<News>) {
        let step = known.take_in(&Answer { v4, v6 }, None);
        (shown(known), step.news)
    }

    #[test]
    fn addresses_come_and_go_with_the_answers_in_order() {
        let mut known = Known::default();
        let (addresses, news) = after(
            &mut known,
            found(9, &["10.0.0.2", "10.0.0.1", "10.0.0.2"]),
            found(9, &["fd00::1"]),
        );
        assert_eq!(addresses, ["10.0.0.1", "10.0.0.2", "fd00::1"]);
        assert_eq!(news, None);
        let (addresses, _) = after(&mut known, found(9, &["10.0.0.3"]), none());
        assert_eq!(addresses, ["10.0.0.3"], "IPv6 is gone for good");
    }

    #[test]
    fn an_address_is_used_once_and_if_it_can_be_one() {
        let ip = |text: &str| usable(text.parse().unwrap()).map(|ip| ip.to_string());
        for (address, used) in [
            ("10.0.0.1", "10.0.0.1"),
            ("::ffff:10.0.0.1", "10.0.0.1"),
            ("fd00::1", "fd00::1"),
        ] {
            assert_eq!(ip(address).as_deref(), Some(used));
        }
        for none in [
            "0.0.0.0",
            "::",
            "::ffff:0.0.0.0",
            "255.255.255.255",
            "224.0.0.1",
            "ff02::1",
            "fe80::1",
        ] {
            assert_eq!(ip(none), None, "{none}");
        }
        let mut known = Known::default();
        let (addresses, _) = after(
            &mut known,
            found(9, &["10.0.0.2"]),
            found(9, &["10.0.0.2", "fd00::1"]),
        );
        assert_eq!(addresses, ["10.0.0.2", "fd00::1"]);
    }

    #[test]
    fn the_last_good_answer_stays_without_a_better_one() {
        for (v4, v6) in [
            (failed(), failed()),
            (none(), none()),
            (none(), failed()),
            (failed(), none()),
            (found(9, &[]), none()),
        ] {
            let mut known = Known::default();
            after(&mut known, found(9, &["10.0.0.1"]), found(9, &["fd00::1"]));
            let (addresses, news) = after(&mut known, v4.clone(), v6.clone());
            assert_eq!(addresses, ["10.0.0.1", "fd00::1"], "{v4:?} {v6:?}");
            assert!(matches!(news, Some(News::Problem(_))), "{v4:?} {v6:?}");
            let (_, news) = after(&mut known, v4, v6);
            assert_eq!(news, None, "told once");
            let (addresses, news) = after(&mut known, found(9, &["10.0.0.2"]), none());
            assert_eq!(
                (addresses, news),
                (vec!["10.0.0.2".to_owned()], Some(News::Well))
            );
        }
    }

    #[test]
    fn a_question_without_an_answer_leaves_its_addresses_and_no_others() {
        let mut known = Known::default();
        after(&mut known, found(9, &["10.0.0.1"]), found(9, &["fd00::1"]));
        let (addresses, news) = after(&mut known, found(9, &["10.0.0.2"]), failed());
        assert_eq!(addresses, ["10.0.0.2", "fd00::1"]);
        assert_eq!(news, Some(News::Problem("timed out".to_owned())));
    }

    #[test]
    fn the_next_look_up_is_when_the_answer_ends_within_bounds() {
        let next = |v4, v6, interval| Known::default().take_in(&Answer { v4, v6 }, interval).next;
        let one = |ttl| found(ttl, &["10.0.0.1"]);
        assert_eq!(next(one(30), none(), None), 30 * SECOND);
        assert_eq!(next(one(30), found(7, &["::1"]), None), 7 * SECOND);
        assert_eq!(next(one(0), none(), None), SECOND);
        assert_eq!(next(one(86_400), none(), None), 60 * SECOND);
        assert_eq!(next(failed(), none(), None), RETRY);
        assert_eq!(next(one(30), failed(), Some(2 * SECOND)), 2 * SECOND);
        assert_eq!(next(failed(), failed(), Some(9 * SECOND)), RETRY, "sooner");
        assert_eq!(next(failed(), failed(), Some(SECOND)), SECOND);
    }

    #[test]
    fn more_addresses_than_can_be_used_are_told() {
        let address = |number: usize| format!("10.0.{}.{}", number / 256, number % 256);
        let many: Vec<String> = (0..MAX_ADDRESSES + 2).map(address).collect();
        let many: Vec<&str> = many.iter().map(String::as_str).collect();
        let (addresses, news) = after(&mut Known::default(), found(9, &many), none());
        assert_eq!(addresses, many[..MAX_ADDRESSES]);
        let told = News::Problem("258 addresses; the first 256 are used".to_owned());
        assert_eq!(news, Some(told));
    }

    #[test]
    fn members_stand_in_the_order_of_the_configuration_and_have_one_name_each() {
        let configured = [
            discovered("pool", "http://gpus.example:1"),
            member("own", "http://own.example:1"),
            member("pool-10.0.0.2", "http://10.0.0.2:1"),
        ];
        let place = |text: &str| Place {
            address: text.parse().unwrap(),
            origin: Origin::Dns,
        };
        let members = members(&configured, |member, _| {
            assert_eq!(member.host.url.host(), "gpus.example");
            vec![place("10.0.0.1:1"), place("10.0.0.2:1")]
        });
        let names: Vec<_> = members
            .iter()
            .map(|member| member.host.name.to_string())
            .collect();
        assert_eq!(names, ["pool-10.0.0.1", "own", "pool-10.0.0.2"]);
        assert_eq!(members[2].place, None, "the one of the configuration");
    }
}
