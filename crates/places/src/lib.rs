//! Who may keep a connection when there are too many of them: for clients of the proxy, of the GPU host
//! and of the admin address alike.
//!
//! Connections that nobody uses are kept, since opening one costs its client time; so there are always
//! some that can make room. When all places are taken, or all that one client address may have, the one
//! that has been idle for longest does, whatever it pretends to be up to:
//!
//! ```text
//! first   strangers: no key was shown; in a handshake, in a head, idle, or reading an answer
//!   │     known: a key was shown, and nothing is asked
//!   ▼     transfers: the body or the answer of a request that is let in is on its way
//! never   a request waits or runs
//! ```
//!
//! Where no keys are asked for nobody is known, and all are equal. A request on a connection that was
//! about to make room takes a place again, from another one. Only if all places have requests that run
//! is a newcomer refused.
//!
//! Whoever makes room takes a moment to end, and whoever is refused one to be told. They are open files,
//! as all connections are, so [`Places::accept`] takes no newcomer while more than a few of them are left.
//!
//! [`Table`](table) decides; a [`Place`] is what a connection holds, and tells it when to end.

mod accept;
mod table;

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use prometheus::IntCounter;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::{Instant, sleep};

pub use self::accept::reachable;
use self::table::{Client, Table};

/// Between two lines in the log that tell of one thing.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// How long a connection that has to make room may take to say so: its place is another's already.
const LAST_WORDS: Duration = Duration::from_millis(100);

/// Most connections that may be open beyond the places: those that have to make room, or found none.
const MOST_SPARE: usize = 16;

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// All are taken.
    All,
    /// The client's address has as many as it may.
    Client,
}

/// What a request that has just come is.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asking {
    /// It shows a valid key.
    pub shows_key: bool,
    /// It is let in, and its body and its answer take time.
    pub transfers: bool,
}

/// The places of one kind of connections; clones share them.
#[derive(Clone)]
pub struct Places(Arc<Shared>);

struct Shared {
    /// In the log.
    name: &'static str,
    limit: usize,
    table: Mutex<Table>,
    displaced: IntCounter,
    told: Mutex<Option<Instant>>,
    /// For each connection that may be open, with or without a place.
    rooms: Arc<Semaphore>,
    /// Each connection has a receiver of it.
    here: watch::Sender<()>,
}

/// The right of one connection to be open, with or without a place; to be held as long as it is.
#[must_use = "another connection is accepted when it is dropped"]
pub struct Room {
    _permit: Option<OwnedSemaphorePermit>,
}

/// A connection's place, until the last clone is dropped.
#[derive(Clone)]
pub struct Place(Arc<Seat>);

struct Seat {
    shared: Arc<Shared>,
    number: u64,
    displaced: watch::Receiver<bool>,
    has_asked: AtomicBool,
    _here: watch::Receiver<()>,
}

/// A request that has come, until its answer is sent.
#[must_use = "the request is over when it is dropped"]
pub struct Visit {
    place: Place,
    asking: Asking,
}

/// A request waits or runs.
#[must_use = "it runs until this is dropped"]
pub struct Running(Place);

impl Places {
    /// So many. `displaced` counts the connections that had to make room.
    pub fn new(name: &'static str, limit: usize, displaced: IntCounter) -> Self {
        Self(Arc::new(Shared {
            name,
            limit,
            table: Mutex::new(Table::new(limit)),
            displaced,
            told: Mutex::default(),
            rooms: Arc::new(Semaphore::new(limit + spare(limit))),
            here: watch::Sender::new(()),
        }))
    }

    /// What one client address may have unless it is said: three quarters. A reverse proxy or a company
    /// behind one address is hardly bounded, and for all others there are always some.
    pub fn share(&self) -> usize {
        self.0.limit - self.0.limit / 4
    }

    /// A place for a connection that was opened at `at` from `client`, which may have `most` of them; `None`:
    /// any number.
    ///
    /// # Errors
    /// If nobody can make room.
    pub fn enter(&self, client: Option<IpAddr>, most: usize, at: Instant) -> Result<Place, Full> {
        let (sender, displaced) = watch::channel(false);
        let client = client.map(|client| (Client::from(client), most));
        let entered = self.0.table.lock().enter(client, at, sender);
        self.0.note(entered.map(|(_, made_room)| made_room));
        let (number, _) = entered?;
        Ok(Place(Arc::new(Seat {
            shared: Arc::clone(&self.0),
            number,
            displaced,
            has_asked: AtomicBool::new(false),
            _here: self.0.here.subscribe(),
        })))
    }

    /// Room for one more connection, once there is some.
    async fn room(&self) -> Room {
        let permit = Arc::clone(&self.0.rooms).acquire_owned().await;
        // Nobody closes it.
        let permit = permit.ok();
        Room { _permit: permit }
    }

    /// Waits until no connection is left.
    pub async fn emptied(&self) {
        self.0.here.closed().await;
    }
}

/// Connections that may be open beyond so many places.
fn spare(limit: usize) -> usize {
    (limit / 8).clamp(MOST_SPARE / 4, MOST_SPARE)
}

impl Shared {
    /// Is there little room left for connections without a place?
    fn is_crowded(&self) -> bool {
        self.rooms.available_permits() < spare(self.limit) / 2
    }

    /// Tells of what was done for a newcomer.
    fn note(&self, outcome: Result<bool, Full>) {
        if outcome == Ok(false) {
            return;
        }
        if outcome == Ok(true) {
            self.displaced.inc();
        }
        let now = Instant::now();
        let mut told = self.told.lock();
        if told.is_some_and(|at| now - at < TOLD_EVERY) {
            return;
        }
        *told = Some(now);
        drop(told);
        let (places, limit) = (self.name, self.limit);
        match outcome {
            Ok(_) => tracing::info!(
                places,
                limit,
                "connections are many: those idle for longest are closed to make room"
            ),
            Err(Full::All) => tracing::warn!(
                places,
                limit,
                "connections are refused: as many are in use as may be open"
            ),
            Err(Full::Client) => tracing::warn!(
                places,
                limit,
                "connections of one address are refused: it uses as many as it may"
            ),
        }
    }
}

impl Place {
    /// A request has come.
    ///
    /// # Errors
    /// If its connection has no place any more, and nobody can make room again.
    pub fn ask(&self, asking: Asking) -> Result<Visit, Full> {
        let Seat { shared, number, .. } = &*self.0;
        self.0.has_asked.store(true, Ordering::Relaxed);
        let asked = shared.table.lock().ask(*number, asking, Instant::now());
        shared.note(asked);
        asked?;
        Ok(Visit {
            place: self.clone(),
            asking,
        })
    }

    /// Returns once the connection has to make room.
    pub async fn displaced(&self) {
        let mut displaced = self.0.displaced.clone();
        // Its sender lives as long as this place.
        let _ = displaced.wait_for(|displaced| *displaced).await;
    }

    /// The same, once it has had the time to say so; in a crowd there is none.
    pub async fn overdue(&self) {
        loop {
            self.displaced().await;
            if !self.0.shared.is_crowded() {
                sleep(LAST_WORDS).await;
            }
            if *self.0.displaced.borrow() {
                return;
            }
        }
    }

    /// Runs `connection` until it ends, has to make room, or has asked for nothing within
    /// `first_request`.
    pub async fn hold<F: Future>(
        &self,
        first_request: Duration,
        connection: F,
    ) -> Option<F::Output> {
        let silent = async {
            sleep(first_request).await;
            if self.0.has_asked.load(Ordering::Relaxed) {
                std::future::pending::<()>().await;
            }
        };
        tokio::select! {
            biased;
            // First: what has come already is read, and may take a place again.
            ended = connection => Some(ended),
            () = self.displaced() => None,
            () = silent => None,
        }
    }
}

impl Visit {
    /// All is there that is needed; the connection makes room for nobody until this is dropped.
    pub fn run(&self) -> Running {
        let Seat { shared, number, .. } = &*self.place.0;
        shared.table.lock().runs(*number);
        Running(self.place.clone())
    }
}

impl Drop for Visit {
    fn drop(&mut self) {
        let Seat { shared, number, .. } = &*self.place.0;
        let mut table = shared.table.lock();
        table.answered(*number, self.asking, Instant::now());
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let Seat { shared, number, .. } = &*self.0.0;
        shared.table.lock().ran(*number, Instant::now());
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.shared.table.lock().leave(self.number);
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    const FIRST: Duration = Duration::from_secs(10);

    fn places(limit: usize) -> Places {
        let displaced = IntCounter::new("displaced", "Displaced.").unwrap();
        Places::new("test", limit, displaced)
    }

    fn come(places: &Places) -> Result<Place, Full> {
        places.enter(None, 0, Instant::now())
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_ends_when_it_has_to_make_room_and_is_counted() {
        let places = places(1);
        let first = come(&places).unwrap();
        let held = tokio::spawn(async move { first.hold(FIRST, pending::<()>()).await });
        tokio::task::yield_now().await;
        let begin = Instant::now();
        let second = come(&places).unwrap();
        assert_eq!(held.await.unwrap(), None);
        assert_eq!(begin.elapsed(), Duration::ZERO);
        assert_eq!(places.0.displaced.get(), 1);

        let visit = second.ask(Asking::default()).unwrap();
        let running = visit.run();
        assert_eq!(come(&places).err(), Some(Full::All));
        drop(running);
        assert!(come(&places).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_asks_for_nothing_has_a_short_time() {
        let places = places(2);
        let (silent, asked) = (come(&places).unwrap(), come(&places).unwrap());
        drop(asked.ask(Asking::default()).unwrap());
        let begin = Instant::now();
        assert_eq!(silent.hold(FIRST, pending::<()>()).await, None);
        assert_eq!(begin.elapsed(), FIRST);
        let connection = sleep(3 * FIRST);
        assert_eq!(asked.hold(FIRST, connection).await, Some(()));
    }

    #[tokio::test(start_paused = true)]
    async fn the_last_one_to_leave_is_waited_for_with_or_without_a_place() {
        let places = places(1);
        let first = come(&places).unwrap();
        drop(come(&places).unwrap());
        let emptied = tokio::time::timeout(FIRST, places.emptied());
        assert!(emptied.await.is_err());
        drop(first);
        places.emptied().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_connection_that_makes_room_has_time_for_last_words_but_in_a_crowd() {
        let places = places(1);
        let mut rooms = vec![places.room().await];
        for (many, time) in [(1, LAST_WORDS), (spare(1), Duration::ZERO)] {
            while rooms.len() < many {
                rooms.push(places.room().await);
            }
            let first = come(&places).unwrap();
            let _second = come(&places).unwrap();
            let begin = Instant::now();
            first.overdue().await;
            assert_eq!(begin.elapsed(), time, "{many} open");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_are_accepted_than_a_few_beyond_the_places() {
        let places = places(8);
        let mut rooms = Vec::new();
        for _ in 0..8 + spare(8) {
            rooms.push(places.room().await);
        }
        let next = tokio::time::timeout(FIRST, places.room());
        assert!(next.await.is_err());
        rooms.pop();
        let _next = places.room().await;
    }
}
