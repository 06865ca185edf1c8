//! Panics: bugs, each of which costs the request or the task that hits it.

use std::panic;
use std::thread;

use crate::Upkeep;

impl Upkeep {
    /// From now on each panic of the program is counted and logged with its place. Its text is not: it
    /// may hold what a client sent.
    pub fn note_panics(&self) {
        let panics = self.panics.clone();
        panic::set_hook(Box::new(move |panicked| {
            panics.inc();
            let at = panicked.location().map(ToString::to_string);
            let thread = thread::current();
            tracing::error!(
                at,
                thread = thread.name(),
                "a bug broke off a part of the program (panic)"
            );
        }));
    }
}
