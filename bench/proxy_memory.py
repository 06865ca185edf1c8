"""What a proxy keeps in memory: for idle connections, for waiting requests, after a burst."""

import time
from collections.abc import Iterator
from contextlib import ExitStack

import client
import proxy_plan
import services
from contenders import Job
from proxies import Hosts, HostsSpec, Load, Proxy, finish_load, start_load
from proxy_costs import COST_CONTENDERS, good
from proxy_plan import Held
from proxy_rig import Bench, Goal, Row, proxy

# Each request runs for so long that all bodies have come before the first is done.
WORK_SECONDS = 2.5
SLOTS = 64
# Until what is free has gone back to the system, if it goes.
AFTER_SECONDS = 10
# Before memory is called idle: whatever a process makes once has been made.
WARM_UP = Load(2_000, connections=16)


def measure(bench: Bench) -> Iterator[Row]:
    yield idle_connections(bench)
    for held in bench.plan.held:
        yield from waiting_requests(bench, held)


def idle_connections(bench: Bench) -> Row:
    """Connections that have served one request each and stay open."""
    count = bench.plan.idle_connections
    scenario = f"{count} idle connections"
    bench.note(scenario)
    found = {}
    with Hosts(bench.generator, HostsSpec((1.0,), SLOTS)) as hosts:
        for name in COST_CONTENDERS:
            with proxy(bench, name, Job(hosts.addresses, SLOTS)) as one:
                before = warm_megabytes(bench, one)
                with open_connections(one.address, count):
                    found[name] = (one.megabytes() - before) * 1e3 / count
    return Row(scenario, "KB each", found, goals=(Goal("4 KB", 4),))


def open_connections(address: str, count: int) -> ExitStack:
    """Connections on which an answer has been read."""
    request = services.embed_request(["one"])
    with ExitStack() as stack:
        for _ in range(count):
            link = client.connect(address)
            stack.callback(link.close)
            # The work of this request, in the simulated hosts' own header.
            link.request("POST", request.path, request.body, {"x-bench-work-us": "0"})
            link.getresponse().read()
        return stack.pop_all()


def waiting_requests(bench: Bench, held: Held) -> Iterator[Row]:
    """Requests that wait together, at the peak and once they are gone, in all proxies at once."""
    scenario = f"{held.requests} waiting requests of {held.body_bytes / 1e6:.2g} MB"
    bench.note(scenario)
    load = Load(
        held.requests,
        connections=held.requests,
        mean_seconds=WORK_SECONDS,
        variation=0,
        body_bytes=held.body_bytes,
    )
    # Requests for which nobody queues wait at the hosts, not refused.
    spec = HostsSpec(proxy_plan.speeds(unequal=False), SLOTS, patience_seconds=60)
    with ExitStack() as stack:
        running, before = [], {}
        for name in COST_CONTENDERS:
            hosts = stack.enter_context(Hosts(bench.generator, spec))
            one = stack.enter_context(proxy(bench, name, Job(hosts.addresses, SLOTS)))
            before[name] = warm_megabytes(bench, one)
            running.append(one)
        loads = [start_load(bench.generator, one.address, load) for one in running]
        for one, process in zip(running, loads, strict=True):
            good(finish_load(process), one.kind.name)
        time.sleep(AFTER_SECONDS)
        peak = {one.kind.name: one.peak_megabytes() for one in running}
        after = {one.kind.name: one.megabytes() / before[one.kind.name] for one in running}
    yield from waiting_rows(scenario, held, peak, after)


def waiting_rows(
    scenario: str, held: Held, peak: dict[str, float], after: dict[str, float]
) -> Iterator[Row]:
    total = held.requests * held.body_bytes / 1e6
    goal = Goal(f"{held.factor:g} × held + 16 MB", held.factor * total + 16)
    yield Row(scenario, "peak memory, MB", peak, goals=(goal,))
    shares = {name: value / total for name, value in peak.items()}
    yield Row(scenario, f"peak memory, × {total:.0f} MB held", shares)
    late = f"{AFTER_SECONDS} s later, × that of before"
    yield Row(scenario, late, after, goals=(Goal("1.5 × idle", 1.5),))


def warm_megabytes(bench: Bench, one: Proxy) -> float:
    good(finish_load(start_load(bench.generator, one.address, WARM_UP)), one.kind.name)
    return one.megabytes()
