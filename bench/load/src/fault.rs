//! The ways in which a host fails.

use serde::Serialize;

/// What is wrong with a host.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Fault {
    /// Nothing.
    #[default]
    None,
    /// It is gone: connections are closed, new ones refused.
    Killed,
    /// It takes connections and requests, checks of its health too, and answers none.
    Hang,
    /// It answers 500 at once, as with a broken GPU; its health looks good.
    Errors,
    /// It computes, then dies in the middle of the answer; its health looks good.
    MidBody,
    /// Somebody else uses all of its slots.
    Foreign,
}
