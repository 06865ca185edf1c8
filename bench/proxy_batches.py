"""Batches that idle hosts could share, and small requests that could share a host.

The hosts compute: an answer takes them a fixed time and some for each text, and depends on the
texts, so that an answer to another question counts as a failure. Ours is measured twice, once with
`batching` switched off.
"""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace

import proxy_plan
from contenders import HAPROXY, NGINX, OURS, OURS_PLAIN, Job
from proxies import Hosts, HostsSpec, Load, Proxy, Run, finish_load, start_load
from proxy_plan import SLOTS, Batches
from proxy_rig import Bench, Goal, Outcomes, Row, proxy

CONTENDERS = (OURS, OURS_PLAIN, NGINX, HAPROXY)
TEXTS = 100
TEXT_BYTES = 60
# What a host takes for an answer, in seconds: whatever is asked, and for each text.
FIXED, EACH = 0.03, 0.005
# About what python_service.py takes on one core for texts of 12 tokens.
SMALL_FIXED, SMALL_EACH = 0.012, 0.0028
CLIENTS = 64


@dataclass(frozen=True)
class Scene:
    """Hosts, and who is in front of them."""

    speeds: tuple[float, ...]
    slots: int
    fixed: float
    each: float


def measure(bench: Bench, outcomes: Outcomes) -> Iterator[Row]:
    plan = bench.plan.batches
    for speeds, factor in (((1.0,) * 4, 1.2), ((1.0, 1.0, 0.5, 0.25), 1.25)):
        yield batch_row(bench, plan, speeds, factor)
    yield alone_row(bench, plan)
    yield from small_rows(bench, plan, outcomes)
    yield from mixed_rows(bench, plan, outcomes)


def batch_row(bench: Bench, plan: Batches, speeds: tuple[float, ...], factor: float) -> Row:
    """One batch at a time, while nobody else asks for anything."""
    scenario = f"one batch of {TEXTS}, hosts of speed {', '.join(f'{it:g}' for it in speeds)}"
    load = texts(plan.batches, TEXTS, connections=1)
    runs = in_turn(bench, scenario, Scene(speeds, 1, FIXED, EACH), load)
    best = ideal(speeds)
    goal = Goal(f"{factor:g} × ideal ({best:.3f} s)", factor * best)
    return Row(scenario, "median, s", {it: run.p50 for it, run in runs.items()}, goals=(goal,))


def ideal(speeds: tuple[float, ...]) -> float:
    """When all parts of a batch end together, on as many of the fastest hosts as is best."""
    fastest = sorted(speeds, reverse=True)
    return min(
        (TEXTS * EACH + count * FIXED) / sum(fastest[:count]) for count in range(1, len(speeds) + 1)
    )


def alone_row(bench: Bench, plan: Batches) -> Row:
    """One client with one text at a time: there is nothing to gain."""
    scenario = "one client, one text"
    runs = in_turn(
        bench, scenario, Scene((1.0,) * 2, 1, FIXED, EACH), texts(plan.alone, 1, connections=1)
    )
    values = {name: run.p50 for name, run in runs.items()}
    goal = Goal("1.02 × ours with batching off", 1.02 * values[OURS_PLAIN])
    return Row(scenario, "median, s", values, goals=(goal,))


def small_rows(bench: Bench, plan: Batches, outcomes: Outcomes) -> Iterator[Row]:
    """Many clients that each ask for one text after the other."""
    scenario = f"{CLIENTS} clients of one text, two hosts"
    scene = Scene((1.0,) * 2, SLOTS, SMALL_FIXED, SMALL_EACH)
    runs = in_turn(bench, scenario, scene, texts(plan.small, 1, connections=CLIENTS))
    outcomes[scenario] = runs
    rates = {name: run.throughput for name, run in runs.items()}
    goals = (Goal(f"3 × {HAPROXY}", 3 * rates[HAPROXY]),)
    yield Row(scenario, "texts/s", rates, more_is_better=True, goals=goals)
    yield Row(scenario, "p99, s", {name: run.p99 for name, run in runs.items()})


def mixed_rows(bench: Bench, plan: Batches, outcomes: Outcomes) -> Iterator[Row]:
    """Twice what hosts can do one by one, of requests of all sizes."""
    scenario = "2× load of mixed sizes"
    speeds = proxy_plan.speeds(unequal=False)
    scene = Scene(speeds, SLOTS, FIXED, EACH)
    mean = FIXED + EACH * (TEXTS + 1) / 2
    load = replace(
        texts(plan.mixed, TEXTS, rate=2 * sum(speeds) * SLOTS / mean),
        options=("--computed", "--texts", str(TEXTS), "--mixed-texts"),
    )
    runs = in_turn(bench, scenario, scene, load)
    outcomes[scenario] = runs
    served = {name: run.ok_percent for name, run in runs.items()}
    yield Row(scenario, "ok, %", served, more_is_better=True)
    rates = {name: run.throughput for name, run in runs.items()}
    goals = (Goal("ours with batching off", rates[OURS_PLAIN]),)
    yield Row(scenario, "requests/s", rates, more_is_better=True, goals=goals)


def texts(
    requests: int, each: int, rate: float | None = None, connections: int | None = None
) -> Load:
    """Requests for so many texts each."""
    options = ("--computed", "--texts", str(each))
    body_bytes = each * TEXT_BYTES
    return Load(requests, rate, connections, body_bytes=body_bytes, options=options)


def in_turn(bench: Bench, scenario: str, scene: Scene, load: Load) -> dict[str, Run]:
    """Each contender by itself, with hosts of its own, once it has seen what they take."""
    runs = {}
    for name in CONTENDERS:
        bench.note(f"{scenario}: {name}")
        with ExitStack() as stack:
            spec = HostsSpec(scene.speeds, scene.slots, cost=(scene.fixed, scene.each))
            hosts = stack.enter_context(Hosts(bench.generator, spec))
            running = stack.enter_context(proxy(bench, name, Job(hosts.addresses, scene.slots)))
            acquaint(bench, running, len(scene.speeds) * scene.slots)
            runs[name] = finish_load(start_load(bench.generator, running.address, load))
    return runs


def acquaint(bench: Bench, running: Proxy, slots: int) -> None:
    """Requests of several sizes, for all slots."""
    load = texts(bench.plan.batches.acquaint, 20, connections=slots)
    load = replace(load, options=("--computed", "--texts", "20", "--mixed-texts"))
    finish_load(start_load(bench.generator, running.address, load))
