"""How much the comparison of proxies measures: all for PROXY_RESULTS.md, or little to try it."""

from dataclasses import dataclass

# The pool in front of which every proxy is put, and the work of a request.
HOSTS = 4
SLOTS = 2
MEAN_SECONDS = 0.2
# The last host's speed where hosts are unequal, and the load there as a share of what all can do.
SLOW = 0.25
UNEQUAL_LOAD = 0.8
# Requests a second while one host is broken: 0.7 of what all can do, 0.93 of what is left.
FAULT_RATE = 28.0
FAULTS = ("killed", "hang", "errors", "mid-body", "foreign")
# Every proxy gives up an attempt after this time.
ATTEMPT_SECONDS = 10


@dataclass(frozen=True)
class Cost:
    """Requests that cost a proxy CPU time and memory, and the hosts none."""

    body_bytes: int
    answer_bytes: int
    connections: int
    requests: int  # in a round
    rounds: int


@dataclass(frozen=True)
class Held:
    """Requests that wait all at once, with their bodies."""

    requests: int
    body_bytes: int
    factor: float  # how many times these bytes memory should not exceed, beside 16 MB


@dataclass(frozen=True)
class Batches:
    """Requests of each kind, and of those before which hosts are unknown."""

    acquaint: int
    batches: int
    alone: int
    small: int
    mixed: int


@dataclass(frozen=True)
class Plan:
    """The extent of one run."""

    small: Cost
    big: Cost
    one_core: Cost
    one_core_big: Cost
    idle_connections: int
    held: tuple[Held, ...]
    overload: tuple[tuple[float, int], ...]  # load as a multiple of what the hosts can do, requests
    unequal_requests: int
    fault_requests: int
    fault_seconds: tuple[float, float]  # from, until
    batches: Batches


HELD = (
    Held(1_000, 64 << 10, factor=1.3),
    Held(64, 2 << 20, factor=1.15),
    Held(200, 2 << 20, factor=1.15),
)

FULL = Plan(
    small=Cost(256, 1024, connections=16, requests=20_000, rounds=5),
    big=Cost(2 << 20, 800_000, connections=8, requests=300, rounds=5),
    one_core=Cost(2048, 1024, connections=64, requests=20_000, rounds=3),
    one_core_big=Cost(2 << 20, 800_000, connections=64, requests=600, rounds=3),
    idle_connections=2_000,
    held=HELD,
    overload=((1.2, 2160), (2.0, 2000)),
    unequal_requests=847,
    fault_requests=847,
    fault_seconds=(8.0, 22.0),
    batches=Batches(acquaint=160, batches=40, alone=200, small=20_000, mixed=2_000),
)

QUICK = Plan(
    small=Cost(256, 1024, connections=16, requests=4_000, rounds=1),
    big=Cost(2 << 20, 800_000, connections=8, requests=40, rounds=1),
    one_core=Cost(2048, 1024, connections=64, requests=8_000, rounds=1),
    one_core_big=Cost(2 << 20, 800_000, connections=64, requests=128, rounds=1),
    idle_connections=1_000,
    held=HELD,
    overload=((1.2, 300), (2.0, 300)),
    unequal_requests=160,
    fault_requests=250,
    fault_seconds=(2.0, 6.0),
    batches=Batches(acquaint=160, batches=10, alone=60, small=4_000, mixed=400),
)


def capacity(speeds: tuple[float, ...]) -> float:
    """Requests a second that hosts of these speeds can do."""
    return sum(speeds) * SLOTS / MEAN_SECONDS


def speeds(unequal: bool) -> tuple[float, ...]:
    """Of the hosts, one by one."""
    return (1.0,) * (HOSTS - 1) + (SLOW if unequal else 1.0,)
