"""What a request costs: CPU time, and the time that a proxy adds.

Proxies take turns, round by round; the one that isn't asked is idle.
"""

import statistics
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import client
import contenders
import proxy_plan
import services
from contenders import ENVOY, HAPROXY, NGINX, OURS, VLLM, Job
from proxies import Hosts, HostsSpec, Load, Proxy, Run, finish_load, start_load
from proxy_plan import Cost
from proxy_rig import Bench, Goal, Row, proxy, times
from services import Service, ServiceError
from serving import turned

# The two configurations of nginx differ in what happens to failures, not in what an answer costs.
COST_CONTENDERS = (OURS, NGINX, HAPROXY)
# Slots of each host where costs are measured: more than there are connections, so that none waits.
FREE_SLOTS = 64
# The scene on one core: the proxy has it to itself, load and hosts share the other one.
PROXY_CORE, LOAD_CORE = "0", "1"
ONE_CORE = "one core, "
CPU = "CPU s for 10,000 requests"


def measure(bench: Bench) -> Iterator[Row]:
    yield from small_requests(bench)
    yield from big_bodies(bench)
    yield from one_core(bench)


# --- two workers, any core ----------------------------------------------------------------------


def small_requests(bench: Bench) -> Iterator[Row]:
    for log in (False, True):
        scenario = "small requests" + (", each logged" if log else "")
        found = costs(bench, scenario, bench.plan.small, Job((), FREE_SLOTS, log))
        cpu = {name: cost.cpu_seconds * 10_000 for name, cost in found.items()}
        yield Row(scenario, CPU, cpu, goals=() if log else times(cpu, 1.2))


def big_bodies(bench: Bench) -> Iterator[Row]:
    scenario = "big bodies"
    found = costs(bench, scenario, bench.plan.big, Job((), FREE_SLOTS))
    cpu = {name: cost.cpu_seconds * 1e3 for name, cost in found.items()}
    yield Row(scenario, "CPU ms for a request", cpu, goals=times(cpu, 1.1))
    yield Row(scenario, "peak memory, MB", {name: cost.peak for name, cost in found.items()})


# --- one worker on a core of its own ------------------------------------------------------------


def one_core(bench: Bench) -> Iterator[Row]:
    with tempfile.TemporaryDirectory(prefix="gpu-bridge-bench-") as folder:
        pem = certificate(Path(folder))
        cost = bench.plan.one_core
        with answering_host(bench, Path(folder), cost) as host:
            job = Job((host.address,), 4 * FREE_SLOTS, threads=1, cores=PROXY_CORE, pem=pem)
            with running_proxies(bench, contenders_of_costs(bench), job) as running:
                yield from one_core_cpu(bench, running, pem)
                yield added_latency(bench, running, host.address)
    big = replace(job, hosts=(), pem=None)
    found = costs(bench, ONE_CORE + "big bodies", bench.plan.one_core_big, big)
    cpu = {name: cost.cpu_seconds * 1e3 for name, cost in found.items()}
    yield Row(ONE_CORE + "big bodies", "CPU ms for a request", cpu, goals=times(cpu, 1.1))


def one_core_cpu(bench: Bench, running: Sequence[Proxy], pem: Path) -> Iterator[Row]:
    """The same requests over each kind of connection."""
    cost = bench.plan.one_core
    load = load_of(cost, cores=LOAD_CORE)
    yield cpu_row(bench, ONE_CORE + "small requests", running, cost, load, 1.2)
    speak_tls = [one for one in running if one.kind.name != VLLM]
    for scenario, factor, options in (
        ("TLS", 1.5, ()),
        ("HTTP/2", 1.5, ("--http2",)),
        ("TLS, a handshake each", 1.0, ("--fresh",)),
    ):
        by_tls = replace(load, options=("--tls", str(pem), *options))
        fewer = replace(by_tls, requests=cost.requests // (8 if "--fresh" in options else 1))
        yield cpu_row(bench, ONE_CORE + scenario, speak_tls, cost, fewer, factor)


def cpu_row(
    bench: Bench,
    scenario: str,
    running: Sequence[Proxy],
    cost: Cost,
    load: Load,
    factor: float,
) -> Row:
    bench.note(scenario)
    rounds = in_turns(running, cost.rounds, lambda one: cpu_of(bench, one, load))
    cpu = {name: seconds * 10_000 for name, seconds in rounds.items()}
    goals = times(cpu, factor)
    if not load.options:
        goals += times(cpu, 0.5, ENVOY)
    return Row(scenario, CPU, cpu, goals=goals)


def added_latency(bench: Bench, running: Sequence[Proxy], host: str) -> Row:
    """What one client waits longer than it would for the host itself."""
    scenario = ONE_CORE + "one client"
    bench.note(scenario)
    cost = bench.plan.one_core
    load = replace(load_of(cost, cores=LOAD_CORE), connections=1, requests=cost.requests // 4)

    def median(address: str) -> float:
        return good(finish_load(start_load(bench.generator, address, load)), address).p50 * 1e6

    found = in_turns(running, cost.rounds, lambda one: median(one.address) - median(host))
    goal = Goal("nginx + 20 µs", found[NGINX] + 20)
    return Row(scenario, "added latency, p50, µs", found, goals=(goal,))


@contextmanager
def answering_host(bench: Bench, folder: Path, cost: Cost) -> Iterator[Service]:
    """A host that costs next to nothing, with the answer of the simulated ones."""
    with Hosts(bench.generator, HostsSpec((1.0,), 1, cost.answer_bytes)) as simulated:
        request = services.embed_request(["ready?"])
        _, answer = client.send(simulated.addresses[0], request)
    kind = contenders.answering_host(
        bench.programs.nginx, folder, answer.decode(), 4 * FREE_SLOTS, LOAD_CORE
    )
    with Service(kind, folder) as host:
        host.wait_for_answer(request)
        yield host


def certificate(folder: Path) -> Path:
    """One for 127.0.0.1 that signs itself, with its key, of the kind that is usual today."""
    key, signed, both = (folder / name for name in ("key", "certificate", "both.pem"))
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-days", "2", "-subj", "/CN=benchmark"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1"]
    command += ["-addext", "basicConstraints=critical,CA:FALSE"]
    command += ["-keyout", str(key), "-out", str(signed)]
    subprocess.run(command, check=True, capture_output=True)
    both.write_bytes(signed.read_bytes() + key.read_bytes())
    return both


def contenders_of_costs(bench: Bench) -> tuple[str, ...]:
    return (*COST_CONTENDERS, *bench.programs.optional)


# --- measuring ----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Spent:
    """What a proxy needed."""

    cpu_seconds: float  # for one request: the median of the rounds
    peak: float  # megabytes


def costs(bench: Bench, scenario: str, cost: Cost, job: Job) -> dict[str, Spent]:
    """In front of simulated hosts, which share a core with the load if the job has its own."""
    bench.note(scenario)
    cores = LOAD_CORE if job.cores else ""
    load = load_of(cost, cores)
    spec = HostsSpec(proxy_plan.speeds(unequal=False), job.slots, cost.answer_bytes, cores=cores)
    with Hosts(bench.generator, spec) as hosts:
        job = replace(job, hosts=hosts.addresses)
        with running_proxies(bench, COST_CONTENDERS, job) as running:
            cpu = in_turns(running, cost.rounds, lambda one: cpu_of(bench, one, load))
            return {
                one.kind.name: Spent(cpu[one.kind.name], one.peak_megabytes()) for one in running
            }


@contextmanager
def running_proxies(bench: Bench, names: Sequence[str], job: Job) -> Iterator[list[Proxy]]:
    with ExitStack() as stack:
        yield [stack.enter_context(proxy(bench, name, job)) for name in names]


def in_turns(
    running: Sequence[Proxy], rounds: int, measured: Callable[[Proxy], float]
) -> dict[str, float]:
    """The median of some rounds, by proxy."""
    found: dict[str, list[float]] = {one.kind.name: [] for one in running}
    for number in range(rounds):
        for one in turned(running, number):
            found[one.kind.name].append(measured(one))
    return {name: statistics.median(values) for name, values in found.items()}


def cpu_of(bench: Bench, one: Proxy, load: Load) -> float:
    """CPU seconds for a request."""
    before = one.cpu_seconds()
    address = one.tls_address if "--tls" in load.options else one.address
    good(finish_load(start_load(bench.generator, address, load)), one.kind.name)
    return (one.cpu_seconds() - before) / load.requests


def good(run: Run, name: str) -> Run:
    if run.failures:
        raise ServiceError(f"{name} failed at its ease: {run.outcomes}")
    return run


def load_of(cost: Cost, cores: str) -> Load:
    return Load(
        cost.requests,
        connections=cost.connections,
        body_bytes=cost.body_bytes,
        answer_bytes=cost.answer_bytes,
        cores=cores,
    )
