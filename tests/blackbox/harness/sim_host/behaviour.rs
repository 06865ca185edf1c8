//! What a simulated host can be told to do. All of it has been seen from real hosts.

use std::time::Duration;

use bytes::Bytes;

/// What becomes of a compute request.
#[derive(Clone, Debug)]
pub(crate) enum Behaviour {
    /// A right answer at once.
    Serve,
    /// A right answer after computing for that long.
    ServeAfter(Duration),
    /// A right answer after computing for that long, and for so much longer for each item.
    ServeByItems(Duration, Duration),
    /// A right answer once the test says so; see [`super::SimHost::release`].
    ServeWhenReleased,
    /// A right answer without a length (`Transfer-Encoding: chunked`).
    ServeChunked,
    /// A right answer with that many bytes of padding.
    ServePadded(usize),
    /// A right answer, one byte after the other, each so much later.
    Drip(Duration),
    /// That many bytes of an answer without a length, and no more, ever.
    StallAfter(usize),
    /// A right answer, after which the host hangs up although it never said so.
    ServeThenHangUp,
    /// A right answer to the first request on a connection; the next one finds these last words and
    /// the end.
    ServeOncePerConnection(&'static str),
    /// A right answer, after which, so much later, these bytes come that nobody asked for. The
    /// connection stays, and nothing more comes.
    ServeThenSay(Duration, &'static str),
    /// This, if it is one of the texts; otherwise the other.
    For(&'static str, Box<Behaviour>, Box<Behaviour>),
    /// This answer, whatever was asked.
    Answer(Answer),
    /// This answer, as soon as the head of the request is there; the body is left unread.
    AnswerUnread(Answer),
    /// These bytes instead of an answer, then the end.
    Say(&'static str, Ending),
    /// The same, as soon as the head of the request is there; the body is left unread.
    SayUnread(&'static str, Ending),
    /// The end after so much time, without a word.
    DieThinking(Duration),
    /// Half an answer, then the end.
    DieMidBody(Ending),
    /// So many bytes of a longer answer, then a reset.
    DieAfter(usize),
    /// Half a chunked answer, then the end.
    DieMidChunks(Ending),
    /// The end after the head of the request, before its body was read.
    DieReading,
    /// No answer, ever.
    Hang,
}

/// What a host computes: each but the first is wrong in a way that no health check can see.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Vectors {
    /// What [`super::embedding_of`] says.
    Right,
    /// The same with the error that half the precision makes.
    HalfPrecision,
    /// Of another model under the same name.
    OtherModel,
    /// As if tokens were pooled in another way: not far from right.
    OtherPooling,
    /// With one bit flipped in one number, as by broken memory.
    FlippedBit,
    /// Not normalised, where others are.
    Longer,
    /// One number more.
    OtherDimensions,
    /// No numbers at all.
    Nulls,
}

impl Vectors {
    /// Of one text, given the right one.
    pub(super) fn of(self, text: &str, right: &[u8]) -> Vec<Option<f32>> {
        let exact = right.iter().map(|byte| f32::from(*byte));
        let other = || super::embedding_of(&format!("another model: {text}"));
        let vector: Vec<f32> = match self {
            Self::Right => exact.collect(),
            Self::HalfPrecision => exact.map(|number| number * 1.0004 + 0.01).collect(),
            Self::OtherModel => other().iter().map(|byte| f32::from(*byte)).collect(),
            Self::OtherPooling => {
                let mixed = std::iter::zip(exact, other());
                mixed
                    .map(|(right, other)| right + f32::from(other) / 4.0)
                    .collect()
            }
            Self::FlippedBit => {
                let flipped = |number: f32| f32::from_bits(number.to_bits() ^ 1 << 24);
                let numbers = exact.enumerate();
                numbers
                    .map(|(at, number)| if at == 0 { flipped(number) } else { number })
                    .collect()
            }
            Self::Longer => exact.map(|number| number * 3.0).collect(),
            Self::OtherDimensions => exact.chain([1.0]).collect(),
            Self::Nulls => return vec![None; right.len()],
        };
        vector.into_iter().map(Some).collect()
    }
}

/// How a connection ends.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Ending {
    /// Closed, as by a process that exits.
    Close,
    /// Reset, as by a process that is killed.
    Reset,
    /// Not at all: the connection stays, and nothing more comes.
    Silence,
    /// After so much time these bytes, and nothing more.
    Afterthought(Duration, &'static str),
}

/// An answer without computation.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub(super) status: u16,
    pub(super) content_type: &'static str,
    pub(super) retry_after: Option<String>,
    pub(super) headers: Vec<(&'static str, String)>,
    pub(super) body: Bytes,
}

/// What `/health` says.
#[derive(Clone, Debug)]
pub(crate) enum HealthAnswer {
    /// `ok`.
    Ok,
    /// This.
    Answer(Answer),
    /// Nothing. Holds for `/status` and `/info` as well.
    Hang,
}

/// What `/status` says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StatusAnswer {
    /// How many slots are free; none while the host answers that it is busy.
    Truth,
    /// That all slots are free, whatever is true.
    AllFree,
    /// That no slot is free, whatever is true.
    NoneFree,
    /// The truth, but for `waiting_estimate`, which it leaves out.
    NoEstimate,
    /// That there is no such page.
    Missing,
    /// A server error.
    Error,
    /// Nothing.
    Hang,
}

impl Behaviour {
    /// 503 as the real service answers when its slots are taken.
    pub(crate) fn busy(retry_after: u64) -> Self {
        Self::Answer(Answer::busy(503, retry_after))
    }

    /// 429 with `Retry-After`.
    pub(crate) fn too_many_requests(retry_after: u64) -> Self {
        Self::Answer(Answer::busy(429, retry_after))
    }

    /// An answer in the service's own form.
    pub(crate) fn answer(status: u16, detail: &str) -> Self {
        Self::Answer(Answer::error(status, detail))
    }

    /// A crash as the Python service answers it.
    pub(crate) fn internal_server_error() -> Self {
        Self::Answer(Answer {
            content_type: "text/plain; charset=utf-8",
            body: Bytes::from_static(b"Internal Server Error"),
            ..Answer::error(500, "")
        })
    }

    /// This, to requests that it is one of the texts of; a right answer to others.
    pub(crate) fn only_for(self, text: &'static str) -> Self {
        Self::Serve.but_for(text, self)
    }

    /// This, but `behaviour` to requests that `text` is one of the texts of.
    pub(crate) fn but_for(self, text: &'static str, behaviour: Self) -> Self {
        Self::For(text, Box::new(behaviour), Box::new(self))
    }

    /// What becomes of a request for `texts`.
    pub(super) fn towards(self, texts: &[&str]) -> Self {
        match self {
            Self::For(chosen, behaviour, _) if texts.contains(&chosen) => *behaviour,
            Self::For(_, _, otherwise) => *otherwise,
            behaviour => behaviour,
        }
    }

    /// Does a truthful `/status` show no free slot?
    pub(super) fn is_busy(&self) -> bool {
        match self {
            Self::Answer(answer) | Self::AnswerUnread(answer) => answer.retry_after.is_some(),
            _ => false,
        }
    }
}

impl Answer {
    /// `{"detail": …}`.
    pub(crate) fn error(status: u16, detail: &str) -> Self {
        Self {
            status,
            content_type: "application/json",
            retry_after: None,
            headers: Vec::new(),
            body: serde_json::json!({"detail": detail}).to_string().into(),
        }
    }

    /// In another form.
    pub(crate) fn json(status: u16, body: &serde_json::Value) -> Self {
        Self {
            body: body.to_string().into(),
            ..Self::error(status, "")
        }
    }

    /// This JSON, as a host's result.
    pub(crate) fn result(json: &str) -> Self {
        Self {
            body: json.to_owned().into(),
            ..Self::error(200, "")
        }
    }

    /// The same with this body.
    pub(crate) fn holding(self, body: impl Into<Bytes>) -> Self {
        Self {
            body: body.into(),
            ..self
        }
    }

    /// Not in the service's form.
    pub(crate) fn text(status: u16, text: &'static str) -> Self {
        Self {
            content_type: "text/plain; charset=utf-8",
            body: text.into(),
            ..Self::error(status, "")
        }
    }

    /// What a web server says that stands before a host.
    pub(crate) fn html(status: u16) -> Self {
        Self {
            content_type: "text/html",
            body: format!("<h1>{status}</h1>").into(),
            ..Self::error(status, "")
        }
    }

    pub(crate) fn with(mut self, name: &'static str, value: &str) -> Self {
        self.headers.push((name, value.to_owned()));
        self
    }

    /// With something else in its body.
    pub(super) fn saying(&self, what: &str, instead: &str) -> Self {
        let body = String::from_utf8(self.body.to_vec()).unwrap();
        Self {
            body: body.replace(what, instead).into(),
            ..self.clone()
        }
    }

    /// A refusal for now.
    pub(crate) fn busy(status: u16, retry_after: u64) -> Self {
        Self {
            retry_after: Some(retry_after.to_string()),
            ..Self::error(status, "GPU busy - retry later")
        }
    }
}
