"""The services that are compared over HTTP: how each is started, asked and looked at.

All run on the CPU with the same threads, slots, batch and model, from the same environment. Their
output goes to a log file each, which is shown when one fails.
"""

import json
import os
import re
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import client
from client import Request
from workers import thread_variables

OURS, PYTHON, TEI = "ours", "Python", "TEI"

START_SECONDS = 120
STOP_SECONDS = 20
POLL_SECONDS = 0.005

# What the services were made for: two requests at a time, 32 texts a step.
SLOTS = 2
VARIABLES = {
    "GPU_MAX_CONCURRENT": str(SLOTS),
    "GPU_EMBED_BATCH": "32",
    "TORCH_DEVICE": "cpu",
    "HF_HUB_OFFLINE": "1",
    "TOKENIZERS_PARALLELISM": "true",
}

Rows = list[list[float]]


class ServiceError(Exception):
    """A service did not start, or stopped; the message says which and why."""


@dataclass(frozen=True)
class Kind:
    """One of the services. `command` gives its command line for a port."""

    name: str
    command: Callable[[int], list[str]]
    env: dict[str, str]
    embed: Callable[[Sequence[str]], Request]
    rows: Callable[[bytes], Rows]  # of the embeddings in an answer
    has_bertscore: bool = True


@dataclass(frozen=True)
class Memory:
    """Of a process, in MB of 1,000,000 bytes."""

    rss: float
    pss: float
    peak_rss: float


def kinds(
    backend: Path, python: str, model: Path, threads: int, tei: str | None
) -> tuple[Kind, ...]:
    """Ours, the Python service and, where the path of its program is given, TEI."""
    found = [ours(backend, model, threads), python_service(python, model, threads)]
    if tei:
        found.append(text_embeddings_inference(tei, model, threads))
    return tuple(found)


def ours(backend: Path, model: Path, threads: int) -> Kind:
    def command(port: int) -> list[str]:
        return [str(backend), "--listen", f"127.0.0.1:{port}", "--threads", str(threads)]

    env = {"MODEL_EMBED": str(model), "MODEL_BERTSCORE": str(model)}
    return Kind(OURS, command, env, embed_request, embeddings)


def python_service(python: str, model: Path, threads: int) -> Kind:
    program = str(Path(__file__).with_name("python_service.py"))

    def command(port: int) -> list[str]:
        return [python, program, "--port", str(port), "--threads", str(threads)]

    env = {
        "MODEL_EMBED": str(model),
        "MODEL_BERTSCORE": str(model),
        "BERTSCORE_LAYER": str(layers(model)),
        **thread_variables(threads),
    }
    return Kind(PYTHON, command, env, embed_request, embeddings)


def text_embeddings_inference(program: str, model: Path, threads: int) -> Kind:
    def command(port: int) -> list[str]:
        address = ["--hostname", "127.0.0.1", "--port", str(port)]
        limits = ["--max-client-batch-size", "100", "--auto-truncate"]
        # Some of its builds compute in f16 otherwise, which is slow and inexact on a CPU.
        return [program, "--model-id", str(model), "--dtype", "float32", *address, *limits]

    def embed(texts: Sequence[str]) -> Request:
        payload = {"inputs": texts, "truncate": True}
        return client.json_request("/embed", payload, len(texts))

    env = thread_variables(threads)
    return Kind(TEI, command, env, embed, json.loads, has_bertscore=False)


def embed_request(texts: Sequence[str]) -> Request:
    return client.json_request("/embed", {"texts": texts}, len(texts))


def bertscore_request(candidates: Sequence[str], references: Sequence[str]) -> Request:
    payload = {"candidates": candidates, "references": references}
    return client.json_request("/bertscore", payload, len(candidates))


def embeddings(answer: bytes) -> Rows:
    return json.loads(answer)["embeddings"]


def scores(answer: bytes) -> Rows:
    """Precision, recall and F1 of every pair."""
    body = json.loads(answer)
    return [body[key] for key in ("precision", "recall", "f1")]


def layers(model: Path) -> int:
    """The model's last layer, which is what ours compares where bert-score publishes no choice."""
    return json.loads((model / "config.json").read_text())["num_hidden_layers"]


class Service:
    """A running service. Leaving its `with` block ends it, and shows its log after a failure."""

    def __init__(self, kind: Kind, logs: Path):
        self.kind = kind
        self.log = logs / f"{kind.name}.log"
        port = free_port()
        self.address = f"127.0.0.1:{port}"
        env = {key: value for key, value in os.environ.items() if key != "API_KEY"}
        self._began = time.perf_counter()
        with self.log.open("ab") as output:
            self._process = subprocess.Popen(
                kind.command(port),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**env, **VARIABLES, **kind.env},
            )

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, fault: type[BaseException] | None, *_: object) -> None:
        self._process.terminate()
        try:
            self._process.wait(STOP_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        if fault and fault is not KeyboardInterrupt:
            tail = "\n".join(self.log.read_text(errors="replace").splitlines()[-10:])
            print(f"--- end of the log of {self.kind.name}\n{tail}", file=sys.stderr)

    def wait_for_answer(self, request: Request) -> float:
        """Asks until the answer is good; seconds since the program was started."""
        while time.perf_counter() - self._began < START_SECONDS:
            if self._answers(request):
                return time.perf_counter() - self._began
            if self._process.poll() is not None:
                raise ServiceError(f"{self.kind.name} ended, code {self._process.returncode}")
            time.sleep(POLL_SECONDS)
        raise ServiceError(f"{self.kind.name} gave no good answer within {START_SECONDS} s")

    def _answers(self, request: Request) -> bool:
        try:
            status, _ = client.send(self.address, request)
        except ConnectionError:
            return False
        return status == client.OK

    def memory(self) -> Memory:
        proc = Path("/proc", str(self._process.pid))
        rollup, status = (proc / "smaps_rollup").read_text(), (proc / "status").read_text()
        return Memory(field(rollup, "Rss"), field(rollup, "Pss"), field(status, "VmHWM"))


def field(text: str, name: str) -> float:
    """The value of a line such as `Rss:  1024 kB`, in MB."""
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if not found:
        raise ServiceError(f"/proc shows no {name}")
    return int(found[1]) * 1024 / 1e6


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]
