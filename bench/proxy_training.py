#!/usr/bin/env python3
"""Put a proxy that counts what it runs through everything that it is for, once.

The compiler arranges the program by these counts; `scripts/guided.sh` calls this. What a request
costs is measured elsewhere, in front of other hosts and beside its peers.
"""

import argparse
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import proxy_batches
from contenders import OURS, Job, Programs
from proxies import Hosts, HostsSpec, Load, finish_load, start_load
from proxy_costs import FREE_SLOTS, certificate
from proxy_plan import FULL
from proxy_rig import Bench, proxy
from services import ServiceError

# Connections, bytes of a request's and of an answer's body.
SMALL = Load(4_000, connections=16, body_bytes=1024)
MIDDLE = Load(500, connections=64, body_bytes=64 << 10)
BIG = Load(100, connections=8, body_bytes=2 << 20, answer_bytes=800_000)
# More than the slots take at once.
WAITING = Load(1_000, connections=64, mean_seconds=0.01)


@dataclass(frozen=True)
class Lesson:
    """Hosts, and what is asked through the proxy in front of them, one after the other."""

    hosts: HostsSpec
    loads: tuple[Load, ...]
    log: bool = False


def lessons(pem: Path) -> Iterator[Lesson]:
    """Each kind of connection, length of body, and way through the pool."""
    by_tls = tuple(
        replace(SMALL, requests=SMALL.requests // share, options=("--tls", str(pem), *options))
        for options, share in (((), 1), (("--http2",), 1), (("--fresh",), 8))
    )
    four = (1.0,) * 4
    yield Lesson(HostsSpec(four, FREE_SLOTS), (SMALL, *by_tls, MIDDLE))
    yield Lesson(HostsSpec(four, FREE_SLOTS, BIG.answer_bytes), (BIG,))
    yield Lesson(HostsSpec(four, FREE_SLOTS), (SMALL,), log=True)
    yield Lesson(HostsSpec(four, 2), (WAITING,))
    texts = proxy_batches.texts
    mixed = texts(200, 50, connections=16)
    mixed = replace(mixed, options=(*mixed.options, "--mixed-texts"))
    batches = (mixed, texts(20, 100, connections=1), texts(2_000, 1, connections=64))
    yield Lesson(HostsSpec(four, 2, cost=(0.003, 0.0005)), batches)


def train(bench: Bench) -> None:
    with tempfile.TemporaryDirectory(prefix="gpu-bridge-training-") as folder:
        pem = certificate(Path(folder))
        for lesson in lessons(pem):
            with Hosts(bench.generator, lesson.hosts) as hosts:
                job = Job(hosts.addresses, lesson.hosts.slots, log=lesson.log, pem=pem)
                with proxy(bench, OURS, job) as pupil:
                    for load in lesson.loads:
                        by_tls = "--tls" in load.options
                        address = pupil.tls_address if by_tls else pupil.address
                        run = finish_load(start_load(bench.generator, address, load))
                        if run.failures:
                            raise ServiceError(f"not all was answered: {run.outcomes}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("proxy", type=Path, help="the program that counts")
    parser.add_argument("generator", type=Path, help="gpu-bridge-bench")
    args = parser.parse_args()
    programs = Programs(str(args.proxy.resolve()), nginx="", haproxy="")
    bench = Bench(programs, args.generator.resolve(), FULL, lambda _: None)
    try:
        train(bench)
    except (ServiceError, OSError, subprocess.SubprocessError) as error:
        print(f"training: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
