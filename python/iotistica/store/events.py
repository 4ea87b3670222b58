"""What happened to agents, and how far their updates are."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from iotistica.store.documents import json_text
from iotistica.store.pool import Connection, Pool, unavailable
from iotistica.store.turn import turn

UPDATE_TIMEOUT_MINUTES = 30

_TURN = "updates"
_OPEN = "('pending', 'acknowledged', 'scheduled', 'in_progress')"

# Gives those that were not there before.
_ADD = """
INSERT INTO agent_events (tenant_id, agent_uuid, source, type, time, data, digest)
SELECT new.tenant, agents.uuid, new.source, new.type, new.time, new.data, new.digest
FROM unnest($1::text[], $2::text[]::uuid[], $3::text[], $4::text[], $5::timestamptz[],
            $6::text[]::jsonb[], $7::bytea[])
     WITH ORDINALITY AS new (tenant, agent, source, type, time, data, digest, place)
JOIN agents ON agents.uuid = new.agent AND agents.tenant_id = new.tenant
ORDER BY new.place
ON CONFLICT (agent_uuid, digest) DO NOTHING
RETURNING digest
"""
# The newest update that is open, forwards only: a message that comes late moves nothing back.
_MOVE = f"""
UPDATE agent_updates
SET status = $2,
    current_version = coalesce($3, current_version),
    target_version = coalesce($4, target_version),
    deployment_type = coalesce($5, deployment_type),
    scheduled_time = coalesce($6, scheduled_time),
    error = coalesce($7, error),
    exit_code = coalesce($8, exit_code),
    acknowledged_at = coalesce(acknowledged_at, $9),
    started_at = CASE WHEN $2 = 'in_progress' THEN $9 ELSE started_at END,
    timeout_at = CASE WHEN $2 = 'in_progress' THEN $9 + make_interval(mins => $10)
                      ELSE timeout_at END,
    completed_at = CASE WHEN $2 IN ('succeeded', 'failed', 'rejected') THEN $9 END
WHERE id = (SELECT max(id) FROM agent_updates
            WHERE agent_uuid = $1::text::uuid AND status IN {_OPEN})
  AND array_position($11::text[], status) < array_position($11::text[], $2)
"""  # noqa: S608 (constants only)
_HAS_OPEN = f"""
SELECT EXISTS (SELECT FROM agent_updates
               WHERE agent_uuid = $1::text::uuid AND status IN {_OPEN})
"""  # noqa: S608 (constants only)
_BEGIN = "INSERT INTO agent_updates (agent_uuid, created_at) VALUES ($1::text::uuid, $2)"
_VERSION = """
UPDATE agents SET agent_version = $2
WHERE uuid = $1::text::uuid AND agent_version IS DISTINCT FROM $2
"""
_EXPIRE = f"""
WITH expired AS (
    UPDATE agent_updates SET status = 'timed_out', completed_at = now()
    WHERE status IN {_OPEN} AND timeout_at < now()
    RETURNING id, agent_uuid, target_version
)
INSERT INTO agent_events (tenant_id, agent_uuid, source, type, time, data)
SELECT tenant_id, agent_uuid, 'agent', 'update_timed_out', now(),
       jsonb_build_object('updateId', expired.id, 'target_version', target_version)
FROM expired JOIN agents ON agents.uuid = agent_uuid
RETURNING agent_uuid
"""  # noqa: S608 (constants only)
_ORDER = (
    *("pending", "acknowledged", "scheduled", "in_progress"),
    *("succeeded", "failed", "rejected", "timed_out"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Something that happened to an agent, as its topic and payload tell."""

    tenant: str
    agent: str
    source: str
    type: str
    time: datetime
    data: Any
    digest: bytes | None
    """Of what tells it from another that says the same; None where nothing does."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """How far an update of an agent is."""

    agent: str
    status: str
    at: datetime
    current_version: str | None = None
    target_version: str | None = None
    deployment_type: str | None = None
    scheduled_time: datetime | None = None
    error: str | None = None
    exit_code: int | None = None


class EventStore:
    """Events and updates. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(self, events: Sequence[Event]) -> None:
        """Store events; one that is there already stays as it is."""
        if events:
            with unavailable("store events"):
                await self._pool.fetch(_ADD, *_columns(events))

    async def add_lifecycle(
        self,
        events: Sequence[Event],
        steps: Sequence[tuple[Event, Step]],
        versions: Sequence[tuple[str, str]],
    ) -> None:
        """Store events with what they say of updates and versions, in order of arrival.

        A step counts once: that of an event which is there already is done.
        """
        if not events:
            return
        with unavailable("store events"):
            async with self._pool.acquire() as connection, connection.transaction():
                rows = await connection.fetch(_ADD, *_columns(events))
                new = {row["digest"] for row in rows}
                for event, step in steps:
                    if event.digest is None or event.digest in new:
                        new.discard(event.digest)
                        await _move(connection, step, begins=event.digest is not None)
                for agent, version in versions:
                    await connection.execute(_VERSION, agent, version)

    async def expire_updates(self) -> int:
        """Give up updates whose time is over; how many. By one process at a time."""
        with unavailable("look after updates"):
            async with turn(self._pool, _TURN) as connection:
                return 0 if connection is None else len(await connection.fetch(_EXPIRE))


async def _move(connection: Connection, step: Step, *, begins: bool) -> None:
    open_already = await connection.fetchval(_HAS_OPEN, step.agent)
    if not open_already:
        # One that nobody ordered here: the target state may ask for a version by itself.
        if not begins or step.status not in _ORDER[1:4]:
            return
        await connection.execute(_BEGIN, step.agent, step.at)
    await connection.execute(
        _MOVE,
        step.agent,
        step.status,
        step.current_version,
        step.target_version,
        step.deployment_type,
        step.scheduled_time,
        step.error,
        step.exit_code,
        step.at,
        UPDATE_TIMEOUT_MINUTES,
        _ORDER,
    )


def _columns(events: Sequence[Event]) -> list[list[Any]]:
    names = ("tenant", "agent", "source", "type", "time", "digest")
    by_name = {name: [getattr(one, name) for one in events] for name in names}
    data = [json_text(one.data) for one in events]
    return [*(by_name[name] for name in names[:-1]), data, by_name["digest"]]
