"""Tags of agents, and which tags there are."""

from __future__ import annotations

from collections.abc import Mapping
from uuid import UUID

from iotistica.api import cursors
from iotistica.api.http import Request
from iotistica.api.models.agents import (
    Affected,
    AgentTags,
    BulkTags,
    Definition,
    DefinitionPage,
    Done,
    KeyPage,
    KeyUse,
    NewDefinition,
    PageQuery,
    TagChange,
    TagChoice,
    ValuePage,
    ValueUse,
)
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest, NotFound
from iotistica.selection import AgentFilter
from iotistica.store.roster import Roster
from iotistica.store.tags import TagStore


class Tags:
    """Handlers for tags."""

    def __init__(self, store: TagStore, roster: Roster) -> None:
        self._store = store
        self._roster = roster

    @route("GET", "/api/v1/agents/:uuid/tags", needs="device:read", agents=True, errors=(404,))
    async def show(self, caller: Principal, uuid: UUID) -> AgentTags:
        """Tags of an agent."""
        return AgentTags(uuid=str(uuid), tags=await self._tags(caller, uuid))

    @route("PUT", "/api/v1/agents/:uuid/tags", needs="device:write", errors=(404,))
    async def replace(self, request: Request, uuid: UUID, body: TagChange) -> AgentTags:
        """Give an agent these tags and no others."""
        await check_allowed(self._store, request.caller, body.tags)
        await self._roster.retag(request.origin, uuid, body.tags)
        return AgentTags(uuid=str(uuid), tags=body.tags)

    @route("DELETE", "/api/v1/agents/:uuid/tags", needs="device:write", errors=(404,))
    async def remove(self, request: Request, uuid: UUID, query: TagChoice) -> AgentTags:
        """Take the tags of these keys away, or all of them."""
        tags = await self._tags(request.caller, uuid)
        gone = query.key or list(tags)
        await self._roster.untag(request.origin, [uuid], gone)
        left = {key: value for key, value in tags.items() if key not in gone}
        return AgentTags(uuid=str(uuid), tags=left)

    @route("POST", "/api/v1/agents/tags/bulk", needs="device:write")
    async def bulk(self, request: Request, body: BulkTags) -> Affected:
        """Set tags of many agents; uuids that are not the tenant's are as if they did not exist."""
        await check_allowed(self._store, request.caller, body.tags)
        tenant, chosen = request.caller.tenant, AgentFilter(uuids=body.agent_uuids)
        found = await self._roster.uuids(tenant, chosen, limit=len(body.agent_uuids))
        await self._roster.tag(request.origin, [uuid for _, uuid in found], body.tags)
        return Affected(dry_run=False, count=len(found))

    @route("GET", "/api/v1/tags/keys", needs="device:read")
    async def keys(self, caller: Principal, query: PageQuery) -> KeyPage:
        """Keys in use."""
        after = cursors.read(query.cursor, cursors.Name)
        rows = await self._store.keys(caller.tenant, limit=query.limit, after=after)
        keys = [KeyUse(**row) for row in rows]
        cursor = cursors.follow(keys, query.limit, lambda use: use.key)
        return KeyPage(count=len(keys), keys=keys, cursor=cursor)

    @route("GET", "/api/v1/tags/values/:key", needs="device:read")
    async def values(self, caller: Principal, key: str, query: PageQuery) -> ValuePage:
        """Values of one key that are in use."""
        after = cursors.read(query.cursor, cursors.Name)
        rows = await self._store.values(caller.tenant, key, limit=query.limit, after=after)
        values = [ValueUse(**row) for row in rows]
        cursor = cursors.follow(values, query.limit, lambda use: use.value)
        return ValuePage(key=key, count=len(values), values=values, cursor=cursor)

    @route("GET", "/api/v1/tags/definitions", needs="device:read")
    async def definitions(self, caller: Principal, query: PageQuery) -> DefinitionPage:
        """Tags that are meant to be used."""
        after = cursors.read(query.cursor, cursors.Name)
        rows = await self._store.definitions(caller.tenant, limit=query.limit, after=after)
        found = [Definition(**row) for row in rows]
        cursor = cursors.follow(found, query.limit, lambda definition: definition.key)
        return DefinitionPage(count=len(found), definitions=found, cursor=cursor)

    @route("POST", "/api/v1/tags/definitions", needs="settings:write", status=201)
    async def define(self, request: Request, body: NewDefinition) -> Definition:
        """Define a tag, or define it anew; where values are named, others are refused."""
        made = await self._store.define(
            request.origin, body.key, description=body.description, allowed=body.allowed_values
        )
        return Definition(**made)

    @route("DELETE", "/api/v1/tags/definitions/:key", needs="settings:write", errors=(404,))
    async def undefine(self, request: Request, key: str) -> Done:
        """Remove a definition; tags of agents stay."""
        await self._store.undefine(request.origin, key)
        return Done(message="The definition is removed")

    async def _tags(self, caller: Principal, uuid: UUID) -> dict[str, str]:
        row = await self._roster.get(caller.tenant, uuid)
        if row is None:
            raise NotFound(f"agent {uuid} does not exist")
        tags: dict[str, str] = row["tags"]
        return tags


async def check_allowed(store: TagStore, caller: Principal, tags: Mapping[str, str]) -> None:
    """Raise `BadRequest` for a value that the definition of its key does not name."""
    for key, values in (await store.allowed(caller.tenant, list(tags))).items():
        if tags[key] not in values:
            known = ", ".join(values)[:200]
            raise BadRequest(f"tag {key} is {tags[key][:64]!r}; allowed are {known}")
