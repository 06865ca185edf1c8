"""Part B: the services over HTTP.

Three things are measured: the time from starting the program to the first good answer, memory, and
latency and throughput under 1 and more clients. Services take turns in everything; the one that
isn't asked is idle. Every service gets the same texts, in requests that are prepared beforehand.
"""

import statistics
import sys
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import client
import services
import texts
from client import Load, Request
from plan import LENGTHS, Plan
from services import Kind, Memory, Service
from texts import TextSet

DISTINCT_REQUESTS = 16  # different ones in a visit, so that nothing is only remembered

EMBED, BERTSCORE = "/embed", "/bertscore"

T = TypeVar("T")


@dataclass(frozen=True)
class Cell:
    """One row of the table: what is asked, and how."""

    path: str
    length: str
    batch: int
    clients: int

    def __str__(self) -> str:
        return f"{self.path} of {self.batch} {self.length} texts, {self.clients} clients at once"


@dataclass(frozen=True)
class CellResult:
    """The visits of every service that serves this; `loads` by service."""

    cell: Cell
    loads: dict[str, tuple[Load, ...]]
    differences: dict[str, float]  # largest to ours in the first answer, by peer

    def p50(self, service: str) -> float:
        """Median latency of all requests, in seconds."""
        return statistics.median(
            latency for load in self.loads[service] for latency in load.latencies
        )

    def rate(self, service: str) -> float:
        """Texts (or pairs) in a second: the median of the visits."""
        return statistics.median(load.items_per_second for load in self.loads[service])

    def refusals(self, service: str) -> int:
        return sum(load.refusals for load in self.loads[service])


@dataclass(frozen=True)
class StartResult:
    """Of one service alone on the machine."""

    seconds: tuple[float, ...]
    # At the first start: once embeddings were answered, and once each of its models has answered.
    embedding_memory: Memory
    memory: Memory


@dataclass(frozen=True)
class ServingResult:
    """All of part B; starts and memory by service."""

    services: tuple[str, ...]
    starts: dict[str, StartResult]
    cells: tuple[CellResult, ...]
    memory_after: dict[str, Memory]


def measure(kinds: Sequence[Kind], logs: Path, plan: Plan) -> ServingResult:
    """Runs part B."""
    starts = measure_starts(kinds, logs, plan.starts)
    with ExitStack() as stack:
        running = [stack.enter_context(Service(kind, logs)) for kind in kinds]
        for service in running:
            service.wait_for_answer(first_request(service.kind))
        results = tuple(measure_cells(running, plan))
        memory_after = {service.kind.name: service.memory() for service in running}
    names = tuple(kind.name for kind in kinds)
    return ServingResult(names, starts, results, memory_after)


# --- start-up and memory ------------------------------------------------------------------------


def measure_starts(kinds: Sequence[Kind], logs: Path, starts: int) -> dict[str, StartResult]:
    seconds: dict[str, list[float]] = {kind.name: [] for kind in kinds}
    memory: dict[str, tuple[Memory, Memory]] = {}
    for number in range(starts):
        for kind in turned(kinds, number):
            with Service(kind, logs) as service:
                seconds[kind.name].append(service.wait_for_answer(first_request(kind)))
                if number == 0:
                    memory[kind.name] = (service.memory(), memory_with_models(service))
    return {name: StartResult(tuple(seconds[name]), *memory[name]) for name in seconds}


def memory_with_models(service: Service) -> Memory:
    if service.kind.has_bertscore:
        service.wait_for_answer(services.bertscore_request(["A cat."], ["A dog."]))
    return service.memory()


def first_request(kind: Kind) -> Request:
    return kind.embed(["The first text."])


# --- load ---------------------------------------------------------------------------------------


def cells(plan: Plan) -> tuple[Cell, ...]:
    kinds_of_work = (
        (EMBED, plan.lengths, plan.batches),
        (BERTSCORE, plan.bertscore_lengths, plan.bertscore_batches),
    )
    return tuple(
        Cell(path, length, batch, clients)
        for path, lengths, batches in kinds_of_work
        for clients in plan.clients
        for length in lengths
        for batch in batches
    )


def measure_cells(running: Sequence[Service], plan: Plan) -> list[CellResult]:
    results = []
    wanted = cells(plan)
    for number, cell in enumerate(wanted, 1):
        print(f"bench: {number} of {len(wanted)}: {cell}", file=sys.stderr)
        results.append(measure_cell(running, cell, plan))
    return results


def measure_cell(running: Sequence[Service], cell: Cell, plan: Plan) -> CellResult:
    able = [s for s in running if cell.path == EMBED or s.kind.has_bertscore]
    loads: dict[str, list[Load]] = {service.kind.name: [] for service in able}
    for visit in range(plan.visits):
        work = work_of_visit(cell, plan, visit)
        for service in turned(able, visit):
            requests = [request_of(service.kind, cell, text_set) for text_set in work]
            if visit == 0:  # warm up
                client.send_all(service.address, requests[: cell.clients], cell.clients)
            load = client.send_all(service.address, requests, cell.clients)
            loads[service.kind.name].append(load)
    done = {name: tuple(visits) for name, visits in loads.items()}
    return CellResult(cell, done, differences([s.kind for s in able], cell, done))


def work_of_visit(cell: Cell, plan: Plan, visit: int) -> list[TextSet]:
    """What the requests of a visit hold, as many for each client; another visit has other texts."""
    seed = 1000 * (visit + 1)
    first = texts_of_request(cell, seed)
    wanted = plan.visit_tokens // (first.tokens * cell.clients)
    count = cell.clients * min(max(wanted, 1), plan.requests_per_client)
    distinct = [first]
    for number in range(1, min(count, DISTINCT_REQUESTS)):
        distinct.append(texts_of_request(cell, seed + number))
    return [distinct[number % len(distinct)] for number in range(count)]


def texts_of_request(cell: Cell, seed: int) -> TextSet:
    """The texts of a request; for BERTScore candidates, then references."""
    count = cell.batch if cell.path == EMBED else 2 * cell.batch
    tokens = LENGTHS[cell.length]
    if tokens is None:
        return texts.mixed_lengths(count, seed)
    return texts.equal_lengths(count, tokens, seed)


def request_of(kind: Kind, cell: Cell, text_set: TextSet) -> Request:
    if cell.path == EMBED:
        return kind.embed(text_set.texts)
    return services.bertscore_request(text_set.texts[: cell.batch], text_set.texts[cell.batch :])


def differences(
    kinds: Sequence[Kind], cell: Cell, loads: dict[str, tuple[Load, ...]]
) -> dict[str, float]:
    """The largest between the numbers of ours and of each peer for the first request, by peer."""
    numbers = {kind.name: answer_numbers(kind, cell, loads[kind.name][0]) for kind in kinds}
    ours = numbers.pop(services.OURS)
    return {
        peer: max(abs(one - other) for one, other in zip(ours, theirs, strict=True))
        for peer, theirs in numbers.items()
    }


def answer_numbers(kind: Kind, cell: Cell, load: Load) -> list[float]:
    """All numbers of the answer to the first request, in order."""
    rows = (kind.rows if cell.path == EMBED else services.scores)(load.first_answer)
    return [number for row in rows for number in row]


def turned(items: Sequence[T], turn: int) -> list[T]:
    """`items` beginning with another one each turn."""
    start = turn % len(items)
    return [*items[start:], *items[:start]]
