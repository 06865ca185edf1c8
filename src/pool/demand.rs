//! What a request asks of the pool, as far as scheduling goes.

use std::sync::Arc;
use std::time::Instant;

use crate::embedding::Space;

/// A request without items still has to be answered.
const LEAST: f64 = 1.0;

/// A model on a route, as hosts name what they have loaded (`embed:NAME`, `bertscore:NAME`). Without a name, it is
/// the one that a host takes if a request names none, whichever that is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Model(Arc<str>);

impl Model {
    /// The longest name that is told apart; a longer one is nobody's.
    pub const MAX_LEN: usize = 200;

    /// `None` for names that are too long.
    pub fn new(name: &str) -> Option<Self> {
        (name.len() <= Self::MAX_LEN).then(|| Self(name.into()))
    }

    /// Does it make vectors of texts?
    pub fn embeds(&self) -> bool {
        self.route() == "embed"
    }

    /// Is it the one that each host has for requests which name none?
    pub fn is_default(&self) -> bool {
        self.0.ends_with(':') && self.name().is_empty()
    }

    /// With its route.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Is it for `/bertscore`?
    pub(super) fn is_for_pairs(&self) -> bool {
        self.route() == "bertscore"
    }

    /// Is it for the same?
    pub(super) fn is_on_route_of(&self, other: &Self) -> bool {
        self.route() == other.route()
    }

    /// Is it perhaps the same under another name, with or without who has made it (`bge-m3`, `BAAI/bge-m3`)?
    pub(super) fn may_be(&self, other: &Self) -> bool {
        let is_longer = |long: &Self, short: &Self| {
            let last = long.name().rsplit_once('/').map(|(_, last)| last);
            last == Some(short.name())
        };
        self.is_on_route_of(other) && (is_longer(self, other) || is_longer(other, self))
    }

    fn route(&self) -> &str {
        self.0.split_once(':').map_or("", |(route, _)| route)
    }

    /// Its name, as in requests.
    pub fn name(&self) -> &str {
        self.0.split_once(':').map_or(&self.0, |(_, name)| name)
    }
}

/// How much a request asks for. Hosts differ in how long they take for it, not in how much it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct Work {
    /// Texts, or pairs of texts.
    pub items: u32,
    /// Bytes in all: about as many as characters.
    pub bytes: u64,
}

impl Work {
    /// What one item costs beside its characters, in characters: special tokens, a row in the batch, a vector in
    /// the answer. Measured on the encoders here, about.
    pub const ITEM: usize = 32;

    /// In units of what one character costs.
    pub(super) fn units(self) -> f64 {
        (f64::from(self.items) * Self::ITEM as f64 + self.bytes as f64).max(LEAST)
    }
}

/// Which request it is. Decides nothing; for those who look.
#[derive(Clone, Debug, Default)]
pub struct Label {
    /// As in its `X-Request-Id`.
    pub id: Arc<str>,
    /// What it asks for, in one word.
    pub route: &'static str,
}

/// What is asked of each item: all that a request says but for its items. Requests with equal ones may share an
/// attempt, if they offer it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct Question(Arc<[u8]>);

impl Question {
    /// What it says, in whatever form, as long as it is the same for the same.
    pub fn new(said: Vec<u8>) -> Self {
        Self(said.into())
    }
}

/// It may hold what clients wrote.
impl std::fmt::Debug for Question {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Question").finish_non_exhaustive()
    }
}

/// The offer of a request that waits, to share an attempt with others.
#[derive(Clone, Debug)]
pub struct Offer {
    /// With which: those that offer the same.
    pub question: Question,
    /// Items that one attempt may be for.
    pub most: u32,
    /// Until when it wants its answer.
    pub until: Option<Instant>,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Demand {
    /// Which request it is.
    pub label: Label,
    /// Who asks; requests of one client are served in order, clients get equal shares.
    pub client: Option<Arc<str>>,
    /// Higher ones are served first.
    pub priority: u8,
    /// What must be loaded on a host; `None` if it could not be read.
    pub model: Option<Model>,
    /// The only space that its vectors may lie in, if the client says so.
    pub space: Option<Space>,
    /// How much is to be computed.
    pub work: Work,
    /// Its client is told the tokens of its texts, and may be billed for them.
    pub counted: bool,
    /// Bytes that it holds while it waits.
    pub bytes: usize,
}
