"""Tries ray_embed.py: 100,000 rows through a real proxy to three simulated hosts, one of which is killed half-way,
while somebody asks for single texts. Prints what became of the rows and of that somebody.

    make bulk-ray            # ROWS=2000 for a short try

A simulated host takes 20 ms for a request and 2 ms for each text, in two slots, and makes a vector of which the
right one can be told. Ray's workers are fewer than the slots that are left, so that one is always free.
"""

from __future__ import annotations

import argparse
import glob
import hashlib
import json
import os
import pathlib
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

HOSTS, SLOTS, WORKERS, BATCH = 3, 2, 3, 64
FIXED, EACH = 0.020, 0.002
PAUSE = 0.05  # Between two requests of the one who asks meanwhile.
HERE = pathlib.Path(__file__).parent


def vector(text: str) -> list[int]:
    return list(hashlib.sha256(text.encode()).digest()[:8])


class Host(BaseHTTPRequestHandler):
    """A GPU host, as far as the proxy and these requests can tell."""

    protocol_version = "HTTP/1.1"
    slots = threading.Semaphore(SLOTS)

    def do_GET(self) -> None:
        models = {"loaded_models": ["embed:m"], "available_models": ["embed:m"]}
        answers = {"/health": {"status": "ok"}, "/info": {"device": "cpu", "device_name": "simulated", **models}}
        self.answer(200 if self.path in answers else 404, answers.get(self.path, {"detail": "Not Found"}))

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if not self.slots.acquire(blocking=False):
            self.answer(503, {"detail": "busy"}, ("Retry-After", "1"))
            return
        try:
            time.sleep(FIXED + EACH * len(body["texts"]))
        finally:
            self.slots.release()
        embeddings = [vector(text) for text in body["texts"]]
        self.answer(200, {"embeddings": embeddings, "model": "m", "dimensions": 8})

    def answer(self, status: int, body: dict, *headers: tuple[str, str]) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(data))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        pass


def serve_host() -> None:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Host)
    print(server.server_port, flush=True)
    server.serve_forever()


class Somebody(threading.Thread):
    """Asks for a text again and again, and notes how long it takes."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url, self.took, self.failed, self.done = url + "/embed", [], 0, threading.Event()

    def run(self) -> None:
        while not self.done.wait(PAUSE):
            body = json.dumps({"texts": ["hello"], "model": "m"}).encode()
            request = urllib.request.Request(self.url, body, {"Content-Type": "application/json"})
            since = time.monotonic()
            try:
                with urllib.request.urlopen(request, timeout=30) as answer:
                    assert json.load(answer)["embeddings"] == [vector("hello")]
                self.took.append(time.monotonic() - since)
            except OSError:
                self.failed += 1

    def end(self) -> str:
        self.done.set()
        self.join()
        cuts = statistics.quantiles(self.took, n=100)
        return f"{len(self.took)} answers, {self.failed} failed, p50 {cuts[49] * 1e3:.1f} ms, p99 {cuts[98] * 1e3:.1f} ms"


def start(command: list[str], **more: object) -> tuple[subprocess.Popen, str]:
    """A program, and the first line that it says."""
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, **more)
    return process, process.stdout.readline().strip()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--bin-dir", type=pathlib.Path)
    parser.add_argument("--rows", type=int, default=100_000)
    parser.add_argument("--serve-host", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_host:
        return serve_host()
    with tempfile.TemporaryDirectory() as folder:
        run(pathlib.Path(folder), options)


def run(folder: pathlib.Path, options: argparse.Namespace) -> None:
    hosts = [start([sys.executable, __file__, "--serve-host"]) for _ in range(HOSTS)]
    listed = [{"name": f"host-{n}", "url": f"http://127.0.0.1:{port}", "max_concurrent": SLOTS}
              for n, (_, port) in enumerate(hosts)]
    config = {"listen": [{"address": "127.0.0.1:0"}], "admin": {"address": "127.0.0.1:0"},
              "batching": {"split": False}, "pool": {"hosts": listed}}
    (folder / "config.yaml").write_text(json.dumps(config))
    log = open(folder / "log", "w")
    proxy, told = start([options.bin_dir / "gpu-bridge", "serve", "--config", folder / "config.yaml"], stderr=log)
    try:
        url = "http://" + told.split()[-1].removeprefix("http://")
        measure(folder, options.rows, url, hosts[0][0])
    finally:
        for process in [proxy, *(process for process, _ in hosts)]:
            process.send_signal(signal.SIGKILL)
            process.wait()


def measure(folder: pathlib.Path, rows: int, url: str, victim: subprocess.Popen) -> None:
    (folder / "rows").mkdir()
    for part in range(10):
        with open(folder / "rows" / f"{part}.jsonl", "w") as file:
            for row in range(part, rows, 10):
                file.write(json.dumps({"id": row, "text": f"row {row}"}) + "\n")
    alone = Somebody(url)
    alone.start()
    time.sleep(20)
    print("alone:    ", alone.end(), flush=True)
    beside = Somebody(url)
    expected = rows / BATCH * (FIXED + EACH * BATCH) / WORKERS
    # As long again as Ray takes to start.
    killer = threading.Timer(expected / 2 + 10, victim.kill)
    since = time.monotonic()
    job = subprocess.Popen([sys.executable, HERE / "ray_embed.py", "--in", str(folder / "rows"), "--out",
                            str(folder / "out"), "--url", url, "--model", "m", "--batch", str(BATCH),
                            "--workers", str(WORKERS)], env={**os.environ, "RAY_DEDUP_LOGS": "0"})
    killer.start()
    beside.start()
    assert job.wait() == 0, "ray_embed.py failed"
    print("beside it:", beside.end())
    print(f"rows:      {check(folder, rows)} in {time.monotonic() - since:.0f} s; "
          f"a host was {'killed on the way' if victim.poll() is not None else 'NOT killed, it was over before'}")


def check(folder: pathlib.Path, rows: int) -> str:
    import pyarrow.parquet

    seen: set[int] = set()
    for file in glob.glob(str(folder / "out" / "*.parquet")):
        for row in pyarrow.parquet.read_table(file).to_pylist():
            assert row["id"] not in seen, f"row {row['id']} is there twice"
            assert list(row["embedding"]) == vector(row["text"]), f"row {row['id']} has another's vector"
            seen.add(row["id"])
    assert len(seen) == rows, f"{rows - len(seen)} rows are lost"
    return f"{rows} of {rows}, each once and with its own vector"


if __name__ == "__main__":
    main()
