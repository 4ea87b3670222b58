"""`/api/v1/agents`: agents as operators see and change them (reference section 5.2)."""

from __future__ import annotations

import uuid as uuids
from typing import Any
from uuid import UUID

import msgspec
import orjson
from msgspec import UNSET

from iotistica.api import cursors
from iotistica.api.agent_changes import AgentChanges
from iotistica.api.http import Request
from iotistica.api.models.agents import (
    Activation,
    Agent,
    AgentPage,
    AgentPatch,
    AgentQuery,
    Changed,
    Done,
    Located,
    Locations,
    NewAgent,
    PageQuery,
    Pagination,
)
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest, NotFound
from iotistica.selection import AgentFilter, FieldTest
from iotistica.store.roster import Roster

_NAMES = {"device_name": "name", "device_type": "type"}


class Agents:
    """Handlers for agents."""

    def __init__(self, roster: Roster, changes: AgentChanges) -> None:
        self._roster = roster
        self._changes = changes

    @route("GET", "/api/v1/agents", needs="device:read")
    async def listed(self, caller: Principal, query: AgentQuery) -> AgentPage:
        """Agents in the order in which they came, by page or by cursor."""
        chosen, after = _filter(query), cursors.read(query.cursor, cursors.Id)
        if after is not None and query.page is not None:
            raise BadRequest("parameters page and cursor exclude each other")
        page = query.page or 1
        rows = await self._roster.listed(
            caller.tenant,
            chosen,
            limit=query.limit,
            after=after or 0,
            skip=(page - 1) * query.limit,
            tags=query.includeTags,
        )
        agents = [Agent(**row) for row in rows]
        found = AgentPage(
            count=len(agents),
            agents=agents,
            cursor=cursors.follow(agents, query.limit, lambda agent: agent.id),
        )
        if after is None:
            total = await self._roster.count(caller.tenant, chosen)
            found.pagination = Pagination(
                page=page,
                limit=query.limit,
                total_devices=total,
                total_pages=-(-total // query.limit),
            )
        return found

    @route("POST", "/api/v1/agents", needs="device:write", status=201, errors=(404, 409))
    async def make(self, request: Request, body: NewAgent) -> Changed:
        """Expect an agent: it may register under its uuid, and gets this name until then."""
        uuid = body.uuid or uuids.uuid4()
        await self._roster.add(request.origin, uuid, _changes(body, "uuid"))
        return Changed(device=await self._agent(request.caller, uuid))

    @route("GET", "/api/v1/agents/locations", needs="device:read")
    async def locations(self, caller: Principal, query: PageQuery) -> Locations:
        """Agents that have a place."""
        after = cursors.read(query.cursor, cursors.Id) or 0
        rows = await self._roster.locations(caller.tenant, limit=query.limit, after=after)
        agents = [Located(**{k: v for k, v in row.items() if k != "id"}) for row in rows]
        cursor = cursors.follow(rows, query.limit, lambda row: row["id"])
        return Locations(count=len(agents), agents=agents, cursor=cursor)

    @route("GET", "/api/v1/agents/:uuid", needs="device:read", agents=True, errors=(404,))
    async def show(self, caller: Principal, uuid: UUID) -> Agent:
        """One agent, with its tags."""
        return await self._agent(caller, uuid)

    @route("GET", "/api/v1/devices/:uuid", needs="device:read", agents=True, errors=(404,))
    async def device(self, caller: Principal, uuid: UUID) -> Agent:
        """The same, where agents look for themselves."""
        return await self._agent(caller, uuid)

    @route("PATCH", "/api/v1/agents/:uuid", needs="device:write", errors=(404,))
    async def change(self, request: Request, uuid: UUID, body: AgentPatch) -> Changed:
        """Change what operators say of an agent, and its fleet."""
        await self._roster.change(request.origin, uuid, _changes(body))
        return Changed(device=await self._agent(request.caller, uuid))

    @route("PATCH", "/api/v1/agents/:uuid/active", needs="device:write", errors=(404,))
    async def activate(self, request: Request, uuid: UUID, body: Activation) -> Changed:
        """Let an agent in or keep it out: its key is refused, and the broker disconnects it."""
        await self._agent(request.caller, uuid)
        changed = await self._roster.activate(request.origin, [uuid], body.is_active)
        await self._changes.tell(changed)
        return Changed(device=await self._agent(request.caller, uuid))

    @route("DELETE", "/api/v1/agents/:uuid", needs="device:delete", agents=True, errors=(404,))
    async def remove(self, request: Request, uuid: UUID) -> Done:
        """Remove an agent; its readings stay. It may register again, as a new one."""
        await self._roster.remove(request.origin, uuid)
        await self._changes.tell([uuid])
        return Done(message="The agent is removed")

    async def _agent(self, caller: Principal, uuid: UUID) -> Agent:
        row = await self._roster.get(caller.tenant, uuid)
        if row is None:
            raise NotFound(f"agent {uuid} does not exist")
        return Agent(**row)


def _changes(body: msgspec.Struct, *without: str) -> dict[str, Any]:
    """What a body gives, by the names of columns."""
    given = msgspec.structs.asdict(body)
    return {
        _NAMES.get(name, name): msgspec.to_builtins(value) if name == "location" else value
        for name, value in given.items()
        if value is not UNSET and name not in without
    }


def _filter(query: AgentQuery) -> AgentFilter:
    tags, fields = {}, []
    for tag in query.tag:
        key, separator, value = tag.partition(":")
        tags[key] = value if separator else None
    for field in query.field:
        path, separator, value = field.partition(":")
        if not separator:
            raise BadRequest(f"parameter field is {field[:64]!r}; it must be path:value")
        fields.append(FieldTest(path=path, value=_value(value)))
    chosen = AgentFilter(
        online=query.online,
        active=None if query.filter == "all" else query.filter == "active",
        fleet=query.fleet,
        version=query.version,
        name=query.name,
        tags=tags or None,
        fields=fields or None,
    )
    try:
        # By the same rules as a filter in a body.
        return msgspec.convert(msgspec.to_builtins(chosen), AgentFilter)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the query: {error}") from None


def _value(text: str) -> Any:
    """JSON where it is, such as `5`, `true` or `"5"`; else the text itself."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError:
        return text
