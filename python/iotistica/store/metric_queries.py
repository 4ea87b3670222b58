"""Series of a metric of many agents: chosen by tags, in steps, put together, or as percentiles.

Each statement takes the agents from the tenant's, whatever it is told. Steps are made of rollups;
where single readings are needed it is known before how many there are.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import groupby
from typing import Any
from uuid import UUID

import asyncpg
import orjson

from iotistica.errors import BadRequest
from iotistica.series.levels import MOST_RAW, ORIGIN, WIDTHS, Plan, ceiling, floor, plan
from iotistica.series.levels import plan_of_step as of_step
from iotistica.store.cut import CUT
from iotistica.store.merged import LAST, STATE
from iotistica.store.pool import Row
from iotistica.store.query_slots import QuerySlots, Reader

_FITS = """
NOT EXISTS (
    SELECT FROM unnest({filters}::text[], {filters_keys}::text[], {filters_patterns}::text[])
        AS f (kind, key, pattern)
    CROSS JOIN LATERAL (SELECT {value}) AS own (value)
    WHERE NOT coalesce(CASE f.kind WHEN 'exact' THEN own.value = f.pattern
                                   WHEN 'regexp' THEN own.value ~ f.pattern
                                   WHEN 'unequal' THEN own.value IS DISTINCT FROM f.pattern
                                   WHEN 'unlike' THEN coalesce(own.value !~ f.pattern, true)
                                   ELSE own.value LIKE f.pattern END, false)
)
"""
_AGENT_FITS = _FITS.format(
    filters="$4",
    filters_keys="$5",
    filters_patterns="$6",
    value="""CASE f.key WHEN 'agent' THEN agents.name ELSE (
        SELECT tag.value FROM agent_tags AS tag
        WHERE tag.agent_uuid = agents.uuid AND tag.key = f.key
    ) END""",
)
_AGENTS = f"""
SELECT agents.uuid, (
    SELECT coalesce(jsonb_object_agg(tag.key, tag.value), '{{}}') FROM agent_tags AS tag
    WHERE tag.agent_uuid = agents.uuid AND tag.key = ANY ($7)
) || CASE WHEN 'agent' = ANY ($7) THEN jsonb_build_object('agent', agents.name) ELSE '{{}}' END
    AS tags
FROM agents
WHERE agents.tenant_id = $1 AND ($2::uuid[] IS NULL OR agents.uuid = ANY ($2))
  AND EXISTS (
      SELECT FROM readings_latest AS l
      WHERE l.agent_uuid = agents.uuid AND l.metric_name = $3
  )
  AND {_AGENT_FITS}
ORDER BY agents.uuid LIMIT $8
"""  # noqa: S608 (constants only)
_OWN = "ARRAY(SELECT uuid FROM agents WHERE tenant_id = $1 AND uuid = ANY ($2))"
_SAMPLES = f"""
SELECT coalesce(sum(sample_count), 0)::bigint
FROM readings_buckets($6, {_OWN}, ARRAY[$3], $4, $5)
"""  # noqa: S608 (constants only)
_SERIES_FITS = _FITS.format(
    filters="$6",
    filters_keys="$7",
    filters_patterns="$8",
    value="""CASE f.key WHEN 'device' THEN part.device_name
                        WHEN 'protocol' THEN part.protocol ELSE part.unit END""",
)
_GROUPS = """
CASE WHEN 'device' = ANY ($9) THEN coalesce(device_name, '') END AS device,
CASE WHEN 'protocol' = ANY ($9) THEN protocol END AS protocol,
CASE WHEN 'unit' = ANY ($9) THEN coalesce(unit, '') END AS unit
"""
_POINTS = f"""
SELECT * FROM (
    SELECT agent_uuid, {_GROUPS}, time,
           CASE $13 WHEN 'avg' THEN avg(value) WHEN 'sum' THEN sum(value)
                    WHEN 'min' THEN min(value) WHEN 'max' THEN max(value)
                    WHEN 'count' THEN count(value)
                    ELSE (max(ARRAY[at, value]) FILTER (WHERE value IS NOT NULL))[2] END AS value
    FROM (
        SELECT agent_uuid, device_name, protocol, unit, time,
               coalesce(last[1], date_part('epoch', time)) AS at,
               CASE $12 WHEN 'avg' THEN state[2] / nullif(state[1], 0)
                        WHEN 'sum' THEN CASE WHEN state[1] > 0 THEN state[2] END
                        WHEN 'min' THEN lowest WHEN 'max' THEN highest WHEN 'count' THEN count
                        ELSE last[2] END AS value
        FROM (
            SELECT part.agent_uuid, part.device_name, part.protocol, part.unit,
                   date_bin($10, part.bucket, $11) AS time,
                   {STATE} AS state,
                   min(min_value) AS lowest, max(max_value) AS highest,
                   {LAST} AS last,
                   sum(sample_count)::double precision AS count
            FROM {{source}} AS part
            WHERE {_SERIES_FITS}
            GROUP BY 1, 2, 3, 4, 5
        ) AS merged
    ) AS series
    GROUP BY 1, 2, 3, 4, 5
) AS point
WHERE value IS NOT NULL ORDER BY 1, 2, 3, 4, 5 LIMIT $14
"""  # noqa: S608 (constants only)
_BUCKET_POINTS = _POINTS.format(source=f"readings_buckets($15, {_OWN}, ARRAY[$3], $4, $5)")
_READING_POINTS = _POINTS.format(
    source=f"unnest({_OWN}) AS own (uuid) CROSS JOIN LATERAL "
    "readings_steps(own.uuid, ARRAY[$3], $4, $5, $10, $11)"
)
_PERCENTILES = f"""
SELECT agent_uuid, {_GROUPS}, date_bin($10, time, $11) AS time,
       percentile_cont($12::double precision[]) WITHIN GROUP (ORDER BY value) AS value
FROM (
    SELECT reading.agent_uuid, reading.extra ->> 'device_name' AS device_name, reading.protocol,
           reading.unit, reading.time, reading.value
    FROM unnest({_OWN}) AS own (uuid) CROSS JOIN LATERAL
        readings_newest(own.uuid, ARRAY[$3], NULL, $4, $5, NULL, NULL, $13) AS reading
    WHERE reading.value IS NOT NULL
) AS part
WHERE {_SERIES_FITS}
GROUP BY 1, 2, 3, 4, 5 ORDER BY 1, 2, 3, 4, 5 LIMIT $14
"""  # noqa: S608 (constants only)

_OF_SERIES = ("device", "protocol", "unit")
_JUST_AFTER = timedelta(microseconds=1)
_EACH = timedelta(microseconds=1)
"""A step that holds one time only."""
_POINTS_OF_SERIES = 1000
_HOURS_UNTIL = timedelta(days=7)
"""Ranges up to it are counted by hours, longer ones by days."""


@dataclass(frozen=True, slots=True)
class Filter:
    """What a tag must be like."""

    kind: str
    """`exact`, `wildcard`, `regexp`; or `unequal`, `unlike` a regular expression, which what has no
    such tag fits as well."""
    key: str
    pattern: str
    is_group: bool = False

    @property
    def expression(self) -> str:
        """The pattern as PostgreSQL takes it."""
        if self.kind != "wildcard":
            return self.pattern
        text = self.pattern.replace("\\", "\\\\").replace("%", r"\%").replace("_", r"\_")
        return text.replace("*", "%")


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """Series of a metric."""

    metric: str
    agents: Sequence[UUID] | None
    aggregator: str
    step: timedelta | None
    function: str | None
    """What a step is made by; with a step."""
    filters: Sequence[Filter]
    percentiles: Sequence[int] = ()
    groups: Sequence[str] = ()
    """What series are told apart by, beside the filters that are groups."""
    points: int | None = None
    """So many of each series at most, where no step is asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """One series; its points ascend. Values are lists where percentiles were asked for."""

    agent: str
    tags: dict[str, str]
    step: timedelta | None
    points: list[tuple[datetime, Any]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What one answer may take."""

    points: int = 100_000
    agents: int = 1000
    readings: int = 1_000_000


@dataclass(frozen=True, slots=True)
class _Scope:
    """Where a question is answered."""

    reader: Reader
    tenant: str
    asked: Question
    start: datetime
    until: datetime
    agents: Sequence[UUID] = ()

    @property
    def groups(self) -> list[str]:
        return [*self.asked.groups, *(one.key for one in self.asked.filters if one.is_group)]

    def filters(self, *, of_series: bool) -> tuple[list[str], list[str], list[str]]:
        """Kinds, keys and expressions."""
        some = [one for one in self.asked.filters if (one.key in _OF_SERIES) == of_series]
        return [one.kind for one in some], [one.key for one in some], [o.expression for o in some]


class MetricQueries:
    """Answers questions about metrics."""

    def __init__(self, slots: QuerySlots, bounds: Bounds) -> None:
        self._slots = slots
        self._bounds = bounds

    async def answer(
        self, tenant: str, questions: Sequence[Question], *, start: datetime, end: datetime
    ) -> list[list[Found]]:
        """The series of each question, of `start <= time <= end`.

        Raises `BadRequest` for what is too much, or no regular expression, `TooSlow`, `Busy`,
        `StoreUnavailable`.
        """
        answers, left = [], self._bounds.points
        async with self._slots.take("query readings") as reader:
            for asked in questions:
                scope = _Scope(reader, tenant, asked, start, end + _JUST_AFTER)
                found = await self._series(scope, left)
                left -= sum(len(one.points) for one in found)
                answers.append(found)
        return answers

    async def _series(self, scope: _Scope, left: int) -> list[Found]:
        tags = await self._agents(scope)
        if not tags:
            return []
        scope = _Scope(
            scope.reader, scope.tenant, scope.asked, scope.start, scope.until, list(tags)
        )
        chosen = await self._plan(scope)
        rows = await self._points(scope, chosen, left + 1)
        if len(rows) > left:
            raise BadRequest(
                f"the answer has more than {self._bounds.points} points "
                "(IOTISTICA_QUERY_MAX_POINTS): ask for a shorter range, fewer agents, longer steps"
            )
        return [
            Found(
                agent=str(key[0]),
                tags=tags[key[0]] | _named(key[1:]),
                step=None if chosen.step == _EACH else chosen.step,
                points=[(row["time"], row["value"]) for row in own],
            )
            for key, own in groupby(rows, key=lambda row: tuple(row[:4]))
        ]

    async def _agents(self, scope: _Scope) -> dict[UUID, dict[str, str]]:
        """The agents that are meant, with the tags that series are told apart by."""
        asked, most = scope.asked, self._bounds.agents
        kinds = scope.filters(of_series=False)
        try:
            rows = await scope.reader.fetch(
                _AGENTS,
                *(scope.tenant, asked.agents, asked.metric, *kinds, scope.groups, most + 1),
            )
        except asyncpg.InvalidRegularExpressionError as error:
            raise _no_expression(error) from None
        if len(rows) > most:
            raise BadRequest(
                f"more than {most} agents have metric {asked.metric[:64]!r} and fit "
                "(IOTISTICA_QUERY_MAX_AGENTS); name them, or filter them by a tag"
            )
        return {row["uuid"]: orjson.loads(row["tags"]) for row in rows}

    async def _plan(self, scope: _Scope) -> Plan:
        span, asked = scope.until - scope.start - _JUST_AFTER, scope.asked
        most = max(self._bounds.points // len(scope.agents) - 1, 1)
        # A step more, as both ends are rounded outwards.
        points = min(most, _POINTS_OF_SERIES if asked.points is None else max(asked.points - 1, 1))
        if asked.percentiles:
            await self._check_readings(scope)
            return Plan("raw", asked.step or plan(span, points).step)
        if asked.step is not None:
            return of_step(asked.step, span)
        cut = await scope.reader.fetchval(CUT, scope.agents, [asked.metric], scope.start)
        few = self._bounds.points if asked.points is None else points * len(scope.agents)
        is_short = span <= MOST_RAW and "raw" not in cut
        if is_short and await _samples(scope) <= few:
            return Plan("raw", _EACH)
        return plan(span, points, cut=cut)

    async def _check_readings(self, scope: _Scope) -> None:
        """Whether percentiles, which no rollup has, can be had of so many. Raises `BadRequest`."""
        count, most = await _samples(scope), self._bounds.readings
        if count > most:
            raise BadRequest(
                f"percentiles are made of single readings, at most {most} "
                f"(IOTISTICA_QUERY_MAX_READINGS); the range has about {count}"
            )

    async def _points(self, scope: _Scope, chosen: Plan, limit: int) -> list[Row]:
        assert chosen.step is not None
        asked, step = scope.asked, chosen.step
        arguments: list[Any] = [
            *(scope.tenant, scope.agents, asked.metric),
            *(floor(scope.start, step), ceiling(scope.until, step)),
            *scope.filters(of_series=True),
            *(scope.groups, step, ORIGIN),
        ]
        try:
            if asked.percentiles:
                shares = [one / 100 for one in asked.percentiles]
                most = self._bounds.readings
                return await scope.reader.fetch(_PERCENTILES, *arguments, shares, most, limit)
            # What no step was asked of is put together once only.
            how = asked.function or asked.aggregator, asked.aggregator
            if asked.function is None and asked.aggregator == "count":
                how = "count", "sum"
            if chosen.level == "raw":
                return await scope.reader.fetch(_READING_POINTS, *arguments, *how, limit)
            return await scope.reader.fetch(_BUCKET_POINTS, *arguments, *how, limit, chosen.level)
        except asyncpg.InvalidRegularExpressionError as error:
            raise _no_expression(error) from None


async def _samples(scope: _Scope) -> int:
    """Readings of the hours or days that the range touches."""
    level = "1h" if scope.until - scope.start <= _HOURS_UNTIL else "daily"
    width = WIDTHS[level]  # type: ignore[index]
    return int(
        await scope.reader.fetchval(
            _SAMPLES,
            *(scope.tenant, scope.agents, scope.asked.metric),
            *(floor(scope.start, width), ceiling(scope.until, width), level),
        )
    )


def _named(values: Sequence[str | None]) -> dict[str, str]:
    return {
        name: value for name, value in zip(_OF_SERIES, values, strict=True) if value is not None
    }


def _no_expression(error: Exception) -> BadRequest:
    return BadRequest(f"a filter of type regexp is no regular expression: {error}")
