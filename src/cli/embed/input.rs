//! Reads the input: what is written already is passed over, and must be of the same rows; the others go into batches.

use std::fs::File;
use std::io::{BufRead as _, BufReader, Read as _};

use super::output::Output;
use super::rows::Row;
use super::{Embed, Shown};
use crate::cli::failure::Failure;

/// A line: far beyond any text that a host takes.
const LONGEST_LINE: u64 = 16 << 20;

/// Rows that are asked for together.
pub(super) struct Batch {
    pub(super) rows: Vec<Row>,
    /// Bytes of the input up to their end.
    pub(super) end: u64,
}

/// The input from some line on, in batches.
pub(super) struct Batches<'a> {
    input: BufReader<File>,
    order: &'a Embed,
    /// Read, and not given out yet.
    ahead: Option<Row>,
    line: u64,
    /// Bytes that have been read.
    pub(super) end: u64,
}

impl<'a> Batches<'a> {
    /// All of it, and its size in bytes, which a pipe does not tell.
    pub(super) fn open(order: &'a Embed) -> Result<(Self, Option<u64>), Failure> {
        let failed = |error| Failure::of_file(&order.input, &error);
        let input = File::open(&order.input).map_err(failed)?;
        let metadata = input.metadata().map_err(failed)?;
        let size = metadata.is_file().then_some(metadata.len());
        let batches = Self {
            input: BufReader::new(input),
            order,
            ahead: None,
            line: 0,
            end: 0,
        };
        Ok((batches, size))
    }

    /// Passes over what is written already. Returns what that shows.
    pub(super) fn pass_over(&mut self, output: &mut Output) -> Result<Shown, Failure> {
        let mut shown = Shown::default();
        let order = self.order;
        let in_output = |line: u64, why: &str| {
            let output = order.output.display();
            Failure::Failed(format!("{output}: line {line}: {why}; name another file"))
        };
        for line in 1.. {
            let Some(written) = output.next()? else { break };
            let row = self.next_row()?;
            if !row.is_some_and(|row| row.is_of(&written)) {
                let input = order.input.display();
                let why = format!("it is of another input than {input}");
                return Err(in_output(line, &why));
            }
            match written.origin {
                Some(origin) => shown.vector(&origin).map_err(|why| in_output(line, &why))?,
                None => shown.refused += 1,
            }
        }
        self.ahead = self.next_row()?;
        let next = self.ahead.as_ref();
        output.cut_off(|rest| next.is_some_and(|row| row.has_begun(rest)))?;
        Ok(shown)
    }

    /// The next line, with its end; `None` after the last.
    fn next_line(&mut self) -> Result<Option<Vec<u8>>, Failure> {
        let mut line = Vec::new();
        let mut bounded = (&mut self.input).take(LONGEST_LINE);
        let read = bounded.read_until(b'\n', &mut line);
        let read = read.map_err(|error| Failure::of_file(&self.order.input, &error))? as u64;
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

    fn next_row(&mut self) -> Result<Option<Row>, Failure> {
        if let Some(row) = self.ahead.take() {
            return Ok(Some(row));
        }
        while let Some(line) = self.next_line()? {
            let row = Row::read(self.line, &line, &self.order.field);
            let row = row.map_err(|bad| self.order.bad_line(self.line, &bad.to_string()))?;
            if row.is_some() {
                return Ok(row);
            }
        }
        Ok(None)
    }

    fn next_batch(&mut self) -> Result<Batch, Failure> {
        let mut rows = Vec::new();
        while rows.len() < usize::from(self.order.batch)
            && let Some(row) = self.next_row()?
        {
            rows.push(row);
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
