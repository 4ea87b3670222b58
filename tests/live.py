"""Clients of `/ws`, by a library that is not the one that serves it, and a server within a test."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

import redis.asyncio
from tests.rest import KEY, Rest
from websockets.asyncio.client import ClientConnection, connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from iotistica import supervisor, tasks
from iotistica.api.auth import issue_token
from iotistica.api.live.channels import Stores
from iotistica.api.live.entrance import Entrance
from iotistica.api.live.hub import Hub
from iotistica.api.live.listener import Listener
from iotistica.settings import Settings
from iotistica.store.live import LiveStore
from iotistica.store.pool import Pool
from iotistica.streams import Streams

WAIT_S = 15.0


@dataclass
class Client:
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

    async def first(self, channel: str, **more: Any) -> dict[str, Any]:
        """Subscribe to a value that is stored; its first message."""
        answer = await self.subscribe(channel, **more)
        assert answer["type"] == "subscribed", answer
        return await self.next(channel)

    async def end(self) -> tuple[int | None, str]:
        """Read until the other side closes; code and reason."""
        try:
            async with asyncio.timeout(WAIT_S):
                while True:
                    await self.socket.recv()
        except ConnectionClosed as error:
            return (None, "") if error.rcvd is None else (error.rcvd.code, error.rcvd.reason)


@asynccontextmanager
async def opened(url: str, **more: Any) -> AsyncIterator[Client]:
    """A socket that was greeted."""
    async with connect(url, compression=None, max_size=None, **more) as socket:
        client = Client(socket)
        assert (await client.next())["type"] == "connected"
        yield client


async def refused(url: str, **more: Any) -> tuple[int, dict[str, Any]]:
    """Status and body of an upgrade that is refused."""
    try:
        async with connect(url, **more):
            raise AssertionError("the upgrade was not refused")
    except InvalidStatus as error:
        return error.response.status_code, json.loads(error.response.body or b"{}")


def with_query(url: str, **query: str) -> str:
    return f"{url}?{urlencode(query)}"


@dataclass
class Place:
    """A server of sockets on real servers, within the test, and who publishes there."""

    url: str
    tenant: str
    redis: redis.asyncio.Redis
    stop: Callable[[], Awaitable[None]]
    """Stop the server, as its process does."""

    def token(self, **claims: Any) -> str:
        return issue_token(KEY, **{"tenant": self.tenant, **claims})

    def address(self, agent: str | None, **query: str) -> str:
        about = {"type": "global"} if agent is None else {"deviceUuid": agent}
        return with_query(self.url, **{"token": self.token(), **about, **query})

    def opened(self, agent: str | None, **query: str) -> Any:
        """A socket of the tenant's owner about an agent, or about the tenant."""
        return opened(self.address(agent, **query))

    async def publish(self, channel: str, document: Any) -> int:
        """How many connections of servers it reached."""
        payload = document if isinstance(document, bytes) else json.dumps(document)
        return int(await self.redis.publish(channel, payload))

    def channel(self, agent: str, what: str) -> str:
        return f"tenant:{{{self.tenant}}}:device:{agent}:{what}"


@asynccontextmanager
async def serving(
    rest: Rest, pool: Pool, streams: Streams, redis_url: str, **changes: Any
) -> AsyncIterator[Place]:
    """A server with these settings."""
    settings = Settings.load(redis_url=redis_url, **changes)
    store, hub = LiveStore(pool), Hub(redis_url)
    listener = Listener(
        table=rest.table,
        entrance=Entrance(
            rest.table, rest.identity.callers, store, cors_origins=settings.cors_origins
        ),
        hub=hub,
        stores=Stores(store, streams),
        settings=settings,
    )
    sock = supervisor.loopback_listener()
    await listener.start(sock)
    running = asyncio.create_task(hub.run())
    client = redis.asyncio.from_url(redis_url)
    url = f"ws://127.0.0.1:{sock.getsockname()[1]}/ws"
    try:
        yield Place(url, rest.tenant, client, listener.close)
    finally:
        await listener.close()
        await tasks.end([running])
        await client.aclose()
