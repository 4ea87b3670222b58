"""`/api/v1/dead-letters`: what could not be stored, for operators."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from concurrent.futures import Executor
from contextlib import aclosing
from typing import Any

import orjson

from iotistica import keys, log
from iotistica.api import window
from iotistica.api.http import Reply, Request, json_reply
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest, Forbidden, NotFound
from iotistica.redrive import Redrive, Totals, explained
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.streams import Filter, Letters, Streams
from iotistica.streams.letter import is_id
from iotistica.streams.letters import cursor_of, position

_FILTERS = ("ids", "reason", "stage", "agent", "since", "until")
_MAX_IDS = 1000
_MAX_LISTED, _LISTED = 1000, 50
_MAX_REPLAYED, _REPLAYED = 10_000, 1000
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

    @property
    def _letters(self) -> Letters:
        return self._streams.letters

    @route("GET", "/api/v1/dead-letters", needs="data:read")
    async def listed(self, request: Request, caller: Principal) -> Reply:
        """The youngest letters that match, without payloads."""
        _check_tenant(caller)
        where, after = _queried(request), request.parameter("cursor")
        if after is not None and not is_id(after):
            raise BadRequest(f"parameter cursor is {after[:64]!r}; allowed is one that was given")
        limit = _number("limit", request.parameter("limit"), _LISTED, _MAX_LISTED)
        page = await self._letters.listed(
            caller.tenant, where, limit=limit, after=after, most=_MAX_EXAMINED
        )
        letters = [letter.described() for letter in page.letters]
        return json_reply({"count": len(letters), "letters": letters, "cursor": page.cursor})

    @route("GET", "/api/v1/dead-letters/summary", needs="data:read")
    async def summary(self, request: Request, caller: Principal) -> Reply:
        """Counts by reason, stage and agent, and how full it is."""
        _check_tenant(caller)
        found = await self._letters.summary(caller.tenant, _queried(request), most=_MAX_EXAMINED)
        total = await self._letters.count(caller.tenant)
        bound = {"total": total, "bound": self._settings.dlq_max_entries}
        return json_reply({**found.described(), **bound})

    @route("GET", "/api/v1/dead-letters/:id", needs="data:read")
    async def show(self, request: Request, caller: Principal) -> Reply:
        """One letter, its payload as base64 and decoded as far as it goes."""
        _check_tenant(caller)
        letter_id = request.params["id"]
        letter = await self._letters.get(caller.tenant, letter_id) if is_id(letter_id) else None
        if letter is None:
            raise NotFound(f"dead letter {letter_id[:64]} does not exist")
        return json_reply(
            {
                **letter.described(),
                "payload": base64.b64encode(letter.dead.data).decode(),
                "explained": await explained(letter, self._streams, self._settings),
            }
        )

    @route("POST", "/api/v1/dead-letters/replay", needs="device:control")
    async def replay(self, request: Request, caller: Principal) -> Reply:
        """Try letters once more; with `dryRun` say what would come of it."""
        _check_tenant(caller)
        asked = _body(request, "filters", "all", "dryRun", "limit", "cursor")
        where = _filter(_object("filters", asked.get("filters", {})))
        _check_meant(where, _flag("all", asked.get("all", False)))
        dry_run = _flag("dryRun", asked.get("dryRun", False))
        limit = _number("limit", asked.get("limit"), _REPLAYED, _MAX_REPLAYED)
        cursor = _text("cursor", asked.get("cursor"))
        redrive = Redrive(
            settings=self._settings,
            pool=self._pool,
            streams=self._streams,
            executor=self._executor,
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

    @route("DELETE", "/api/v1/dead-letters", needs="data:delete")
    async def purge(self, request: Request, caller: Principal) -> Reply:
        """Remove letters for good."""
        _check_tenant(caller)
        where, cursor = _queried(request), request.parameter("cursor")
        _check_meant(where, request.parameter("all") == "true")
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


def _queried(request: Request) -> Filter:
    """The filter in a query. Raises `BadRequest`."""
    ids = request.listed("ids")
    given = {name: request.parameter(name) for name in _FILTERS if name != "ids"}
    return _filter({**({"ids": ids} if ids else {}), **given})


def _filter(given: Mapping[str, Any]) -> Filter:
    """A filter out of its members. Raises `BadRequest`."""
    for name in given.keys() - set(_FILTERS):
        raise BadRequest(f"filter {name[:64]!r} is not one of {', '.join(_FILTERS)}")
    ids = given.get("ids", [])
    if not isinstance(ids, list) or not all(isinstance(one, str) and is_id(one) for one in ids):
        raise BadRequest("filter ids must be a list of ids such as 1795453097011-0")
    if len(ids) > _MAX_IDS:
        raise BadRequest(f"filter ids has {len(ids)} ids; at most {_MAX_IDS} are allowed")
    since, until = (_text(name, given.get(name)) for name in ("since", "until"))
    return Filter(
        ids=frozenset(ids),
        reason=_text("reason", given.get("reason")),
        stage=_text("stage", given.get("stage")),
        agent=_text("agent", given.get("agent")),
        since=None if since is None else window.moment("since", since),
        until=None if until is None else window.moment("until", until),
    )


def _check_meant(where: Filter, everything: bool) -> None:
    if where.is_empty and not everything:
        raise BadRequest("no letters are named; give a filter, or say all=true")


def _body(request: Request, *allowed: str) -> Mapping[str, Any]:
    try:
        body = orjson.loads(request.body)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None
    for name in _object("body", body).keys() - set(allowed):
        raise BadRequest(f"member {name[:64]!r} is not one of {', '.join(allowed)}")
    return _object("body", body)


def _object(name: str, value: Any) -> Mapping[str, Any]:
    if not isinstance(value, dict):
        raise BadRequest(f"{name} must be a JSON object")
    return value


def _flag(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise BadRequest(f"{name} must be true or false")
    return value


def _text(name: str, value: Any) -> str | None:
    if value is not None and not isinstance(value, str):
        raise BadRequest(f"{name} must be a text")
    return value


def _number(name: str, value: Any, default: int, most: int) -> int:
    if value is None:
        return default
    text = value if isinstance(value, str) else orjson.dumps(value).decode()
    if not (text.isascii() and text.isdecimal() and len(text) < 10 and 1 <= int(text) <= most):
        raise BadRequest(f"{name} is {text[:64]}; allowed is a whole number from 1 to {most}")
    return int(text)
