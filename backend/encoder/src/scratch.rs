//! Buffers that are used again, so that a forward pass doesn't ask the system for fresh memory in
//! every task.

use std::sync::{Mutex, PoisonError};

/// Values at rest; as many as were ever in use at once.
#[derive(Debug, Default)]
pub(crate) struct Shelf<T>(Mutex<Vec<T>>);

impl<T: Default> Shelf<T> {
    /// Runs `work` with a value that nobody else uses.
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        let taken = self.lock().pop();
        let mut value = taken.unwrap_or_default();
        let result = work(&mut value);
        self.lock().push(value);
        result
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<T>> {
        // A panic elsewhere leaves the list whole.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// `buffer` with `length` numbers of any value.
pub(crate) fn sized(buffer: &mut Vec<f32>, length: usize) -> &mut [f32] {
    if buffer.len() < length {
        buffer.resize(length, 0.0);
    }
    &mut buffer[..length]
}
