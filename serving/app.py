"""The HTTP application under ``/v1``: routes, limits, keys, and the body of every error.

Plain ASGI, since it must own what frameworks like to own: each refusal has our body, the body is read no
further than the limit, and overload is told at once. A request takes what is served once and is
answered by that alone. Deliberately absent: what the answers are (``serving.answers``).
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import uuid
from collections.abc import Awaitable, Callable
from datetime import datetime
from functools import lru_cache
from ipaddress import ip_address
from time import perf_counter
from typing import Any, Final

import orjson
from starlette.types import Message, Receive, Scope, Send

from serving.answers import Answers
from serving.api import problem
from serving.errors import EventLogUnavailable
from serving.events import EventLog, ExposureBuffer
from serving.intake import Intake
from serving.metrics import Metrics
from serving.openapi import DOCUMENT_PATH, ENDPOINTS, REFUSALS, Endpoint, document
from serving.served import Served
from serving.settings import Settings
from serving.validation import InvalidRequest, parse, shown

log = logging.getLogger("nextbest")

Headers = list[tuple[bytes, bytes]]
Handler = Callable[[Any, Any, str], Awaitable[bytes]]
BODY_SECONDS: Final = 10.0
DISCARD_SECONDS: Final = 2.0
DISCARD_BYTES: Final = 64_000_000
#: Besides the document BentoML's own paths, which come here only with a method that BentoML does not answer.
_READ_ONLY: Final = (DOCUMENT_PATH, "/livez", "/readyz", "/metrics")
_RETRY: Final[Headers] = [(b"retry-after", b"1")]


class Refused(Exception):  # noqa: N818
    """A request that is answered with an error body."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        field: str | None = None,
        headers: Headers | None = None,
        code: str | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.headers = headers or []
        code = code or (REFUSALS[status][0] if status in REFUSALS else "not_found")
        self.body = orjson.dumps(problem(code, message, field))


class _Gone(Exception):  # noqa: N818
    """The client left before its request was complete."""


class Application:
    """The ASGI application.

    Parameters
    ----------
    settings
        Limits and keys.
    current
        Returns what is served now; None until there is a bundle.
    metrics
        Counts what was answered.
    clock
        Gives the instant of a request.
    event_log
        Takes feedback and live changes.
    exposures
        Takes what was shown; None records nothing.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        current: Callable[[], Served | None],
        metrics: Metrics,
        clock: Callable[[], datetime],
        event_log: EventLog,
        exposures: ExposureBuffer | None = None,
    ) -> None:
        self._settings = settings
        self._current = current
        self._metrics = metrics
        self._keys = [key.encode() for key in settings.api_keys]
        self._answers = Answers(metrics, clock, exposures)
        self._intake = Intake(event_log, metrics, clock)
        self._in_flight = 0
        self._document = orjson.dumps(document())
        self._routes: dict[str, tuple[Endpoint, Handler]] = {
            endpoint.path: (
                endpoint,
                getattr(self._answers if endpoint.needs_bundle else self._intake, endpoint.operation),
            )
            for endpoint in ENDPOINTS
        }

    @property
    def paths(self) -> list[str]:
        """Every path that is served."""
        return [*self._routes, DOCUMENT_PATH]

    def close(self) -> None:
        """Stop the worker threads."""
        self._answers.close()
        self._intake.close()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; see the ASGI specification."""
        if scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1000})
            return
        started = perf_counter()
        request_id = uuid.uuid4().hex
        path: str = scope["path"]
        headers: Headers = []
        unread = True

        async def reading() -> Message:
            nonlocal unread
            message = await receive()
            unread = message["type"] == "http.request" and message.get("more_body", False)
            return message

        try:
            status, body = 200, await self._answer(scope, reading, request_id)
        except Refused as refused:
            status, body, headers = refused.status, refused.body, refused.headers
        except _Gone:
            return
        except Exception:
            log.exception("request %s to %s failed", request_id, path)
            told = f"expected to answer, found an error of the service; its log has it under {request_id}"
            status, body = 500, orjson.dumps(problem("internal", told))
        # counted before the answer leaves, so that whoever has read it finds it counted
        route = path if path in self._routes or path == DOCUMENT_PATH else "other"
        self._metrics.answered(route, status, perf_counter() - started)
        start: Headers = [
            (b"content-type", b"application/json"),
            (b"content-length", str(len(body)).encode()),
            (b"x-request-id", request_id.encode()),
            *headers,
        ]
        await send({"type": "http.response.start", "status": status, "headers": start})
        body = b"" if scope["method"] == "HEAD" else body
        if unread and status >= 400:
            # the answer is out; closing on a client that still sends would reset it before it has read that
            await send({"type": "http.response.body", "body": body, "more_body": True})
            await _discard(reading, lambda: unread)
            body = b""
        await send({"type": "http.response.body", "body": body})

    async def _answer(self, scope: Scope, receive: Receive, request_id: str) -> bytes:
        given = dict(scope["headers"])
        self._admit(scope, given)
        endpoint, handler = self._route(scope)
        if endpoint is None or handler is None:
            return self._document
        if endpoint.is_local and not _is_loopback((scope.get("client") or ("", 0))[0]):
            raise Refused(403, f"expected a request to {endpoint.path} from this machine, found another")
        self._check_head(given)
        served = self._current()
        if served is None and endpoint.needs_bundle:
            raise Refused(503, "expected a verified bundle, found none loaded yet; try again", headers=_RETRY)
        limit = self._settings.concurrency_limit
        if self._in_flight >= limit:
            told = f"expected at most {limit} requests in flight, found more; try again"
            raise Refused(429, told, headers=_RETRY)
        self._in_flight += 1
        try:
            asked = parse(endpoint.request, await self._read(receive))
            return await handler(asked, served, request_id)
        except InvalidRequest as error:
            raise Refused(422, error.message, field=error.field) from None
        except EventLogUnavailable:
            told = "expected the event log to answer, found it unavailable; repeat the request as it is"
            raise Refused(503, told, headers=_RETRY, code="log_unavailable") from None
        finally:
            self._in_flight -= 1

    def _admit(self, scope: Scope, given: dict[bytes, bytes]) -> None:
        """Let in who may ask: bearers of a key, or this machine where no key is configured."""
        if self._keys:
            scheme, _, key = given.get(b"authorization", b"").partition(b" ")
            # a list, so that every key is compared, each in constant time
            known = [hmac.compare_digest(key.strip(), held) for held in self._keys]
            if scheme.lower() != b"bearer" or not any(known):
                told = "expected Authorization: Bearer with one of the service's keys, found none of them"
                raise Refused(401, told, headers=[(b"www-authenticate", b"Bearer")])
        elif not _is_loopback((scope.get("client") or ("", 0))[0]):
            raise Refused(
                403,
                "expected a request from this machine, since no keys are configured, found another; "
                "set NEXTBEST_API_KEYS to serve others",
            )

    def _route(self, scope: Scope) -> tuple[Endpoint | None, Handler | None]:
        """Return the endpoint and its handler; (None, None) is the document."""
        path, method = scope["path"], scope["method"]
        endpoint, handler = self._routes.get(path, (None, None))
        if endpoint is None and path not in _READ_ONLY:
            raise Refused(404, f"expected one of {', '.join(self.paths)}; found {path[:200]}")
        allowed = ["GET", "HEAD"] if endpoint is None else [endpoint.method]
        if method not in allowed:
            allow = ", ".join(allowed)
            raise Refused(
                405, f"expected {allow} {path}, found {method}", headers=[(b"allow", allow.encode())]
            )
        return endpoint, handler

    def _check_head(self, given: dict[bytes, bytes]) -> None:
        """Refuse what the headers alone give away.

        A missing content type is refused too: a browser sends a body without one, or with a form's, to
        another site without asking that site first.
        """
        media = given.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
        if media != "application/json":
            raise Refused(415, f"expected Content-Type: application/json, found {media[:200] or 'none'}")
        length = given.get(b"content-length", b"0")
        if length.isdigit() and int(length[:20]) > self._settings.request_limit_bytes:
            raise self._too_large(f"{length[:20].decode()} bytes")

    def _too_large(self, found: str) -> Refused:
        limit = self._settings.request_limit_bytes
        return Refused(413, f"expected a body of at most {limit} bytes, found {found}")

    async def _read(self, receive: Receive) -> Any:
        """Return the JSON object of the body."""
        try:
            async with asyncio.timeout(BODY_SECONDS):
                body = await self._received(receive)
        except TimeoutError:
            told = f"expected the body within {BODY_SECONDS:.0f} s, found it incomplete"
            raise Refused(408, told) from None
        if not body:
            raise Refused(400, "expected a JSON object, found an empty body")
        try:
            value = orjson.loads(body)
        except orjson.JSONDecodeError as error:
            raise Refused(400, f"expected a JSON object in UTF-8, found: {error}") from None
        if not isinstance(value, dict):
            raise Refused(400, f"expected a JSON object, found {shown(value)}")
        return value

    async def _received(self, receive: Receive) -> bytes:
        """Return the body, read no further than the limit."""
        parts: list[bytes] = []
        size = 0
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise _Gone
            part = message.get("body", b"")
            size += len(part)
            if size > self._settings.request_limit_bytes:
                raise self._too_large("more")
            parts.append(part)
            if not message.get("more_body", False):
                return b"".join(parts)


async def _discard(receive: Receive, unread: Callable[[], bool]) -> None:
    """Read what the client still sends, keeping nothing, for a short time and up to a limit."""
    left = DISCARD_BYTES
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(DISCARD_SECONDS):
            while unread() and left > 0:
                left -= len((await receive()).get("body", b""))


@lru_cache(maxsize=1024)
def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return False
