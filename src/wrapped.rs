//! Connections that wrap another one, to see or to steer what is read from it.

use std::io;

use gpu_bridge_framing::BadChunks;

/// Has reading failed because of chunks that are not framed as HTTP says?
pub(crate) fn is_misframed(error: &pingora::Error) -> bool {
    let error = error.root_cause().downcast_ref::<io::Error>();
    let cause = error.and_then(io::Error::get_ref);
    cause.is_some_and(<dyn std::error::Error + Send + Sync>::is::<BadChunks>)
}

/// What a wrapper has no part in, and passes on to its `$inner` connection: writing, the end unless a
/// method of its own sees to it (`$close`), and what pingora asks about a connection, but for TLS.
macro_rules! pass_on {
    ($wrapper:ty, $inner:ident) => {
        impl $wrapper {
            fn poll_close(
                &mut self,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                tokio::io::AsyncWrite::poll_shutdown(std::pin::Pin::new(&mut self.$inner), context)
            }
        }

        $crate::wrapped::pass_on!($wrapper, $inner, poll_close);
    };
    ($wrapper:ty, $inner:ident, $close:ident) => {
        impl tokio::io::AsyncWrite for $wrapper {
            fn poll_write(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                bytes: &[u8],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.$inner).poll_write(context, bytes)
            }

            fn poll_flush(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                std::pin::Pin::new(&mut self.$inner).poll_flush(context)
            }

            fn poll_shutdown(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<std::io::Result<()>> {
                self.$close(context)
            }

            fn poll_write_vectored(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
                slices: &[std::io::IoSlice<'_>],
            ) -> std::task::Poll<std::io::Result<usize>> {
                std::pin::Pin::new(&mut self.$inner).poll_write_vectored(context, slices)
            }

            fn is_write_vectored(&self) -> bool {
                self.$inner.is_write_vectored()
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
                self.$inner.id()
            }
        }

        impl pingora::protocols::GetTimingDigest for $wrapper {
            fn get_timing_digest(&self) -> Vec<Option<pingora::protocols::TimingDigest>> {
                self.$inner.get_timing_digest()
            }
        }

        impl pingora::protocols::GetProxyDigest for $wrapper {
            fn get_proxy_digest(
                &self,
            ) -> Option<std::sync::Arc<pingora::protocols::raw_connect::ProxyDigest>> {
                self.$inner.get_proxy_digest()
            }
        }

        impl pingora::protocols::GetSocketDigest for $wrapper {
            fn get_socket_digest(
                &self,
            ) -> Option<std::sync::Arc<pingora::protocols::SocketDigest>> {
                self.$inner.get_socket_digest()
            }
        }
    };
}

pub(crate) use pass_on;
