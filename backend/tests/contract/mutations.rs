//! The files of a model with something changed in one of them, hundreds of times and always the same:
//! whatever the change, the real program answers with numbers or says that it can't use the model or a
//! text, lives on and takes little memory. A 500 is a setting that should have been refused.

use std::fs;
use std::path::Path;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::program::{Running, listening, program};
use crate::weapons::{MOST_MEMORY, Weapon, build, embed, peak, tensors, tiny};

const MUTATIONS: usize = 500;

/// `SplitMix64`: small, and the same everywhere.
struct Random(u64);

impl Random {
    fn below(&mut self, most: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut bits = self.0;
        bits = (bits ^ (bits >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        bits = (bits ^ (bits >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((bits ^ (bits >> 31)) % most as u64).unwrap()
    }

    /// What nobody expects where something else stood.
    fn odd(&mut self) -> Value {
        let long = "x".repeat(5000);
        let odd = json!([
            null, true, 0, 1, -1, 2, 3.5, 255, 65_536, 1e13, 1e308, i64::MIN, i64::MAX, u64::MAX, u32::MAX,
            "", " ", "\u{0}", "\u{202e}", "..", "/dev/zero", long, [], {}, [null], [[[[]]]], [1, -1],
            {"type": "Sequence", "normalizers": [], "pretokenizers": []}, {"a": {"b": {}}}
        ]);
        odd[self.below(odd.as_array().unwrap().len())].clone()
    }

    /// Changes one value somewhere in `json`, or takes it away.
    fn change(&mut self, json: &mut Value) {
        // One in four stops at each level, and anything does at the bottom.
        let stops = self.below(4) == 0;
        let inner = match json {
            Value::Object(object) if !object.is_empty() => {
                let key = object.keys().nth(self.below(object.len())).unwrap();
                let key = key.clone();
                if stops && self.below(2) == 0 {
                    object.remove(&key);
                    return;
                }
                object.get_mut(&key)
            }
            Value::Array(list) if !list.is_empty() => {
                let place = self.below(list.len());
                list.get_mut(place)
            }
            _ => None,
        };
        match inner {
            Some(inner) if !stops => self.change(inner),
            Some(inner) => *inner = self.odd(),
            None => *json = self.odd(),
        }
    }

    fn weapon(&mut self) -> Weapon {
        let files = [
            "config.json",
            "tokenizer.json",
            "tokenizer_config.json",
            "model.safetensors",
        ];
        let file = files[self.below(files.len())];
        let content = fs::read(tiny().join(file)).unwrap();
        let header = 8..8 + usize::from(content[0]) + 256 * usize::from(content[1]);
        let (text, rest) = match file {
            "model.safetensors" => (&content[header.clone()], &content[header.end..]),
            _ => (&content[..], &[][..]),
        };
        let mut json: Value = serde_json::from_slice(text).unwrap();
        for _ in 0..=self.below(2) {
            self.change(&mut json);
        }
        let content = match file {
            "model.safetensors" => [tensors(&json.to_string(), 0), rest.to_vec()].concat(),
            _ => json.to_string().into_bytes(),
        };
        let make = Box::new(move |path: &Path| fs::write(path, &content).unwrap());
        Weapon {
            file,
            make,
            told: "",
        }
    }
}

async fn over(models: &TempDir) -> Running {
    fs::create_dir(models.path().join("none")).unwrap();
    let mut command = program();
    command
        .args(["--listen=127.0.0.1:0", "--log=off", "--model-embed=bert"])
        .args(["--model-bertscore=bert", "--model-memory-mb=64"])
        .arg(format!("--models-dir={}", models.path().display()))
        .arg(format!(
            "--hub-cache={}",
            models.path().join("none").display()
        ));
    listening(command).await
}

/// Whether an answer has a row of numbers for each text: what is none would be null.
fn is_finite(answer: &Value) -> bool {
    let rows: Result<Vec<Vec<f32>>, _> = serde_json::from_value(answer["embeddings"].clone());
    rows.is_ok_and(|rows| rows.len() == 2 && rows.iter().all(|row| !row.is_empty()))
}

#[tokio::test]
async fn changed_files_break_nothing() {
    let models = TempDir::new().unwrap();
    let running = over(&models).await;
    let mut random = Random(11);
    let mut answered = 0;
    for number in 0..MUTATIONS {
        let weapon = random.weapon();
        let name = format!("changed-{number}");
        build(models.path(), &name, &weapon);
        let (status, answer) = embed(&running, &name).await;
        let what = format!("{name} {}: {status} {answer}", weapon.file);
        if status == 200 {
            answered += 1;
            assert!(is_finite(&answer), "{what}");
        } else {
            assert!(matches!(status, 400 | 404), "{what}");
        }
        fs::remove_dir_all(models.path().join(&name)).unwrap();
    }
    assert!((1..MUTATIONS).contains(&answered), "{answered} answered");
    let memory = peak(&running);
    assert!(memory < MOST_MEMORY, "{memory} MiB");
    running.stop().await;
}
