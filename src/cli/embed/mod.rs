//! `gpu-bridge embed`: the vectors of a file's texts, through a running proxy, in the background of others' requests.
//!
//! ```text
//! input ─ rows ─ batches ─▶ several at once, each until it is answered ─▶ in their order ─▶ output
//! ```
//!
//! The output is only ever longer, in the order of the input. So where it ends is where the same command goes on,
//! however it ended: no row is lost, none comes twice.

mod ask;
mod output;
mod progress;
mod rows;

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use url::Url;

use self::ask::{Asker, Found};
use self::output::{Last, Output};
use self::progress::Progress;
use self::rows::{Origin, Row};
use super::client;
use super::failure::Failure;

const KEY_VARIABLE: &str = "GPU_BRIDGE_KEY";
/// A line of the input: far beyond any text that a host takes.
const LONGEST_LINE: u64 = 16 << 20;

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
        default_value = "http://127.0.0.1:8765"
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
    #[arg(long, value_name = "N", default_value = "64")]
    batch: NonZeroUsize,
    /// Requests at once: twice the slots of all hosts keep them busy.
    #[arg(long, value_name = "N", default_value = "8")]
    concurrency: NonZeroUsize,
    /// Give up if a request has not been answered for so long.
    #[arg(long, value_name = "TIME", default_value = "10m", value_parser = humantime::parse_duration)]
    patience: Duration,
    /// Write why a text is refused in place of its vector, and go on; the exit code is 1 then.
    #[arg(long)]
    keep_going: bool,
}

/// Rows that are asked for together.
struct Batch {
    rows: Vec<Row>,
    /// Bytes of the input up to their end.
    end: u64,
}

/// The input from some line on, in batches.
struct Batches<'a> {
    input: BufReader<File>,
    order: &'a Embed,
    line: u64,
    end: u64,
}

/// What is written, and what it has shown so far.
struct Sink<'a> {
    order: &'a Embed,
    output: Output,
    /// Of all vectors in the output.
    origin: Option<Origin>,
    progress: Progress,
    refused: u64,
}

pub(super) async fn embed(order: &Embed) -> Result<(), Failure> {
    let input = File::open(&order.input).map_err(|error| failed(&order.input, &error))?;
    let size = input
        .metadata()
        .map_err(|error| failed(&order.input, &error))?;
    let (output, last) = Output::open(&order.output)?;
    let mut batches = Batches {
        input: BufReader::new(input),
        order,
        line: 0,
        end: 0,
    };
    let origin = match &last {
        Some(last) => batches.skip_to(last)?,
        None => None,
    };
    let key = client::given_key(
        order.key_file.clone(),
        std::env::var_os(KEY_VARIABLE),
        KEY_VARIABLE,
    )?;
    let space = origin.as_ref().and_then(|origin| origin.space.clone());
    let asker = Asker::new(
        address(&order.url)?,
        key,
        order.model.clone(),
        order.patience,
        space,
    )?;
    let mut sink = Sink {
        order,
        output,
        origin,
        progress: Progress::new(size.len(), batches.end),
        refused: 0,
    };
    let done = sink.fill(batches, &asker).await;
    // What came is kept, however it ended.
    sink.output.sync()?;
    done?;
    sink.progress.done();
    match sink.refused {
        0 => Ok(()),
        refused => Err(Failure::Failed(format!(
            "{refused} rows were refused; their lines have an error"
        ))),
    }
}

impl Sink<'_> {
    async fn fill(&mut self, batches: Batches<'_>, asker: &Asker) -> Result<(), Failure> {
        let answered = stream::iter(batches).map(|batch| async {
            let batch = batch?;
            let found = asker.ask(&batch.rows).await?;
            Ok::<_, Failure>((batch, found))
        });
        let mut answered = answered.buffered(self.order.concurrency.get());
        while let Some((batch, found)) = answered.try_next().await? {
            self.write(&batch, found)?;
        }
        Ok(())
    }

    fn write(&mut self, batch: &Batch, found: Vec<Found>) -> Result<(), Failure> {
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
            Found::Refused(why) if self.order.keep_going => {
                self.refused += 1;
                return write(&row.failed(Some(why)), lines);
            }
            Found::Refused(why) => {
                let text = format!("the text is refused: {why} (--keep-going passes over it)");
                return Err(self.order.bad_line(row.line, &text));
            }
        };
        let first = self.origin.get_or_insert_with(|| origin.clone());
        if !first.suits(&origin) {
            let text =
                format!("its vector is of another kind ({origin}) than those before ({first})");
            return Err(self.order.bad_line(row.line, &text));
        }
        write(&row.embedded(&origin, &vector), lines)
    }
}

fn write(written: &rows::Written<'_>, lines: &mut Vec<u8>) -> Result<(), Failure> {
    let json = serde_json::to_writer(&mut *lines, written);
    json.map_err(|error| Failure::Failed(error.to_string()))?;
    lines.push(b'\n');
    Ok(())
}

impl Batches<'_> {
    /// Passes over what is written already, up to `last`. Returns how the vectors there came to be, if it has one.
    fn skip_to(&mut self, last: &Last) -> Result<Option<Origin>, Failure> {
        while self.line < last.line {
            let Some(line) = self.next_line()? else { break };
            if self.line == last.line {
                let row = Row::read(self.line, &line, &self.order.field)
                    .ok()
                    .flatten();
                if row.is_some_and(|row| row.digest() == last.text_sha256) {
                    return Ok(last.origin.clone());
                }
            }
        }
        let text = format!(
            "it ends with line {} of another input than {}; name another file",
            last.line,
            self.order.input.display()
        );
        Err(Failure::Failed(format!(
            "{}: {text}",
            self.order.output.display()
        )))
    }

    /// The next line, with its end; `None` after the last.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.input).take(LONGEST_LINE);
        let read = bounded.read_until(b'\n', &mut line);
        let read = read.map_err(|error| failed(&self.order.input, &error))? as u64;
        if read == 0 {
            return Ok(None);
        }
        self.line += 1;
        self.end += read;
        if read == LONGEST_LINE {
            return Err(self.order.bad_line(self.line, "it is longer than 16 MiB"));
        }
        Ok(Some(line))
    }

    fn next_batch(&mut self) -> Result<Batch, Failure> {
        let mut rows = Vec::new();
        while rows.len() < self.order.batch.get()
            && let Some(line) = self.next_line()?
        {
            let row = Row::read(self.line, &line, &self.order.field);
            rows.extend(row.map_err(|bad| self.order.bad_line(self.line, &bad.to_string()))?);
        }
        Ok(Batch {
            rows,
            end: self.end,
        })
    }
}

impl Iterator for Batches<'_> {
    type Item = Result<Batch, Failure>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.next_batch();
        match &batch {
            Ok(batch) if batch.rows.is_empty() => None,
            _ => Some(batch),
        }
    }
}

impl Embed {
    fn bad_line(&self, line: u64, why: &str) -> Failure {
        Failure::Failed(format!("{}: line {line}: {why}", self.input.display()))
    }
}

fn failed(path: &Path, error: &std::io::Error) -> Failure {
    Failure::Failed(format!("{}: {error}", path.display()))
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
    let mut url = url.clone();
    let path = format!("{}/embed", url.path().trim_end_matches('/'));
    url.set_path(&path);
    url.set_query(None);
    url.set_fragment(None);
    Ok(url)
}
