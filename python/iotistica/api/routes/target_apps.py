"""`/api/v1/agents/:uuid/apps`: the apps of a target state, one by one (reference 5.2)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

from iotistica.api.http import Reply, Request
from iotistica.api.models import target_state as models
from iotistica.api.route import route
from iotistica.api.routes.target_state import written
from iotistica.api.target_desk import TargetDesk
from iotistica.errors import BadRequest
from iotistica.targets import edits
from iotistica.targets.edits import Draft, Edit, State
from iotistica.targets.shape import Limits, app_id_of, check
from iotistica.targets.state import Content

_PATH = "/api/v1/agents/:uuid/apps"
_CONTROL = "device:control"


class TargetApps:
    """Handlers for apps. What they change is staged until it is deployed."""

    def __init__(self, desk: TargetDesk, limits: Limits) -> None:
        self._desk = desk
        self._limits = limits

    @route("POST", _PATH, needs=_CONTROL, status=201, reply=models.Written, errors=(409, 412))
    async def add(self, request: Request, uuid: UUID, body: dict[str, Any]) -> Reply:
        """Stage a new app, which needs an `appId`."""
        key = app_id_of(body, "body")
        return await self._staged(request, uuid, edits.with_app(key, body), "added", status=201)

    @route("PATCH", f"{_PATH}/:appId", needs=_CONTROL, reply=models.Written, errors=(412,))
    async def change(self, request: Request, uuid: UUID, appId: str, body: dict[str, Any]) -> Reply:
        """Stage other values of an app's members; those not named stay."""
        if "appId" in body and str(body["appId"]) != appId:
            raise BadRequest(f"field appId is {str(body['appId'])[:64]!r}, in the path {appId!r}")
        return await self._staged(request, uuid, edits.with_app_changed(appId, body), "changed")

    @route("DELETE", f"{_PATH}/:appId", needs=_CONTROL, reply=models.Written, errors=(412,))
    async def remove(self, request: Request, uuid: UUID, appId: str) -> Reply:
        """Stage the end of an app."""
        return await self._staged(request, uuid, edits.without_app(appId), "removed")

    @route("POST", f"{_PATH}/:appId/deploy", needs=_CONTROL, reply=models.Written, errors=(412,))
    async def deploy(self, request: Request, uuid: UUID, appId: str) -> Reply:
        """Serve what is staged of one app; what else is staged stays so."""
        state = await self._desk.change(request, uuid, edits.app_deployed(appId))
        return written(uuid, state, f"App {appId} deployed")

    async def _staged(
        self, request: Request, uuid: UUID, edit: Edit, done: str, *, status: int = 200
    ) -> Reply:
        state = await self._desk.change(request, uuid, self._checked(edit))
        reply = written(uuid, state, f"App {done}; deploy it so that the agent gets it")
        return Reply(status, reply.body, reply.headers)

    def _checked(self, edit: Edit) -> Edit:
        def checked(state: State) -> Draft | None:
            draft = edit(state)
            if draft is not None:
                check(Content(draft.content.apps, draft.content.config), self._limits)
            return draft

        return checked
