#!/usr/bin/env python3
"""Measure gpu-bridge against nginx and HAProxy in front of simulated GPU hosts, side by side.

Prints its tables. Without --quick they go to PROXY_RESULTS.md beside this file. `make bench-proxy`
builds what this needs.
"""

import argparse
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import backend_bench
import contenders
import machine
import proxy_batches
import proxy_costs
import proxy_memory
import proxy_report
import proxy_scenarios
import proxy_several
from backend_bench import ROOT
from contenders import MissingError
from proxy_plan import FULL, QUICK
from proxy_rig import Bench, Outcomes, Row
from services import ServiceError

RESULTS = Path(__file__).with_name("PROXY_RESULTS.md")
# A benchmark of the pool alone, without I/O; what it prints belongs to the results.
POOL_BENCH = "pool_bench"


def main() -> int:
    args = parse_arguments()
    # It would change what our proxy logs, and with that what it costs.
    os.environ.pop("RUST_LOG", None)
    # Connections by the thousand, of everything that is started here.
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    began = time.monotonic()
    try:
        run(args)
    except KeyboardInterrupt:
        return 130
    except (MissingError, ServiceError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    progress(f"done in {minutes} min {seconds} s")
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="measure little and write nothing")
    parser.add_argument("--bin-dir", type=Path, default=ROOT / "target" / "dist")
    parser.add_argument(
        "--peers",
        nargs="*",
        default=(),
        choices=contenders.OPTIONAL,
        help="optional ones, which pip has installed",
    )
    parser.add_argument("--check", action="store_true", help="only look for what is compared")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    binaries = args.bin_dir.resolve()
    programs = contenders.find_programs(binaries / "gpu-bridge")
    if args.check:
        return
    programs = contenders.with_optional(programs, ROOT / ".bench" / "peers", args.peers, progress)
    backend_bench.warn_of_load()
    facts = machine.machine()
    versions = machine.proxy_versions(ROOT, programs)
    plan = QUICK if args.quick else FULL
    bench = Bench(programs, binaries / "gpu-bridge-bench", plan, progress)
    outcomes: Outcomes = {}
    rows = measure(bench, outcomes)
    pool = pool_bench(binaries)
    text = proxy_report.document(facts, versions, plan, rows, outcomes, pool)
    print(text, flush=True)
    if not args.quick:
        RESULTS.write_text(text + "\n", encoding="utf-8")
        progress(f"wrote {RESULTS.relative_to(ROOT)}")


def measure(bench: Bench, outcomes: Outcomes) -> list[Row]:
    """All rows, in the order of the report. Another scenario is another line here."""
    return [
        *proxy_costs.measure(bench),
        *proxy_memory.measure(bench),
        *proxy_scenarios.measure(bench, outcomes),
        *proxy_several.measure(bench),
        *proxy_batches.measure(bench, outcomes),
    ]


def pool_bench(binaries: Path) -> str | None:
    """What the benchmark of the pool prints, if it has been built."""
    program = binaries / "examples" / POOL_BENCH
    if not program.exists():
        return None
    progress("the pool alone")
    return machine.run(ROOT, str(program))


def progress(text: str) -> None:
    print(f"bench: {text}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    sys.exit(main())
