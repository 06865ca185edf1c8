#!/usr/bin/env python3
"""Put a real server of OpenAI's API, infinity, into a pool beside a GPU host, and compare what they answer.

Installs scripts/openai-host.txt into .tools/ first, unless it is there, or OPENAI_HOST_PYTHON names a Python
that has it. Exits 0 if every check held.
"""

import argparse
import json
import os
import socket
import sys
import tempfile
from pathlib import Path

import demo
from openai_clients import KEY, TEXTS, install, plainly, same

VENV = demo.ROOT / ".tools" / "openai-host"
REQUIREMENTS = Path(__file__).with_name("openai-host.txt")
# What the server calls the model.
NAME = f"sentence-transformers/{demo.MODEL}"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin-dir", type=Path, default=demo.ROOT / "target" / "debug")
    parser.add_argument("--models-dir", type=Path, default=demo.ROOT / ".models")
    args = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"  # whatever proxy the machine has for the rest
    python = os.environ.get("OPENAI_HOST_PYTHON")
    if python is None:
        if problem := install(VENV, REQUIREMENTS):
            print(f"FAILED: no infinity: {problem}")
            return 1
        python = str(VENV / "bin" / "python")
    children: list[demo.Child] = []
    with tempfile.TemporaryDirectory(prefix="openai-host-") as folder:
        try:
            check(args, python, Path(folder), children)
        except BaseException:
            demo.stop_all(children)
            demo.print_logs(children)
            raise
        demo.stop_all(children)
    return 0


def check(
    args: argparse.Namespace, python: str, folder: Path, children: list[demo.Child]
) -> None:
    own = demo.start_backend(args, folder, "own", KEY)
    children.append(own)
    infinity = start_infinity(args, python, folder)
    children.append(infinity)
    own_url, infinity_url = own.address("listening on"), uvicorn(infinity)
    demo.wait_until_loaded("own", own_url)
    expected = {few: plainly(own_url, texts) for few, texts in texts_by_name().items()}
    own_host = f"{{name: own, url: '{own_url}', api_key: {KEY}}}"
    infinity_host = (
        f"{{name: infinity, url: '{infinity_url}', api_key: {KEY}, api: openai, "
        f"model_alias: {{{demo.MODEL}: {NAME}}}}}"
    )
    for pool in ([infinity_host], [infinity_host, own_host]):
        proxy = start_proxy(args, folder, f"proxy-{len(pool)}", pool)
        children.insert(0, proxy)
        url = proxy.address("listening on")
        admin = proxy.address("admin on")
        wait_until_up(admin, len(pool))
        for _ in range(4):
            for name, texts in texts_by_name().items():
                same(plainly(url, texts), expected[name])
        models = [model["id"] for model in demo.get_json(url, "/v1/models")["data"]]
        assert {demo.MODEL, NAME} <= set(models), models
        served = {host["name"]: host["attempts"] for host in hosts(admin)}
        assert all(attempts["failed"] == 0 and attempts["ended"] > 0 for attempts in served.values())
        refused = demo.post(demo.System(url, admin), "/embed", {"model": "other", "texts": ["a"]})
        assert refused.status == 404, refused
        print(f"{' and '.join(served)}: the answers are right")


def texts_by_name() -> dict[str, list[str]]:
    """None beyond the model's 256 tokens: infinity cuts at 512."""
    return {"one": TEXTS[:1], "many": TEXTS[:100]}


def start_infinity(args: argparse.Namespace, python: str, folder: Path) -> demo.Child:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(Path(python).with_name("infinity_emb")), "v2"]
    command += ["--model-id", str(args.models_dir / demo.MODEL), "--served-model-name", NAME]
    command += ["--engine", "torch", "--device", "cpu", "--dtype", "float32"]
    command += ["--no-bettertransformer", "--no-model-warmup", "--url-prefix", "/v1"]
    command += ["--host", "127.0.0.1", "--port", str(port), "--api-key", KEY]
    quiet = {"HF_HUB_OFFLINE": "1", "DO_NOT_TRACK": "1", "INFINITY_ANONYMOUS_USAGE_STATS": "0"}
    return demo.Child("infinity", command, folder, quiet)


def uvicorn(child: demo.Child) -> str:
    """The URL that uvicorn says that it runs on."""
    for _ in demo.until(120):
        for line in child.output().splitlines():
            if "Uvicorn running on " in line:
                return line.split("Uvicorn running on ")[1].split()[0]
        if child.process.poll() is not None:
            break
    raise demo.DemoError(f"{child.name} does not run")


def start_proxy(args: argparse.Namespace, folder: Path, name: str, pool: list[str]) -> demo.Child:
    config = folder / f"{name}.yaml"
    listed = "".join(f"    - {host}\n" for host in pool)
    config.write_text(
        "listen: [{address: '127.0.0.1:0'}]\nadmin: {address: '127.0.0.1:0'}\n"
        f"pool:\n  policy: round-robin\n  hosts:\n{listed}"
    )
    command = [str(args.bin_dir / "gpu-bridge"), "serve", "--config", str(config)]
    return demo.Child(name, command, folder, {})


def hosts(admin: str) -> list[dict]:
    return demo.get_json(admin, "/api/v1/pool")["hosts"]


def wait_until_up(admin: str, count: int) -> None:
    for _ in demo.until(demo.START_SECONDS):
        if sum(host["state"] == "up" for host in hosts(admin)) == count:
            return
    raise demo.DemoError(f"the proxy did not find its {count} hosts: {json.dumps(hosts(admin))}")


if __name__ == "__main__":
    sys.exit(main())
