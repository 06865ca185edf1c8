//! A light GPU host: sentence embeddings and `BERTScore` over HTTP, computed with candle.
//!
//! [`engine`] is the seam: the HTTP side calls it, [`models`] implements it, and neither knows the
//! other. [`device`] says which processor the models run on.

pub mod device;
pub mod engine;
pub mod models;
