"""The dead letters of all tenants on one Redis: found page by page, removed, replaced."""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from redis.asyncio import Redis

from iotistica import keys
from iotistica.errors import BadRequest
from iotistica.streams.client import Argument, entries, execute, transact, unavailable
from iotistica.streams.letter import DeadLetter, Filter, Letter, is_id, parse
from iotistica.streams.scripts import script

_HEADS = script("heads")
_RESOLVE = script("resolve", "count")

PAGE = 500
"""Letters that one call examines at the most."""
# What Redis itself reads for a page of heads, and what a page of whole letters takes here.
_PAGE_BYTES = 8 * 1024 * 1024
_WHOLE = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Letters that match, of those that were examined, in the order of the stream."""

    letters: Sequence[Letter]
    examined: int
    cursor: str | None
    """Id of the last one examined, where the next page begins; None at the end."""


@dataclass(slots=True)
class Summary:
    """How many letters there are of each kind."""

    letters: int = 0
    readings: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    stages: Counter[str] = field(default_factory=Counter)
    agents: Counter[str] = field(default_factory=Counter)
    complete: bool = True
    """False where counting ended before the last letter."""

    def add(self, letters: Sequence[Letter]) -> None:
        """Count letters."""
        self.letters += len(letters)
        for letter in letters:
            self.readings += letter.dead.readings
            self.reasons[letter.dead.reason] += 1
            self.stages[letter.dead.stage] += 1
            self.agents[letter.dead.agent] += 1

    def described(self) -> dict[str, Any]:
        """For JSON, the largest counts first."""
        return {
            "letters": self.letters,
            "readings": self.readings,
            "reasons": dict(self.reasons.most_common()),
            "stages": dict(self.stages.most_common()),
            "agents": dict(self.agents.most_common()),
            "complete": self.complete,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Resolution:
    """What becomes of a letter that was replayed."""

    id: str
    counts: Mapping[str, int]
    """For the loss ledger."""
    instead: DeadLetter | None = None
    """What takes its place."""

    def arguments(self, tenant: str) -> Iterator[Argument]:
        """What `resolve.lua` reads, after its keys."""
        fields = [] if self.instead is None else self.instead.fields(tenant)
        yield from (self.id, len(fields), *fields)
        yield from (part for pair in self.counts.items() for part in pair)


class Letters:
    """Finds and removes dead letters. Every method raises `StoreUnavailable`.

    A stream of letters may be large and a payload too: nothing here holds more than a page of
    either, and lists leave payloads out, which Redis itself does.
    """

    def __init__(self, redis: Redis) -> None:
        self._redis = redis

    async def count(self, tenant: str) -> int:
        """How many letters the tenant has."""
        with unavailable("count dead letters"):
            return int(await execute(self._redis, "XLEN", keys.dead_letter_stream(tenant)))

    async def newest(self, tenant: str) -> str:
        """Id of the youngest letter; `0-0` where there is none."""
        stream = keys.dead_letter_stream(tenant)
        with unavailable("read dead letters"):
            found = await execute(self._redis, "XREVRANGE", stream, "+", "-", "COUNT", 1)
        return found[0][0].decode() if found else "0-0"

    async def page(
        self,
        tenant: str,
        where: Filter,
        *,
        after: str | None = None,
        upto: str | None = None,
        newest_first: bool = False,
        size: int = PAGE,
    ) -> Page:
        """Examine the next letters, `size` at the most; those that match, without payloads.

        `upto` is the last id of interest: letters that are replaced move to the end of the stream,
        and whoever replaces must not meet them again.
        """
        first, last = where.bounds
        last = upto if upto is not None and _earlier(upto, last) else last
        if after is not None:
            first, last = (first, f"({after}") if newest_first else (f"({after}", last)
        command = ("XREVRANGE", last, first) if newest_first else ("XRANGE", first, last)
        arguments = (1, keys.dead_letter_stream(tenant), *command, size, _PAGE_BYTES)
        with unavailable("read dead letters"):
            is_last, found = await execute(self._redis, "EVAL", _HEADS, *arguments)
        examined = [parse(tenant, entry) for entry in entries(found)]
        return Page(
            letters=[letter for letter in examined if where.matches(letter)],
            examined=len(examined),
            cursor=None if is_last or not examined else examined[-1].id,
        )

    async def pages(
        self, tenant: str, where: Filter, *, after: str | None = None, upto: str | None = None
    ) -> AsyncGenerator[Page, None]:
        """All pages, oldest letter first. Ids are looked up, not searched for."""
        ids = sorted(where.ids, key=_order)
        for at in range(0, len(ids), PAGE):
            some = ids[at : at + PAGE]
            found = await self._heads_of(tenant, some)
            matching = [letter for letter in found if where.matches(letter)]
            yield Page(letters=matching, examined=len(some), cursor=None)
        while not ids:
            page = await self.page(tenant, where, after=after, upto=upto)
            yield page
            after = page.cursor
            if after is None:
                return

    async def listed(
        self,
        tenant: str,
        where: Filter,
        *,
        limit: int,
        after: str | None = None,
        most: int | None = None,
    ) -> Page:
        """The `limit` youngest letters that match, youngest first; examines `most`, or a page more.

        With the cursor it goes on from there.
        """
        if where.ids:
            found = [one async for page in self.pages(tenant, where) for one in page.letters]
            return Page(letters=found[::-1][:limit], examined=len(where.ids), cursor=None)
        letters: list[Letter] = []
        examined = 0
        while True:
            page = await self.page(tenant, where, after=after, newest_first=True)
            letters += page.letters
            examined += page.examined
            after = page.cursor
            if len(letters) >= limit:
                is_last = after is None and len(letters) == limit
                after = None if is_last else letters[limit - 1].id
                break
            if after is None or (most is not None and examined >= most):
                break
        return Page(letters=letters[:limit], examined=examined, cursor=after)

    async def summary(self, tenant: str, where: Filter, *, most: int | None = None) -> Summary:
        """Count by reason, stage and agent; examines `most` letters, or a little more."""
        found, examined = Summary(), 0
        async for page in self.pages(tenant, where, upto=await self.newest(tenant)):
            found.add(page.letters)
            examined += page.examined
            if most is not None and examined >= most and page.cursor is not None:
                found.complete = False
                break
        return found

    async def whole(self, tenant: str, ids: Sequence[str]) -> list[Letter]:
        """These letters with their payloads; those that are gone are left out.

        To be called with a page of them, see `portions`.
        """
        stream = keys.dead_letter_stream(tenant)
        replies = await self._read(("XRANGE", stream, letter_id, letter_id) for letter_id in ids)
        return [parse(tenant, entry) for reply in replies for entry in entries(reply)]

    async def _heads_of(self, tenant: str, ids: Sequence[str]) -> list[Letter]:
        script = ("EVAL", _HEADS, 1, keys.dead_letter_stream(tenant), "XRANGE")
        replies = await self._read((*script, one, one, 1, _PAGE_BYTES) for one in ids)
        return [parse(tenant, entry) for _, found in replies for entry in entries(found)]

    async def _read(self, commands: Iterable[Sequence[Argument]]) -> list[Any]:
        """Replies to commands that need no transaction, in one round trip."""
        pipeline = self._redis.pipeline(transaction=False)
        for command in commands:
            pipeline.execute_command(*command)
        with unavailable("read dead letters"):
            replies: list[Any] = await pipeline.execute()
            return replies

    async def get(self, tenant: str, letter_id: str) -> Letter | None:
        """One letter with its payload."""
        found = await self.whole(tenant, [letter_id])
        return found[0] if found else None

    async def remove(self, tenant: str, ids: Sequence[str]) -> int:
        """Remove letters, whatever becomes of them; how many were there."""
        stream, removed = keys.dead_letter_stream(tenant), 0
        with unavailable("remove dead letters"):
            for at in range(0, len(ids), PAGE):
                removed += await execute(self._redis, "XDEL", stream, *ids[at : at + PAGE])
        return removed

    async def purge(
        self, tenant: str, where: Filter, *, after: str | None = None, upto: str
    ) -> AsyncGenerator[tuple[Page, int], None]:
        """Remove what matches up to an id, page by page; each page, and how many it lost."""
        async for page in self.pages(tenant, where, after=after, upto=upto):
            yield page, await self.remove(tenant, [letter.id for letter in page.letters])

    async def resolve(self, tenant: str, resolutions: Sequence[Resolution]) -> int:
        """Remove letters that were replayed, write those in their place, and count, all at once;
        how many were still there.

        Nothing takes the place of one that was gone already, but what was done counts.
        """
        redis_keys = (keys.dead_letter_stream(tenant), keys.ledger(tenant))
        commands = [
            ("EVAL", _RESOLVE, len(redis_keys), *redis_keys, *one.arguments(tenant))
            for one in resolutions
        ]
        with unavailable("settle dead letters"):
            return sum(await transact(self._redis, *commands))

    async def move(self, letter: Letter, tenant: str) -> Letter:
        """Give a whole letter to the tenant whose it turned out to be.

        Copied, then removed: their keys may lie on different servers. A crash between the two
        leaves it in both places, and to replay it twice is harmless.
        """
        stream, fields = keys.dead_letter_stream(tenant), letter.dead.fields(tenant)
        with unavailable("move a dead letter"):
            moved = (await transact(self._redis, ("XADD", stream, "*", *fields)))[0]
        await self.remove(letter.tenant, [letter.id])
        return Letter(id=moved.decode(), tenant=tenant, size=letter.size, dead=letter.dead)


def portions(letters: Sequence[Letter]) -> Iterator[list[str]]:
    """Ids of letters that may be held whole at once."""
    ids: list[str] = []
    room = _PAGE_BYTES
    for letter in letters:
        if ids and (len(ids) >= _WHOLE or letter.size > room):
            yield ids
            ids, room = [], _PAGE_BYTES
        ids.append(letter.id)
        room -= letter.size
    if ids:
        yield ids


def cursor_of(after: str | None, upto: str) -> str | None:
    """Where to go on later, and the last id of interest; None at the end."""
    return after and f"{after}/{upto}"


def position(cursor: str) -> tuple[str, str]:
    """The same taken apart. Raises `BadRequest`."""
    after, _, upto = cursor.partition("/")
    if not (is_id(after) and is_id(upto)):
        raise BadRequest(f"cursor {cursor[:64]!r} is not one that an earlier answer gave")
    return after, upto


def _order(letter_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = letter_id.partition("-")
    return int(milliseconds), int(sequence or 0)


def _earlier(letter_id: str, bound: str) -> bool:
    """Whether the id lies before the end of a range: all of a millisecond, or `+`."""
    return bound == "+" or _order(letter_id)[0] <= int(bound)
