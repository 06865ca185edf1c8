//! What models make of texts, compared: vectors of fixed texts, the space that they lie in, and a file
//! of them.
//!
//! Pure. Two hosts that serve the same model say about the same of the same texts, whatever they compute
//! with: with half the precision the cosine is still above 0.9999, while another model, another pooling or
//! a broken memory brings it far below. That is decided in [`crate::audit`]; what it is decided by is
//! here.

mod reference;
mod space;
mod vectors;

#[cfg(test)]
pub(crate) use vectors::testing;

pub use reference::{BadReference, Reference};
pub use space::{BadSpace, Space};
pub use vectors::{Likeness, NoVectors, Told, Vectors, told};

/// The fixed texts. Short and long, of several scripts, with digits and signs: so that models, poolings and
/// tokenizers that differ say something else of at least one. No client's text is ever among them. A
/// [`Reference`] holds for exactly these.
pub const TEXTS: [&str; 8] = [
    "The quick brown fox jumps over the lazy dog.",
    "fn main() { println!(\"{}\", 6 * 7); }  // 42",
    "Größere Häuser müssen öfter geprüft werden, heißt es.",
    "东京は日本の首都で、人口は約一千四百万人です。",
    "Invoice no. 2024-0815: 3 × 19.99 € = 59.97 €, due on 31 March, payable to J. O'Neill & Sons.",
    "Yes.",
    "At the harbour the fishermen mended their nets in silence while the gulls circled above the \
     boats, and the smell of salt, tar and smoke drifted up through the narrow streets to the square, \
     where an old man sold oranges from a cart and told anybody who would listen of the great storm \
     that had carried half of the village into the sea when he was a boy of seven.",
    "Which of these statements about photosynthesis in higher plants is not correct, and why?",
];
