//! Reads the body of a request, bounded in size, in time and in what all bodies take together.

use std::time::Duration;

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, header};
use http_body_util::BodyExt;
use hyper::body::Body as _;
use tokio::time::timeout;

use super::budget::{Exhausted, Reservation};
use super::error::ApiError;
use super::validate::RawBody;
use crate::metrics::Rejection;

/// How long a client may take to send a body.
const READ_TIMEOUT: Duration = Duration::from_mins(1);

/// A body that takes longer makes room once others wait for it.
const BRISK: Duration = Duration::from_secs(5);

/// How long a client that was refused may go on sending, to no avail.
const LINGER: Duration = Duration::from_secs(10);

/// A body in memory.
pub(super) struct Received {
    bytes: Bytes,
    is_json: bool,
}

impl Received {
    pub(super) fn as_raw(&self) -> RawBody<'_> {
        RawBody {
            bytes: &self.bytes,
            is_json: self.is_json,
        }
    }
}

/// Reads at most `limit` bytes, reserving them first in `held`, so that of many large ones some get through.
/// A body that announces more is refused before any of it is read; one that comes slowly, once others wait for room.
pub(super) async fn read(
    headers: &HeaderMap,
    body: &mut Body,
    limit: usize,
    held: &mut Reservation,
) -> Result<Received, ApiError> {
    let needed = held.needed_by_others(BRISK);
    let bytes = tokio::select! {
        biased;
        bytes = timeout(READ_TIMEOUT, collect(body, limit, held)) => bytes,
        () = needed => return Err(ApiError::Busy(Rejection::Memory)),
    };
    let bytes = bytes.map_err(|_| ApiError::BodyTimeout {
        seconds: READ_TIMEOUT.as_secs(),
    })??;
    Ok(Received {
        bytes,
        is_json: is_json(headers),
    })
}

async fn collect(body: &mut Body, limit: usize, held: &mut Reservation) -> Result<Bytes, ApiError> {
    let too_large = ApiError::BodyTooLarge { limit };
    let announced = match usize::try_from(body.size_hint().exact().unwrap_or(0)) {
        Ok(announced) if announced <= limit => announced,
        _ => return Err(too_large),
    };
    held.grow_to(announced).await?;
    let mut bytes = BytesMut::with_capacity(announced);
    while let Some(frame) = body.frame().await {
        // An error means that the transfer broke off or was malformed.
        let frame = frame.map_err(|_| ApiError::Unparsable)?;
        let Ok(piece) = frame.into_data() else {
            continue;
        };
        let length = bytes.len().saturating_add(piece.len());
        if length > limit {
            return Err(too_large);
        }
        held.grow_to(length).await?;
        bytes.extend_from_slice(&piece);
    }
    Ok(bytes.freeze())
}

impl From<Exhausted> for ApiError {
    fn from(_: Exhausted) -> Self {
        Self::Busy(Rejection::Memory)
    }
}

/// Lets go of a body that was not wanted. What the client is still sending is read and thrown away
/// for a while: a connection that is closed with unread bytes takes the answer with it.
pub(super) fn abandon(headers: &HeaderMap, mut body: Body) {
    // Who waits to be asked for the body sends none.
    if body.is_end_stream() || headers.contains_key(header::EXPECT) {
        return;
    }
    tokio::spawn(timeout(LINGER, async move {
        while let Some(Ok(_)) = body.frame().await {}
    }));
}

/// True for `application/json` and `application/*+json`, with or without parameters.
fn is_json(headers: &HeaderMap) -> bool {
    let Some(value) = headers
        .get(header::CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
    else {
        return false;
    };
    let essence = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    let subtype = essence.strip_prefix("application/").unwrap_or_default();
    !subtype.contains('/') && (subtype == "json" || subtype.ends_with("+json"))
}

#[cfg(test)]
mod tests {
    use std::pin::Pin;
    use std::task::{Context, Poll};

    use http::HeaderValue;
    use hyper::body::{Frame, SizeHint};

    use super::super::budget::Budget;
    use super::*;

    #[test]
    fn json_is_known_by_its_content_type() {
        let table = [
            ("application/json", true),
            ("APPLICATION/JSON", true),
            ("application/json; charset=latin-1", true),
            ("application/vnd.api+json", true),
            ("application/geo+json;x=1", true),
            ("text/json", false),
            ("application/jsonx", false),
            ("application/a/json", false),
            ("application/", false),
            ("json", false),
            ("", false),
        ];
        for (value, expected) in table {
            let mut headers = HeaderMap::new();
            assert!(!is_json(&headers));
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(value));
            assert_eq!(is_json(&headers), expected, "{value}");
        }
    }

    fn held() -> Reservation {
        Budget::new(1 << 20).open()
    }

    #[tokio::test]
    async fn a_body_is_read_up_to_the_limit_and_no_further() {
        let chunked = || {
            let pieces = ["12", "345"].map(Ok::<_, std::io::Error>);
            Body::from_stream(futures_util::stream::iter(pieces))
        };
        for body in [|| Body::from("12345"), chunked] {
            let bytes = collect(&mut body(), 5, &mut held()).await.unwrap();
            assert_eq!(bytes, "12345");
            let refused = collect(&mut body(), 4, &mut held()).await;
            assert!(matches!(refused, Err(ApiError::BodyTooLarge { limit: 4 })));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_never_ends_is_given_up() {
        let stalled = futures_util::stream::pending::<Result<Bytes, std::io::Error>>();
        let mut body = Body::from_stream(stalled);
        let outcome = read(&HeaderMap::new(), &mut body, 10, &mut held()).await;
        assert!(matches!(
            outcome,
            Err(ApiError::BodyTimeout { seconds: 60 })
        ));
    }

    #[tokio::test(start_paused = true)]
    async fn bodies_together_take_no_more_than_the_budget() {
        let budget = Budget::new(4096);
        let send = |size: usize| Body::from(vec![b' '; size]);
        let mut first = budget.open();
        assert!(collect(&mut send(3000), 4096, &mut first).await.is_ok());
        let mut second = budget.open();
        let refused = collect(&mut send(3000), 4096, &mut second).await;
        assert!(matches!(refused, Err(ApiError::Busy(Rejection::Memory))));
        drop(first);
        assert!(collect(&mut send(3000), 4096, &mut second).await.is_ok());
    }

    /// A body that announces 4 KiB, of which nothing comes.
    struct Silent;

    impl hyper::body::Body for Silent {
        type Data = Bytes;
        type Error = std::convert::Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
            Poll::Pending
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(4096)
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_comes_slowly_makes_room_for_others() {
        let budget = Budget::new(4096);
        let mut first = budget.open();
        let silent = async {
            let outcome = read(&HeaderMap::new(), &mut Body::new(Silent), 4096, &mut first).await;
            drop(first.take());
            outcome
        };
        let mut second = budget.open();
        let (refused, found) = tokio::join!(silent, async {
            tokio::time::sleep(BRISK).await;
            second.grow_to(4096).await
        });
        assert!(matches!(refused, Err(ApiError::Busy(Rejection::Memory))));
        assert_eq!(found, Ok(()));
    }
}
