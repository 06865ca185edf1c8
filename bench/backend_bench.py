#!/usr/bin/env python3
"""Measure gpu-bridge-backend against candle, PyTorch, OpenVINO, ONNX Runtime
and the Python service.

Part A compares the engines alone, part B the services over HTTP; both print their tables. Without
--quick all goes to RESULTS.md beside this file. `make bench-backend` builds what this needs.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import forward
import machine
import report
import services
import serving
from client import AnswerError
from plan import FULL, QUICK
from services import ServiceError
from workers import WorkerError

ROOT = Path(__file__).resolve().parent.parent
RESULTS = Path(__file__).with_name("RESULTS.md")


def main() -> int:
    args = parse_arguments()
    began = time.monotonic()
    try:
        run(args)
    except KeyboardInterrupt:
        return 130
    except (AnswerError, ServiceError, WorkerError, OSError, subprocess.SubprocessError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 1
    minutes, seconds = divmod(round(time.monotonic() - began), 60)
    print(f"\nbench: done in {minutes} min {seconds} s", file=sys.stderr)
    return 0


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="measure little and write nothing")
    parser.add_argument("--threads", type=int, default=2, help="of every engine (%(default)s)")
    parser.add_argument("--bin-dir", type=Path, default=ROOT / "target" / "release")
    parser.add_argument("--model", type=Path, default=ROOT / ".models" / "all-MiniLM-L6-v2")
    return parser.parse_args()


def run(args: argparse.Namespace) -> None:
    warn_of_load()
    plan = QUICK if args.quick else FULL
    model, binaries = args.model.resolve(), args.bin_dir.resolve()
    tei = os.environ.get("TEI_BIN")
    facts, versions = machine.machine(), machine.versions(ROOT)
    if tei:
        version = machine.run(ROOT, tei, "--version")
        versions["TEI"] = f"{version}, {os.environ.get('TEI_BUILD', 'built in an unknown way')}"
    encode_bench = binaries / "examples" / "encode_bench"
    note("A. the engines alone")
    engines = forward.measure(encode_bench, sys.executable, model, args.threads, plan.rounds)
    note(report.forward_section(engines, args.threads))
    note("B. the services over HTTP")
    kinds = services.kinds(
        binaries / "gpu-bridge-backend",
        sys.executable,
        model,
        args.threads,
        tei,
    )
    with tempfile.TemporaryDirectory(prefix="gpu-bridge-bench-") as logs:
        served = serving.measure(kinds, Path(logs), plan)
    note(report.serving_section(served))
    if not args.quick:
        text = report.document(facts, versions, args.threads, engines, served)
        RESULTS.write_text(text + "\n", encoding="utf-8")
        note(f"bench: wrote {RESULTS.relative_to(ROOT)}")


def warn_of_load() -> None:
    """A busy machine's figures mean little; but the load may be of a build that is just over."""
    if (load := os.getloadavg()[0]) > 0.5:
        print(
            f"bench: the machine's load is {load:.1f}; is it doing something else?", file=sys.stderr
        )


def note(text: str) -> None:
    print(f"{text}\n", flush=True)


if __name__ == "__main__":
    sys.exit(main())
