//! Talking to clients: who they are, what they want, and their answer.
//!
//! pingora's own proxying cannot repeat a request body of more than 64 KiB, so the exchange is taken
//! over in its request filter: authenticate, route, read the body, dispatch, answer. The hook only
//! delegates; [`handler`] has the way of a request.
//!
//! The gateway knows nothing of hosts but what others report of them.

mod aggregate;
mod auth;
mod body;
mod connections;
mod handler;
mod peek;
mod record;
mod request_id;
mod respond;
mod route;

use async_trait::async_trait;
use pingora::proxy::{ProxyHttp, Session};
use pingora::upstreams::peer::HttpPeer;

pub use auth::Auth;
pub use connections::{ConnectionLimit, Connections};
pub use handler::{Handler, Settings};

use crate::upstream::Upstream;

/// The handler as a pingora application.
pub struct Gateway<U>(pub Handler<U>);

#[async_trait]
impl<U: Upstream> ProxyHttp for Gateway<U> {
    type CTX = ();

    fn new_ctx(&self) -> Self::CTX {}

    async fn request_filter(
        &self,
        session: &mut Session,
        _ctx: &mut Self::CTX,
    ) -> pingora::Result<bool> {
        self.0.handle(&mut session.downstream_session).await?;
        Ok(true)
    }

    async fn upstream_peer(
        &self,
        _session: &mut Session,
        _ctx: &mut Self::CTX,
    ) -> pingora::Result<Box<HttpPeer>> {
        // Never asked: the request filter has answered every request.
        pingora::Error::e_explain(
            pingora::ErrorType::InternalError,
            "requests are not proxied here",
        )
    }
}
