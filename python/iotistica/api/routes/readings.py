"""`/api/v1/readings/:uuid/…`: series and latest values (reference 5.4)."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import orjson

from iotistica.api import cursors
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
        """Readings of an agent, the newest first; steps of them for long ranges."""
        asked = query.question(datetime.now(UTC))
        series = await self._store.timeseries(caller.tenant, uuid, asked)
        if series is None:
            raise _unknown(uuid)
        step = series.plan.step
        render = _reading if step is None else _step
        own = {"agent_uuid": str(uuid)}
        last = None if series.is_whole else series.rows[-1]
        return json_reply(
            {
                **own,
                "count": len(series.rows),
                "resolution": series.plan.level,
                "step_s": None if step is None else step.total_seconds(),
                "readings": [{**render(row), **own} for row in series.rows],
                "cursor": last and cursors.write((last["time"], last["metric_name"])),
            }
        )

    @route("GET", "/api/v1/readings/:uuid/latest", needs="data:read", reply=models.Latest)
    async def latest(self, uuid: UUID, query: models.LatestQuery, caller: Principal) -> Reply:
        """Newest reading of every series of an agent, or of the given metrics."""
        rows = await self._store.latest(caller.tenant, uuid, metrics=query.metrics or None)
        if rows is None:
            raise _unknown(uuid)
        # asyncpg has a UUID type of its own, which orjson does not take.
        own = {"agent_uuid": str(uuid)}
        readings = [{**_latest(row), **own} for row in rows]
        return json_reply({**own, "count": len(readings), "readings": readings})


def _unknown(agent: UUID) -> NotFound:
    return NotFound(f"agent {agent} does not exist")


def _reading(row: Any) -> dict[str, Any]:
    extra = row["extra"]
    return {**row, "extra": orjson.Fragment(extra) if extra is not None else {}}


def _step(row: Any) -> dict[str, Any]:
    fields = dict(row)
    value, score = fields.pop("avg_value"), fields.pop("max_anomaly_score")
    ratio, device = fields["quality_ratio"], fields.pop("device_name")
    return {
        **fields,
        "value": value,
        "quality": "good" if ratio == 1 else "bad" if ratio == 0 else "uncertain",
        "extra": {} if device is None else {"device_name": device},
        "anomaly_score": score,
        "anomaly_threshold": None,
    }


def _latest(row: Any) -> dict[str, Any]:
    fields = dict(row)
    device = fields.pop("device_name")
    return {**fields, "extra": {"device_name": device or None}}
