//! What must hold of any bytes that clients, hosts and operators send: the targets, which stand beside what they are
//! about.

use crate::embedding::{Vectors, told};
use crate::{config, gateway, upstream};

/// As `gpu_bridge_fuzz` has them.
pub type Target = (&'static str, fn(&[u8]));

/// All of them.
pub const TARGETS: &[Target] = &[
    ("answers", upstream::fuzz::answers),
    ("checks", upstream::fuzz::checks),
    ("configurations", config::fuzz::configurations),
    ("floods", gateway::fuzz::floods),
    ("peeks", gateway::fuzz::peeks),
    ("vectors", vectors),
];

/// What a host answers to an audit can be compared, or it is of no use.
fn vectors(bytes: &[u8]) {
    let read = |bytes| told(bytes).and_then(Vectors::try_from);
    let (Ok(vectors), Ok(again)) = (read(bytes), read(bytes)) else {
        return;
    };
    let length = vectors.dimensions();
    assert!(
        vectors
            .each()
            .all(|it| it.len() == length && it.iter().all(|number| number.is_finite()))
    );
    let alike = vectors.likeness(&again);
    assert!(
        alike.is_some_and(|it| (it.cosine - 1.0).abs() < 1e-6 && (it.stretch - 1.0).abs() < 1e-6)
    );
}

#[cfg(test)]
mod tests {
    #[test]
    fn whatever_comes() {
        gpu_bridge_fuzz::run(super::TARGETS);
    }
}
