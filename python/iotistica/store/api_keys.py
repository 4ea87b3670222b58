"""Keys of services. What is stored of a key is its digest."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from iotistica.errors import Conflict, NotFound
from iotistica.store.journal import Entry, Origin, record
from iotistica.store.pool import DuplicateKey, Pool, unavailable

_FIND = """
SELECT * FROM api_keys
WHERE key_hash = $1 AND revoked_at IS NULL AND (expires_at IS NULL OR expires_at > now())
"""
_PAGE = """
SELECT * FROM api_keys WHERE tenant_id = $1 AND id > $2 AND revoked_at IS NULL
ORDER BY id
LIMIT $3
"""
_CREATE = """
INSERT INTO api_keys (tenant_id, name, description, key_hash, key_prefix, permissions, created_by,
                      expires_at)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
RETURNING *
"""
_REVOKE = """
UPDATE api_keys SET revoked_at = now()
WHERE tenant_id = $1 AND id = $2 AND revoked_at IS NULL
RETURNING *
"""
_USED = "UPDATE api_keys SET last_used_at = now() WHERE id = ANY ($1::bigint[])"


@dataclass(frozen=True, slots=True, kw_only=True)
class ApiKey:
    """A key as stored."""

    id: int
    tenant: str
    name: str
    description: str
    key_prefix: str
    permissions: Sequence[str]
    created_by: int | None
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewApiKey:
    """A key to be stored."""

    name: str
    description: str
    digest: bytes
    key_prefix: str
    permissions: Sequence[str]
    created_by: int | None
    expires_at: datetime | None


class ApiKeyStore:
    """Keys. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def find(self, digest: bytes) -> ApiKey | None:
        """The valid key with this digest, of whichever tenant."""
        with unavailable("look up an API key"):
            row = await self._pool.fetchrow(_FIND, digest)
        return None if row is None else _key(row)

    async def page(self, tenant: str, *, above: int, limit: int) -> list[ApiKey]:
        """At most `limit` keys with a greater id, in its order."""
        with unavailable("list the API keys"):
            return [_key(row) for row in await self._pool.fetch(_PAGE, tenant, above, limit)]

    async def create(self, origin: Origin, new: NewApiKey) -> ApiKey:
        """Store a key. Raises `Conflict` for a name that is taken."""
        with unavailable("store an API key"):
            async with self._pool.acquire() as connection, connection.transaction():
                try:
                    row = await connection.fetchrow(
                        _CREATE,
                        origin.tenant,
                        new.name,
                        new.description,
                        new.digest,
                        new.key_prefix,
                        new.permissions,
                        new.created_by,
                        new.expires_at,
                    )
                except DuplicateKey:
                    raise Conflict(f"an API key named {new.name!r} exists") from None
                key = _key(row)
                entry = _entry("api_key.created", key, after=_shown(key))
                await record(connection, origin, entry)
        return key

    async def revoke(self, origin: Origin, key: int) -> ApiKey:
        """End a key. Raises `NotFound`."""
        with unavailable("revoke an API key"):
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(_REVOKE, origin.tenant, key)
                if row is None:
                    raise NotFound(f"API key {key} does not exist")
                found = _key(row)
                entry = _entry("api_key.revoked", found, before=_shown(found))
                await record(connection, origin, entry)
        return found

    async def note_use(self, keys: Collection[int]) -> None:
        """Note that keys were used just now."""
        with unavailable("note the use of API keys"):
            await self._pool.execute(_USED, list(keys))


def _entry(event: str, key: ApiKey, **states: Any) -> Entry:
    return Entry(event_type=event, subject=f"api_key/{key.id}", **states)


def _shown(key: ApiKey) -> dict[str, Any]:
    return {
        "name": key.name,
        "description": key.description,
        "permissions": list(key.permissions),
        "expiresAt": key.expires_at,
    }


def _key(row: Any) -> ApiKey:
    return ApiKey(
        id=row["id"],
        tenant=row["tenant_id"],
        name=row["name"],
        description=row["description"],
        key_prefix=row["key_prefix"],
        permissions=row["permissions"],
        created_by=row["created_by"],
        created_at=row["created_at"],
        expires_at=row["expires_at"],
        last_used_at=row["last_used_at"],
    )
