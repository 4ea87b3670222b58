"""Handlers of jobs: named scripts that documents speak of (reference section 7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from iotistica.errors import Conflict, NotFound
from iotistica.store import journal
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import DuplicateKey, Pool, Row, unavailable

_COLUMNS = """
SELECT id, name, description, script_type, script_content, default_args, created_by, created_at,
       updated_at
FROM job_handlers
"""
_GET = f"{_COLUMNS} WHERE tenant_id = $1 AND id = $2"
_LIST = f"""
{_COLUMNS}
WHERE tenant_id = $1 AND ($2::text IS NULL OR name > $2)
ORDER BY name
LIMIT $3
"""
_LOCK = f"{_GET} FOR UPDATE"
_ADD = """
INSERT INTO job_handlers
    (tenant_id, name, description, script_type, script_content, default_args, created_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING id
"""
_CHANGE = """
UPDATE job_handlers
SET name = $3, description = $4, script_type = $5, script_content = $6, default_args = $7,
    updated_at = now()
WHERE tenant_id = $1 AND id = $2
"""
_REMOVE = "DELETE FROM job_handlers WHERE tenant_id = $1 AND id = $2 RETURNING name"

CHANGEABLE = ("name", "description", "script_type", "script_content", "default_args")


class JobHandlers:
    """Handlers. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def listed(self, tenant: str, *, after: str | None, limit: int) -> list[dict[str, Any]]:
        """Handlers by name, after a name."""
        with unavailable("list job handlers"):
            return [_decoded(row) for row in await self._pool.fetch(_LIST, tenant, after, limit)]

    async def get(self, tenant: str, handler: int) -> dict[str, Any]:
        """One handler. Raises `NotFound`."""
        with unavailable("read a job handler"):
            row = await self._pool.fetchrow(_GET, tenant, handler)
        if row is None:
            raise _missing(handler)
        return _decoded(row)

    async def add(self, origin: Origin, values: Mapping[str, Any]) -> dict[str, Any]:
        """Keep a handler; `values` has all that may be changed. Raises `Conflict` for a name that
        is taken."""
        with unavailable("keep a job handler"):
            async with self._pool.acquire() as connection, connection.transaction():
                try:
                    handler = await connection.fetchval(
                        _ADD, origin.tenant, *_written(values), origin.name or origin.id
                    )
                except DuplicateKey:
                    raise _taken(values["name"]) from None
                entry = _entry("created", handler, after=dict(values))
                await journal.record(connection, origin, entry)
        return await self.get(origin.tenant, handler)

    async def change(
        self, origin: Origin, handler: int, changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Change what is given. Raises `NotFound`, `Conflict`."""
        with unavailable("change a job handler"):
            async with self._pool.acquire() as connection, connection.transaction():
                row = await connection.fetchrow(_LOCK, origin.tenant, handler)
                if row is None:
                    raise _missing(handler)
                before = _decoded(row)
                after = {**before, **changes}
                try:
                    await connection.execute(_CHANGE, origin.tenant, handler, *_written(after))
                except DuplicateKey:
                    raise _taken(after["name"]) from None
                entry = _entry(
                    "changed",
                    handler,
                    before={name: before[name] for name in changes},
                    after=dict(changes),
                )
                await journal.record(connection, origin, entry)
        return await self.get(origin.tenant, handler)

    async def remove(self, origin: Origin, handler: int) -> None:
        """Forget a handler. Raises `NotFound`."""
        with unavailable("remove a job handler"):
            async with self._pool.acquire() as connection, connection.transaction():
                name = await connection.fetchval(_REMOVE, origin.tenant, handler)
                if name is None:
                    raise _missing(handler)
                entry = _entry("deleted", handler, before={"name": name})
                await journal.record(connection, origin, entry)


def _written(values: Mapping[str, Any]) -> list[Any]:
    found = [values[name] for name in CHANGEABLE]
    return [*found[:-1], orjson.dumps(found[-1]).decode()]


def _missing(handler: int) -> NotFound:
    return NotFound(f"job handler {handler} does not exist")


def _taken(name: str) -> Conflict:
    return Conflict(f"name is {name[:64]!r}; a job handler of that name exists")


def _entry(what: str, handler: int, **values: Mapping[str, Any]) -> Entry:
    return Entry(event_type=f"job_handler.{what}", subject=f"job_handler/{handler}", **values)  # type: ignore[arg-type]


def _decoded(row: Row) -> dict[str, Any]:
    return {**row, "default_args": orjson.loads(row["default_args"])}
