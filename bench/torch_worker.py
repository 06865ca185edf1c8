#!/usr/bin/env python3
"""sentence-transformers on PyTorch behind the line protocol of the example `encode_bench`.

A line `{"texts": [...]}` on standard input is answered by `{"seconds", "tokens", "first"}` on
standard output. The call is the library's plain `encode`, which sorts texts by length and pads
batches of 32.
"""

import argparse
import json
import sys
import time

import torch
from sentence_transformers import SentenceTransformer

FIRST = 8  # numbers of the first embedding that an answer shows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="folder of the model")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = SentenceTransformer(args.model, device="cpu")
    for line in sys.stdin:
        print(json.dumps(answer(model, json.loads(line)["texts"])), flush=True)


def answer(model: SentenceTransformer, texts: list[str]) -> dict[str, object]:
    start = time.perf_counter()
    rows = model.encode(texts, batch_size=32, convert_to_numpy=True, show_progress_bar=False)
    seconds = time.perf_counter() - start
    first = rows[0, :FIRST].tolist() if texts else []
    return {"seconds": seconds, "tokens": count_tokens(model, texts), "first": first}


def count_tokens(model: SentenceTransformer, texts: list[str]) -> int:
    encoded = model.tokenizer(texts, truncation=True, max_length=model.max_seq_length)
    return sum(len(ids) for ids in encoded["input_ids"])


if __name__ == "__main__":
    main()
