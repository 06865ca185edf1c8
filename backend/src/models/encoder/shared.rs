//! One copy of weights in memory, however many models use them: a folder's embeddings and its
//! `BERTScore` need the same encoder, the latter perhaps only its lower layers.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use gpu_bridge_encoder::Encoder;

use super::checkpoint::Assemble;
use super::tensor::TensorEncoder;
use super::{Encode, Place, assemble};
use crate::device::Precision;
use crate::models::config::EncoderConfig;
use crate::models::error::LoadError;
use crate::models::registry::{Common, Version};

/// What tells weights in memory apart.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct WeightsKey {
    folder: PathBuf,
    /// Of the files: weights that have changed since are others.
    version: Version,
    precision: Precision,
}

impl WeightsKey {
    /// The weights in `folder`, whose files are at `version`, as they are kept in `place`.
    pub(crate) fn new(folder: &Path, version: Version, place: &Place) -> Self {
        Self {
            folder: folder.to_owned(),
            version,
            precision: place.keeps(),
        }
    }

    /// What those who use `bytes` of the weights have in common.
    pub(crate) fn common(&self, bytes: u64) -> Common {
        let mut hasher = DefaultHasher::new();
        self.hash(&mut hasher);
        let weights = hasher.finish();
        Common { weights, bytes }
    }
}

/// The encoders that are in use, on one device.
#[derive(Debug, Default)]
pub(crate) struct Encoders {
    processor: InUse<Encoder>,
    device: InUse<TensorEncoder>,
}

impl Encoders {
    /// The encoder in the folder of `key`, its first `layers` layers only; what of it is in memory
    /// already is used again. Two loads of the same weights wait for each other.
    ///
    /// Hidden layer L of a model is the output of the same model with its layers above L left out, so a
    /// cut model computes exactly that layer and saves the rest.
    pub(crate) fn load(
        &self,
        key: &WeightsKey,
        config: &EncoderConfig,
        layers: usize,
        place: &Place,
    ) -> Result<Arc<dyn Encode>, LoadError> {
        let folder = &key.folder;
        Ok(match place {
            Place::Processor(place) => self
                .processor
                .load(key, |known| assemble(folder, config, layers, place, known))?,
            Place::Device(place) => self
                .device
                .load(key, |known| assemble(folder, config, layers, place, known))?,
        })
    }
}

/// What one load takes encoders from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct EncoderSource<'a> {
    pub(crate) encoders: &'a Encoders,
    /// Of the model's files.
    pub(crate) version: Version,
    pub(crate) place: &'a Place,
}

impl EncoderSource<'_> {
    /// See [`Encoders::load`]; with the memory that the encoder takes.
    pub(crate) fn load(
        &self,
        folder: &Path,
        config: &EncoderConfig,
        layers: usize,
    ) -> Result<(Arc<dyn Encode>, Common), LoadError> {
        let key = WeightsKey::new(folder, self.version, self.place);
        let encoder = self.encoders.load(&key, config, layers, self.place)?;
        let common = key.common(encoder.bytes());
        Ok((encoder, common))
    }
}

/// Encoders of one kind.
#[derive(Debug)]
struct InUse<E>(Mutex<HashMap<WeightsKey, Arc<OfOneFolder<E>>>>);

/// All of these have their layers in common, as far as they go.
type OfOneFolder<E> = Mutex<Vec<Weak<E>>>;

impl<E> Default for InUse<E> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<E: Assemble> InUse<E> {
    /// What `assemble` makes, given the encoder of the same weights that has the most layers.
    fn load(
        &self,
        key: &WeightsKey,
        assemble: impl FnOnce(Option<&E>) -> Result<E, LoadError>,
    ) -> Result<Arc<E>, LoadError> {
        let siblings = self.siblings(key);
        let mut siblings = lock(&siblings);
        siblings.retain(|encoder| encoder.strong_count() > 0);
        let known = siblings.iter().filter_map(Weak::upgrade);
        let known = known.max_by_key(|encoder| encoder.depth());
        let encoder = Arc::new(assemble(known.as_deref())?);
        siblings.push(Arc::downgrade(&encoder));
        Ok(encoder)
    }

    fn siblings(&self, key: &WeightsKey) -> Arc<OfOneFolder<E>> {
        let mut all = lock(&self.0);
        // Those that nobody loads now, and of which nothing is left.
        all.retain(|_, siblings| {
            let left = || lock(siblings).iter().any(|one| one.strong_count() > 0);
            Arc::strong_count(siblings) > 1 || left()
        });
        Arc::clone(all.entry(key.clone()).or_default())
    }
}

/// A panic under the lock leaves the list whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use candle_core::Device;
    use gpu_bridge_encoder::Threads;

    use super::*;
    use crate::models::test_support::golden;

    struct Setup {
        encoders: Encoders,
        config: EncoderConfig,
        place: Place,
    }

    impl Setup {
        fn new() -> Self {
            let threads = Threads::new(NonZeroUsize::MIN).expect("threads");
            Self {
                encoders: Encoders::default(),
                config: EncoderConfig::read(&golden("tiny/bert")).expect("valid"),
                place: Place::new(Device::Cpu, Precision::F32, threads),
            }
        }

        fn load(&self, version: u64, layers: usize) -> Arc<dyn Encode> {
            let key = WeightsKey::new(&golden("tiny/bert"), Version(version), &self.place);
            let loaded = self.encoders.load(&key, &self.config, layers, &self.place);
            loaded.expect("loads")
        }

        /// The encoders that the processor has of a version, and the layers of each.
        fn in_use(&self, version: u64) -> Vec<Arc<Encoder>> {
            let key = WeightsKey::new(&golden("tiny/bert"), Version(version), &self.place);
            let siblings = self.encoders.processor.siblings(&key);
            let siblings = lock(&siblings);
            siblings.iter().filter_map(Weak::upgrade).collect()
        }
    }

    #[test]
    fn layers_are_in_memory_once_whichever_model_came_first() {
        for (first, second) in [(5, 3), (3, 5), (4, 4)] {
            let setup = Setup::new();
            let (one, other) = (setup.load(1, first), setup.load(1, second));
            let encoders = setup.in_use(1);
            assert_eq!(encoders.len(), 2);
            let common = encoders[0].shared_layers(&encoders[1]);
            assert_eq!(common, first.min(second), "{first} {second}");
            let batch: &[&[u32]] = &[&[2, 7, 3]];
            let alone = |layers| Setup::new().load(1, layers).forward(batch).expect("runs");
            for (encoder, layers) in [(one, first), (other, second)] {
                let found = encoder.forward(batch).expect("runs");
                assert_eq!(found, alone(layers), "{layers}");
            }
        }
    }

    #[test]
    fn what_has_changed_or_is_not_used_any_more_is_read_again() {
        let setup = Setup::new();
        let first = setup.load(1, 2);
        let _second = setup.load(2, 2);
        let (old, new) = (setup.in_use(1), setup.in_use(2));
        assert_eq!(old[0].shared_layers(&new[0]), 0);
        drop((first, old, new));
        assert!(setup.in_use(1).is_empty());
        assert_eq!(setup.in_use(2).len(), 1);
    }
}
