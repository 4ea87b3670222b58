"""Which tenants there are, and what they may send."""

from __future__ import annotations

import secrets

from iotistica.errors import BadRequest, NotFound
from iotistica.quotas import Quota
from iotistica.store.pool import BrokenRule, Pool, affected, unavailable

_ENSURE = "INSERT INTO tenants (id, name) VALUES ($1, $1) ON CONFLICT (id) DO NOTHING"
_IDS = "SELECT id FROM tenants"
_IS_ONE = "SELECT id FROM tenants WHERE id = $1"
_QUOTAS = """
SELECT id, quota_messages_per_s AS messages_per_s, quota_readings_per_s AS readings_per_s,
       quota_bytes_per_s AS bytes_per_s, quota_stored_readings AS stored_readings
FROM tenants
WHERE num_nonnulls(quota_messages_per_s, quota_readings_per_s, quota_bytes_per_s,
                   quota_stored_readings) > 0
"""
_SET_QUOTA = """
UPDATE tenants
SET quota_messages_per_s = $2, quota_readings_per_s = $3, quota_bytes_per_s = $4,
    quota_stored_readings = $5
WHERE id = $1
"""


async def tenant_ids(pool: Pool) -> set[str]:
    """Ids of all tenants. Raises `StoreUnavailable`."""
    with unavailable("list the tenants"):
        return {row["id"] for row in await pool.fetch(_IDS)}


async def known_tenant(pool: Pool, tenant: str) -> str | None:
    """The tenant where it exists. Raises `StoreUnavailable`."""
    with unavailable("look up a tenant"):
        found: str | None = await pool.fetchval(_IS_ONE, tenant.replace("\0", ""))
    return found


async def tenant_of_first_user(pool: Pool, wanted: str | None) -> str:
    """The tenant that is meant, made where it is missing: the only one, where none is named.

    Raises `BadRequest` for an id that topics cannot hold and where several could be meant, and
    `StoreUnavailable`.
    """
    if wanted is None:
        known = await tenant_ids(pool)
        if len(known) > 1:
            raise BadRequest(f"there are {len(known)} tenants; say which one is meant")
        wanted = next(iter(known), secrets.token_hex(6))
    with unavailable("make a tenant"):
        try:
            await pool.execute(_ENSURE, wanted)
        except BrokenRule:
            raise BadRequest(
                f"tenant {wanted!r} cannot be in a topic: use 12 lower-case hex digits"
            ) from None
    return wanted


async def tenant_quotas(pool: Pool) -> dict[str, Quota]:
    """Quotas of the tenants that have one of their own. Raises `StoreUnavailable`."""
    with unavailable("read the quotas"):
        rows = await pool.fetch(_QUOTAS)
    return {
        row["id"]: Quota(
            messages_per_s=row["messages_per_s"],
            readings_per_s=row["readings_per_s"],
            bytes_per_s=row["bytes_per_s"],
            stored_readings=row["stored_readings"],
        )
        for row in rows
    }


async def set_quota(pool: Pool, tenant: str, quota: Quota) -> None:
    """Give a tenant a quota. Raises `StoreUnavailable`, `NotFound`."""
    with unavailable("set a quota"):
        done = await pool.execute(
            _SET_QUOTA,
            tenant,
            quota.messages_per_s,
            quota.readings_per_s,
            quota.bytes_per_s,
            quota.stored_readings,
        )
    if not affected(done):
        raise NotFound(f"tenant {tenant} does not exist")
