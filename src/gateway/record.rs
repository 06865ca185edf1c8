//! The record of one request, which is told to all who observe when it ends, however it ends.

use std::borrow::Cow;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use http::Method;

use super::respond::Reply;
use super::route::Route;
use crate::message::Call;
use crate::telemetry::{Begun, CLIENT_GONE, Finished, Journal, Observers, Reason, RequestRecord};

/// Writes itself down when it is dropped.
pub(super) struct Record {
    observers: Observers,
    pub(super) route: Option<Route>,
    pub(super) journal: Journal,
    /// All but what the journal tells.
    pub(super) told: RequestRecord,
    /// Why the proxy itself refused it, if it did.
    refused: Option<Reason>,
    /// A host is looked for, and the request can be found meanwhile.
    begun: Option<Begun>,
}

impl Record {
    /// `address`: the client's.
    pub(super) fn new(observers: &Observers, id: String, address: Option<IpAddr>) -> Self {
        let mut told = RequestRecord::new(id);
        told.address = address;
        Self {
            observers: observers.clone(),
            route: None,
            journal: Journal::default(),
            told,
            refused: None,
            begun: None,
        }
    }

    pub(super) fn id(&self) -> &str {
        &self.told.id
    }

    /// What is asked for, as far as it is known by name: clients may make up any method.
    pub(super) fn asked(&mut self, method: &Method, route: Option<Route>) {
        self.route = route;
        self.told.method = Cow::Borrowed(known(method));
        if let Some(route) = route {
            self.told.route = Cow::Borrowed(route.as_str());
        }
    }

    /// A host is looked for.
    pub(super) fn begin(&mut self, call: &Call) {
        let demand = &call.demand;
        let named = demand.model.as_ref().filter(|model| !model.is_default());
        self.told.model = named.map(|model| model.as_str().to_owned());
        self.told.items = demand.work.items;
        self.told.request_bytes = call.body.len();
        let recent = &self.observers.recent;
        self.begun = Some(recent.begin(self.told.clone(), self.journal.clone()));
    }

    /// The proxy answers itself; this may be a refusal.
    pub(super) fn refuse(&mut self, reply: &mut Reply) {
        self.refused = reply.reason;
        self.told.why = reply.why.take();
    }

    /// The answer is there and about to be written. Returns the [times](Journal::times) so far.
    pub(super) fn answering(&mut self) -> [Duration; 3] {
        let times = self.journal.times();
        self.told.first_byte = Some(times[2]);
        times
    }
}

fn known(method: &Method) -> &'static str {
    const METHODS: [&str; 8] = [
        "GET", "POST", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH", "TRACE",
    ];
    let same = METHODS.into_iter().find(|known| *known == method.as_str());
    same.unwrap_or("other")
}

impl Drop for Record {
    fn drop(&mut self) {
        let mut told = std::mem::replace(&mut self.told, RequestRecord::new(String::new()));
        self.journal.tell(&mut told);
        told.status.get_or_insert(CLIENT_GONE);
        self.observers.ended(&Finished {
            record: Arc::new(told),
            refused: self.refused,
            computes: self.route.is_some_and(Route::is_compute),
            queued: self.begun.is_some(),
        });
    }
}
