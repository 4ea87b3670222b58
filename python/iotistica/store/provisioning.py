"""Provisioning keys: what lets agents into a fleet (reference section 5.2)."""

from __future__ import annotations

from datetime import datetime, timedelta
from uuid import UUID

from iotistica.errors import NotFound
from iotistica.store import journal
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Connection, MissingReference, Pool, Row, unavailable

_ADD = """
INSERT INTO provisioning_keys
    (tenant_id, fleet_uuid, key_hash, key_hash_fast, description, max_agents, expires_at,
     created_by)
VALUES ($1, $2, $3, $4, $5, $6, now() + $7, $8)
RETURNING id, expires_at
"""
_LIST = """
SELECT id::text, fleet_uuid::text, description, max_agents, agents_provisioned, expires_at,
       is_active AND expires_at > now() AS is_active, created_at, created_by, last_used_at,
       revoked_at, revoked_reason
FROM provisioning_keys
WHERE tenant_id = $1 AND ($2::uuid IS NULL OR fleet_uuid = $2)
  AND ($3::timestamptz IS NULL OR (created_at, id) < ($3, $4::uuid))
ORDER BY created_at DESC, id DESC
LIMIT $5
"""
_REVOKE = """
UPDATE provisioning_keys
SET is_active = false, revoked_at = coalesce(revoked_at, now()),
    revoked_reason = coalesce(revoked_reason, $3)
WHERE tenant_id = $1 AND id = $2
RETURNING id
"""


class ProvisioningKeyStore:
    """Provisioning keys, as digests. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def add(
        self,
        origin: Origin,
        *,
        fleet: UUID,
        key_hash: str,
        description: str,
        max_agents: int,
        expires_days: int,
        replaces: UUID | None = None,
    ) -> tuple[UUID, datetime]:
        """Keep a key; its id, and when it expires. Raises `NotFound` for fleet or former key."""
        with unavailable("make a provisioning key"):
            async with self._pool.acquire() as connection, connection.transaction():
                if replaces is not None:
                    await self._revoke(connection, origin, replaces, "replaced")
                try:
                    row = await connection.fetchrow(
                        _ADD,
                        origin.tenant,
                        fleet,
                        key_hash,
                        key_hash.rpartition("$")[2],
                        description,
                        max_agents,
                        timedelta(days=expires_days),
                        origin.name or origin.id,
                    )
                except MissingReference:
                    raise NotFound(f"fleet {fleet} does not exist") from None
                assert row is not None  # INSERT … RETURNING
                after = {"fleet": fleet, "max_agents": max_agents, "expires_at": row["expires_at"]}
                entry = Entry(
                    event_type="provisioning_key.created",
                    subject=f"provisioning-key/{row['id']}",
                    after=after,
                )
                await journal.record(connection, origin, entry)
        return row["id"], row["expires_at"]

    async def listed(
        self,
        tenant: str,
        *,
        fleet: UUID | None,
        limit: int,
        before: tuple[datetime, UUID] | None,
    ) -> list[Row]:
        """Keys, newest first."""
        moment, key = before or (None, None)
        with unavailable("list provisioning keys"):
            return await self._pool.fetch(_LIST, tenant, fleet, moment, key, limit)

    async def revoke(self, origin: Origin, key: UUID, reason: str) -> None:
        """Let nobody in by this key any more. Raises `NotFound`."""
        with unavailable("revoke a provisioning key"):
            async with self._pool.acquire() as connection, connection.transaction():
                await self._revoke(connection, origin, key, reason)

    async def _revoke(self, connection: Connection, origin: Origin, key: UUID, reason: str) -> None:
        if await connection.fetchval(_REVOKE, origin.tenant, key, reason) is None:
            raise NotFound(f"provisioning key {key} does not exist")
        entry = Entry(
            event_type="provisioning_key.revoked",
            subject=f"provisioning-key/{key}",
            after={"reason": reason},
        )
        await journal.record(connection, origin, entry)
