"""Writes target states for operators, and tells whoever must know: this process, the others, the
agents."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from uuid import UUID

import orjson

from iotistica import log, metrics
from iotistica._native import format_topic
from iotistica.api.http import Request
from iotistica.api.target_cache import TargetCache, notice_of, quoted
from iotistica.errors import PreconditionFailed, StoreUnavailable
from iotistica.instants import iso
from iotistica.store.targets import Author, Changed, EditOf, TargetStore
from iotistica.streams import Streams
from iotistica.streams.outbox import Outgoing
from iotistica.targets.edits import Edit, State

NUDGE = "cmd/target-state"
"""Below the agent's topics; agents that do not know it ignore it."""

_log = log.get(__name__)


class TargetDesk:
    """Every method raises `StoreUnavailable`, and `NotFound` for what is not the tenant's."""

    def __init__(self, store: TargetStore, cache: TargetCache, streams: Streams) -> None:
        self._store = store
        self._cache = cache
        self._streams = streams

    async def change(self, request: Request, agent: UUID, edit: Edit, *, reason: str = "") -> State:
        """The state after an edit. Raises `PreconditionFailed` where `If-Match` is of another."""
        edit_of = _if_match(request.headers.get("if-match"), edit)
        changed = await self._store.change(author_of(request, reason), agent, edit_of)
        await self.announce(request.caller.tenant, [changed])
        return changed.after

    async def change_many(
        self, author: Author, agents: Sequence[UUID], edit_of: EditOf
    ) -> list[Changed]:
        """The same for several, in one transaction."""
        changes = await self._store.change_many(author, agents, edit_of)
        await self.announce(author.origin.tenant, changes)
        return changes

    async def announce(self, tenant: str, changes: Sequence[Changed]) -> None:
        """Tell of states that are served otherwise now.

        What cannot be told is only late: processes look for changes, and agents poll.
        """
        served = [one for one in changes if one.is_served]
        for one in served:
            self._cache.forget(str(one.agent))
        if not served:
            return
        try:
            await self._streams.channels.publish_many(notice_of(agent=one.agent) for one in served)
            await self._streams.outbox.put([_nudge(tenant, one) for one in served])
        except StoreUnavailable as error:
            metrics.NUDGES.labels("not_sent").inc(len(served))
            _log.warning("agents were not told to poll", agents=len(served), error=str(error))
        else:
            metrics.NUDGES.labels("sent").inc(len(served))

    async def announce_default(self, tenant: str) -> None:
        """Tell the processes of another default; its agents learn of it when they poll."""
        self._cache.forget_default(tenant)
        try:
            await self._streams.channels.publish_many([notice_of(tenant=tenant)])
        except StoreUnavailable as error:
            _log.warning("other processes were not told of a default", error=str(error))


def author_of(request: Request, reason: str) -> Author:
    """Who asks, and why."""
    return Author(origin=request.origin, reason=reason)


def _if_match(given: str | None, edit: Edit) -> EditOf:
    def edit_of(_: UUID, state: State) -> Edit:
        if given is not None and not _is_met(given, state):
            raise PreconditionFailed(
                f"the target state is at version {state.version} with ETag {quoted(state.etag)}; "
                f"If-Match is {given[:64]}"
            )
        return edit

    return edit_of


def _is_met(given: str, state: State) -> bool:
    """RFC 9110 section 13.1.1; quotes may be missing, as in If-None-Match.

    A weak tag counts, too: the front door makes ours weak where it compresses an answer.
    """
    names = {name.strip().removeprefix("W/").strip('"') for name in given.split(",")}
    return state.etag in names or ("*" in names and state.version > 0)


def _nudge(tenant: str, changed: Changed) -> Outgoing:
    served = changed.after.served
    body = {
        "action": "poll",
        "version": changed.after.version,
        "etag": None if served is None else quoted(served.etag),
        "timestamp": iso(datetime.now(UTC)),
    }
    topic = format_topic(tenant, str(changed.agent), NUDGE)
    return Outgoing(topic, orjson.dumps(body))
