//! Plain formulas in `f64`, to compare with.
