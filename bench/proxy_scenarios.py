"""What is asked of the proxies, and what it shows.

Costs are measured in turns, round by round. Everything about waiting and failing is measured at the
same time for all, each proxy in front of simulated hosts of its own with the same requests: there the
machine is nearly idle, so that they don't disturb each other, and whatever else happens on it happens
to all.
"""

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import contenders
import proxy_plan
from contenders import HAPROXY, NGINX, OURS, PEERS, Job, Programs
from proxies import Hosts, HostsSpec, Load, Proxy, Run, finish_load, start_load
from proxy_plan import FAULTS, MEAN_SECONDS, SLOTS, Cost, Plan
from services import ServiceError
from serving import turned

# The two configurations of nginx differ in what happens to failures, not in what an answer costs.
COST_CONTENDERS = (OURS, NGINX, HAPROXY)
ALL = (OURS, *PEERS)
# Slots of each host where costs are measured: more than there are connections, so that none waits.
FREE_SLOTS = 64
# Latencies are compared among those who served as many, within this share.
AS_MANY = 0.99


@dataclass(frozen=True)
class Row:
    """One measure of all contenders."""

    scenario: str
    measure: str
    values: dict[str, float]
    more_is_better: bool = False
    compared: tuple[str, ...] = PEERS  # those whose values may be held against ours


@dataclass(frozen=True)
class Bench:
    """Programs and extent of a run."""

    programs: Programs
    generator: Path  # simulated hosts and load
    plan: Plan
    note: Callable[[str], None]  # tells what is going on


@dataclass(frozen=True)
class Found:
    """All that was measured."""

    rows: list[Row]
    outcomes: dict[str, dict[str, Run]]  # by scenario and contender


@contextmanager
def proxy(bench: Bench, name: str, hosts: Hosts, slots: int, log: bool) -> Iterator[Proxy]:
    """A running proxy in front of `hosts`."""
    with tempfile.TemporaryDirectory(prefix="gpu-bridge-bench-") as folder:
        job = Job(hosts.addresses, slots, log, Path(folder))
        [kind] = contenders.kinds(bench.programs, job, (name,))
        with Proxy(kind, Path(folder), slots * len(hosts.addresses)) as running:
            running.wait_until_ready()
            yield running


def measure(bench: Bench) -> Found:
    plan = bench.plan
    rows = [*small_requests(bench), *big_bodies(bench)]
    outcomes = {}
    for times, requests in plan.overload:
        scenario = f"{times:g}× load"
        outcomes[scenario] = overload(bench, scenario, times, requests)
        rows += overload_rows(scenario, outcomes[scenario])
    scenario = "unequal hosts"
    outcomes[scenario] = unequal(bench, scenario)
    rows += unequal_rows(scenario, outcomes[scenario])
    for fault in FAULTS:
        scenario = f"one host: {fault}"
        outcomes[scenario] = faulty(bench, scenario, fault)
        rows += fault_rows(scenario, outcomes[scenario])
    return Found(rows, outcomes)


# --- costs --------------------------------------------------------------------------------------


def small_requests(bench: Bench) -> Iterator[Row]:
    for log in (False, True):
        scenario = "small requests" + (", each logged" if log else "")
        found = costs(bench, scenario, bench.plan.small, log)
        cpu = {name: cost.cpu_seconds * 10_000 for name, cost in found.items()}
        yield Row(scenario, "CPU s for 10,000 requests", cpu)


def big_bodies(bench: Bench) -> Iterator[Row]:
    scenario = "big bodies"
    found = costs(bench, scenario, bench.plan.big, log=False)
    cpu = {name: cost.cpu_seconds * 1e3 for name, cost in found.items()}
    yield Row(scenario, "CPU ms for a request", cpu)
    yield Row(scenario, "peak memory, MB", {name: cost.peak for name, cost in found.items()})


@dataclass(frozen=True)
class Spent:
    """What a proxy needed."""

    cpu_seconds: float  # for one request: the median of the rounds
    peak: float  # megabytes


def costs(bench: Bench, scenario: str, cost: Cost, log: bool) -> dict[str, Spent]:
    bench.note(scenario)
    load = Load(
        cost.requests,
        connections=cost.connections,
        body_bytes=cost.body_bytes,
        answer_bytes=cost.answer_bytes,
    )
    spec = HostsSpec(proxy_plan.speeds(unequal=False), FREE_SLOTS, cost.answer_bytes)
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(bench.generator, spec))
        running = [
            stack.enter_context(proxy(bench, name, hosts, FREE_SLOTS, log))
            for name in COST_CONTENDERS
        ]
        rounds = [
            {one.kind.name: cpu_of(bench, one, load) for one in turned(running, number)}
            for number in range(cost.rounds)
        ]
        return {
            one.kind.name: Spent(
                statistics.median(found[one.kind.name] for found in rounds),
                one.peak_megabytes(),
            )
            for one in running
        }


def cpu_of(bench: Bench, one: Proxy, load: Load) -> float:
    """CPU seconds for a request."""
    before = one.cpu_seconds()
    run = finish_load(start_load(bench.generator, one, load))
    spent = one.cpu_seconds() - before
    if run.failures:
        raise ServiceError(f"{one.kind.name} failed at its ease: {run.outcomes}")
    return spent / load.requests


# --- waiting and failing ------------------------------------------------------------------------


def overload(bench: Bench, scenario: str, times: float, requests: int) -> dict[str, Run]:
    speeds = proxy_plan.speeds(unequal=False)
    return side_by_side(bench, scenario, speeds, times * proxy_plan.capacity(speeds), requests)


def unequal(bench: Bench, scenario: str) -> dict[str, Run]:
    speeds = proxy_plan.speeds(unequal=True)
    rate = proxy_plan.UNEQUAL_LOAD * proxy_plan.capacity(speeds)
    return side_by_side(bench, scenario, speeds, rate, bench.plan.unequal_requests)


def faulty(bench: Bench, scenario: str, fault: str) -> dict[str, Run]:
    start, end = bench.plan.fault_seconds

    def script(all_hosts: list[Hosts]) -> None:
        for wait, state in ((start, fault), (end - start, "none")):
            time.sleep(wait)
            for hosts in all_hosts:
                hosts.set_fault(0, state)

    speeds, requests = proxy_plan.speeds(unequal=False), bench.plan.fault_requests
    return side_by_side(bench, scenario, speeds, proxy_plan.FAULT_RATE, requests, script)


def side_by_side(
    bench: Bench,
    scenario: str,
    speeds: tuple[float, ...],
    rate: float,
    requests: int,
    script: Callable[[list[Hosts]], None] = lambda _: None,
) -> dict[str, Run]:
    """All contenders at the same time, each with hosts of its own, while `script` happens."""
    bench.note(scenario)
    slot_speeds = tuple(speed for speed in speeds for _ in range(SLOTS))
    load = Load(requests, rate=rate, mean_seconds=MEAN_SECONDS, slot_speeds=slot_speeds)
    spec = HostsSpec(speeds, SLOTS)
    with ExitStack() as stack:
        all_hosts = [stack.enter_context(Hosts(bench.generator, spec)) for _ in ALL]
        running = [
            stack.enter_context(proxy(bench, name, hosts, SLOTS, log=False))
            for name, hosts in zip(ALL, all_hosts, strict=True)
        ]
        loads = [start_load(bench.generator, one, load) for one in running]
        script(all_hosts)
        return {name: finish_load(load) for name, load in zip(ALL, loads, strict=True)}


def overload_rows(scenario: str, runs: dict[str, Run]) -> Iterator[Row]:
    yield ok_row(scenario, runs)
    shares = {name: run.efficiency or 0.0 for name, run in runs.items()}
    yield Row(scenario, "efficiency", shares, more_is_better=True)
    yield p99_row(scenario, runs)


def unequal_rows(scenario: str, runs: dict[str, Run]) -> Iterator[Row]:
    yield ok_row(scenario, runs)
    yield p99_row(scenario, runs)


def fault_rows(scenario: str, runs: dict[str, Run]) -> Iterator[Row]:
    yield Row(scenario, "failures", {name: run.failures for name, run in runs.items()})
    worst = {name: run.worst for name, run in runs.items()}
    yield Row(scenario, "worst latency, s", worst, compared=as_many(runs))


def ok_row(scenario: str, runs: dict[str, Run]) -> Row:
    served = {name: run.ok_percent for name, run in runs.items()}
    return Row(scenario, "ok, %", served, more_is_better=True)


def p99_row(scenario: str, runs: dict[str, Run]) -> Row:
    latencies = {name: run.p99 for name, run in runs.items()}
    return Row(scenario, "p99 of those, s", latencies, compared=as_many(runs))


def as_many(runs: dict[str, Run]) -> tuple[str, ...]:
    """Peers that served about as many as ours. Who refuses the rest is quick with the others."""
    enough = AS_MANY * runs[OURS].ok
    return tuple(name for name in PEERS if runs[name].ok >= enough)
