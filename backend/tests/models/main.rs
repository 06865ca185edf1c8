//! The engine through its public face, with real files: numbers against the reference
//! implementation, and what happens to names, broken models and requests that nobody waits for.

mod engine;
mod numerics;
mod support;
