//! What is to come of a body whose head has been read.

use crate::{BadChunks, Body, Chunks};

/// See the module.
#[derive(Debug)]
pub enum Coming {
    /// So many bytes.
    Length(u64),
    /// Chunks.
    Chunks(Box<Chunks>),
}

impl From<Body> for Coming {
    fn from(body: Body) -> Self {
        match body {
            Body::Length(length) => Self::Length(length),
            Body::Chunked => Self::Chunks(Box::default()),
        }
    }
}

impl Coming {
    /// Has the body come whole?
    pub fn is_over(&self) -> bool {
        match self {
            Self::Length(left) => *left == 0,
            Self::Chunks(chunks) => chunks.is_over(),
        }
    }

    /// Passes over what comes next. Returns how much of it belongs to the body.
    ///
    /// # Errors
    /// [`BadChunks`], from then on each time.
    pub fn skip(&mut self, piece: &[u8]) -> Result<usize, BadChunks> {
        match self {
            Self::Length(left) => Ok(up_to(left, piece.len())),
            Self::Chunks(chunks) => chunks.read(piece),
        }
    }
}

/// Takes as many of `length` bytes as are `left` to come; returns how many.
pub(crate) fn up_to(left: &mut u64, length: usize) -> usize {
    let taken = usize::try_from(*left).map_or(length, |left| left.min(length));
    *left -= taken as u64;
    taken
}
