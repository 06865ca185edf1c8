#!/usr/bin/env python3
"""Takes the pictures of the live page in docs/images/ from a running proxy.

Starts some hosts that only pretend to compute, the proxy in front of them, and clients; then one
host says that it is full, one dies and one is drained. Wants chromedriver (Debian: chromium-driver)
and `cargo build --release --bin gpu-bridge`. --phone adds a picture at the width of a small phone.
"""

import argparse
import base64
import json
import math
import random
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CLIENTS = 13
# Name, slots, seconds for a request, memory in MB, models.
CARDS = (
    ("rtx-3090", 4, 0.22, 24576, ["embed:all-MiniLM-L6-v2", "bertscore:microsoft/deberta-xlarge-mnli"]),
    ("rtx-2080ti", 2, 0.45, 11264, ["embed:all-MiniLM-L6-v2"]),
    ("l4-cloud", 3, 0.30, 23034, ["embed:all-MiniLM-L6-v2", "embed:BAAI/bge-m3"]),
    ("a100-shared", 6, 0.16, 40960, ["embed:all-MiniLM-L6-v2"]),
)


class Host:
    """A host that waits instead of computing."""

    def __init__(self, name: str, slots: int, seconds: float, memory: int, models: list[str]):
        self.name, self.slots, self.seconds = name, slots, seconds
        self.memory, self.models = memory, models
        self.full = False
        self.foreign = 0
        self.running = 0
        self.lock = threading.Lock()
        self.server = ThreadingHTTPServer(("127.0.0.1", 0), self.handler())
        self.server.daemon_threads = True
        self.port = self.server.server_address[1]
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def die(self) -> None:
        self.server.shutdown()
        self.server.server_close()

    def handler(host) -> type:  # noqa: N805 -- the handler has a self of its own
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *_: object) -> None:
                pass

            def do_GET(self) -> None:
                self.answer(200, host.facts(self.path))

            def do_POST(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                status, body = host.compute()
                self.answer(status, body)

            def answer(self, status: int, body: dict) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(text)))
                if status == 503:
                    self.send_header("Retry-After", "25")
                self.end_headers()
                self.wfile.write(text)

        return Handler

    def facts(self, path: str) -> dict:
        if path == "/health":
            return {"status": "ok", "device": "cuda"}
        if path == "/status":
            used = min(self.slots, self.running + self.foreign)
            free = 0 if self.full else self.slots - used
            queue = {"max_concurrent": self.slots, "in_flight": used, "available_slots": free}
            return {"queue": {**queue, "waiting_estimate": 0}, "active_jobs": []}
        return {
            "device": "cuda",
            "device_name": f"Simulated {self.name.upper()}",
            "vram_total_mb": self.memory,
            "vram_used_mb": int(self.memory * 0.2) + 700 * self.running,
            "pytorch_version": "simulated",
            "cuda_version": "13.0",
            "loaded_models": self.models,
        }

    def compute(self) -> tuple[int, dict]:
        with self.lock:
            if self.full or self.running + self.foreign >= self.slots:
                return 503, {"detail": "GPU busy - retry later"}
            self.running += 1
        time.sleep(self.seconds * random.uniform(0.7, 1.6))
        with self.lock:
            self.running -= 1
        return 200, {"embeddings": [[0.0]], "model": "all-MiniLM-L6-v2", "dimensions": 1}


class Browser:
    """Chromium by WebDriver."""

    def __init__(self, stack: ExitStack):
        profile = stack.enter_context(tempfile.TemporaryDirectory())
        driver = subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True)
        stack.callback(driver.terminate)
        self.url = f"http://127.0.0.1:{announced(driver, r'successfully on port ([0-9]+)')}/session"
        arguments = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --no-proxy-server"
        arguments += " --disable-background-networking --disable-component-update --disable-sync"
        arguments += f" --hide-scrollbars --user-data-dir={profile}"
        options = {"goog:chromeOptions": {"args": arguments.split()}}
        self.url += "/" + ask(self.url, {"capabilities": {"alwaysMatch": options}})["sessionId"]
        stack.callback(lambda: ask(self.url, None, "DELETE"))

    def open(self, url: str) -> None:
        ask(f"{self.url}/url", {"url": url})

    def picture(self, path: Path, scheme: str, width: int, height: int, scale: int = 1) -> None:
        size = {"width": width, "height": height, "deviceScaleFactor": scale, "mobile": scale > 1}
        self.devtools("Emulation.setDeviceMetricsOverride", size)
        media = [{"name": "prefers-color-scheme", "value": scheme}]
        self.devtools("Emulation.setEmulatedMedia", {"features": media})
        time.sleep(1.2)
        whole = {"format": "png", "captureBeyondViewport": scale > 1}
        data = self.devtools("Page.captureScreenshot", whole)["data"]
        path.write_bytes(smaller(base64.b64decode(data)))
        print(f"{path}: {path.stat().st_size // 1024} KiB")

    def devtools(self, command: str, parameters: dict) -> dict:
        return ask(f"{self.url}/goog/cdp/execute", {"cmd": command, "params": parameters})


def smaller(picture: bytes) -> bytes:
    """The same with 256 colours, where pngquant is installed."""
    if not shutil.which("pngquant"):
        return picture
    return subprocess.run(["pngquant", "-"], input=picture, capture_output=True, check=True).stdout


def ask(url: str, body: dict | None, method: str = "POST", headers: dict | None = None) -> dict:
    data = None if body is None else json.dumps(body).encode()
    request = urllib.request.Request(url, data, headers or {}, method=method)
    request.add_header("Content-Type", "application/json")
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(request, timeout=60) as response:
        answer = json.loads(response.read() or b"{}")
    return answer.get("value", answer)


def announced(process: subprocess.Popen, pattern: str) -> str:
    for line in process.stdout:
        if found := re.search(pattern, line):
            return found[1]
    raise SystemExit(f"a program ended without saying {pattern!r}")


def start_proxy(binary: Path, hosts: list[Host], stack: ExitStack) -> tuple[str, str]:
    listed = "".join(f'    - {{name: {h.name}, url: "http://127.0.0.1:{h.port}"}}\n' for h in hosts)
    config = Path(stack.enter_context(tempfile.TemporaryDirectory())) / "gpu-bridge.yaml"
    config.write_text(
        "listen: [{address: '127.0.0.1:0'}]\nadmin: {address: '127.0.0.1:0'}\n"
        "queue: {max_wait: 1500ms}\nhealth: {interval: 5s}\npool:\n  policy: round-robin\n  hosts:\n" + listed
    )
    command = [str(binary), "serve", "--config", str(config)]
    proxy = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    stack.callback(proxy.kill)
    url = announced(proxy, r"^listening on (http://\S+)")
    return url, announced(proxy, r"^admin on (http://\S+)")


def client(url: str, number: int, began: float, stop: threading.Event) -> None:
    """Asks again and again, more of them at some times than at others."""
    while not stop.is_set():
        wave = 0.62 + 0.38 * math.sin((time.monotonic() - began) / 19)
        if number / CLIENTS > wave:
            time.sleep(0.25)
            continue
        try:
            ask(f"{url}/embed", {"texts": [f"text {number}"], "model": "all-MiniLM-L6-v2"})
        except OSError:
            time.sleep(0.2)
        time.sleep(random.uniform(0, 0.2))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, default=ROOT / "target/release/gpu-bridge")
    parser.add_argument("--out", type=Path, default=ROOT / "docs/images")
    parser.add_argument("--seconds", type=int, default=240, help="what the plots show")
    parser.add_argument("--phone", action="store_true")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        hosts = [Host(*card) for card in CARDS]
        busy, dying, drained, shared = hosts[1], hosts[2], hosts[3], hosts[0]
        url, admin = start_proxy(args.bin, hosts, stack)
        stop, began = threading.Event(), time.monotonic()
        stack.callback(stop.set)
        for number in range(CLIENTS):
            threading.Thread(target=client, args=(url, number, began, stop), daemon=True).start()
        time.sleep(args.seconds * 0.85)
        shared.foreign = 1
        busy.full = True
        dying.die()
        time.sleep(args.seconds * 0.15)
        drained.seconds = 20
        time.sleep(0.5)
        ask(f"{admin}/api/v1/hosts/{drained.name}/drain", None, headers={"X-Gpu-Bridge": "1"})
        take(args, stack, admin)
    return 0


def take(args: argparse.Namespace, stack: ExitStack, admin: str) -> None:
    browser = Browser(stack)
    browser.open(admin)
    browser.picture(args.out / "page-light.png", "light", 1280, 1010)
    browser.picture(args.out / "page-dark.png", "dark", 1280, 1010)
    if args.phone:
        browser.picture(args.out / "page-phone.png", "light", 320, 640, scale=2)


if __name__ == "__main__":
    sys.exit(main())
