//! What travels between the gateway and the hosts: a call, its answer, and what is known of a host.
//!
//! Bodies are lists of the chunks as they were read, so that holding a body for repetition copies
//! nothing, and each holds its reservation of the common byte budget.

use async_trait::async_trait;
use bytes::Bytes;
use gpu_bridge_wire::{Info, Status};
use http::{HeaderMap, Method, StatusCode};

use crate::budget::{Exhausted, Reservation};
use crate::config::HostName;

/// A client's request, whole, ready to be attempted any number of times.
#[derive(Debug)]
pub struct Call {
    /// The method.
    pub method: Method,
    /// Path and query as the client sent them.
    pub target: String,
    /// End-to-end headers to pass on; never the client's credentials.
    pub headers: HeaderMap,
    /// The body.
    pub body: Payload,
}

/// A body held in memory.
#[derive(Debug)]
pub struct Payload {
    chunks: Vec<Bytes>,
    len: usize,
    reserved: Reservation,
}

impl Payload {
    /// An empty body whose growth counts against the budget of `reserved`.
    pub fn new(reserved: Reservation) -> Self {
        Self {
            chunks: Vec::new(),
            len: 0,
            reserved,
        }
    }

    /// Appends a chunk.
    ///
    /// # Errors
    /// [`Exhausted`] if the budget does not allow it; the chunk is lost.
    pub fn push(&mut self, chunk: Bytes) -> Result<(), Exhausted> {
        self.reserved.grow(chunk.len())?;
        self.len += chunk.len();
        self.chunks.push(chunk);
        Ok(())
    }

    /// The chunks, in order.
    pub fn chunks(&self) -> &[Bytes] {
        &self.chunks
    }

    /// Bytes in all.
    pub fn len(&self) -> usize {
        self.len
    }

    /// No bytes at all?
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }
}

/// A host's answer.
#[derive(Debug)]
pub struct Answer {
    /// The status.
    pub status: StatusCode,
    /// End-to-end headers, without those of framing.
    pub headers: HeaderMap,
    /// As much of the body as is held.
    pub body: Payload,
    /// The rest of a body that is too large to hold: it can only be passed on as it comes.
    pub rest: Option<Box<dyn Rest>>,
}

/// The rest of a body that is still on its way.
#[async_trait]
pub trait Rest: Send + Sync + std::fmt::Debug {
    /// The next chunk; `None` after the last.
    ///
    /// # Errors
    /// [`Cut`] if the host fails half-way.
    async fn next(&mut self) -> Result<Option<Bytes>, Cut>;
}

/// A host stopped in the middle of its answer.
#[derive(Debug, thiserror::Error)]
#[error("the host failed in the middle of its answer: {0}")]
pub struct Cut(pub String);

/// What a host last told of itself.
#[derive(Clone, Debug)]
pub struct HostReport {
    /// Its name in the configuration.
    pub name: HostName,
    /// Its last `/info`, if it ever gave one.
    pub info: Option<Info>,
    /// Its last `/status`, if it ever gave one.
    pub status: Option<Status>,
}
