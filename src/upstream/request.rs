//! Heads of requests to hosts.

use bytes::BytesMut;
use http::{HeaderName, Method};

/// Bytes of a usual head and of a short body after it.
const USUAL: usize = 4 << 10;

/// A head that is being written. Its parts have been checked: no method, path or value holds a line end.
pub(super) struct Request(BytesMut);

impl Request {
    /// `prefix`: comes before each path there.
    pub(super) fn new(method: &Method, prefix: &str, path: &str) -> Self {
        let mut request = Self(BytesMut::with_capacity(USUAL));
        request.write(&[
            method.as_str().as_bytes(),
            b" ",
            prefix.as_bytes(),
            path.as_bytes(),
            b" HTTP/1.1\r\n",
        ]);
        request
    }

    pub(super) fn header(&mut self, name: &HeaderName, value: &[u8]) {
        self.write(&[name.as_str().as_bytes(), b": ", value, b"\r\n"]);
    }

    /// The whole head.
    pub(super) fn end(mut self) -> BytesMut {
        self.write(&[b"\r\n"]);
        self.0
    }

    fn write(&mut self, parts: &[&[u8]]) {
        for part in parts {
            self.0.extend_from_slice(part);
        }
    }
}
