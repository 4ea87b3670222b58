"""Redis: telemetry streams, dead letters and dictionaries. The only module that imports redis."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError, ResponseError

from iotistica import dictionaries, keys
from iotistica.errors import ConfigError, StoreUnavailable

Entry = tuple[bytes, list[bytes]]
"""Stream id and `[field, value, field, value, …]`, the form that `encode_batch` takes."""

_COMMAND_TIMEOUT_S = 5.0
_DICTIONARY_TTL_S = 30 * 86_400
_DICTIONARY_PARTS = ("", "version", "hash", "enums", "metrics", "agents")


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadLetter:
    """A message, or what is left of it, that can never pass; `data` is its original payload."""

    data: bytes
    topic: str | bytes
    original_id: str | bytes
    error: str
    reason: str
    stage: str
    failed_at: datetime
    agent: str = ""
    attempts: int = 0
    readings: int = 0

    def fields(self, tenant: str) -> list[str | bytes | int]:
        """Flat field list of its stream entry."""
        return [
            *("data", self.data, "topic", self.topic, "original_id", self.original_id),
            *("error", self.error, "reason", self.reason, "stage", self.stage),
            *("attempts", self.attempts, "failed_at", self.failed_at.isoformat()),
            *("tenant", tenant, "agent", self.agent, "readings", self.readings),
        ]


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDepth:
    """Entries of one tenant: in the stream, not yet delivered, not acknowledged, dead letters."""

    entries: int
    lag: int
    pending: int
    dead_letters: int


class Streams:
    """The streams of all tenants on one Redis. Every method raises `StoreUnavailable`, the
    constructor `ConfigError`.

    Nothing is retried here: whether to try again is decided once, by the caller.
    """

    def __init__(self, url: str) -> None:
        self._redis = _client(url, timeout_s=_COMMAND_TIMEOUT_S)
        # Blocking reads have connections of their own, so that no command waits behind one; the
        # time-out must outlast every BLOCK, or the client drops a reply that Redis has delivered.
        self._reader = _client(url, timeout_s=_COMMAND_TIMEOUT_S * 2)

    async def add(self, tenant: str, fields: Sequence[bytes]) -> bytes:
        """Append one entry of `[field, value, …]`; its id. Never trims."""
        with _unavailable("append to the stream"):
            command = ("XADD", keys.ingestion_stream(tenant), "*", *fields)
            entry_id: bytes = await _send_packed(self._redis, command)
            return entry_id

    async def ensure_group(self, tenant: str) -> None:
        """Create the stream and its consumer group from its first entry, where missing."""
        stream, group = keys.ingestion_stream(tenant), keys.device_writers_group(tenant)
        with _unavailable("create the consumer group"):
            try:
                await _execute(self._redis, "XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise

    async def read(self, tenant: str, consumer: str, *, count: int, block_ms: int) -> list[Entry]:
        """New entries for this consumer; waits up to `block_ms` (< 5 s) for the first."""
        reply = await self._group_command(
            tenant,
            *("XREADGROUP", "GROUP", keys.device_writers_group(tenant), consumer),
            *("COUNT", count, "BLOCK", block_ms, "STREAMS", keys.ingestion_stream(tenant), ">"),
        )
        return _entries(reply[0][1]) if reply else []

    async def claim(
        self, tenant: str, consumer: str, *, min_idle_ms: int, count: int
    ) -> list[Entry]:
        """Entries that another consumer read at least `min_idle_ms` ago and never settled."""
        reply = await self._group_command(
            tenant,
            *("XAUTOCLAIM", keys.ingestion_stream(tenant), keys.device_writers_group(tenant)),
            *(consumer, min_idle_ms, "0-0", "COUNT", count),
        )
        return _entries(reply[1]) if reply else []

    async def hold(self, tenant: str, consumer: str, ids: Sequence[bytes]) -> None:
        """Keep entries from being claimed by others for another idle time."""
        stream, group = keys.ingestion_stream(tenant), keys.device_writers_group(tenant)
        await self._group_command(tenant, "XCLAIM", stream, group, consumer, 0, *ids, "JUSTID")

    async def _group_command(self, tenant: str, *command: str | bytes | int) -> Any:
        with _unavailable("read the stream"):
            try:
                return await _execute(self._reader, *command)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
        # Redis came back empty, or somebody deleted the key: begin again from the first entry.
        await self.ensure_group(tenant)
        return None

    async def settle(
        self, tenant: str, ids: Sequence[bytes], letters: Sequence[DeadLetter] = ()
    ) -> None:
        """Acknowledge and remove entries, and write their dead letters, all or nothing.

        Call it only for what is committed: after it the entry exists nowhere else.
        """
        stream = keys.ingestion_stream(tenant)
        transaction = self._redis.pipeline(transaction=True)
        for letter in letters:
            _add_letter(transaction, tenant, letter)
        if ids:
            transaction.execute_command("XACK", stream, keys.device_writers_group(tenant), *ids)
            transaction.execute_command("XDEL", stream, *ids)
        with _unavailable("settle entries"):
            await transaction.execute()

    async def dead_letter(self, tenant: str, letters: Sequence[DeadLetter]) -> None:
        """Write dead letters of messages that never were in the stream."""
        await self.settle(tenant, (), letters)

    async def dead_letters(self, tenant: str, *, after: bytes, count: int) -> list[Entry]:
        """Dead letters younger than the id `after`, oldest first, at most `count`."""
        stream = keys.dead_letter_stream(tenant)
        with _unavailable("read dead letters"):
            return _entries(
                await _execute(self._redis, "XRANGE", stream, b"(" + after, "+", "COUNT", count)
            )

    async def last_dead_letter(self, tenant: str) -> bytes:
        """Id of the youngest dead letter; `0-0` where there is none."""
        stream = keys.dead_letter_stream(tenant)
        with _unavailable("read dead letters"):
            newest = await _execute(self._redis, "XREVRANGE", stream, "+", "-", "COUNT", 1)
        return bytes(newest[0][0]) if newest else b"0-0"

    async def depth(self, tenant: str) -> StreamDepth:
        """How full the tenant's streams are."""
        stream, group = keys.ingestion_stream(tenant), keys.device_writers_group(tenant)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xlen(stream)
        pipeline.xinfo_groups(stream)
        pipeline.xlen(keys.dead_letter_stream(tenant))
        with _unavailable("measure the streams"):
            entries, groups, dead_letters = await pipeline.execute(raise_on_error=False)
            for reply in (entries, dead_letters):
                if isinstance(reply, Exception):
                    raise reply
        ours = [row for row in _rows(groups) if row["name"] == group.encode()]
        pending = ours[0]["pending"] if ours else 0
        lag = ours[0].get("lag") if ours else entries
        # Redis forgets the lag of a group when entries were deleted ahead of it; as settled
        # entries leave the stream, what is there and not pending is exactly what is not read.
        lag = max(entries - pending, 0) if lag is None else lag
        return StreamDepth(entries=entries, lag=lag, pending=pending, dead_letters=dead_letters)

    async def put_dictionary(self, agent: str, message: bytes) -> None:
        """Store a `meta/dictionary` message as the reference does. Raises `BadRequest`."""
        parts = dictionaries.parse_message(message)
        transaction = self._redis.pipeline(transaction=True)
        for suffix in _DICTIONARY_PARTS:
            transaction.set(_dictionary_key(agent, suffix), parts[suffix], ex=_DICTIONARY_TTL_S)
        with _unavailable("store a dictionary"):
            await transaction.execute()

    async def dictionary(self, agent: str) -> tuple[int, bytes] | None:
        """Version and JSON of an agent's dictionary, as `Context.put_dictionary` takes them."""
        names = [_dictionary_key(agent, suffix) for suffix in _DICTIONARY_PARTS]
        with _unavailable("read a dictionary"):
            values = await _execute(self._redis, "MGET", *names)
        return dictionaries.for_context(dict(zip(_DICTIONARY_PARTS, values, strict=True)))

    async def ping(self) -> None:
        """Return when Redis answers."""
        with _unavailable("answer"):
            await _execute(self._redis, "PING")

    async def close(self) -> None:
        """Close every connection."""
        await self._reader.aclose()
        await self._redis.aclose()


def _client(url: str, *, timeout_s: float) -> Redis:
    try:
        client = Redis.from_url(
            url,
            protocol=2,
            decode_responses=False,
            socket_timeout=timeout_s,
            socket_connect_timeout=_COMMAND_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigError(f"REDIS_URL is not a Redis URL: {error}") from None
    # redis-py would make a dict of every entry; the flat list is what Rust reads, as it arrives.
    for command in ("XREADGROUP", "XAUTOCLAIM", "XCLAIM", "XRANGE", "XREVRANGE"):
        client.response_callbacks.pop(command, None)
    return client


async def _execute(client: Redis, *command: str | bytes | int) -> Any:
    return await client.execute_command(*command)  # type: ignore[no-untyped-call]


async def _send_packed(client: Redis, command: tuple[Any, ...]) -> Any:
    """Large commands: redis-py packs them in Python, piece by piece, hiredis at once in C."""
    packed = hiredis.pack_command(command)
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(packed)
        return await connection.read_response()
    finally:
        await pool.release(connection)


def _entries(reply: list[Any]) -> list[Entry]:
    # Redis < 7 gives nil for the fields of an entry that was deleted while pending.
    return [(entry_id, fields) for entry_id, fields in reply if fields is not None]


def _rows(reply: Any) -> list[dict[str, Any]]:
    return reply if isinstance(reply, list) else []


def _add_letter(transaction: Any, tenant: str, letter: DeadLetter) -> None:
    stream = keys.dead_letter_stream(tenant)
    transaction.execute_command("XADD", stream, "*", *letter.fields(tenant))


def _dictionary_key(agent: str, suffix: str) -> str:
    return f"{keys.dictionary(agent)}:{suffix}" if suffix else keys.dictionary(agent)


@contextmanager
def _unavailable(what: str) -> Iterator[None]:
    try:
        yield
    except (RedisError, OSError) as error:
        raise StoreUnavailable(f"Redis could not {what}: {error}") from error
