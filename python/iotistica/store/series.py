"""Reads series back, single readings or steps. Each query checks in the same statement that the
agent is the tenant's. How each is planned for a table of many days: migrations 0031 and 0032."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg

from iotistica.series.levels import (
    MOST_RAW,
    ORIGIN,
    WIDTHS,
    Plan,
    Resolution,
    ceiling,
    floor,
    plan,
    plan_of_points,
    plan_of_step,
)
from iotistica.store.cut import CUT
from iotistica.store.merged import FIRST, LAST, STATE
from iotistica.store.pool import Pool, unavailable
from iotistica.store.query_slots import QuerySlots, Reader

_OWN = "agents.tenant_id = $1 AND agents.uuid = $2"
_METRICS = f"""
SELECT coalesce($3, ARRAY(
    SELECT DISTINCT metric_name FROM readings_latest WHERE agent_uuid = agents.uuid
)) AS metrics
FROM agents WHERE {_OWN}
"""  # noqa: S608 (constants only)
_NEWEST = f"""
SELECT reading.* FROM agents
CROSS JOIN LATERAL readings_newest(agents.uuid, $3, $4, $5, $6, $7, $8, $9) AS reading
WHERE {_OWN} ORDER BY reading.time DESC, reading.metric_name
"""  # noqa: S608 (constants only)
_SAMPLES = f"""
SELECT coalesce(sum(sample_count), 0)::bigint FROM agents
CROSS JOIN LATERAL readings_buckets('daily', ARRAY[agents.uuid], $3, $4, $5)
WHERE {_OWN} AND ($6::text[] IS NULL OR protocol = ANY ($6))
"""  # noqa: S608 (constants only)
_MERGED = f"""
SELECT time, metric_name, protocol, unit, device_name,
       state[2] / nullif(state[1], 0) AS avg_value,
       CASE WHEN state[1] > 0 THEN state[2] END AS sum_value, min_value, max_value,
       first_value[2] AS first_value, last_value[2] AS last_value,
       float8_stddev_samp(state) AS stddev_value, sample_count,
       good_count::double precision / sample_count AS quality_ratio, max_anomaly_score
FROM (
    SELECT date_bin($5, bucket.bucket, $6) AS time, metric_name, min(protocol) AS protocol,
           min(unit) AS unit,
           CASE WHEN count(DISTINCT device_name) = 1 THEN min(device_name) END AS device_name,
           {STATE} AS state,
           min(min_value) AS min_value, max(max_value) AS max_value,
           {FIRST} AS first_value,
           {LAST} AS last_value,
           sum(sample_count)::bigint AS sample_count, sum(good_count)::bigint AS good_count,
           max(max_anomaly_score) AS max_anomaly_score
    FROM agents CROSS JOIN LATERAL {{source}} AS bucket
    WHERE agents.tenant_id = $1 AND agents.uuid = $2
      AND ($7::text[] IS NULL OR bucket.protocol = ANY ($7))
    GROUP BY 1, 2
) AS step
WHERE $8::timestamptz IS NULL OR time < $8 OR (time = $8 AND metric_name > $9)
ORDER BY time DESC, metric_name LIMIT $10
"""  # noqa: S608 (constants only)
_STEPS = _MERGED.format(
    source="readings_buckets($11, ARRAY[agents.uuid], $12::text[], $3, $4)",
)
_FINE_STEPS = _MERGED.format(
    source="readings_steps(agents.uuid, $11::text[], $3, $4, $5, $6)",
)
_LATEST = """
SELECT reading.time, reading.agent_uuid, reading.device_name, reading.metric_name,
       reading.value, reading.quality, reading.unit, reading.protocol
FROM agents LEFT JOIN readings_latest AS reading
    ON reading.agent_uuid = agents.uuid
   AND ($3::text[] IS NULL OR reading.metric_name = ANY ($3))
WHERE agents.tenant_id = $1 AND agents.uuid = $2
ORDER BY reading.metric_name, reading.device_name
"""
_DEVICE_TIMES = """
SELECT reading.device_name, max(reading.time) AS time
FROM agents JOIN readings_latest AS reading ON reading.agent_uuid = agents.uuid
WHERE agents.tenant_id = $1 AND agents.uuid = $2
GROUP BY reading.device_name
"""

_JUST_AFTER = timedelta(microseconds=1)
_TOMORROW = timedelta(days=2)
"""Beyond every time that a reading may claim."""

Rows = list[asyncpg.Record]


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Readings of an agent with `start <= time <= end`, the newest first."""

    metrics: Sequence[str] | None
    """None for all."""
    protocols: Sequence[str] | None
    start: datetime | None
    """None for the newest `limit` readings until `end`, whenever they were."""
    end: datetime | None
    limit: int
    """Rows of a page. Where the resolution is chosen here, one page holds the whole answer."""
    resolution: Resolution = "auto"
    step: timedelta | None = None
    """In steps of this length instead; with a start."""
    points: int | None = None
    """Or in as many steps over all metrics as that; with a start."""
    only_steps: bool = False
    """Steps even where single readings are few enough."""
    after: tuple[datetime, str] | None = None
    """Time and metric of the last row of the page before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """The answer: single readings, or steps as far as `plan` says."""

    plan: Plan
    rows: Rows
    is_whole: bool
    """False where another page follows."""
    window: tuple[datetime, datetime] | None = None
    """Of steps: start of the first that is asked for, and end of the last."""


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where a question is answered, and of what."""

    reader: Reader
    tenant: str
    agent: UUID
    metrics: Sequence[str]
    asked: Question


class SeriesStore:
    """Queries on readings. Every method raises `StoreUnavailable`, and gives None for an agent
    that is unknown or another tenant's."""

    def __init__(self, pool: Pool, slots: QuerySlots | None = None) -> None:
        self._pool = pool
        self._slots = slots or QuerySlots(pool)

    async def timeseries(self, tenant: str, agent: UUID, asked: Question) -> Series | None:
        """Single readings where they are at most `limit` or asked for; else steps.

        Raises `BadRequest` for a step that a range of this length cannot be made of, `TooSlow`,
        `Busy`.
        """
        async with self._slots.take("read readings") as reader:
            metrics = await reader.fetchval(_METRICS, tenant, agent, asked.metrics)
            if metrics is None:
                return None
            scope = _Scope(reader, tenant, agent, metrics, asked)
            chosen = await _choose(scope)
            if isinstance(chosen, Series):
                return chosen
            return await (_newest(scope) if chosen.step is None else _steps(scope, chosen))

    async def latest(
        self, tenant: str, agent: UUID, *, metrics: Sequence[str] | None = None
    ) -> Rows | None:
        """Newest reading of each series, whatever the size of the table."""
        with unavailable("read readings"):
            rows = await self._pool.fetch(_LATEST, tenant, agent, metrics)
        if not rows:
            return None
        return [] if rows[0]["time"] is None else rows

    async def device_times(self, tenant: str, agent: UUID) -> dict[str, datetime]:
        """Time of the newest reading of each device behind an agent, by its name."""
        with unavailable("read readings"):
            rows = await self._pool.fetch(_DEVICE_TIMES, tenant, agent)
        return {row["device_name"]: row["time"] for row in rows}


async def _choose(scope: _Scope) -> Plan | Series:
    """The plan; or the answer at once, where it had to be fetched to find out."""
    asked = scope.asked
    if asked.start is not None and asked.step is not None:
        return plan_of_step(asked.step, _end(asked) - asked.start)
    if asked.start is not None and asked.points is not None:
        points = max(asked.points // max(len(scope.metrics), 1) - 1, 1)
        return plan_of_points(points, _end(asked) - asked.start)
    if asked.resolution != "auto" or asked.start is None:
        resolution = "raw" if asked.resolution == "auto" else asked.resolution
        return plan(timedelta(0), asked.limit, resolution=resolution)
    span = _end(asked) - asked.start
    # A step more, as both ends are rounded outwards.
    points = max(asked.limit // max(len(scope.metrics), 1) - 1, 1)
    cut = await scope.reader.fetchval(CUT, [scope.agent], scope.metrics, asked.start)
    if asked.only_steps or "raw" in cut:
        return plan(span, points, cut=cut)
    if span <= MOST_RAW:
        raw = await _newest(scope)
        if raw.is_whole:
            return raw
    elif await _samples(scope, asked.start, _end(asked)) <= asked.limit:
        return plan(span, points, resolution="raw")
    return plan(span, points, cut=cut)


async def _samples(scope: _Scope, start: datetime, end: datetime) -> int:
    """Readings of the days that the range touches."""
    day = WIDTHS["daily"]
    arguments = (scope.metrics, floor(start, day), ceiling(end, day), scope.asked.protocols)
    return int(await scope.reader.fetchval(_SAMPLES, scope.tenant, scope.agent, *arguments))


async def _newest(scope: _Scope) -> Series:
    asked = scope.asked
    # Without bounds, readings of a clock that is ahead are among the newest.
    end = _end(asked) if asked.start or asked.end else datetime.now(UTC) + _TOMORROW
    rows = await scope.reader.fetch(
        _NEWEST,
        *(scope.tenant, scope.agent, scope.metrics, asked.protocols, asked.start, end),
        *(asked.after or (None, None)),
        asked.limit + 1,
    )
    return _page(Plan("raw", None), rows, asked.limit)


async def _steps(scope: _Scope, chosen: Plan) -> Series:
    assert chosen.step is not None
    asked = scope.asked
    # Whole steps, so that those at the ends are not made of parts.
    since = None if asked.start is None else floor(asked.start, chosen.step)
    until = ceiling(_end(asked), chosen.step)
    if since is None:
        since = until - asked.limit * chosen.step
    arguments = (
        *(scope.tenant, scope.agent, since, until, chosen.step, ORIGIN, asked.protocols),
        *(asked.after or (None, None)),
        asked.limit + 1,
    )
    if chosen.level == "raw":
        rows = await scope.reader.fetch(_FINE_STEPS, *arguments, scope.metrics)
    else:
        rows = await scope.reader.fetch(_STEPS, *arguments, chosen.level, scope.metrics)
    return replace(_page(chosen, rows, asked.limit), window=(since, until))


def _page(chosen: Plan, rows: Rows, limit: int) -> Series:
    return Series(plan=chosen, rows=rows[:limit], is_whole=len(rows) <= limit)


def _end(asked: Question) -> datetime:
    """The first time that is too late."""
    return (asked.end or datetime.now(UTC)) + _JUST_AFTER
