"""Several of our proxies in front of the same hosts, which know nothing of each other.

What one proxy knows for itself, the queue, several share out by chance: a request waits at its own
proxy while another one's may go first. How much that costs is measured against one proxy; once with hosts
that tell how full they are, and once with hosts of which each proxy learns that only as they refuse.
"""

from collections.abc import Iterator
from contextlib import ExitStack

import proxy_plan
from contenders import OURS, Job
from proxies import Hosts, HostsSpec, Load, Run, finish_load, start_load
from proxy_plan import MEAN_SECONDS, SLOTS
from proxy_rig import Bench, Goal, Row, proxy

COUNTS = (1, 3, 8)
# How much worse than one proxy several may be.
FACTOR = 1.1


def measure(bench: Bench) -> Iterator[Row]:
    times, requests = bench.plan.overload[0]
    for tells in (True, False):
        runs = {count: several(bench, count, times, requests, tells) for count in COUNTS}
        yield from rows(runs, times, tells)


def rows(runs: dict[int, list[Run]], times: float, tells: bool) -> Iterator[Row]:
    """The runs of each proxy, by how many there were."""
    alone = p99(runs[1])
    pool = "one pool" if tells else "one pool of hosts without /status"
    for count, parts in runs.items():
        scenario = f"{count} {'proxy' if count == 1 else 'proxies'} on {pool}, {times:g}× load"
        served = 100 * sum(run.ok for run in parts) / sum(run.requests for run in parts)
        yield Row(scenario, "ok, %", {OURS: served}, more_is_better=True)
        goals = (Goal(f"{FACTOR:g} × one proxy", FACTOR * alone),) if count > 1 else ()
        yield Row(scenario, "p99 of those, s, mean of the proxies", {OURS: p99(parts)}, goals=goals)


def several(bench: Bench, count: int, times: float, requests: int, tells: bool) -> list[Run]:
    """The same load in all, each proxy's share from clients of its own. `tells`: hosts say in /status what
    runs there."""
    bench.note(f"{count} of ours on one pool" + ("" if tells else ", without /status"))
    speeds = proxy_plan.speeds(unequal=False)
    rate = times * proxy_plan.capacity(speeds) / count
    with ExitStack() as stack:
        hosts = stack.enter_context(Hosts(bench.generator, HostsSpec(speeds, SLOTS, tells=tells)))
        job = Job(hosts.addresses, SLOTS)
        running = [stack.enter_context(proxy(bench, OURS, job)) for _ in range(count)]
        loads = [
            start_load(bench.generator, one.address, share(requests // count, rate, number))
            for number, one in enumerate(running)
        ]
        return [finish_load(load) for load in loads]


def share(requests: int, rate: float, seed: int) -> Load:
    """What the clients of one proxy send. With one seed for all they would come together."""
    options = ("--seed", str(seed))
    return Load(requests, rate=rate, mean_seconds=MEAN_SECONDS, options=options)


def p99(runs: list[Run]) -> float:
    return sum(run.p99 for run in runs) / len(runs)
