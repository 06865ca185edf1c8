"""Engines in processes of their own that are handed texts line by line, without HTTP."""

import json
import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


class WorkerError(Exception):
    """An engine failed; the message says which and how."""


@dataclass(frozen=True)
class Done:
    """An answer: how long the texts took, their tokens, the start of the first embedding."""

    seconds: float
    tokens: int
    first: tuple[float, ...]


class Worker:
    """A running engine. Leaving its `with` block ends it."""

    def __init__(self, name: str, command: Sequence[str], threads: int):
        self.name = name
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, **thread_variables(threads)},
            text=True,
            encoding="utf-8",
        )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def embed(self, texts: Sequence[str]) -> Done:
        """Embeds `texts` and says how that went."""
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"texts": texts}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        if not line:
            raise WorkerError(f"{self.name} ended with code {self._process.wait()}")
        answer = json.loads(line)
        return Done(answer["seconds"], answer["tokens"], tuple(answer["first"]))


def thread_variables(threads: int) -> dict[str, str]:
    """What the thread pools of the engines go by: rayon (candle, tokenizers) and PyTorch's."""
    names = ("RAYON_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")
    return dict.fromkeys(names, str(threads))


def gemm_peak(encode_bench: Path, threads: int) -> float:
    """The machine's fastest matrix product on so many threads, in GFLOP/s, as measured now."""
    command = [str(encode_bench), "--gemm-peak", "--threads", str(threads)]
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return float(json.loads(output)["gflops"])
