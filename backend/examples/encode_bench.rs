//! A worker for the benchmark: embeds what it is told to and says how long it took.
//!
//! ```text
//! encode_bench --model DIR [--threads N] [--engine ours|ours-bf16|candle]   work on stdin, times on stdout
//! encode_bench --gemm-peak [--threads N]                          {"gflops": …}
//! ```
//!
//! A line of work is `{"texts": [...]}`; its answer is `{"seconds": …, "tokens": …, "first": [...]}`,
//! the last being the beginning of the first embedding, so that engines can be compared.
//! `--engine candle` is the BERT of candle-transformers as its authors' example runs it.

#![expect(clippy::print_stdout, reason = "its results are for standard output")]

use std::io::{BufRead, Write};
use std::num::NonZeroUsize;
use std::path::{Path, PathBuf};
use std::time::Instant;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_nn::VarBuilder;
use candle_transformers::models::bert::{BertModel, Config};
use clap::{Parser, ValueEnum};
use gpu_bridge_backend::device::Precision;
use gpu_bridge_backend::engine::{Cancellation, Engine, Progress};
use gpu_bridge_backend::models::{CandleEngine, EngineOptions, ModelSources};
use gpu_bridge_encoder::ops;
use serde::{Deserialize, Serialize};
use tokenizers::{PaddingParams, Tokenizer, TruncationParams};

#[derive(Parser)]
struct Cli {
    /// Folder of the model.
    #[arg(long, required_unless_present = "gemm_peak")]
    model: Option<PathBuf>,
    #[arg(long, default_value = "2")]
    threads: NonZeroUsize,
    #[arg(long, default_value = "ours")]
    engine: Which,
    /// Measure the fastest matrix product instead.
    #[arg(long)]
    gemm_peak: bool,
}

#[derive(Clone, Copy, ValueEnum)]
enum Which {
    Ours,
    OursBf16,
    Candle,
}

#[derive(Deserialize)]
struct Work {
    texts: Vec<String>,
}

#[derive(Serialize)]
struct Done {
    seconds: f64,
    tokens: usize,
    first: Vec<f32>,
}

/// A way to embed texts.
trait Worker {
    fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>>;
}

fn main() -> Result<()> {
    let cli = Cli::parse();
    if cli.gemm_peak {
        println!("{{\"gflops\": {:.1}}}", gemm_peak(cli.threads));
        return Ok(());
    }
    let folder = cli.model.context("--model is missing")?;
    let worker: Box<dyn Worker> = match cli.engine {
        Which::Ours => Box::new(Ours::load(&folder, cli.threads, Precision::F32)?),
        Which::OursBf16 => Box::new(Ours::load(&folder, cli.threads, Precision::Bf16)?),
        Which::Candle => Box::new(Candle::load(&folder)?),
    };
    let counter = tokenizer(&folder)?;
    for line in std::io::stdin().lock().lines() {
        let work: Work = serde_json::from_str(&line?).context("a line of work")?;
        let start = Instant::now();
        let rows = worker.embed(&work.texts)?;
        let seconds = start.elapsed().as_secs_f64();
        let first = rows
            .first()
            .map(|row| row.iter().copied().take(8).collect());
        let done = Done {
            seconds,
            tokens: count_tokens(&counter, &work.texts)?,
            first: first.unwrap_or_default(),
        };
        println!("{}", serde_json::to_string(&done)?);
        std::io::stdout().flush()?;
    }
    Ok(())
}

struct Ours {
    engine: CandleEngine,
    model: String,
}

impl Ours {
    fn load(folder: &Path, threads: NonZeroUsize, precision: Precision) -> Result<Self> {
        let model = folder
            .to_str()
            .context("the folder's name is not UTF-8")?
            .to_owned();
        let sources = ModelSources {
            operator_folders: vec![model.clone()],
            ..ModelSources::default()
        };
        let options = EngineOptions {
            threads,
            precision,
            ..EngineOptions::default()
        };
        let engine = CandleEngine::new(sources, options)?;
        Ok(Self { engine, model })
    }
}

impl Worker for Ours {
    fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        Ok(self.engine.embed(&self.model, texts, &Nobody)?.rows)
    }
}

struct Nobody;

impl Progress for Nobody {
    fn finished(&self, _: usize) {}

    fn cancellation(&self) -> Cancellation {
        Cancellation::default()
    }
}

/// Takes its threads from `RAYON_NUM_THREADS`.
struct Candle {
    model: BertModel,
    tokenizer: Tokenizer,
}

impl Candle {
    fn load(folder: &Path) -> Result<Self> {
        let config: Config = serde_json::from_slice(&std::fs::read(folder.join("config.json"))?)?;
        let weights = std::fs::read(folder.join("model.safetensors"))?;
        let weights = VarBuilder::from_buffered_safetensors(weights, DType::F32, &Device::Cpu)?;
        Ok(Self {
            model: BertModel::load(weights, &config)?,
            tokenizer: tokenizer(folder)?,
        })
    }
}

impl Worker for Candle {
    fn embed(&self, texts: &[String]) -> Result<Vec<Vec<f32>>> {
        let encodings = self.tokenizer.encode_batch(texts.to_vec(), true);
        let encodings = encodings.map_err(anyhow::Error::msg)?;
        let rows = |ids: fn(&tokenizers::Encoding) -> &[u32]| -> candle_core::Result<Tensor> {
            let rows: Vec<&[u32]> = encodings.iter().map(ids).collect();
            Tensor::new(rows, &Device::Cpu)
        };
        let ids = rows(tokenizers::Encoding::get_ids)?;
        let mask = rows(tokenizers::Encoding::get_attention_mask)?;
        let hidden = self.model.forward(&ids, &ids.zeros_like()?, Some(&mask))?;
        let mask = mask.to_dtype(DType::F32)?.unsqueeze(2)?;
        let mean = hidden
            .broadcast_mul(&mask)?
            .sum(1)?
            .broadcast_div(&mask.sum(1)?)?;
        let norm = mean.sqr()?.sum_keepdim(1)?.sqrt()?;
        Ok(mean.broadcast_div(&norm)?.to_vec2()?)
    }
}

fn tokenizer(folder: &Path) -> Result<Tokenizer> {
    const MAX_LENGTH: usize = 256;
    let file = folder.join("tokenizer.json");
    let mut tokenizer = Tokenizer::from_file(file).map_err(anyhow::Error::msg)?;
    let truncation = TruncationParams {
        max_length: MAX_LENGTH,
        ..TruncationParams::default()
    };
    tokenizer
        .with_truncation(Some(truncation))
        .map_err(anyhow::Error::msg)?;
    tokenizer.with_padding(Some(PaddingParams::default()));
    Ok(tokenizer)
}

fn count_tokens(tokenizer: &Tokenizer, texts: &[String]) -> Result<usize> {
    let encodings = tokenizer.encode_batch(texts.to_vec(), true);
    let encodings = encodings.map_err(anyhow::Error::msg)?;
    let real = encodings
        .iter()
        .flat_map(tokenizers::Encoding::get_attention_mask);
    Ok(real.filter(|mask| **mask == 1).count())
}

/// Floating-point operations per nanosecond that our matrix product reaches on its best size, on
/// all threads at once: what a forward pass is measured against.
fn gemm_peak(threads: NonZeroUsize) -> f64 {
    const SIZE: usize = 384;
    /// The left side is so many times as high, so that packing the right side hardly counts.
    const HEIGHT: usize = 8;
    const ROUNDS: usize = 5;
    let operations = (2 * SIZE * SIZE * SIZE * HEIGHT * ROUNDS * threads.get()) as f64;
    let left = vec![0.5_f32; SIZE * SIZE * HEIGHT];
    let right = vec![0.5_f32; SIZE * SIZE];
    let mut best = f64::INFINITY;
    for _ in 0..10 {
        let start = Instant::now();
        std::thread::scope(|scope| {
            for _ in 0..threads.get() {
                scope.spawn(|| {
                    for _ in 0..ROUNDS {
                        ops::dot_products(&left, &right, SIZE, |block| {
                            std::hint::black_box(block);
                        });
                    }
                });
            }
        });
        best = best.min(start.elapsed().as_secs_f64());
    }
    operations / best / 1e9
}
