//! The configuration that runs. Each part holds it, and reads there what it is about whenever it needs
//! it, so that a reload changes all of them at once.

use std::sync::Arc;

use arc_swap::{ArcSwap, Guard};

use super::Config;

/// See the module. Clones are the same one.
#[derive(Clone, Debug)]
pub struct Current(Arc<ArcSwap<Config>>);

impl Current {
    /// Runs with this first.
    pub fn new(config: Config) -> Self {
        Self(Arc::new(ArcSwap::from_pointee(config)))
    }

    /// As it is at this moment; for a look, not to be kept.
    pub fn get(&self) -> Guard<Arc<Config>> {
        self.0.load()
    }

    /// As it is at this moment, to be kept.
    pub fn snapshot(&self) -> Arc<Config> {
        self.0.load_full()
    }

    /// Runs with this from now on.
    pub fn set(&self, config: Arc<Config>) {
        self.0.store(config);
    }

    /// With these sections, and a host.
    #[cfg(test)]
    pub(crate) fn for_testing(sections: &str) -> Self {
        let hosts = "pool: {hosts: [{name: a, url: 'http://a'}]}";
        Self::new(Config::for_testing(&format!("{hosts}\n{sections}\n")))
    }
}

#[cfg(test)]
impl Config {
    /// What this text says.
    pub(crate) fn for_testing(text: &str) -> Self {
        let surroundings = super::Surroundings {
            variable: &|_| None,
            folder: std::path::Path::new(""),
        };
        super::parse(text, &surroundings).unwrap()
    }
}
