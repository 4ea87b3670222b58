"""`/api/v1/readings/:uuid/…`: series and latest values (reference 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson

from iotistica.api import window
from iotistica.api.http import Reply, Request, json_reply
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest, NotFound
from iotistica.store.series import SeriesStore

_MAX_METRICS = 1000
_MAX_NAME = 2000


class Readings:
    """Handlers of the queries on readings."""

    def __init__(self, store: SeriesStore) -> None:
        self._store = store

    @route("GET", "/api/v1/readings/:uuid/timeseries", needs="data:read")
    async def timeseries(self, request: Request, caller: Principal) -> Reply:
        """Raw readings of an agent, newest first."""
        agent, asked = _agent(request), window.parse(request)
        rows = await self._store.timeseries(
            caller.tenant,
            agent,
            metric=_name(request, "metric"),
            protocol=_name(request, "protocol"),
            start=asked.start,
            end=asked.end,
            limit=asked.limit,
        )
        return _answer(agent, rows, _reading)

    @route("GET", "/api/v1/readings/:uuid/latest", needs="data:read")
    async def latest(self, request: Request, caller: Principal) -> Reply:
        """Newest reading of every series of an agent, or of the given metrics."""
        agent, metrics = _agent(request), request.listed("metrics")
        if len(metrics) > _MAX_METRICS:
            raise BadRequest(
                f"parameter metrics has {len(metrics)} names; at most {_MAX_METRICS} are allowed"
            )
        for name in metrics:
            _check_name("metrics", name)
        rows = await self._store.latest(caller.tenant, agent, metrics=metrics or None)
        return _answer(agent, rows, _latest)


def _answer(agent: UUID, rows: Sequence[Any] | None, render: Any) -> Reply:
    if rows is None:
        raise NotFound(f"agent {agent} does not exist")
    # asyncpg has a UUID type of its own, which orjson does not take.
    own = {"agent_uuid": str(agent)}
    readings = [{**render(row), **own} for row in rows]
    return json_reply({**own, "count": len(readings), "readings": readings})


def _reading(row: Any) -> dict[str, Any]:
    extra = row["extra"]
    return {**row, "extra": orjson.Fragment(extra) if extra is not None else {}}


def _latest(row: Any) -> dict[str, Any]:
    fields = dict(row)
    device = fields.pop("device_name")
    return {**fields, "extra": {"device_name": device or None}}


def _agent(request: Request) -> UUID:
    text = request.params["uuid"]
    try:
        return UUID(text)
    except ValueError:
        raise BadRequest(f"agent {text[:64]!r} is not a UUID") from None


def _name(request: Request, parameter: str) -> str | None:
    name = request.parameter(parameter)
    if name is not None:
        _check_name(parameter, name)
    return name


def _check_name(parameter: str, name: str) -> None:
    """Any character may stand in a name, except what PostgreSQL cannot hold."""
    if "\0" in name:
        raise BadRequest(f"parameter {parameter} holds a NUL character, which no name can")
    if len(name) > _MAX_NAME:
        raise BadRequest(
            f"parameter {parameter} has a name of {len(name)} characters; "
            f"at most {_MAX_NAME} are allowed"
        )
