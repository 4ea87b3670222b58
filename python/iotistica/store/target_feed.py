"""What polls are answered with, and which of these answers have changed."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

import msgspec

from iotistica.errors import NotFound
from iotistica.store import journal
from iotistica.store.changes import Changes, changes_since, statement
from iotistica.store.pool import Pool, unavailable
from iotistica.targets.state import (
    EMPTY,
    NOTHING_ETAG,
    NOTHING_TAIL,
    Content,
    etag_of,
    head,
    tail,
)

_ANSWER = """
SELECT t.served_etag, t.served_body, d.etag AS default_etag, d.served_tail
FROM agents AS a
LEFT JOIN agent_target_state AS t ON t.agent_uuid = a.uuid
LEFT JOIN tenant_target_state AS d ON d.tenant_id = a.tenant_id
WHERE a.uuid = $1 AND a.tenant_id = $2
"""
_CHANGES = statement(agents="agent_target_state", tenants="tenant_target_state")
_DEFAULT = "SELECT apps, config, version, etag FROM tenant_target_state WHERE tenant_id = $1"
_LOCK_TENANT = "SELECT id FROM tenants WHERE id = $1 FOR NO KEY UPDATE"
_WRITE_DEFAULT = """
INSERT INTO tenant_target_state AS d
    (tenant_id, apps, config, version, etag, served_tail, updated_by)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT (tenant_id) DO UPDATE
SET apps = excluded.apps, config = excluded.config, version = excluded.version,
    etag = excluded.etag, served_tail = excluded.served_tail, updated_by = excluded.updated_by,
    updated_at = now(), changed_by_transaction = pg_current_xact_id()
"""


@dataclass(frozen=True, slots=True)
class Answer:
    """What a poll is answered with."""

    etag: str
    body: bytes
    is_default: bool
    """Whether it changes with the tenant's default."""


@dataclass(frozen=True, slots=True)
class Default:
    """The target state of agents that have none of their own."""

    content: Content
    version: int
    etag: str


class TargetFeed:
    """Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def answer(self, tenant: str, agent: str) -> Answer:
        """What an agent gets now. Raises `NotFound`."""
        with unavailable("read a target state"):
            row = await self._pool.fetchrow(_ANSWER, UUID(agent), tenant)
        if row is None:
            raise NotFound(f"agent {agent} does not exist")
        if row["served_etag"] is not None:
            return Answer(row["served_etag"], row["served_body"], is_default=False)
        if row["default_etag"] is not None:
            return Answer(row["default_etag"], head(agent) + row["served_tail"], is_default=True)
        return Answer(NOTHING_ETAG, head(agent) + NOTHING_TAIL, is_default=True)

    async def changes(self, mark: str) -> Changes:
        """What changed since; one look at two indexes."""
        return await changes_since(self._pool, _CHANGES, mark, "look for changed target states")

    async def default(self, tenant: str) -> Default:
        """The default of a tenant."""
        with unavailable("read the default target state"):
            row = await self._pool.fetchrow(_DEFAULT, tenant)
        if row is None:
            return Default(EMPTY, 0, NOTHING_ETAG)
        decode = msgspec.json.decode
        return Default(
            Content(decode(row["apps"]), decode(row["config"])), row["version"], row["etag"]
        )

    async def set_default(
        self,
        origin: journal.Origin,
        content: Content,
        *,
        served: Content,
        author: str,
        now: datetime,
    ) -> Default:
        """Give agents without a target state another default; its next version.

        Raises `NotFound`.
        """
        with unavailable("write the default target state"):
            async with self._pool.acquire() as connection, connection.transaction():
                if await connection.fetchval(_LOCK_TENANT, origin.tenant) is None:
                    raise NotFound(f"tenant {origin.tenant} does not exist")
                before = await connection.fetchrow(_DEFAULT, origin.tenant)
                version = 1 if before is None else before["version"] + 1
                etag = etag_of(version, content)
                await connection.execute(
                    _WRITE_DEFAULT,
                    origin.tenant,
                    msgspec.json.encode(content.apps).decode(),
                    msgspec.json.encode(content.config).decode(),
                    version,
                    etag,
                    tail(served, version=version, deployed_at=now),
                    author,
                )
                entry = journal.Entry(
                    event_type="target_state.default_updated",
                    subject=f"tenant/{origin.tenant}",
                    before={"version": version - 1},
                    after={"version": version, "etag": etag},
                )
                await journal.record(connection, origin, entry)
        return Default(content, version, etag)
