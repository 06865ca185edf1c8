//! One connection that speaks HTTP/2: many requests at once, each handled as any other.
//!
//! Client and server share the connection's windows, so that what a client may send without being
//! read is bounded. What it does not take of its answers counts as long as it is there, whoever has it. The
//! connection ends when it has taken nothing, or it has been idle for long, when the client breaks the
//! rules too often or floods us with what is [no request](super::flood), or, once the proxy stops, with the
//! last of its requests.

use std::future::poll_fn;
use std::sync::Arc;
use std::time::Duration;

use gpu_bridge_places::Place;
use pingora::protocols::http::ServerSession;
use pingora::protocols::http::v2::server::{self, H2Accept, H2Options, HttpSession};
use pingora::protocols::{Digest, Stream};
use tokio::sync::{Notify, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};

use super::handler::Handler;
use super::metered::Metered;
use super::pace::{PIECE, Pace};
use super::session::Session;
use crate::config;

/// Requests at once on one connection; what RFC 9113 recommends at least.
const MAX_STREAMS: u32 = 100;
/// Bytes that may be on their way to us on one connection, read by nobody.
const WINDOW: u32 = 256 << 10;
/// How long a client without a request may take to hang up once it was told to.
const FAREWELL: Duration = Duration::from_secs(2);
/// What we say to those who overdo it (RFC 9113, section 7).
const ENHANCE_YOUR_CALM: u32 = 0xb;
/// Requests so malformed that they are not handled at all.
const MAX_REJECTED: usize = 32;

/// The code of a farewell (RFC 9113 §7).
const NO_ERROR: u32 = 0;

/// Serves a connection.
pub(super) async fn serve(
    handler: &Arc<Handler>,
    stream: Stream,
    place: &Place,
    stopping: &watch::Receiver<bool>,
) {
    let config::Timeouts {
        client_head,
        client_idle,
        ..
    } = handler.config.get().timeouts;
    let digest = Arc::new(Digest {
        ssl_digest: stream.get_ssl_digest(),
        timing_digest: stream.get_timing_digest(),
        proxy_digest: stream.get_proxy_digest(),
        socket_digest: stream.get_socket_digest(),
    });
    let options = options(handler.config.get().limits.max_head);
    let flood = Arc::new(Notify::new());
    let stream = Metered::new(stream, &flood);
    let stall = stream.stall();
    let stream: Stream = Box::new(stream);
    let handshake = server::handshake(stream, Some(options));
    let Ok(Ok(mut connection)) = timeout(client_head, handshake).await else {
        return;
    };
    // Until the first request.
    let mut idle = client_head;
    let mut stopping = stopping.clone();
    // The client has been told that it is to send nothing more (GOAWAY).
    let mut is_ending = false;
    let mut makes_room = false;
    let mut rejected = 0;
    let mut requests = JoinSet::new();
    loop {
        let patience = if is_ending { FAREWELL } else { idle };
        let accepted = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop), if !is_ending => {
                is_ending = true;
                connection.graceful_shutdown();
                continue;
            }
            () = flood.notified() => break,
            () = stalled(handler, &stall) => return,
            Some(_) = requests.join_next() => continue,
            accepted = HttpSession::from_h2_conn(&mut connection, Arc::clone(&digest)) => accepted,
            // It tells which requests were answered, so that the client sends others elsewhere.
            () = place.displaced(), if !makes_room => {
                makes_room = true;
                connection.abrupt_shutdown(NO_ERROR.into());
                continue;
            }
            () = sleep(patience), if requests.is_empty() => {
                if is_ending {
                    return;
                }
                is_ending = true;
                connection.graceful_shutdown();
                continue;
            }
        };
        match accepted {
            Ok(Some(H2Accept::Session(request))) => {
                let session = Session::http2(ServerSession::new_http2(request), pace(handler));
                idle = client_idle;
                requests.spawn(handle(Arc::clone(handler), session, place.clone()));
            }
            Ok(Some(H2Accept::Rejected)) if rejected < MAX_REJECTED => rejected += 1,
            Ok(Some(H2Accept::Rejected)) => break,
            // Requests end with their connection.
            Ok(None) | Err(_) => return,
        }
    }
    handler.observers.metrics.process.calmed_connection();
    tracing::info!(
        "a connection of HTTP/2 was ended: its client sent little but what is no request"
    );
    requests.abort_all();
    connection.abrupt_shutdown(ENHANCE_YOUR_CALM.into());
    // Best effort: a client that is not reading loses nothing it has a right to.
    let closed = poll_fn(|context| connection.poll_closed(context));
    let _ = timeout(client_head, closed).await;
}

fn options(max_head: usize) -> H2Options {
    let mut options = server::default_h2_options();
    options
        .max_concurrent_streams(MAX_STREAMS)
        .max_header_list_size(u32::try_from(max_head).unwrap_or(u32::MAX))
        .initial_window_size(WINDOW)
        .initial_connection_window_size(WINDOW)
        .max_send_buffer_size(PIECE);
    options
}

/// Returns once the client has taken nothing for too long.
async fn stalled(handler: &Handler, stall: &watch::Receiver<Option<Instant>>) {
    pace(handler).stalled(stall.clone()).await;
}

fn pace(handler: &Handler) -> Pace {
    Pace {
        budget: handler.budget.clone(),
        patience: handler.config.get().timeouts.client_read,
    }
}

async fn handle(handler: Arc<Handler>, mut session: Session<'_>, place: Place) {
    // An error here: the client has gone, and the record of the request says so.
    let _ = handler.handle(&mut session, &place).await;
}
