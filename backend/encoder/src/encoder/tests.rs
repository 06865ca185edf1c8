//! What an encoder refuses, and what it computes where the golden files have nothing.

use std::num::NonZeroUsize;

use super::*;
use crate::layer::ConvolutionWeights;
use crate::position::{Distances, Rotation};
use crate::weights::{LinearWeights, Matrix};
use crate::{Activation, Relation};

const TOKENS: usize = 7;

fn shape(hidden: usize, heads: usize) -> Shape {
    Shape {
        hidden,
        heads,
        intermediate: 2 * hidden,
        activation: Activation::Relu,
        gated: false,
        norm_first: false,
    }
}

/// Numbers from −1 to 1 that look like nothing in particular.
fn matrix(rows: usize, columns: usize) -> Matrix {
    let numbers = (0..rows * columns).map(|nth| (nth as f32 * 0.7).sin());
    Matrix {
        data: numbers.collect(),
        rows,
        columns,
    }
}

fn linear(outputs: usize, inputs: usize) -> LinearWeights {
    LinearWeights {
        weight: matrix(outputs, inputs),
        bias: None,
    }
}

fn norm(size: usize) -> NormWeights {
    NormWeights {
        weight: vec![1.0; size],
        bias: None,
        epsilon: 1e-5,
    }
}

fn start(shape: Shape, relation: Relation, threads: usize) -> Result<Encoder, ShapeError> {
    let embedding = EmbeddingWeights {
        words: matrix(TOKENS, shape.hidden),
        positions: None,
        projection: None,
        norm: norm(shape.hidden),
    };
    let threads = NonZeroUsize::new(threads).expect("some");
    let threads = Threads::new(threads).expect("threads");
    Encoder::new(shape, relation, embedding, Factors::F32, threads)
}

fn layer(shape: Shape) -> LayerWeights {
    let Shape {
        hidden,
        intermediate,
        ..
    } = shape;
    LayerWeights {
        qkv: linear(3 * hidden, hidden),
        output: linear(hidden, hidden),
        attention_norm: Some(norm(hidden)),
        up: linear(intermediate, hidden),
        down: linear(hidden, intermediate),
        feed_norm: norm(hidden),
        positions: None,
        rotation: None,
        window: None,
        convolution: None,
    }
}

#[test]
fn heads_that_cannot_share_a_vector_are_refused() {
    for (hidden, heads) in [(12, 0), (12, 5), (0, 4), (4, 8)] {
        let refused = start(shape(hidden, heads), Relation::None, 1).expect_err("no shape");
        assert_eq!(refused, ShapeError::Heads { hidden, heads });
    }
    assert!(start(shape(12, 4), Relation::None, 1).is_ok());
}

#[test]
fn a_bias_for_other_classes_or_heads_is_refused() {
    let classes = Distances::T5 { buckets: 32 };
    let bias = |rows, columns| {
        let table = matrix(rows, columns);
        start(shape(12, 4), Relation::Bias { table, classes }, 1).map(drop)
    };
    assert_eq!(bias(32, 4), Ok(()));
    for (found_rows, found_columns) in [(31, 4), (32, 3), (4, 32)] {
        let expected = ShapeError::Part {
            what: "the bias of distances",
            found_rows,
            found_columns,
            rows: 32,
            columns: 4,
        };
        assert_eq!(bias(found_rows, found_columns), Err(expected));
    }
}

#[test]
fn odd_heads_are_not_rotated() {
    let rotated = |shape: Shape| {
        let mut encoder = start(shape, Relation::None, 1).expect("a shape");
        encoder.push(LayerWeights {
            rotation: Some(Rotation { theta: 10_000.0 }),
            ..layer(shape)
        })
    };
    assert_eq!(rotated(shape(12, 4)), Err(ShapeError::Rotation { head: 3 }));
    assert_eq!(rotated(shape(16, 4)), Ok(()));
}

/// What a convolution sees ends with the sequence, not with a task's block of rows.
#[test]
fn convolutions_are_the_same_in_blocks_and_alone() {
    let shape = shape(8, 2);
    let encoder = |threads| {
        let mut encoder = start(shape, Relation::None, threads).expect("a shape");
        let convolution = ConvolutionWeights {
            kernel: linear(8, 5 * 8),
            width: 5,
            activation: Activation::Tanh,
            norm: norm(8),
        };
        let layer = LayerWeights {
            convolution: Some(convolution),
            ..layer(shape)
        };
        encoder.push(layer).expect("fits");
        encoder
    };
    let (blocks, whole) = (encoder(4), encoder(1));
    let ids: Vec<u32> = (0..60).map(|nth| nth * nth % 7).collect();
    let batch = [&ids[..50], &[], &ids[..1], &ids[3..20]];
    let together = blocks.forward(&batch).expect("known tokens");
    for (ids, together) in batch.iter().zip(together.sequences()) {
        let alone = whole.forward(&[ids]).expect("known tokens");
        assert_eq!(alone.sequences().next(), Some(together));
    }
}
