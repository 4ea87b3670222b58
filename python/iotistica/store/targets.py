"""Target states of agents: the present one, and all that there were."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, TypeAlias
from uuid import UUID

import msgspec

from iotistica.errors import NotFound
from iotistica.store import journal
from iotistica.store.pool import Connection, Pool, unavailable
from iotistica.targets.edits import Draft, Edit, State
from iotistica.targets.processing import Signer, processed
from iotistica.targets.state import EMPTY, NOTHING_ETAG, Content, Served, etag_of, serve

_STATES = """
SELECT a.uuid, t.version, t.etag, t.needs_deployment, t.is_own, t.served_version, t.served_etag,
       t.served_body, t.served_apps, t.served_config, t.last_deployed_at, t.deployed_by,
       t.updated_at,
       CASE WHEN t.is_own THEN t.apps ELSE d.apps END AS apps,
       CASE WHEN t.is_own THEN t.config ELSE d.config END AS config
FROM agents AS a
LEFT JOIN agent_target_state AS t ON t.agent_uuid = a.uuid
LEFT JOIN tenant_target_state AS d ON d.tenant_id = a.tenant_id
WHERE a.tenant_id = $1 AND a.uuid = ANY ($2::uuid[])
ORDER BY a.uuid
"""
# Writers of one agent wait for each other here, also where there is no target state yet.
_LOCK = """
SELECT FROM agents WHERE tenant_id = $1 AND uuid = ANY ($2::uuid[]) ORDER BY uuid
FOR NO KEY UPDATE
"""
_WRITE = """
INSERT INTO agent_target_state AS t
    (agent_uuid, apps, config, version, etag, needs_deployment, is_own, served_version,
     served_etag, served_body, served_apps, served_config, last_deployed_at, deployed_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14)
ON CONFLICT (agent_uuid) DO UPDATE
SET apps = excluded.apps, config = excluded.config, version = excluded.version,
    etag = excluded.etag, needs_deployment = excluded.needs_deployment, is_own = excluded.is_own,
    served_version = excluded.served_version, served_etag = excluded.served_etag,
    served_body = excluded.served_body, served_apps = excluded.served_apps,
    served_config = excluded.served_config, last_deployed_at = excluded.last_deployed_at,
    deployed_by = excluded.deployed_by, updated_at = now(),
    changed_by_transaction = pg_current_xact_id()
"""
_REMEMBER = """
INSERT INTO agent_target_state_history
    (agent_uuid, version, apps, config, etag, deployed, action, reason, changed_by)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9)
"""
_FORGET = "DELETE FROM agent_target_state_history WHERE agent_uuid = $1 AND version <= $2"
_VERSIONS = """
SELECT h.version, h.etag, h.deployed, h.action, h.reason, h.changed_by, h.changed_at
FROM agent_target_state_history AS h
JOIN agents AS a ON a.uuid = h.agent_uuid
WHERE a.tenant_id = $1 AND h.agent_uuid = $2 AND ($3::integer IS NULL OR h.version < $3)
ORDER BY h.version DESC
LIMIT $4
"""
_VERSION = """
SELECT h.apps, h.config
FROM agent_target_state_history AS h
JOIN agents AS a ON a.uuid = h.agent_uuid
WHERE a.tenant_id = $1 AND h.agent_uuid = $2 AND h.version = $3
"""
_AT = """
SELECT h.*, a.created_at AS since,
       (SELECT max(s.version) FROM agent_target_state_history AS s
        WHERE s.agent_uuid = a.uuid AND s.deployed AND s.version <= h.version) AS served_version,
       coalesce((SELECT min(s.version) FROM agent_target_state_history AS s
                 WHERE s.agent_uuid = a.uuid), 1) = 1 AS is_whole
FROM agents AS a
LEFT JOIN LATERAL (
    SELECT * FROM agent_target_state_history
    WHERE agent_uuid = a.uuid AND changed_at <= $3
    ORDER BY version DESC
    LIMIT 1
) AS h ON true
WHERE a.tenant_id = $1 AND a.uuid = $2
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Author:
    """Who makes a change, and why."""

    origin: journal.Origin
    reason: str = ""

    @property
    def name(self) -> str:
        """As the history shows it."""
        return self.origin.name or f"{self.origin.kind} {self.origin.id}"


@dataclass(frozen=True, slots=True)
class Changed:
    """What became of one agent's target state."""

    agent: UUID
    before: State
    after: State

    @property
    def is_changed(self) -> bool:
        """Whether there is a new version."""
        return self.before is not self.after

    @property
    def is_served(self) -> bool:
        """Whether polls of the agent are answered otherwise from now on."""
        return self.before.served != self.after.served


EditOf: TypeAlias = Callable[[UUID, State], Edit]
"""Chooses the edit of one agent. Raises what refuses the whole change."""


@dataclass(frozen=True, slots=True)
class TargetStore:
    """Every method raises `StoreUnavailable`, and `NotFound` for what is not the tenant's."""

    pool: Pool
    signer: Signer = field(default_factory=lambda: Signer(None))
    versions: int = 500
    """Kept of each agent's history."""
    clock: Callable[[], datetime] = field(default=lambda: datetime.now(UTC))

    async def state(self, tenant: str, agent: UUID) -> State:
        """The target state of an agent."""
        with unavailable("read a target state"):
            rows = await self.pool.fetch(_STATES, tenant, [agent])
        if not rows:
            raise NotFound(f"agent {agent} does not exist")
        return _state(rows[0])

    async def change(self, author: Author, agent: UUID, edit_of: EditOf) -> Changed:
        """Make the next version of one agent's target state, or none where the edit makes none."""
        (changed,) = await self.change_many(author, [agent], edit_of)
        return changed

    async def change_many(
        self, author: Author, agents: Sequence[UUID], edit_of: EditOf
    ) -> list[Changed]:
        """The same for several agents: all or none."""
        with unavailable("write target states"):
            async with self.pool.acquire() as connection, connection.transaction():
                which = (author.origin.tenant, list(agents))
                await connection.execute(_LOCK, *which)
                rows = await connection.fetch(_STATES, *which)
                if len(rows) != len(agents):
                    found = {row["uuid"] for row in rows}
                    missing = next(agent for agent in agents if agent not in found)
                    raise NotFound(f"agent {missing} does not exist")
                changes = [self._changed(author, row, edit_of) for row in rows]
                await self._write(connection, author, changes)
        return [changed for changed, _ in changes]

    def _changed(self, author: Author, row: Any, edit_of: EditOf) -> tuple[Changed, Draft | None]:
        agent, before = UUID(str(row["uuid"])), _state(row)
        draft = edit_of(agent, before)(before)
        if draft is None:
            return Changed(agent, before, before), None
        return Changed(agent, before, self._next(author, agent, before, draft)), draft

    def _next(self, author: Author, agent: UUID, before: State, draft: Draft) -> State:
        content, version, now = processed(agent, draft.content), before.version + 1, self.clock()
        served, served_content = before.served, before.served_content
        deployed_at, deployed_by = before.last_deployed_at, before.deployed_by
        etag = etag_of(version, content)
        if not draft.is_own:
            served = served_content = None
        elif draft.deployed is not None:
            # Processing makes new salts, so what is served whole must be what is kept.
            whole = draft.deployed is draft.content
            served_content = content if whole else processed(agent, draft.deployed)
            deployed_at, deployed_by = now, author.name
            served = serve(
                agent,
                self.signer.sign(served_content, now=now),
                etag=etag_of(version, served_content),
                version=version,
                deployed_at=now,
            )
        return State(
            content=content,
            version=version,
            etag=etag,
            needs_deployment=draft.needs_deployment,
            is_own=draft.is_own,
            served=served,
            served_content=served_content,
            last_deployed_at=deployed_at,
            deployed_by=deployed_by,
            updated_at=now,
        )

    async def _write(
        self,
        connection: Connection,
        author: Author,
        changes: Sequence[tuple[Changed, Draft | None]],
    ) -> None:
        made = [(changed, draft) for changed, draft in changes if draft is not None]
        if not made:
            return
        await connection.executemany(_WRITE, [_row(changed) for changed, _ in made])
        await connection.executemany(
            _REMEMBER, [_history_row(author, changed, draft) for changed, draft in made]
        )
        await connection.executemany(
            _FORGET,
            [(changed.agent, changed.after.version - self.versions) for changed, _ in made],
        )
        await journal.record(
            connection, author.origin, *(_entry(changed, draft) for changed, draft in made)
        )

    async def history(
        self, tenant: str, agent: UUID, *, below: int | None, limit: int
    ) -> Sequence[Any]:
        """At most `limit` versions, newest first, without their contents."""
        await self.state(tenant, agent)
        with unavailable("read the history of a target state"):
            return await self.pool.fetch(_VERSIONS, tenant, agent, below, limit)

    async def version(self, tenant: str, agent: UUID, version: int) -> Content:
        """What a version said."""
        with unavailable("read a version of a target state"):
            row = await self.pool.fetchrow(_VERSION, tenant, agent, version)
        if row is None:
            raise NotFound(f"agent {agent} has no version {version} of its target state")
        return _content(row["apps"], row["config"])

    async def at(self, tenant: str, agent: UUID, moment: datetime) -> tuple[Any, Content | None]:
        """What operators saw at that time, with the row of the history that says so.

        Without a content there was none, or, where the row says that the history is not whole, it
        is forgotten.
        """
        with unavailable("read a version of a target state"):
            row = await self.pool.fetchrow(_AT, tenant, agent, moment)
        if row is None:
            raise NotFound(f"agent {agent} does not exist")
        return row, None if row["version"] is None else _content(row["apps"], row["config"])


def _state(row: Any) -> State:
    served = None
    if row["served_version"] is not None:
        served = Served(row["served_version"], row["served_etag"], row["served_body"])
    return State(
        content=_content(row["apps"], row["config"]) if row["apps"] is not None else EMPTY,
        version=row["version"] or 0,
        etag=row["etag"] or NOTHING_ETAG,
        needs_deployment=bool(row["needs_deployment"]),
        is_own=bool(row["is_own"]),
        served=served,
        served_content=None
        if served is None
        else _content(row["served_apps"], row["served_config"]),
        last_deployed_at=row["last_deployed_at"],
        deployed_by=row["deployed_by"],
        updated_at=row["updated_at"],
    )


def _content(apps: str, config: str) -> Content:
    return Content(msgspec.json.decode(apps), msgspec.json.decode(config))


def _row(changed: Changed) -> tuple[Any, ...]:
    state = changed.after
    served = state.served
    deployed = None if state.served_content is None else _texts(state.served_content)
    return (
        changed.agent,
        *_texts(state.content),
        state.version,
        state.etag,
        state.needs_deployment,
        state.is_own,
        *((None, None, None) if served is None else (served.version, served.etag, served.body)),
        *(deployed or (None, None)),
        state.last_deployed_at,
        state.deployed_by,
    )


def _history_row(author: Author, changed: Changed, draft: Draft) -> tuple[Any, ...]:
    state = changed.after
    return (
        changed.agent,
        state.version,
        *_texts(state.content),
        state.etag,
        draft.deployed is not None or not draft.is_own,
        draft.action,
        author.reason,
        author.name,
    )


def _texts(content: Content) -> tuple[str, str]:
    return (
        msgspec.json.encode(content.apps).decode(),
        msgspec.json.encode(content.config).decode(),
    )


def _entry(changed: Changed, draft: Draft) -> journal.Entry:
    """The contents stand in the history."""
    before, after = changed.before, changed.after
    return journal.Entry(
        event_type="target_state.updated",
        subject=f"agent/{changed.agent}",
        agent=changed.agent,
        before={"version": before.version, "etag": before.etag},
        after={
            "version": after.version,
            "etag": after.etag,
            "action": draft.action,
            "needs_deployment": after.needs_deployment,
        },
    )
