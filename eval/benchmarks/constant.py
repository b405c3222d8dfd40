"""What a service of ours is measured against: the same framework, and no work at all.

BentoML services that answer ``POST /v1/recommend`` with the bytes of one real answer. By the book, with
BentoML's defaults: ``Native`` through an endpoint of BentoML's own, ``Raw`` through a mounted ASGI
application that does nothing else. ``Floor`` is ``Raw`` configured as ours is (no access log, no tracing):
the least that any answer over this framework costs.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import bentoml

from serving.process import exit_with_parent

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

#: Environment variable with the path of the file that holds the constant answer.
ANSWER: Final = "BENCHMARK_CONSTANT_ANSWER"


@bentoml.service(name="Native")
class Native:
    """Answers through BentoML's own endpoint."""

    def __init__(self) -> None:
        exit_with_parent()
        self._answer: dict[str, Any] = json.loads(Path(os.environ[ANSWER]).read_text())

    @bentoml.api(route="/v1/recommend")  # type: ignore[untyped-decorator]
    async def recommend(
        self,
        customer_id: str,
        n: int = 10,
        exclude: list[str] | None = None,
        filters: dict[str, Any] | None = None,
        context: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        """Return the constant."""
        return self._answer


class _Constant:
    body = b""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        while (await receive()).get("more_body", False):
            pass
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(self.body))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": self.body})


_constant = _Constant()


class _Mounted:
    def __init__(self) -> None:
        exit_with_parent()
        _constant.body = Path(os.environ[ANSWER]).read_bytes()


@bentoml.asgi_app(_constant, path="/v1")
@bentoml.service(name="Raw")
class Raw(_Mounted):
    """Answers through a mounted ASGI application."""


@bentoml.asgi_app(_constant, path="/v1")
@bentoml.service(name="Floor", logging={"access": {"enabled": False}}, tracing={"excluded_urls": "v1"})
class Floor(_Mounted):
    """Answers as ``Raw`` does, configured as ours is."""
