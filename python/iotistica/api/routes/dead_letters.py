"""`/api/v1/dead-letters`: what could not be stored, for operators."""

from __future__ import annotations

import base64
from concurrent.futures import Executor
from contextlib import aclosing

from iotistica import keys, log
from iotistica.api.again import Again
from iotistica.api.http import Reply, json_reply
from iotistica.api.models import dead_letters as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.dictionaries.library import Library
from iotistica.errors import BadRequest, Forbidden, NotFound
from iotistica.redrive import Redrive, Totals, explained
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.streams import Filter, Letters, Streams
from iotistica.streams.letter import is_id
from iotistica.streams.letters import cursor_of, position

# A request ends: where more letters than these have been looked at, a cursor says where to go on.
_MAX_EXAMINED = 100_000

_log = log.get(__name__)


class DeadLetters:
    """Handlers for the dead letters of the caller's tenant."""

    def __init__(
        self,
        *,
        settings: Settings,
        pool: Pool,
        streams: Streams,
        executor: Executor,
    ) -> None:
        self._settings = settings
        self._pool = pool
        self._streams = streams
        self._executor = executor
        self._again = Again(settings=settings, pool=pool, streams=streams, executor=executor)
        self._library = Library.of(settings, pool, streams)

    @property
    def _letters(self) -> Letters:
        return self._streams.letters

    @route("GET", "/api/v1/dead-letters", needs="data:read", reply=models.LetterPage)
    async def listed(self, query: models.LetterQuery, caller: Principal) -> Reply:
        """The youngest letters that match, without payloads."""
        _check_tenant(caller)
        page = await self._letters.listed(
            caller.tenant,
            query.filter(),
            limit=query.limit,
            after=query.cursor,
            most=_MAX_EXAMINED,
        )
        letters = [letter.described() for letter in page.letters]
        return json_reply({"count": len(letters), "letters": letters, "cursor": page.cursor})

    @route("GET", "/api/v1/dead-letters/summary", needs="data:read", reply=models.LetterSummary)
    async def summary(self, query: models.Filters, caller: Principal) -> Reply:
        """Counts by reason, stage and agent, and how full it is."""
        _check_tenant(caller)
        where = query.filter()
        found = await self._letters.summary(caller.tenant, where, most=_MAX_EXAMINED)
        total = await self._letters.count(caller.tenant)
        bound = {"total": total, "bound": self._settings.dlq_max_entries}
        return json_reply({**found.described(), **bound})

    @route("GET", "/api/v1/dead-letters/:id", needs="data:read", reply=models.WholeLetter)
    async def show(self, id: str, caller: Principal) -> Reply:  # noqa: A002 (its name in the path)
        """One letter, its payload as base64 and decoded as far as it goes."""
        _check_tenant(caller)
        letter = await self._letters.get(caller.tenant, id) if is_id(id) else None
        if letter is None:
            raise NotFound(f"dead letter {id[:64]} does not exist")
        return json_reply(
            {
                **letter.described(),
                "payload": base64.b64encode(letter.dead.data).decode(),
                "explained": await explained(letter, self._library, self._settings),
            }
        )

    @route("POST", "/api/v1/dead-letters/replay", needs="device:control", reply=models.Replayed)
    async def replay(self, body: models.Replay, caller: Principal) -> Reply:
        """Try letters once more; with `dryRun` say what would come of it."""
        _check_tenant(caller)
        where = body.filters.filter()
        _check_meant(where, body.all)
        dry_run, cursor, limit = body.dry_run, body.cursor, body.limit
        redrive = Redrive(
            settings=self._settings,
            pool=self._pool,
            streams=self._streams,
            executor=self._executor,
            families=self._again,
            dry_run=dry_run,
        )
        totals, letters, examined, rest = Totals(), [], 0, None
        async with aclosing(redrive.run(caller.tenant, where, cursor=cursor, limit=limit)) as steps:
            async for step in steps:
                totals.add(step.proofs)
                letters += [proof.described() for proof in step.proofs]
                examined, rest = examined + step.examined, step.cursor
                if examined >= _MAX_EXAMINED:
                    break
        if not dry_run:
            _log.info("dead letters replayed", **_who(caller), passed=totals.passed)
        sums = totals.described()
        answer = {"dryRun": dry_run, "count": sums.pop("letters"), **sums}
        return json_reply({**answer, "letters": letters, "cursor": rest})

    @route("DELETE", "/api/v1/dead-letters", needs="data:delete", reply=models.Purged)
    async def purge(self, query: models.PurgeQuery, caller: Principal) -> Reply:
        """Remove letters for good."""
        _check_tenant(caller)
        where, cursor = query.filter(), query.cursor
        _check_meant(where, query.all)
        newest = await self._letters.newest(caller.tenant)
        after, upto = position(cursor) if cursor is not None else (None, newest)
        removed, examined, rest = 0, 0, None
        steps = self._letters.purge(caller.tenant, where, after=after, upto=upto)
        async with aclosing(steps):
            async for page, gone in steps:
                removed, examined = removed + gone, examined + page.examined
                rest = cursor_of(page.cursor, upto)
                if examined >= _MAX_EXAMINED:
                    break
        _log.info("dead letters purged", **_who(caller), removed=removed)
        return json_reply({"purged": removed, "cursor": rest})


def _check_tenant(caller: Principal) -> None:
    if caller.tenant == keys.STRAY:
        raise Forbidden("letters of no tenant are for those who run the platform")


def _who(caller: Principal) -> dict[str, str]:
    return {"tenant": caller.tenant, "user": caller.id}


def _check_meant(where: Filter, everything: bool) -> None:
    if where.is_empty and not everything:
        raise BadRequest("no letters are named; give a filter, or say all=true")
