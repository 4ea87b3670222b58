"""Tags of agents: which there are, and which a tenant means to use."""

from __future__ import annotations

from collections.abc import Sequence

from iotistica.errors import NotFound
from iotistica.store import journal
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import Pool, Row, unavailable

_KEYS = """
SELECT key, count(*) AS agents, count(DISTINCT value) AS values
FROM agent_tags
WHERE tenant_id = $1 AND ($2::text IS NULL OR key > $2)
GROUP BY key
ORDER BY key
LIMIT $3
"""
_VALUES = """
SELECT value, count(*) AS agents
FROM agent_tags
WHERE tenant_id = $1 AND key = $2 AND ($3::text IS NULL OR value > $3)
GROUP BY value
ORDER BY value
LIMIT $4
"""
_DEFINITIONS = """
SELECT key, description, allowed_values, created_at, updated_at
FROM tag_definitions
WHERE tenant_id = $1 AND ($2::text IS NULL OR key > $2)
ORDER BY key
LIMIT $3
"""
_DEFINE = """
INSERT INTO tag_definitions (tenant_id, key, description, allowed_values) VALUES ($1, $2, $3, $4)
ON CONFLICT (tenant_id, key) DO UPDATE
SET description = excluded.description, allowed_values = excluded.allowed_values,
    updated_at = now()
RETURNING key, description, allowed_values, created_at, updated_at
"""
_UNDEFINE = "DELETE FROM tag_definitions WHERE tenant_id = $1 AND key = $2 RETURNING key"
_ALLOWED = """
SELECT key, allowed_values FROM tag_definitions
WHERE tenant_id = $1 AND key = ANY ($2::text[]) AND allowed_values IS NOT NULL
"""


class TagStore:
    """Tags over all agents of a tenant. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def keys(self, tenant: str, *, limit: int, after: str | None) -> list[Row]:
        """Keys in use, with how many agents have them and how many values there are."""
        with unavailable("list the keys of tags"):
            return await self._pool.fetch(_KEYS, tenant, after, limit)

    async def values(self, tenant: str, key: str, *, limit: int, after: str | None) -> list[Row]:
        """Values of one key, with how many agents have them."""
        with unavailable("list the values of a tag"):
            return await self._pool.fetch(_VALUES, tenant, key, after, limit)

    async def definitions(self, tenant: str, *, limit: int, after: str | None) -> list[Row]:
        """Tags that the tenant means to use."""
        with unavailable("list definitions of tags"):
            return await self._pool.fetch(_DEFINITIONS, tenant, after, limit)

    async def define(
        self, origin: Origin, key: str, *, description: str, allowed: Sequence[str] | None
    ) -> Row:
        """Make or replace a definition."""
        with unavailable("define a tag"):
            async with self._pool.acquire() as connection, connection.transaction():
                made = await connection.fetchrow(_DEFINE, origin.tenant, key, description, allowed)
                assert made is not None  # INSERT … RETURNING
                after = {"description": description, "allowed_values": allowed}
                entry = Entry(event_type="tag.defined", subject=f"tag/{key}", after=after)
                await journal.record(connection, origin, entry)
        return made

    async def undefine(self, origin: Origin, key: str) -> None:
        """Remove a definition; tags of agents stay. Raises `NotFound`."""
        with unavailable("remove a definition"):
            async with self._pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(_UNDEFINE, origin.tenant, key) is None:
                    raise NotFound(f"tag {key[:64]} is not defined")
                entry = Entry(event_type="tag.undefined", subject=f"tag/{key}")
                await journal.record(connection, origin, entry)

    async def allowed(self, tenant: str, keys: Sequence[str]) -> dict[str, Sequence[str]]:
        """The values that those of `keys` may have that are bound to some."""
        with unavailable("read definitions of tags"):
            rows = await self._pool.fetch(_ALLOWED, tenant, keys)
        return {row["key"]: row["allowed_values"] for row in rows}
