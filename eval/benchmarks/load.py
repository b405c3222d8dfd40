"""A small HTTP load client: keep-alive connections, one request at a time on each, and a clock.

Written on asyncio's protocols because the ready-made clients cost several times what they measure here.
It knows just enough HTTP/1.1 for JSON answers with a Content-Length.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from time import perf_counter, process_time
from urllib.parse import urlsplit

import numpy as np

from serving.errors import NextbestError


@dataclass(frozen=True)
class Answer:
    """One answer: its status, its head as it came, and its body."""

    status: int
    head: bytes
    body: bytes

    @property
    def retry_after(self) -> bool:
        """Whether it says when to try again."""
        return b"\r\nretry-after:" in self.head.lower()


@dataclass(frozen=True)
class Load:
    """What one run measured: seconds of each request, of the whole run, of the client's CPU, and the statuses seen."""

    seconds: tuple[float, ...]
    elapsed: float
    client: float
    statuses: tuple[int, ...]

    @property
    def throughput(self) -> float:
        """Requests a second."""
        return len(self.seconds) / self.elapsed

    @property
    def busy(self) -> float:
        """Share of the time in which the client itself was at work; near 1 it measures the client."""
        return self.client / self.elapsed

    def percentile_ms(self, percent: float) -> float:
        """Return a percentile of the latency in milliseconds."""
        return float(np.percentile(self.seconds, percent)) * 1000.0


def request(url: str, body: bytes) -> bytes:
    """Return the bytes of one POST of JSON."""
    parts = urlsplit(url)
    head = (
        f"POST {parts.path} HTTP/1.1\r\nHost: {parts.netloc}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


def run(url: str, bodies: Sequence[bytes], *, concurrency: int) -> Load:
    """Post every body to ``url`` over ``concurrency`` connections and return what it took."""
    return asyncio.run(_run(url, bodies, concurrency))


async def _run(url: str, bodies: Sequence[bytes], concurrency: int) -> Load:
    connections = [await connect(url) for _ in range(concurrency)]
    waiting = iter([request(url, body) for body in bodies])
    started, before = perf_counter(), process_time()
    parted = await asyncio.gather(*(_client(connection, waiting) for connection in connections))
    elapsed, client = perf_counter() - started, process_time() - before
    for connection in connections:
        connection.close()
    timed = [pair for part in parted for pair in part]
    return Load(
        tuple(seconds for seconds, _ in timed),
        elapsed,
        client,
        tuple(sorted({status for _, status in timed})),
    )


async def connect(url: str) -> Connection:
    """Connect to the host of ``url``; OSError when nobody listens."""
    parts = urlsplit(url)
    loop = asyncio.get_running_loop()
    return (await loop.create_connection(Connection, parts.hostname or "", parts.port or 80))[1]


async def _client(connection: Connection, waiting: Iterator[bytes]) -> list[tuple[float, int]]:
    timed: list[tuple[float, int]] = []
    for wanted in waiting:
        started = perf_counter()
        answer = await connection.ask(wanted)
        timed.append((perf_counter() - started, answer.status))
    return timed


class Connection(asyncio.Protocol):
    """One connection, for one request at a time; an answer is complete when its declared length has come."""

    def __init__(self) -> None:
        self._held = b""
        self._transport: asyncio.Transport | None = None
        self._answer: asyncio.Future[Answer] | None = None

    def ask(self, wanted: bytes) -> asyncio.Future[Answer]:
        """Send a request; the future gives its answer, NextbestError when the connection closes before."""
        self._answer = asyncio.get_running_loop().create_future()
        if self._transport is None or not self.is_open:
            self._answer.set_exception(_closed())
        else:
            self._transport.write(wanted)
        return self._answer

    @property
    def is_open(self) -> bool:
        """Whether it can be asked: a server closes what is idle for long."""
        return self._transport is not None and not self._transport.is_closing()

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio."""
        assert isinstance(transport, asyncio.Transport)  # what create_connection makes
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio."""
        if self._answer is not None and not self._answer.done():
            self._answer.set_exception(_closed())

    def data_received(self, data: bytes) -> None:
        """See asyncio."""
        self._held += data
        head = self._held.find(b"\r\n\r\n")
        if head < 0 or self._answer is None or self._answer.done():
            return
        at = self._held.lower().find(b"content-length:", 0, head)
        end = self._held.find(b"\r\n", at)
        size = int(self._held[at + 15 : end]) if at >= 0 else 0
        if len(self._held) >= head + 4 + size:
            answer = Answer(int(self._held[9:12]), self._held[:head], self._held[head + 4 : head + 4 + size])
            self._held = self._held[head + 4 + size :]
            self._answer.set_result(answer)


def _closed() -> NextbestError:
    return NextbestError("expected an answer, found the connection closed; look into the service's log")
