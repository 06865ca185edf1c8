//! `gpu-bridge embed`: the vectors of a file's texts, through a running proxy, in the background of others' requests.
//!
//! ```text
//! input ─ rows ─ batches ─▶ several at once, each until it is answered ─▶ in their order ─▶ output
//! ```
//!
//! The output is only ever longer, in the order of the input. So where it ends is where the same command goes on,
//! however it ended: no row is lost, none comes twice.

mod answer;
mod ask;
mod input;
mod output;
mod progress;
mod rows;

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use gpu_bridge_wire::openai::is_same_model;
use http::StatusCode;
use url::Url;

use self::ask::{Asker, Found};
use self::input::{Batch, Batches};
use self::output::Output;
use self::progress::Progress;
use self::rows::{Origin, Row};
use super::client;
use super::failure::Failure;
use crate::authorities;

const KEY_VARIABLE: &str = "GPU_BRIDGE_KEY";

/// What to embed, and where.
#[derive(Args, Debug)]
pub(super) struct Embed {
    /// The rows: on each line a JSON object with a text in it, or just a text. An `id` is passed on.
    #[arg(long = "in", value_name = "FILE")]
    input: PathBuf,
    /// Where the vectors go, a JSON object on each line; if it is there, the command goes on where it ends.
    #[arg(long = "out", value_name = "FILE")]
    output: PathBuf,
    /// The proxy, or a single GPU host.
    #[arg(
        long,
        env = "GPU_BRIDGE_URL",
        hide_env_values = true,
        default_value = "http://127.0.0.1:8765",
        value_parser = url
    )]
    url: Url,
    /// A file that holds the key, which may also stand in `GPU_BRIDGE_KEY`.
    #[arg(long, value_name = "FILE")]
    key_file: Option<PathBuf>,
    /// The model, as hosts name it; that of the host unless set.
    #[arg(long)]
    model: Option<String>,
    /// The field of a row that holds its text.
    #[arg(long, default_value = "text")]
    field: String,
    /// Texts in a request; hosts take 100 unless set otherwise.
    #[arg(long, value_name = "N", default_value = "64", value_parser = clap::value_parser!(u16).range(1..=10_000))]
    batch: u16,
    /// Requests at once: twice the slots of all hosts keep them busy.
    #[arg(long, value_name = "N", default_value = "8", value_parser = clap::value_parser!(u16).range(1..=1000))]
    concurrency: u16,
    /// Give up if a request has not been answered for so long.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = patience)]
    patience: Duration,
    /// Write why a text is refused in place of its vector, and go on; the exit code is 1 then.
    #[arg(long)]
    keep_going: bool,
}

/// What is written.
struct Sink<'a> {
    order: &'a Embed,
    output: Output,
    shown: Shown,
    progress: Progress,
}

/// What the rows of the output have shown so far.
#[derive(Default)]
struct Shown {
    /// Of all vectors.
    origin: Option<Origin>,
    /// Rows without one.
    refused: u64,
}

pub(super) async fn embed(order: &Embed) -> Result<(), Failure> {
    order.names_files()?;
    let key = client::given_key(
        ("--key-file", order.key_file.clone()),
        (KEY_VARIABLE, std::env::var_os(KEY_VARIABLE)),
    )?;
    let address = address(&order.url)?;
    if address.scheme() == "https" {
        // None would be known otherwise, and the proxy's certificate be blamed.
        authorities::load().map_err(Failure::Usage)?;
    }
    let (mut batches, size) = Batches::open(order)?;
    let mut output = Output::open(&order.output)?;
    let shown = batches.pass_over(&mut output)?;
    order.refuse_another_model(shown.origin.as_ref())?;
    let before = shown.origin.clone();
    let (model, space) = before.map_or((None, None), |it| (Some(it.model), it.space));
    let asker = Asker::new(
        address,
        key,
        order.model.clone().or(model),
        order.patience,
        space,
    )?;
    let mut sink = Sink {
        order,
        output,
        shown,
        progress: Progress::new(size, batches.end),
    };
    let done = sink.fill(batches, &asker).await;
    // What came is kept, however it ended.
    sink.output.sync()?;
    done?;
    sink.progress.done(sink.shown.origin.as_ref());
    match sink.shown.refused {
        0 => Ok(()),
        refused => Err(Failure::Failed(format!(
            "{refused} rows were refused; their lines have an error"
        ))),
    }
}

impl Sink<'_> {
    async fn fill(&mut self, mut batches: Batches<'_>, asker: &Asker) -> Result<(), Failure> {
        // Hosts may differ in what they take where no model is named: the first answer tells what is named from then on.
        while !asker.names_model()
            && let Some(batch) = batches.next()
        {
            let batch = batch?;
            let found = asker.ask(&batch.rows).await?;
            self.write(&batch, found)?;
        }
        let answered = stream::iter(batches).map(|batch| async {
            let batch = batch?;
            let found = asker.ask(&batch.rows).await?;
            Ok::<_, Failure>((batch, found))
        });
        let mut answered = answered.buffered(self.order.concurrency.into());
        while let Some((batch, found)) = answered.try_next().await? {
            self.write(&batch, found)?;
        }
        Ok(())
    }

    fn write(&mut self, batch: &Batch, found: Vec<Found>) -> Result<(), Failure> {
        if let Some((status, why)) = refused_alike(&found)
            && (self.shown.origin.is_none() || status.is_server_error())
        {
            let text = format!("all texts are refused alike: {why}; none of them may be at fault");
            return Err(Failure::Failed(text));
        }
        let mut lines = Vec::new();
        let mut end = Ok(());
        for (row, found) in batch.rows.iter().zip(found) {
            end = self.add(row, found, &mut lines);
            if end.is_err() {
                break;
            }
            self.progress.row();
        }
        self.output.append(&lines)?;
        self.progress.read(batch.end);
        end
    }

    fn add(&mut self, row: &Row, found: Found, lines: &mut Vec<u8>) -> Result<(), Failure> {
        let (origin, vector) = match found {
            Found::Vector(origin, vector) => (origin, vector),
            Found::Refused(_, why) if self.order.keep_going => {
                self.shown.refused += 1;
                return write(&row.failed(Some(why)), lines);
            }
            Found::Refused(_, why) => {
                let text = format!("the text is refused: {why} (--keep-going passes over it)");
                return Err(self.order.bad_line(row.line, &text));
            }
        };
        let suits = self.shown.vector(&origin);
        suits.map_err(|why| self.order.bad_line(row.line, &why))?;
        write(&row.embedded(&origin, &vector), lines)
    }
}

/// Why, if all of several are, or one without company, by what may be about something else: 400 is said of anything,
/// and by 500 each text is blamed only beside others that are well.
fn refused_alike(found: &[Found]) -> Option<(StatusCode, &str)> {
    let mut whys = found.iter().map(|found| match found {
        Found::Refused(
            status @ (StatusCode::BAD_REQUEST | StatusCode::INTERNAL_SERVER_ERROR),
            why,
        ) => Some((*status, why.as_str())),
        Found::Refused(..) | Found::Vector(..) => None,
    });
    let first = whys.next()??;
    let is_alike = whys.all(|why| why == Some(first));
    (is_alike && (found.len() > 1 || first.0.is_server_error())).then_some(first)
}

impl Shown {
    /// Another row has a vector.
    ///
    /// # Errors
    /// Why it can't be compared with those before.
    fn vector(&mut self, origin: &Origin) -> Result<(), String> {
        let before = self.origin.get_or_insert_with(|| origin.clone());
        if !before.suits(origin) {
            return Err(format!(
                "its vector is of another kind ({origin}) than those before ({before})"
            ));
        }
        if before.space.is_none() {
            before.space.clone_from(&origin.space);
        }
        Ok(())
    }
}

fn write(written: &rows::Written<'_>, lines: &mut Vec<u8>) -> Result<(), Failure> {
    let json = serde_json::to_writer(&mut *lines, written);
    json.map_err(|error| Failure::Failed(error.to_string()))?;
    lines.push(b'\n');
    Ok(())
}

impl Embed {
    fn names_files(&self) -> Result<(), Failure> {
        let dash = Path::new("-");
        if self.input == dash || self.output == dash {
            let why = "goes on where a file ends, so it takes files, not standard input or output";
            return Err(Failure::Usage(format!("embed {why}")));
        }
        Ok(())
    }

    /// One that is finished would be taken for done, though it is of another.
    fn refuse_another_model(&self, before: Option<&Origin>) -> Result<(), Failure> {
        let both = self.model.as_deref().zip(before);
        let other = both.filter(|(wanted, it)| !is_same_model(wanted, &it.model));
        other.map_or(Ok(()), |(_, before)| {
            let output = self.output.display();
            Err(Failure::Failed(format!(
                "{output}: its vectors are of {before}, not of what --model names; name another file"
            )))
        })
    }

    fn bad_line(&self, line: u64, why: &str) -> Failure {
        Failure::Failed(format!("{}: line {line}: {why}", self.input.display()))
    }
}

/// Nothing of what is no time is repeated.
fn patience(text: &str) -> Result<Duration, &'static str> {
    humantime::parse_duration(text).map_err(|_| "it is no time; write e.g. 90s or 10m")
}

/// An address and a port can be meant in one way only. Nothing of another text is repeated.
fn url(text: &str) -> Result<Url, &'static str> {
    let bad = "it is no URL; write e.g. http://127.0.0.1:8765";
    if text.contains("://") {
        return text.parse().map_err(|_| bad);
    }
    let port = text.trim_end_matches('/').rsplit_once(':');
    port.and_then(|(_, port)| port.parse::<u16>().ok())
        .ok_or(bad)?;
    format!("http://{text}").parse().map_err(|_| bad)
}

/// Of `/embed` at `url`.
fn address(url: &Url) -> Result<Url, Failure> {
    let usage =
        |why: &str| Failure::Usage(format!("--url {why}; write e.g. http://127.0.0.1:8765"));
    if !matches!(url.scheme(), "http" | "https") || !url.has_host() {
        return Err(usage("is no address of a proxy"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(usage(
            "takes no user; the key goes into GPU_BRIDGE_KEY or --key-file",
        ));
    }
    let place = url.path().trim_end_matches('/');
    // As OpenAI's clients are told it, or in full.
    for added in ["/v1", "/v1/embeddings", "/embed"] {
        if place.ends_with(added) {
            return Err(usage(&format!("is the proxy's own, without {added}")));
        }
    }
    if url.query().is_some() || url.fragment().is_some() {
        return Err(usage("takes nothing behind ? or #"));
    }
    let path = format!("{place}/embed");
    let mut url = url.clone();
    url.set_path(&path);
    Ok(url)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ways_to_write_the_url() {
        let read = |text: &str| match url(text) {
            Ok(url) => address(&url).map_err(|failure| failure.to_string()),
            Err(why) => Err(why.to_owned()),
        };
        for (text, expected) in [
            ("127.0.0.1:8765", "http://127.0.0.1:8765/embed"),
            ("localhost:8765/", "http://localhost:8765/embed"),
            (
                "https://gpu.example/pool/",
                "https://gpu.example/pool/embed",
            ),
        ] {
            assert_eq!(read(text).unwrap().as_str(), expected);
        }
        for (text, why) in [
            ("http://h:1/v1", "without /v1;"),
            ("http://h:1/v1/embeddings", "without /v1/embeddings;"),
            ("http://h:1/embed/", "without /embed;"),
            ("http://h:1/?key=1", "nothing behind ?"),
            ("localhost", "it is no URL"),
            ("ftp://h:1", "no address of a proxy"),
        ] {
            let told = read(text).unwrap_err();
            assert!(told.contains(why), "{text}: {told}");
        }
    }

    #[test]
    fn a_text_is_blamed_for_an_error_of_hosts_only_beside_others_that_are_well() {
        let refused =
            |status: u16| Found::Refused(StatusCode::from_u16(status).unwrap(), "why".to_owned());
        let vector = || {
            let origin = Origin {
                model: "m".to_owned(),
                dimensions: 1,
                space: None,
            };
            Found::Vector(origin, serde_json::from_str("[1]").unwrap())
        };
        for (found, is_alike) in [
            (vec![refused(500)], true),
            (vec![refused(500), refused(500)], true),
            (vec![refused(500), vector()], false),
            (vec![vector(), refused(500)], false),
            (vec![refused(400)], false),
            (vec![refused(400), refused(400)], true),
            (vec![refused(422), refused(422)], false),
        ] {
            assert_eq!(refused_alike(&found).is_some(), is_alike);
        }
    }
}
