"""A client of `/ws`, by a library that is not the one that serves it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from tests.cloud_api import AGENT, Api, token
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

WAIT_S = 10.0


@dataclass
class Listener:
    """One open socket."""

    socket: ClientConnection

    async def say(self, **command: Any) -> None:
        await self.socket.send(json.dumps(command))

    async def next(self, kind: str | None = None) -> dict[str, Any]:
        """The next message, or the next of a type."""
        async with asyncio.timeout(WAIT_S):
            while True:
                message: dict[str, Any] = json.loads(await self.socket.recv())
                if kind is None or message["type"] == kind:
                    return message

    async def subscribe(self, channel: str, **more: Any) -> dict[str, Any]:
        """Subscribe; the answer, `subscribed` or an error."""
        await self.say(type="subscribe", channel=channel, **more)
        while (answer := await self.next())["type"] not in ("subscribed", "error"):
            pass
        return answer

    async def end(self) -> tuple[int | None, str]:
        """Read until the other side closes; code and reason."""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    await self.socket.recv()
        except ConnectionClosed as error:
            return (None, "") if error.rcvd is None else (error.rcvd.code, error.rcvd.reason)


def address(api: Api, path: str = "/ws", **query: str) -> str:
    return f"{api.url.replace('http', 'ws', 1)}{path}?{urlencode(query)}"


@asynccontextmanager
async def opened(url: str, **more: Any) -> AsyncIterator[Listener]:
    """A socket that was greeted."""
    async with connect(url, compression=None, **more) as socket:
        listener = Listener(socket)
        assert (await listener.next())["type"] == "connected"
        yield listener


@asynccontextmanager
async def listening(
    api: Api, *, agent: str | None = AGENT, bearer: str | None = None, **more: Any
) -> AsyncIterator[Listener]:
    """A socket of the tenant's owner, about an agent or, without one, about the tenant."""
    about = {"type": "global"} if agent is None else {"deviceUuid": agent}
    async with opened(address(api, token=bearer or token(), **about), **more) as listener:
        yield listener


async def refused(url: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """Status and body of an upgrade that is refused."""
    try:
        async with connect(url, **more):
            raise AssertionError("the upgrade was not refused")
    except InvalidStatus as error:
        return error.response.status_code, json.loads(error.response.body or b"{}")
