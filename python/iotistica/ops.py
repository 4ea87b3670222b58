"""The operations listener of one process: `/health`, `/ready`, `/metrics` (reference 4.5)."""

from __future__ import annotations

import itertools
import re
import secrets
import socket
import time
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import orjson
from aiohttp import web

from iotistica import metrics
from iotistica.errors import ConfigError

METRICS_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_REQUEST_ID = re.compile(r"[\x21-\x7e]{1,128}")


def _nothing() -> tuple[str, ...]:
    return ()


def _no_details() -> dict[str, Any]:
    return {}


@dataclass(frozen=True, slots=True)
class Probe:
    """What a process says about itself; the functions are called for every request."""

    service: str
    ready: Callable[[], Sequence[str]] = _nothing
    """Reasons why it cannot do its work now, one sentence each; empty when it can."""
    broken: Callable[[], Sequence[str]] = _nothing
    """Reasons that only a restart can cure; makes `/health` answer 503."""
    details: Callable[[], Mapping[str, Any]] = _no_details
    """Further members of the `/health` body."""
    started: float = field(default_factory=time.monotonic)

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and body of `/health`."""
        reasons = list(self.broken())
        body = {
            "status": "unhealthy" if reasons else "healthy",
            "service": self.service,
            "timestamp": datetime.now(UTC).isoformat(timespec="milliseconds"),
            "uptime": round(time.monotonic() - self.started, 3),
            **self.details(),
        }
        if reasons:
            body["reasons"] = reasons
        return (503 if reasons else 200), body

    def readiness(self) -> tuple[int, dict[str, Any]]:
        """Status and body of `/ready`."""
        reasons = [*self.broken(), *self.ready()]
        return (503 if reasons else 200), {"ready": not reasons, "reasons": reasons}


_NUMBERS = itertools.count(secrets.randbits(64))


def new_request_id() -> str:
    """A request id of ours. Asking the kernel for a random one each time costs as much as the rest
    of a short request."""
    return f"{next(_NUMBERS) & (1 << 64) - 1:016x}"


def request_id(value: str | None) -> str | None:
    """The caller's request id when it is one printable word of at most 128 characters."""
    return value if value and _REQUEST_ID.fullmatch(value) else None


def _json(status: int, body: Mapping[str, Any]) -> web.Response:
    return web.Response(
        status=status, body=orjson.dumps(body), content_type="application/json", charset="utf-8"
    )


def _answer(probe: Probe, method: str, path: str) -> web.Response:
    if method not in ("GET", "HEAD"):
        response = _json(405, {"error": "Method not allowed", "message": f"{method} {path}"})
        response.headers["Allow"] = "GET, HEAD"
        return response
    match path:
        case "/health":
            return _json(*probe.health())
        case "/ready":
            return _json(*probe.readiness())
        case "/metrics":
            return web.Response(body=metrics.render(), headers={"Content-Type": METRICS_TYPE})
        case _:
            return _json(404, {"error": "Not found", "message": f"Route {method} {path} not found"})


@asynccontextmanager
async def serve(
    probe: Probe, *, host: str = "127.0.0.1", port: int = 0, sock: socket.socket | None = None
) -> AsyncIterator[str]:
    """Answer on `host:port`, or on a listening `sock`, while the context lasts; yields the URL.

    Raises `ConfigError` when the address cannot be taken.
    """

    async def handle(request: web.BaseRequest) -> web.Response:
        response = _answer(probe, request.method, request.path)
        if identifier := request_id(request.headers.get("x-request-id")):
            response.headers["x-request-id"] = identifier
        return response

    runner = web.ServerRunner(web.Server(handle, access_log=None))
    await runner.setup()
    try:
        site: web.BaseSite = (
            web.SockSite(runner, sock) if sock is not None else web.TCPSite(runner, host, port)
        )
        try:
            await site.start()
        except OSError as error:
            raise ConfigError(f"cannot listen on {host}:{port}: {error.strerror}") from None
        address = runner.addresses[0]
        yield f"http://{address[0]}:{address[1]}"
    finally:
        await runner.cleanup()
