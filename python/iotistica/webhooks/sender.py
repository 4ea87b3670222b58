"""Calls a webhook: one request to an address that is allowed, however its name resolves."""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

from iotistica._native import __version__
from iotistica.errors import BadRequest
from iotistica.webhooks.address import check_url, is_public, literal
from iotistica.webhooks.signature import sign


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A request to make."""

    url: str
    secret: str
    delivery: int
    event: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a call."""

    status: int | None
    """Of the answer, if there was one."""
    error: str | None
    """Why it counts as failed."""
    seconds: float


class Guard(AbstractResolver):
    """Resolves names to the addresses that are allowed. The connection goes to one of these, so
    that no second look-up can lead elsewhere."""

    def __init__(self, *, private: bool) -> None:
        self._private = private
        self._resolver = aiohttp.ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC
    ) -> list[ResolveResult]:
        """Addresses of a host. Raises `OSError` where none is allowed."""
        found = await self._resolver.resolve(host, port, family)
        if self._private:
            return found
        allowed = [one for one in found if _is_allowed(one["host"])]
        if not allowed:
            raise OSError(errno.EHOSTUNREACH, f"{host} has no public address")
        return allowed

    async def close(self) -> None:
        """Nothing is open."""
        await self._resolver.close()


def _is_allowed(host: str) -> bool:
    address = literal(host.partition("%")[0])
    return address is not None and is_public(address)


class Sender:
    """Calls webhooks. Each call has a connection of its own, as they are few and far apart."""

    def __init__(self, *, timeout_s: float, private: bool) -> None:
        self._timeout_s = timeout_s
        self._private = private

    async def send(self, call: Call) -> Outcome:
        """Make a request; never raises for what its receiver does."""
        started = time.monotonic()
        status: int | None = None
        error: str | None = None
        try:
            check_url(call.url, private=self._private)
            status = await self._post(call)
        except BadRequest as wrong:
            error = str(wrong)
        except TimeoutError:
            error = f"no answer within {self._timeout_s:g} s"
        except (aiohttp.ClientError, OSError, ValueError) as wrong:
            error = f"{type(wrong).__name__}: {wrong}"
        else:
            error = None if 200 <= status < 300 else f"the answer is {status}; 2xx is expected"
        return Outcome(status, error, time.monotonic() - started)

    async def _post(self, call: Call) -> int:
        headers = {
            "content-type": "application/json",
            "user-agent": f"iotistica/{__version__}",
            "x-iotistica-event": call.event,
            "x-iotistica-delivery": str(call.delivery),
            "x-iotistica-signature": sign(call.secret, int(time.time()), call.body),
        }
        connector = aiohttp.TCPConnector(resolver=Guard(private=self._private), force_close=True)
        timeout = aiohttp.ClientTimeout(total=self._timeout_s)
        async with (
            aiohttp.ClientSession(connector=connector, timeout=timeout) as client,
            # A redirect is an answer: it could lead anywhere. Nor is the body of any interest.
            client.post(call.url, data=call.body, headers=headers, allow_redirects=False) as reply,
        ):
            return reply.status
