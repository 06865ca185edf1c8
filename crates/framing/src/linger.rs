//! The end of a connection, such that its client can read the last answer.
//!
//! A connection that is closed with bytes of the client unread, or that still come, is reset, and a reset
//! takes with it what the client has not read yet (RFC 9112, section 9.6). So our side says that it has
//! done, and what the client still sends is thrown away until it hangs up too, or for a while.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::Sleep;

/// How long; what reads its answer has hung up by then. Other servers take 2 s (Apache) to 5 s (nginx).
const LINGER: Duration = Duration::from_secs(2);
/// Bytes of one read.
const READ: usize = 16 << 10;

/// See the module.
#[derive(Debug, Default)]
pub struct Linger(Option<Pin<Box<Sleep>>>);

impl Linger {
    /// Closes `stream`; ready at the end of it.
    ///
    /// # Errors
    /// Our side could not be ended.
    pub fn poll_close<S: AsyncRead + AsyncWrite + Unpin>(
        &mut self,
        stream: &mut S,
        context: &mut Context<'_>,
    ) -> Poll<io::Result<()>> {
        let patience = match &mut self.0 {
            Some(patience) => patience,
            none => {
                ready!(Pin::new(&mut *stream).poll_shutdown(context))?;
                none.insert(Box::pin(tokio::time::sleep(LINGER)))
            }
        };
        let mut bytes = [0; READ];
        while patience.as_mut().poll(context).is_pending() {
            let mut read = ReadBuf::new(&mut bytes);
            match ready!(Pin::new(&mut *stream).poll_read(context, &mut read)) {
                Ok(()) if !read.filled().is_empty() => {}
                _ => break,
            }
        }
        Poll::Ready(Ok(()))
    }
}
