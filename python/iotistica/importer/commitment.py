"""Messages of a file into the table by the way of telemetry: encoded, committed, counted."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TypeVar

from iotistica import ledger
from iotistica._native import Batch, Context, encode_batch
from iotistica.backoff import Backoff
from iotistica.errors import StoreUnavailable
from iotistica.importer.shape import Message
from iotistica.ingestion.writer import Writer
from iotistica.limits import limits_of
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool, is_refusal, is_too_slow, unavailable
from iotistica.store.readings import ReadingStore

_PATIENCE_S = 300.0
"""So long PostgreSQL may be away."""

_T = TypeVar("_T")


@dataclass(slots=True)
class Done:
    """What became of messages that were encoded."""

    stored: int = 0
    duplicate: int = 0
    collided: int = 0
    refused: list[tuple[Message, str]] = field(default_factory=list)
    """Those that PostgreSQL itself refuses, and what it says."""
    counts: Counter[str] = field(default_factory=Counter)
    """For the loss ledger."""

    def add(self, batch: Batch, inserted: dict[str, int] | None) -> None:
        """Count a batch that is committed.

        Rows that were there count as redelivered: an earlier run may have stored them and ended
        before it counted them, as messages do that come again after a crash.
        """
        for tally in batch.tallies:
            stored = tally.rows if inserted is None else inserted.get(tally.agent, 0)
            amounts = {
                ledger.READINGS: tally.rows + tally.duplicates + tally.collisions,
                ledger.STORED: stored,
                ledger.REDELIVERED: tally.rows - stored,
                ledger.DUPLICATE: tally.duplicates,
                ledger.COLLIDED: tally.collisions,
            }
            for name, amount in amounts.items():
                self.counts[ledger.field(tally.agent, name)] += amount
            self.stored += stored
            self.duplicate += tally.rows - stored + tally.duplicates + tally.collisions
            self.collided += tally.collisions
        self.counts = +self.counts


class Committer:
    """Encodes and commits the messages of one tenant. `say` gets news for people."""

    def __init__(
        self, tenant: str, *, settings: Settings, pool: Pool, say: Callable[[str], None]
    ) -> None:
        self._tenant = tenant
        self._context = Context(tenant, limits_of(settings), key_compaction=False)
        self._agents = AgentStore(pool)
        self._writer = Writer(ReadingStore(pool))
        self._say = say

    async def learn(self, agents: Iterable[str]) -> None:
        """Learn which of these are the tenant's. Raises `StoreUnavailable`."""
        asked = sorted(agents)
        members = await self._patiently(lambda: self._agents.agents_of(self._tenant, asked))
        self._context.add_agents(members)

    async def encode(self, messages: Sequence[Message]) -> Batch:
        """One crossing into Rust, with the GIL released."""
        return await asyncio.to_thread(self._encode, messages)

    def _encode(self, messages: Sequence[Message]) -> Batch:
        fields = [part for one in messages for part in (one.header, one.payload)]
        now_ms = time.time_ns() // 1_000_000
        entries = [(b"0-0", fields)] if fields else []
        return encode_batch(entries, self._context, now_ms=now_ms, final=True)

    async def commit(self, messages: Sequence[Message], batch: Batch, done: Done) -> None:
        """Commit the rows of messages, in parts where PostgreSQL does not take them together.

        Raises `StoreUnavailable`.
        """
        if not batch.rows:
            return
        try:
            inserted = await self._patiently(lambda: self._write(batch))
        except StoreUnavailable as error:
            if not is_too_slow(error.__cause__ or error) or len(messages) == 1:
                raise
        except Exception as error:
            if not is_refusal(error):
                raise
            if len(messages) == 1:
                done.refused.append((messages[0], str(error)))
                return
        else:
            done.add(batch, inserted)
            return
        half = len(messages) // 2
        for some in (messages[:half], messages[half:]):
            await self.commit(some, await self.encode(some), done)

    async def _write(self, batch: Batch) -> dict[str, int] | None:
        with unavailable("store readings"):
            return await self._writer.commit(batch, again=False)

    async def _patiently(self, call: Callable[[], Awaitable[_T]]) -> _T:
        """Repeat while PostgreSQL is away. Raises `StoreUnavailable` at last, or at once where a
        statement took too long.
        """
        backoff, until_s = Backoff(), time.monotonic() + _PATIENCE_S
        is_news = True
        while True:
            try:
                return await call()
            except StoreUnavailable as error:
                if is_too_slow(error.__cause__ or error) or time.monotonic() > until_s:
                    raise
                if is_news:
                    self._say(f"{error}; trying again for {_PATIENCE_S:.0f} s")
                is_news = False
                await asyncio.sleep(backoff.next_s())
