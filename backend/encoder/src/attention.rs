//! Attention of one head over one sequence: softmax(Q Kᵀ + relation) V.
//!
//! The queries come scaled. Scores are computed for a few queries at a time, so that they stay in
//! the cache from the first product through the softmax to the second. With a window, only the keys
//! near those queries are looked at.

use std::ops::Range;

use crate::kernels::gemm::{Epilogue, Product, Rows, TILE};
use crate::kernels::panels::Panels;
use crate::kernels::softmax;
use crate::position::{Distances, Relation};
use crate::scratch::{Reusable, bytes_of, sized};
use crate::weights::Matrix;

/// Queries whose scores are held at a time.
const QUERIES: usize = 2 * TILE;

/// One head of one sequence.
pub(crate) struct Head<'a> {
    /// Queries, keys and values of the sequence's tokens: rows of `3 × hidden` numbers.
    pub(crate) qkv: &'a [f32],
    pub(crate) hidden: usize,
    /// Numbers of a head.
    pub(crate) size: usize,
    /// Which head.
    pub(crate) index: usize,
    pub(crate) relation: &'a Relation,
    /// The layer's positions, for [`Relation::Disentangled`].
    pub(crate) positions: Option<&'a Positions>,
    /// How far a token looks to either side; `None`: everywhere.
    pub(crate) window: Option<usize>,
}

/// What a layer knows of the classes of distance: rows of `hidden` numbers for each class.
#[derive(Clone, Debug)]
pub(crate) struct Positions {
    /// Seen from the query's content.
    pub(crate) keys: Option<Matrix>,
    /// Seen from the key's content; scaled.
    pub(crate) queries: Option<Matrix>,
}

impl Positions {
    /// Bytes that this holds.
    pub(crate) fn bytes(&self) -> usize {
        let tables = [&self.keys, &self.queries].into_iter().flatten();
        tables
            .map(|table| size_of::<f32>() * table.data.len())
            .sum()
    }
}

/// Buffers of one task.
#[derive(Debug, Default)]
pub(crate) struct Scratch {
    keys: Panels,
    values: Panels,
    queries: Panels,
    scores: Vec<f32>,
    from_query: Vec<f32>,
    from_key: Vec<f32>,
    classes: Vec<usize>,
}

impl Reusable for Scratch {
    fn bytes(&self) -> usize {
        let panels = [&self.keys, &self.values, &self.queries];
        let panels: usize = panels.iter().map(|panels| panels.bytes()).sum();
        let classes = size_of::<usize>() * self.classes.capacity();
        panels + classes + bytes_of(&[&self.scores, &self.from_query, &self.from_key])
    }
}

impl Head<'_> {
    /// Computes the head's part of the context into `out`: `[tokens, size]`.
    pub(crate) fn attend(&self, scratch: &mut Scratch, out: &mut [f32]) {
        let tokens = self.tokens();
        let Scratch { keys, values, .. } = scratch;
        keys.fill_transposed(self.size, self.slices(1));
        values.fill(self.size, self.slices(2));
        self.relate(scratch);
        for start in (0..tokens).step_by(QUERIES) {
            let end = (start + QUERIES).min(tokens);
            let out = &mut out[start * self.size..end * self.size];
            self.attend_some(scratch, start..end, out);
        }
    }

    fn tokens(&self) -> usize {
        self.qkv.len() / (3 * self.hidden)
    }

    /// This head's queries (`part` 0), keys (1) or values (2).
    fn slices(&self, part: usize) -> impl ExactSizeIterator<Item = &[f32]> {
        let start = part * self.hidden + self.index * self.size;
        let rows = self.qkv.chunks_exact(3 * self.hidden);
        rows.map(move |row| &row[start..start + self.size])
    }

    fn attend_some(&self, scratch: &mut Scratch, queries: Range<usize>, out: &mut [f32]) {
        let panels = self.panels(&scratch.keys, &queries);
        let width = scratch.keys.width();
        let first = panels.start * width;
        let count = (panels.end * width).min(self.tokens()) - first;
        let rows = queries.len();
        let mut factors = [0.0; QUERIES];

        let mut scores = std::mem::take(&mut scratch.scores);
        let cells = sized(&mut scores, rows * count);
        let start = queries.start * 3 * self.hidden + self.index * self.size;
        let left = Rows::new(&self.qkv[start..], 3 * self.hidden);
        let mut product = Product::new(rows, left, &scratch.keys);
        product.panels = panels;
        product.write(cells, count);
        self.add_relation(scratch, queries.start, first, cells, count);
        self.cut_window(queries.start, first, cells, count);
        softmax::exponentials(cells, count, count, &mut factors[..rows]);

        let mut product = Product::new(rows, Rows::new(cells, count), &scratch.values);
        product.depth = first..first + count;
        product.epilogue = Epilogue {
            row_scale: Some(&factors),
            ..Epilogue::default()
        };
        product.write(out, self.size);
        scratch.scores = scores;
    }

    /// The panels of keys that any of the queries looks at.
    fn panels(&self, keys: &Panels, queries: &Range<usize>) -> Range<usize> {
        let (first, last) = match self.window {
            None => (0, self.tokens()),
            Some(window) => (
                queries.start.saturating_sub(window),
                (queries.end + window).min(self.tokens()),
            ),
        };
        first / keys.width()..last.div_ceil(keys.width())
    }

    /// Keys outside a query's window count nothing.
    fn cut_window(&self, first_query: usize, first_key: usize, scores: &mut [f32], count: usize) {
        let Some(window) = self.window else {
            return;
        };
        for (nth, row) in scores.chunks_exact_mut(count).enumerate() {
            let query = first_query + nth;
            let from = query.saturating_sub(window).saturating_sub(first_key);
            let to = (query + window + 1 - first_key).min(count);
            row[..from].fill(f32::NEG_INFINITY);
            row[to..].fill(f32::NEG_INFINITY);
        }
    }

    /// Prepares what [`add_relation`](Self::add_relation) reads for the whole sequence: the class of
    /// each distance and, for disentangled attention, the products of content and position.
    fn relate(&self, scratch: &mut Scratch) {
        let classes = match self.relation {
            Relation::None => return,
            Relation::Bias { classes, .. } | Relation::Disentangled { classes } => *classes,
        };
        fill_classes(&mut scratch.classes, classes, self.tokens());
        let Some(positions) = self.positions else {
            return;
        };
        let (lowest, highest) = extremes(&scratch.classes);
        let Scratch {
            keys,
            queries,
            from_query,
            from_key,
            classes,
            ..
        } = scratch;
        if let Some(table) = &positions.keys {
            queries.fill_transposed(self.size, self.slices(0));
            self.meet(table, lowest..highest + 1, queries, from_query);
        }
        if let Some(table) = &positions.queries {
            self.meet(table, lowest..highest + 1, keys, from_key);
        }
        for class in classes {
            *class -= lowest;
        }
    }

    /// `out` = the rows `classes` of `table` (this head's part) times `contents`: `[classes, tokens]`.
    fn meet(&self, table: &Matrix, classes: Range<usize>, contents: &Panels, out: &mut Vec<f32>) {
        let tokens = self.tokens();
        let start = classes.start * table.columns + self.index * self.size;
        let left = Rows::new(&table.data[start..], table.columns);
        let out = sized(out, classes.len() * tokens);
        Product::new(classes.len(), left, contents).write(out, tokens);
    }

    fn add_relation(
        &self,
        scratch: &Scratch,
        first_query: usize,
        first_key: usize,
        scores: &mut [f32],
        count: usize,
    ) {
        let tokens = self.tokens();
        for (nth, row) in scores.chunks_exact_mut(count).enumerate() {
            let query = first_query + nth;
            // classes[i] is that of distance i + 1 − tokens; for the keys in turn it goes down.
            let highest = query + tokens - 1 - first_key;
            let classes = scratch.classes.get(highest + 1 - count..=highest);
            let Some(classes) = classes else {
                return;
            };
            let keys = (first_key..).zip(row).zip(classes.iter().rev());
            match (self.relation, self.positions) {
                (Relation::Bias { table, .. }, _) => {
                    for ((_, score), class) in keys {
                        *score += table.data[class * table.columns + self.index];
                    }
                }
                (Relation::Disentangled { .. }, Some(positions)) => {
                    let by_query = positions.keys.is_some();
                    let by_key = positions.queries.is_some();
                    for ((key, score), class) in keys {
                        let start = class * tokens;
                        if by_query {
                            *score += scratch.from_query[start + query];
                        }
                        if by_key {
                            *score += scratch.from_key[start + key];
                        }
                    }
                }
                _ => return,
            }
        }
    }
}

/// The classes of the distances 1 − tokens … tokens − 1.
fn fill_classes(classes: &mut Vec<usize>, distances: Distances, tokens: usize) {
    let farthest = tokens.cast_signed() - 1;
    classes.clear();
    classes.extend((-farthest..=farthest).map(|distance| distances.class(distance)));
}

fn extremes(classes: &[usize]) -> (usize, usize) {
    let lowest = classes.iter().copied().min().unwrap_or(0);
    let highest = classes.iter().copied().max().unwrap_or(0);
    (lowest, highest)
}
