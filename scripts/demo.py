#!/usr/bin/env python3
"""Show gpu-bridge at work on this machine, and check that it does what it promises.

Starts two GPU hosts (on the CPU) and the proxy in front of them on free loopback ports, sends an
embedding and a BERTScore request through the proxy, then more requests at once than the hosts have
slots, prints a report, and leaves everything running until Ctrl-C. With --once it ends by itself;
it exits 0 only if every check in the report held.
"""

import argparse
import http.client
import json
import os
import re
import secrets
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

ROOT = Path(__file__).resolve().parent.parent
MODEL = "all-MiniLM-L6-v2"
HOSTS = ("host-a", "host-b")
SLOTS = 2  # requests that each host takes at a time
BURST = 24  # requests sent at the same moment
BURST_TEXTS = 16  # texts in each of them
QUEUED_MS = 1.0  # a request that waited longer than this counts as queued
START_SECONDS = 30
STOP_SECONDS = 30
REQUEST_SECONDS = 120

SENTENCE = "A cat is sleeping on the warm sofa."
CLOSE = "A kitten naps on the cosy couch."
DISTANT = "The central bank raised interest rates again."

METRICS_SHOWN = (
    "gpu_bridge_requests_total",
    "gpu_bridge_attempts_total",
    "gpu_bridge_retries_total",
    "gpu_bridge_queue_wait_seconds_sum",
    "gpu_bridge_queue_wait_seconds_count",
)


class DemoError(Exception):
    """The demo cannot go on; the message says why."""


def main() -> int:
    args = parse_arguments()
    # `kill` ends the demo as cleanly as Ctrl-C does.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    children: list[Child] = []
    with tempfile.TemporaryDirectory(prefix="gpu-bridge-demo-") as folder:
        try:
            passed = run(args, Path(folder), children)
        except KeyboardInterrupt:
            print("\ndemo: interrupted")
            stop_all(children)
            return 130
        except (DemoError, OSError, http.client.HTTPException) as error:
            print(f"\ndemo: {error}", file=sys.stderr)
            passed = False
        passed = stop_all(children) and passed
        if not passed:
            print_logs(children)
    print("demo: all was right" if passed else "demo: FAILED")
    return 0 if passed else 1


def run(args: argparse.Namespace, folder: Path, children: list["Child"]) -> bool:
    """Shows the system at work; whether every check held. Adds what it starts to `children`."""
    system = start_system(args, folder, children)
    passed = show_and_check(system)
    if passed and not args.once:
        stay(system, children)
    return passed


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--once", action="store_true", help="end after the report")
    parser.add_argument("--bin-dir", type=Path, default=ROOT / "target" / "release")
    parser.add_argument("--models-dir", type=Path, default=ROOT / ".models")
    return parser.parse_args()


# --- the programs -------------------------------------------------------------------------------


@dataclass(frozen=True)
class System:
    """Where the running proxy answers."""

    url: str
    admin: str


class Child:
    """A program that the demo runs; its output goes to a log file."""

    def __init__(self, name: str, command: list[str], logs: Path, env: dict[str, str]):
        self.name = name
        self.log = logs / f"{name}.log"
        with self.log.open("wb") as output:
            # A session of its own: Ctrl-C reaches the demo only, which stops its children in order.
            self.process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, **env},
                start_new_session=True,
            )

    def address(self, label: str) -> str:
        """The URL that the program prints after `label` once it listens there."""
        pattern = re.compile(rf"^{label} (http://\S+)$", re.MULTILINE)
        for _ in until(START_SECONDS):
            if found := pattern.search(self.output()):
                return found[1]
            if self.process.poll() is not None:
                raise DemoError(f"{self.name} ended at once, with code {self.process.returncode}")
        raise DemoError(f"{self.name} did not say '{label} …' within {START_SECONDS} s")

    def stop(self) -> bool:
        """Asks the program to end; whether it did so in time and with code 0."""
        if self.process.poll() is None:
            self.process.terminate()
        try:
            return self.process.wait(STOP_SECONDS) == 0
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            return False

    def output(self) -> str:
        return self.log.read_text(errors="replace")


def start_system(args: argparse.Namespace, folder: Path, children: list[Child]) -> System:
    """Starts the hosts and the proxy, and returns once the proxy sees every slot."""
    keys = {host: secrets.token_hex(16) for host in HOSTS}
    for host, key in keys.items():
        children.append(start_backend(args, folder, host, key))
    urls = {child.name: child.address("listening on") for child in children}
    for host, url in urls.items():
        wait_until_loaded(host, url)

    config = folder / "gpu-bridge.yaml"
    config.write_text(proxy_config(urls))
    command = [str(args.bin_dir / "gpu-bridge"), "serve", "--config", str(config)]
    env = {key_variable(host): key for host, key in keys.items()}
    proxy = Child("proxy", command, folder, env)
    # First in the list: it is stopped first, while its hosts can still finish what they have.
    children.insert(0, proxy)
    system = System(proxy.address("listening on"), proxy.address("admin on"))
    wait_until_ready(system)
    return system


def start_backend(args: argparse.Namespace, folder: Path, name: str, key: str) -> Child:
    command = [str(args.bin_dir / "gpu-bridge-backend"), "--listen", "127.0.0.1:0"]
    command += ["--models-dir", str(args.models_dir)]
    env = {
        "API_KEY": key,
        "GPU_MAX_CONCURRENT": str(SLOTS),
        "MODEL_EMBED": MODEL,
        "MODEL_BERTSCORE": MODEL,
    }
    return Child(name, command, folder, env)


def proxy_config(urls: dict[str, str]) -> str:
    """A pool of the hosts at `urls`, each with its own key taken from the environment."""
    hosts = "".join(
        f'    - {{name: {name}, url: "{url}", api_key: "${{{key_variable(name)}}}"}}\n'
        for name, url in urls.items()
    )
    return f"""\
listen:
  - address: 127.0.0.1:0
admin:
  address: 127.0.0.1:0
pool:
  policy: least-busy
  hosts:
{hosts}"""


def key_variable(host: str) -> str:
    return f"DEMO_KEY_{host.upper().replace('-', '_')}"


def wait_until_loaded(host: str, url: str) -> None:
    """Returns once the models of the host at `url` are in memory."""
    for _ in until(START_SECONDS):
        if get_json(url, "/ready").get("ready"):
            return
    raise DemoError(f"{host} did not load its models within {START_SECONDS} s")


def wait_until_ready(system: System) -> None:
    for _ in until(START_SECONDS):
        queue = get_json(system.url, "/status").get("queue", {})
        if queue.get("max_concurrent") == SLOTS * len(HOSTS) and is_healthy(system):
            return
    raise DemoError(f"the proxy did not find {len(HOSTS)} hosts within {START_SECONDS} s")


def is_healthy(system: System) -> bool:
    return get_json(system.url, "/health").get("status") == "ok"


def until(seconds: float) -> Iterator[None]:
    """Yields every 0.1 s until `seconds` have passed."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        yield
        time.sleep(0.1)


def stay(system: System, children: list[Child]) -> None:
    """Leaves the system to the user until Ctrl-C."""
    print(f"""
Running until Ctrl-C. Try:
  curl -s {system.url}/info
  curl -s {system.url}/embed -H 'Content-Type: application/json' -d '{{"texts": ["{CLOSE}"]}}'
  curl -s {system.url}/bertscore -H 'Content-Type: application/json' \\
       -d '{{"candidates": ["{CLOSE}"], "references": ["{SENTENCE}"]}}'
  curl -s {system.admin}/metrics""")
    sys.stdout.flush()
    try:
        while all(child.process.poll() is None for child in children):
            time.sleep(0.5)
    except KeyboardInterrupt:
        print("\nstopping")
        return
    raise DemoError("one of the programs ended by itself")


def stop_all(children: list[Child]) -> bool:
    """Ends every program, in order; whether all ended cleanly."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    failed = [child.name for child in children if not child.stop()]
    for name in failed:
        print(f"demo: {name} did not end cleanly", file=sys.stderr)
    return not failed


def print_logs(children: list[Child]) -> None:
    """Prints the end of each log: warnings, errors and panics, or whatever there is."""
    for child in children:
        lines = child.output().splitlines()
        telling = [line for line in lines if '"level":"INFO"' not in line]
        tail = "\n".join([*telling[-15:], "…", *lines[-5:]])
        print(f"\n--- end of the log of {child.name}\n{tail}", file=sys.stderr)


# --- the requests -------------------------------------------------------------------------------


@dataclass(frozen=True)
class Answer:
    """What came back for one request; status 0 if nothing did."""

    status: int
    body: dict
    host: str = "-"
    queued_ms: float = 0.0


def post(system: System, path: str, payload: dict) -> Answer:
    headers = {"Content-Type": "application/json"}
    try:
        with connection(system.url) as link:
            link.request("POST", path, json.dumps(payload), headers)
            response = link.getresponse()
            timing = re.search(r"queue;dur=([\d.]+)", response.headers.get("Server-Timing", ""))
            return Answer(
                status=response.status,
                body=json.loads(response.read()),
                host=response.headers.get("X-Served-By", "-"),
                queued_ms=float(timing[1]) if timing else 0.0,
            )
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Answer(status=0, body={"detail": repr(error)})


def get(url: str, path: str) -> str:
    with connection(url) as link:
        link.request("GET", path)
        return link.getresponse().read().decode()


def get_json(url: str, path: str) -> dict:
    return json.loads(get(url, path))


@contextmanager
def connection(url: str) -> Iterator[http.client.HTTPConnection]:
    link = http.client.HTTPConnection(urlsplit(url).netloc, timeout=REQUEST_SECONDS)
    try:
        yield link
    finally:
        link.close()


def embed(system: System, texts: list[str]) -> Answer:
    return post(system, "/embed", {"texts": texts, "model": MODEL})


def bertscore(system: System, candidates: list[str], reference: str) -> Answer:
    references = [reference] * len(candidates)
    payload = {"candidates": candidates, "references": references, "model_type": MODEL}
    return post(system, "/bertscore", payload)


def burst(system: System) -> tuple[list[Answer], float]:
    """Sends BURST requests at the same moment; their answers, and how long all took in seconds."""
    start = threading.Barrier(BURST)

    def one(number: int) -> Answer:
        texts = [f"{SENTENCE} {DISTANT} Request {number}, text {i}." for i in range(BURST_TEXTS)]
        start.wait()
        return embed(system, texts)

    began = time.monotonic()
    with ThreadPoolExecutor(BURST) as threads:
        answers = list(threads.map(one, range(BURST)))
    return answers, time.monotonic() - began


# --- the report ---------------------------------------------------------------------------------


def show_and_check(system: System) -> bool:
    """Sends the requests, prints the report, and says whether every check in it held."""
    print(f"gpu-bridge at {system.url}: {len(HOSTS)} hosts, {SLOTS} slots each\n")
    checks = {
        **show_embedding(embed(system, [SENTENCE, CLOSE, DISTANT])),
        **show_bertscore(bertscore(system, [CLOSE, DISTANT], SENTENCE)),
        **show_burst(*burst(system)),
    }
    show_metrics(system)
    print("Checks")
    for name, held in checks.items():
        print(f"  {'ok    ' if held else 'FAILED'}  {name}")
    sys.stdout.flush()
    return all(checks.values())


def show_embedding(answer: Answer) -> dict[str, bool]:
    if answer.status != 200:
        print(f"Embedding: {answer.status} {answer.body}\n")
        return {"/embed answered 200": False}
    origin, close, distant = answer.body["embeddings"]
    to_close, to_distant = cosine(origin, close), cosine(origin, distant)
    print(f"Embedding in {answer.body['dimensions']} dimensions, served by {answer.host}")
    print(f'  cosine similarity with "{SENTENCE}"')
    print(f"    {to_close:6.3f}  {CLOSE}")
    print(f"    {to_distant:6.3f}  {DISTANT}\n")
    return {
        "/embed answered 200": True,
        "close sentences are more similar than distant ones": to_close > to_distant,
    }


def show_bertscore(answer: Answer) -> dict[str, bool]:
    if answer.status != 200:
        print(f"BERTScore: {answer.status} {answer.body}\n")
        return {"/bertscore answered 200": False}
    near, far = zip(*(answer.body[key] for key in ("precision", "recall", "f1")), strict=True)
    print(f"BERTScore, served by {answer.host}")
    print(f'  against "{SENTENCE}"')
    print("         P       R      F1")
    for scores, candidate in ((near, CLOSE), (far, DISTANT)):
        print("    " + "  ".join(f"{score:6.3f}" for score in scores) + f"  {candidate}")
    print()
    return {
        "/bertscore answered 200": True,
        "P, R and F1 of the near pair exceed those of the far pair": all(
            a > b for a, b in zip(near, far, strict=True)
        ),
    }


def show_burst(answers: list[Answer], seconds: float) -> dict[str, bool]:
    failures = [answer for answer in answers if answer.status != 200]
    served = Counter(answer.host for answer in answers if answer.status == 200)
    waits = [answer.queued_ms for answer in answers if answer.queued_ms > QUEUED_MS]
    print(f"Burst of {BURST} requests onto {SLOTS * len(HOSTS)} slots: {seconds:.1f} s")
    print("  served by " + ", ".join(f"{host}: {served[host]}" for host in sorted(served)))
    print(f"  queued:   {len(waits)}" + (f", {describe(waits)}" if waits else ""))
    print(f"  failures: {len(failures)}")
    for answer in failures[:3]:
        print(f"    {answer.status} {answer.body}")
    print()
    return {
        "no request of the burst failed": not failures,
        "both hosts served": set(served) == set(HOSTS),
        "requests beyond the slots were queued": bool(waits),
    }


def describe(waits_ms: list[float]) -> str:
    return f"median {statistics.median(waits_ms):.0f} ms, longest {max(waits_ms):.0f} ms"


def show_metrics(system: System) -> None:
    print(f"Metrics worth seeing, from {system.admin}/metrics")
    for line in get(system.admin, "/metrics").splitlines():
        if line.startswith(METRICS_SHOWN):
            print(f"  {line}")
    print()


def cosine(a: list[float], b: list[float]) -> float:
    dot = sum(x * y for x, y in zip(a, b, strict=True))
    return dot / (sum(x * x for x in a) * sum(y * y for y in b)) ** 0.5


if __name__ == "__main__":
    sys.exit(main())
