use std::collections::HashMap;
use std::path::Path;

use candle_core::{DType, Device, Tensor};
use tempfile::TempDir;

use super::*;
use crate::models::test_support::{folder_with, golden, golden_json};

const SAFETENSORS: &str = "model.safetensors";
const BIN: &str = "pytorch_model.bin";

fn error_of(folder: &Path) -> String {
    let opened = open(folder, &Device::Cpu);
    opened.err().expect("cannot be opened").to_string()
}

/// A folder with one file, which is `content`.
fn folder_of(name: &str, content: &[u8]) -> TempDir {
    let folder = folder_with(&[]);
    std::fs::write(folder.path().join(name), content).expect("write");
    folder
}

fn saved(name: &str) -> Vec<u8> {
    std::fs::read(golden("tiny/weights").join(name)).expect("golden")
}

fn save(folder: &TempDir, file: &str, tensors: &[(&str, Tensor)]) {
    let tensors: HashMap<&str, Tensor> = tensors.iter().cloned().collect();
    let file = folder.path().join(file);
    candle_core::safetensors::save(&tensors, file).expect("save");
}

fn numbers(tensor: &Tensor) -> Vec<f32> {
    let flat = tensor.flatten_all().expect("flat");
    flat.to_vec1().expect("numbers")
}

#[test]
fn safetensors_shards_are_read_through_their_index() {
    let index = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
    let folder = folder_with(&[("model.safetensors.index.json", index)]);
    let one = Tensor::ones(3, DType::F64, &Device::Cpu).expect("tensor");
    save(&folder, "one.safetensors", &[("a", one.clone())]);
    save(&folder, "two.safetensors", &[("b", one)]);
    let weights = open(folder.path(), &Device::Cpu).expect("opens").tensors;
    for name in ["a", "b"] {
        let tensor = weights.get(3, name).expect(name);
        assert_eq!(
            (tensor.dtype(), numbers(&tensor)),
            (DType::F32, vec![1.0; 3])
        );
    }
    std::fs::write(folder.path().join("two.safetensors"), "short").expect("write");
    assert!(error_of(folder.path()).contains("two.safetensors"));
}

#[test]
fn notes_in_the_header_may_be_long() {
    let notes = HashMap::from([("notes".to_owned(), "x".repeat(20 << 20))]);
    let tensor = Tensor::ones(3, DType::F32, &Device::Cpu).expect("tensor");
    let file = safetensors::serialize([("a", &tensor)], Some(notes)).expect("serialises");
    let folder = folder_of(SAFETENSORS, &file);
    assert_eq!(counts(folder.path()).expect("reads"), [("a".to_owned(), 3)]);
    let weights = open(folder.path(), &Device::Cpu).expect("opens").tensors;
    assert_eq!(numbers(&weights.get(3, "a").expect("a")), [1.0; 3]);
}

#[test]
fn headers_that_lie_are_errors_that_name_the_file() {
    let header = |tensors: &str, bytes: usize| {
        let length = (tensors.len() as u64).to_le_bytes();
        [&length[..], tensors.as_bytes(), &vec![0; bytes]].concat()
    };
    let tensor = |name: &str, dtype: &str, shape: &str, place: &str| {
        format!(r#""{name}": {{"dtype": "{dtype}", "shape": {shape}, "data_offsets": {place}}}"#)
    };
    let one = tensor("a", "F32", "[2]", "[0, 8]");
    for (what, tensors, bytes) in [
        (
            "two in one place",
            format!("{{{one}, {}}}", one.replace("\"a", "\"b")),
            8,
        ),
        ("one twice", format!("{{{one}, {one}}}"), 16),
        (
            "half in another",
            format!("{{{one}, {}}}", tensor("b", "F32", "[2]", "[4, 12]")),
            12,
        ),
        (
            "a hole",
            format!("{{{}}}", tensor("a", "F32", "[2]", "[4, 12]")),
            12,
        ),
        (
            "backwards",
            format!("{{{}}}", tensor("a", "F32", "[2]", "[8, 0]")),
            8,
        ),
        (
            "another type",
            format!("{{{}}}", tensor("a", "F16", "[2]", "[0, 8]")),
            8,
        ),
        (
            "an unknown type",
            format!("{{{}}}", tensor("a", "F33", "[2]", "[0, 8]")),
            8,
        ),
        (
            "a negative shape",
            format!("{{{}}}", tensor("a", "F32", "[-2]", "[0, 8]")),
            8,
        ),
        ("more than is there", format!("{{{one}}}"), 7),
        ("less than is there", format!("{{{one}}}"), 9),
        ("no object", "[]".to_owned(), 0),
        ("nothing", String::new(), 0),
    ] {
        let error = error_of(folder_of(SAFETENSORS, &header(&tensors, bytes)).path());
        assert!(error.contains(SAFETENSORS), "{what}: {error}");
    }
    let empty = format!("{{{}}}", tensor("a", "F32", "[0, 2]", "[0, 0]"));
    let folder = folder_of(SAFETENSORS, &header(&empty, 0));
    let weights = open(folder.path(), &Device::Cpu).expect("opens").tensors;
    let none = weights.get((0, 2), "a").expect("of no numbers");
    assert_eq!(numbers(&none), [0.0; 0]);
}

#[test]
fn other_precisions_are_converted() {
    let folder = folder_with(&[]);
    let numbers_in = Tensor::new(&[0.5_f32, -2.0, 3.25], &Device::Cpu).expect("tensor");
    let types = [DType::F16, DType::BF16, DType::F64];
    let stored = |dtype: DType| {
        (
            dtype.as_str(),
            numbers_in.to_dtype(dtype).expect("converts"),
        )
    };
    save(&folder, SAFETENSORS, &types.map(stored));
    let weights = open(folder.path(), &Device::Cpu).expect("opens").tensors;
    for dtype in types {
        let tensor = weights.get(3, dtype.as_str()).expect("tensor");
        assert_eq!(numbers(&tensor), [0.5, -2.0, 3.25], "{dtype:?}");
    }
}

#[test]
fn a_checkpoint_has_the_numbers_of_pytorch() {
    let folder = folder_of(BIN, &saved(BIN));
    let weights = open(folder.path(), &Device::Cpu).expect("opens").tensors;
    let expected = golden_json("tiny/weights/numbers.json");
    for (name, tensor) in expected["tensors"].as_object().expect("tensors") {
        let shape: Vec<usize> = serde_json::from_value(tensor["shape"].clone()).expect("shape");
        let read = weights.get(shape, name).expect(name);
        assert_eq!(
            serde_json::json!(numbers(&read)),
            tensor["numbers"],
            "{name}"
        );
    }
    assert!(
        !weights.contains_tensor("position_ids"),
        "not numbers with a fraction"
    );
    let other_shape = weights.get((6, 4), "plain").expect_err("4 × 6").to_string();
    assert!(other_shape.contains("plain"), "{other_shape}");
    let missing = weights.get(1, "none").expect_err("missing").to_string();
    assert!(missing.contains("none"), "{missing}");
}

#[test]
fn checkpoint_shards_are_read_through_their_index() {
    let index = r#"{"weight_map": {"plain": "shard-1.bin"}}"#;
    let folder = folder_with(&[("pytorch_model.bin.index.json", index)]);
    std::fs::write(folder.path().join("shard-1.bin"), saved(BIN)).expect("write");
    let weights = open(folder.path(), &Device::Cpu).expect("opens").tensors;
    assert!(weights.contains_tensor("plain"));
    std::fs::remove_file(folder.path().join("shard-1.bin")).expect("remove");
    assert!(error_of(folder.path()).contains("shard-1.bin cannot be read"));
}

#[test]
fn shards_with_one_tensor_twice_are_refused() {
    let index = r#"{"weight_map": {"a": "one.safetensors", "b": "two.safetensors"}}"#;
    let folder = folder_with(&[("model.safetensors.index.json", index)]);
    let one = Tensor::ones(3, DType::F32, &Device::Cpu).expect("tensor");
    for file in ["one.safetensors", "two.safetensors"] {
        save(&folder, file, &[("a", one.clone())]);
    }
    assert!(error_of(folder.path()).contains("the tensor 'a' is in two files"));
    let index = r#"{"weight_map": {"plain": "one.bin", "view": "two.bin"}}"#;
    let folder = folder_with(&[("pytorch_model.bin.index.json", index)]);
    for file in ["one.bin", "two.bin"] {
        std::fs::write(folder.path().join(file), saved(BIN)).expect("write");
    }
    let error = error_of(folder.path());
    assert!(
        error.contains("' is in two.bin and another file"),
        "{error}"
    );
}

#[test]
fn safetensors_come_first() {
    let folder = folder_of(BIN, b"not looked at");
    let tensor = Tensor::ones(1, DType::F32, &Device::Cpu).expect("tensor");
    save(&folder, SAFETENSORS, &[("a", tensor)]);
    assert!(open(folder.path(), &Device::Cpu).is_ok());
}

#[test]
fn missing_and_broken_weights_are_errors_that_say_where() {
    assert!(error_of(folder_with(&[]).path()).contains("neither model.safetensors nor"));
    for content in ["", "short", "\u{10}\0\0\0\0\0\0\0 not a header!!"] {
        let folder = folder_of(SAFETENSORS, content.as_bytes());
        assert!(error_of(folder.path()).contains(SAFETENSORS), "{content:?}");
    }
    let whole = std::fs::read(golden("tiny/bert/model.safetensors")).expect("golden");
    let folder = folder_of(SAFETENSORS, &whole[..whole.len() - 1]);
    assert!(error_of(folder.path()).contains(SAFETENSORS));
}

#[test]
fn other_kinds_of_files_are_named() {
    for (content, expected) in [
        (
            saved("old_format.bin"),
            "from before PyTorch 1.6; convert it to safetensors",
        ),
        (
            b"version https://git-lfs".to_vec(),
            "is a pointer of Git LFS, not the file itself",
        ),
        (Vec::new(), "is not a checkpoint of PyTorch"),
        (
            b"PK\x03\x04 and no more".to_vec(),
            "is a broken zip archive",
        ),
        (
            saved("sliced.bin"),
            "'sliced' in pytorch_model.bin does not lie in one piece",
        ),
    ] {
        let error = error_of(folder_of(BIN, &content).path());
        assert!(error.contains(BIN) && error.contains(expected), "{error}");
    }
}

#[test]
fn clients_read_what_a_file_is_instead_of_weights() {
    for (name, content, expected) in [
        (
            BIN,
            saved("old_format.bin"),
            "weights: pytorch_model.bin has the format from before PyTorch 1.6",
        ),
        (
            SAFETENSORS,
            b"version https://git-lfs.github.com/spec/v1\noid sha256:a".to_vec(),
            "weights: model.safetensors is a pointer of Git LFS",
        ),
    ] {
        let folder = folder_of(name, &content);
        let error = open(folder.path(), &Device::Cpu).err().expect("no weights");
        let reason = error.fault(folder.path()).reason;
        assert!(reason.starts_with(expected), "{reason}");
    }
}

/// They may be anything, such as what only those know who trained the model.
#[test]
fn names_of_tensors_are_told_to_the_operator_alone() {
    let nan = Tensor::new(&[f32::NAN], &Device::Cpu).expect("tensor");
    let whole = nan.to_dtype(DType::U8).expect("converts");
    for (tensor, told) in [(nan, "holds NaN or"), (whole, "holds U8; floats")] {
        let folder = folder_with(&[]);
        save(&folder, SAFETENSORS, &[("secret.weight", tensor)]);
        let weights = open(folder.path(), &Device::Cpu).expect("opens");
        weights.tensors.get(1, "secret.weight").expect("there");
        let fault = weights.check().expect_err(told).fault(folder.path());
        assert!(fault.details.contains("'secret.weight' holds"), "{fault:?}");
        assert!(fault.reason.contains(told), "{fault:?}");
        assert!(!fault.reason.contains("secret"), "{fault:?}");
    }
}

#[test]
fn a_checkpoint_cut_short_anywhere_is_an_error() {
    let whole = saved(BIN);
    let folder = folder_of(BIN, &[]);
    for length in 0..whole.len() {
        std::fs::write(folder.path().join(BIN), &whole[..length]).expect("write");
        assert!(open(folder.path(), &Device::Cpu).is_err(), "{length} bytes");
    }
}

/// A flipped bit may give other numbers, as in any format without checksums; never a panic, and
/// never a tensor that is larger than the file.
#[test]
fn flipped_bits_never_panic() {
    let whole = saved(BIN);
    let folder = folder_of(BIN, &[]);
    for place in (0..whole.len()).step_by(3) {
        let mut changed = whole.clone();
        changed[place] ^= 1 << (place % 8);
        std::fs::write(folder.path().join(BIN), &changed).expect("write");
        if let Ok(Weights {
            tensors: weights, ..
        }) = open(folder.path(), &Device::Cpu)
        {
            drop(weights.get((4, 6), "plain"));
            drop(weights.get((6, 4), "transposed"));
        }
    }
}

#[test]
fn shards_stay_inside_the_folder() {
    for index in [
        "model.safetensors.index.json",
        "pytorch_model.bin.index.json",
    ] {
        let folder = folder_with(&[(index, r#"{"weight_map": {"a": "../other.bin"}}"#)]);
        assert!(error_of(folder.path()).contains("files of the index's own folder"));
    }
}

#[test]
fn old_names_of_layer_norms_are_found() {
    let folder = folder_with(&[]);
    let tensor = |number: f32| Tensor::new(&[number], &Device::Cpu).expect("tensor");
    let tensors = [
        ("old.LayerNorm.gamma", tensor(1.0)),
        ("old.LayerNorm.beta", tensor(2.0)),
        ("new.LayerNorm.weight", tensor(3.0)),
        ("new.LayerNorm.gamma", tensor(4.0)),
    ];
    save(&folder, SAFETENSORS, &tensors);
    let weights = open(folder.path(), &Device::Cpu).expect("opens").tensors;
    for (name, expected) in [
        ("old.LayerNorm.weight", 1.0),
        ("old.LayerNorm.bias", 2.0),
        ("new.LayerNorm.weight", 3.0),
    ] {
        assert_eq!(numbers(&weights.get(1, name).expect(name)), [expected]);
    }
    assert!(!weights.contains_tensor("new.LayerNorm.bias"));
}

#[test]
fn what_was_not_read_is_known_by_the_name_that_it_is_stored_under() {
    let folder = folder_with(&[]);
    let numbers = Tensor::ones(2, DType::F32, &Device::Cpu).expect("tensor");
    let tensors = ["LayerNorm.gamma", "pooler.weight", "dense.lora_A", "b"];
    save(
        &folder,
        SAFETENSORS,
        &tensors.map(|name| (name, numbers.clone())),
    );
    let weights = open(folder.path(), &Device::Cpu).expect("opens");
    for name in ["LayerNorm.weight", "b"] {
        weights.tensors.get(2, name).expect(name);
    }
    assert!(!weights.tensors.contains_tensor("c"));
    let left_out = |name: &str| name.starts_with("pooler");
    assert_eq!(weights.unknown(left_out), ["dense.lora_A"]);
    weights.settle(left_out).expect("floats");
}

#[test]
fn numbers_that_are_no_floats_are_refused_once_they_are_needed() {
    let folder = folder_with(&[]);
    let whole = Tensor::ones(2, DType::I64, &Device::Cpu).expect("tensor");
    let floats = Tensor::ones(2, DType::F16, &Device::Cpu).expect("tensor");
    save(
        &folder,
        SAFETENSORS,
        &[("position_ids", whole), ("a", floats)],
    );
    let weights = open(folder.path(), &Device::Cpu).expect("opens");
    weights.tensors.get(2, "a").expect("floats");
    weights.check().expect("floats");
    weights.tensors.get(2, "position_ids").expect("converted");
    let error = weights.check().expect_err("whole numbers").to_string();
    assert!(
        error.contains("the tensor 'position_ids' holds I64;"),
        "{error}"
    );
}

#[test]
fn numbers_that_are_not_finite_are_refused_once_they_are_needed() {
    for odd in [f32::NAN, f32::INFINITY, f32::NEG_INFINITY] {
        let folder = folder_with(&[]);
        let tensor = |last| Tensor::new(&[1.0, last], &Device::Cpu).expect("tensor");
        save(
            &folder,
            SAFETENSORS,
            &[("a", tensor(2.0)), ("b", tensor(odd))],
        );
        let weights = open(folder.path(), &Device::Cpu).expect("opens");
        weights.tensors.get(2, "a").expect("there");
        weights.settle(|_| true).expect("finite");
        weights.tensors.get(2, "b").expect("there");
        let error = weights.check().expect_err("not finite").to_string();
        assert!(error.contains("the tensor 'b' holds NaN or"), "{error}");
    }
}
