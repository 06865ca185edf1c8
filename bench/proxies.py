"""The running parts of the comparison: simulated hosts, proxies, and load for them."""

import json
import random
import re
import socket
import subprocess
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import client
import services
from contenders import OURS, OURS_PLAIN, pinned
from services import Kind, Service, ServiceError

# Below the ports that the system gives to outgoing connections: a killed host must find its own port
# free again, and nobody may connect to himself there meanwhile.
PORTS = range(20_000, 30_000)
READY_SECONDS = 10


@dataclass(frozen=True)
class HostsSpec:
    """Simulated hosts."""

    speeds: tuple[float, ...]
    slots: int
    answer_bytes: int = 1024
    patience_seconds: float = 1.0  # how long a request waits for a slot before it is refused
    cores: str = ""  # as `taskset` takes them; empty: any
    # Seconds that an answer takes whatever is asked, and for each text, of hosts that compute theirs.
    cost: tuple[float, float] | None = None
    tells: bool = True  # has /status


class Hosts:
    """Runs them in one process. Leaving its `with` block ends it."""

    def __init__(self, program: Path, spec: HostsSpec):
        command = [program, "hosts", "--hosts", len(spec.speeds), "--slots", spec.slots]
        command += ["--ports", listed(service_port() for _ in spec.speeds)]
        command += ["--speeds", listed(spec.speeds), "--answer-bytes", spec.answer_bytes]
        command += ["--patience-ms", round(spec.patience_seconds * 1e3)]
        if spec.cost:
            fixed, each = spec.cost
            command += ["--fixed-ms", fixed * 1e3, "--each-ms", each * 1e3]
        if not spec.tells:
            command.append("--without-status")
        self._process = subprocess.Popen(
            pinned(spec.cores, [str(part) for part in command]),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.addresses = tuple(self._line()["address"] for _ in spec.speeds)

    def __enter__(self) -> "Hosts":
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.wait(services.STOP_SECONDS)
        self._process.stdout.close()

    def set_fault(self, host: int, fault: str) -> None:
        assert self._process.stdin
        self._process.stdin.write(f"{host} {fault}\n")
        self._process.stdin.flush()
        self._line()

    def _line(self) -> dict[str, str]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            raise ServiceError("the simulated hosts ended")
        return json.loads(line)


class Proxy(Service):
    """A running proxy, with what it and the processes that it started cost."""

    def __init__(self, kind: Kind, logs: Path, slots: int, tls_address: str = ""):
        super().__init__(kind, logs)
        self._slots = slots
        self.tls_address = tls_address

    def wait_until_ready(self) -> None:
        """Asks until a host answers, and until ours knows all of the hosts' slots."""
        self.wait_for_answer(services.embed_request(["ready?"]))
        began = time.monotonic()
        while self.kind.name in (OURS, OURS_PLAIN) and self._known_slots() < self._slots:
            if time.monotonic() - began > READY_SECONDS:
                raise ServiceError(f"{OURS} has not learned of all slots in {READY_SECONDS} s")
            time.sleep(services.POLL_SECONDS)

    def _known_slots(self) -> int:
        link = client.connect(self.address)
        try:
            link.request("GET", "/status")
            return json.loads(link.getresponse().read())["queue"]["max_concurrent"]
        finally:
            link.close()

    def cpu_seconds(self) -> float:
        """User and system time so far."""
        return sum(time.clock_gettime(cpu_clock(pid)) for pid in self._tree())

    def megabytes(self) -> float:
        """Resident memory: of each process by itself, summed."""
        return self._status("VmRSS")

    def peak_megabytes(self) -> float:
        """The same at its highest."""
        return self._status("VmHWM")

    def _status(self, name: str) -> float:
        statuses = (Path("/proc", str(pid), "status").read_text() for pid in self._tree())
        return sum(services.field(status, name) for status in statuses)

    def _tree(self) -> list[int]:
        stats = [path.read_text() for path in Path("/proc").glob("[0-9]*/stat")]
        return descendants(self._process.pid, [parse_parent(stat) for stat in stats])


@dataclass(frozen=True)
class Load:
    """What clients do. Of `rate` (open loop) and `connections` (closed loop) one is given."""

    requests: int
    rate: float | None = None
    connections: int | None = None
    mean_seconds: float = 0.0
    variation: float = 0.5  # standard deviation as a share of the mean
    body_bytes: int = 256
    answer_bytes: int = 1024
    slot_speeds: tuple[float, ...] = ()  # to compare with the ideal proxy
    options: tuple[str, ...] = ()  # which kind of connections: see `bench/load/src/link.rs`
    cores: str = ""  # as `taskset` takes them; empty: any

    def command(self, program: Path, target: str) -> list[str]:
        pace = ("--rate", self.rate) if self.rate else ("--connections", self.connections)
        parts = [program, "load", "--target", target, "--requests", self.requests, *pace]
        parts += ["--mean-ms", self.mean_seconds * 1e3, "--variation", self.variation]
        parts += ["--body-bytes", self.body_bytes, "--answer-bytes", self.answer_bytes]
        parts += self.options
        if self.slot_speeds:
            parts += ["--slot-speeds", listed(self.slot_speeds)]
        return pinned(self.cores, [str(part) for part in parts])


@dataclass(frozen=True)
class Run:
    """How a load went. Seconds; see `bench/load/src/summary.rs`."""

    requests: int
    ok: int
    outcomes: dict[str, int]
    p50: float
    p99: float
    worst: float
    throughput: float  # good answers a second
    efficiency: float | None

    @property
    def ok_percent(self) -> float:
        return 100 * self.ok / self.requests

    @property
    def failures(self) -> int:
        return self.requests - self.ok


def read_run(line: str) -> Run:
    found = json.loads(line)
    return Run(
        found["requests"],
        found["ok"],
        found["outcomes"],
        found["latency"]["p50"],
        found["latency"]["p99"],
        found["worst"],
        found["throughput"],
        found["efficiency"],
    )


def start_load(program: Path, address: str, load: Load) -> "subprocess.Popen[str]":
    return subprocess.Popen(load.command(program, address), stdout=subprocess.PIPE, text=True)


def finish_load(process: "subprocess.Popen[str]") -> Run:
    output, _ = process.communicate()
    if process.returncode:
        raise ServiceError(f"the load generator ended, code {process.returncode}")
    return read_run(output)


# --- what /proc says ----------------------------------------------------------------------------


def parse_parent(stat: str) -> tuple[int, int]:
    """A process and its parent. The name in between may hold anything, but for the last `)`."""
    found = re.fullmatch(r"(\d+) \(.*\) \S (\d+) .*", stat.strip(), re.DOTALL)
    if not found:
        raise ServiceError(f"/proc shows an odd process: {stat!r}")
    return int(found[1]), int(found[2])


def cpu_clock(pid: int) -> int:
    """The clock of a process's CPU time: clock_getcpuclockid(3), as Linux has it."""
    return (~pid << 3) | 2


def descendants(root: int, parents: Sequence[tuple[int, int]]) -> list[int]:
    """`root`, what it started, and so on."""
    found = [root]
    for pid in found:
        found += [child for child, parent in parents if parent == pid]
    return found


def service_port() -> int:
    """One that nobody listens on."""
    while True:
        port = random.choice(PORTS)
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                listener.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port


def listed(values: Iterable[object]) -> str:
    return ",".join(str(value) for value in values)
