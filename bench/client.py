"""The HTTP client: sends prepared requests on kept-alive connections and takes the times.

One process and the same code for every service. A refusal (503) is sent again at once, and its time
counts: slots are part of the service. Anything else but 200 ends the benchmark.
"""

import http.client
import json
import queue
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

TIMEOUT_SECONDS = 300
OK, BUSY = 200, 503


class AnswerError(Exception):
    """A service answered what it must not."""


@dataclass(frozen=True)
class Request:
    """A POST, ready to be sent; `items` are its texts or pairs."""

    path: str
    body: bytes
    items: int


@dataclass(frozen=True)
class Load:
    """How a number of requests went."""

    latencies: tuple[float, ...]  # seconds from sending to the answer's last byte
    seconds: float  # from the first request's start to the last one's end
    items: int
    refusals: int
    first_answer: bytes  # to the first request

    @property
    def items_per_second(self) -> float:
        return self.items / self.seconds


def send(address: str, request: Request) -> tuple[int, bytes]:
    """Sends one request on a connection of its own; status and body of the answer."""
    link = connect(address)
    try:
        return exchange(link, request)
    finally:
        link.close()


def send_all(address: str, requests: Sequence[Request], clients: int) -> Load:
    """Sends all of `requests` once, `clients` at a time."""
    waiting: queue.SimpleQueue[tuple[int, Request]] = queue.SimpleQueue()
    for numbered in enumerate(requests):
        waiting.put(numbered)
    start = threading.Barrier(clients + 1)
    with ThreadPoolExecutor(clients) as threads:
        futures = [threads.submit(Client(address).run, waiting, start) for _ in range(clients)]
        start.wait()
        began = time.perf_counter()
        done = [future.result() for future in futures]
    return Load(
        latencies=tuple(latency for client in done for latency in client.latencies),
        seconds=max(client.ended for client in done) - began,
        items=sum(request.items for request in requests),
        refusals=sum(client.refusals for client in done),
        first_answer=next(client.first_answer for client in done if client.first_answer),
    )


class Client:
    """One of those that send at the same time."""

    def __init__(self, address: str):
        self.latencies: list[float] = []
        self.refusals = 0
        self.ended = 0.0
        self.first_answer = b""
        self._link = connect(address)

    def run(
        self, waiting: "queue.SimpleQueue[tuple[int, Request]]", start: threading.Barrier
    ) -> "Client":
        """Takes requests from `waiting` until there are none."""
        start.wait()
        try:
            while True:
                self._one(*waiting.get_nowait())
        except queue.Empty:
            return self
        finally:
            self.ended = time.perf_counter()
            self._link.close()

    def _one(self, number: int, request: Request) -> None:
        began = time.perf_counter()
        status, body = exchange(self._link, request)
        while status == BUSY:
            self.refusals += 1
            status, body = exchange(self._link, request)
        self.latencies.append(time.perf_counter() - began)
        if status != OK:
            raise AnswerError(f"{request.path} answered {status}: {body[:500]!r}")
        if number == 0:
            self.first_answer = body


def connect(address: str) -> http.client.HTTPConnection:
    """An open connection, so that requests don't pay for opening it."""
    link = http.client.HTTPConnection(address, timeout=TIMEOUT_SECONDS)
    link.connect()
    return link


def exchange(link: http.client.HTTPConnection, request: Request) -> tuple[int, bytes]:
    link.request("POST", request.path, request.body, {"Content-Type": "application/json"})
    response = link.getresponse()
    return response.status, response.read()


def json_request(path: str, payload: object, items: int) -> Request:
    return Request(path, json.dumps(payload).encode(), items)
