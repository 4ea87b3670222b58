"""Reads the loss ledger, and what is in flight, in steps that hold no one up for long."""

from __future__ import annotations

from collections.abc import AsyncIterator, Collection, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from iotistica import keys, ledger
from iotistica._native import InvalidTopic, parse_topic
from iotistica.keys import Feed
from iotistica.streams.client import Argument, execute, unavailable
from iotistica.streams.scripts import script

Page = list[tuple[str, str, int]]
"""Agent, counter with its reason, number."""

MOST_ENTRIES = 5000
"""A stream with more is not counted: it would keep Redis busy for seconds in all."""

# An entry has up to 400 messages and 1 MiB, and costs Redis 0.8 ms (measured): 3 ms in a row.
_PAGE_ENTRIES = 4
_PAGE_FIELDS = 500
_PAGE_AGENTS = 200

_IN_FLIGHT = script("in_flight")
_FOLD_REST = script("fold_rest", "count")
_ALL = 1 << 40
_LAST_ID = """
local newest = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
return {redis.call('XLEN', KEYS[1]), newest[1] and newest[1][1] or '0-0'}
"""


@dataclass(slots=True)
class InFlight:
    """Messages that wait in the streams of a tenant, by agent."""

    entries: int = 0
    is_counted: bool = True
    """False where there are more than `MOST_ENTRIES`; then the rest is empty."""
    messages: dict[str, int] = field(default_factory=dict)
    """They were there when the count began."""
    added: dict[str, int] = field(default_factory=dict)
    """Came into a stream during the count, some of them from another one."""
    oldest_ms: dict[str, int] = field(default_factory=dict)
    """Reception of the oldest."""
    foreign: int = 0
    """Entries of other producers, in the form of the reference; nobody has accepted them."""


class Ledger:
    """The ledgers of all tenants. Every method raises `StoreUnavailable`."""

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def now_ms(self) -> int:
        """The clock of Redis, by which the ages of message numbers are told."""
        with unavailable("tell the time"):
            seconds, microseconds = await self._redis.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    async def epoch(self, tenant: str) -> str:
        """Id of the tenant's ledger; empty where it has none yet, or has vanished."""
        with unavailable("read the ledger"):
            found = await execute(self._redis, "HGET", keys.ledger(tenant), ledger.EPOCH)
        return found.decode() if found else ""

    async def begin(self, tenant: str, epoch: str) -> str:
        """Give the ledger an id where it has none; the id that it has."""
        with unavailable("begin a ledger"):
            await execute(self._redis, "HSETNX", keys.ledger(tenant), ledger.EPOCH, epoch)
        return await self.epoch(tenant)

    async def pages(self, tenant: str, agent: str | None = None) -> AsyncIterator[Page]:
        """The counters of all agents, or of one.

        What changes meanwhile is in the one counter and not yet in the other; a counter may come
        twice, the older number first.
        """
        await self._fold(tenant)
        async for page in self._scan(keys.ledger(tenant), _pattern(agent, "|*")):
            page.pop(ledger.EPOCH.encode(), None)
            yield [_counter(name, number) for name, number in page.items()]

    async def counts(self, tenant: str, agent: str | None = None) -> dict[str, dict[str, int]]:
        """The same, collected by agent."""
        found: dict[str, dict[str, int]] = {}
        async for page in self.pages(tenant, agent):
            for whose, counter, number in page:
                found.setdefault(whose, {})[counter] = number
        return found

    async def exact(
        self, tenant: str, agents: Sequence[str], counters: Collection[str]
    ) -> dict[str, dict[str, int]]:
        """The given counters of the given agents; those of one agent at one moment."""
        if not counters:
            return {agent: {} for agent in agents}
        found: dict[str, dict[str, int]] = {}
        names = sorted(counters)
        await self._fold(tenant)
        for start in range(0, len(agents), _PAGE_AGENTS):
            page = agents[start : start + _PAGE_AGENTS]
            pipeline = self._redis.pipeline()
            # What came since, which is little: the rest of these agents' counters has it already.
            pipeline.eval(*_folding(tenant, _ALL))
            for agent in page:
                asked = [ledger.field(agent, counter) for counter in names]
                pipeline.hmget(keys.ledger(tenant), asked)
            with unavailable("read the ledger"):
                _, *replies = await pipeline.execute()
            for agent, reply in zip(page, replies, strict=True):
                counted = zip(names, reply, strict=True)
                found[agent] = {name: int(number) for name, number in counted if number is not None}
        return found

    async def sequences(self, tenant: str, agent: str | None = None) -> dict[str, str]:
        """Message numbers that were seen, as text that `sequences.parse` reads."""
        found: dict[str, str] = {}
        async for page in self._scan(keys.ledger_sequences(tenant), _pattern(agent, "")):
            found.update((name.decode(), value.decode()) for name, value in page.items())
        return found

    async def sequences_of(self, tenant: str, agents: Sequence[str]) -> dict[str, str]:
        """Those of the given agents; empty for one that gives no numbers."""
        with unavailable("read the ledger"):
            found = await execute(self._redis, "HMGET", keys.ledger_sequences(tenant), *agents)
        return {
            agent: value.decode() if value else ""
            for agent, value in zip(agents, found, strict=True)
        }

    async def in_flight(self, tenant: str) -> InFlight:
        """Count the messages in the streams, without their payloads leaving Redis.

        Nothing that is there at the beginning and does not leave is missed: what moves from one
        stream to another is found again in `added`.
        """
        live, backfill = (keys.ingestion_stream(tenant, feed) for feed in Feed)
        parked = keys.parked_stream(tenant)
        found, ends = InFlight(), {}
        for stream in (parked, backfill, live):
            entries, ends[stream] = await self._eval(_LAST_ID, stream)
            found.entries += entries
        if found.entries > MOST_ENTRIES:
            found.is_counted = False
            return found
        for stream, end in ends.items():
            await self._count(stream, b"-", end, found, found.messages)
        await self._count(backfill, b"(" + ends[backfill], b"+", found, found.added)
        await self._count(parked, b"(" + ends[parked], b"+", found, found.added)
        if ends[parked] != b"0-0":  # what is parked goes back to the live stream
            await self._count(live, b"(" + ends[live], b"+", found, found.added)
        return found

    async def _fold(self, tenant: str) -> None:
        """Count what is in the journal now; what comes meanwhile is left to the next."""
        with unavailable("read the ledger"):
            writes = await execute(self._redis, "HLEN", keys.ledger_journal(tenant))
            while writes > 0:
                left = await execute(self._redis, "EVAL", *_folding(tenant, _PAGE_FIELDS))
                writes = min(writes - 1, left)

    async def _count(
        self, stream: str, start: bytes, end: bytes, found: InFlight, into: dict[str, int]
    ) -> None:
        while True:
            reply = await self._eval(_IN_FLIGHT, stream, start, end, _PAGE_ENTRIES)
            last, foreign, *groups = reply
            if last is None:
                return
            found.foreign += foreign
            for prefix, messages, oldest in _triples(groups):
                agent = _agent(prefix)
                into[agent] = into.get(agent, 0) + messages
                found.oldest_ms[agent] = min(found.oldest_ms.get(agent, oldest), oldest)
            start = b"(" + last

    async def _eval(self, script: str, stream: str, *arguments: Argument) -> Any:
        with unavailable("count what is in flight"):
            return await execute(self._redis, "EVAL", script, 1, stream, *arguments)

    async def _scan(self, key: str, match: tuple[str, ...]) -> AsyncIterator[dict[bytes, bytes]]:
        cursor: Any = 0
        while True:
            with unavailable("read the ledger"):
                cursor, page = await execute(
                    self._redis, "HSCAN", key, cursor, *match, "COUNT", _PAGE_FIELDS
                )
            yield page
            if not int(cursor):
                return


def _folding(tenant: str, most: int) -> tuple[str, int, str, str, int]:
    return _FOLD_REST, 2, keys.ledger_journal(tenant), keys.ledger(tenant), most


def _counter(name: bytes, number: bytes) -> tuple[str, str, int]:
    agent, _, counter = name.decode().rpartition("|")
    return agent, counter, int(number)


def _pattern(agent: str | None, rest: str) -> tuple[str, ...]:
    # A UUID, or nobody: nothing in it has a meaning in a pattern.
    return () if agent is None else ("MATCH", f"{agent}{rest}")


def _agent(prefix: bytes) -> str:
    """Whose account the messages of a topic `i/{T}/a/{A}` are on."""
    try:
        return ledger.agent_of(parse_topic(f"{prefix.decode()}/x").agent)
    except (InvalidTopic, UnicodeDecodeError):
        return ledger.NOBODY


def _triples(items: Sequence[Any]) -> Iterable[tuple[bytes, int, int]]:
    return zip(items[::3], items[1::3], items[2::3], strict=True)
