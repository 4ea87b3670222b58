"""`/api/v1/fleets`."""

from __future__ import annotations

from uuid import UUID

import msgspec

from iotistica.api import cursors
from iotistica.api.http import Request
from iotistica.api.models.agents import Done, Fleet, FleetPage, FleetPatch, NewFleet, PageQuery
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.store.fleets import FleetStore


class Fleets:
    """Handlers for fleets."""

    def __init__(self, store: FleetStore) -> None:
        self._store = store

    @route("GET", "/api/v1/fleets", needs="device:read")
    async def listed(self, caller: Principal, query: PageQuery) -> FleetPage:
        """Fleets by name."""
        after = cursors.read(query.cursor, cursors.Name)
        rows = await self._store.listed(caller.tenant, limit=query.limit, after=after)
        fleets = [Fleet(**row) for row in rows]
        cursor = cursors.follow(fleets, query.limit, lambda fleet: fleet.fleet_name)
        return FleetPage(count=len(fleets), fleets=fleets, cursor=cursor)

    @route("POST", "/api/v1/fleets", needs="device:write", status=201, errors=(409,))
    async def make(self, request: Request, body: NewFleet) -> Fleet:
        """Make a fleet."""
        fleet = await self._store.add(
            request.origin,
            name=body.fleet_name,
            kind=body.fleet_type,
            description=body.description,
        )
        return Fleet(**await self._store.get(request.caller.tenant, fleet))

    @route("GET", "/api/v1/fleets/:id", needs="device:read", errors=(404,))
    async def show(self, caller: Principal, id: UUID) -> Fleet:  # noqa: A002
        """One fleet, with how many agents it has."""
        return Fleet(**await self._store.get(caller.tenant, id))

    @route("PATCH", "/api/v1/fleets/:id", needs="device:write", errors=(404, 409))
    async def change(self, request: Request, id: UUID, body: FleetPatch) -> Fleet:  # noqa: A002
        """Change name, type or description."""
        given = msgspec.structs.asdict(body)
        changes = {name: value for name, value in given.items() if value is not msgspec.UNSET}
        await self._store.change(request.origin, id, changes)
        return Fleet(**await self._store.get(request.caller.tenant, id))

    @route("DELETE", "/api/v1/fleets/:id", needs="device:delete", errors=(404, 409))
    async def remove(self, request: Request, id: UUID) -> Done:  # noqa: A002
        """Remove an empty fleet, and the provisioning keys into it."""
        await self._store.remove(request.origin, id)
        return Done(message="The fleet is removed")
