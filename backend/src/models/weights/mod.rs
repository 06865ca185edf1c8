//! A model's weights, in whichever of its published forms a folder has them.
//!
//! `model.safetensors` comes before `pytorch_model.bin`, and a whole file before shards with an
//! index. Tensors are read when they are asked for, so that a model cut at a lower layer costs no
//! more than its lower part. Everything is computed in 32-bit floats; other precisions are
//! converted on the way.

mod checkpoint;
#[cfg(any(test, fuzzing))]
pub(crate) mod fuzz;
mod names;
mod pickle;

#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use candle_core::safetensors::MmapedSafetensors;
use candle_core::{DType, Device};
use candle_nn::VarBuilder;
use candle_nn::var_builder::SimpleBackend;
use safetensors::Dtype;
use safetensors::tensor::Metadata;
use tracing::warn;

use self::checkpoint::{Checkpoint, CheckpointError};
use self::names::{Noted, Shared};
use self::pickle::PickleError;
use super::error::LoadError;
use super::file;
use super::settings_file::SettingsFile;
use crate::device::reason;

/// Opens files as one, which lie in a folder; an error names the file.
type Open = fn(&Path, &[PathBuf]) -> Result<Stored, LoadError>;
/// The tensors, and the kind of numbers in each if they are no floats that can be read.
type Stored = (Box<dyn SimpleBackend>, BTreeMap<String, Option<String>>);
/// Each tensor's name in such files, and how many numbers it has.
type Counts = fn(&Path, &[PathBuf]) -> Result<Vec<(String, u64)>, LoadError>;

/// A published form of weights.
struct Form {
    single: &'static str,
    index: &'static str,
    open: Open,
    counts: Counts,
}

/// Files of one model's weights. Those of the largest language models are fewer than 200.
const MOST_SHARDS: usize = 512;
/// Bytes of the headers of one model's safetensors files, all together: as many as the format allows in one.
/// They list the tensors, and may hold any notes of those who trained them.
const MOST_HEADERS: u64 = 100_000_000;
/// Values in these headers, about seven for a tensor, each of which takes some 100 bytes of memory. An encoder
/// of 48 layers has 6,000, the largest language models 650,000.
const MOST_VALUES: usize = 1 << 20;

/// How the text begins that stands for a file in a clone without Git LFS.
const GIT_LFS: &[u8] = b"version https://git-lfs";
/// So many tensors are named in one line of the log.
const MOST_NAMED: usize = 8;
/// So many bytes tell what a file is.
const MOST_TELLING: u64 = 32;

/// The forms, the preferred one first.
const FORMS: [Form; 2] = [
    Form {
        single: "model.safetensors",
        index: "model.safetensors.index.json",
        open: safetensors,
        counts: counts_in_safetensors,
    },
    Form {
        single: "pytorch_model.bin",
        index: "pytorch_model.bin.index.json",
        open: checkpoint,
        counts: |folder, files| tensors_of(folder, files).map(Checkpoint::counts),
    },
];

/// The weights in `folder`, read as they are asked for and put on `device`.
///
/// The tensors of a layer norm go by their names of today (`weight`, `bias`), also where an old
/// checkpoint has `gamma` and `beta`.
pub(crate) fn open(folder: &Path, device: &Device) -> Result<Weights, LoadError> {
    let (form, files) = find(folder)?;
    if let Some(message) = files.iter().find_map(|file| other_kind(file)) {
        return Err(problem(folder, message));
    }
    let (tensors, kinds) = (form.open)(folder, &files)?;
    let read = Arc::default();
    let tensors = Box::new(Noted {
        tensors,
        read: Arc::clone(&read),
    });
    Ok(Weights {
        tensors: VarBuilder::from_backend(tensors, DType::F32, device.clone()),
        folder: folder.to_owned(),
        kinds,
        read,
    })
}

/// The tensors of a folder, and which of them were read.
pub(crate) struct Weights {
    pub(crate) tensors: VarBuilder<'static>,
    folder: PathBuf,
    kinds: BTreeMap<String, Option<String>>,
    read: Shared,
}

impl Weights {
    /// Refuses weights of which numbers were read that are no floats: what they stand for is said
    /// elsewhere, in scales or tables that nothing here reads. And those that are NaN or infinite, of which
    /// no answer could be made.
    pub(crate) fn check(&self) -> Result<(), LoadError> {
        let read = names::lock(&self.read);
        let mut names = read.names.iter();
        let odd = names.find_map(|name| Some((name, self.kinds.get(name)?.as_ref()?)));
        let (name, told) = if let Some((name, kind)) = odd {
            let supported = "floats of 16, 32 and 64 bits are supported";
            (name, format!("holds {kind}; {supported}"))
        } else if let Some(name) = &read.not_finite {
            (name, "holds NaN or infinity".to_owned())
        } else {
            return Ok(());
        };
        Err(of_tensor(&self.folder, name, told))
    }

    /// Accounts for the tensors that were not read: `left_out` knows why, or a line in the log names
    /// them.
    ///
    /// # Errors
    /// See [`check`](Self::check).
    pub(crate) fn settle(&self, left_out: impl Fn(&str) -> bool) -> Result<(), LoadError> {
        self.check()?;
        let unknown = self.unknown(left_out);
        if !unknown.is_empty() {
            let (count, folder) = (unknown.len(), self.folder.display());
            let named = unknown[..count.min(MOST_NAMED)].join(", ");
            warn!(%folder, count, named, "tensors not known, not used");
        }
        Ok(())
    }

    fn unknown(&self, left_out: impl Fn(&str) -> bool) -> Vec<&str> {
        let read = names::lock(&self.read);
        let unread = self.kinds.keys().filter(|name| !read.names.contains(*name));
        let unknown = unread.filter(|name| !left_out(name));
        unknown.map(String::as_str).collect()
    }
}

/// The name of each tensor that [`open`] gives, and how many numbers it has. No number is read.
pub(crate) fn counts(folder: &Path) -> Result<Vec<(String, u64)>, LoadError> {
    let (form, files) = find(folder)?;
    (form.counts)(folder, &files)
}

/// Whether the weights in `folder` are there as a whole: one file, or an index and all it names.
pub(crate) fn check(folder: &Path) -> Result<(), LoadError> {
    let (_, files) = find(folder)?;
    let open = |path: PathBuf| match file::open(&path) {
        Ok(_) => Ok(()),
        Err(source) => Err(LoadError::Read { path, source }),
    };
    files.into_iter().try_for_each(open)
}

/// The form that counts in `folder`, and its files.
fn find(folder: &Path) -> Result<(&'static Form, Vec<PathBuf>), LoadError> {
    let present =
        |form: &&Form| [form.single, form.index].map(|name| file::is_there(&folder.join(name)));
    let form = FORMS.iter().find(|form| present(form).contains(&true));
    let Some(form) = form else {
        let names = FORMS.map(|form| format!("{} nor {}", form.single, form.index));
        let message = format!("there is neither {}", names.join(" nor "));
        return Err(problem(folder, message));
    };
    let files = files(folder, form)?;
    let all = files.len();
    if all > MOST_SHARDS {
        let message = format!(
            "{} names {all} files, the limit is {MOST_SHARDS}",
            form.index
        );
        return Err(problem(folder, message));
    }
    Ok((form, files))
}

/// An error about the weights in `folder`, in our words.
pub(crate) fn problem(folder: &Path, problem: String) -> LoadError {
    LoadError::Weights {
        path: folder.to_owned(),
        problem,
    }
}

/// The same about one of the tensors.
fn of_tensor(folder: &Path, name: &str, problem: String) -> LoadError {
    LoadError::Tensor {
        path: folder.to_owned(),
        name: name.to_owned(),
        problem,
    }
}

/// The same in the words of the library that reads them.
pub(crate) fn broken(folder: &Path, problem: String) -> LoadError {
    LoadError::Tensors {
        path: folder.to_owned(),
        problem,
    }
}

/// What to tell of a file that is known for something else than weights that can be read.
fn other_kind(file: &Path) -> Option<String> {
    let mut start = Vec::new();
    let (opened, _) = file::open(file).ok()?;
    opened.take(MOST_TELLING).read_to_end(&mut start).ok()?;
    let what = if start.starts_with(GIT_LFS) {
        "is a pointer of Git LFS, not the file itself; get it with `git lfs pull`".to_owned()
    } else if checkpoint::is_old(&start) {
        CheckpointError::OldFormat.to_string()
    } else {
        return None;
    };
    Some(format!("{} {what}", file.file_name()?.display()))
}

fn files(folder: &Path, form: &Form) -> Result<Vec<PathBuf>, LoadError> {
    let single = folder.join(form.single);
    if file::is_there(&single) {
        return Ok(vec![single]);
    }
    let index = SettingsFile::read(folder.join(form.index))?;
    let shard_of: BTreeMap<String, String> = index.require("weight_map")?;
    let shards: BTreeSet<String> = shard_of.into_values().collect();
    let is_name = |shard: &String| Path::new(shard).file_name() == Some(shard.as_ref());
    if shards.is_empty() || !shards.iter().all(is_name) {
        let problem = "must name files of the index's own folder, one for each tensor".to_owned();
        return Err(index.problem("weight_map", problem));
    }
    Ok(shards.into_iter().map(|shard| folder.join(shard)).collect())
}

/// The headers of safetensors files: JSON, after 8 bytes that tell its length.
fn headers(folder: &Path, files: &[PathBuf]) -> Result<Vec<Vec<u8>>, LoadError> {
    let (mut bytes, mut values) = (0, 0);
    let mut header = |path: &Path| {
        let header = header(path)?;
        bytes += header.len() as u64;
        values += file::values(&header);
        if bytes > MOST_HEADERS || values > MOST_VALUES {
            let limits = format!("{MOST_HEADERS} bytes and {MOST_VALUES} values");
            return Err(file::refused(format!(
                "with its header, those of the model are above the limits of {limits}"
            )));
        }
        Ok(header)
    };
    let named =
        |path: &PathBuf| header(path).map_err(|error| problem(folder, in_file(path, error)));
    files.iter().map(named).collect()
}

/// The header of one file.
fn header(path: &Path) -> io::Result<Vec<u8>> {
    let (mut file, length) = file::open(path)?;
    let mut told = [0; 8];
    file.read_exact(&mut told)?;
    let told = u64::from_le_bytes(told);
    if told > length {
        let problem = format!("its header of {told} bytes is longer than the file");
        return Err(file::refused(problem));
    }
    if told > MOST_HEADERS {
        let problem = format!("its header has {told} bytes, the limit is {MOST_HEADERS}");
        return Err(file::refused(problem));
    }
    let mut header = Vec::new();
    file.take(told).read_to_end(&mut header)?;
    Ok(header)
}

fn in_file(path: &Path, error: impl std::fmt::Display) -> String {
    format!(
        "{}: {error}",
        path.file_name().unwrap_or_default().display()
    )
}

fn counts_in_safetensors(
    folder: &Path,
    files: &[PathBuf],
) -> Result<Vec<(String, u64)>, LoadError> {
    let mut counts = Vec::new();
    for (path, header) in files.iter().zip(headers(folder, files)?) {
        let metadata: Metadata = serde_json::from_slice(&header)
            .map_err(|error| broken(folder, in_file(path, error)))?;
        let tensors = metadata.tensors().into_iter();
        // The reader has checked that no product overflows.
        counts.extend(
            tensors.map(|(name, info)| (name, info.shape.iter().map(|n| *n as u64).product())),
        );
    }
    Ok(counts)
}

#[expect(unsafe_code, reason = "memory-mapped files; see the argument inside")]
fn safetensors(folder: &Path, files: &[PathBuf]) -> Result<Stored, LoadError> {
    headers(folder, files)?;
    // SAFETY: a map is sound as long as nobody changes the file below it. Model folders belong to
    // the operator, who replaces models with the program stopped, or puts new files in place of old
    // ones; the hub's tools do the latter, which leaves an open map as it was. The time at risk is
    // short: a model's tensors are copied out while it loads, and then the map is dropped. A file
    // that was short from the start is found out by its header, before any tensor is read.
    match unsafe { MmapedSafetensors::multi(files) } {
        Ok(tensors) => {
            let mut kinds = BTreeMap::new();
            for (name, tensor) in tensors.tensors() {
                if kinds
                    .insert(name.clone(), unreadable(tensor.dtype()))
                    .is_some()
                {
                    return Err(of_tensor(folder, &name, "is in two files".to_owned()));
                }
            }
            Ok((Box::new(tensors), kinds))
        }
        Err(error) => Err(broken(folder, reason(&error))),
    }
}

/// What to call numbers that are no floats which can be read.
fn unreadable(dtype: Dtype) -> Option<String> {
    match dtype {
        Dtype::F16 | Dtype::BF16 | Dtype::F32 | Dtype::F64 => None,
        other => Some(format!("{other:?}")),
    }
}

fn checkpoint(folder: &Path, files: &[PathBuf]) -> Result<Stored, LoadError> {
    let tensors = tensors_of(folder, files)?;
    // The reader has left out all others.
    let kinds = tensors.names().map(|name| (name.to_owned(), None));
    let kinds = kinds.collect();
    Ok((Box::new(tensors), kinds))
}

fn tensors_of(folder: &Path, files: &[PathBuf]) -> Result<Checkpoint, LoadError> {
    Checkpoint::open(files).map_err(|(path, error)| {
        let file = path.file_name().unwrap_or_default().display();
        let told = format!("{file} {error}");
        match error {
            CheckpointError::Read(_) | CheckpointError::Zip(_) => broken(folder, told),
            CheckpointError::Twice(name) => {
                of_tensor(folder, &name, format!("is in {file} and another file"))
            }
            CheckpointError::Tensor { name, problem }
            | CheckpointError::Pickle(PickleError::Tensor { name, problem }) => {
                of_tensor(folder, &name, format!("in {file} {problem}"))
            }
            _ => problem(folder, told),
        }
    })
}
