"""Part A: the engines alone, in one process each, on the same texts.

Each round gives each set of texts to each engine once, in an order that turns from round to round,
so that a machine that gets slower or faster meanwhile does so for all. Times are taken inside the
engines and hold tokenisation, the forward pass, pooling and normalisation.
"""

import json
import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import texts
from machine import simd_flags
from texts import TextSet
from workers import Done, Worker, WorkerError, gemm_peak

WARM_UPS = 2

OURS, CANDLE, TORCH, OPENVINO, ONNX = "ours", "candle", "torch", "OpenVINO", "ONNX Runtime"
OURS_BF16, TORCH_BF16, OPENVINO_BF16 = "ours bf16", "torch bf16", "OpenVINO bf16"


@dataclass(frozen=True)
class Timing:
    """Seconds that one engine took for one set, round by round."""

    seconds: tuple[float, ...]

    @property
    def median(self) -> float:
        return statistics.median(self.seconds)

    @property
    def best(self) -> float:
        return min(self.seconds)


@dataclass(frozen=True)
class SetResult:
    """What was measured on one set of texts; `timings` by engine."""

    texts: TextSet
    mixed: bool
    timings: dict[str, Timing]
    difference: float  # largest between the first embeddings of the engines in f32
    flop: float  # of one forward pass


@dataclass(frozen=True)
class ForwardResult:
    """All of part A; the peak is the highest measured before, between and after the sets."""

    sets: tuple[SetResult, ...]
    peak_gflops: float


def measure(
    encode_bench: Path, python: str, model: Path, threads: int, rounds: int
) -> ForwardResult:
    """Runs part A."""
    options = ["--model", str(model), "--threads", str(threads)]
    ours = [str(encode_bench), *options, "--engine"]
    peer = [python, str(Path(__file__).with_name("peer_worker.py")), *options, "--backend"]
    commands = {
        OURS: [*ours, "ours"],
        CANDLE: [*ours, "candle"],
        TORCH: [*peer, "torch"],
        OPENVINO: [*peer, "openvino"],
        ONNX: [*peer, "onnx"],
    }
    if "avx512_bf16" in simd_flags(Path("/proc/cpuinfo").read_text()):
        commands[OURS_BF16] = [*ours, "ours-bf16"]
        commands[TORCH_BF16] = [*peer, "torch", "--dtype", "bf16"]
        commands[OPENVINO_BF16] = [*peer, "openvino", "--dtype", "bf16"]
    peaks = []
    sets = []
    with ExitStack() as stack:
        workers = [
            stack.enter_context(Worker(name, command, threads))
            for name, command in commands.items()
        ]
        for text_set in text_sets():
            print(f"bench: {text_set.name}", file=sys.stderr)
            peaks.append(gemm_peak(encode_bench, threads))
            sets.append(measure_set(workers, text_set, model, rounds))
    peaks.append(gemm_peak(encode_bench, threads))
    return ForwardResult(tuple(sets), max(peaks))


def text_sets() -> tuple[TextSet, ...]:
    return (
        texts.equal_lengths(32, 12, seed=1),
        texts.equal_lengths(32, 60, seed=2),
        texts.equal_lengths(8, 256, seed=3),
        texts.mixed_lengths(100, seed=4),
    )


def measure_set(
    workers: Sequence[Worker], text_set: TextSet, model: Path, rounds: int
) -> SetResult:
    firsts = {worker.name: warm_up(worker, text_set).first for worker in workers}
    exact = [first for name, first in firsts.items() if "bf16" not in name]
    seconds: dict[str, list[float]] = {worker.name: [] for worker in workers}
    for number in range(rounds):
        turn = number % len(workers)
        for worker in (*workers[turn:], *workers[:turn]):
            seconds[worker.name].append(worker.embed(text_set.texts).seconds)
    return SetResult(
        texts=text_set,
        mixed=len(set(text_set.lengths)) > 1,
        timings={name: Timing(tuple(values)) for name, values in seconds.items()},
        difference=largest_difference(exact),
        flop=forward_flop(model, text_set.lengths),
    )


def warm_up(worker: Worker, text_set: TextSet) -> Done:
    """Lets `worker` do the set unmeasured, and checks that it sees the tokens that are meant."""
    for _ in range(WARM_UPS):
        done = worker.embed(text_set.texts)
    if done.tokens != text_set.tokens:
        raise WorkerError(
            f"{worker.name} counts {done.tokens} tokens in {text_set.name}, not {text_set.tokens}"
        )
    return done


def largest_difference(rows: Sequence[Sequence[float]]) -> float:
    """Between any two of `rows`, in any place."""
    return max(max(column) - min(column) for column in zip(*rows, strict=True))


def forward_flop(model: Path, lengths: Sequence[int]) -> float:
    """Floating-point operations of the matrix products of a BERT forward pass without padding.

    For each layer and a text of n tokens: 2·n·(4H² + 2HI) for the weights (queries, keys, values
    and output of H×H each, both feed-forward matrices of H×I) and 4·n²·H for attention (scores and
    weighted values). What isn't a matrix product is left out.
    """
    config = json.loads((model / "config.json").read_text())
    layers, hidden, inner = (
        config[key] for key in ("num_hidden_layers", "hidden_size", "intermediate_size")
    )
    weights = 4 * hidden * hidden + 2 * hidden * inner
    return float(layers * sum(2 * n * weights + 4 * n * n * hidden for n in lengths))
