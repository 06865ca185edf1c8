"""Embeds a data set through gpu-bridge with Ray Data: many workers read, ask and write, one proxy schedules.

    python ray_embed.py --in 'rows/*.jsonl' --out vectors/ --url http://proxy:8765 --model all-MiniLM-L6-v2

Needs `ray[data]`. The key of the proxy goes into GPU_BRIDGE_KEY.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import time
import urllib.error
import urllib.request

BACKGROUND = "u=7"  # RFC 9218: all other requests go first.
FINAL = {400, 401, 403, 404, 405, 413, 422}  # Asking again would not help.


class Embed:
    """Adds the column `embedding` to batches with a column of texts."""

    def __init__(self, url: str, model: str | None, column: str, patience: float) -> None:
        self.url = url.rstrip("/") + "/embed"
        self.model = model
        self.column = column
        self.patience = patience

    def __call__(self, batch: dict) -> dict:
        body = {"texts": [str(text) for text in batch[self.column]]}
        if self.model:
            body["model"] = self.model
        answer = self.ask(json.dumps(body).encode())
        if len(answer["embeddings"]) != len(body["texts"]):
            raise RuntimeError("embeddings are missing in the proxy's answer")
        batch["embedding"] = answer["embeddings"]
        return batch

    def ask(self, body: bytes) -> dict:
        """Until it is answered, which may take as long as all hosts are busy."""
        end = time.monotonic() + self.patience
        while True:
            try:
                with urllib.request.urlopen(self.request(body), timeout=600) as answer:
                    return json.load(answer)
            except urllib.error.HTTPError as error:
                if error.code in FINAL or time.monotonic() > end:
                    raise RuntimeError(f"the proxy answers {error.code}") from None
                pause = float(error.headers.get("Retry-After") or 1)
            except (OSError, json.JSONDecodeError) as error:
                if time.monotonic() > end:
                    raise RuntimeError(f"the proxy can't be reached: {error}") from None
                pause = 1.0
            time.sleep(pause * random.uniform(1, 1.5))

    def request(self, body: bytes) -> urllib.request.Request:
        headers = {"Content-Type": "application/json", "Priority": BACKGROUND}
        if key := os.environ.get("GPU_BRIDGE_KEY"):
            headers["X-API-Key"] = key
        return urllib.request.Request(self.url, data=body, headers=headers)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--in", dest="input", required=True, help="JSONL files that Ray Data can read")
    parser.add_argument("--out", required=True, help="a folder for Parquet files")
    parser.add_argument("--url", default="http://127.0.0.1:8765")
    parser.add_argument("--model")
    parser.add_argument("--column", default="text")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--workers", type=int, default=8, help="twice the slots of all hosts keep them busy")
    parser.add_argument("--patience", type=float, default=600, help="seconds to wait for one answer")
    options = parser.parse_args()

    import ray

    rows = ray.data.read_json(options.input, lines=True)
    rows = rows.map_batches(
        Embed,
        fn_constructor_args=(options.url, options.model, options.column, options.patience),
        batch_size=options.batch,
        compute=ray.data.ActorPoolStrategy(size=options.workers),
        num_cpus=0.1,  # Workers wait most of the time.
    )
    rows.write_parquet(options.out)


if __name__ == "__main__":
    main()
