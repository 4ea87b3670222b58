"""Tenants, and the agents that belong to them."""

from __future__ import annotations

from collections.abc import Sequence

from iotistica.store.pool import Pool, unavailable

_ENSURE_TENANT = "INSERT INTO tenants (id, name) VALUES ($1, $2) ON CONFLICT (id) DO NOTHING"
_ADD_AGENTS = """
INSERT INTO agents (uuid, tenant_id, name)
SELECT uuid, $1, name FROM unnest($2::uuid[], $3::text[]) AS new (uuid, name)
ON CONFLICT (uuid) DO NOTHING
"""
_AGENTS_OF = "SELECT uuid::text FROM agents WHERE tenant_id = $1 AND uuid = ANY ($2::uuid[])"
_TENANT_OF = "SELECT tenant_id FROM agents WHERE uuid = $1::text::uuid"


class AgentStore:
    """Identity of tenants and agents. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def ensure_tenant(self, tenant: str, name: str | None = None) -> None:
        """Create the tenant where it is missing."""
        with unavailable("create a tenant"):
            await self._pool.execute(_ENSURE_TENANT, tenant, name or tenant)

    async def add_agents(self, tenant: str, agents: Sequence[tuple[str, str]]) -> None:
        """Register `(uuid, name)` pairs; an agent that exists stays with the tenant it has."""
        uuids, names = [uuid for uuid, _ in agents], [name for _, name in agents]
        with unavailable("register agents"):
            await self._pool.execute(_ADD_AGENTS, tenant, uuids, names)

    async def agents_of(self, tenant: str, uuids: Sequence[str]) -> list[str]:
        """Those of `uuids` that belong to the tenant."""
        with unavailable("look up agents"):
            return [row["uuid"] for row in await self._pool.fetch(_AGENTS_OF, tenant, uuids)]

    async def tenant_of(self, agent: str) -> str | None:
        """The tenant that an agent belongs to."""
        with unavailable("look up an agent"):
            tenant: str | None = await self._pool.fetchval(_TENANT_OF, agent)
            return tenant
