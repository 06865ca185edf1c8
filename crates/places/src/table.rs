//! Who has which place, and who makes room: pure, with the time passed in.

use std::collections::BTreeSet;
use std::net::IpAddr;

use foldhash::{HashMap, HashMapExt as _};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::{Asking, Full};

/// Whose connections are counted together: an address; of IPv6 the network of 64 bits, which one client
/// usually has to itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Client(u128);

impl From<IpAddr> for Client {
    fn from(address: IpAddr) -> Self {
        match address.to_canonical() {
            IpAddr::V4(address) => Self(address.to_ipv6_mapped().to_bits()),
            IpAddr::V6(address) => Self(address.to_bits() >> 64 << 64),
        }
    }
}

/// Who makes room before whom.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Stranger,
    /// Has shown a key.
    Known,
    /// Sends the body of a request, or takes its answer.
    Transfers,
}

/// When a connection makes room: the least of these first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Turn {
    rank: Rank,
    since: Instant,
    seat: u64,
}

/// One connection.
#[derive(Debug)]
struct Seat {
    /// Who it is, and how many places its kind may have; `None`: any number.
    client: Option<(Client, usize)>,
    /// When it was opened, asked for something or was last in use.
    since: Instant,
    /// True while it has no place.
    displaced: watch::Sender<bool>,
    is_known: bool,
    transfers: u32,
    /// Requests that wait or run.
    runs: u32,
    /// Where it stands in the orders; never later than its [turn](Self::turn).
    queued: Option<Turn>,
}

impl Seat {
    fn has_place(&self) -> bool {
        !*self.displaced.borrow()
    }

    /// `None`: it makes room for nobody.
    fn rank(&self) -> Option<Rank> {
        match self {
            _ if self.runs > 0 || !self.has_place() => None,
            _ if self.transfers > 0 => Some(Rank::Transfers),
            _ if self.is_known => Some(Rank::Known),
            _ => Some(Rank::Stranger),
        }
    }

    fn turn(&self, number: u64) -> Option<Turn> {
        let (since, seat) = (self.since, number);
        self.rank().map(|rank| Turn { rank, since, seat })
    }
}

/// Those who can make room, first who does so first. Most changes make a turn later, and with each request it
/// is soon back to what it was: who stands too early here is moved only once it is first.
type Order = BTreeSet<Turn>;

/// What one client has.
#[derive(Debug, Default)]
struct Group {
    places: usize,
    order: Order,
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Table {
    limit: usize,
    places: usize,
    /// The number that was given out last.
    last: u64,
    seats: HashMap<u64, Seat>,
    order: Order,
    /// Of those who have a place.
    groups: HashMap<Client, Group>,
}

impl Table {
    pub(crate) fn new(limit: usize) -> Self {
        Self {
            limit,
            places: 0,
            last: 0,
            seats: HashMap::new(),
            order: Order::new(),
            groups: HashMap::new(),
        }
    }

    /// A connection has come at `at`. `client`: and how many places it may have; none = any number.
    /// Returns its number, and whether another one made room.
    pub(crate) fn enter(
        &mut self,
        client: Option<(Client, usize)>,
        at: Instant,
        displaced: watch::Sender<bool>,
    ) -> Result<(u64, bool), Full> {
        let made_room = self.sit(client)?;
        self.last += 1;
        let seat = Seat {
            client,
            since: at,
            displaced,
            is_known: false,
            transfers: 0,
            runs: 0,
            queued: None,
        };
        self.seats.insert(self.last, seat);
        self.change(self.last, |_| {});
        Ok((self.last, made_room))
    }

    /// A request comes: its connection is the youngest from then on, with the place that it has or, if
    /// it had to make room, with a new one. Returns whether another one made room for that.
    pub(crate) fn ask(&mut self, number: u64, asking: Asking, now: Instant) -> Result<bool, Full> {
        let lost = self.seats.get(&number).filter(|seat| !seat.has_place());
        let made_room = match lost.map(|seat| seat.client) {
            Some(client) => self.sit(client)?,
            None => false,
        };
        self.change(number, |seat| {
            seat.since = now;
            seat.displaced.send_if_modified(std::mem::take);
            seat.is_known |= asking.shows_key;
            seat.transfers += u32::from(asking.transfers);
        });
        Ok(made_room)
    }

    /// The request of before has its answer.
    pub(crate) fn answered(&mut self, number: u64, asking: Asking, now: Instant) {
        // That of a stranger has not made it any younger: not all of them read their answers.
        if asking.transfers {
            self.change(number, |seat| {
                seat.since = now;
                seat.transfers -= 1;
            });
        }
    }

    /// A request of it waits and runs.
    pub(crate) fn runs(&mut self, number: u64) {
        self.change(number, |seat| seat.runs += 1);
    }

    /// It does so no longer.
    pub(crate) fn ran(&mut self, number: u64, now: Instant) {
        self.change(number, |seat| {
            seat.since = now;
            seat.runs -= 1;
        });
    }

    /// A connection has ended.
    pub(crate) fn leave(&mut self, number: u64) {
        self.displace(number);
        self.seats.remove(&number);
    }

    /// Takes a place for a connection of `client`.
    fn sit(&mut self, client: Option<(Client, usize)>) -> Result<bool, Full> {
        let made_room = self.make_room(client)?;
        self.places += 1;
        if let Some((client, _)) = client {
            self.groups.entry(client).or_default().places += 1;
        }
        Ok(made_room)
    }

    fn make_room(&mut self, client: Option<(Client, usize)>) -> Result<bool, Full> {
        let has_most = |(client, most): &(Client, usize)| {
            let group = self.groups.get(client);
            group.is_some_and(|group| group.places >= *most)
        };
        let (of, full) = match client.filter(has_most) {
            Some((client, _)) => (Some(client), Full::Client),
            None if self.places >= self.limit => (None, Full::All),
            None => return Ok(false),
        };
        let first = self.first(of).ok_or(full)?;
        self.displace(first);
        Ok(true)
    }

    /// Who makes room first, of one client or of all.
    fn first(&mut self, of: Option<Client>) -> Option<u64> {
        loop {
            let order = match of {
                Some(client) => &self.groups.get(&client)?.order,
                None => &self.order,
            };
            let first = *order.first()?;
            if self.seats.get(&first.seat)?.turn(first.seat) == Some(first) {
                return Some(first.seat);
            }
            self.requeue(first.seat);
        }
    }

    /// Takes the place of a connection from it, if it has one.
    fn displace(&mut self, number: u64) {
        let Some(seat) = self.seats.get(&number).filter(|seat| seat.has_place()) else {
            return;
        };
        self.places -= 1;
        let client = seat.client;
        seat.displaced.send_replace(true);
        self.requeue(number);
        if let Some((client, _)) = client
            && let Some(group) = self.groups.get_mut(&client)
        {
            group.places -= 1;
            if group.places == 0 {
                self.groups.remove(&client);
            }
        }
    }

    fn change(&mut self, number: u64, change: impl FnOnce(&mut Seat)) {
        let Some(seat) = self.seats.get_mut(&number) else {
            return;
        };
        change(seat);
        let turn = seat.turn(number);
        if turn.is_some_and(|turn| seat.queued.is_none_or(|queued| turn < queued)) {
            self.requeue(number);
        }
    }

    /// Puts it where it belongs.
    fn requeue(&mut self, number: u64) {
        let Some(seat) = self.seats.get_mut(&number) else {
            return;
        };
        let turn = seat.turn(number);
        let before = std::mem::replace(&mut seat.queued, turn);
        let client = seat.client;
        let group = client.and_then(|(client, _)| self.groups.get_mut(&client));
        let group = group.map(|group| &mut group.order);
        for order in group.into_iter().chain([&mut self.order]) {
            before.map(|turn| order.remove(&turn));
            turn.map(|turn| order.insert(turn));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use proptest::prelude::*;

    use super::*;

    const STRANGER: Asking = Asking {
        shows_key: false,
        transfers: false,
    };
    const KNOWN: Asking = Asking {
        shows_key: true,
        transfers: false,
    };
    const UPLOAD: Asking = Asking {
        shows_key: true,
        transfers: true,
    };

    fn client(address: &str) -> Client {
        Client::from(address.parse::<IpAddr>().unwrap())
    }

    /// Later than all that was.
    fn later() -> Instant {
        use std::sync::LazyLock;
        use std::sync::atomic::{AtomicU64, Ordering};
        static START: LazyLock<Instant> = LazyLock::new(Instant::now);
        static TICKS: AtomicU64 = AtomicU64::new(0);
        *START + std::time::Duration::from_secs(TICKS.fetch_add(1, Ordering::Relaxed))
    }

    impl Table {
        fn come(&mut self, from: &str, most: usize) -> Result<u64, Full> {
            self.come_at(from, most, later())
        }

        fn come_at(&mut self, from: &str, most: usize, at: Instant) -> Result<u64, Full> {
            let client = (client(from), most);
            let entered = self.enter(Some(client), at, watch::Sender::new(false));
            entered.map(|(number, _)| number)
        }

        fn fill(&mut self, many: usize) -> Vec<u64> {
            (0..many)
                .map(|_| self.come("10.0.0.1", 99).unwrap())
                .collect()
        }

        fn has(&self, number: u64) -> bool {
            self.seats[&number].has_place()
        }

        /// Which of these had to make room, in the order in which they have to.
        fn order_of(&mut self, seats: &[u64]) -> Vec<u64> {
            let gone = |table: &Self| -> Vec<u64> {
                seats
                    .iter()
                    .copied()
                    .filter(|seat| !table.has(*seat))
                    .collect()
            };
            let mut order = Vec::new();
            for _ in seats {
                let newcomer = self.come("10.0.0.2", 99);
                order.extend(
                    gone(self)
                        .into_iter()
                        .filter(|seat| !order.contains(seat))
                        .collect::<Vec<_>>(),
                );
                if let Ok(newcomer) = newcomer {
                    self.runs(newcomer);
                }
            }
            order
        }
    }

    #[test]
    fn who_was_idle_first_makes_room_but_strangers_before_all_and_transfers_last() {
        let mut table = Table::new(6);
        let seats = table.fill(6);
        table.ask(seats[0], STRANGER, later()).unwrap();
        table.ask(seats[1], UPLOAD, later()).unwrap();
        table.ask(seats[3], KNOWN, later()).unwrap();
        table.ask(seats[4], UPLOAD, later()).unwrap();
        table.answered(seats[4], UPLOAD, later());
        table.ask(seats[5], UPLOAD, later()).unwrap();
        table.runs(seats[5]);
        let expected = [2, 0, 3, 4, 1].map(|seat| seats[seat]);
        assert_eq!(table.order_of(&seats), expected);
        assert!(table.has(seats[5]), "a request runs");
        assert_eq!(table.come("10.0.0.3", 99), Err(Full::All));
    }

    /// Many that come at once are seen in any order.
    #[test]
    fn who_came_first_makes_room_whoever_was_seen_first() {
        let mut table = Table::new(2);
        let times = [(); 4].map(|()| later());
        let last = table.come_at("10.0.0.1", 99, times[3]).unwrap();
        let third = table.come_at("10.0.0.1", 99, times[2]).unwrap();
        let first = table.come_at("10.0.0.1", 99, times[0]).unwrap();
        let second = table.come_at("10.0.0.1", 99, times[1]).unwrap();
        assert!(table.has(last) && table.has(second));
        assert!(!table.has(third) && !table.has(first));
    }

    #[test]
    fn a_request_on_a_connection_that_had_to_make_room_takes_a_place_again() {
        let mut table = Table::new(2);
        let seats = table.fill(2);
        let newcomer = table.come("10.0.0.1", 99).unwrap();
        assert!(!table.has(seats[0]));

        assert_eq!(table.ask(seats[0], UPLOAD, later()), Ok(true));
        assert!(table.has(seats[0]) && !table.has(seats[1]));
        table.runs(seats[0]);
        table.runs(newcomer);
        assert_eq!(table.ask(seats[1], KNOWN, later()), Err(Full::All));
        assert!(!table.has(seats[1]));
    }

    #[test]
    fn a_client_with_many_makes_room_for_itself() {
        let mut table = Table::new(10);
        let other = table.come("10.0.0.9", 3).unwrap();
        let own: Vec<u64> = (0..3).map(|_| table.come("10.0.0.1", 3).unwrap()).collect();
        let newest = table.come("10.0.0.1", 3).unwrap();
        assert!(table.has(other) && !table.has(own[0]) && table.has(own[1]));
        for seat in [own[1], own[2], newest] {
            table.runs(seat);
        }
        assert_eq!(table.come("10.0.0.1", 3), Err(Full::Client));
        assert!(
            table
                .enter(None, later(), watch::Sender::new(false))
                .is_ok()
        );
        table.leave(own[1]);
        assert!(table.come("10.0.0.1", 3).is_ok());
    }

    #[test]
    fn a_network_of_ipv6_is_one_client_and_mapped_addresses_are_what_they_map() {
        let same = |one, other| client(one) == client(other);
        assert!(same("2001:db8::1", "2001:db8::ffff:0:0:2"));
        assert!(!same("2001:db8::1", "2001:db8:0:1::1"));
        assert!(same("10.0.0.1", "::ffff:10.0.0.1"));
        assert!(!same("10.0.0.1", "10.0.0.2"));
    }

    #[derive(Clone, Copy, Debug)]
    enum Step {
        Come(u8),
        Ask(prop::sample::Index, bool, bool),
        Leave(prop::sample::Index),
    }

    fn step() -> impl Strategy<Value = Step> {
        let seat = any::<prop::sample::Index>;
        prop_oneof![
            3 => (0..4_u8).prop_map(Step::Come),
            4 => (seat(), any::<bool>(), any::<bool>()).prop_map(|(s, key, runs)| Step::Ask(s, key, runs)),
            2 => seat().prop_map(Step::Leave),
        ]
    }

    proptest! {
        /// Whatever happens: no place too many, of all or of one client, no running request displaced,
        /// and nobody is refused while somebody could make room.
        #[test]
        fn no_place_is_given_twice_or_lost(steps in prop::collection::vec(step(), 1..200)) {
            let (limit, most) = (6, 4);
            let mut table = Table::new(limit);
            let mut here: HashMap<u64, bool> = HashMap::new();
            for step in steps {
                let mut seats: Vec<u64> = here.keys().copied().collect();
                seats.sort_unstable();
                match step {
                    Step::Come(from) => match table.come(&format!("10.0.0.{from}"), most) {
                        Ok(number) => drop(here.insert(number, false)),
                        Err(Full::All) => prop_assert!(table.order.is_empty()),
                        Err(Full::Client) => {}
                    },
                    Step::Ask(index, key, runs) if !seats.is_empty() => {
                        let seat = seats[index.index(seats.len())];
                        let asking = Asking { shows_key: key, transfers: runs };
                        if !here[&seat] && table.ask(seat, asking, later()).is_ok() && runs {
                            table.runs(seat);
                            here.insert(seat, true);
                        }
                    }
                    Step::Leave(index) if !seats.is_empty() => {
                        let seat = seats[index.index(seats.len())];
                        table.leave(seat);
                        here.remove(&seat);
                    }
                    Step::Ask(..) | Step::Leave(_) => {}
                }
                let placed = table.seats.values().filter(|seat| seat.has_place());
                prop_assert_eq!(placed.count(), table.places);
                prop_assert!(table.places <= limit);
                prop_assert!(table.groups.values().all(|group| (1..=most).contains(&group.places)));
                let queued = table.seats.values().filter_map(|seat| seat.queued).count();
                prop_assert_eq!(table.order.len(), queued);
                let grouped: usize = table.groups.values().map(|group| group.order.len()).sum();
                prop_assert_eq!(grouped, queued);
                for (number, seat) in &table.seats {
                    let turn = seat.turn(*number);
                    prop_assert!(turn.is_none() || seat.queued.is_some_and(|it| Some(it) <= turn));
                }
                for (seat, runs) in &here {
                    prop_assert!(!runs || table.has(*seat));
                }
            }
        }
    }
}
