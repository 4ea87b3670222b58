"""Keys of agents: whose is it, rotation, and those that a rotation has replaced."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from uuid import UUID

from iotistica.errors import Conflict
from iotistica.store import journal
from iotistica.store.changes import Changes, changes_since, statement
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Pool, Row, unavailable

_FIND = """
SELECT device_api_key_hash AS key_hash, uuid, tenant_id, name, is_active,
       device_public_key IS NULL OR pop_verified AS is_complete, NULL::timestamptz AS valid_until
FROM agents
WHERE device_api_key_hash = ANY ($1::text[])
UNION ALL
SELECT h.key_hash, a.uuid, a.tenant_id, a.name, a.is_active,
       a.device_public_key IS NULL OR a.pop_verified, h.valid_until
FROM agent_key_history AS h JOIN agents AS a ON a.uuid = h.agent_uuid
WHERE h.key_hash = ANY ($1::text[]) AND h.valid_until > now()
"""
_CHANGES = statement(agents="agent_key_changes")
_LOCK = """
SELECT name, device_api_key_hash, coalesce(api_key_issued_at, created_at) AS issued_at
FROM agents
WHERE uuid = $1 AND tenant_id = $2 AND is_active
FOR UPDATE
"""
_REPLACE = """
INSERT INTO agent_key_history (agent_uuid, key_hash, issued_at, valid_until, reason, ip_address)
VALUES ($1, $2, $3, now() + $4, $5, $6)
RETURNING rotated_at, valid_until
"""
_FORMER_UNTIL = """
SELECT max(valid_until) FROM agent_key_history
WHERE agent_uuid = $1 AND key_hash = ANY ($2::text[]) AND valid_until > now()
"""
_SET = """
UPDATE agents
SET device_api_key_hash = $2, api_key_issued_at = now(), api_key_last_rotated_at = now(),
    modified_at = now()
WHERE uuid = $1
"""
_STATUS = """
SELECT a.uuid::text, a.name, a.api_key_issued_at AS issued_at,
       a.api_key_last_rotated_at AS last_rotated_at,
       (SELECT max(h.valid_until) FROM agent_key_history AS h
        WHERE h.agent_uuid = a.uuid AND h.valid_until > now()) AS grace_period_ends
FROM agents AS a
WHERE a.uuid = $1 AND a.tenant_id = $2
"""
_HISTORY = """
SELECT h.id, h.issued_at, h.rotated_at, h.valid_until, h.reason, h.ip_address
FROM agent_key_history AS h JOIN agents AS a ON a.uuid = h.agent_uuid
WHERE a.uuid = $1 AND a.tenant_id = $2
ORDER BY h.id DESC
LIMIT $3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class KeyHolder:
    """An agent that a key belongs to."""

    key_hash: str
    agent: str
    tenant: str
    name: str
    is_active: bool
    is_complete: bool
    """Whether it has proved that its other key, the private one, is its own."""
    valid_until: datetime | None
    """End of the grace period of a key that was replaced."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """A rotation that was done."""

    rotated_at: datetime
    old_valid_until: datetime


class AgentKeyStore:
    """Keys of agents, all as digests. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def holders(self, key_hashes: Sequence[str]) -> list[KeyHolder]:
        """Who holds these keys, current ones and those in their grace period."""
        with unavailable("look up keys of agents"):
            rows = await self._pool.fetch(_FIND, key_hashes)
        return [
            KeyHolder(
                key_hash=row["key_hash"],
                agent=str(row["uuid"]),
                tenant=row["tenant_id"],
                name=row["name"],
                is_active=row["is_active"],
                is_complete=row["is_complete"],
                valid_until=row["valid_until"],
            )
            for row in rows
        ]

    async def changes(self, mark: str) -> Changes:
        """Agents of which anything here has changed since; one look at an index."""
        return await changes_since(self._pool, _CHANGES, mark, "look for changed keys of agents")

    async def rotate(
        self,
        agent: UUID,
        *,
        used_hashes: Sequence[str],
        new_hash: str,
        grace_s: float,
        reason: str,
        origin: Origin,
    ) -> Replaced:
        """Replace the key of an agent that authenticated by one of `used_hashes`.

        Where that is a former key, the agent never got the current one: that ends at once, and the
        former one keeps its own end. Raises `Conflict` where the key that was used is no longer
        good.
        """
        with unavailable("rotate a key"):
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(_LOCK, agent, origin.tenant)
                if row is None:
                    raise Conflict(f"agent {agent} is deactivated or gone")
                is_current, until = row["device_api_key_hash"] in used_hashes, None
                if not is_current:
                    until = await connection.fetchval(_FORMER_UNTIL, agent, used_hashes)
                    if until is None:
                        raise Conflict("the key was rotated meanwhile; use the newest one")
                done = await connection.fetchrow(
                    _REPLACE,
                    agent,
                    row["device_api_key_hash"],
                    row["issued_at"],
                    timedelta(seconds=grace_s if is_current else 0),
                    reason,
                    origin.address,
                )
                assert done is not None  # INSERT … RETURNING
                await connection.execute(_SET, agent, new_hash)
                until = until or done["valid_until"]
                entry = Entry(
                    event_type="agent.key_rotated",
                    subject=f"agent/{agent}",
                    agent=agent,
                    after={"reason": reason, "old_valid_until": until},
                )
                await journal.record(connection, origin, entry)
                return Replaced(rotated_at=done["rotated_at"], old_valid_until=until)

    async def status(self, tenant: str, agent: UUID) -> Row | None:
        """When the key was made and rotated."""
        with unavailable("read the state of a key"):
            return await self._pool.fetchrow(_STATUS, agent, tenant)

    async def history(self, tenant: str, agent: UUID, *, limit: int) -> list[Row]:
        """Rotations, newest first."""
        with unavailable("read the rotations of a key"):
            return await self._pool.fetch(_HISTORY, agent, tenant, limit)
