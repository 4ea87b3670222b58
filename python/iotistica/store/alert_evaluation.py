"""Evaluates alert rules over what is stored: one query for each kind of rule, whatever the fleet.

Everything that rules know of the past is in their alerts, and all that an evaluation changes is one
transaction with the time of the next one. So whoever dies in between has changed nothing, and
whoever comes next decides the same. Rules are locked meanwhile, and those that another process has
locked are its business.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, TypeAlias

import asyncpg
import orjson

from iotistica.alerting.decision import (
    FLAP_WINDOW,
    Policy,
    Seen,
    Standing,
    Step,
    Verb,
    decide,
)
from iotistica.alerting.rule import Band, Rate, is_pattern, kind_of, read_condition
from iotistica.store.alert_members import Members, members
from iotistica.store.pool import Connection, Pool, unavailable
from iotistica.store.webhooks import Notice, announce

Series: TypeAlias = tuple[int, str, str, str]
"""Rule, agent, device and metric; the metric of an agent as a whole is empty."""

_AT_ONCE = 200

_DUE_TENANTS = """
SELECT tenant_id FROM alert_rules WHERE enabled AND next_at <= $1
GROUP BY tenant_id ORDER BY min(next_at)
"""
# To compile these queries takes longer than to run them.
_NO_JIT = "SET LOCAL jit = off"
_DUE_RULES = """
SELECT id, name, metric, condition, severity, labels, for_s, clear_for_s, max_age_s, tags, group_id
FROM alert_rules
WHERE tenant_id = $1 AND enabled AND next_at <= $2
ORDER BY next_at, id LIMIT $3
FOR NO KEY UPDATE SKIP LOCKED
"""
_DONE = """
UPDATE alert_rules
SET evaluated_at = $2, next_at = $2::timestamptz + interval_s * interval '1 second'
WHERE id = ANY ($1)
"""
_STANDING = """
SELECT id, rule_id, agent_uuid::text, device_name, metric_name, cleared_since, flapping, value
FROM alerts WHERE rule_id = ANY ($1) AND status <> 'resolved'
"""
_RECENT = """
SELECT rule_id, agent_uuid::text, device_name, metric_name, count(*) AS times
FROM jsonb_to_recordset($1::jsonb)
     AS series (rule bigint, agent uuid, device text, metric text)
JOIN alerts ON rule_id = rule AND agent_uuid = agent AND device_name = device
           AND metric_name = metric AND opened_at > $2
GROUP BY 1, 2, 3, 4
"""

# Which agents a rule is about: the one place for it.
_COVERS = """
    (rule.agents IS NULL OR series.agent_uuid = ANY (rule.agents))
AND (rule.fleet_uuid IS NULL OR series.fleet_uuid = rule.fleet_uuid)
AND (watched.selector IS NULL OR watched.selector = ANY (series.selectors))
"""
# Metrics that patterns mean. A tenant has few, and comparing each series with each pattern would
# take seconds for a large fleet.
_MATCHED = """
SELECT rule.id, name.metric_name
FROM (
    SELECT DISTINCT latest.metric_name
    FROM agents AS agent JOIN readings_latest AS latest ON latest.agent_uuid = agent.uuid
    WHERE agent.tenant_id = $2
) AS name
JOIN alert_rules AS rule ON rule.id = ANY ($1) AND name.metric_name LIKE rule.metric_like
"""
# $1 is the rules, $2 the time, $3 the tenant; $4 to $6 are a rule, a metric that it means and the
# selector that it has; $7 and $8 a selector and an agent that it means. In steps, each of which the
# planner knows the size of: it would begin with rules and agents otherwise.
_WATCHED = """
WITH member AS MATERIALIZED (
    SELECT agent_uuid, array_agg(selector) AS selectors
    FROM unnest($7::integer[], $8::uuid[]) AS member (selector, agent_uuid)
    GROUP BY agent_uuid
), series AS MATERIALIZED (
    SELECT latest.agent_uuid, latest.device_name, latest.metric_name, latest.value, latest.time,
           latest.updated_at, agent.fleet_uuid, member.selectors
    FROM agents AS agent JOIN readings_latest AS latest ON latest.agent_uuid = agent.uuid
    LEFT JOIN member ON member.agent_uuid = agent.uuid
    WHERE agent.tenant_id = $3 AND latest.metric_name = ANY ($5::text[])
)
"""
_RULES = (
    "unnest($4::bigint[], $5::text[], $6::integer[]) AS watched (rule_id, metric_name, selector)"
)
_SERIES = f"""
FROM series AS latest
JOIN {_RULES} ON watched.metric_name = latest.metric_name
JOIN alert_rules AS rule ON rule.id = watched.rule_id AND {_COVERS.replace("series.", "latest.")}
"""
# Within an OR this is a table of hashes, whatever the planner thinks of the number of alerts.
_STANDING_SERIES = """
    (rule.id, latest.agent_uuid, latest.device_name, latest.metric_name) IN (
        SELECT rule_id, agent_uuid, device_name, metric_name FROM alerts
        WHERE rule_id = ANY ($1) AND status <> 'resolved')
"""
_STANDING_AGENT = """
    (rule.id, agent.uuid) IN (
        SELECT rule_id, agent_uuid FROM alerts
        WHERE rule_id = ANY ($1) AND metric_name = '' AND status <> 'resolved')
"""
# Series that are outside or have an alert; the others are not worth a row. `since` is the first
# reading of the present run outside, which the primary key finds.
_THRESHOLD = f"""
{_WATCHED}
SELECT rule.id AS rule_id, latest.agent_uuid::text, latest.device_name, latest.metric_name,
       nullif(latest.value, 'NaN') AS value, latest.time AS at, run.since
{_SERIES}
CROSS JOIN LATERAL (
    SELECT $2::timestamptz - (rule.for_s + rule.max_age_s) * interval '1 second' AS start
) AS tail
LEFT JOIN LATERAL (
    SELECT min(bad.time) AS since FROM readings AS bad
    WHERE rule.for_s > 0
      AND bad.agent_uuid = latest.agent_uuid AND bad.metric_name = latest.metric_name
      AND coalesce(bad.extra ->> 'device_name', '') = latest.device_name
      AND bad.time <= latest.time AND bad.time >= tail.start
      AND bad.time > coalesce((
          SELECT max(good.time) FROM readings AS good
          WHERE good.agent_uuid = latest.agent_uuid AND good.metric_name = latest.metric_name
            AND coalesce(good.extra ->> 'device_name', '') = latest.device_name
            AND good.time <= latest.time AND good.time >= tail.start
            AND NOT alert_breaches(good.value, rule.operator, rule.low, rule.high)
      ), '-infinity')
) AS run ON true
WHERE ({_STANDING_SERIES}
       OR (alert_breaches(nullif(latest.value, 'NaN'), rule.operator, rule.low, rule.high)
           AND latest.time >= $2::timestamptz - rule.max_age_s * interval '1 second'))
"""  # noqa: S608 (constants only)
# Values beyond any sense would overflow.
_RATE = f"""
{_WATCHED}
SELECT rule.id AS rule_id, latest.agent_uuid::text, latest.device_name, latest.metric_name,
       change.rate AS value, latest.time AS at, NULL::timestamptz AS since
{_SERIES}
LEFT JOIN LATERAL (
    SELECT first.value, first.time FROM readings AS first
    WHERE abs(latest.value) < 1e100
      AND latest.time >= $2::timestamptz - rule.max_age_s * interval '1 second'
      AND first.agent_uuid = latest.agent_uuid AND first.metric_name = latest.metric_name
      AND coalesce(first.extra ->> 'device_name', '') = latest.device_name
      AND first.time >= latest.time - rule.window_s * interval '1 second'
      AND first.time < latest.time AND abs(first.value) < 1e100
    ORDER BY first.time LIMIT 1
) AS first ON true
CROSS JOIN LATERAL (
    SELECT (latest.value - first.value) * rule.per_s
           / extract(epoch FROM latest.time - first.time)::float8 AS rate
) AS change
WHERE ({_STANDING_SERIES}
       OR alert_breaches(change.rate, rule.operator, rule.low, rule.high))
"""  # noqa: S608 (constants only)
# When something came in counts, and not what it says of its time.
_ABSENCE = f"""
{_WATCHED}
SELECT rule.id AS rule_id, latest.agent_uuid::text, latest.device_name, latest.metric_name,
       silence.value, $2::timestamptz AS at, NULL::timestamptz AS since
{_SERIES}
CROSS JOIN LATERAL (
    SELECT extract(epoch FROM $2::timestamptz - latest.updated_at)::float8 AS value
) AS silence
WHERE {_STANDING_SERIES} OR silence.value > rule.high
UNION ALL
SELECT rule.id, agent.uuid::text, '', '', silence.value, $2::timestamptz, NULL
FROM agents AS agent
LEFT JOIN member ON member.agent_uuid = agent.uuid
CROSS JOIN LATERAL (
    SELECT agent.uuid AS agent_uuid, agent.fleet_uuid, member.selectors
) AS series
JOIN {_RULES} ON watched.metric_name IS NULL
JOIN alert_rules AS rule ON rule.id = watched.rule_id AND {_COVERS}
CROSS JOIN LATERAL (
    SELECT extract(epoch FROM $2::timestamptz - coalesce(
        (SELECT max(updated_at) FROM readings_latest WHERE agent_uuid = agent.uuid),
        agent.created_at
    ))::float8 AS value
) AS silence
WHERE agent.tenant_id = $3 AND ({_STANDING_AGENT} OR silence.value > rule.high)
"""  # noqa: S608 (constants only)
_QUERIES = {"threshold": _THRESHOLD, "rate": _RATE, "absence": _ABSENCE}

_OPEN = """
INSERT INTO alerts
    (tenant_id, rule_id, rule_name, kind, agent_uuid, device_name, metric_name, severity, labels,
     message, opened_value, value, opened_at, seen_at, flapping)
SELECT $2, rule, name, kind, agent, device, metric, severity, labels, message, value, value, $3, $3,
       flapping
FROM jsonb_to_recordset($1::jsonb) AS new (
    rule bigint, name text, kind text, agent uuid, device text, metric text, severity text,
    labels jsonb, message text, value double precision, flapping boolean)
RETURNING id
"""
_KEEP = """
UPDATE alerts
SET value = coalesce(new.value, alerts.value), seen_at = $2, cleared_since = new.cleared_since
FROM jsonb_to_recordset($1::jsonb)
     AS new (id bigint, value double precision, cleared_since timestamptz)
WHERE alerts.id = new.id
"""
_RESOLVE = """
UPDATE alerts
SET status = 'resolved', resolved_at = $2, seen_at = $2, resolution = new.resolution,
    value = coalesce(new.value, alerts.value)
FROM jsonb_to_recordset($1::jsonb)
     AS new (id bigint, value double precision, resolution text)
WHERE alerts.id = new.id
RETURNING alerts.id
"""


@dataclass(frozen=True, slots=True)
class _Rule:
    id: int
    name: str
    metric: str | None
    kind: str
    severity: str
    labels: Any
    unit: str
    policy: Policy

    def message(self, series: Series, value: float) -> str:
        """One sentence for a person."""
        _, agent, device, metric = series
        what = " of ".join(part for part in (metric, device) if part) or f"agent {agent}"
        match self.kind:
            case "absence":
                return f"{what} is silent for {value:.0f} s ({self.policy.band} s)"
            case "rate":
                return f"{what} changes by {value:g} per {self.unit} ({self.policy.band})"
            case _:
                return f"{what} is {value:g} ({self.policy.band})"


@dataclass(slots=True)
class _Changes:
    opened: list[dict[str, Any]]
    kept: list[dict[str, Any]]
    resolved: list[dict[str, Any]]


class AlertEvaluation:
    """Evaluates rules. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def due_tenants(self, now: datetime) -> list[str]:
        """Tenants with rules that are due, the longest waiting first."""
        with unavailable("look for alert rules that are due"):
            return [row["tenant_id"] for row in await self._pool.fetch(_DUE_TENANTS, now)]

    async def evaluate(self, tenant: str, now: datetime) -> list[Notice]:
        """Evaluate the tenant's rules that are due and nobody else evaluates; what changed."""
        with unavailable("evaluate alert rules"):
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(_DUE_RULES, tenant, now, _AT_ONCE)
                if not rows:
                    return []
                await connection.execute(_NO_JIT)
                rules = {row["id"]: _rule(row) for row in rows}
                who = await members(connection, tenant, rows)
                changes = await _changes(connection, tenant, rules, who, now)
                notices = await _apply(connection, tenant, changes, now)
                await announce(connection, notices)
                await connection.execute(_DONE, list(rules), now)
        return notices


async def _changes(
    connection: Connection, tenant: str, rules: Mapping[int, _Rule], who: Members, now: datetime
) -> _Changes:
    by_kind: dict[str, list[int]] = defaultdict(list)
    for rule in rules.values():
        by_kind[rule.kind].append(rule.id)
    seen: dict[Series, Seen] = {}
    pairs = await _pairs(connection, tenant, rules)
    for kind, ids in by_kind.items():
        meant = [pair for pair in pairs if pair[0] in ids]
        columns = (
            [rule for rule, _ in meant],
            [metric for _, metric in meant],
            [who.selector_of.get(rule) for rule, _ in meant],
            who.selectors,
            who.agents,
        )
        for row in await connection.fetch(_QUERIES[kind], ids, now, tenant, *columns):
            seen[_series(row)] = Seen(row["value"], row["at"], row["since"])
    standing = {_series(row): row for row in await connection.fetch(_STANDING, list(rules))}
    recent = await _recent(connection, [one for one in seen if one not in standing], now)
    changes = _Changes([], [], [])
    for series, one in seen.items():
        known = standing.pop(series, None)
        rule = rules[series[0]]
        state = None if known is None else Standing(known["cleared_since"], known["flapping"])
        step = decide(rule.policy, one, state, now=now, recent=recent.get(series, 0))
        if step is not None:
            _add(changes, rule, series, one, known, step)
    for known in standing.values():
        gone = {"id": known["id"], "value": None, "resolution": "the rule no longer watches it"}
        changes.resolved.append(gone)
    return changes


async def _pairs(
    connection: Connection, tenant: str, rules: Mapping[int, _Rule]
) -> list[tuple[int, str | None]]:
    """Each rule with the metrics that it means; None is the agent as a whole."""
    patterns = [one.id for one in rules.values() if is_pattern(one.metric or "")]
    exact = [(one.id, one.metric) for one in rules.values() if not is_pattern(one.metric or "")]
    if not patterns:
        return exact
    found = await connection.fetch(_MATCHED, patterns, tenant)
    return [*exact, *((row["id"], row["metric_name"]) for row in found)]


async def _recent(
    connection: Connection, series: Sequence[Series], now: datetime
) -> dict[Series, int]:
    if not series:
        return {}
    names = ("rule", "agent", "device", "metric")
    asked = _json(dict(zip(names, one, strict=True)) for one in series)
    rows = await connection.fetch(_RECENT, asked, now - FLAP_WINDOW)
    return {_series(row): row["times"] for row in rows}


def _add(
    changes: _Changes,
    rule: _Rule,
    series: Series,
    seen: Seen,
    known: asyncpg.Record | None,
    step: Step,
) -> None:
    if known is None:
        _, agent, device, metric = series
        changes.opened.append(
            {
                "rule": rule.id,
                "name": rule.name,
                "kind": rule.kind,
                "agent": agent,
                "device": device,
                "metric": metric,
                "severity": rule.severity,
                "labels": rule.labels,
                "message": rule.message(series, seen.value or 0.0),
                "value": seen.value,
                "flapping": step.flapping,
            }
        )
    elif step.verb is Verb.RESOLVE:
        changes.resolved.append({"id": known["id"], "value": seen.value, "resolution": "cleared"})
    elif step.cleared_since != known["cleared_since"] or (
        # A silence grows by itself.
        rule.kind != "absence" and seen.value != known["value"]
    ):
        changes.kept.append(
            {"id": known["id"], "value": seen.value, "cleared_since": step.cleared_since}
        )


async def _apply(
    connection: Connection, tenant: str, changes: _Changes, now: datetime
) -> list[Notice]:
    notices: list[Notice] = []
    if changes.kept:
        await connection.execute(_KEEP, _json(changes.kept), now)
    if changes.resolved:
        rows = await connection.fetch(_RESOLVE, _json(changes.resolved), now)
        notices += [Notice("alert.resolved", row["id"]) for row in rows]
    if changes.opened:
        rows = await connection.fetch(_OPEN, _json(changes.opened), tenant, now)
        notices += [Notice("alert.opened", row["id"]) for row in rows]
    return notices


def _rule(row: asyncpg.Record) -> _Rule:
    condition = read_condition(row["condition"])
    band: Band = condition.band()
    return _Rule(
        id=row["id"],
        name=row["name"],
        metric=row["metric"],
        kind=kind_of(condition),
        severity=row["severity"],
        labels=orjson.loads(row["labels"]),
        unit=condition.per if isinstance(condition, Rate) else "",
        policy=Policy(
            band=band,
            held_for=timedelta(seconds=row["for_s"]),
            clear_for=timedelta(seconds=row["clear_for_s"]),
            max_age=timedelta(seconds=row["max_age_s"]),
        ),
    )


def _series(row: asyncpg.Record) -> Series:
    return row["rule_id"], row["agent_uuid"], row["device_name"], row["metric_name"]


def _json(rows: Iterable[Mapping[str, Any]]) -> str:
    return orjson.dumps(list(rows)).decode()
