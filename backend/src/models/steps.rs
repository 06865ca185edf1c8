//! Progress in whole steps (`GPU_EMBED_BATCH`), however the device cuts the work.

use std::num::NonZeroUsize;

use crate::engine::Progress;

/// Counts a request's items and tells of each full step, and of the end.
pub(crate) struct Steps<'a> {
    progress: &'a dyn Progress,
    items: usize,
    step: NonZeroUsize,
    done: usize,
}

impl<'a> Steps<'a> {
    /// For a request of `items`.
    pub(crate) fn new(items: usize, step: NonZeroUsize, progress: &'a dyn Progress) -> Self {
        Self {
            progress,
            items,
            step,
            done: 0,
        }
    }

    /// One more item is finished.
    pub(crate) fn finished_one(&mut self) {
        self.done += 1;
        if self.done == self.items || self.done.is_multiple_of(self.step.get()) {
            self.progress.finished(self.done);
        }
    }
}
