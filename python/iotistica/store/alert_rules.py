"""Alert rules as operators keep them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import asyncpg
import msgspec
import orjson

from iotistica.alerting.rule import (
    PER_S,
    Rate,
    RuleBody,
    RuleChange,
    Threshold,
    as_like,
    kind_of,
    read_condition,
)
from iotistica.errors import BadRequest, Conflict, NotFound
from iotistica.store import journal
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Connection, DuplicateKey, Pool, unavailable
from iotistica.store.webhooks import Notice, announce

MOST_RULES = 1000
"""Of one tenant."""

_COLUMNS = """
    id, name, description, metric, agents::text[] AS agents, fleet_uuid::text, tags, group_id::text,
    condition, severity, labels, enabled, interval_s, clear_for_s, max_age_s, created_at,
    modified_at, evaluated_at
"""
_LIST = f"""
SELECT {_COLUMNS}, (SELECT count(*) FROM alerts WHERE rule_id = alert_rules.id
                    AND status <> 'resolved') AS open_alerts
FROM alert_rules
WHERE tenant_id = $1
  AND ($2::bigint IS NULL OR id < $2)
  AND ($3::text IS NULL OR kind = $3)
  AND ($4::boolean IS NULL OR enabled = $4)
ORDER BY id DESC
LIMIT $5
"""  # noqa: S608 (constants only)
_GET = f"""
SELECT {_COLUMNS}, (SELECT count(*) FROM alerts WHERE rule_id = alert_rules.id
                    AND status <> 'resolved') AS open_alerts
FROM alert_rules WHERE tenant_id = $1 AND id = $2
"""  # noqa: S608 (constants only)
_LOCK = "SELECT FROM alert_rules WHERE tenant_id = $1 AND id = $2 FOR UPDATE"
# One tenant's rules are counted by one at a time.
_COUNT = """
SELECT count(*) FROM alert_rules
WHERE tenant_id = (SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE)
"""
_STRANGERS = """
SELECT agent::text FROM unnest($2::uuid[]) AS named (agent)
WHERE NOT EXISTS (SELECT FROM agents WHERE tenant_id = $1 AND uuid = agent)
ORDER BY agent LIMIT 1
"""
# Locked until the rule is there, or the group could go in between.
_GROUP = "SELECT true FROM groups WHERE tenant_id = $1 AND id = $2 FOR KEY SHARE"
_ADD = """
INSERT INTO alert_rules
    (tenant_id, name, description, metric, metric_like, agents, fleet_uuid, tags, group_id,
     condition, kind, operator, low, high, per_s, window_s, for_s, clear_for_s, max_age_s, severity,
     labels, enabled, interval_s)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20,
        $21, $22, $23)
RETURNING id
"""
_CHANGE = """
UPDATE alert_rules
SET (name, description, metric, metric_like, agents, fleet_uuid, tags, group_id, condition, kind,
     operator, low, high, per_s, window_s, for_s, clear_for_s, max_age_s, severity, labels, enabled,
     interval_s)
  = ($3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21, $22,
     $23, $24),
    modified_at = now(), next_at = now()
WHERE tenant_id = $1 AND id = $2
"""
_REMOVE = "DELETE FROM alert_rules WHERE tenant_id = $1 AND id = $2"
_END = """
UPDATE alerts
SET status = 'resolved', resolved_at = now(), resolution = $3
WHERE tenant_id = $1 AND rule_id = $2 AND status <> 'resolved'
RETURNING id
"""


class AlertRuleStore:
    """Rules of tenants. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def listed(
        self, tenant: str, *, kind: str | None, enabled: bool | None, below: int | None, limit: int
    ) -> list[dict[str, Any]]:
        """Rules with a number below, the newest first."""
        with unavailable("list alert rules"):
            rows = await self._pool.fetch(_LIST, tenant, below, kind, enabled, limit)
        return [_decoded(row) for row in rows]

    async def get(self, tenant: str, rule: int) -> dict[str, Any]:
        """One rule. Raises `NotFound`."""
        with unavailable("read an alert rule"):
            return await _get(self._pool, tenant, rule)

    async def add(self, origin: Origin, body: RuleBody) -> dict[str, Any]:
        """Make a rule. Raises `Conflict`, `BadRequest` for an agent or group that is not there."""
        with unavailable("make an alert rule"):
            async with self._pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(_COUNT, origin.tenant) >= MOST_RULES:
                    raise Conflict(f"there are {MOST_RULES} alert rules; no more are allowed")
                await _check_agents(connection, origin.tenant, body)
                try:
                    number = await connection.fetchval(_ADD, origin.tenant, *_row(body))
                except DuplicateKey:
                    raise _taken(body.name) from None
                found = await _get(connection, origin.tenant, number)
                await _note(connection, origin, number, "created", after=_shown(found))
        return found

    async def change(self, origin: Origin, rule: int, change: RuleChange) -> dict[str, Any]:
        """Change a rule, which is evaluated soon; one that is disabled resolves its alerts.

        Raises `NotFound`, `Conflict`, `BadRequest`.
        """
        with unavailable("change an alert rule"):
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_LOCK, origin.tenant, rule)
                before = await _get(connection, origin.tenant, rule)
                body = _merged(before, change)
                await _check_agents(connection, origin.tenant, body)
                try:
                    await connection.execute(_CHANGE, origin.tenant, rule, *_row(body))
                except DuplicateKey:
                    raise _taken(body.name) from None
                if before["enabled"] and not body.enabled:
                    await _end(connection, origin.tenant, rule, "the rule was disabled")
                after = await _get(connection, origin.tenant, rule)
                changed = {name: one for name, one in _shown(after).items() if one != before[name]}
                await _note(
                    connection,
                    origin,
                    rule,
                    "changed",
                    before={name: before[name] for name in changed},
                    after=changed,
                )
        return after

    async def remove(self, origin: Origin, rule: int) -> None:
        """Remove a rule and resolve its alerts, which stay. Raises `NotFound`."""
        with unavailable("remove an alert rule"):
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_LOCK, origin.tenant, rule)
                before = await _get(connection, origin.tenant, rule)
                await _end(connection, origin.tenant, rule, "the rule was removed")
                await connection.execute(_REMOVE, origin.tenant, rule)
                await _note(connection, origin, rule, "deleted", before=_shown(before))


async def _end(connection: Connection, tenant: str, rule: int, why: str) -> None:
    ended = await connection.fetch(_END, tenant, rule, why)
    await announce(connection, [Notice("alert.resolved", row["id"]) for row in ended])


async def _get(place: Connection | Pool, tenant: str, rule: int) -> dict[str, Any]:
    row = await place.fetchrow(_GET, tenant, rule)
    if row is None:
        raise NotFound(f"alert rule {rule} does not exist")
    return _decoded(row)


async def _check_agents(connection: Connection, tenant: str, body: RuleBody) -> None:
    stranger = await connection.fetchval(_STRANGERS, tenant, body.agents or [])
    if stranger is not None:
        raise BadRequest(f"field agents: agent {stranger} does not exist")
    group = body.group_id
    if group is not None and not await connection.fetchval(_GROUP, tenant, group):
        raise BadRequest(f"field group_id: group {group} does not exist")


async def _note(
    connection: Connection,
    origin: Origin,
    rule: int,
    verb: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    entry = Entry(
        event_type=f"alert_rule.{verb}",
        subject=f"alert_rule/{rule}",
        before=before,
        after=after,
    )
    await journal.record(connection, origin, entry)


def _merged(before: Mapping[str, Any], change: RuleChange) -> RuleBody:
    fields = {name: before[name] for name in RuleBody.__struct_fields__}
    given = {name: msgspec.to_builtins(one) for name, one in change.given().items()}
    try:
        return msgspec.convert({**fields, **given}, RuleBody)
    except msgspec.ValidationError as error:
        raise BadRequest(f"the rule: {error}") from None


def _row(body: RuleBody) -> tuple[Any, ...]:
    condition = body.condition
    band = condition.band()
    return (
        body.name,
        body.description,
        body.metric,
        None if body.metric is None else as_like(body.metric),
        body.agents,
        body.fleet_uuid,
        None if body.tags is None else orjson.dumps(body.tags).decode(),
        body.group_id,
        msgspec.json.encode(condition).decode(),
        kind_of(condition),
        band.operator,
        band.low,
        band.high,
        PER_S[condition.per] if isinstance(condition, Rate) else None,
        condition.window_s if isinstance(condition, Rate) else None,
        condition.for_s if isinstance(condition, Threshold) else 0.0,
        body.clear_for_s,
        body.max_age_s,
        body.severity,
        orjson.dumps(body.labels).decode(),
        body.enabled,
        body.interval_s,
    )


def _decoded(row: asyncpg.Record) -> dict[str, Any]:
    condition = msgspec.to_builtins(read_condition(row["condition"]))
    given = {name: one for name, one in condition.items() if one is not None}
    tags = None if row["tags"] is None else orjson.loads(row["tags"])
    labels = orjson.loads(row["labels"])
    return {**dict(row), "condition": given, "tags": tags, "labels": labels}


def _shown(rule: Mapping[str, Any]) -> dict[str, Any]:
    """What an operator gave."""
    return {name: rule[name] for name in RuleBody.__struct_fields__}


def _taken(name: str) -> Conflict:
    return Conflict(f"name is {name[:64]!r}; an alert rule of that name exists")
