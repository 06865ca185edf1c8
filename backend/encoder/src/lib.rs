//! Transformer encoders on the processor.
//!
//! A batch is *packed*: the tokens of all its sequences lie one after the other, without padding, as
//! rows of one matrix. Everything but attention works on rows and doesn't know where a sequence
//! ends; attention works on one head of one sequence at a time.
//!
//! ```text
//! ids ─ embedding ─ ┌ project: (norm), Q K V, (rotation)     rows, in parallel
//!                   │ attend:  scores, softmax, values       (sequence, head) pairs, in parallel
//!                   └ finish:  output, residual, norm,       rows, in parallel
//!                              feed-forward, residual, norm
//!                     … once for each layer ─ (norm) ─ hidden states
//! ```
//!
//! The crate knows neither files nor model names: its user says what a model is with a [`Shape`] and
//! hands over its weights, layer by layer. `kernels` holds the arithmetic of one thread.

#![expect(
    clippy::inline_always,
    reason = "vector code that is not inlined into the function with the target features is compiled without them"
)]

mod attention;
mod embedding;
mod encoder;
mod hidden;
mod kernels;
mod layer;
mod limits;
mod linear;
pub mod ops;
mod position;
mod scratch;
mod threads;
mod weights;

pub use embedding::{EmbeddingWeights, PositionIds};
pub use encoder::{Encoder, ForwardError, Stop};
pub use hidden::Hidden;
pub use kernels::gemm::Activation;
pub use layer::{ConvolutionWeights, LayerWeights};
pub use limits::Limits;
pub use linear::Factors;
pub use position::{Distances, Relation, Rotation};
pub use rayon::ThreadPoolBuildError;
pub use threads::Threads;
pub use weights::{LinearWeights, Matrix, NormWeights, Shape, ShapeError};
