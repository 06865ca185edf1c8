//! Checkpoints of `PyTorch` (`pytorch_model.bin`): a zip archive with a pickled list of tensors
//! (`…/data.pkl`) and the numbers of each storage as they lie in memory (`…/data/<name>`).
//!
//! Nothing in a checkpoint is executed (see [`pickle`]). Whether every tensor lies within the file
//! is checked when it is opened, so that a hostile list cannot ask for more memory than the file is
//! long; numbers are read when they are asked for.

use std::cell::Cell;
use std::collections::HashMap;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::sync::Arc;

use candle_core::{DType, Device, Shape, Tensor};
use candle_nn::Init;
use candle_nn::var_builder::SimpleBackend;
use thiserror::Error;
use zip::{CompressionMethod, ZipArchive};

use crate::models::file;

use super::pickle::{self, Description, PickleError};

/// The longest list of tensors: that of a model with 48 layers has a quarter of a megabyte. Each of
/// its bytes takes up to 80 in memory.
const MAX_LIST: u64 = 2 << 20;
/// Bytes of the archive that are read to find the files in it: those of a model with 48 layers take
/// 0.1 MB, each with its name and its place.
const MOST_DIRECTORY: u64 = 4 << 20;
/// How often the tensors may use the bytes of the file on average. Two share theirs where a head's
/// weights are those of the words.
const MOST_USES: u64 = 2;
/// How every zip archive with at least one file begins.
const ZIP: &[u8] = b"PK\x03\x04";
/// The number that `torch.save` wrote first before `PyTorch` 1.6, pickled.
const OLD_FORMAT: &[u8] = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19";

/// Why a file is not a usable checkpoint.
#[derive(Debug, Error)]
pub(super) enum CheckpointError {
    #[error("cannot be read: {0}")]
    Read(#[from] io::Error),
    #[error(
        "has the format from before PyTorch 1.6; convert it to safetensors, for example with \
         `AutoModel.from_pretrained(folder).save_pretrained(folder)` of a current transformers"
    )]
    OldFormat,
    #[error(
        "is not a checkpoint of PyTorch (no zip archive); if it is another format, convert it to \
         safetensors, for example with `save_pretrained` of transformers"
    )]
    NotZip,
    #[error("is a broken zip archive: {0}")]
    Zip(#[from] zip::result::ZipError),
    #[error("has no list of tensors, or more than one, or one of more than {MAX_LIST} bytes")]
    List,
    #[error("cannot be understood: {0}")]
    Pickle(#[from] PickleError),
    #[error("was written on a big-endian machine, which is not supported")]
    BigEndian,
    #[error("lists files in more than {MOST_DIRECTORY} bytes")]
    Directory,
    #[error("has tensors that are together more than {MOST_USES} times as large as the file")]
    Shared,
    #[error("has the tensor '{0}', as another file has")]
    Twice(String),
    #[error("has the tensor '{name}', which {problem}")]
    Tensor { name: String, problem: &'static str },
}

/// Whether a file that begins like this has the format from before `PyTorch` 1.6.
pub(super) fn is_old(start: &[u8]) -> bool {
    start.starts_with(OLD_FORMAT)
}

/// The tensors of one or several checkpoints, by name.
pub(super) struct Checkpoint {
    tensors: HashMap<String, Stored>,
}

/// A tensor's place on disk.
#[derive(Debug)]
struct Stored {
    file: Arc<Path>,
    /// Its first byte's place in the file.
    start: u64,
    bytes: usize,
    dtype: DType,
    shape: Vec<usize>,
    /// Whether a matrix lies there column by column.
    transposed: bool,
}

impl Checkpoint {
    /// Opens `files` as one.
    ///
    /// # Errors
    /// The file, and what is wrong with it.
    pub(super) fn open(files: &[PathBuf]) -> Result<Self, (PathBuf, CheckpointError)> {
        let mut tensors = HashMap::new();
        for file in files {
            let stored = stored(file).map_err(|error| (file.clone(), error))?;
            if let Some((name, _)) = stored.iter().find(|(name, _)| tensors.contains_key(name)) {
                return Err((file.clone(), CheckpointError::Twice(name.clone())));
            }
            tensors.extend(stored);
            if tensors.len() > pickle::MOST_TENSORS {
                return Err((file.clone(), PickleError::Tensors.into()));
            }
        }
        Ok(Self { tensors })
    }

    /// Each tensor, and how many numbers it has.
    pub(super) fn counts(self) -> Vec<(String, u64)> {
        let count = |stored: &Stored| (stored.bytes / stored.dtype.size_in_bytes()) as u64;
        let tensors = self.tensors.into_iter();
        tensors
            .map(|(name, stored)| (name, count(&stored)))
            .collect()
    }

    /// What they are called.
    pub(super) fn names(&self) -> impl Iterator<Item = &str> {
        self.tensors.keys().map(String::as_str)
    }

    fn read(&self, name: &str, dtype: DType, device: &Device) -> candle_core::Result<Tensor> {
        let stored = self.tensors.get(name).ok_or_else(|| {
            let path = name.to_owned();
            candle_core::Error::CannotFindTensor { path }.bt()
        })?;
        let tensor = stored.read(device);
        let tensor = tensor.map_err(|error| error.with_path(&*stored.file))?;
        tensor.to_dtype(dtype)
    }
}

impl SimpleBackend for Checkpoint {
    fn get(
        &self,
        shape: Shape,
        name: &str,
        _: Init,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        let tensor = self.read(name, dtype, device)?;
        if *tensor.shape() == shape {
            return Ok(tensor);
        }
        let error = candle_core::Error::UnexpectedShape {
            msg: format!("shape mismatch for {name}"),
            expected: shape,
            got: tensor.shape().clone(),
        };
        Err(error.bt())
    }

    fn get_unchecked(
        &self,
        name: &str,
        dtype: DType,
        device: &Device,
    ) -> candle_core::Result<Tensor> {
        self.read(name, dtype, device)
    }

    fn contains_tensor(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }
}

impl Stored {
    fn read(&self, device: &Device) -> candle_core::Result<Tensor> {
        let (mut file, _) = file::open(&self.file)?;
        file.seek(SeekFrom::Start(self.start))?;
        let mut bytes = vec![0; self.bytes];
        file.read_exact(&mut bytes)?;
        let mut shape = self.shape.clone();
        if !self.transposed {
            return Tensor::from_raw_buffer(&bytes, self.dtype, &shape, device);
        }
        shape.reverse();
        Tensor::from_raw_buffer(&bytes, self.dtype, &shape, device)?
            .t()?
            .contiguous()
    }
}

/// The tensors of numbers in `file`.
fn stored(file: &Path) -> Result<Vec<(String, Stored)>, CheckpointError> {
    check_start(file)?;
    let mut archive = open(file)?;
    let (folder, list) = read_list(&mut archive)?;
    check_byte_order(&mut archive, &folder)?;
    let shared = Arc::from(file);
    let length = file.metadata()?.len();
    let mut tensors = Vec::new();
    let mut bytes_left = length.saturating_mul(MOST_USES);
    for description in pickle::tensors(&list)? {
        let Some(dtype) = dtype(&description.storage_class) else {
            continue;
        };
        let path = format!("{folder}data/{}", description.storage);
        let storage = entry(&mut archive, &path)?;
        let storage = storage.filter(|storage| storage.end().is_some_and(|end| end <= length));
        let place = place(&description, dtype, storage);
        let (start, bytes, transposed) = place.map_err(|problem| CheckpointError::Tensor {
            name: description.name.clone(),
            problem,
        })?;
        bytes_left = bytes_left
            .checked_sub(bytes as u64)
            .ok_or(CheckpointError::Shared)?;
        let stored = Stored {
            file: Arc::clone(&shared),
            start,
            bytes,
            dtype,
            shape: description.shape,
            transposed,
        };
        tensors.push((description.name, stored));
    }
    Ok(tensors)
}

fn check_start(file: &Path) -> Result<(), CheckpointError> {
    let mut start = Vec::new();
    let limit = u64::try_from(OLD_FORMAT.len()).unwrap_or(u64::MAX);
    let (opened, _) = file::open(file)?;
    opened.take(limit).read_to_end(&mut start)?;
    match start.as_slice() {
        start if start.starts_with(ZIP) => Ok(()),
        start if start == OLD_FORMAT => Err(CheckpointError::OldFormat),
        _ => Err(CheckpointError::NotZip),
    }
}

type Archive = ZipArchive<BufReader<Directory>>;

/// Opens the archive. Its list of files is held in memory, at ten times its length.
fn open(file: &Path) -> Result<Archive, CheckpointError> {
    let left = Rc::new(Cell::new(MOST_DIRECTORY));
    let (file, _) = file::open(file)?;
    let directory = Directory {
        file,
        left: Rc::clone(&left),
    };
    let archive = ZipArchive::new(BufReader::new(directory));
    let is_too_long = left.replace(u64::MAX) == 0;
    if is_too_long {
        return Err(CheckpointError::Directory);
    }
    Ok(archive?)
}

/// An archive of which only so many bytes can be read.
struct Directory {
    file: File,
    left: Rc<Cell<u64>>,
}

impl Read for Directory {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let count = (&mut self.file).take(self.left.get()).read(buffer)?;
        self.left.set(self.left.get() - count as u64);
        Ok(count)
    }
}

impl Seek for Directory {
    fn seek(&mut self, position: SeekFrom) -> io::Result<u64> {
        self.file.seek(position)
    }
}

/// The archive's one folder (with the slash after it) and the pickle in it.
fn read_list(archive: &mut Archive) -> Result<(String, Vec<u8>), CheckpointError> {
    const NAME: &str = "data.pkl";
    let names = archive.file_names().filter_map(Result::ok);
    let mut lists = names.filter_map(|name| name.strip_suffix(NAME).map(str::to_owned));
    let (Some(folder), None) = (lists.next(), lists.next()) else {
        return Err(CheckpointError::List);
    };
    drop(lists);
    let entry = archive.by_name(&format!("{folder}{NAME}"))?;
    let mut list = Vec::new();
    entry.take(MAX_LIST + 1).read_to_end(&mut list)?;
    if u64::try_from(list.len()).is_ok_and(|length| length <= MAX_LIST) {
        return Ok((folder, list));
    }
    Err(CheckpointError::List)
}

/// Newer archives say how their numbers are written; those that don't were made on machines like
/// this one's.
fn check_byte_order(archive: &mut Archive, folder: &str) -> Result<(), CheckpointError> {
    let path = format!("{folder}byteorder");
    if archive.index_for_name(&path).is_none() {
        return Ok(());
    }
    let mut order = Vec::new();
    archive.by_name(&path)?.take(16).read_to_end(&mut order)?;
    if order == b"little" {
        return Ok(());
    }
    Err(CheckpointError::BigEndian)
}

/// Where an entry's bytes lie in the file.
#[derive(Clone, Copy)]
struct Entry {
    start: u64,
    length: u64,
}

impl Entry {
    fn end(self) -> Option<u64> {
        self.start.checked_add(self.length)
    }
}

/// The entry at `path`, if it is there and stored as it is, as `PyTorch` does.
fn entry(archive: &mut Archive, path: &str) -> Result<Option<Entry>, CheckpointError> {
    let Some(index) = archive.index_for_name(path) else {
        return Ok(None);
    };
    let file = archive.by_index(index)?;
    let plain = file.compression() == CompressionMethod::Stored;
    let start = file.data_start().filter(|_| plain);
    Ok(start.map(|start| Entry {
        start,
        length: file.size(),
    }))
}

/// A tensor's first byte, its length in bytes, and whether it lies there transposed.
fn place(
    tensor: &Description,
    dtype: DType,
    storage: Option<Entry>,
) -> Result<(u64, usize, bool), &'static str> {
    const TOO_LARGE: &str = "is larger than the file";
    let storage = storage.ok_or("has no numbers in the file")?;
    let transposed = transposed(tensor).ok_or("does not lie in one piece, which is unsupported")?;
    let width = dtype.size_in_bytes();
    let mut numbers = tensor.shape.iter();
    let numbers = numbers.try_fold(1_usize, |product, length| product.checked_mul(*length));
    let bytes = numbers.and_then(|numbers| numbers.checked_mul(width));
    let bytes = bytes.ok_or(TOO_LARGE)?;
    let skipped = tensor.offset.checked_mul(width).ok_or(TOO_LARGE)?;
    let end = skipped.checked_add(bytes).ok_or(TOO_LARGE)?;
    let as_u64 = |number: usize| u64::try_from(number).map_err(|_| TOO_LARGE);
    if as_u64(end)? > storage.length {
        return Err(TOO_LARGE);
    }
    let start = storage.start.checked_add(as_u64(skipped)?);
    Ok((start.ok_or(TOO_LARGE)?, bytes, transposed))
}

/// Whether the numbers lie row by row (`false`) or, in a matrix, column by column (`true`); `None`:
/// otherwise. Along a dimension of length 1 the stride does not matter.
fn transposed(tensor: &Description) -> Option<bool> {
    let follow = |order: &mut dyn Iterator<Item = (&usize, &usize)>| {
        let mut expected = 1_usize;
        for (length, stride) in order {
            if *length != 1 && *stride != expected {
                return false;
            }
            expected = expected.saturating_mul(*length);
        }
        true
    };
    let (shape, strides) = (&tensor.shape, &tensor.strides);
    if shape.len() != strides.len() {
        return None;
    }
    if follow(&mut shape.iter().zip(strides).rev()) {
        return Some(false);
    }
    let by_column = shape.len() == 2 && follow(&mut shape.iter().zip(strides));
    by_column.then_some(true)
}

/// The type of a storage's numbers; `None`: not numbers with a fraction, so no weights.
fn dtype(storage_class: &str) -> Option<DType> {
    match storage_class {
        "FloatStorage" => Some(DType::F32),
        "DoubleStorage" => Some(DType::F64),
        "HalfStorage" => Some(DType::F16),
        "BFloat16Storage" => Some(DType::BF16),
        _ => None,
    }
}
