//! The way to the API server: who we are, and what it may cost.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::Bytes;
use hyper::body::{Body, Frame};
use kube::client::{ClientBuilder, DynBody};
use kube::config::KubeConfigOptions;
use kube::{Client, Config};
use memchr::memrchr;
use tower::limit::RateLimitLayer;
use tower::util::MapResponseLayer;
use tower::{BoxError, Service};

use super::trouble::Trouble;

/// How long a connection may take.
const CONNECT: Duration = Duration::from_secs(10);
/// How long it may be silent: longer than a watch lasts.
pub(super) const SILENCE: Duration = Duration::from_secs(75);
/// A list, or a line of a watch, that is longer is refused: a slice has at most a thousand endpoints, of half
/// a KB each.
const LONGEST: usize = 8 << 20;
/// A server that ends each watch at once, without an error, would be asked again at once.
const REQUESTS: (u64, Duration) = (10, Duration::from_secs(5));

type Answer = http::Response<Box<DynBody>>;

/// A client with the credentials of this moment: those of a kubeconfig (`KUBECONFIG`, `~/.kube/config`), else
/// those of the pod's service account. It follows a token that is replaced.
pub(super) async fn connect() -> Result<Client, Trouble> {
    let mut config = match Config::from_kubeconfig(&KubeConfigOptions::default()).await {
        Ok(config) => config,
        Err(error) => {
            let named = std::env::var_os("KUBECONFIG");
            Config::incluster().map_err(|_| Trouble::of_kubeconfig(&error, named.as_deref()))?
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    // It would wait for up to a quarter of an hour without a word.
    config.default_retry = false;
    let builder = ClientBuilder::try_from(config).map_err(|_| Trouble::BadWay)?;
    Ok(bounded(builder))
}

/// Holds what goes through `builder` to the bounds above.
fn bounded<S>(builder: ClientBuilder<S>) -> Client
where
    S: Service<http::Request<kube::client::Body>, Response = Answer> + Send + 'static,
    S::Future: Send + 'static,
    S::Error: Into<BoxError>,
{
    let (requests, period) = REQUESTS;
    let bound = |answer: Answer| answer.map(|body| Bounded { body, line: 0 });
    builder
        .with_layer(&MapResponseLayer::new(bound))
        .with_layer(&RateLimitLayer::new(requests, period))
        .build()
}

/// Ends with an error once a line of it is too long.
struct Bounded {
    body: Box<DynBody>,
    /// Bytes of the last line so far.
    line: usize,
}

/// See [`LONGEST`].
#[derive(Debug)]
pub(super) struct TooLong;

impl Bounded {
    fn pass(&mut self, frame: Frame<Bytes>) -> Result<Frame<Bytes>, BoxError> {
        let data = frame.data_ref().map_or(&[][..], AsRef::as_ref);
        self.line = match memrchr(b'\n', data) {
            Some(end) => data.len() - end - 1,
            None => self.line + data.len(),
        };
        if self.line > LONGEST {
            return Err(TooLong.into());
        }
        Ok(frame)
    }
}

impl Body for Bounded {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let this = self.get_mut();
        let frame = ready!(Pin::new(&mut this.body).poll_frame(cx));
        Poll::Ready(frame.map(|frame| this.pass(frame?)))
    }
}

impl std::error::Error for TooLong {}

impl fmt::Display for TooLong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "more than {} MiB in one piece", LONGEST >> 20)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use http_body_util::{BodyExt as _, Full};
    use kube::runtime::watcher::DefaultBackoff;

    use super::super::{Endpoints, watch};
    use super::*;

    const LIST: &str = r#"{"metadata":{"resourceVersion":"1"},"items":[]}"#;

    fn answer(text: &'static str) -> Answer {
        let body = Full::new(Bytes::from_static(text.as_bytes()));
        let body = body.map_err(|never| match never {});
        http::Response::new(Box::new(body))
    }

    /// Lets ten minutes of a watch pass that ends at once whenever it is begun. Time stands still in a hot loop,
    /// so that the server must put an end to one.
    #[tokio::test(start_paused = true)]
    async fn a_server_that_ends_each_watch_at_once_is_not_asked_in_a_hot_loop() {
        let asked = AtomicUsize::new(0);
        let (requests, period) = REQUESTS;
        let minutes = Duration::from_mins(10);
        let most = usize::try_from(requests * (minutes.as_secs() / period.as_secs() + 1)).unwrap();
        let service = tower::service_fn(move |request: http::Request<kube::client::Body>| {
            let is_enough = asked.fetch_add(1, Ordering::Relaxed) >= most;
            let is_watch = request.uri().query().unwrap_or_default().contains("watch");
            async move {
                if is_enough {
                    return Err(BoxError::from("asked too often"));
                }
                Ok(answer(if is_watch { "" } else { LIST }))
            }
        });
        let client = bounded(ClientBuilder::new(service, "default"));
        let service = crate::config::Service {
            name: "gpus".into(),
            namespace: None,
            port: None,
            number: 8765,
        };
        let mut backoff = DefaultBackoff::default();
        let watching = watch(client, &service, &|_: Endpoints| (), &mut backoff);
        let ended = tokio::time::timeout(minutes, watching).await;
        assert!(ended.is_err(), "{ended:?}");
    }

    #[tokio::test]
    async fn lines_are_bounded_and_answers_are_not() {
        let body = |lines: &[usize]| {
            let line = |length: &usize| [vec![b'x'; *length], b"\n".to_vec()].concat();
            let text: Vec<u8> = lines.iter().flat_map(line).collect();
            // In frames of other lengths than the lines.
            let frames: Vec<_> = text.chunks(1 << 20).map(Bytes::copy_from_slice).collect();
            let frames = frames.into_iter().map(|data| Ok(Frame::data(data)));
            let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
            Bounded {
                body: Box::new(body),
                line: 0,
            }
        };
        let half = LONGEST / 2;
        assert!(body(&[half, half, half, half]).collect().await.is_ok());
        let error = body(&[half, LONGEST + (1 << 20)]).collect().await.err();
        assert!(error.is_some_and(|error| error.is::<TooLong>()));
    }
}
