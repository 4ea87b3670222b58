"""A tenant with one agent on real servers, and control processes to hear it."""

from __future__ import annotations

import asyncio
import base64
import os
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import redis.asyncio

from iotistica import keys, mqtt
from iotistica.api import duties
from iotistica.api.control import Control
from iotistica.api.duties import Means
from iotistica.api.families import Family
from iotistica.api.link import session_options
from iotistica.settings import Settings
from iotistica.spool import Spool
from iotistica.store.pool import open_pool
from iotistica.streams import Streams


def short(identifier: str) -> str:
    """Identifier in a topic (reference section 1.1), without the code under test."""
    raw = bytes.fromhex(identifier.replace("-", ""))
    return base64.urlsafe_b64encode(raw).decode().rstrip("=")


async def until(holds: Callable[[], Awaitable[Any]], timeout_s: float = 20.0) -> Any:
    """Wait for a condition; its value."""
    async with asyncio.timeout(timeout_s):
        while not (value := await holds()):
            await asyncio.sleep(0.01)
        return value


@dataclass
class Place:
    """Everything that a test of the control process looks at."""

    broker: Any
    postgres: Any
    tenant: str
    agent: str
    settings: Settings
    redis: redis.asyncio.Redis
    database: asyncpg.Connection
    agent_url: str

    def topic(self, rest: str) -> str:
        return f"i/{short(self.tenant)}/a/{short(self.agent)}/{rest}"

    @asynccontextmanager
    async def control(
        self,
        name: str = "control-0",
        made: Callable[[Means], Mapping[str, Family]] | None = None,
        **changes: Any,
    ) -> AsyncIterator[Control]:
        """A control process within this one, connected; until the end of the context."""
        settings = self.settings.model_copy(update=changes)
        pool = await open_pool(settings, application_name="control")
        streams = Streams(settings.require("redis_url"))
        spool = Spool(settings.spool_root("api"), max_bytes=settings.api_spool_max_bytes)
        executor = ThreadPoolExecutor(1)
        control = Control(
            settings,
            name=name,
            pool=pool,
            streams=streams,
            spool=spool,
            executor=executor,
            made=made or duties.families,
        )
        stop = asyncio.Event()
        task = asyncio.create_task(control.run(stop))

        async def connected() -> bool:
            return control.broker_error is None or task.done()

        try:
            await until(connected)
            yield control
        finally:
            stop.set()
            await task
            executor.shutdown()
            await streams.close()
            pool.terminate()
            spool.close()

    @asynccontextmanager
    async def publisher(self, url: str | None = None) -> AsyncIterator[mqtt.Session]:
        """A connection of the agent."""
        options = mqtt.parse_url(
            url or self.agent_url, client_id=f"p-{secrets.token_hex(4)}", clean_start=True
        )
        async with mqtt.connect(options) as session:
            yield session

    async def tell(self, rest: str, *values: Any) -> None:
        """Publish JSON values, or bytes as they are, and wait for the broker."""
        async with self.publisher() as agent:
            await agent.publish_many(
                (self.topic(rest), value if isinstance(value, bytes) else orjson.dumps(value))
                for value in values
            )

    async def letters(self, tenant: str | None = None) -> list[dict[bytes, bytes]]:
        """Dead letters, oldest first."""
        stream = keys.dead_letter_stream(tenant or self.tenant)
        entries = await self.redis.execute_command("XRANGE", stream, "-", "+")
        return [dict(zip(fields[::2], fields[1::2], strict=True)) for _, fields in entries]

    async def readings(self) -> list[tuple[str, dict[str, Any]]]:
        """Topic and payload of every message in the tenant's stream, in order."""
        found = []
        stream = keys.ingestion_stream(self.tenant)
        for _, fields in await self.redis.execute_command("XRANGE", stream, "-", "+"):
            for header, payload in zip(fields[::2], fields[1::2], strict=True):
                found.append((header.partition(b" ")[2].decode(), orjson.loads(payload)))
        return found

    @contextmanager
    def stopped_postgres(self) -> Iterator[None]:
        """PostgreSQL hangs: its processes are stopped, its connections stay open."""
        postmaster = self.postgres.child.pid
        frozen = [postmaster, *_children(postmaster)]
        for pid in frozen:
            os.kill(pid, signal.SIGSTOP)
        try:
            yield
        finally:
            for pid in reversed(frozen):
                os.kill(pid, signal.SIGCONT)


def _children(pid: int) -> list[int]:
    listed = Path(f"/proc/{pid}/task/{pid}/children").read_text()
    return [int(child) for child in listed.split()]


async def forget(settings: Settings, name: str) -> None:
    """Remove a persistent session, or it would take its share of the next test's messages."""
    kept = session_options(settings, name)
    gone = mqtt.Options(
        host=kept.host,
        port=kept.port,
        username=kept.username,
        password=kept.password,
        client_id=kept.client_id,
        clean_start=True,
    )
    async with mqtt.connect(gone):
        pass
