"""What happens to requests that wait, and when hosts fail.

Measured at the same time for all, each proxy in front of simulated hosts of its own with the same
requests: the machine is nearly idle, so that they don't disturb each other, and whatever else
happens on it happens to all.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import proxy_plan
from contenders import OURS, PEERS, Job
from proxies import Hosts, HostsSpec, Load, Run, finish_load, start_load
from proxy_plan import FAULTS, MEAN_SECONDS, SLOTS
from proxy_rig import ALL, Bench, Outcomes, Row, proxy

# Latencies are compared among those who served as many, within this share.
AS_MANY = 0.99


def measure(bench: Bench, outcomes: Outcomes) -> Iterator[Row]:
    """The rows; `outcomes` takes how the requests of each scenario ended."""
    for times, requests in bench.plan.overload:
        scenario = f"{times:g}× load"
        outcomes[scenario] = overload(bench, scenario, times, requests)
        yield from overload_rows(scenario, outcomes[scenario])
    scenario = "unequal hosts"
    outcomes[scenario] = unequal(bench, scenario)
    yield from unequal_rows(scenario, outcomes[scenario])
    for fault in FAULTS:
        scenario = f"one host: {fault}"
        outcomes[scenario] = faulty(bench, scenario, fault)
        yield from fault_rows(scenario, outcomes[scenario])


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
            stack.enter_context(proxy(bench, name, Job(hosts.addresses, SLOTS)))
            for name, hosts in zip(ALL, all_hosts, strict=True)
        ]
        loads = [start_load(bench.generator, one.address, load) for one in running]
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
