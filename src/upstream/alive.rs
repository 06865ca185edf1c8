//! Whether a host is still there while it is waited for in another matter.

use std::pin::pin;
use std::time::Duration;

use futures_util::future::{Either, select};
use tokio::time::timeout;

/// So often it is asked. With `pool`'s own pace of checks, a host that freezes in the middle of one is found out as
/// soon as one that does between two.
const AGAIN: Duration = Duration::from_millis(300);

/// What `told` comes to; meanwhile `ask` asks the host again and again whether it is alive. `Err`: what that comes
/// to if it is not.
pub(crate) async fn while_alive<T, E, Asked>(
    told: impl Future<Output = T>,
    ask: impl Fn() -> Asked,
) -> Result<T, E>
where
    Asked: Future<Output = Result<(), E>>,
{
    let mut told = pin!(told);
    loop {
        if let Ok(told) = timeout(AGAIN, &mut told).await {
            return Ok(told);
        }
        match select(told.as_mut(), pin!(ask())).await {
            // It may have fallen silent before that.
            Either::Left((told, asked)) => return asked.await.map(|()| told),
            Either::Right((alive, _)) => alive?,
        }
    }
}
