"""Users of the broker and their rights: what the broker should know, and what it was told."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from iotistica.store.pool import Connection, Pool, unavailable

# A name that was given up is as good as new: nothing of its former life stays.
_PUT = """
INSERT INTO mqtt_users AS known (username, tenant_id, agent_uuid, password_hash, password_salt)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (username) DO UPDATE
SET tenant_id = excluded.tenant_id, agent_uuid = excluded.agent_uuid,
    password_hash = CASE WHEN known.deleted OR known.password_salt IS NULL
                         THEN excluded.password_hash ELSE known.password_hash END,
    password_salt = CASE WHEN known.deleted OR known.password_salt IS NULL
                         THEN excluded.password_salt ELSE known.password_salt END,
    password_sealed = NULL,
    deleted = false, is_active = true, revision = known.revision + 1, updated_at = now()
RETURNING password_salt
"""
_PUT_RULE = """
INSERT INTO mqtt_acls (username, topic, access) VALUES ($1, $2, $3)
ON CONFLICT (username, topic) DO NOTHING
"""
_ALLOW = """
UPDATE mqtt_users SET is_active = $2, revision = revision + 1, updated_at = now()
WHERE agent_uuid = ANY ($1::uuid[]) AND NOT deleted AND is_active <> $2
"""
_REMOVE_RULES = """
DELETE FROM mqtt_acls
WHERE username IN (SELECT username FROM mqtt_users
                   WHERE agent_uuid = ANY ($1::uuid[]) AND tenant_id = $2)
"""
_REMOVE = """
UPDATE mqtt_users
SET deleted = true, is_active = false, agent_uuid = NULL, revision = revision + 1,
    updated_at = now()
WHERE agent_uuid = ANY ($1::uuid[]) AND tenant_id = $2
"""
_COLUMNS = """
SELECT u.id, u.username, u.password_salt, u.password_sealed, u.revision, u.is_active, u.deleted,
       array(SELECT a.topic FROM mqtt_acls AS a WHERE a.username = u.username ORDER BY a.id)
           AS topics,
       array(SELECT a.access FROM mqtt_acls AS a WHERE a.username = u.username ORDER BY a.id)
           AS accesses
FROM mqtt_users AS u
"""
_ONE = f"{_COLUMNS} WHERE u.username = $1 AND NOT u.deleted"
_SOME = f"{_COLUMNS} WHERE u.id > $1 AND ($2::text IS NULL OR u.username = $2)"
_EVERYONE = f"{_SOME} ORDER BY u.id LIMIT $3"
_UNTOLD = f"{_SOME} AND u.revision <> u.told ORDER BY u.id LIMIT $3"
# Only what was told: the row may have changed meanwhile.
_TOLD = """
UPDATE mqtt_users AS known SET told = t.revision
FROM unnest($1::text[], $2::bigint[]) AS t (username, revision)
WHERE known.username = t.username AND known.revision = t.revision
"""
_BURY = """
DELETE FROM mqtt_users WHERE deleted AND revision = told AND username = ANY ($1::text[])
"""


EVERYTHING = 7
"""Read, write and subscribe."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BrokerUser:
    """A user that the broker should know, or should no longer know."""

    id: int
    username: str
    password_salt: bytes | None
    """Of a password that we made."""
    password_sealed: bytes | None
    """One that somebody chose. Where there is neither, it is kept by whoever set it."""
    revision: int
    is_active: bool
    rules: Sequence[tuple[str, int]]
    """Topic filters, and the bits of what may be done (reference section 1.5)."""


class BrokerUserStore:
    """Users of the broker. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def untold(
        self,
        *,
        username: str | None = None,
        after: int = 0,
        everyone: bool = False,
        most: int = 1000,
    ) -> list[BrokerUser]:
        """At most so many that the broker was not told of, by id; with `everyone` of all."""
        with unavailable("list the users of the broker"):
            query = _EVERYONE if everyone else _UNTOLD
            rows = await self._pool.fetch(query, after, username, most)
        return [_user(row) for row in rows]

    async def get(self, username: str) -> BrokerUser | None:
        """What the broker should know of a user, of whichever tenant; None of nobody."""
        if "\0" in username:
            return None
        with unavailable("look up a user of the broker"):
            row = await self._pool.fetchrow(_ONE, username)
        return None if row is None else _user(row)

    async def told(self, users: Sequence[BrokerUser]) -> None:
        """Note that the broker knows; users that are gone are forgotten."""
        names = [user.username for user in users]
        with unavailable("note what the broker was told"):
            await self._pool.execute(_TOLD, names, [user.revision for user in users])
            await self._pool.execute(_BURY, names)


async def put_agent_user(
    connection: Connection,
    *,
    tenant: str,
    agent: UUID,
    salt: bytes,
    password_hash: str,
    topics: Mapping[str, int],
) -> bytes:
    """Make the user of an agent where there is none; the salt of its password."""
    username = f"agent_{agent}"
    kept: bytes = await connection.fetchval(_PUT, username, tenant, agent, password_hash, salt)
    await connection.executemany(
        _PUT_RULE, [(username, topic, access) for topic, access in topics.items()]
    )
    return kept


async def allow_agent_users(connection: Connection, agents: Sequence[UUID], allowed: bool) -> None:
    """Let the users of agents in, or keep them out."""
    await connection.execute(_ALLOW, agents, allowed)


async def remove_agent_users(
    connection: Connection, agents: Sequence[UUID], *, tenant: str
) -> None:
    """Remove the users of agents; the rows stay until the broker knows."""
    await connection.execute(_REMOVE_RULES, agents, tenant)
    await connection.execute(_REMOVE, agents, tenant)


def _user(row: Any) -> BrokerUser:
    return BrokerUser(
        id=row["id"],
        username=row["username"],
        password_salt=row["password_salt"],
        password_sealed=row["password_sealed"],
        revision=row["revision"],
        is_active=row["is_active"] and not row["deleted"],
        rules=list(zip(row["topics"], row["accesses"], strict=True)),
    )
