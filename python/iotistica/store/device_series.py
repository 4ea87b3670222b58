"""A metric of one device behind an agent, found by uuid or name, in steps."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from iotistica.errors import BadRequest, NotFound
from iotistica.series.levels import ORIGIN, Plan, ceiling, floor
from iotistica.store.merged import STATE
from iotistica.store.pool import Row
from iotistica.store.query_slots import QuerySlots, Reader

# An agent by its own uuid, and an endpoint of its target state by that.
_BY_UUID = """
SELECT agents.uuid::text AS agent, NULL::text AS device FROM agents
WHERE agents.tenant_id = $1 AND agents.uuid = $2::uuid AND ($3::uuid IS NULL OR agents.uuid = $3)
UNION ALL
SELECT agents.uuid::text, endpoint ->> 'name'
FROM agents JOIN agent_target_state AS t ON t.agent_uuid = agents.uuid
CROSS JOIN LATERAL jsonb_path_query(t.config, '$.endpoints[*] ? (@.uuid == $uuid)',
                                    jsonb_build_object('uuid', $2::uuid::text)) AS endpoint
WHERE agents.tenant_id = $1 AND ($3::uuid IS NULL OR agents.uuid = $3)
LIMIT 2
"""
_BY_NAME = """
SELECT DISTINCT agents.uuid::text AS agent, l.device_name AS device
FROM agents JOIN readings_latest AS l ON l.agent_uuid = agents.uuid
WHERE agents.tenant_id = $1 AND l.device_name = $2 AND ($3::uuid IS NULL OR agents.uuid = $3)
  AND l.metric_name = $4
LIMIT 2
"""
_STEPS = f"""
SELECT date_bin($6, part.bucket, $7) AS time,
       ({STATE})[2]
           / nullif(sum(value_count), 0)::double precision AS value,
       min(min_value) AS min, max(max_value) AS max, sum(sample_count)::bigint AS samples,
       sum(good_count)::bigint AS good, min(unit) AS unit, min(protocol) AS protocol
FROM agents CROSS JOIN LATERAL {{source}} AS part
WHERE agents.tenant_id = $1 AND agents.uuid = $2::uuid
  AND ($8::text IS NULL OR part.device_name = $8)
GROUP BY 1 ORDER BY 1 LIMIT $9
"""  # noqa: S608 (constants only)
_BUCKETS = _STEPS.format(source="readings_buckets($10, ARRAY[agents.uuid], ARRAY[$3], $4, $5)")
_FINE = _STEPS.format(source="readings_steps(agents.uuid, ARRAY[$3], $4, $5, $6, $7)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """Which device; the uuid or the name is given."""

    uuid: UUID | None
    name: str | None
    agent: UUID | None
    """Where it is, as far as the caller knows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A device and the steps of a metric, the oldest first."""

    agent: str
    device: str | None
    """None for all of the agent."""
    rows: list[Row]


class DeviceSeries:
    """Queries on single devices."""

    def __init__(self, slots: QuerySlots, *, most: int = 100_000) -> None:
        self._slots = slots
        self._most = most

    async def steps(
        self,
        tenant: str,
        device: Device,
        metric: str,
        *,
        plan: Plan,
        start: datetime,
        end: datetime,
    ) -> Found:
        """Raises `NotFound`, `BadRequest` for a name that two agents have, or for too many steps,
        `TooSlow`, `Busy`, `StoreUnavailable`."""
        assert plan.step is not None
        since, until = floor(start, plan.step), ceiling(end, plan.step)
        async with self._slots.take("read readings") as reader:
            agent, name = await _find(reader, tenant, device, metric)
            statement, level = (_FINE, ()) if plan.level == "raw" else (_BUCKETS, (plan.level,))
            rows = await reader.fetch(
                statement,
                *(tenant, agent, metric, since, until, plan.step, ORIGIN, name),
                *(self._most + 1, *level),
            )
        if len(rows) > self._most:
            raise BadRequest(
                f"the range has more than {self._most} steps (IOTISTICA_QUERY_MAX_POINTS); "
                "ask for a shorter one"
            )
        return Found(agent=agent, device=name, rows=rows)


async def _find(reader: Reader, tenant: str, device: Device, metric: str) -> tuple[str, str | None]:
    """Agent and name of the device."""
    if device.uuid is not None:
        what = f"device {device.uuid}"
        rows = await reader.fetch(_BY_UUID, tenant, device.uuid, device.agent)
    else:
        what = f"device {(device.name or '')[:64]!r} with metric {metric[:64]!r}"
        rows = await reader.fetch(_BY_NAME, tenant, device.name, device.agent, metric)
    if not rows:
        raise NotFound(f"{what} does not exist")
    if len(rows) > 1:
        raise BadRequest(f"{what} is with several agents; say which by agentUuid")
    return rows[0]["agent"], rows[0]["device"]
