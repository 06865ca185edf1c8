"""What every scenario of the comparison of proxies is made of: its rows, and proxies that run."""

import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import contenders
from contenders import NGINX, OPTIONAL, OURS, PEERS, Job, Programs
from proxies import Proxy, Run, service_port
from proxy_plan import Plan

ALL = (OURS, *PEERS)

# How the requests of a scenario ended, by scenario and contender.
Outcomes = dict[str, dict[str, Run]]


@dataclass(frozen=True)
class Goal:
    """What ours should not exceed. Nothing fails if it does: the report says by how much."""

    text: str
    limit: float


@dataclass(frozen=True)
class Row:
    """One measure of all contenders."""

    scenario: str
    measure: str
    values: dict[str, float]
    more_is_better: bool = False
    # Those whose values may be held against ours.
    compared: tuple[str, ...] = (*PEERS, *OPTIONAL.values())
    goals: tuple[Goal, ...] = ()


@dataclass(frozen=True)
class Bench:
    """Programs and extent of a run."""

    programs: Programs
    generator: Path  # simulated hosts and load
    plan: Plan
    note: Callable[[str], None]  # tells what is going on


@contextmanager
def proxy(bench: Bench, name: str, job: Job) -> Iterator[Proxy]:
    """A running proxy. It gets a folder of its own and, if it has a certificate, a port for TLS."""
    with tempfile.TemporaryDirectory(prefix="gpu-bridge-bench-") as folder:
        job = replace(job, folder=Path(folder), tls_port=service_port() if job.pem else 0)
        [kind] = contenders.kinds(bench.programs, job, (name,))
        tls_address = f"127.0.0.1:{job.tls_port}"
        with Proxy(kind, Path(folder), job.slots * len(job.hosts), tls_address) as running:
            running.wait_until_ready()
            yield running


def times(values: dict[str, float], factor: float, peer: str = NGINX) -> tuple[Goal, ...]:
    """So many times a peer's value; no goal where that peer is not measured."""
    if peer not in values:
        return ()
    return (Goal(f"{factor:g} × {peer}", factor * values[peer]),)
