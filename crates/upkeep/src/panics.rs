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

#[cfg(test)]
mod tests {
    use std::io;
    use std::panic::catch_unwind;
    use std::sync::{Arc, Mutex};

    use gpu_bridge_metrics::Maker;
    use prometheus::Registry;

    use super::*;

    #[derive(Clone, Default)]
    struct Text(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Text {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn the_log_has_a_panic_s_place_and_not_its_text() {
        let upkeep = Upkeep::new(&Maker::new(&Registry::new(), "test")).unwrap();
        let text = Text::default();
        let writer = text.clone();
        let log = tracing_subscriber::fmt().with_writer(move || writer.clone());
        upkeep.note_panics();

        tracing::subscriber::with_default(log.finish(), || {
            let clients = "what a client sent";
            catch_unwind(|| panic!("{clients}")).unwrap_err();
        });

        let text = String::from_utf8(text.0.lock().unwrap().clone()).unwrap();
        assert!(text.contains(file!()), "{text}");
        assert!(!text.contains("client"), "{text}");
        // Other tests of this process panic as well.
        assert!(upkeep.panics.get() >= 1);
    }
}
