"""Replays dead letters.

The order is the promise: rows are committed, then the letter is removed and counted in one step. A
crash in between leaves a letter whose rows are there; to replay it again inserts nothing.
"""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime

from iotistica import dictionaries, keys, metrics
from iotistica._native import Batch, Topic, parse_topic
from iotistica.encoder import Encoder
from iotistica.errors import BadRequest, StoreUnavailable
from iotistica.redrive.proof import (
    Fault,
    Proof,
    Result,
    encoded,
    instead_of,
    refused,
    still_bad,
    undecided,
    whole_message,
)
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool, is_refusal, is_too_slow, unavailable
from iotistica.store.readings import ReadingStore
from iotistica.store.rehearsal import rehearse_again
from iotistica.store.tenants import tenant_ids
from iotistica.streams import Filter, Letter, Streams
from iotistica.streams.letter import is_id
from iotistica.streams.letters import portions

_AT_ONCE = 4
"""Each letter is a transaction of its own, and commits that come together share one fsync."""
_MAX_ENCODERS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Letters that were tried one after the other."""

    proofs: Sequence[Proof]
    examined: int
    """Letters looked at, those that do not match included."""
    cursor: str | None
    """Where to go on later; None at the end."""


class Redrive:
    """One replay. It looks up tenants, agents and dictionaries as they are now."""

    def __init__(
        self, *, settings: Settings, pool: Pool, streams: Streams, executor: Executor
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._streams = streams
        self._executor = executor
        self._store = ReadingStore(pool)
        self._agents = AgentStore(pool)
        self._encoders: dict[str, Encoder] = {}
        self._tenants: set[str] | None = None

    async def run(
        self,
        tenant: str,
        where: Filter,
        *,
        dry_run: bool,
        cursor: str | None = None,
        limit: int | None = None,
    ) -> AsyncIterator[Step]:
        """Replay what matches, oldest first, `limit` letters at the most; those that are written
        from now on are left alone. With `dry_run` nothing changes anywhere.

        Raises `StoreUnavailable`, `BadRequest` for the cursor; what was reported until then is
        done.
        """
        letters = self._streams.letters
        after, upto = _position(cursor) if cursor else (None, await letters.newest(tenant))
        tried = 0
        async for page in letters.pages(tenant, where, after=after, upto=upto):
            for ids in portions(page.letters):
                ids = ids if limit is None else ids[: limit - tried]
                tried += len(ids)
                proofs, error = await self._portion(await letters.whole(tenant, ids), dry_run)
                rest = None if where.ids else f"{ids[-1]}/{upto}"
                yield Step(proofs=proofs, examined=len(ids), cursor=rest)
                if error is not None:
                    raise error
                if tried == limit:
                    return
            rest = page.cursor and f"{page.cursor}/{upto}"
            yield Step(proofs=(), examined=page.examined - len(page.letters), cursor=rest)

    async def _portion(
        self, letters: Sequence[Letter], dry_run: bool
    ) -> tuple[list[Proof], Exception | None]:
        """Proofs of the letters that were tried, and what kept the others from it."""
        gate, errors = asyncio.Semaphore(_AT_ONCE), list[Exception]()

        async def tried(letter: Letter) -> list[Proof]:
            async with gate:
                try:
                    return [] if errors else [await self._replay(letter, dry_run=dry_run)]
                except Exception as error:
                    errors.append(error)
                    return []

        proofs: list[Proof] = []
        # Dictionaries first: messages may need them.
        for is_telemetry in (False, True):
            some = [one for one in letters if (_dictionary_of(one) is None) is is_telemetry]
            for found in await asyncio.gather(*map(tried, some)):
                proofs += found
        return proofs, errors[0] if errors else None

    async def _replay(self, letter: Letter, *, dry_run: bool) -> Proof:
        known_as, home = letter.id, await self._home(letter)
        if home not in (None, letter.tenant):
            moved = self._streams.letters.move
            letter = replace(letter, tenant=home) if dry_run else await moved(letter, home)
        if home is None:
            proof = still_bad(letter, _homeless(letter))
        elif (topic := _dictionary_of(letter)) is not None:
            proof = await self._dictionary(letter, topic.agent, dry_run=dry_run)
        else:
            proof = await self._telemetry(letter, dry_run=dry_run)
        if not dry_run and proof.result is not Result.FAILED:
            await self._streams.letters.resolve(
                letter.tenant,
                letter.id,
                counts=proof.counts,
                instead=instead_of(letter, proof, now=datetime.now(UTC)),
            )
            metrics.DEAD_LETTERS_REPLAYED.labels(proof.result.value).inc()
        return replace(proof, id=known_as)

    async def _home(self, letter: Letter) -> str | None:
        """The tenant whose letter it is; None for a stray whose tenant does not exist."""
        if letter.tenant != keys.STRAY:
            return letter.tenant
        if self._tenants is None:
            self._tenants = await tenant_ids(self._pool)
        topic = _topic_of(letter)
        return topic.tenant if topic is not None and topic.tenant in self._tenants else None

    async def _telemetry(self, letter: Letter, *, dry_run: bool) -> Proof:
        batch = await self._encode(letter)
        try:
            inserted = await self._commit(batch, dry_run=dry_run)
        except StoreUnavailable as error:
            if not is_too_slow(error.__cause__ or error):
                raise
            return undecided(letter, str(error))
        except Exception as error:
            if not is_refusal(error):
                raise
            return refused(letter, batch, error)
        return encoded(letter, batch, inserted)

    async def _encode(self, letter: Letter) -> Batch:
        """Encode as ingestion does, learning agents and dictionaries as long as that helps."""
        encoder, entries = self._encoder(letter.tenant), [letter.dead.entry()]
        asked: set[tuple[str, str | None]] = set()
        batch = await encoder.encode(entries)
        while batch.waiting:
            learned = await encoder.look_up(batch.waiting)
            wanted = {(one.needs, one.agent) for one in batch.waiting}
            helps = all(learned.helps(one) for one in batch.waiting) and not wanted <= asked
            asked |= wanted
            batch = await encoder.encode(entries, final=not helps)
            if not helps:
                break
        return batch

    def _encoder(self, tenant: str) -> Encoder:
        if tenant not in self._encoders:
            if len(self._encoders) >= _MAX_ENCODERS:  # strays may be of any number of tenants
                self._encoders.clear()
            self._encoders[tenant] = Encoder(
                tenant,
                settings=self._settings,
                executor=self._executor,
                agents=self._agents,
                streams=self._streams,
            )
        return self._encoders[tenant]

    async def _commit(self, batch: Batch, *, dry_run: bool) -> int:
        """Rows inserted. Raises `StoreUnavailable`, and what asyncpg raises for the data."""
        if not batch.copy.rows:
            return 0
        with unavailable("replay a dead letter"):
            if dry_run:
                return await rehearse_again(self._pool, batch)
            inserted = await self._store.commit_again(batch)
            await self._store.upsert_latest(batch)
            return inserted

    async def _dictionary(self, letter: Letter, agent: str, *, dry_run: bool) -> Proof:
        """Store a key-compaction dictionary, unless a newer one has come meanwhile."""
        fault = None
        try:
            version = int(dictionaries.parse_message(letter.dead.data)["version"])
        except BadRequest as error:
            fault = Fault(stage="bridge", reason="invalid_dictionary", detail=str(error))
        else:
            if not await self._is_member(agent, letter.tenant):
                detail = f"agent {agent} is not one of tenant {letter.tenant!r}"
                fault = Fault(stage="topic", reason="unknown_agent", detail=detail)
        if fault is not None:
            return still_bad(letter, fault)
        known = await self._streams.dictionary(agent)
        if not dry_run and (known is None or known[0] < version):
            await self._streams.put_dictionary(agent, letter.dead.data)
        counts = whole_message(agent)
        return Proof(id=letter.id, tenant=letter.tenant, agent=agent, counts=counts)

    async def _is_member(self, agent: str, tenant: str) -> bool:
        try:
            uuids = [str(uuid.UUID(agent))]
        except ValueError:
            return False
        return uuids == await self._agents.agents_of(tenant, uuids)


def _position(cursor: str) -> tuple[str, str]:
    """Where to go on, and the last id of interest. Raises `BadRequest`."""
    after, _, upto = cursor.partition("/")
    if not (is_id(after) and is_id(upto)):
        raise BadRequest(f"cursor {cursor[:64]!r} is not one that an earlier answer gave")
    return after, upto


def _topic_of(letter: Letter) -> Topic | None:
    topic = letter.dead.topic
    try:
        return parse_topic(topic if isinstance(topic, str) else topic.decode())
    except ValueError:  # InvalidTopic, and bytes that are not UTF-8
        return None


def _dictionary_of(letter: Letter) -> Topic | None:
    """Topic of a letter that holds a dictionary."""
    topic = _topic_of(letter)
    is_one = topic is not None and (topic.kind, topic.rest) == ("meta", "dictionary")
    return topic if is_one else None


def _homeless(letter: Letter) -> Fault:
    """Why a stray is nobody's."""
    topic = _topic_of(letter)
    if topic is None:
        return Fault(stage="bridge", reason="invalid_topic", detail=letter.dead.error)
    detail = f"tenant {topic.tenant!r} does not exist"
    return Fault(stage="bridge", reason="unknown_tenant", detail=detail)
