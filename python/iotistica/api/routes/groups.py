"""Search over agents, groups that are saved searches, and actions on all that match."""

from __future__ import annotations

from uuid import UUID

import msgspec
from msgspec import UNSET

from iotistica.api import cursors
from iotistica.api.agent_changes import AgentChanges
from iotistica.api.http import Request
from iotistica.api.models.agents import (
    Affected,
    Agent,
    Bulk,
    Done,
    Found,
    Group,
    GroupPage,
    GroupPatch,
    NewGroup,
    PageQuery,
    Search,
)
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.api.routes.tags import check_allowed
from iotistica.errors import BadRequest
from iotistica.selection import AgentFilter
from iotistica.store.fleets import FleetStore
from iotistica.store.groups import GroupStore
from iotistica.store.journal import Origin
from iotistica.store.roster import Roster
from iotistica.store.selection import Condition
from iotistica.store.tags import TagStore

_AT_ONCE = 1000


class Groups:
    """Handlers for searches, groups and bulk actions."""

    def __init__(
        self,
        store: GroupStore,
        *,
        roster: Roster,
        fleets: FleetStore,
        tags: TagStore,
        changes: AgentChanges,
    ) -> None:
        self._store = store
        self._roster = roster
        self._fleets = fleets
        self._tags = tags
        self._changes = changes

    @route("POST", "/api/v1/agents/query", needs="device:read")
    async def search(self, caller: Principal, body: Search) -> Found:
        """Agents that match a filter."""
        found = await self._found(caller, body.filter, body.limit, body.cursor, body.include_tags)
        if body.count_all:
            found.total = await self._roster.count(caller.tenant, body.filter)
        return found

    @route("POST", "/api/v1/agents/bulk", needs="device:write", errors=(404,))
    async def bulk(self, request: Request, body: Bulk) -> Affected:
        """One action on all agents that match, each thousand at once; a dry run only counts."""
        origin, tenant = request.origin, request.caller.tenant
        chosen = await self._chosen(tenant, body)
        await self._check(request.caller, body)
        if body.dry_run:
            return Affected(dry_run=True, count=await self._roster.count(tenant, chosen))
        count, after = 0, 0
        while page := await self._roster.uuids(tenant, chosen, limit=_AT_ONCE, after=after):
            await self._act(origin, body, [uuid for _, uuid in page])
            count, after = count + len(page), page[-1][0]
        return Affected(dry_run=False, count=count)

    @route("GET", "/api/v1/groups", needs="device:read")
    async def listed(self, caller: Principal, query: PageQuery) -> GroupPage:
        """Groups by name."""
        after = cursors.read(query.cursor, cursors.Name)
        rows = await self._store.listed(caller.tenant, limit=query.limit, after=after)
        groups = [Group(**row) for row in rows]
        cursor = cursors.follow(groups, query.limit, lambda group: group.name)
        return GroupPage(count=len(groups), groups=groups, cursor=cursor)

    @route("POST", "/api/v1/groups", needs="device:write", status=201, errors=(409,))
    async def make(self, request: Request, body: NewGroup) -> Group:
        """Save a filter as a group; who is in it is decided whenever somebody asks."""
        Condition(request.caller.tenant, body.filter)
        group = await self._store.add(
            request.origin, name=body.name, description=body.description, chosen=body.filter
        )
        return Group(**await self._store.get(request.caller.tenant, group))

    @route("GET", "/api/v1/groups/:id", needs="device:read", errors=(404,))
    async def show(self, caller: Principal, id: UUID) -> Group:  # noqa: A002
        """One group."""
        return Group(**await self._store.get(caller.tenant, id))

    @route("PATCH", "/api/v1/groups/:id", needs="device:write", errors=(404, 409))
    async def change(self, request: Request, id: UUID, body: GroupPatch) -> Group:  # noqa: A002
        """Change name, description or filter."""
        if body.filter is not UNSET:
            Condition(request.caller.tenant, body.filter)
        given = msgspec.structs.asdict(body)
        changes = {name: value for name, value in given.items() if value is not UNSET}
        await self._store.change(request.origin, id, changes)
        return Group(**await self._store.get(request.caller.tenant, id))

    @route("DELETE", "/api/v1/groups/:id", needs="device:delete", errors=(404, 409))
    async def remove(self, request: Request, id: UUID) -> Done:  # noqa: A002
        """Forget a filter; its agents stay. A group with alert rules stays too."""
        await self._store.remove(request.origin, id)
        return Done(message="The group is removed")

    @route("GET", "/api/v1/groups/:id/agents", needs="device:read", errors=(404,))
    async def members(self, caller: Principal, id: UUID, query: PageQuery) -> Found:  # noqa: A002
        """Agents that are in a group now."""
        chosen = await self._store.filter(caller.tenant, id)
        return await self._found(caller, chosen, query.limit, query.cursor, False)

    async def _found(
        self, caller: Principal, chosen: AgentFilter, limit: int, cursor: str | None, tags: bool
    ) -> Found:
        after = cursors.read(cursor, cursors.Id) or 0
        rows = await self._roster.listed(caller.tenant, chosen, limit=limit, after=after, tags=tags)
        agents = [Agent(**row) for row in rows]
        rest = cursors.follow(agents, limit, lambda agent: agent.id)
        return Found(count=len(agents), agents=agents, cursor=rest, total=None)

    async def _chosen(self, tenant: str, body: Bulk) -> AgentFilter:
        if (body.filter is None) == (body.group is None):
            raise BadRequest("fields filter and group: one of them must be given")
        if body.group is not None:
            return await self._store.filter(tenant, body.group)
        chosen = body.filter or AgentFilter()
        if chosen.is_empty and not body.all:
            raise BadRequest("no agents are named; give a filter, or say all: true")
        return chosen

    async def _check(self, caller: Principal, body: Bulk) -> None:
        """That the action has what it needs, before anything is done."""
        needed = {"tag": body.tags, "untag": body.keys, "active": body.active}
        names = {"tag": "tags", "untag": "keys", "active": "active"}
        if body.action in needed and needed[body.action] is None:
            raise BadRequest(f"field {names[body.action]} is needed for the action {body.action}")
        if body.action == "tag":
            await check_allowed(self._tags, caller, body.tags or {})
        if body.action == "fleet" and body.fleet_uuid is not None:
            await self._fleets.get(caller.tenant, body.fleet_uuid)

    async def _act(self, origin: Origin, body: Bulk, uuids: list[UUID]) -> None:
        match body.action:
            case "tag":
                await self._roster.tag(origin, uuids, body.tags or {})
            case "untag":
                await self._roster.untag(origin, uuids, body.keys or [])
            case "fleet":
                await self._roster.move(origin, uuids, body.fleet_uuid)
            case "active":
                changed = await self._roster.activate(origin, uuids, bool(body.active))
                await self._changes.tell(changed)
