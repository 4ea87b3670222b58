"""`/api/v1/readings/:uuid/…`: series and latest values (reference 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any
from uuid import UUID

import orjson

from iotistica.api.http import Reply, json_reply
from iotistica.api.models import readings as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import NotFound
from iotistica.store.series import SeriesStore


class Readings:
    """Handlers of the queries on readings."""

    def __init__(self, store: SeriesStore) -> None:
        self._store = store

    @route("GET", "/api/v1/readings/:uuid/timeseries", needs="data:read", reply=models.Series)
    async def timeseries(self, uuid: UUID, query: models.SeriesQuery, caller: Principal) -> Reply:
        """Raw readings of an agent, newest first."""
        asked = query.window()
        rows = await self._store.timeseries(
            caller.tenant,
            uuid,
            metric=query.metric,
            protocol=query.protocol,
            start=asked.start,
            end=asked.end,
            limit=asked.limit,
        )
        return _answer(uuid, rows, _reading)

    @route("GET", "/api/v1/readings/:uuid/latest", needs="data:read", reply=models.Latest)
    async def latest(self, uuid: UUID, query: models.LatestQuery, caller: Principal) -> Reply:
        """Newest reading of every series of an agent, or of the given metrics."""
        rows = await self._store.latest(caller.tenant, uuid, metrics=query.metrics or None)
        return _answer(uuid, rows, _latest)


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
