"""The streams of container logs: bounded, never trimmed. An entry leaves once it is stored."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from redis.asyncio import Redis
from redis.exceptions import ResponseError

from iotistica import keys
from iotistica.errors import StoreUnavailable
from iotistica.streams.client import Argument, Entry, entries, execute, unavailable

MOST_ENTRIES = 500_000
_BATCH_TTL_S = 86_400
_TAKEN = -1
_KNOWN = -2

# All entries or none, and a batch by its name once.
_ADD = """
if KEYS[2] and redis.call('EXISTS', KEYS[2]) == 1 then return -2 end
local most, ttl, count = tonumber(ARGV[1]), ARGV[2], tonumber(ARGV[3])
local waiting = redis.call('XLEN', KEYS[1])
if waiting + count > most then return waiting end
local at = 4
for _ = 1, count do
    local parts = tonumber(ARGV[at])
    redis.call('XADD', KEYS[1], '*', unpack(ARGV, at + 1, at + parts))
    at = at + parts + 1
end
if KEYS[2] then redis.call('SET', KEYS[2], '1', 'EX', ttl) end
return -1
"""
_DONE = """
redis.call('XACK', KEYS[1], ARGV[1], unpack(ARGV, 2))
return redis.call('XDEL', KEYS[1], unpack(ARGV, 2))
"""


class LogStreams:
    """Log streams of all tenants. Every method raises `StoreUnavailable`."""

    def __init__(self, redis: Redis, *, most: int = MOST_ENTRIES) -> None:
        self._redis = redis
        self._most = most

    async def add(
        self, tenant: str, lists: Sequence[Sequence[Argument]], *, agent: str = "", batch: str = ""
    ) -> bool:
        """Append entries of `[field, value, …]`; False where the batch of this name was taken."""
        names = [keys.log_stream(tenant)]
        if batch:
            names.append(keys.log_batch(tenant, agent, batch))
        parts: list[Argument] = []
        for fields in lists:
            parts += (len(fields), *fields)
        with unavailable("append logs"):
            # First, so that a writer may look in vain and never misses any.
            await execute(self._redis, "SADD", keys.LOG_TENANTS, tenant)
            limits = (self._most, _BATCH_TTL_S, len(lists))
            result = await execute(self._redis, "EVAL", _ADD, len(names), *names, *limits, *parts)
        if result >= 0:
            raise StoreUnavailable(
                f"the log stream of tenant {tenant!r} holds {result} entries, "
                f"at most {self._most} are allowed; is PostgreSQL away?"
            )
        return bool(result == _TAKEN)

    async def tenants(self) -> list[str]:
        """Tenants whose streams may have entries."""
        with unavailable("list the log streams"):
            found = await execute(self._redis, "SMEMBERS", keys.LOG_TENANTS)
        return sorted(tenant.decode() for tenant in found)

    async def lengths(self, tenants: Sequence[str]) -> dict[str, int]:
        """Entries of each stream."""
        pipeline = self._redis.pipeline(transaction=False)
        for tenant in tenants:
            pipeline.xlen(keys.log_stream(tenant))
        with unavailable("measure the log streams"):
            return dict(zip(tenants, await pipeline.execute(), strict=True))

    async def standing(self, tenant: str) -> dict[str, int | None]:
        """Entries of a stream: how many there are, may be, are being written, and wait unread."""
        stream = keys.log_stream(tenant)
        with unavailable("look at a log stream"):
            length = int(await execute(self._redis, "XLEN", stream))
            groups: list[Any] = []
            if length:
                groups = await execute(self._redis, "XINFO", "GROUPS", stream)
        found = [dict(zip(group[::2], group[1::2], strict=True)) for group in groups]
        name = keys.log_writers_group(tenant).encode()
        ours = next((group for group in found if group[b"name"] == name), {})
        return {
            "length": length,
            "limit": self._most,
            "pending": ours.get(b"pending", 0),
            "lag": ours.get(b"lag", length),
            "consumers": ours.get(b"consumers", 0),
        }

    async def rest(self, tenant: str) -> None:
        """Look at an empty stream no more, until something is appended."""
        with unavailable("look at a log stream"):
            await execute(self._redis, "SREM", keys.LOG_TENANTS, tenant)
            # Appended in between: then it is looked at again.
            if await execute(self._redis, "XLEN", keys.log_stream(tenant)):
                await execute(self._redis, "SADD", keys.LOG_TENANTS, tenant)

    async def read(
        self, tenant: str, consumer: str, *, count: int, again: bool = False
    ) -> list[Entry]:
        """New entries; with `again` those that this consumer read and never finished."""
        command: tuple[Argument, ...] = (
            *("XREADGROUP", "GROUP", keys.log_writers_group(tenant), consumer, "COUNT", count),
            *("STREAMS", keys.log_stream(tenant), "0" if again else ">"),
        )
        reply = await self._in_group(tenant, *command)
        return entries(reply[0][1]) if reply else []

    async def claim(
        self, tenant: str, consumer: str, *, min_idle_ms: int, count: int
    ) -> list[Entry]:
        """Take over entries that a consumer read so long ago and never finished."""
        stream, group = keys.log_stream(tenant), keys.log_writers_group(tenant)
        command = ("XAUTOCLAIM", stream, group, consumer, min_idle_ms, "0-0", "COUNT", count)
        return entries((await self._in_group(tenant, *command))[1])

    async def done(self, tenant: str, ids: Sequence[bytes]) -> None:
        """Remove entries that are in the table, or dead letters."""
        stream, group = keys.log_stream(tenant), keys.log_writers_group(tenant)
        if ids:
            with unavailable("remove written logs"):
                await execute(self._redis, "EVAL", _DONE, 1, stream, group, *ids)

    async def _in_group(self, tenant: str, *command: Argument) -> Any:
        with unavailable("read logs"):
            try:
                return await execute(self._redis, *command)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
            await self._make_group(tenant)
            return await execute(self._redis, *command)

    async def _make_group(self, tenant: str) -> None:
        stream, group = keys.log_stream(tenant), keys.log_writers_group(tenant)
        try:
            await execute(self._redis, "XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
        except ResponseError as error:
            if not str(error).startswith("BUSYGROUP"):
                raise
