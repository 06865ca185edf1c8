"""The results as Markdown, for the terminal and for RESULTS.md alike."""

import statistics
from collections.abc import Iterable, Sequence
from datetime import date

import forward
import services
from forward import ForwardResult, SetResult
from plan import LENGTHS
from serving import CellResult, ServingResult

# What the forward pass is meant to reach in texts a second: ours, the peer, how many times as many on
# texts of equal and of mixed length. Where the processor has no bf16, the last are left out.
TARGETS = (
    (forward.OURS, forward.TORCH, 1.6, 3.9),
    (forward.OURS, forward.CANDLE, 2.0, 2.0),
    (forward.OURS, forward.OPENVINO, 1.05, 2.0),
    (forward.OURS, forward.ONNX, 1.05, 2.0),
    (forward.OURS_BF16, forward.OURS, 1.7, 1.7),
    (forward.OURS_BF16, forward.OPENVINO_BF16, 1.0, 1.8),
    (forward.OURS_BF16, forward.TORCH_BF16, 1.0, 1.8),
)


def document(
    machine: dict[str, str],
    versions: dict[str, str],
    threads: int,
    forward_result: ForwardResult,
    serving_result: ServingResult,
) -> str:
    """All of RESULTS.md."""
    return "\n\n".join(
        [
            "# Benchmark of the backend",
            f"Measured on {date.today().isoformat()} by `make bench-backend`, which writes this "
            "file. It makes a Python environment with the versions of `requirements.txt`, builds "
            "the release binaries, fetches the model, and measures. The machine should have "
            "nothing else to do. `make bench-backend QUICK=1` tries everything out and writes "
            "nothing. `BENCH_PYTHON` names a Python that has the packages; `TEI_BIN` a "
            "`text-embeddings-router` to compare with, and `TEI_BUILD` says how it was built.",
            f"Every engine and service: all-MiniLM-L6-v2 on the CPU, {threads} threads, in f32 "
            "but where bf16 is said.",
            "## Machine and versions",
            table(("", ""), [*machine.items(), *versions.items()]),
            forward_section(forward_result, threads),
            serving_section(serving_result),
        ]
    )


# --- part A -------------------------------------------------------------------------------------


def forward_section(result: ForwardResult, threads: int) -> str:
    return "\n\n".join(
        [
            "## A. The engines alone",
            "Texts to embeddings in one process each, without HTTP: tokenisation, forward pass, "
            "pooling, normalisation. *torch*, *OpenVINO* and *ONNX Runtime* are "
            "sentence-transformers' `encode` on these backends, which sorts by length and pads "
            "batches of 32; *candle* is the BERT of candle-transformers, which pads what it is "
            "given. The engines take turns in every round; times are medians of "
            f"{len(result.sets[0].timings[forward.OURS].seconds)} rounds, with the best in "
            "brackets.",
            speed_table(result),
            "Ratios of texts/s: of the medians, with that of the best in brackets. The difference "
            "is the largest among the first 8 numbers of the first embeddings of all engines in "
            "f32.",
            ratio_table(result),
            f"Share of the peak: the machine's fastest matrix product on {threads} threads "
            f"(384×384×384, our kernel) reached {result.peak_gflops:.0f} GFLOP/s, the most "
            "of measurements before, between and after the sets. A "
            "forward pass counts 2·n·(4H² + 2HI) + 4·n²·H operations for each layer and text of "
            "n tokens (H = 384, I = 1536, 6 layers), without padding; its time is the best round, "
            "tokenisation included.",
            peak_table(result),
        ]
    )


def speed_table(result: ForwardResult) -> str:
    rows = [
        (
            set_name(found),
            engine,
            f"{number(timing.median * 1e3)} ({number(timing.best * 1e3)})",
            number(len(found.texts.texts) / timing.median),
            number(found.texts.tokens / timing.median),
        )
        for found in result.sets
        for engine, timing in found.timings.items()
    ]
    return table(("texts", "engine", "ms", "texts/s", "tokens/s"), rows)


def ratio_table(result: ForwardResult) -> str:
    head = ("texts", "ours", "peer", "ratio", "target", "difference")
    return table(head, [row for found in result.sets for row in ratio_rows(found)])


def ratio_rows(found: SetResult) -> list[tuple[str, ...]]:
    return [
        (
            set_name(found),
            ours,
            peer,
            *ratio_cells(found, ours, peer, mixed if found.mixed else equal),
            f"{found.difference:.1e}" if ours == forward.OURS else "–",
        )
        for ours, peer, equal, mixed in TARGETS
        if {ours, peer} <= found.timings.keys()
    ]


def ratio_cells(found: SetResult, our_name: str, peer: str, target: float) -> tuple[str, str]:
    """How many times as fast ours is, and whether that is the target."""
    ours, theirs = found.timings[our_name], found.timings[peer]
    median, best = theirs.median / ours.median, theirs.best / ours.best
    verdict = "met" if median >= target else "missed"
    return f"{median:.2f}× ({best:.2f}×)", f"{target}×: {verdict}"


def peak_table(result: ForwardResult) -> str:
    rows = []
    for found in result.sets:
        gflops = found.flop / found.timings[forward.OURS].best / 1e9
        share = gflops / result.peak_gflops
        rows.append((set_name(found), f"{found.flop / 1e9:.2f}", f"{gflops:.0f}", f"{share:.0%}"))
    return table(("texts", "GFLOP", "ours, GFLOP/s", "share of the peak"), rows)


def set_name(found: SetResult) -> str:
    mean = found.texts.tokens / len(found.texts.texts)
    return f"{found.texts.name} (mean {mean:.0f})" if found.mixed else found.texts.name


# --- part B -------------------------------------------------------------------------------------


def serving_section(result: ServingResult) -> str:
    lengths = ", ".join(
        f"*{name}* {tokens} tokens" if tokens else f"*{name}* 4…256, half below 32"
        for name, tokens in LENGTHS.items()
    )
    return "\n\n".join(
        [
            "## B. The services over HTTP",
            "*ours* is the release binary of gpu-bridge-backend; *Python* is "
            "`python_service.py`, a stand-in for the Python service with its endpoints, slots "
            "and defaults (bert-score's own default tokenizer and batch among them). Both have "
            f"{services.SLOTS} slots and steps of 32 texts; a client whose request is refused "
            "for want of a slot sends it again at once. The client is one Python process (the "
            "standard library's `http.client`, connections kept alive) on the same machine, "
            "which takes its part of the processors from every service alike. Candle is left "
            f"out here: it is a library. {tei_note(result)}",
            "### Start-up and memory",
            "From starting the program to the first good answer of `/embed`, with the files in "
            "the page cache: the median, with the best in brackets. Memory in MB of 10⁶ bytes: "
            "*after load* with one service running and its models loaded, which in ours have one "
            "copy of the weights in common; *with embeddings alone* before BERTScore was asked "
            "for; *after the run* and *peak* after everything below.",
            start_table(result),
            "### Latency and throughput",
            f"Lengths of texts: {lengths}. p50 is the median latency of all requests, texts/s "
            "(or pairs/s) the median of the visits. The difference is the largest between "
            "the numbers of ours and of the other in the answers to the same request. Where pairs "
            "of quite different lengths share a batch, bert-score's padding changes some of its "
            "scores (compared with the same pair alone by up to 1e-2); ours are those of the pair "
            "alone.",
            *(load_table(result, clients) for clients in client_counts(result)),
            "### In short",
            "Throughput of ours as a multiple of the other's, over all rows above.",
            summary_table(result),
        ]
    )


def tei_note(result: ServingResult) -> str:
    if services.TEI in result.services:
        return (
            "*TEI* is text-embeddings-inference, started from `TEI_BIN` in f32, else as it comes "
            "(it has no slots and no BERTScore, and computes GELU by its tanh approximation)."
        )
    return "text-embeddings-inference (TEI) was not measured in this run: no `TEI_BIN` was given."


def start_table(result: ServingResult) -> str:
    head = (
        "service",
        "first answer, s",
        "RSS with embeddings alone",
        "RSS after load",
        "PSS",
        "RSS after the run",
        "PSS",
        "peak",
    )
    rows = []
    for name in result.services:
        start, after = result.starts[name], result.memory_after[name]
        loaded = (start.embedding_memory.rss, start.memory.rss, start.memory.pss)
        numbers = (*loaded, after.rss, after.pss, after.peak_rss)
        seconds = f"{statistics.median(start.seconds):.2f} ({min(start.seconds):.2f})"
        rows.append((name, seconds, *(f"{megabytes:.0f}" for megabytes in numbers)))
    return table(head, rows)


def load_table(result: ServingResult, clients: int) -> str:
    names = result.services
    peers = names[1:]
    head = (
        "endpoint",
        "length",
        "batch",
        *(f"{name} p50 ms" for name in names),
        *(f"{name} texts/s" for name in names),
        *(f"{services.OURS} / {peer}" for peer in peers),
        f"refusals ({' / '.join(names)})",
        f"difference ({' / '.join(peers)})",
    )
    rows = [load_row(cell, names) for cell in result.cells if cell.cell.clients == clients]
    return f"{clients} client{'s' if clients > 1 else ''}:\n\n" + table(head, rows)


def load_row(found: CellResult, names: Sequence[str]) -> tuple[str, ...]:
    cell, peers = found.cell, names[1:]
    able = [name for name in names if name in found.loads]

    def of_each(show: dict[str, str]) -> tuple[str, ...]:
        return tuple(show.get(name, "–") for name in names)

    ratios = {peer: f"{ratio(found, peer):.2f}×" for peer in peers if peer in able}
    differences = {peer: f"{value:.1e}" for peer, value in found.differences.items()}
    return (
        cell.path,
        cell.length,
        str(cell.batch),
        *of_each({name: number(found.p50(name) * 1e3) for name in able}),
        *of_each({name: number(found.rate(name)) for name in able}),
        *(ratios.get(peer, "–") for peer in peers),
        " / ".join(str(found.refusals(name)) if name in able else "–" for name in names),
        " / ".join(differences.get(peer, "–") for peer in peers),
    )


def summary_table(result: ServingResult) -> str:
    head = ("endpoint", "clients", "peer", "geometric mean", "least", "most")
    rows = []
    for path in dict.fromkeys(found.cell.path for found in result.cells):
        for clients in client_counts(result):
            for peer in result.services[1:]:
                ratios = [
                    ratio(found, peer)
                    for found in result.cells
                    if (found.cell.path, found.cell.clients) == (path, clients)
                    and peer in found.loads
                ]
                if ratios:
                    shown = (statistics.geometric_mean(ratios), min(ratios), max(ratios))
                    rows.append((path, str(clients), peer, *(f"{r:.2f}×" for r in shown)))
    return table(head, rows)


def client_counts(result: ServingResult) -> list[int]:
    return sorted({found.cell.clients for found in result.cells})


def ratio(found: CellResult, peer: str) -> float:
    """Throughput of ours as a multiple of the peer's."""
    return found.rate(services.OURS) / found.rate(peer)


# --- tables -------------------------------------------------------------------------------------


def number(value: float) -> str:
    """With three digits that count, or all of those before the point."""
    return f"{value:.0f}" if value >= 100 else f"{value:.3g}"


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)
