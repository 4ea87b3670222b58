"""Users of the broker as operators see them: their own, and those of their agents."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

from iotistica.errors import Conflict, NotFound
from iotistica.store.journal import Entry, Origin, record
from iotistica.store.pool import Connection, DuplicateKey, Pool, unavailable

_PAGE = """
SELECT * FROM mqtt_users
WHERE tenant_id = $1 AND id > $2 AND NOT deleted AND agent_uuid IS NULL
ORDER BY id
LIMIT $3
"""
_PAGE_OF_AGENTS = """
SELECT * FROM mqtt_users
WHERE tenant_id = $1 AND id > $2 AND NOT deleted AND agent_uuid IS NOT NULL
ORDER BY id
LIMIT $3
"""
_ONE = "SELECT * FROM mqtt_users WHERE tenant_id = $1 AND id = $2 AND NOT deleted"
_RULES = """
SELECT a.* FROM mqtt_acls AS a JOIN mqtt_users AS u ON u.username = a.username
WHERE u.tenant_id = $1 AND u.id = $2 AND NOT u.deleted
ORDER BY a.id
"""
_HOLD = "SELECT * FROM mqtt_users WHERE tenant_id = $1 AND id = $2 AND NOT deleted FOR UPDATE"
_HOLD_BY_RULE = """
SELECT u.* FROM mqtt_acls AS a JOIN mqtt_users AS u ON u.username = a.username
WHERE u.tenant_id = $1 AND a.id = $2 AND NOT u.deleted
FOR UPDATE OF u
"""
# One change at a time, so that the number that was counted still holds at the commit.
_LOCK = "SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE"
_COUNT = """
SELECT count(*) FROM mqtt_users WHERE tenant_id = $1 AND agent_uuid IS NULL AND NOT deleted
"""
_COUNT_RULES = "SELECT count(*) FROM mqtt_acls WHERE username = $1"
# A name that was given up is as good as new, even where the broker was not told yet.
_CREATE = """
INSERT INTO mqtt_users AS known (tenant_id, username, password_salt, password_sealed, is_active)
VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (username) DO UPDATE
SET tenant_id = excluded.tenant_id, agent_uuid = NULL, password_hash = NULL,
    password_salt = excluded.password_salt, password_sealed = excluded.password_sealed,
    deleted = false, is_active = excluded.is_active, is_superuser = false,
    revision = known.revision + 1, created_at = now(), updated_at = now()
WHERE known.deleted
RETURNING *
"""
_CHANGE = """
UPDATE mqtt_users
SET is_active = coalesce($3, is_active), revision = revision + 1, updated_at = now(),
    password_hash = CASE WHEN $4 THEN NULL ELSE password_hash END,
    password_salt = CASE WHEN $4 THEN $5 ELSE password_salt END,
    password_sealed = CASE WHEN $4 THEN $6 ELSE password_sealed END
WHERE tenant_id = $1 AND id = $2
RETURNING *
"""
_TOUCH = """
UPDATE mqtt_users SET revision = revision + 1, updated_at = now() WHERE username = $1
"""
_REMOVE_RULES = "DELETE FROM mqtt_acls WHERE username = $1"
_REMOVE = """
UPDATE mqtt_users
SET deleted = true, is_active = false, revision = revision + 1, updated_at = now()
WHERE username = $1
"""
_ADD_RULE = """
INSERT INTO mqtt_acls (username, topic, access, priority) VALUES ($1, $2, $3, $4) RETURNING *
"""
_RULE = "SELECT * FROM mqtt_acls WHERE username = $1 AND id = $2"
_CHANGE_RULE = """
UPDATE mqtt_acls SET topic = $3, access = $4, priority = $5 WHERE username = $1 AND id = $2
RETURNING *
"""
_REMOVE_RULE = "DELETE FROM mqtt_acls WHERE username = $1 AND id = $2"

MOST_RULES = 100
"""Of one user: the broker compares each of its messages with them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class MqttUser:
    """A user, without the password."""

    id: int
    username: str
    agent: UUID | None
    """Whose account it is, where it is that of an agent."""
    is_active: bool
    is_told: bool
    """Whether the broker knows of the last change."""
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessRule:
    """What a user may do with the topics of one filter."""

    id: int
    username: str
    topic: str
    access: int
    priority: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class NewRule:
    """A rule that is not yet stored."""

    topic: str
    access: int
    priority: int = 0


@dataclass(frozen=True, slots=True)
class NewPassword:
    """What is stored of a password: the salt of one that we make, or a sealed one."""

    salt: bytes | None
    sealed: bytes | None


@dataclass(frozen=True, slots=True, kw_only=True)
class NewMqttUser:
    """A user that is not yet stored."""

    username: str
    password: NewPassword
    is_active: bool
    rules: Sequence[NewRule]


class MqttUserStore:
    """Users of the broker. Every method raises `StoreUnavailable`; what belongs to another tenant,
    or to nobody, is `NotFound`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def page(
        self, tenant: str, *, above: int, limit: int, of_agents: bool = False
    ) -> list[MqttUser]:
        """At most `limit` users with a greater id, in its order."""
        query = _PAGE_OF_AGENTS if of_agents else _PAGE
        with unavailable("list the users of the broker"):
            return [_user(row) for row in await self._pool.fetch(query, tenant, above, limit)]

    async def get(self, tenant: str, user: int) -> tuple[MqttUser, list[AccessRule]]:
        """A user with its rules."""
        with unavailable("read a user of the broker"):
            row = await self._pool.fetchrow(_ONE, tenant, user)
            if row is None:
                raise _unknown(user)
            return _user(row), [_rule(one) for one in await self._pool.fetch(_RULES, tenant, user)]

    async def create(self, origin: Origin, new: NewMqttUser, *, most: int) -> int:
        """Store a user; its id. Raises `Conflict` for a name that is taken, or beyond `most`."""
        with unavailable("store a user of the broker"):
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_LOCK, origin.tenant)
                if await connection.fetchval(_COUNT, origin.tenant) >= most:
                    raise Conflict(f"there are {most} users of the broker; more are not allowed")
                row = await connection.fetchrow(
                    _CREATE,
                    *(origin.tenant, new.username, new.password.salt, new.password.sealed),
                    new.is_active,
                )
                if row is None:
                    raise Conflict(f"a user of the broker named {new.username!r} exists")
                rules = [await _add(connection, new.username, rule) for rule in new.rules]
                user = _user(row)
                after = {**_shown(user), "acls": [_shown_rule(rule) for rule in rules]}
                await record(connection, origin, _entry("mqtt_user.created", user, after=after))
        return user.id

    async def change(
        self, origin: Origin, user: int, *, is_active: bool | None, password: NewPassword | None
    ) -> None:
        """Change what is given. Raises `Conflict` for the account of an agent."""
        given = password or NewPassword(None, None)
        with unavailable("change a user of the broker"):
            async with self._pool.acquire() as connection, connection.transaction():
                before = await _held(connection, _HOLD, origin.tenant, user, _unknown(user))
                row = await connection.fetchrow(
                    _CHANGE,
                    *(origin.tenant, user, is_active, password is not None),
                    *(given.salt, given.sealed),
                )
                after = _user(row)
                more = {} if password is None else {"password": "changed"}
                entry = _entry(
                    "mqtt_user.changed",
                    after,
                    before=_shown(before),
                    after={**_shown(after), **more},
                )
                await record(connection, origin, entry)

    async def remove(self, origin: Origin, user: int) -> MqttUser:
        """Remove a user. Raises `Conflict` for the account of an agent."""
        with unavailable("remove a user of the broker"):
            async with self._pool.acquire() as connection, connection.transaction():
                found = await _held(connection, _HOLD, origin.tenant, user, _unknown(user))
                await connection.execute(_REMOVE_RULES, found.username)
                await connection.execute(_REMOVE, found.username)
                entry = _entry("mqtt_user.deleted", found, before=_shown(found))
                await record(connection, origin, entry)
        return found

    async def add_rule(self, origin: Origin, user: int, rule: NewRule) -> AccessRule:
        """Give a user a rule. Raises `Conflict` where it has one of this filter, or too many."""
        with unavailable("store a rule of the broker"):
            async with self._pool.acquire() as connection, connection.transaction():
                found = await _held(connection, _HOLD, origin.tenant, user, _unknown(user))
                if await connection.fetchval(_COUNT_RULES, found.username) >= MOST_RULES:
                    raise Conflict(f"the user has {MOST_RULES} rules; more are not allowed")
                made = await _add(connection, found.username, rule)
                await connection.execute(_TOUCH, found.username)
                entry = _rule_entry("mqtt_acl.created", made, after=_shown_rule(made))
                await record(connection, origin, entry)
        return made

    async def change_rule(self, origin: Origin, rule: int, new: NewRule) -> AccessRule:
        """Replace a rule. Raises `Conflict` where the user has another of this filter."""
        with unavailable("change a rule of the broker"):
            async with self._pool.acquire() as connection, connection.transaction():
                user, before = await _held_with_rule(connection, origin.tenant, rule)
                try:
                    row = await connection.fetchrow(
                        _CHANGE_RULE,
                        *(user.username, rule, new.topic, new.access, new.priority),
                    )
                except DuplicateKey:
                    raise _twice(new) from None
                after = _rule(row)
                await connection.execute(_TOUCH, user.username)
                entry = _rule_entry(
                    "mqtt_acl.changed",
                    after,
                    before=_shown_rule(before),
                    after=_shown_rule(after),
                )
                await record(connection, origin, entry)
        return after

    async def remove_rule(self, origin: Origin, rule: int) -> AccessRule:
        """Remove a rule; the rule that it was."""
        with unavailable("remove a rule of the broker"):
            async with self._pool.acquire() as connection, connection.transaction():
                user, before = await _held_with_rule(connection, origin.tenant, rule)
                await connection.execute(_REMOVE_RULE, user.username, rule)
                await connection.execute(_TOUCH, user.username)
                entry = _rule_entry("mqtt_acl.deleted", before, before=_shown_rule(before))
                await record(connection, origin, entry)
        return before


async def _held(
    connection: Connection, query: str, tenant: str, number: int, unknown: NotFound
) -> MqttUser:
    """The user, who stays as found until the commit."""
    row = await connection.fetchrow(query, tenant, number)
    if row is None:
        raise unknown
    user = _user(row)
    if user.agent is not None:
        raise Conflict(f"it is the account of agent {user.agent}, and changes with the agent alone")
    return user


async def _held_with_rule(
    connection: Connection, tenant: str, rule: int
) -> tuple[MqttUser, AccessRule]:
    user = await _held(connection, _HOLD_BY_RULE, tenant, rule, _unknown_rule(rule))
    # Again: it may have gone while its user was waited for.
    row = await connection.fetchrow(_RULE, user.username, rule)
    if row is None:
        raise _unknown_rule(rule)
    return user, _rule(row)


async def _add(connection: Connection, username: str, rule: NewRule) -> AccessRule:
    try:
        row = await connection.fetchrow(_ADD_RULE, username, rule.topic, rule.access, rule.priority)
    except DuplicateKey:
        raise _twice(rule) from None
    return _rule(row)


def _twice(rule: NewRule) -> Conflict:
    return Conflict(f"the user has a rule of the topic filter {rule.topic[:64]!r}")


def _unknown(user: int) -> NotFound:
    return NotFound(f"MQTT user {user} does not exist")


def _unknown_rule(rule: int) -> NotFound:
    return NotFound(f"MQTT ACL {rule} does not exist")


def _entry(event: str, user: MqttUser, **states: Any) -> Entry:
    return Entry(event_type=event, subject=f"mqtt_user/{user.id}", **states)


def _rule_entry(event: str, rule: AccessRule, **states: Any) -> Entry:
    return Entry(event_type=event, subject=f"mqtt_acl/{rule.id}", **states)


def _shown(user: MqttUser) -> dict[str, Any]:
    return {"username": user.username, "isActive": user.is_active}


def _shown_rule(rule: AccessRule) -> dict[str, Any]:
    return {"username": rule.username, "topic": rule.topic, "access": rule.access}


def _user(row: Any) -> MqttUser:
    return MqttUser(
        id=row["id"],
        username=row["username"],
        agent=row["agent_uuid"],
        is_active=row["is_active"],
        is_told=row["revision"] == row["told"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


def _rule(row: Any) -> AccessRule:
    return AccessRule(
        id=row["id"],
        username=row["username"],
        topic=row["topic"],
        access=row["access"],
        priority=row["priority"],
        created_at=row["created_at"],
    )
