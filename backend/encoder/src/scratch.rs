//! Buffers that are used again, so that a forward pass doesn't ask the system for fresh memory in
//! every task.

use std::sync::{Mutex, PoisonError};

/// Bytes above which a value is not kept: what one very long sequence took would be held for good.
const MOST_KEPT: usize = 64 << 20;

/// Something with buffers.
pub(crate) trait Reusable: Default {
    /// Bytes that its buffers hold.
    fn bytes(&self) -> usize;
}

/// Values at rest; as many as were ever in use at once.
#[derive(Debug, Default)]
pub(crate) struct Shelf<T>(Mutex<Vec<T>>);

impl<T: Reusable> Shelf<T> {
    /// Runs `work` with a value that nobody else uses.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let taken = self.lock().pop();
        let mut value = taken.unwrap_or_default();
        let result = work(&mut value);
        if value.bytes() <= MOST_KEPT {
            self.lock().push(value);
        }
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        // A panic elsewhere leaves the list whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Bytes that these buffers hold.
pub(crate) fn bytes_of<T>(buffers: &[&Vec<T>]) -> usize {
    let numbers: usize = buffers.iter().map(|buffer| buffer.capacity()).sum();
    size_of::<T>() * numbers
}

/// `buffer` with `length` numbers of any value.
pub(crate) fn sized<T: Copy + Default>(buffer: &mut Vec<T>, length: usize) -> &mut [T] {
    if buffer.len() < length {
        buffer.resize(length, T::default());
    }
    &mut buffer[..length]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Default)]
    struct Buffer(Vec<f32>);

    impl Reusable for Buffer {
        fn bytes(&self) -> usize {
            bytes_of(&[&self.0])
        }
    }

    #[test]
    fn values_are_used_again_unless_they_have_grown_large() {
        let shelf = Shelf::<Buffer>::default();
        for (length, kept) in [(1000, 1000), (MOST_KEPT, 0)] {
            shelf.with(|buffer| buffer.0 = Vec::with_capacity(length));
            shelf.with(|buffer| assert_eq!(buffer.0.capacity(), kept));
        }
    }
}
