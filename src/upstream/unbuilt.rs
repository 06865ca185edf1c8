//! In the place of `kubernetes` in a program that was built without that feature.

use super::discovery::Endpoints;
use crate::config::{NOT_BUILT, Service};

/// Tells so; a configuration that wants it is refused before.
pub(super) async fn keep_watching(_: &Service, tell: impl Fn(Endpoints)) {
    tell(Endpoints::unknown(NOT_BUILT));
    std::future::pending().await
}
