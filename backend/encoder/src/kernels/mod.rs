//! Arithmetic on rows of `f32`, one thread at a time; products of numbers rounded to bf16, too.
//!
//! Matrices are row-major. A kernel is written once, over `pulp`'s vector types, and compiled for
//! every instruction set that `pulp` knows; which one runs is found out at run time. No kernel
//! allocates, starts threads or knows what a model is.

pub(crate) mod bf16;
pub(crate) mod gemm;
pub(crate) mod norm;
pub(crate) mod panels;
pub(crate) mod simd;
pub(crate) mod softmax;

#[cfg(test)]
mod instruction_set;
#[cfg(test)]
mod tests;
