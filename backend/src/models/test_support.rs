//! What several unit tests of the models need: throw-away folders and the golden files.

use std::path::PathBuf;

use serde_json::Value;
use tempfile::TempDir;

/// A folder with these files (path, content), gone when dropped.
pub(crate) fn folder_with(files: &[(&str, &str)]) -> TempDir {
    let folder = TempDir::new().expect("temporary folder");
    for (name, content) in files {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().expect("inside the folder")).expect("create folder");
        std::fs::write(path, content).expect("write file");
    }
    folder
}

/// A path under the repository's `tests/golden`.
pub(crate) fn golden(path: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
        .join("../tests/golden")
        .join(path)
}

/// A parsed JSON file under `tests/golden`.
pub(crate) fn golden_json(path: &str) -> Value {
    let text = std::fs::read(golden(path)).expect(path);
    serde_json::from_slice(&text).expect(path)
}
