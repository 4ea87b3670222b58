"""`/api/v1/agents/:uuid/target-state`: what an agent should be, by version (reference 5.2, 5.3)."""

from __future__ import annotations

from typing import Any
from uuid import UUID

import msgspec

from iotistica.api.http import JSON_TYPE, Reply, Request
from iotistica.api.models import target_state as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.api.target_cache import quoted
from iotistica.api.target_desk import TargetDesk
from iotistica.errors import BadRequest
from iotistica.store.targets import TargetStore
from iotistica.targets import edits
from iotistica.targets.difference import differences
from iotistica.targets.edits import State
from iotistica.targets.shape import Limits, apps_by_id, check
from iotistica.targets.state import Content

_PATH = "/api/v1/agents/:uuid/target-state"
_CONTROL = "device:control"


class TargetStates:
    """Handlers for one agent's target state. `If-Match` refuses a change of a newer version."""

    def __init__(self, store: TargetStore, desk: TargetDesk, limits: Limits) -> None:
        self._store = store
        self._desk = desk
        self._limits = limits

    @route("GET", _PATH, needs="device:read", agents=True, reply=models.TargetState)
    async def get(self, caller: Principal, uuid: UUID) -> Reply:
        """The target state as operators edit it, with its ETag."""
        state = await self._store.state(caller.tenant, uuid)
        return _reply(models.TargetState(**_members(uuid, state)), state)

    @route("POST", _PATH, needs=_CONTROL, agents=True, reply=models.Written, errors=(412,))
    async def set(self, request: Request, uuid: UUID, body: models.Target) -> Reply:
        """Replace the target state; the agent gets it at once."""
        edit = edits.replaced(self._content(body), deploy=True)
        state = await self._desk.change(request, uuid, edit, reason=body.reason)
        return written(uuid, state, "Target state updated")

    @route("PUT", _PATH, needs=_CONTROL, reply=models.Written, errors=(412,))
    async def stage(self, request: Request, uuid: UUID, body: models.Target) -> Reply:
        """Prepare a target state; the agent gets it when it is deployed."""
        edit = edits.replaced(self._content(body), deploy=False)
        state = await self._desk.change(request, uuid, edit, reason=body.reason)
        return written(uuid, state, "Target state staged; deploy it so that the agent gets it")

    @route("DELETE", _PATH, needs=_CONTROL, agents=True, reply=models.Written, errors=(412,))
    async def delete(self, request: Request, uuid: UUID) -> Reply:
        """Go back to the default of the tenant."""
        state = await self._desk.change(request, uuid, edits.removed)
        return written(uuid, state, "Target state deleted; the tenant's default holds")

    @route(
        "POST",
        "/api/v1/agents/:uuid/deploy",
        needs=_CONTROL,
        reply=models.Written,
        errors=(412,),
    )
    async def deploy(self, request: Request, uuid: UUID) -> Reply:
        """Serve what is staged. Where nothing is, nothing changes and the answer is the same."""
        state = await self._desk.change(request, uuid, edits.deployed, reason=_reason(request))
        return written(uuid, state, "Target state deployed")

    @route(
        "POST",
        "/api/v1/agents/:uuid/deploy/cancel",
        needs=_CONTROL,
        reply=models.Written,
        errors=(412,),
    )
    async def cancel(self, request: Request, uuid: UUID) -> Reply:
        """Forget what is staged, and go back to what the agent has."""
        state = await self._desk.change(request, uuid, edits.cancelled, reason=_reason(request))
        return written(uuid, state, "Staged changes cancelled")

    @route("POST", f"{_PATH}/rollback", needs=_CONTROL, reply=models.Written, errors=(412,))
    async def rollback(self, request: Request, uuid: UUID, body: models.Rollback) -> Reply:
        """Make what an earlier version said the newest version."""
        content = await self._store.version(request.caller.tenant, uuid, body.version)
        edit = edits.replaced(content, deploy=body.deploy, action=f"rolled_back_to_{body.version}")
        state = await self._desk.change(request, uuid, edit, reason=body.reason)
        return written(uuid, state, f"Target state is that of version {body.version}")

    @route("GET", f"{_PATH}/history", needs="device:read")
    async def history(
        self, caller: Principal, uuid: UUID, query: models.HistoryQuery
    ) -> models.History:
        """Versions, newest first: who made them, when, and why."""
        rows = await self._store.history(
            caller.tenant, uuid, below=_position(query.cursor), limit=query.limit + 1
        )
        versions = [msgspec.convert(dict(row), models.Version) for row in rows[: query.limit]]
        cursor = str(versions[-1].version) if len(rows) > query.limit else None
        return models.History(count=len(versions), versions=versions, cursor=cursor)

    @route("GET", f"{_PATH}/history/:version", needs="device:read")
    async def version(
        self, caller: Principal, uuid: UUID, version: models.Number
    ) -> models.OneVersion:
        """What a version said."""
        content = await self._store.version(caller.tenant, uuid, version)
        return models.OneVersion(
            uuid=uuid, version=version, apps=dict(content.apps), config=dict(content.config)
        )

    @route("GET", f"{_PATH}/diff", needs="device:read")
    async def diff(self, caller: Principal, uuid: UUID, query: models.DiffQuery) -> models.Diff:
        """What changed from one version to another."""
        before = await self._store.version(caller.tenant, uuid, query.before)
        if query.after is None:
            state = await self._store.state(caller.tenant, uuid)
            after, number = state.content, state.version
        else:
            number = query.after
            after = await self._store.version(caller.tenant, uuid, number)
        found = differences(_document(before), _document(after))
        return models.Diff(uuid=uuid, before=query.before, after=number, differences=list(found))

    def _content(self, body: models.Target) -> Content:
        content = Content(apps_by_id(body.apps), body.config)
        check(content, self._limits)
        return content


def written(uuid: UUID, state: State, message: str) -> Reply:
    """The answer to a change, in the reference's form and more."""
    return _reply(models.Written(**_members(uuid, state), message=message), state)


def _reply(body: models.TargetState, state: State) -> Reply:
    headers = {**JSON_TYPE, "etag": quoted(state.etag)}
    return Reply(200, msgspec.json.encode(body), headers)


def _members(uuid: UUID, state: State) -> dict[str, Any]:
    served = state.served
    return {
        "uuid": uuid,
        "version": state.version,
        "apps": state.content.apps,
        "config": state.content.config,
        "etag": state.etag,
        "needs_deployment": state.needs_deployment,
        "is_default": not state.is_own,
        "served_version": None if served is None else served.version,
        "served_etag": None if served is None else served.etag,
        "last_deployed_at": state.last_deployed_at,
        "deployed_by": state.deployed_by,
        "updated_at": state.updated_at,
    }


def _document(content: Content) -> dict[str, object]:
    return {"apps": content.apps, "config": content.config}


def _reason(request: Request) -> str:
    """The optional reason of a request that the reference sends without a body."""
    if not request.body.strip():
        return ""
    try:
        return msgspec.json.decode(request.body, type=models.Why).reason
    except msgspec.DecodeError as error:
        raise BadRequest(f"the body: {error}") from None


def _position(cursor: str | None) -> int | None:
    if cursor is None:
        return None
    if not cursor.isdecimal() or len(cursor) > 9:
        raise BadRequest(f"parameter cursor is {cursor[:64]!r}; allowed is one that was given")
    return int(cursor)
