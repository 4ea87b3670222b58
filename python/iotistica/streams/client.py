"""Connections to Redis, and what its errors mean."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import hiredis
from redis.asyncio import Redis
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import OutOfMemoryError, RedisError

from iotistica import metrics
from iotistica.errors import ConfigError, StoreUnavailable

Entry = tuple[bytes, list[bytes]]
"""Stream id and `[field, value, field, value, …]`, the form that `encode_batch` takes."""

Argument = str | bytes | int

_CONNECT_TIMEOUT_S = 5.0


def connect(url: str, *, timeout_s: float | None, protocol: int = 2) -> Redis:
    """A client that never retries by itself. Raises `ConfigError`."""
    try:
        client = Redis.from_url(
            url,
            protocol=protocol,
            decode_responses=False,
            socket_timeout=timeout_s,
            socket_connect_timeout=_CONNECT_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
    except ValueError as error:
        raise ConfigError(f"REDIS_URL is not a Redis URL: {error}") from None
    # redis-py would make a dict of every entry; the flat list is what Rust reads, as it arrives.
    for command in ("XREADGROUP", "XAUTOCLAIM", "XCLAIM", "XRANGE", "XREVRANGE"):
        client.response_callbacks.pop(command, None)
    return client


async def execute(client: Redis, *command: Argument) -> Any:
    """One command."""
    return await client.execute_command(*command)  # type: ignore[no-untyped-call]


async def transact(client: Redis, *commands: Sequence[Argument]) -> list[Any]:
    """All commands or none, in one MULTI; their replies.

    Large commands: redis-py packs them in Python, piece by piece, hiredis at once in C.
    """
    packed = [pack(one) for one in (("MULTI",), *commands, ("EXEC",))]
    pool: Any = client.connection_pool
    connection = await pool.get_connection()
    try:
        await connection.send_packed_command(packed)
        refused = None
        for _ in range(len(commands) + 1):
            try:
                await connection.read_response()
            except RedisError as error:
                refused = refused or error
                if not connection.is_connected:
                    raise
        # EXEC says only that something was refused before it; what and why came earlier.
        try:
            replies: list[Any] = await connection.read_response()
        except RedisError as error:
            raise refused or error from None
    finally:
        await pool.release(connection)
    for reply in replies:
        if isinstance(reply, Exception):
            raise reply
    return replies


def pack(command: Sequence[Argument]) -> bytes:
    """A command as it goes over the wire."""
    arguments: tuple[Any, ...] = tuple(command)
    packed: bytes = hiredis.pack_command(arguments)
    return packed


def entries(reply: list[Any]) -> list[Entry]:
    """Entries of a reply that lists them."""
    # Redis < 7 gives nil for the fields of an entry that was deleted while pending.
    return [(entry_id, fields) for entry_id, fields in reply if fields is not None]


@contextmanager
def unavailable(what: str) -> Iterator[None]:
    """Turn every error of Redis into `StoreUnavailable`."""
    try:
        yield
    except (RedisError, OSError) as error:
        if isinstance(error, OutOfMemoryError):
            metrics.REDIS_FULL.inc()
        raise StoreUnavailable(f"Redis could not {what}: {error}") from error
