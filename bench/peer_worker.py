#!/usr/bin/env python3
"""sentence-transformers behind the line protocol of the example `encode_bench`, on each of its backends.

A line `{"texts": [...]}` on standard input is answered by `{"seconds", "tokens", "first"}` on
standard output. The call is the library's plain `encode`, which sorts texts by length and pads
batches of 32. For OpenVINO and ONNX Runtime the library converts the model when it is loaded.
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
    parser.add_argument("--backend", choices=("torch", "openvino", "onnx"), default="torch")
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = SentenceTransformer(
        args.model, device="cpu", backend=args.backend, model_kwargs=model_options(args)
    )
    for line in sys.stdin:
        print(json.dumps(answer(model, json.loads(line)["texts"])), flush=True)


def model_options(args: argparse.Namespace) -> dict[str, object]:
    """What the backend is to be told. OpenVINO takes bf16 by itself unless it is told otherwise."""
    if args.backend == "openvino":
        settings = {"INFERENCE_PRECISION_HINT": args.dtype, "INFERENCE_NUM_THREADS": args.threads}
        return {"export": True, "ov_config": {"PERFORMANCE_HINT": "LATENCY", **settings}}
    if args.backend == "onnx":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = args.threads
        return {"export": True, "provider": "CPUExecutionProvider", "session_options": options}
    return {"torch_dtype": torch.bfloat16 if args.dtype == "bf16" else torch.float32}


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
