"""The telemetry streams of all tenants, and what leaves them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import ormsgpack
from redis.exceptions import ResponseError

from iotistica import keys
from iotistica._native import Accepted
from iotistica.keys import Feed
from iotistica.sequences import MOST_NUMBER, Range, run_text
from iotistica.settings import Settings
from iotistica.streams.acceptance import Acceptance
from iotistica.streams.broker import BrokerFigures
from iotistica.streams.channels import Channels
from iotistica.streams.client import (
    Argument,
    Entry,
    connect,
    entries,
    execute,
    transact,
    unavailable,
)
from iotistica.streams.dictionaries import Dictionaries
from iotistica.streams.ledger import Ledger
from iotistica.streams.letter import DeadLetter
from iotistica.streams.letters import Letters
from iotistica.streams.logs import MOST_ENTRIES, LogStreams
from iotistica.streams.outbox import MOST_MESSAGES, Outbox
from iotistica.streams.parking import Bay, Parking
from iotistica.streams.scripts import script
from iotistica.streams.topics import MOST_TOPICS, Topics
from iotistica.streams.watch import unread

_COMMAND_TIMEOUT_S = 5.0
_AT_ONCE = 256

_SETTLE = script("settle", "sequences", "count")
_COUNT = script("add_counts", "count")
FIRST = b"0-0"
"""Below every id of an entry."""

_REMOVE_CONSUMERS = """
local removed, rows = {}, redis.pcall('XINFO', 'CONSUMERS', KEYS[1], ARGV[1])
if rows.err then return removed end -- the stream or its group is gone
for _, row in ipairs(rows) do
    local consumer = {}
    for i = 1, #row, 2 do consumer[row[i]] = row[i + 1] end
    local named = ARGV[4] == '' or consumer.name == ARGV[4]
    if named and consumer.name ~= ARGV[3] and consumer.pending == 0
        and consumer.idle >= tonumber(ARGV[2]) then
        redis.call('XGROUP', 'DELCONSUMER', KEYS[1], ARGV[1], consumer.name)
        removed[#removed + 1] = consumer.name
    end
end
return removed
"""

Counts = Mapping[str, int]
"""Fields of a tenant's ledger, and by how much they grow."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamDepth:
    """Entries of one tenant: in the stream, not yet delivered, not acknowledged, dead letters."""

    entries: int
    lag: int
    pending: int
    dead_letters: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Settlement:
    """Entries that are done, and what they leave behind."""

    ids: Sequence[bytes] = ()
    letters: Sequence[DeadLetter] = ()
    backfill: Sequence[Sequence[bytes]] = ()
    """Entries, as field lists, that go on in the backfill stream."""
    parked: Sequence[Bay] = ()
    """Messages that wait for a dictionary."""
    counts: Counts = field(default_factory=dict)
    sequences: Mapping[str, Sequence[Range]] = field(default_factory=dict)
    """Numbers of the messages (`msgId`) that are done, by agent, as ranges; merged where `counts`
    are counted."""
    spooled: str = ""
    """Name of the batch on disk that holds the entries from now on."""
    unspooled: str = ""
    """Name of the batch on disk that is done, of which `ids` are the entries; what it leaves is
    written once, however often this is called."""
    unspooled_counts: Counts = field(default_factory=dict)
    """Counted where the batch was once settled as `spooled`."""

    def arguments(self, tenant: str) -> Iterator[Argument]:
        """What `settle.lua` reads, after its keys."""
        yield keys.device_writers_group(tenant)
        yield from _led(self.ids)
        letters = [letter.fields(tenant) for letter in self.letters]
        parked: list[Sequence[Argument]] = [(bay.note(), *bay.fields) for bay in self.parked]
        for lists in (letters, self.backfill, parked):
            yield len(lists)
            for fields in lists:
                yield from _led(fields)
        yield from _led(_flat(self.counts))
        yield from _led(_flat(self._numbers()))
        yield self.spooled or self.unspooled
        yield "put" if self.spooled else "take" if self.unspooled else ""
        yield from _led(_flat(self.unspooled_counts))

    def _numbers(self) -> dict[str, str]:
        """Ranges as text, without what can be no count of messages."""
        counts = {
            agent: run_text(one for one in ranges if 0 <= one[0] <= one[1] <= MOST_NUMBER)
            for agent, ranges in self.sequences.items()
        }
        return {agent: ranges for agent, ranges in counts.items() if ranges}


class Streams:
    """The streams of all tenants on one Redis. Every method raises `StoreUnavailable`, the
    constructor `ConfigError`.

    Nothing is retried here: whether to try again is decided once, by the caller.
    """

    def __init__(
        self,
        url: str,
        *,
        outbox_most: int = MOST_MESSAGES,
        logs_most: int = MOST_ENTRIES,
        topics_most: int = MOST_TOPICS,
    ) -> None:
        self._redis = connect(url, timeout_s=_COMMAND_TIMEOUT_S)
        # Blocking reads have connections of their own, so that no command waits behind one; the
        # time-out must outlast every BLOCK, or the client drops a reply that Redis has delivered.
        self._reader = connect(url, timeout_s=_COMMAND_TIMEOUT_S * 2)
        self.ledger = Ledger(self._redis)
        self.letters = Letters(self._redis)
        self.channels = Channels(self._redis)
        self.dictionaries = Dictionaries(self._redis)
        self.parking = Parking(self._redis)
        self.logs = LogStreams(self._redis, most=logs_most)
        self.outbox = Outbox(self._redis, self._reader, most=outbox_most)
        self.topics = Topics(self._redis, most=topics_most)
        self.broker = BrokerFigures(self._redis)
        self._acceptance = Acceptance()
        self.on_lost: Callable[[str, Feed], None] = lambda tenant, feed: None
        """Is told of a consumer group that was gone and has been made again."""

    @classmethod
    def of(cls, settings: Settings) -> Streams:
        """The streams of a process, with the bounds that its settings give."""
        return cls(
            settings.require("redis_url"),
            outbox_most=settings.outbox_max_messages,
            logs_most=settings.log_stream_max_entries,
            topics_most=settings.topics_max,
        )

    async def add(
        self,
        tenant: str,
        *entries: Sequence[bytes],
        counts: Counts | None = None,
        feed: Feed = Feed.LIVE,
    ) -> bytes:
        """Append entries of `[field, value, …]` and count them, all or nothing; the first id.

        Never trims.
        """
        stream = keys.ingestion_stream(tenant, feed)
        commands: list[Sequence[Argument]] = [("XADD", stream, "*", *fields) for fields in entries]
        if counts:
            commands.append(_counting(tenant, counts))
        with unavailable("append to the stream"):
            entry_id: bytes = (await transact(self._redis, *commands))[0]
            return entry_id

    async def accept(
        self, tenant: str, *entries: Sequence[bytes], counts: Accepted, feed: Feed = Feed.LIVE
    ) -> bytes:
        """Append entries of messages that came from the broker, and count these, all or nothing;
        the first id.
        """
        stream = keys.ingestion_stream(tenant, feed)
        name, counting = self._acceptance.commands(tenant, counts)
        commands: list[Sequence[Argument]] = [("XADD", stream, "*", *fields) for fields in entries]
        with unavailable("append to the stream"):
            entry_id: bytes = (await transact(self._redis, *commands, *counting))[0]
        self._acceptance.written(tenant, name, counts)
        return entry_id

    async def ensure_group(self, tenant: str, feed: Feed = Feed.LIVE) -> bool:
        """Create the stream and its consumer group from its first entry, where missing.

        Gives whether it was missing: of several processes that try, one is told so.
        """
        stream, group = keys.ingestion_stream(tenant, feed), keys.device_writers_group(tenant)
        with unavailable("create the consumer group"):
            try:
                await execute(self._redis, "XGROUP", "CREATE", stream, group, "0", "MKSTREAM")
            except ResponseError as error:
                if not str(error).startswith("BUSYGROUP"):
                    raise
                return False
        return True

    async def restore_group(self, tenant: str, feed: Feed = Feed.LIVE) -> None:
        """Create a group that was there before: Redis came back empty, or somebody deleted the key.

        It begins again from the first entry.
        """
        if await self.ensure_group(tenant, feed):
            self.on_lost(tenant, feed)

    async def read(
        self, tenant: str, consumer: str, *, count: int, block_ms: int, feed: Feed = Feed.LIVE
    ) -> list[Entry]:
        """New entries for this consumer; waits up to `block_ms` (< 5 s) for the first.

        0 does not wait.
        """
        block: tuple[Argument, ...] = ("BLOCK", block_ms) if block_ms else ()
        command: tuple[Argument, ...] = (
            *("XREADGROUP", "GROUP", keys.device_writers_group(tenant), consumer),
            *("COUNT", count, *block, "STREAMS", keys.ingestion_stream(tenant, feed), ">"),
        )
        reply = await self._group_command(tenant, feed, *command)
        return entries(reply[0][1]) if reply else []

    async def claim(
        self,
        tenant: str,
        consumer: str,
        *,
        min_idle_ms: int,
        count: int,
        start: bytes = FIRST,
        feed: Feed = Feed.LIVE,
    ) -> tuple[list[Entry], bytes]:
        """Entries that a consumer read at least `min_idle_ms` ago and never settled, one page.

        Also gives where the next page starts: `FIRST` when all have been looked at.
        """
        command: tuple[Argument, ...] = (
            *("XAUTOCLAIM", keys.ingestion_stream(tenant, feed)),
            *(keys.device_writers_group(tenant), consumer, min_idle_ms, start, "COUNT", count),
        )
        reply = await self._group_command(tenant, feed, *command)
        return (entries(reply[1]), reply[0]) if reply else ([], FIRST)

    async def remove_consumers(
        self,
        tenant: str,
        *,
        min_idle_ms: int,
        keep: str = "",
        only: str = "",
        feed: Feed = Feed.LIVE,
    ) -> list[bytes]:
        """Remove consumers that hold no entries and did nothing for `min_idle_ms`; their names.

        One script, so that none is removed that has just read: its entries would be nobody's.
        """
        stream, group = keys.ingestion_stream(tenant, feed), keys.device_writers_group(tenant)
        with unavailable("remove consumers"):
            removed: list[bytes] = await execute(
                self._redis,
                *("EVAL", _REMOVE_CONSUMERS, 1, stream, group, min_idle_ms, keep, only),
            )
            return removed

    async def hold(
        self, tenant: str, consumer: str, ids: Sequence[bytes], *, feed: Feed = Feed.LIVE
    ) -> None:
        """Keep entries from being claimed by others for another idle time."""
        stream, group = keys.ingestion_stream(tenant, feed), keys.device_writers_group(tenant)
        await self._group_command(
            tenant, feed, "XCLAIM", stream, group, consumer, 0, *ids, "JUSTID"
        )

    async def _group_command(self, tenant: str, feed: Feed, *command: Argument) -> Any:
        with unavailable("read the stream"):
            try:
                return await execute(self._reader, *command)
            except ResponseError as error:
                if not str(error).startswith("NOGROUP"):
                    raise
        await self.restore_group(tenant, feed)
        return None

    async def settle(
        self, tenant: str, settlement: Settlement, *, feed: Feed = Feed.LIVE
    ) -> list[bytes]:
        """Acknowledge and remove entries and write what they leave behind, all or nothing.

        Call it only for what is committed, or on disk: after it the entry exists nowhere else.
        Gives the ids that were settled before; where there is one, nothing was done. So the call
        may be repeated when its reply was lost.
        """
        redis_keys = (
            keys.ingestion_stream(tenant, feed),
            keys.dead_letter_stream(tenant),
            keys.ingestion_stream(tenant, Feed.BACKFILL),
            keys.ledger(tenant),
            keys.spooled_batches(tenant),
            keys.ledger_sequences(tenant),
            keys.parked_stream(tenant),
            keys.parked_index(tenant),
        )
        command = ("EVAL", _SETTLE, len(redis_keys), *redis_keys, *settlement.arguments(tenant))
        with unavailable("settle entries"):
            gone: list[bytes] | None = (await transact(self._redis, command))[0]
            return gone or []

    async def forget_spooled(self, tenant: str, batch: str) -> None:
        """Forget a batch whose file is gone."""
        with unavailable("forget a batch"):
            await execute(self._redis, "HDEL", keys.spooled_batches(tenant), batch)

    async def dead_letter(
        self, tenant: str, letters: Sequence[DeadLetter], counts: Counts | None = None
    ) -> None:
        """Write dead letters of messages that never were in the stream."""
        await self.settle(tenant, Settlement(letters=letters, counts=counts or {}))

    async def add_letter(self, tenant: str, fields: Sequence[bytes], *, counts: Counts) -> None:
        """Write a dead letter that was laid by as its field list, and count it."""
        with unavailable("write a dead letter"):
            await transact(
                self._redis,
                ("XADD", keys.dead_letter_stream(tenant), "*", *fields),
                _counting(tenant, counts),
            )

    async def dead_letters(self, tenant: str, *, after: bytes, count: int) -> list[Entry]:
        """Dead letters younger than the id `after`, oldest first, at most `count`."""
        stream = keys.dead_letter_stream(tenant)
        with unavailable("read dead letters"):
            return entries(
                await execute(self._redis, "XRANGE", stream, b"(" + after, "+", "COUNT", count)
            )

    async def last_dead_letter(self, tenant: str) -> bytes:
        """Id of the youngest dead letter; `0-0` where there is none."""
        stream = keys.dead_letter_stream(tenant)
        with unavailable("read dead letters"):
            newest = await execute(self._redis, "XREVRANGE", stream, "+", "-", "COUNT", 1)
        return bytes(newest[0][0]) if newest else b"0-0"

    async def depth(self, tenant: str, feed: Feed = Feed.LIVE) -> StreamDepth:
        """How full the tenant's streams are."""
        stream, group = keys.ingestion_stream(tenant, feed), keys.device_writers_group(tenant)
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.xlen(stream)
        pipeline.xinfo_groups(stream)
        pipeline.xlen(keys.dead_letter_stream(tenant))
        with unavailable("measure the streams"):
            length, groups, dead_letters = await pipeline.execute(raise_on_error=False)
            for reply in (length, dead_letters):
                if isinstance(reply, Exception):
                    raise reply
        ours = [row for row in _rows(groups) if row["name"] == group.encode()]
        pending = ours[0]["pending"] if ours else 0
        lag = ours[0].get("lag") if ours else length
        lag = unread(entries=length, pending=pending, lag=lag)
        return StreamDepth(entries=length, lag=lag, pending=pending, dead_letters=dead_letters)

    async def lengths(self, places: Sequence[tuple[str, Feed]]) -> list[int]:
        """Entries in each of these streams."""
        if not places:
            return []
        pipeline = self._redis.pipeline(transaction=False)
        for tenant, feed in places:
            pipeline.xlen(keys.ingestion_stream(tenant, feed))
        with unavailable("measure the streams"):
            found: list[int] = await pipeline.execute()
            return found

    async def generation(self, own: str) -> str:
        """What Redis' data has been called since it last began from nothing; `own` if it has no
        name yet.
        """
        with unavailable("tell its generation"):
            known: Any = await self._redis.set(keys.GENERATION, own, nx=True, get=True)
        return known.decode() if known is not None else own

    async def dead_letter_counts(self, tenants: Sequence[str]) -> dict[str, int]:
        """How many dead letters each of these tenants has."""
        counts: dict[str, int] = {}
        for first in range(0, len(tenants), _AT_ONCE):
            some = tenants[first : first + _AT_ONCE]
            pipeline = self._redis.pipeline(transaction=False)
            for tenant in some:
                pipeline.xlen(keys.dead_letter_stream(tenant))
            with unavailable("count dead letters"):
                counts.update(zip(some, await pipeline.execute(), strict=True))
        return counts

    async def memory_ratio(self) -> float:
        """Share of its memory that Redis uses: of `maxmemory`, or of the machine's without one."""
        known = await self._memory()
        limit = known.get("maxmemory") or known.get("total_system_memory") or 0
        return float(known["used_memory"] / limit) if limit else 0.0

    async def memory_bytes(self) -> tuple[int, int]:
        """What Redis uses, and the most that it may use: 0 is no limit."""
        known = await self._memory()
        return known["used_memory"], known.get("maxmemory", 0)

    async def _memory(self) -> dict[str, Any]:
        with unavailable("measure its memory"):
            # The client's own parser has no annotations.
            known: dict[str, Any] = await self._redis.info("memory")
        return known

    async def ping(self) -> None:
        """Return when Redis answers."""
        with unavailable("answer"):
            await execute(self._redis, "PING")

    async def close(self) -> None:
        """Close every connection."""
        await self._reader.aclose()
        await self._redis.aclose()


def _counting(tenant: str, counts: Counts) -> Sequence[Argument]:
    return "EVAL", _COUNT, 1, keys.ledger(tenant), ormsgpack.packb(_flat(counts))


def _led(items: Sequence[Argument]) -> tuple[Argument, ...]:
    """A list as the scripts read it: its length first."""
    return (len(items), *items)


def _flat(pairs: Mapping[str, Argument]) -> tuple[Argument, ...]:
    return tuple(part for pair in pairs.items() for part in pair)


def _rows(reply: Any) -> list[dict[str, Any]]:
    return reply if isinstance(reply, list) else []
