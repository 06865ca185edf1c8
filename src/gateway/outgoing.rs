//! The end of a request's way: what its client gets, and how that reaches it.

use std::pin::pin;

use gpu_bridge_places::Place;
use http::request::Parts;
use http::{HeaderMap, HeaderName, StatusCode};

use super::body;
use super::call;
use super::cors;
use super::handler::Handler;
use super::record::Record;
use super::request_id;
use super::respond::{self, Reply};
use super::route::Route;
use super::session::{Session, Unsent};
use crate::dispatch::Delivery;
use crate::message::{Cut, Deadline};

/// Names the hosts that answered.
const SERVED_BY: HeaderName = HeaderName::from_static("x-served-by");
/// Where the time went (W3C Server-Timing).
const SERVER_TIMING: HeaderName = HeaderName::from_static("server-timing");

/// What becomes of a request.
pub(super) enum Outgoing {
    Own(Reply),
    Host {
        delivery: Box<Delivery>,
        /// Until when the client wants it.
        deadline: Deadline,
        /// Why it is not what the host said, if it is not.
        why: Option<String>,
    },
    /// Nobody is there to read one.
    ClientGone,
}

impl Handler {
    /// Writes the `answer`, and into the `record` what came of that.
    pub(super) async fn write(
        &self,
        session: &mut Session<'_>,
        place: &Place,
        answer: Outgoing,
        record: &mut Record,
    ) -> Result<(), Unsent> {
        let written = {
            let send = pin!(self.send(session, answer, record));
            tokio::select! {
                biased;
                written = send => written,
                () = place.overdue() => Err(Unsent::Displaced),
            }
        };
        if let Err(error) = &written {
            // What the client got is cut off; it is not the one who went away.
            let cut = match error {
                Unsent::Cut(Cut::Failed(_) | Cut::Unusable(_)) => Some(StatusCode::BAD_GATEWAY),
                Unsent::TooLate | Unsent::Displaced => Some(StatusCode::SERVICE_UNAVAILABLE),
                Unsent::Cut(Cut::TooSlow) | Unsent::Untaken => None,
            };
            record.told.status = cut.map(|status| status.as_u16());
            record.told.why = cut.map(|_| error.to_string());
        }
        if let Some((status, bytes)) = written? {
            record.told.status = Some(status.as_u16());
            record.told.response_bytes = bytes;
        }
        Ok(())
    }

    /// The status, and the bytes of the body that went out; none: nobody is there to take them.
    async fn send(
        &self,
        session: &mut Session<'_>,
        answer: Outgoing,
        record: &mut Record,
    ) -> Result<Option<(StatusCode, usize)>, Unsent> {
        let (status, bytes) = match answer {
            Outgoing::Own(mut reply) => {
                record.refuse(&mut reply);
                let status = reply.status;
                self.tell(&mut reply.headers, session.head(), &[], record);
                (status, write_own(session, reply).await?)
            }
            Outgoing::Host {
                mut delivery,
                deadline,
                why,
            } => {
                record.told.why = why;
                let hosts = std::iter::once(&delivery.host).chain(&delivery.others);
                let hosts: Vec<_> = hosts.map(AsRef::as_ref).collect();
                let headers = &mut delivery.answer.headers;
                if let Some(space) = delivery.space {
                    let space = respond::header_value(&space.to_string());
                    headers.insert(call::SPACE, space);
                }
                self.tell(headers, session.head(), &hosts, record);
                let bytes = respond::deliver(&mut delivery, session, deadline).await?;
                (delivery.answer.status, bytes)
            }
            Outgoing::ClientGone => {
                session.make_last();
                return Ok(None);
            }
        };
        Ok(Some((status, bytes)))
    }

    /// Says in the `headers` of an answer what became of the request that `asked`; `hosts`: who served it.
    fn tell(&self, headers: &mut HeaderMap, asked: &Parts, hosts: &[&str], record: &mut Record) {
        let times = record.answering();
        let config = self.config.get();
        cors::permit(&config.cors.allow_origins, asked, headers);
        headers.insert(request_id::HEADER, respond::header_value(record.id()));
        if record.route.is_some_and(Route::is_compute) {
            headers.insert(
                SERVER_TIMING,
                respond::header_value(&respond::timing(times)),
            );
        }
        if !hosts.is_empty() && config.headers.served_by {
            headers.insert(SERVED_BY, respond::header_value(&hosts.join(", ")));
        }
    }
}

/// Its connection takes no further request.
pub(super) fn last(session: &mut Session<'_>, reply: Reply) -> Outgoing {
    session.make_last();
    Outgoing::Own(reply)
}

/// Writes an answer of our own, perhaps while the client is still sending its request.
async fn write_own(session: &mut Session<'_>, reply: Reply) -> Result<usize, Unsent> {
    let is_awaited = !session.is_body_done() && !body::expects_continue(session.head());
    let bytes = reply.write(session).await?;
    // One that waits for a go-ahead may never send the body that it announced.
    if is_awaited {
        session.drain().await;
    }
    Ok(bytes)
}
