#!/usr/bin/env python3
"""Ask a real proxy and a real GPU host with the clients that people use for OpenAI's API.

Installs scripts/openai-clients.txt into .tools/ first, unless it is there. Without a pip that can do
so nothing is checked, which is an error with --strict only. Exits 0 if every check held.
"""

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.request
from pathlib import Path

import demo

VENV = demo.ROOT / ".tools" / "openai-clients"
REQUIREMENTS = Path(__file__).with_name("openai-clients.txt")
KEY = "client-key"
TEXTS = [f"Text number {number}: é🚀." for number in range(150)]
# Of an embedding of length 1, between texts that are computed with others and those that are not.
TOLERANCE = 1e-5
LIMIT = 100  # texts of a request, unless the host's operator says otherwise


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin-dir", type=Path, default=demo.ROOT / "target" / "debug")
    parser.add_argument("--models-dir", type=Path, default=demo.ROOT / ".models")
    parser.add_argument("--strict", action="store_true", help="fail if pip can't install the clients")
    args = parser.parse_args()
    os.environ["NO_PROXY"] = "127.0.0.1"  # whatever proxy the machine has for the rest
    if Path(sys.prefix) != VENV:
        if problem := install(VENV, REQUIREMENTS):
            print(f"{'FAILED' if args.strict else 'SKIPPED'}: no clients of OpenAI's API: {problem}")
            return int(args.strict)
        os.execv(VENV / "bin" / "python", [str(VENV / "bin" / "python"), *sys.argv])
    children: list[demo.Child] = []
    with tempfile.TemporaryDirectory(prefix="openai-clients-") as folder:
        try:
            for name, url in start(args, Path(folder), children).items():
                check(name, url)
        except BaseException:
            demo.stop_all(children)
            demo.print_logs(children)
            raise
        return 0 if demo.stop_all(children) else 1


def install(venv: Path, requirements: Path) -> str | None:
    """Makes a Python with these packages ready; why that is impossible, if it is."""
    wanted = hashlib.sha256(requirements.read_bytes()).hexdigest()
    stamp = venv / "installed"
    if stamp.is_file() and stamp.read_text() == wanted:
        return None
    pip = [str(venv / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    for command in (
        [sys.executable, "-m", "venv", "--clear", str(venv)],
        [*pip, "--only-binary", ":all:", "--requirement", str(requirements)],
    ):
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True)
        if done.returncode != 0:
            lines = (done.stderr + done.stdout).strip().splitlines()
            return lines[-1] if lines else f"{command[0]} ended with code {done.returncode}"
    stamp.write_text(wanted)
    return None


def start(args: argparse.Namespace, folder: Path, children: list[demo.Child]) -> dict[str, str]:
    """Starts a host and the proxy in front of it; their URLs."""
    host = demo.start_backend(args, folder, "host", KEY)
    children.append(host)
    urls = {"host": host.address("listening on")}
    demo.wait_until_loaded("host", urls["host"])
    config = folder / "gpu-bridge.yaml"
    keys = f"auth:\n  keys:\n    - {{name: app, key: {KEY}}}\n"
    config.write_text(demo.proxy_config(urls) + keys)
    command = [str(args.bin_dir / "gpu-bridge"), "serve", "--config", str(config)]
    proxy = demo.Child("proxy", command, folder, {demo.key_variable("host"): KEY})
    children.insert(0, proxy)
    urls["proxy"] = proxy.address("listening on")
    system = demo.System(urls["proxy"], proxy.address("admin on"))
    if not any(demo.is_healthy(system) for _ in demo.until(demo.START_SECONDS)):
        raise demo.DemoError("the proxy did not find its host")
    return urls


def check(name: str, url: str) -> None:
    expected = plainly(url, TEXTS[:LIMIT]) + plainly(url, TEXTS[LIMIT:])
    for check_client in (check_openai, check_openai_errors, check_langchain, check_llama_index):
        check_client(f"{url}/v1", expected)
        print(f"{name}: {check_client.__name__.removeprefix('check_')} is right")
    check_large_batch(name, f"{url}/v1", expected)
    print(f"{name}: large_batch is right")


def plainly(url: str, texts: list[str]) -> list[list[float]]:
    """As the plugin asks."""
    body = json.dumps({"texts": texts, "model": demo.MODEL}).encode()
    headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
    request = urllib.request.Request(f"{url}/embed", body, headers)
    with urllib.request.urlopen(request) as answer:
        return json.load(answer)["embeddings"]


def same(found: list[list[float]], expected: list[list[float]]) -> None:
    assert len(found) == len(expected), (len(found), len(expected))
    for row, wanted in zip(found, expected):
        assert len(row) == len(wanted) == 384, (len(row), len(wanted))
        assert max(abs(a - b) for a, b in zip(row, wanted)) < TOLERANCE


def check_openai(url: str, expected: list[list[float]]) -> None:
    from openai import AsyncOpenAI, OpenAI

    client = OpenAI(base_url=url, api_key=KEY, max_retries=0)
    ids = [model.id for model in client.models.list()]
    assert demo.MODEL in ids, ids
    for model in ids:
        assert client.models.retrieve(model).id == model
    few = {"model": demo.MODEL, "input": TEXTS[:3]}
    for answer in (
        client.embeddings.create(**few),  # in base64, of which it says nothing
        client.embeddings.create(**few, encoding_format="float", user="me"),
        client.embeddings.create(**few, dimensions=384),
        asyncio.run(AsyncOpenAI(base_url=url, api_key=KEY).embeddings.create(**few)),
    ):
        same([list(row.embedding) for row in answer.data], expected[:3])
        assert [row.index for row in answer.data] == [0, 1, 2]
        assert answer.model == demo.MODEL
        assert answer.usage.total_tokens > 3
    one = client.embeddings.create(model=demo.MODEL, input=TEXTS[0])
    same([list(one.data[0].embedding)], expected[:1])


def check_openai_errors(url: str, _: list[list[float]]) -> None:
    import openai

    client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
    stranger = openai.OpenAI(base_url=url, api_key="wrong", max_retries=0)
    model = {"model": demo.MODEL}
    for ask, expected, code, words in (
        (lambda: stranger.models.list(), openai.AuthenticationError, "invalid_api_key", ""),
        (
            lambda: client.embeddings.create(model="other", input="a"),
            openai.NotFoundError,
            "model_not_found",
            "other",
        ),
        (lambda: client.models.retrieve("o/x"), openai.NotFoundError, "model_not_found", ""),
        (
            lambda: client.embeddings.create(**model, input=[[1, 2]]),
            openai.BadRequestError,
            None,
            "check_embedding_ctx_length=False",
        ),
        (
            lambda: client.embeddings.create(**model, input="a", dimensions=7),
            openai.BadRequestError,
            None,
            "384 dimensions",
        ),
        (
            lambda: client.embeddings.create(**model, input="a", extra_body={"task": "x"}),
            openai.BadRequestError,
            None,
            "task",
        ),
    ):
        try:
            ask()
        except expected as error:
            assert error.code == code, (error.code, code)
            assert words in error.message, error.message
        else:
            raise AssertionError(f"no {expected.__name__}")


def check_large_batch(name: str, url: str, expected: list[list[float]]) -> None:
    """More texts than a host takes at once: it refuses them, and the proxy cuts them."""
    import openai

    client = openai.OpenAI(base_url=url, api_key=KEY, max_retries=0)
    try:
        answer = client.embeddings.create(model=demo.MODEL, input=TEXTS)
    except openai.BadRequestError as error:
        assert name == "host", error.message
        assert f"max batch size of {LIMIT}" in error.message, error.message
    else:
        assert name == "proxy", "a host took more than it may"
        same([list(row.embedding) for row in answer.data], expected)


def check_langchain(url: str, expected: list[list[float]]) -> None:
    from langchain_openai import OpenAIEmbeddings

    client = OpenAIEmbeddings(
        model=demo.MODEL,
        base_url=url,
        api_key=KEY,
        check_embedding_ctx_length=False,
        chunk_size=LIMIT,
    )
    same(client.embed_documents(TEXTS), expected)
    same([client.embed_query(TEXTS[0])], expected[:1])


def check_llama_index(url: str, expected: list[list[float]]) -> None:
    from llama_index.embeddings.openai import OpenAIEmbedding

    client = OpenAIEmbedding(
        model_name=demo.MODEL, api_base=url, api_key=KEY, embed_batch_size=LIMIT
    )
    same(client.get_text_embedding_batch(TEXTS), expected)
    same([client.get_query_embedding(TEXTS[0])], expected[:1])


if __name__ == "__main__":
    sys.exit(main())
