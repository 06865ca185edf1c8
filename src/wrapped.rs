//! Connections that wrap another one, to see or to steer what is read from it.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use pingora::protocols::Stream;
use tokio::io::AsyncWrite;

/// A connection that wraps another one. What it has no part in is passed on by [`pass_on`].
pub(crate) trait Wrapper {
    /// The connection that is wrapped.
    fn inner(&self) -> &Stream;

    /// The same.
    fn inner_mut(&mut self) -> &mut Stream;

    /// So many bytes have been written.
    fn wrote(&mut self, _bytes: usize) {}

    /// Ends our side of it.
    fn poll_close(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(self.inner_mut()).poll_shutdown(context)
    }
}

/// What a [`Wrapper`] has no part in: writing, and what pingora asks about a connection, but for TLS.
macro_rules! pass_on {
    ($wrapper:ty) => {
        impl tokio::io::AsyncWrite for $wrapper {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                let written = std::pin::Pin::new(self.inner_mut()).poll_write(context, bytes);
                if let std::task::Poll::Ready(Ok(bytes)) = written {
                    self.wrote(bytes);
                }
                written
            }

            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(self.inner_mut()).poll_flush(context)
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                self.poll_close(context)
            }

            fn poll_write_vectored(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                slices: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                let writer = std::pin::Pin::new(self.inner_mut());
                let written = writer.poll_write_vectored(context, slices);
                if let std::task::Poll::Ready(Ok(bytes)) = written {
                    self.wrote(bytes);
                }
                written
            }

            fn is_write_vectored(&self) -> bool {
                self.inner().is_write_vectored()
            }
        }

        #[async_trait::async_trait]
        impl pingora::protocols::Shutdown for $wrapper {
            async fn shutdown(&mut self) {
                // It can only fail if the other side has gone.
                let _ = tokio::io::AsyncWriteExt::shutdown(self).await;
            }
        }

        #[async_trait::async_trait]
        impl pingora::protocols::Peek for $wrapper {}

        impl pingora::protocols::UniqueID for $wrapper {
            fn id(&self) -> pingora::protocols::UniqueIDType {
                self.inner().id()
            }
        }

        impl pingora::protocols::GetTimingDigest for $wrapper {
            fn get_timing_digest(&self) -> Vec<Option<pingora::protocols::TimingDigest>> {
                self.inner().get_timing_digest()
            }
        }

        impl pingora::protocols::GetProxyDigest for $wrapper {
            fn get_proxy_digest(
                &self,
            ) -> Option<std::sync::Arc<pingora::protocols::raw_connect::ProxyDigest>> {
                self.inner().get_proxy_digest()
            }
        }

        impl pingora::protocols::GetSocketDigest for $wrapper {
            fn get_socket_digest(
                &self,
            ) -> Option<std::sync::Arc<pingora::protocols::SocketDigest>> {
                self.inner().get_socket_digest()
            }
        }
    };
}

pub(crate) use pass_on;
