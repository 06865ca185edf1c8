//! The end of a request: the one event that logs, metrics, traces and the live page are told of it.

use std::sync::Arc;

use super::activity::{End, Shape};
use super::metrics::Reason;
use super::request_record::{ABANDONED, APART, CLIENT_GONE, RequestRecord};

/// A request that is over.
#[derive(Clone, Debug)]
pub struct Finished {
    /// What became of it; with a status.
    pub record: Arc<RequestRecord>,
    /// Why the proxy refused it, if it did.
    pub refused: Option<Reason>,
    /// It asked for computation.
    pub computes: bool,
    /// A host was looked for.
    pub queued: bool,
}

impl Finished {
    /// What its client got.
    pub(super) fn status(&self) -> u16 {
        self.record.status.unwrap_or(CLIENT_GONE)
    }

    /// What its end says of the pool; `None` for what clients do wrong or give up.
    pub(super) fn end(&self) -> Option<End> {
        match (self.refused, self.status()) {
            (Some(reason), _) => refusal(reason),
            (None, 429) => Some(End::Full),
            (None, 400..500) => None,
            (None, 500..) => Some(End::Badly),
            (None, _) => Some(End::Well),
        }
    }

    /// How it was run.
    pub(super) fn shape(&self) -> Shape {
        let attempts = self.record.attempts.iter();
        let delivered = attempts.filter(|tried| tried.verdict == "deliver");
        delivered.fold(Shape::default(), |shape, tried| Shape {
            in_parts: shape.in_parts || tried.items.is_some(),
            together: shape.together || tried.others.is_some(),
        })
    }

    /// Was it refused, or did it meet a fault, even if a sibling made up for it?
    pub(super) fn is_incident(&self) -> bool {
        let mut attempts = self.record.attempts.iter();
        let is_fault = |verdict: &str| !matches!(verdict, "deliver" | "busy" | ABANDONED | APART);
        matches!(self.status(), 429 | 500..) || attempts.any(|tried| is_fault(&tried.verdict))
    }
}

/// What a refusal says of the pool. A key that has used up what it may says nothing of it.
fn refusal(reason: Reason) -> Option<End> {
    match reason {
        Reason::Memory | Reason::QueueFull | Reason::QueueTooLong | Reason::Deadline => {
            Some(End::Full)
        }
        Reason::HostsFailed | Reason::WrongAnswers => Some(End::Badly),
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
        | Reason::NoModel
        | Reason::OtherSpace
        | Reason::Stopping => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(status: u16, refused: Option<Reason>) -> Option<End> {
        let mut record = RequestRecord::new("id".to_owned());
        record.status = Some(status);
        let finished = Finished {
            record: Arc::new(record),
            refused,
            computes: true,
            queued: true,
        };
        finished.end()
    }

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
                "hosts_failed" | "wrong_answers" => Some(End::Badly),
                _ => None,
            };
            for status in [307, 400, 401, 429, 502, 503] {
                assert_eq!(ended(status, Some(reason)), expected, "{reason:?} {status}");
            }
        }
    }
}
