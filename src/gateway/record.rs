//! The record of one request, made when it ends, however it ends: its line in the log, its place in
//! the metrics and on the live page, and what `gpu-bridge explain` tells.

use std::borrow::Cow;
use std::net::IpAddr;

use http::Method;

use super::respond::Reply;
use super::route::Route;
use crate::message::Call;
use crate::telemetry::{
    Begun, CLIENT_GONE, End, Finished, Incident, Journal, Observers, Reason, RequestRecord,
};

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
        self.told.model = demand.model.as_ref().map(|model| model.as_str().to_owned());
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

    /// The answer is there and about to be written.
    pub(super) fn answering(&mut self) {
        self.told.first_byte = Some(self.journal.elapsed());
    }

    fn count(&self, told: &RequestRecord, status: u16) {
        self.observers.metrics.requests.finished(&Finished {
            route: self.route.map_or("other", Route::as_str),
            status,
            client: told.client.as_deref(),
            refused: self.refused,
            duration: told.total,
            first_byte: told.first_byte,
            queued: self.begun.is_some().then_some(told.queued),
            received: told.request_bytes,
            sent: told.response_bytes,
        });
    }

    /// For those who watch live: what asks for no computation is not worth their while.
    fn show(&self, told: &RequestRecord, status: u16) {
        let Some(route) = self.route.filter(|route| route.is_compute()) else {
            return;
        };
        let activity = &self.observers.metrics.activity;
        if let Some(ended) = ended(status, self.refused) {
            activity.request(ended, told.total);
        }
        let attempts = &told.attempts;
        if matches!(status, 429 | 500..) || attempts.iter().any(|tried| is_fault(&tried.verdict)) {
            let attempts = attempts.iter();
            let attempts = attempts.map(|tried| (tried.host.clone(), tried.verdict.clone()));
            activity.incident(Incident {
                at: told.at + told.total,
                id: told.id.clone(),
                client: told.client.clone(),
                route: route.as_str(),
                status,
                why: told.why.clone(),
                attempts: attempts.collect(),
                took: told.total,
            });
        }
    }
}

/// What its end says of the pool; `None` for what clients do wrong or give up. `refused`: by the proxy.
fn ended(status: u16, refused: Option<Reason>) -> Option<End> {
    match (refused, status) {
        (Some(reason), _) => refusal(reason),
        (None, 429) => Some(End::Full),
        (None, 400..500) => None,
        (None, 500..) => Some(End::Badly),
        (None, _) => Some(End::Well),
    }
}

/// The same of a refusal. A key that has used up what it may says nothing of the pool either.
fn refusal(reason: Reason) -> Option<End> {
    match reason {
        Reason::Memory | Reason::QueueFull | Reason::QueueTooLong | Reason::Deadline => {
            Some(End::Full)
        }
        Reason::HostsFailed => Some(End::Badly),
        Reason::BadHead
        | Reason::NoPlace
        | Reason::Unauthorized
        | Reason::NoRoute
        | Reason::BadHeader
        | Reason::MaxConcurrent
        | Reason::MaxPerSecond
        | Reason::BodyTooLarge
        | Reason::BodyTooSlow
        | Reason::BadBody
        | Reason::BodyCoded
        | Reason::NoModel => None,
    }
}

/// Does this verdict tell of something that should not be, even if a sibling made up for it?
fn is_fault(verdict: &str) -> bool {
    !matches!(verdict, "deliver" | "busy" | "abandoned")
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
        let status = *told.status.get_or_insert(CLIENT_GONE);
        self.count(&told, status);
        self.show(&told, status);
        self.observers.ended(told);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_do_wrong_says_nothing_of_the_pool() {
        for status in [
            400,
            401,
            403,
            404,
            405,
            408,
            413,
            415,
            422,
            431,
            CLIENT_GONE,
        ] {
            assert_eq!(ended(status, None), None, "{status}");
        }
        let table = [
            (200, End::Well),
            (429, End::Full),
            (503, End::Badly),
            (500, End::Badly),
        ];
        for (status, expected) in table {
            assert_eq!(ended(status, None), Some(expected), "{status}");
        }
    }

    #[test]
    fn a_refusal_counts_by_its_reason_whatever_its_status() {
        for reason in Reason::ALL {
            let expected = match reason.as_str() {
                "memory" | "queue_full" | "queue_too_long" | "deadline" => Some(End::Full),
                "hosts_failed" => Some(End::Badly),
                _ => None,
            };
            for status in [307, 400, 401, 429, 502, 503] {
                assert_eq!(ended(status, Some(reason)), expected, "{reason:?} {status}");
            }
        }
    }
}
