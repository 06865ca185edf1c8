//! What an HTTP/1 request must look like to be let in, and any body in chunks.
//!
//! Parsers are lenient in different ways, and where two of them in a row disagree on where a request
//! ends, a client can make the second one see a request that the first one never did. So everything
//! that leaves room for doubt is refused (RFC 9112, sections 2.2, 3.2, 5 and 6), and the connection
//! with it. By the same rules in both programs, so that the GPU host takes nothing that the proxy
//! would not. Pure: bytes in, judgements out; whoever uses it does the reading. Only [`Strict`], a connection
//! by these rules for those who use hyper, and [`Linger`], the end of one, are not.

mod chunks;
mod coding;
mod coming;
#[cfg(any(test, fuzzing))]
pub mod fuzz;
mod head;
mod linger;
mod strict;

pub use chunks::{BadChunks, Chunks};
pub use coding::{Coded, coded};
pub use coming::Coming;
pub use head::{BadHead, Body, Head, HeadLimits, Scanner, check, check_fields, is_token};
pub use linger::Linger;
pub use strict::{Refusal, Strict};
