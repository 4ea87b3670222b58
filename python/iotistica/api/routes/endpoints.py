"""`/api/v1/agents/:uuid/devices`: endpoints, the devices behind an agent (reference 5.2).

They are `config.endpoints` of its target state, and a change of one is a version of that.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec
import orjson

from iotistica.api.http import JSON_TYPE, Reply, Request
from iotistica.api.models import endpoints as models
from iotistica.api.principal import Principal
from iotistica.api.route import Take, reader, route
from iotistica.api.target_cache import quoted
from iotistica.api.target_desk import TargetDesk
from iotistica.store.reports import ReportStore
from iotistica.store.series import SeriesStore
from iotistica.store.targets import TargetStore
from iotistica.targets import endpoints
from iotistica.targets.edits import Draft, Edit, State
from iotistica.targets.shape import Limits, check
from iotistica.targets.state import EMPTY, Json

_PATH = "/api/v1/agents/:uuid/devices"
_CONTROL = "device:control"
_STAGED = "; deploy it so that the agent gets it"

_whole = reader(dict[str, Any])
_new, _change = reader(models.NewEndpoint), reader(models.EndpointChange)


class Endpoints:
    """Handlers for endpoints. A change is staged unless the request says `deploy=true`."""

    def __init__(
        self,
        store: TargetStore,
        desk: TargetDesk,
        *,
        reports: ReportStore,
        series: SeriesStore,
        limits: Limits,
    ) -> None:
        self._store = store
        self._desk = desk
        self._reports = reports
        self._series = series
        self._limits = limits

    @route("GET", _PATH, needs="device:read")
    async def listed(
        self, caller: Principal, uuid: UUID, query: models.EndpointQuery
    ) -> models.Endpoints:
        """What is behind an agent: as it should be, whether it was told, and how it is."""
        state = await self._store.state(caller.tenant, uuid)
        row = await self._reports.current(caller.tenant, uuid)
        said = _Said.of(row, await self._series.device_times(caller.tenant, uuid))
        found = [one for one in _views(state, said) if query.protocol in (None, one.protocol)]
        return models.Endpoints(
            count=len(found),
            version=state.version,
            needs_deployment=state.needs_deployment,
            devices=found,
        )

    @route(
        "POST",
        _PATH,
        needs=_CONTROL,
        status=201,
        body=models.NewEndpoint,
        reply=models.EndpointWritten,
        errors=(409, 412),
    )
    async def add(self, request: Request, uuid: UUID, query: models.WriteQuery) -> Reply:
        """Add an endpoint. It gets a uuid, by which the agent reports it, unless it has one."""
        given = {"enabled": True, **_members(request, _new)}
        edit = endpoints.with_endpoint(given, deploy=query.deploy)
        return await self._write(request, uuid, edit, query, name=given["name"], done="added")

    @route(
        "PUT",
        f"{_PATH}/:name",
        needs=_CONTROL,
        body=models.EndpointChange,
        reply=models.EndpointWritten,
        errors=(409, 412),
    )
    async def change(
        self, request: Request, uuid: UUID, name: models.Name, query: models.WriteQuery
    ) -> Reply:
        """Change members of an endpoint, also its name; those not given stay."""
        patch = _members(request, _change)
        edit = endpoints.with_endpoint_changed(name, patch, deploy=query.deploy)
        known_as = patch.get("name", name)
        return await self._write(request, uuid, edit, query, name=known_as, done="changed")

    @route(
        "DELETE",
        f"{_PATH}/:name",
        needs=_CONTROL,
        reply=models.EndpointRemoved,
        errors=(409, 412),
    )
    async def remove(
        self, request: Request, uuid: UUID, name: models.Name, query: models.RemoveQuery
    ) -> Reply:
        """End an endpoint; its readings stay."""
        at_once = query.deploy or query.hard
        edit = endpoints.without_endpoint(name, deploy=at_once)
        state = await self._desk.change(request, uuid, edit)
        body = models.EndpointRemoved(
            message="Device removed" + ("" if at_once else _STAGED),
            mode="hard" if at_once else "soft",
            version=state.version,
            needs_deployment=state.needs_deployment,
        )
        return _reply(body, state)

    async def _write(
        self,
        request: Request,
        uuid: UUID,
        edit: Edit,
        query: models.WriteQuery,
        *,
        name: str,
        done: str,
    ) -> Reply:
        checked = self._checked(edit)
        if query.validateOnly:
            state = await self._store.state(request.caller.tenant, uuid)
            draft = checked(state)
            content = state.content if draft is None else draft.content
            message = "Device validated; nothing is changed"
        else:
            state = await self._desk.change(request, uuid, checked)
            content = state.content
            message = f"Device {done}" + ("" if query.deploy else _STAGED)
        body = models.EndpointWritten(
            message=message,
            device=endpoints.named(endpoints.endpoints_of(content), name) or {},
            version=state.version,
            needs_deployment=state.needs_deployment,
            validateOnly=query.validateOnly,
        )
        is_made = request.method == "POST" and not query.validateOnly
        return _reply(body, state, status=201 if is_made else 200)

    def _checked(self, edit: Edit) -> Edit:
        def checked(state: State) -> Draft | None:
            draft = edit(state)
            if draft is not None:
                check(draft.content, self._limits)
            return draft

        return checked


def _members(request: Request, check_known: Take) -> dict[str, Any]:
    """All that the body has, also what no model knows. Raises `BadRequest`."""
    given = _whole(request)
    check_known(request)
    return models.members(given)


class _Said(msgspec.Struct, frozen=True):
    """What is known of the devices of an agent beside its target state."""

    health: Mapping[str, Any]
    """By name."""
    devices: Mapping[str, Any]
    """By the uuid of the endpoint, and by name."""
    at: datetime | None
    telemetry: Mapping[str, datetime]
    """By name."""

    @classmethod
    def of(cls, row: Any, telemetry: Mapping[str, datetime]) -> _Said:
        info = orjson.loads(row["system_info"] or b"{}") if row is not None else {}
        health, listed = info.get("endpoints_health"), info.get("devices")
        devices = (
            [one for one in listed if isinstance(one, dict)] if isinstance(listed, list) else []
        )
        return cls(
            health=health if isinstance(health, dict) else {},
            devices={
                str(one[key]): one
                for key in ("name", "endpoint_uuid")
                for one in devices
                if one.get(key) is not None
            },
            at=None if row is None else row["reported_at"],
            telemetry=telemetry,
        )


def _views(state: State, said: _Said) -> list[models.Endpoint]:
    served = state.served_content or (EMPTY if state.is_own else state.content)
    told = _by_identity(endpoints.endpoints_of(served))
    wanted = _by_identity(endpoints.endpoints_of(state.content))
    pending = [
        _view(one, said, "deployed" if told.get(identity) == one else "pending")
        for identity, one in wanted.items()
    ]
    ending = [
        _view(one, said, "pending_deletion")
        for identity, one in told.items()
        if identity not in wanted
    ]
    return pending + ending


def _by_identity(found: list[Json]) -> dict[str, dict[str, Json]]:
    """Endpoints by their uuid, those without by their name; what is neither is no endpoint."""
    listed = [one for one in found if isinstance(one, dict) and isinstance(one.get("name"), str)]
    return {str(one.get("uuid") or one["name"]): one for one in listed}


def _view(one: dict[str, Json], said: _Said, deployment: Any) -> models.Endpoint:
    name, uuid = one["name"], one.get("uuid")
    enabled = one.get("enabled", True) is not False
    health = said.health.get(name)
    status = health.get("status") if isinstance(health, dict) else None
    reported = said.devices.get(str(uuid)) or said.devices.get(name)
    return models.Endpoint(
        name=name,
        uuid=uuid if isinstance(uuid, str) else None,
        protocol=protocol if isinstance(protocol := one.get("protocol"), str) else None,
        enabled=enabled,
        poll_interval=_number(one.get("pollInterval", one.get("poll_interval"))),
        connection=one.get("connection"),
        data_points=one.get("dataPoints", one.get("data_points")),
        metadata=one.get("metadata"),
        config=one,
        deployment_status=deployment,
        status=status if isinstance(status, str) else "configured" if enabled else "disabled",
        health=health,
        reported=reported,
        reported_at=said.at if health is not None or reported is not None else None,
        last_telemetry_at=said.telemetry.get(name),
    )


def _number(value: Json) -> int | float | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


def _reply(body: msgspec.Struct, state: State, *, status: int = 200) -> Reply:
    return Reply(status, msgspec.json.encode(body), {**JSON_TYPE, "etag": quoted(state.etag)})
