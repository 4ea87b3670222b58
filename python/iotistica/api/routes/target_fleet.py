"""`/api/v1/target-state`: target states of many agents, and the default of those without one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

from iotistica.api.http import Request
from iotistica.api.models import target_state as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.api.target_desk import TargetDesk, author_of
from iotistica.errors import BadRequest, NotFound, TooLarge
from iotistica.selection import AgentFilter
from iotistica.store.groups import GroupStore
from iotistica.store.roster import Roster
from iotistica.store.target_feed import TargetFeed
from iotistica.store.targets import Author, TargetStore
from iotistica.targets import edits
from iotistica.targets.edits import Draft, Edit, State
from iotistica.targets.processing import Signer, processed
from iotistica.targets.shape import Limits, apps_by_id, check
from iotistica.targets.state import Content

_BATCH = 200
_PAGE = 5000
_MOST_TOLD = 100
_CONTROL = "device:control"


class TargetFleet:
    """Handlers for many target states at once."""

    def __init__(
        self,
        store: TargetStore,
        feed: TargetFeed,
        desk: TargetDesk,
        *,
        roster: Roster,
        groups: GroupStore,
        limits: Limits,
        signer: Signer,
    ) -> None:
        self._store = store
        self._feed = feed
        self._desk = desk
        self._roster = roster
        self._groups = groups
        self._limits = limits
        self._signer = signer

    @route("GET", "/api/v1/target-state/default", needs="device:read")
    async def default(self, caller: Principal) -> models.Default:
        """The target state of agents that have none of their own."""
        return _default(await self._feed.default(caller.tenant))

    @route("PUT", "/api/v1/target-state/default", needs=_CONTROL, errors=(404,))
    async def set_default(self, request: Request, body: models.Target) -> models.Default:
        """Replace it; agents without a target state of their own get it when they poll."""
        content = Content(apps_by_id(body.apps), body.config)
        check(content, self._limits)
        author, now = author_of(request, body.reason), datetime.now(UTC)
        content = processed(None, content)
        made = await self._feed.set_default(
            author.origin,
            content,
            served=self._signer.sign(content, now=now),
            author=author.name,
            now=now,
        )
        await self._desk.announce_default(request.caller.tenant)
        return _default(made)

    @route("POST", "/api/v1/target-state/apply", needs=_CONTROL, errors=(404,))
    async def apply(self, request: Request, body: models.Apply) -> models.Applied:
        """Change the target states of many agents, in batches of one transaction each.

        With `dryRun` nothing is changed and the answer says what would be. A batch that is refused
        is tried again agent by agent, so that one agent's state never stands against the others'.
        """
        edit = self._edit(body)
        agents = await self._selected(request.caller.tenant, body)
        author = author_of(request, body.reason)
        totals = _Totals()
        for batch in _batches(agents):
            if body.dry_run:
                await self._try(author.origin.tenant, batch, edit, totals)
            else:
                await self._change(author, batch, edit, totals)
        return models.Applied(
            dry_run=body.dry_run,
            selected=len(agents),
            changed=totals.changed,
            unchanged=totals.unchanged,
            failed=totals.failed[:_MOST_TOLD],
            failed_count=len(totals.failed),
        )

    def _edit(self, body: models.Apply) -> Edit:
        if body.apps is None and body.config is None:
            raise BadRequest("the body has neither apps nor config; one is needed")
        if body.merge:
            if isinstance(body.apps, list):
                raise BadRequest("field apps is an array; to merge, it must be an object by id")
            edit = edits.merged(Content(body.apps or {}, body.config or {}), deploy=body.deploy)
        else:
            apps = None if body.apps is None else apps_by_id(body.apps)
            edit = edits.partly_replaced(apps, body.config, deploy=body.deploy)

        def checked(state: State) -> Draft | None:
            draft = edit(state)
            if draft is not None:
                check(draft.content, self._limits)
                apps_by_id(dict(draft.content.apps))
            return draft

        return checked

    async def _selected(self, tenant: str, body: models.Apply) -> list[UUID]:
        named = [one is not None for one in (body.agents, body.fleet, body.group, body.filter)]
        if sum(named) + body.all != 1:
            raise BadRequest(
                "exactly one of agents, fleet, group, filter and all must say who is meant"
            )
        if body.agents is not None:
            return sorted(set(body.agents))
        chosen = body.filter or AgentFilter(fleet=body.fleet)
        if body.group is not None:
            chosen = await self._groups.filter(tenant, body.group)
        found: list[UUID] = []
        last = 0
        while rows := await self._roster.uuids(tenant, chosen, limit=_PAGE, after=last):
            last = rows[-1][0]
            found += (UUID(str(uuid)) for _, uuid in rows)
        if body.fleet is not None and not found:
            raise NotFound(f"fleet {body.fleet} has no agents")
        return found

    async def _try(self, tenant: str, batch: Sequence[UUID], edit: Edit, totals: _Totals) -> None:
        for agent in batch:
            try:
                draft = edit(await self._store.state(tenant, agent))
            except _REFUSALS as error:
                totals.refuse(agent, error)
            else:
                totals.count(changed=draft is not None)

    async def _change(
        self, author: Author, batch: Sequence[UUID], edit: Edit, totals: _Totals
    ) -> None:
        try:
            changes = await self._desk.change_many(author, batch, lambda _agent, _state: edit)
        except _REFUSALS as error:
            if len(batch) == 1:
                totals.refuse(batch[0], error)
                return
            for agent in batch:
                await self._change(author, [agent], edit, totals)
        else:
            for one in changes:
                totals.count(changed=one.is_changed)


_REFUSALS = (NotFound, BadRequest, TooLarge)


class _Totals:
    def __init__(self) -> None:
        self.changed = 0
        self.unchanged = 0
        self.failed: list[models.Refused] = []

    def count(self, *, changed: bool) -> None:
        self.changed += changed
        self.unchanged += not changed

    def refuse(self, agent: UUID, error: Exception) -> None:
        self.failed.append(models.Refused(uuid=agent, message=str(error)))


def _batches(agents: Sequence[UUID]) -> Iterator[Sequence[UUID]]:
    for first in range(0, len(agents), _BATCH):
        yield agents[first : first + _BATCH]


def _default(found: Any) -> models.Default:
    return models.Default(
        version=found.version,
        etag=found.etag,
        apps=dict(found.content.apps),
        config=dict(found.content.config),
    )
