#!/usr/bin/env python3
"""Writes tests/golden/pipeline: a sentence-transformers folder with every kind of step.

The encoder is that of tests/golden/tiny/bert, which a test puts in its place. Run by hand, after
`pip install sentence-transformers`:

    python3 scripts/pipeline_reference.py
"""

import json
import os
import shutil
import tempfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import sentence_transformers
import torch
from sentence_transformers import SentenceTransformer, models

GOLDEN = Path(__file__).parent.parent / "tests/golden"
TINY = GOLDEN / "tiny"
OUT = GOLDEN / "pipeline"
TEXTS = ["", "Hello world", "  the function returns a value ", "caf\u00e9 \u4f60\u597d", "word " * 200]
MODES = ["cls_token", "max_tokens", "mean_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens",
         "lasttoken"]


def main():
    torch.manual_seed(7)
    encoder = models.Transformer(str(TINY / "bert"), max_seq_length=20)
    width = encoder.get_word_embedding_dimension()
    pooling = models.Pooling(width, **{f"pooling_mode_{mode}": True for mode in MODES})
    dense = models.Dense(pooling.get_sentence_embedding_dimension(), 8)
    model = SentenceTransformer(
        modules=[encoder, pooling, dense, models.Normalize()], device="cpu",
        prompts={"query": "hello: "}, default_prompt_name="query")
    with tempfile.TemporaryDirectory() as folder:
        model.save(folder, create_model_card=False)
        shutil.rmtree(OUT, ignore_errors=True)
        for file in ("modules.json", "config_sentence_transformers.json",
                     "sentence_bert_config.json", "1_Pooling", "2_Dense"):
            source, target = Path(folder) / file, OUT / file
            target.parent.mkdir(parents=True, exist_ok=True)
            (shutil.copytree if source.is_dir() else shutil.copy)(source, target)
        (OUT / "2_Dense/model.safetensors").chmod(0o644)
        saved = SentenceTransformer(folder, device="cpu")
        rows = [saved.encode(text).tolist() for text in TEXTS]
    (OUT / "embeddings.json").write_text(json.dumps({
        "sentence_transformers": sentence_transformers.__version__,
        "torch": torch.__version__, "texts": TEXTS, "embeddings": rows}))


if __name__ == "__main__":
    main()
