"""Replays dead letters.

The order is the promise: rows are committed, then their letters are removed and counted in one
step. A crash in between leaves letters whose rows are there; to replay them again inserts nothing.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import AsyncGenerator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from typing import Protocol

from iotistica import keys, metrics
from iotistica._native import Batch, Topic, parse_topic
from iotistica.dictionaries.library import Library
from iotistica.encoder import Encoder
from iotistica.errors import StoreUnavailable
from iotistica.redrive import dictionaries
from iotistica.redrive.proof import (
    Fault,
    Proof,
    Result,
    encoded,
    instead_of,
    refused,
    still_bad,
    undecided,
)
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool, is_refusal, is_too_slow, unavailable
from iotistica.store.readings import ReadingStore
from iotistica.store.tenants import tenant_ids
from iotistica.store.trial import trial
from iotistica.streams import Filter, Letter, Streams
from iotistica.streams.letters import Resolution, cursor_of, portions, position

_PARTS = 8
"""Into so many is divided what PostgreSQL does not take as a whole."""
_MAX_ENCODERS = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """Letters that were tried together."""

    proofs: Sequence[Proof]
    examined: int
    """Letters looked at, those that do not match included."""
    cursor: str | None
    """Where to go on later; None at the end."""


class Families(Protocol):
    """Takes letters of what agents send beside telemetry, and of what is sent to them."""

    def owns(self, letter: Letter) -> bool:
        """Whether the letter is one of these."""

    async def take(self, letter: Letter, *, dry_run: bool) -> Fault | None:
        """Let it take effect, or rehearse that; why it does not pass. Raises `StoreUnavailable`."""


class Redrive:
    """One replay, or with `dry_run` its rehearsal, which changes nothing anywhere.

    Tenants, agents and dictionaries are looked up as they are now.
    """

    def __init__(
        self,
        *,
        settings: Settings,
        pool: Pool,
        streams: Streams,
        executor: Executor,
        families: Families,
        dry_run: bool,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._streams = streams
        self._executor = executor
        self._families = families
        self._dry_run = dry_run
        self._store = ReadingStore(pool)
        self._agents = AgentStore(pool)
        self._library = Library.of(settings, pool, streams)
        self._dictionaries = dictionaries.DictionaryLetters(
            settings, self._agents, self._library, dry_run=dry_run
        )
        self._encoders: dict[str, Encoder] = {}
        self._tenants: set[str] | None = None

    async def run(
        self, tenant: str, where: Filter, *, cursor: str | None = None, limit: int | None = None
    ) -> AsyncGenerator[Step, None]:
        """Replay what matches, oldest first, `limit` letters at the most; those that are written
        from now on are left alone.

        Raises `StoreUnavailable`, `BadRequest` for the cursor; what was reported until then is
        done.
        """
        letters = self._streams.letters
        after, upto = position(cursor) if cursor else (None, await letters.newest(tenant))
        tried = 0
        async for page in letters.pages(tenant, where, after=after, upto=upto):
            for ids in portions(page.letters):
                ids = ids if limit is None else ids[: limit - tried]
                tried += len(ids)
                proofs, error = await self._portion(await letters.whole(tenant, ids))
                rest = None if where.ids else cursor_of(ids[-1], upto)
                yield Step(proofs=proofs, examined=len(ids), cursor=rest)
                if error is not None:
                    raise error
                if tried == limit:
                    return
            rest = cursor_of(page.cursor, upto)
            yield Step(proofs=(), examined=page.examined - len(page.letters), cursor=rest)

    async def _portion(self, letters: Sequence[Letter]) -> tuple[list[Proof], Exception | None]:
        """Proofs of the letters that were decided, and what kept the others from it."""
        done: list[Proof] = []
        known_as: dict[str, str] = {}
        error = None
        try:
            for tenant, own in (await self._sorted(letters, known_as, done)).items():
                messages = []
                for letter in own:
                    # Dictionaries first: messages may need them.
                    if (topic := _topic_of(letter)) is not None and dictionaries.is_one(topic):
                        kept = await self._dictionaries.keep(letter, topic)
                        await self._settle(done, [letter], [kept])
                    elif self._families.owns(letter):
                        await self._settle(done, [letter], [await self._give(letter)])
                    else:
                        messages.append(letter)
                await self._try(tenant, messages, done)
        except Exception as found:
            error = found
        return [replace(proof, id=known_as.get(proof.id, proof.id)) for proof in done], error

    async def _sorted(
        self, letters: Sequence[Letter], known_as: dict[str, str], done: list[Proof]
    ) -> dict[str, list[Letter]]:
        """Letters by the tenant whose they are; strays go there, those of nobody stay strays."""
        homes: dict[str, list[Letter]] = defaultdict(list)
        for letter in letters:
            home = await self._home(letter)
            if home is None:
                await self._settle(done, [letter], [still_bad(letter, _homeless(letter))])
                continue
            own = replace(letter, tenant=home)
            if home != letter.tenant and not self._dry_run:
                own = await self._streams.letters.move(letter, home)
                known_as[own.id] = letter.id
            homes[home].append(own)
        return homes

    async def _home(self, letter: Letter) -> str | None:
        """The tenant whose letter it is; None for a stray whose tenant does not exist."""
        if letter.tenant != keys.STRAY:
            return letter.tenant
        if self._tenants is None:
            self._tenants = await tenant_ids(self._pool)
        topic = _topic_of(letter)
        return topic.tenant if topic is not None and topic.tenant in self._tenants else None

    async def _try(self, tenant: str, letters: Sequence[Letter], done: list[Proof]) -> None:
        """Decide letters together, or in parts where that does not tell what became of each."""
        proofs = await self._together(tenant, letters) if letters else []
        if proofs is not None:
            await self._settle(done, letters, proofs)
            return
        step = -(-len(letters) // _PARTS)
        for at in range(0, len(letters), step):
            await self._try(tenant, letters[at : at + step], done)

    async def _together(self, tenant: str, letters: Sequence[Letter]) -> list[Proof] | None:
        """Proofs; None where nothing was done, because it must be done in parts."""
        single = letters[0] if len(letters) == 1 else None
        batch = await self._encode(tenant, letters)
        if batch.waiting:  # a batch has room for so many rows only
            return [undecided(single, "it waits for room in a batch")] if single else None
        try:
            inserted = await self._commit(batch, is_single=single is not None)
        except StoreUnavailable as error:
            if not is_too_slow(error.__cause__ or error):
                raise
            return [undecided(single, str(error))] if single else None
        except Exception as error:
            if not is_refusal(error):
                raise
            return [refused(single, batch, error)] if single else None
        return None if inserted is None else encoded(letters, batch, inserted)

    async def _encode(self, tenant: str, letters: Sequence[Letter]) -> Batch:
        """Encode as ingestion does, learning agents and dictionaries as long as that helps."""
        encoder, entries = self._encoder(tenant), [letter.dead.entry() for letter in letters]
        asked: set[tuple[str, str | None]] = set()
        batch = await encoder.encode(entries)
        while unknown := [one for one in batch.waiting if one.needs != "room"]:
            wanted = {(one.needs, one.agent) for one in unknown}
            helps = not wanted <= asked
            asked |= wanted
            if helps:
                await encoder.look_up(unknown)
            batch = await encoder.encode(entries, final=not helps)
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
                library=self._library,
            )
        return self._encoders[tenant]

    async def _commit(self, batch: Batch, *, is_single: bool) -> int | None:
        """Rows inserted. None where some of several letters were there and others not: then it
        does not tell which, and nothing is kept.

        Raises `StoreUnavailable`, and what asyncpg raises for the data.
        """
        rows = batch.copy.rows
        if not rows:
            return 0
        with unavailable("replay dead letters"):
            if not self._dry_run:
                # In a transaction of their own: who makes partitions keeps other makers out.
                await self._store.make_days(batch.days)
            async with trial(self._pool) as attempt:
                inserted = sum((await attempt.store.commit_again(batch)).values())
                is_clear = is_single or inserted in (0, rows)
                attempt.kept = is_clear and not self._dry_run
            if attempt.kept:
                await self._store.upsert_latest(batch)
        return inserted if is_clear else None

    async def _give(self, letter: Letter) -> Proof:
        """Let the family decide whose letter it is."""
        try:
            fault = await self._families.take(letter, dry_run=self._dry_run)
        except StoreUnavailable as error:
            if not is_too_slow(error.__cause__ or error):
                raise
            return undecided(letter, str(error))
        if fault is not None:
            return still_bad(letter, fault)
        return Proof(id=letter.id, tenant=letter.tenant, agent=letter.dead.agent)

    async def _settle(
        self, done: list[Proof], letters: Sequence[Letter], proofs: Sequence[Proof]
    ) -> None:
        """Remove what passed, replace what is still bad, leave what was not decided."""
        decided = [
            (letter, proof)
            for letter, proof in zip(letters, proofs, strict=True)
            if proof.result is not Result.FAILED
        ]
        if decided and not self._dry_run:
            now = datetime.now(UTC)
            resolutions = [
                Resolution(
                    id=letter.id, counts=proof.counts, instead=instead_of(letter, proof, now=now)
                )
                for letter, proof in decided
            ]
            await self._streams.letters.resolve(letters[0].tenant, resolutions)
            for _, proof in decided:
                metrics.DEAD_LETTERS_REPLAYED.labels(proof.result.value).inc()
        done += proofs


def _topic_of(letter: Letter) -> Topic | None:
    topic = letter.dead.topic
    try:
        return parse_topic(topic if isinstance(topic, str) else topic.decode())
    except ValueError:  # InvalidTopic, and bytes that are not UTF-8
        return None


def _homeless(letter: Letter) -> Fault:
    """Why a stray is nobody's."""
    topic = _topic_of(letter)
    if topic is None:
        return Fault(stage="bridge", reason="invalid_topic", detail=letter.dead.error)
    detail = f"tenant {topic.tenant!r} does not exist"
    return Fault(stage="bridge", reason="unknown_tenant", detail=detail)
