"""`/api/v1/readings/:uuid/…`: series, rollups and latest values (reference 5.4)."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Annotated, Any, Literal
from uuid import UUID

import orjson
from msgspec import Meta

from iotistica import _native
from iotistica.api import cursors
from iotistica.api.conditional import tagged
from iotistica.api.http import Reply, Request, json_reply
from iotistica.api.models import readings as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest, NotFound
from iotistica.series.fill import Fill, Grid, Step, fill
from iotistica.series.levels import ceiling
from iotistica.store.buckets import BucketStore
from iotistica.store.series import Series, SeriesStore

Metric = Annotated[
    str, Meta(min_length=1, max_length=2000, pattern=r"^[^\x00]*$", examples=["temperature"])
]

_COLUMNS = {
    "avg": "avg_value",
    "min": "min_value",
    "max": "max_value",
    "first": "first_value",
    "last": "last_value",
    "count": "sample_count",
    "sum": "sum_value",
    "stddev": "stddev_value",
}
_BLANK: Step = {
    "quality": None,
    "extra": {},
    "anomaly_score": None,
    "anomaly_threshold": None,
    "min_value": None,
    "max_value": None,
    "first_value": None,
    "last_value": None,
    "stddev_value": None,
    "sample_count": 0,
    "quality_ratio": None,
}


class Readings:
    """Handlers of the queries on readings of an agent."""

    def __init__(self, store: SeriesStore, buckets: BucketStore, *, plot_readings: int) -> None:
        self._store = store
        self._buckets = buckets
        self._plot_readings = plot_readings

    @route(
        "GET",
        "/api/v1/readings/:uuid/timeseries",
        needs="data:read",
        reply=models.Series,
        errors=(304,),
    )
    async def timeseries(
        self, uuid: UUID, request: Request, query: models.SeriesQuery, caller: Principal
    ) -> Reply:
        """Readings of an agent, the newest first; steps of them for long ranges."""
        now = datetime.now(UTC)
        asked = query.question(now, plot_readings=self._plot_readings)
        series = await self._store.timeseries(caller.tenant, uuid, asked)
        if series is None:
            raise _unknown(uuid)
        if query.is_whole and not series.is_whole:
            raise BadRequest(
                f"the range has more than {asked.limit} points of this resolution; "
                "ask for a shorter range or longer steps"
            )
        rows = _rendered(series, query.aggregate or "avg")
        if query.fill != "none":
            rows = _filled(rows, series, query.fill, now=now, limit=asked.limit)
        if query.downsample is not None:
            rows = _thinned(rows, query.limit)
        step, own = series.plan.step, {"agent_uuid": str(uuid)}
        last = None if series.is_whole else series.rows[-1]
        reply = json_reply(
            {
                **own,
                "count": len(rows),
                "resolution": series.plan.level,
                "step_s": None if step is None else step.total_seconds(),
                "readings": [{**row, **own} for row in rows],
                "cursor": last and cursors.write((last["time"], last["metric_name"])),
            }
        )
        return _past(request, reply, asked.end, now)

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

    @route(
        "GET",
        "/api/v1/readings/:uuid/:metric/hourly",
        needs="data:read",
        reply=models.Buckets,
        errors=(304,),
    )
    async def hourly(
        self,
        uuid: UUID,
        metric: Metric,
        request: Request,
        query: models.RangeQuery,
        caller: Principal,
    ) -> Reply:
        """Hours of a metric, the newest first, each device behind the agent by itself.

        The metric is percent-encoded where it has characters such as `/`.
        """
        return await self._rollup(request, caller.tenant, (uuid, metric), query, "1h")

    @route(
        "GET",
        "/api/v1/readings/:uuid/:metric/daily",
        needs="data:read",
        reply=models.Buckets,
        errors=(304,),
    )
    async def daily(
        self,
        uuid: UUID,
        metric: Metric,
        request: Request,
        query: models.RangeQuery,
        caller: Principal,
    ) -> Reply:
        """Days (UTC) of a metric, the newest first, each device behind the agent by itself."""
        return await self._rollup(request, caller.tenant, (uuid, metric), query, "daily")

    @route("GET", "/api/v1/readings/:uuid/summary", needs="data:read", reply=models.ReadingSummary)
    async def summary(self, uuid: UUID, caller: Principal) -> Reply:
        """How many readings of each metric of an agent there are, and of which time."""
        rows = await self._buckets.summary(caller.tenant, uuid)
        if rows is None:
            raise _unknown(uuid)
        metrics = [dict(row) for row in rows]
        names = {row["metric_name"] for row in metrics}
        return json_reply(
            {"agent_uuid": str(uuid), "total_metrics": len(names), "metrics": metrics}
        )

    async def _rollup(
        self,
        request: Request,
        tenant: str,
        series: tuple[UUID, str],
        query: models.RangeQuery,
        level: Literal["1h", "daily"],
    ) -> Reply:
        now = datetime.now(UTC)
        start, end = query.between(now)
        agent, metric = series
        rows = await self._buckets.buckets(tenant, agent, metric, level=level, start=start, end=end)
        if rows is None:
            raise _unknown(agent)
        reply = json_reply(
            {
                "agent_uuid": str(agent),
                "metric_name": metric,
                "interval": "1 hour" if level == "1h" else "1 day",
                "count": len(rows),
                "aggregates": [dict(row) for row in rows],
            }
        )
        return _past(request, reply, end, now)


def _unknown(agent: UUID) -> NotFound:
    return NotFound(f"agent {agent} does not exist")


def _past(request: Request, reply: Reply, end: datetime | None, now: datetime) -> Reply:
    """With an ETag where the window is over: what is asked for again and again changes rarely."""
    return tagged(request, reply) if end is not None and end < now else reply


def _rendered(series: Series, aggregate: str) -> list[Step]:
    if series.plan.step is None:
        return [_reading(row) for row in series.rows]
    return [_step(row, _COLUMNS[aggregate]) for row in series.rows]


def _reading(row: Any) -> dict[str, Any]:
    extra = row["extra"]
    return {**row, "extra": orjson.Fragment(extra) if extra is not None else {}}


def _step(row: Any, column: str) -> dict[str, Any]:
    fields = dict(row)
    value, score = fields[column], fields.pop("max_anomaly_score")
    del fields["avg_value"], fields["sum_value"]
    ratio, device = fields["quality_ratio"], fields.pop("device_name")
    return {
        **fields,
        "value": value,
        "quality": "good" if ratio == 1 else "bad" if ratio == 0 else "uncertain",
        "extra": {} if device is None else {"device_name": device},
        "anomaly_score": score,
        "anomaly_threshold": None,
    }


def _filled(
    rows: Sequence[Step], series: Series, how: Fill, *, now: datetime, limit: int
) -> list[Step]:
    assert series.plan.step is not None
    assert series.window is not None
    since, until = series.window
    # What is still to come is no gap.
    until = min(until, ceiling(now, series.plan.step))
    grid = Grid(since=since, until=until, step=series.plan.step)
    metrics = len({row["metric_name"] for row in rows})
    if len(grid) * metrics > limit:
        raise BadRequest(
            f"parameter fill gives {len(grid)} steps of {metrics} metrics, more than limit "
            f"({limit}); ask for a shorter range, longer steps or a larger limit"
        )
    return fill(rows, grid, how, _BLANK)


def _thinned(rows: Sequence[Step], limit: int) -> list[Step]:
    """Points for a plot, as many of each metric; in the order of the rows."""
    series: dict[str, list[int]] = {}
    for number, row in enumerate(rows):
        series.setdefault(row["metric_name"], []).append(number)
    kept: list[int] = []
    for own in series.values():
        own.reverse()
        times = [rows[number]["time"].timestamp() for number in own]
        values = [rows[number]["value"] for number in own]
        points = max(limit // len(series), 1)
        kept += (own[index] for index in _native.lttb(times, values, points))
    return [rows[number] for number in sorted(kept)]


def _latest(row: Any) -> dict[str, Any]:
    fields = dict(row)
    device = fields.pop("device_name")
    return {**fields, "extra": {"device_name": device or None}}
