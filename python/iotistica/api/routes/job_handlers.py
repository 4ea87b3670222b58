"""`/api/v1/jobs/handlers`: named scripts that documents of jobs speak of (docs/jobs.md)."""

from __future__ import annotations

import msgspec

from iotistica.api import cursors
from iotistica.api.http import Reply, Request, json_reply
from iotistica.api.models import job_handlers as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.store.job_handlers import JobHandlers

_PATH = "/api/v1/jobs/handlers"
_ONE = f"{_PATH}/:id"


class JobHandlerRoutes:
    """Handlers of handlers. Nothing is run here, and nothing is put into documents."""

    def __init__(self, store: JobHandlers) -> None:
        self._store = store

    @route("GET", _PATH, needs="device:read", reply=models.HandlerPage)
    async def listed(self, query: models.HandlerQuery, caller: Principal) -> Reply:
        """Job handlers by name."""
        found = await self._store.listed(caller.tenant, after=query.cursor, limit=query.limit)
        cursor = cursors.plain(found, query.limit, lambda one: one["name"])
        return json_reply({"count": len(found), "handlers": found, "cursor": cursor})

    @route("POST", _PATH, needs="device:control", reply=models.Handler, status=201, errors=(409,))
    async def add(self, request: Request, body: models.NewHandler) -> Reply:
        """Keep a script under a name."""
        made = await self._store.add(request.origin, msgspec.structs.asdict(body))
        return json_reply(made, 201)

    @route("GET", _ONE, needs="device:read", reply=models.Handler)
    async def get(self, id: models.HandlerId, caller: Principal) -> Reply:  # noqa: A002
        """One job handler."""
        return json_reply(await self._store.get(caller.tenant, id))

    @route("PUT", _ONE, needs="device:control", reply=models.Handler, errors=(409,))
    async def change(
        self,
        id: models.HandlerId,  # noqa: A002
        request: Request,
        body: models.HandlerChange,
    ) -> Reply:
        """Change what is given of a job handler."""
        given = msgspec.structs.asdict(body)
        changes = {name: one for name, one in given.items() if one is not msgspec.UNSET}
        return json_reply(await self._store.change(request.origin, id, changes))

    @route("DELETE", _ONE, needs="device:delete")
    async def remove(self, id: models.HandlerId, request: Request) -> None:  # noqa: A002
        """Forget a job handler."""
        await self._store.remove(request.origin, id)
