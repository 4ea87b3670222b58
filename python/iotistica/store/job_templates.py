"""Templates of jobs: documents to run again."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import orjson

from iotistica.errors import Conflict, NotFound
from iotistica.store import journal
from iotistica.store.journal import Entry, Origin
from iotistica.store.pool import DuplicateKey, Pool, Row, unavailable

_GET = """
SELECT id, name, description, job_document, created_by, created_at, updated_at
FROM job_templates
WHERE tenant_id = $1 AND id = $2
"""
_LIST = """
SELECT id, name, description, job_document, created_by, created_at, updated_at
FROM job_templates
WHERE tenant_id = $1 AND ($2::text IS NULL OR name > $2)
ORDER BY name
LIMIT $3
"""
_LOCK = f"{_GET} FOR UPDATE"
_ADD = """
INSERT INTO job_templates (tenant_id, name, description, job_document, created_by)
VALUES ($1, $2, $3, $4, $5)
RETURNING id
"""
_CHANGE = """
UPDATE job_templates SET name = $3, description = $4, job_document = $5, updated_at = now()
WHERE tenant_id = $1 AND id = $2
"""
_REMOVE = "DELETE FROM job_templates WHERE tenant_id = $1 AND id = $2 RETURNING name"


class JobTemplates:
    """Templates. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def listed(self, tenant: str, *, after: str | None, limit: int) -> list[dict[str, Any]]:
        """Templates by name, after a name."""
        with unavailable("list job templates"):
            return [_decoded(row) for row in await self._pool.fetch(_LIST, tenant, after, limit)]

    async def get(self, tenant: str, template: int) -> dict[str, Any]:
        """One template. Raises `NotFound`."""
        with unavailable("read a job template"):
            row = await self._pool.fetchrow(_GET, tenant, template)
        if row is None:
            raise missing(template)
        return _decoded(row)

    async def add(
        self, origin: Origin, *, name: str, description: str, document: str
    ) -> dict[str, Any]:
        """Keep a template; `document` is JSON. Raises `Conflict` for a name that is taken."""
        with unavailable("keep a job template"):
            async with self._pool.acquire() as connection, connection.transaction():
                try:
                    template = await connection.fetchval(
                        _ADD, origin.tenant, name, description, document, origin.name or origin.id
                    )
                except DuplicateKey:
                    raise _taken(name) from None
                row = await connection.fetchrow(_GET, origin.tenant, template)
                assert row is not None
                after = {"name": name, "description": description}
                entry = _entry("created", template, after=after)
                await journal.record(connection, origin, entry)
        return _decoded(row)

    async def change(
        self, origin: Origin, template: int, changes: Mapping[str, Any]
    ) -> dict[str, Any]:
        """Change `name`, `description`, `job_document` (JSON). Raises `NotFound`, `Conflict`."""
        with unavailable("change a job template"):
            async with self._pool.acquire() as connection, connection.transaction():
                before = await connection.fetchrow(_LOCK, origin.tenant, template)
                if before is None:
                    raise missing(template)
                values = {**before, **changes}
                written = (values[name] for name in ("name", "description", "job_document"))
                try:
                    await connection.execute(_CHANGE, origin.tenant, template, *written)
                except DuplicateKey:
                    raise _taken(values["name"]) from None
                entry = _entry(
                    "changed",
                    template,
                    before={name: before[name] for name in changes},
                    after=dict(changes),
                )
                await journal.record(connection, origin, entry)
                row = await connection.fetchrow(_GET, origin.tenant, template)
        return _decoded(row) if row is not None else {}

    async def remove(self, origin: Origin, template: int) -> None:
        """Forget a template; executions keep their documents. Raises `NotFound`."""
        with unavailable("remove a job template"):
            async with self._pool.acquire() as connection, connection.transaction():
                name = await connection.fetchval(_REMOVE, origin.tenant, template)
                if name is None:
                    raise missing(template)
                entry = _entry("deleted", template, before={"name": name})
                await journal.record(connection, origin, entry)


def missing(template: int) -> NotFound:
    """The error for a template that is not there."""
    return NotFound(f"job template {template} does not exist")


def _taken(name: str) -> Conflict:
    return Conflict(f"name is {name[:64]!r}; a job template of that name exists")


def _entry(what: str, template: int, **values: Mapping[str, Any]) -> Entry:
    return Entry(event_type=f"job_template.{what}", subject=f"job_template/{template}", **values)  # type: ignore[arg-type]


def _decoded(row: Row) -> dict[str, Any]:
    return {**row, "job_document": orjson.loads(row["job_document"])}
