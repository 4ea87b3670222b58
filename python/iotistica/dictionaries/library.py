"""The dictionaries of all agents: PostgreSQL has them, Redis the current ones."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import orjson

from iotistica import log, metrics
from iotistica._native import format_topic
from iotistica.dictionaries.delta import Delta, Gap, read_delta
from iotistica.dictionaries.dictionary import Dictionary, Held, Wanted, read_dictionary
from iotistica.dictionaries.shelf import Arrival, Shelf
from iotistica.errors import BadRequest, StoreUnavailable
from iotistica.instants import iso
from iotistica.settings import Settings
from iotistica.store.dictionaries import DictionaryStore, Digests, Kept
from iotistica.store.pool import Pool
from iotistica.streams import Outgoing, Streams

RESYNC = "agent/dictionary/resync"

_occasional = log.Occasional(log.get(__name__))


@dataclass(frozen=True, slots=True, kw_only=True)
class News:
    """What an agent said about its dictionary."""

    tenant: str
    agent: str
    document: Any
    """Decoded JSON."""
    is_delta: bool
    arrival: Arrival = Arrival.FRESH


class Library:
    """Keeps, finds and asks for dictionaries. Every method raises `StoreUnavailable`."""

    def __init__(self, store: DictionaryStore, streams: Streams, *, resync_every_s: float) -> None:
        self._store = store
        self._cache = streams.dictionaries
        self._outbox = streams.outbox
        self._resync_every_s = resync_every_s

    @classmethod
    def of(cls, settings: Settings, pool: Pool, streams: Streams) -> Library:
        """The library of a process."""
        store = DictionaryStore(pool, versions=settings.dictionary_versions)
        return cls(store, streams, resync_every_s=settings.dictionary_resync_s)

    async def find(
        self, tenant: str, wanted: Iterable[Wanted], *, cached: bool = True
    ) -> dict[Wanted, Held]:
        """Those that are known, of agents that are known to be the tenant's.

        What Redis has lost comes from PostgreSQL, and is there again. Without `cached` it is not
        asked.
        """
        asked = list(dict.fromkeys(wanted))
        agents = dict.fromkeys(one.agent for one in asked) if cached else ()
        held = await self._cache.find(agents)
        found = {one: held[one.agent] for one in asked if _fits(held.get(one.agent), one)}
        if missing := [one for one in asked if one not in found]:
            there = await self._store.find(tenant, missing)
            found |= {one: kept.dictionary.held() for one, kept in there.items()}
            await self._warm([kept for kept in there.values() if kept.is_current])
        return found

    async def all(self, tenant: str, agent: str) -> list[Held]:
        """All that are kept of an agent, the current one last."""
        kept = await self._store.shelf(tenant, agent)
        return [one.dictionary.held() for one in reversed(kept)]

    async def keep(self, news: Sequence[News]) -> list[BadRequest | Gap | None]:
        """Take what agents sent, in this order; why each was not taken. It is committed then."""
        read = [_read(one) for one in news]
        results: list[BadRequest | Gap | None] = [
            one if isinstance(one, BadRequest) else None for one in read
        ]
        known = await self._store.digests(
            [n.agent for n, one in zip(news, read, strict=True) if isinstance(one, Dictionary)]
        )
        members: dict[str, str] = {}
        chosen: list[int] = []
        for index, (one, content) in enumerate(zip(news, read, strict=True)):
            says_nothing = one.agent not in members and _is_known(content, one, known)
            if not (says_nothing or isinstance(content, BadRequest)):
                members[one.agent] = one.tenant
                chosen.append(index)
        if chosen:
            async with self._store.changing(members) as shelves:
                for index in chosen:
                    agent = news[index].agent
                    results[index] = _take(shelves.get(agent), read[index], news[index])
            await self.warm(list(members))
        return results

    async def warm(self, agents: Sequence[str]) -> None:
        """Bring what is current to Redis, where it may be older; a Redis that is away is warmed
        later, by who misses it."""
        await self._warm(await self._store.current(agents))

    async def _warm(self, kept: Sequence[Kept]) -> None:
        try:
            await self._cache.put([(one.agent, one.dictionary, one.serial) for one in kept])
        except StoreUnavailable as error:
            _occasional.warning("Redis did not take dictionaries", error=str(error))

    async def ask(self, tenant: str, agent: str, *, expected: int | None = None) -> bool:
        """Ask an agent for its dictionary, unless somebody did so lately; whether it was asked."""
        if not await self._cache.may_ask(agent, every_s=self._resync_every_s):
            return False
        request = {
            "action": "resync",
            "reason": "dictionary_missing",
            "expectedVersion": expected,
            "timestamp": iso(datetime.now(UTC)),
        }
        topic = format_topic(tenant, agent, RESYNC)
        try:
            await self._outbox.put([Outgoing(topic, orjson.dumps(request))])
        except StoreUnavailable:
            await self._cache.not_asked(agent)
            raise
        metrics.DICTIONARY_RESYNCS.inc()
        return True


def _fits(held: Held | None, wanted: Wanted) -> bool:
    return held is not None and held.fits(wanted)


def _is_known(content: Any, news: News, known: Mapping[str, Digests]) -> bool:
    """Whether it is what came as a whole before: the broker sends what it retains to every new
    session, agents publish it in every session of theirs."""
    if not isinstance(content, Dictionary) or (digests := known.get(news.agent)) is None:
        return False
    is_current = digests.current == content.digest or news.arrival is Arrival.RETAINED
    return digests.full == content.digest and is_current


def _read(news: News) -> Dictionary | Delta | BadRequest:
    try:
        return (read_delta if news.is_delta else read_dictionary)(news.document)
    except BadRequest as error:
        return error


def _take(shelf: Shelf | None, content: Any, news: News) -> BadRequest | Gap | None:
    if shelf is None:
        return BadRequest(f"agent {news.agent} is not one of tenant {news.tenant!r}")
    try:
        if isinstance(content, Delta):
            shelf.extend(content)
        else:
            shelf.put(content, news.arrival)
    except (BadRequest, Gap) as error:
        return error
    return None
