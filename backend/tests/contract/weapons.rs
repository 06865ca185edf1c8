//! Folders of models as an enemy would make them, on the real program: each costs a request and
//! little memory, is refused with a reason that names the file or the limit, and the program goes on.

use std::fs::{self, File};
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use tempfile::TempDir;
use zip::write::{SimpleFileOptions, ZipWriter};

use crate::program::{Running, listening, program};

/// Memory of the program at most, in MiB; before the first weapon it takes about 30.
pub(crate) const MOST_MEMORY: u64 = 400;

/// The tiny model that each folder is a copy of but for one thing.
pub(crate) fn tiny() -> PathBuf {
    let tiny = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../tests/golden/tiny/bert");
    tiny.canonicalize().unwrap()
}

pub(crate) struct Weapon {
    /// File in the model's folder.
    pub(crate) file: &'static str,
    pub(crate) make: Box<dyn Fn(&Path)>,
    /// What the client reads.
    pub(crate) told: &'static str,
}

/// A file with this content.
fn file(file: &'static str, content: impl Into<Vec<u8>>, told: &'static str) -> Weapon {
    let content = content.into();
    let make = Box::new(move |path: &Path| fs::write(path, &content).unwrap());
    Weapon { file, make, told }
}

/// A JSON file of the tiny model with one value changed.
fn changed(file: &'static str, pointer: &'static str, value: Value, told: &'static str) -> Weapon {
    let make = Box::new(move |path: &Path| {
        let text = fs::read(tiny().join(file)).unwrap_or_else(|_| b"{}".to_vec());
        let mut json: Value = serde_json::from_slice(&text).unwrap();
        match json.pointer_mut(pointer) {
            Some(place) => *place = value.clone(),
            None => json[&pointer[1..]] = value.clone(),
        }
        fs::write(path, json.to_string()).unwrap();
    });
    Weapon { file, make, told }
}

fn link(file: &'static str, target: &'static str, told: &'static str) -> Weapon {
    let make = Box::new(move |path: &Path| symlink(target, path).unwrap());
    Weapon { file, make, told }
}

fn pipe(file: &'static str, told: &'static str) -> Weapon {
    let make = Box::new(|path: &Path| {
        let made = std::process::Command::new("mkfifo").arg(path).status();
        assert!(made.unwrap().success());
    });
    Weapon { file, make, told }
}

/// A file that is long and takes no room on disk.
fn hollow(file: &'static str, bytes: u64, told: &'static str) -> Weapon {
    let make = Box::new(move |path: &Path| {
        let file = File::create(path).unwrap();
        file.set_len(bytes).unwrap();
    });
    Weapon { file, make, told }
}

fn kinds_of_files() -> Vec<Weapon> {
    const NOT_REGULAR: &str = "not a regular file";
    let mut weapons = vec![
        link("config.json", "/dev/zero", NOT_REGULAR),
        link("config.json", "/tmp", NOT_REGULAR),
        link("modules.json", "/dev/zero", NOT_REGULAR),
        link("vocab.txt", "/dev/zero", ""),
        hollow("tokenizer_config.json", 1 << 40, "the limit is 16777216"),
        hollow("tokenizer.json", 1 << 40, "more than"),
        hollow("tokenizer.json", 129 << 20, "the limit is 134217728"),
        hollow("model.safetensors", 1 << 40, "weights are broken"),
    ];
    for file in [
        "config.json",
        "modules.json",
        "adapter_config.json",
        "tokenizer_config.json",
        "special_tokens_map.json",
        "config_sentence_transformers.json",
        "tokenizer.json",
        "model.safetensors",
    ] {
        let told = match file {
            "model.safetensors" => "weights",
            // Without modules.json it does not matter.
            "config_sentence_transformers.json" => "",
            _ => NOT_REGULAR,
        };
        weapons.push(pipe(file, told));
    }
    weapons
}

fn settings() -> Vec<Weapon> {
    let config = |key, value, told| changed("config.json", key, value, told);
    let mut weapons = vec![
        file("config.json", "[".repeat(1_000_000), "config.json"),
        file(
            "config.json",
            format!("{{{}\"b\":0}}", "\"a\":0,".repeat(2_000_000)),
            "values, the limit",
        ),
        file(
            "config.json",
            format!("[{}0]", "0,".repeat(8_000_000)),
            "values, the limit",
        ),
        config("/hidden_size", json!(1e13), "'hidden_size'"),
        config("/hidden_size", json!(10_u64.pow(13)), "the limit is 16384"),
        config(
            "/num_hidden_layers",
            json!(1_000_000_000),
            "the limit is 192",
        ),
        config(
            "/num_attention_heads",
            json!(0),
            "'num_attention_heads' must be at least 1",
        ),
        config("/num_attention_heads", json!(-4), "'num_attention_heads'"),
        config("/vocab_size", json!(10_u64.pow(12)), "'vocab_size'"),
        config(
            "/intermediate_size",
            json!(10_u64.pow(9)),
            "'intermediate_size'",
        ),
        config(
            "/max_position_embeddings",
            json!(10_u64.pow(18)),
            "'max_position_embeddings'",
        ),
        config(
            "/type_vocab_size",
            json!(u64::MAX),
            "'type_vocab_size' is 18446744073709551615, the limit",
        ),
        config(
            "/matryoshka_dimensions",
            json!(vec![1; 100_000]),
            "'matryoshka_dimensions' has",
        ),
        changed(
            "tokenizer_config.json",
            "/cls_token",
            json!("x".repeat(1 << 20)),
            "added token",
        ),
        changed(
            "tokenizer_config.json",
            "/additional_special_tokens",
            (0..100_000).map(|n| n.to_string()).collect::<Value>(),
            "the limit is 65536",
        ),
    ];
    let modern = json!({"model_type": "modernbert", "num_hidden_layers": 1_000_000_000});
    weapons.push(file("config.json", modern.to_string(), "the limit is 192"));
    let deberta = json!({"model_type": "deberta-v2", "relative_attention": true,
        "attention_head_size": u64::MAX, "max_relative_positions": i64::MAX,
        "position_buckets": i64::MAX});
    weapons.push(file(
        "config.json",
        deberta.to_string(),
        "'attention_head_size'",
    ));
    weapons
}

/// `modules.json` with a third module of this kind, and what its `config.json` says.
fn module(kind: &str, config: &Value, told: &'static str) -> Weapon {
    let modules = ["Transformer", "Pooling", kind];
    let modules: Value = modules
        .iter()
        .enumerate()
        .map(|(place, kind)| {
            let path = if place == 0 {
                String::new()
            } else {
                place.to_string()
            };
            json!({"path": path, "type": format!("sentence_transformers.models.{kind}")})
        })
        .collect();
    let config = config.to_string();
    let make = Box::new(move |path: &Path| {
        fs::write(path, modules.to_string()).unwrap();
        for (place, config) in [("1", "{}"), ("2", &config)] {
            let folder = path.with_file_name(place);
            fs::create_dir(&folder).unwrap();
            fs::write(folder.join("config.json"), config).unwrap();
            symlink(
                tiny().join("model.safetensors"),
                folder.join("model.safetensors"),
            )
            .unwrap();
        }
    });
    Weapon {
        file: "modules.json",
        make,
        told,
    }
}

fn modules() -> Vec<Weapon> {
    let dense = |outputs: u64| {
        json!({"in_features": 48, "out_features": outputs, "bias": false,
        "activation_function": "torch.nn.modules.linear.Identity"})
    };
    let many =
        vec![json!({"path": "", "type": "sentence_transformers.models.Transformer"}); 50_000];
    let leads_out = json!([{"path": "../x", "type": "sentence_transformers.models.Transformer"},
        {"path": "", "type": "sentence_transformers.models.Pooling"}]);
    let pooling = json!({"pooling_mode": vec!["mean"; 100_000]}).to_string();
    let with_pooling = move |path: &Path| {
        let modules = json!([{"path": "", "type": "sentence_transformers.models.Transformer"},
            {"path": "1", "type": "sentence_transformers.models.Pooling"}]);
        fs::write(path, modules.to_string()).unwrap();
        fs::create_dir(path.with_file_name("1")).unwrap();
        fs::write(path.with_file_name("1").join("config.json"), &pooling).unwrap();
    };
    let prompt = json!({"prompts": {"p": "x".repeat(10 << 20)}, "default_prompt_name": "p"});
    let with_prompt = move |path: &Path| {
        let pipeline = module("Normalize", &json!({}), "");
        (pipeline.make)(path);
        let file = path.with_file_name("config_sentence_transformers.json");
        fs::write(file, prompt.to_string()).unwrap();
    };
    vec![
        module(
            "Dense",
            &dense(10_u64.pow(13)),
            "'out_features' is 10000000000000, the limit",
        ),
        module("Dense", &dense(98_304), "do not fit"),
        module("LayerNorm", &json!({"dimension": u64::MAX}), "'dimension'"),
        file(
            "modules.json",
            Value::from(many).to_string(),
            "lists 50000 modules",
        ),
        file(
            "modules.json",
            leads_out.to_string(),
            "'path' leads out of the model's folder",
        ),
        Weapon {
            file: "modules.json",
            make: Box::new(with_pooling),
            told: "'pooling_mode'",
        },
        Weapon {
            file: "modules.json",
            make: Box::new(with_prompt),
            told: "'default_prompt_name'",
        },
    ]
}

/// A safetensors file with this header and so many bytes after it.
pub(crate) fn tensors(header: &str, bytes: usize) -> Vec<u8> {
    let length = (header.len() as u64).to_le_bytes();
    [&length[..], header.as_bytes(), &vec![0; bytes]].concat()
}

fn safetensors() -> Vec<Weapon> {
    const BROKEN: &str = "weights are broken";
    const OUTSIDE: &str = "'weight_map' must name files of the index's own folder";
    let weights = |content: Vec<u8>| file("model.safetensors", content, BROKEN);
    let tensor = |shape: &str, end: u64| {
        format!(r#"{{"w": {{"dtype": "F32", "shape": {shape}, "data_offsets": [0, {end}]}}}}"#)
    };
    let notes = |bytes: usize| format!(r#"{{"__metadata__": {{"a": "{}"}}}}"#, "a".repeat(bytes));
    let entry = |n: usize| format!(r#""{n}":{{"dtype":"F32","shape":[0],"data_offsets":[0,0]}}"#);
    let entries: Vec<String> = (0..300_000).map(entry).collect();
    let index = |shards: Value| json!({"weight_map": shards}).to_string();
    let without_whole = |shards: Value, told| Weapon {
        file: "model.safetensors.index.json",
        make: Box::new(move |path: &Path| {
            fs::remove_file(path.with_file_name("model.safetensors")).unwrap();
            fs::write(path, index(shards.clone())).unwrap();
        }),
        told,
    };
    let many = (0..100_000).map(|n| (n.to_string(), json!(n.to_string())));
    vec![
        file(
            "model.safetensors",
            tensors(&notes(90 << 20), 0),
            "do not fit config.json",
        ),
        file(
            "model.safetensors",
            tensors(&" ".repeat(100_000_001), 0),
            "the limit is 100000000",
        ),
        file(
            "model.safetensors",
            tensors(&format!("{{{}}}", entries.join(",")), 0),
            "1048576 values",
        ),
        file(
            "model.safetensors",
            u64::MAX.to_le_bytes(),
            "longer than the file",
        ),
        file(
            "model.safetensors",
            (1_u64 << 40).to_le_bytes(),
            "longer than the file",
        ),
        weights(tensors(
            &tensor("[4294967296, 4294967296, 4294967296]", 0),
            0,
        )),
        weights(tensors(&tensor("[0, 18446744073709551615, 2]", 0), 0)),
        file(
            "model.safetensors",
            tensors(&tensor(&format!("[{}1]", "1,".repeat(4_000_000)), 4), 4),
            "1048576 values",
        ),
        file(
            "model.safetensors",
            tensors(&tensor("[1099511627776]", 1 << 42), 0),
            "",
        ),
        without_whole(many.collect(), "names 100000 files, the limit is 512"),
        without_whole(json!({"a": "../b"}), OUTSIDE),
        without_whole(json!({"a": "/etc/passwd"}), OUTSIDE),
        without_whole(json!({"a": ".."}), OUTSIDE),
        without_whole(json!({"a": ""}), OUTSIDE),
        without_whole(json!({}), OUTSIDE),
        without_whole(json!({"a": "missing"}), "missing"),
    ]
}

/// A checkpoint of `PyTorch` with this list of tensors and one storage, instead of safetensors.
fn checkpoint(list: Vec<u8>, told: &'static str) -> Weapon {
    let make = Box::new(move |path: &Path| {
        fs::remove_file(path.with_file_name("model.safetensors")).unwrap();
        archive(path, &list);
    });
    Weapon {
        file: "pytorch_model.bin",
        make,
        told,
    }
}

fn archive(path: &Path, list: &[u8]) {
    let mut zip = ZipWriter::new(File::create(path).unwrap());
    let stored = SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored);
    for (name, content) in [("m/data.pkl", list), ("m/data/0", &vec![0; 65_536])] {
        zip.start_file(name, stored).unwrap();
        zip.write_all(content).unwrap();
    }
    zip.finish().unwrap();
}

/// Two checkpoints that each list as many tensors as a model may have, under different names.
fn shards() -> Weapon {
    let make = Box::new(|path: &Path| {
        fs::remove_file(path.with_file_name("model.safetensors")).unwrap();
        let files = ["a", "b"];
        for file in files {
            let names = (0..20_000).map(|n| text(format!("{file}{n}").as_bytes()));
            let entries: Vec<u8> = names
                .flat_map(|name| [&name, &b"h\x02"[..]].concat())
                .collect();
            archive(
                &path.with_file_name(file),
                &listed(b"w", b"K\x01\x85", &entries),
            );
        }
        let index = json!({"weight_map": {"a": "a", "b": "b"}});
        fs::write(path, index.to_string()).unwrap();
    });
    Weapon {
        file: "pytorch_model.bin.index.json",
        make,
        told: "more than 20000 tensors",
    }
}

/// A text in a pickle.
fn text(text: &[u8]) -> Vec<u8> {
    let length = u32::try_from(text.len()).unwrap().to_le_bytes();
    [b"X", &length[..], text].concat()
}

/// A list that has `entries` tensors with the same `name` and `shape`, all from the memo.
fn shared(entries: usize, name: &[u8], shape: &[u8]) -> Vec<u8> {
    listed(name, shape, &b"h\x00h\x02".repeat(entries))
}

/// A list with one tensor, which is in the memo under 2, and its name under 0, and further `entries`.
fn listed(name: &[u8], shape: &[u8], entries: &[u8]) -> Vec<u8> {
    let tensor = [
        b"ctorch._utils\n_rebuild_tensor_v2\n((",
        &text(b"storage")[..],
        b"ctorch\nFloatStorage\n",
        &text(b"0"),
        &text(b"cpu"),
        b"K\x00tQK\x00",
        shape,
        b"q\x01h\x01tR",
    ]
    .concat();
    [
        b"}(",
        &text(name)[..],
        b"q\x00",
        &tensor,
        b"q\x02",
        entries,
        b"u.",
    ]
    .concat()
}

fn pickles() -> Vec<Weapon> {
    let deep = [b"N".to_vec(), vec![0x85; 1 << 20], b".".to_vec()].concat();
    let wide = [b"(".to_vec(), b"K\x01".repeat(10_000), b"t".to_vec()].concat();
    let directory = |path: &Path| {
        fs::remove_file(path.with_file_name("model.safetensors")).unwrap();
        let mut zip = ZipWriter::new(File::create(path).unwrap());
        for entry in 0..50_000 {
            let name = format!("{entry}{}", "x".repeat(200));
            zip.start_file(
                name,
                SimpleFileOptions::default().compression_method(zip::CompressionMethod::Stored),
            )
            .unwrap();
        }
        zip.finish().unwrap();
    };
    vec![
        shards(),
        checkpoint(shared(200_000, b"w", &wide), "more than 8 dimensions"),
        checkpoint(
            shared(200_000, &vec![b'w'; 1 << 19], b"K\x01\x85"),
            "a name of more than 512 bytes",
        ),
        checkpoint(shared(200_000, b"w", b"K\x01\x85"), ""),
        checkpoint(shared(100, b"w", b"M\x00\x40\x85"), ""),
        checkpoint(vec![b'('; 2 << 20], "ends early"),
        checkpoint(vec![b'N'; (2 << 20) + 1], "more than 2097152 bytes"),
        checkpoint(deep, "not a dictionary of tensors"),
        checkpoint(
            [&b"\x8b\xff\xff\xff\x7f"[..], b"1."].concat(),
            "unknown instruction",
        ),
        checkpoint(b"X\xff\xff\xff\xff.".to_vec(), "ends early"),
        Weapon {
            file: "pytorch_model.bin",
            make: Box::new(directory),
            told: "lists files in more than",
        },
    ]
}

/// A saved tokenizer with one part changed.
fn tokenizer(part: &'static str, value: Value, told: &'static str) -> Weapon {
    changed("tokenizer.json", part, value, told)
}

#[expect(clippy::too_many_lines, reason = "a table")]
fn tokenizers() -> Vec<Weapon> {
    const BROKEN: &str = "tokenizer's files are broken";
    let normalizer = |steps: Vec<Value>, told| {
        tokenizer(
            "/normalizer",
            json!({"type": "Sequence", "normalizers": steps}),
            told,
        )
    };
    let replace = |from: &str, to: &str| json!({"type": "Replace", "pattern": {"String": from}, "content": to});
    let regex = |regex: String| json!({"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": false});
    let nested = (0..60).fold(
        json!({"type": "NFC"}),
        |inner, _| json!({"type": "Sequence", "normalizers": [inner]}),
    );
    let frame = |pieces: Vec<Value>, ids: usize| {
        json!({"type": "TemplateProcessing", "single": pieces, "pair": [],
            "special_tokens": {"[CLS]": {"id": "[CLS]", "ids": vec![2; ids], "tokens": vec!["[CLS]"; ids]}}})
    };
    let special = json!({"SpecialToken": {"id": "[CLS]", "type_id": 0}});
    let text = json!({"Sequence": {"id": "A", "type_id": 0}});
    let unigram = |vocab: Value, unknown: Value| json!({"type": "Unigram", "unk_id": unknown, "vocab": vocab});
    let long = "x".repeat(1 << 20);
    let growing = |step: &str| json!({"type": step, "add_prefix_space": true, "trim_offsets": true, "use_regex": true});
    let many: serde_json::Map<String, Value> =
        (0..2_200_000).map(|n| (n.to_string(), json!(n))).collect();
    vec![
        normalizer(vec![replace("a", "aa"); 13], "times that a text may grow"),
        normalizer(
            vec![json!({"type": "NFC"}); 10_000],
            "steps before the vocabulary",
        ),
        normalizer(
            vec![replace("a", &"b".repeat(100_000))],
            "times that a text may grow",
        ),
        normalizer(
            vec![json!({"type": "Prepend", "prepend": long.clone()})],
            "times that a text may grow",
        ),
        normalizer(
            vec![json!({"type": "NFKD"}); 30],
            "times that a text may grow",
        ),
        normalizer(
            vec![json!({"type": "Precompiled", "precompiled_charsmap": "/////w=="})],
            "table of character",
        ),
        tokenizer("/normalizer", nested, "steps before the vocabulary"),
        tokenizer(
            "/normalizer",
            json!({"type": "Replace", "pattern": {"Regex": "(".repeat(4000)}, "content": ""}),
            BROKEN,
        ),
        tokenizer(
            "/pre_tokenizer",
            regex(format!("{}x{}", "(".repeat(2000), ")".repeat(2000))),
            BROKEN,
        ),
        tokenizer(
            "/pre_tokenizer",
            regex("x".repeat(100_000)),
            "bytes of a pattern",
        ),
        tokenizer(
            "/pre_tokenizer",
            regex("((x{1000}){1000}){1000}".to_owned()),
            BROKEN,
        ),
        tokenizer(
            "/pre_tokenizer",
            json!({"type": "Sequence", "pretokenizers": vec![growing("ByteLevel"); 20]}),
            "steps of bytes",
        ),
        tokenizer(
            "/post_processor",
            json!({"type": "TemplateProcessing", "pair": [], "special_tokens": {}, "single": [
                {"SpecialToken": {"id": "[CLS]", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]}),
            "that there is not",
        ),
        tokenizer(
            "/post_processor",
            json!({"type": "Sequence", "processors": [{"type": "TemplateProcessing", "pair": [], "special_tokens": {},
                "single": [{"Sequence": {"id": "B", "type_id": 0}}]}]}),
            "that there is not",
        ),
        tokenizer(
            "/post_processor",
            frame(vec![special.clone(), text.clone(), text.clone()], 1),
            "not once",
        ),
        tokenizer(
            "/post_processor",
            frame(vec![special.clone(); 1000], 1),
            "special tokens around a text: 1000",
        ),
        tokenizer(
            "/post_processor",
            frame(vec![special.clone(), text.clone()], 30_000),
            "'post_processor'",
        ),
        tokenizer(
            "/post_processor",
            frame(vec![special, text], 1000),
            "special tokens around a text",
        ),
        tokenizer(
            "/model",
            unigram(json!([[long, -1.0]]), json!(0)),
            "bytes of a piece",
        ),
        tokenizer("/model", unigram(json!([["a", -1.0]]), json!(5)), BROKEN),
        tokenizer(
            "/model",
            json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 1_000_000_000, "vocab": {"[UNK]": 0}}),
            "max_input_chars_per_word",
        ),
        tokenizer(
            "/model",
            json!({"type": "WordLevel", "unk_token": "0", "vocab": many}),
            "entries of the vocabulary",
        ),
        tokenizer(
            "/model",
            json!({"type": "BPE", "continuing_subword_prefix": "abcdefgh",
            "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}),
            "'continuing_subword_prefix' is set",
        ),
        tokenizer(
            "/model",
            json!({"type": "Forged", "vocab": {}}),
            "its model is a 'Forged'",
        ),
        tokenizer(
            "/added_tokens",
            (0..70_000)
                .map(|n| {
                    json!({"id": n, "content": n.to_string(), "single_word": false,
            "lstrip": false, "rstrip": false, "normalized": false, "special": true})
                })
                .collect(),
            "added tokens: 70000, the limit is 65536",
        ),
        file(
            "tokenizer.json",
            format!("[{}0]", "0,".repeat(8_000_000)),
            "values, the limit",
        ),
    ]
}

/// A saved tokenizer with several parts changed.
fn parts(parts: &'static [&'static str], values: Vec<Value>, told: &'static str) -> Weapon {
    let make = Box::new(move |path: &Path| {
        let text = fs::read(tiny().join("tokenizer.json")).unwrap();
        let mut json: Value = serde_json::from_slice(&text).unwrap();
        for (part, value) in parts.iter().zip(&values) {
            json[*part] = value.clone();
        }
        fs::write(path, json.to_string()).unwrap();
    });
    Weapon {
        file: "tokenizer.json",
        make,
        told,
    }
}

/// What only shows once there is a text, or tokens for which to look in one.
fn growing() -> Vec<Weapon> {
    const GROWN: &str = "bytes that the normaliser makes of a text";
    const FOUND: &str = "times that a text may grow where a pattern is found";
    const TOGETHER: &str = "bytes of all added tokens";
    const UNKNOWN: &str = "can't take a text";
    let replace = |pattern: Value, content: &str| json!({"type": "Replace", "pattern": pattern, "content": content});
    let ahead = |content: &str| replace(json!({"Regex": "(?=[\\s\\S]{100})"}), content);
    let strip = json!({"type": "Strip", "strip_left": true, "strip_right": true});
    let all = |steps: Vec<Value>| json!({"type": "Sequence", "normalizers": steps});
    let normalizer = |value: Value, told| tokenizer("/normalizer", value, told);
    let added = |count: usize, length: usize, normalized: bool| -> Value {
        let token = |n: usize| {
            json!({"id": n, "content": format!("{n}{}", "a".repeat(length)), "single_word": false,
                "lstrip": false, "rstrip": false, "normalized": normalized, "special": false})
        };
        (1_000_000..1_000_000 + count).map(token).collect()
    };
    let sixteen = || replace(json!({"String": "a"}), &"b".repeat(16));
    let spaces = || replace(json!({"String": " "}), &" ".repeat(16));
    vec![
        normalizer(ahead(&"b ".repeat(2000)), FOUND),
        normalizer(
            replace(json!({"String": "a".repeat(65)}), &"b ".repeat(65_000)),
            FOUND,
        ),
        normalizer(
            all(vec![ahead("b b b b b b b b"), ahead("b b b b b b b b")]),
            GROWN,
        ),
        normalizer(all(vec![strip.clone(), spaces(), strip, spaces()]), GROWN),
        parts(
            &["normalizer", "added_tokens"],
            vec![
                all(vec![
                    sixteen(),
                    replace(json!({"String": "b"}), &"c".repeat(16)),
                ]),
                added(100, 1000, true),
            ],
            TOGETHER,
        ),
        tokenizer("/added_tokens", added(2000, 1000, false), TOGETHER),
        tokenizer(
            "/model",
            json!({"type": "Unigram", "unk_id": null, "vocab": [["[CLS]", 0.0], ["[SEP]", 0.0], ["a", -1.0]]}),
            "a model of the kind Unigram",
        ),
        tokenizer(
            "/model",
            json!({"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
                "max_input_chars_per_word": 100, "vocab": {"[CLS]": 0, "[SEP]": 1}}),
            UNKNOWN,
        ),
    ]
}

/// Puts the model into a folder of its own.
pub(crate) fn build(models: &Path, name: &str, weapon: &Weapon) {
    let folder = models.join(name);
    fs::create_dir(&folder).unwrap();
    for entry in fs::read_dir(tiny()).unwrap() {
        let entry = entry.unwrap();
        symlink(entry.path(), folder.join(entry.file_name())).unwrap();
    }
    let path = folder.join(weapon.file);
    drop(fs::remove_file(&path));
    (weapon.make)(&path);
}

pub(crate) async fn embed(running: &Running, model: &str) -> (u16, Value) {
    let request = reqwest::Client::new().post(format!("{}/embed", running.url));
    let long = format!("a{}{}", " ".repeat(4999), "a".repeat(5000));
    let body = json!({"texts": ["a text of some words", long], "model": model});
    let answer = request.json(&body).send().await.expect(model);
    (answer.status().as_u16(), answer.json().await.unwrap())
}

/// The most memory that the process had since it was last asked, in MiB.
pub(crate) fn peak(running: &Running) -> u64 {
    let process = PathBuf::from(format!("/proc/{}", running.program.id().unwrap()));
    let status = fs::read_to_string(process.join("status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kib: u64 = line.unwrap().trim_end_matches("kB").trim().parse().unwrap();
    fs::write(process.join("clear_refs"), "5").unwrap();
    kib / 1024
}

#[tokio::test]
async fn weapons_are_refused_with_a_reason_and_cost_little_memory() {
    let models = TempDir::new().unwrap();
    symlink(tiny(), models.path().join("good")).unwrap();
    let mut command = program();
    command
        .args([
            "--listen=127.0.0.1:0",
            "--log=error",
            "--model-embed=good",
            "--model-bertscore=good",
        ])
        .arg(format!("--models-dir={}", models.path().display()))
        .arg(format!("--hub-cache={}", models.path().display()));
    let running = listening(command).await;
    running.until_ready().await;
    peak(&running);
    let kinds = [
        kinds_of_files(),
        settings(),
        modules(),
        safetensors(),
        pickles(),
        tokenizers(),
        growing(),
    ];
    let mut wrong = Vec::new();
    for (number, weapon) in kinds.iter().flatten().enumerate() {
        let name = format!("weapon-{number}");
        build(models.path(), &name, weapon);
        let (status, answer) = embed(&running, &name).await;
        let memory = peak(&running);
        let told = answer["detail"].as_str().unwrap_or_default();
        // 400: only some texts are too much for it.
        let refused = matches!(status, 400 | 404) && told.contains(weapon.told);
        let what = format!("{name} {}: {status}, {memory} MiB: {told}", weapon.file);
        if std::env::var_os("SHOW_WEAPONS").is_some() {
            println!("{what}");
        }
        if !(refused || status == 200 && weapon.told.is_empty()) || memory > MOST_MEMORY {
            wrong.push(format!("{what}; expected: {}", weapon.told));
        }
        fs::remove_dir_all(models.path().join(&name)).unwrap();
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let (status, _) = embed(&running, "good").await;
    assert_eq!(status, 200);
    let health: Value = reqwest::get(format!("{}/health", running.url))
        .await
        .unwrap()
        .json()
        .await
        .unwrap();
    assert_eq!(health["ready"], true);
    running.stop().await;
}
