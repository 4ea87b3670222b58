"""Users of tenants: what is known of them, and changes that are recorded with themselves."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from iotistica.errors import Conflict, NotFound
from iotistica.store.journal import Entry, Origin, record
from iotistica.store.pool import (
    Connection,
    DuplicateKey,
    MissingReference,
    Pool,
    unavailable,
)

_LOGIN = """
SELECT u.id, u.tenant_id, u.password_hash
FROM users u
WHERE (lower(u.username) = lower($1) OR lower(u.email) = lower($1))
  AND ($2::text IS NULL OR u.tenant_id = $2)
LIMIT 2
"""
_ONE = """
SELECT u.*, r.permissions AS custom_permissions
FROM users u LEFT JOIN roles r ON r.tenant_id = u.tenant_id AND r.name = u.custom_role
WHERE u.tenant_id = $1 AND u.id = $2
"""
_PAGE = """
SELECT u.*, r.permissions AS custom_permissions
FROM users u LEFT JOIN roles r ON r.tenant_id = u.tenant_id AND r.name = u.custom_role
WHERE u.tenant_id = $1 AND u.id > $2
ORDER BY u.id
LIMIT $3
"""
# Whoever is linked by the subject; else, by the address, who is not linked yet.
_EXTERNAL = """
SELECT id, tenant_id, password_hash, auth0_sub
FROM users
WHERE is_active AND (auth0_sub = $1 OR auth0_sub IS NULL AND lower(email) = lower($2))
  AND ($3::text IS NULL OR tenant_id = $3)
ORDER BY auth0_sub
LIMIT 3
"""
_LINK = """
UPDATE users SET auth0_sub = $3, updated_at = now()
WHERE tenant_id = $1 AND id = $2 AND auth0_sub IS NULL
RETURNING id
"""
_PASSWORD = "SELECT password_hash FROM users WHERE tenant_id = $1 AND id = $2"  # noqa: S105
_ANYBODY = "SELECT EXISTS (SELECT FROM users WHERE $1::text IS NULL OR tenant_id = $1)"
_ALONE = "SELECT pg_advisory_xact_lock(x'696f7475'::int)"  # "iotu"
# One change of a tenant's users at a time: what is looked at stays true until the commit.
_LOCK = "SELECT FROM tenants WHERE id = $1 FOR NO KEY UPDATE"
_OTHER_OWNERS = """
SELECT EXISTS (
    SELECT FROM users WHERE tenant_id = $1 AND id <> $2 AND role = 'owner' AND is_active
)
"""
_CREATE = """
INSERT INTO users (tenant_id, username, email, full_name, role, password_hash, must_change_password)
VALUES ($1, $2, $3, $4, $5, $6, $7)
RETURNING id
"""
# Tokens that were issued before count no more where the user is stopped. Another address is
# another person for the identity provider.
_UPDATE = """
UPDATE users
SET username = $3, email = $4, full_name = $5, role = $6, is_active = $7, updated_at = now(),
    auth0_sub = CASE WHEN lower(email) = lower($4) THEN auth0_sub END,
    tokens_valid_from = CASE WHEN is_active AND NOT $7 THEN now() ELSE tokens_valid_from END
WHERE tenant_id = $1 AND id = $2
"""
_SET_PASSWORD = """
UPDATE users
SET password_hash = $3, must_change_password = $4, tokens_valid_from = now(), updated_at = now()
WHERE tenant_id = $1 AND id = $2
"""  # noqa: S105
_DELETE = "DELETE FROM users WHERE tenant_id = $1 AND id = $2"
_END_SESSIONS = """
UPDATE refresh_tokens SET revoked_at = now(), revoked_reason = $2
WHERE user_id = $1 AND revoked_at IS NULL
"""


_SOMEBODY = "the platform has users already"


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """A user as stored, without the password."""

    id: int
    tenant: str
    username: str
    email: str
    full_name: str
    role: str
    custom_permissions: Sequence[str] | None
    """Of a role that the tenant made; None of a built-in one."""
    must_change_password: bool
    is_active: bool
    tokens_valid_from: datetime
    last_login_at: datetime | None
    created_at: datetime
    updated_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class NewUser:
    """A user who is not yet stored."""

    username: str
    email: str
    password_hash: str
    role: str
    full_name: str = ""
    must_change_password: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Credentials:
    """What a login is compared with."""

    id: int
    tenant: str
    password_hash: str
    is_linked: bool = True
    """Whether the subject of an identity provider is known; for who logs in by one."""


class UserStore:
    """Users. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def credentials(self, name: str, tenant: str | None) -> Credentials | None:
        """Of the one user with this name or address; None where there is none, or are several."""
        with unavailable("look up a user"):
            rows = await self._pool.fetch(_LOGIN, name, tenant)
        if len(rows) != 1:
            return None
        [row] = rows
        return Credentials(
            id=row["id"], tenant=row["tenant_id"], password_hash=row["password_hash"]
        )

    async def external(self, subject: str, email: str, tenant: str | None) -> Credentials | None:
        """Of the one active user with this subject of the identity provider, else with this
        address; None where there is none, or are several."""
        with unavailable("look up a user"):
            rows = await self._pool.fetch(_EXTERNAL, subject, email, tenant)
        linked = [row for row in rows if row["auth0_sub"] is not None]
        found = linked or rows
        if len(found) != 1:
            return None
        [row] = found
        return Credentials(
            id=row["id"],
            tenant=row["tenant_id"],
            password_hash=row["password_hash"],
            is_linked=row["auth0_sub"] is not None,
        )

    async def password_hash(self, tenant: str, user: int) -> str:
        """Hash of a user's password. Raises `NotFound`."""
        with unavailable("look up a user"):
            found: str | None = await self._pool.fetchval(_PASSWORD, tenant, user)
        if found is None:
            raise _missing(user)
        return found

    async def find(self, tenant: str, user: int) -> User | None:
        """A user of the tenant."""
        with unavailable("look up a user"):
            row = await self._pool.fetchrow(_ONE, tenant, user)
        return None if row is None else _user(row)

    async def get(self, tenant: str, user: int) -> User:
        """The same. Raises `NotFound`."""
        found = await self.find(tenant, user)
        if found is None:
            raise _missing(user)
        return found

    async def page(self, tenant: str, *, above: int, limit: int) -> list[User]:
        """At most `limit` users with a greater id, in its order."""
        with unavailable("list the users"):
            return [_user(row) for row in await self._pool.fetch(_PAGE, tenant, above, limit)]

    async def is_anybody(self, tenant: str | None = None) -> bool:
        """Whether the tenant, or the whole platform, has a user at all."""
        with unavailable("look for users"):
            return bool(await self._pool.fetchval(_ANYBODY, tenant))

    async def require_nobody(self) -> None:
        """Raise `Conflict` where the platform has a user."""
        if await self.is_anybody():
            raise Conflict(_SOMEBODY)

    @asynccontextmanager
    async def changing(self, origin: Origin) -> AsyncIterator[Change]:
        """A transaction that changes users of the origin's tenant, one at a time for a tenant."""
        with unavailable("change users"):
            async with self._pool.acquire() as connection, connection.transaction():
                await connection.execute(_LOCK, origin.tenant)
                yield Change(connection, origin)


class Change:
    """Steps of one transaction; each is recorded. All raise what asyncpg raises, and `NotFound`."""

    def __init__(self, connection: Connection, origin: Origin) -> None:
        self.connection = connection
        self._origin = origin

    async def require_nobody(self) -> None:
        """The same; no other transaction that asks goes on before the end of this one."""
        await self.connection.execute(_ALONE)
        if await self.connection.fetchval(_ANYBODY, None):
            raise Conflict(_SOMEBODY)

    async def get(self, user: int) -> User:
        """A user of the tenant, as the transaction sees it."""
        row = await self.connection.fetchrow(_ONE, self._origin.tenant, user)
        if row is None:
            raise _missing(user)
        return _user(row)

    async def create(self, new: NewUser, *, as_event: str = "user.created") -> User:
        """Add a user. Raises `Conflict` for a name that is taken or a role that is gone."""
        with _conflicts(new.username, new.email, new.role):
            made: int = await self.connection.fetchval(
                _CREATE,
                self._origin.tenant,
                new.username,
                new.email,
                new.full_name,
                new.role,
                new.password_hash,
                new.must_change_password,
            )
        user = await self.get(made)
        await self._record(as_event, user, after=_shown(user))
        return user

    async def update(self, before: User, after: User) -> User:
        """Store what differs. Raises `Conflict` as `create`, and where the last owner would go."""
        if not (after.role == "owner" and after.is_active):
            await self._keep_an_owner(before)
        with _conflicts(after.username, after.email, after.role):
            await self.connection.execute(
                _UPDATE,
                self._origin.tenant,
                before.id,
                after.username,
                after.email,
                after.full_name,
                after.role,
                after.is_active,
            )
        if before.is_active and not after.is_active:
            await self._end_sessions(before, "deactivated")
        old, new = _shown(before), _shown(after)
        changed = [name for name in old if old[name] != new[name]]
        await self._record(
            "user.updated",
            before,
            before={name: old[name] for name in changed},
            after={name: new[name] for name in changed},
        )
        return await self.get(before.id)

    async def link(self, user: User, subject: str) -> None:
        """Know the user by the subject of an identity provider from now on.

        Raises `Conflict` where they, or the subject, were linked meanwhile.
        """
        try:
            made = await self.connection.fetchval(_LINK, self._origin.tenant, user.id, subject)
        except DuplicateKey:
            made = None
        if made is None:
            raise Conflict(f"user {user.id} was linked just now; try again")
        await self._record("user.linked", user, after={"auth0Sub": subject})

    async def require_password(self, user: User, password_hash: str) -> None:
        """Raise `Conflict` where this is no longer the hash: what was compared has changed."""
        found = await self.connection.fetchval(_PASSWORD, self._origin.tenant, user.id)
        if found != password_hash:
            raise Conflict("the password was changed by somebody else just now")

    async def set_password(self, user: User, password_hash: str, *, must_change: bool) -> None:
        """Replace the password, and end every session."""
        await self.connection.execute(
            _SET_PASSWORD, self._origin.tenant, user.id, password_hash, must_change
        )
        await self._end_sessions(user, "password changed")
        await self._record("user.password_reset" if must_change else "user.password_changed", user)

    async def delete(self, user: User) -> None:
        """Remove the user and with it every session. Raises `Conflict` for the last owner."""
        await self._keep_an_owner(user)
        await self.connection.execute(_DELETE, self._origin.tenant, user.id)
        await self._record("user.deleted", user, before=_shown(user))

    async def _keep_an_owner(self, user: User) -> None:
        if not (user.role == "owner" and user.is_active):
            return
        if not await self.connection.fetchval(_OTHER_OWNERS, self._origin.tenant, user.id):
            raise Conflict(f"user {user.id} is the last owner; make another one first")

    async def _end_sessions(self, user: User, reason: str) -> None:
        await self.connection.execute(_END_SESSIONS, user.id, reason)

    async def _record(self, event: str, user: User, **states: Any) -> None:
        entry = Entry(event_type=event, subject=f"user/{user.id}", **states)
        await record(self.connection, self._origin, entry)


@contextmanager
def _conflicts(username: str, email: str, role: str) -> Iterator[None]:
    try:
        yield
    except DuplicateKey as error:
        is_email = error.constraint_name == "users_email"
        what = f"email {email!r}" if is_email else f"username {username!r}"
        raise Conflict(f"{what} is taken") from None
    except MissingReference as error:
        if error.constraint_name == "users_tenant_id_fkey":
            raise NotFound("the tenant does not exist") from None
        raise Conflict(f"role {role!r} does not exist") from None


def _missing(user: int) -> NotFound:
    return NotFound(f"user {user} does not exist")


def _shown(user: User) -> dict[str, Any]:
    """What the journal tells of a user."""
    return {
        "username": user.username,
        "email": user.email,
        "fullName": user.full_name,
        "role": user.role,
        "isActive": user.is_active,
    }


def _user(row: Any) -> User:
    return User(
        id=row["id"],
        tenant=row["tenant_id"],
        username=row["username"],
        email=row["email"],
        full_name=row["full_name"],
        role=row["role"],
        custom_permissions=row["custom_permissions"],
        must_change_password=row["must_change_password"],
        is_active=row["is_active"],
        tokens_valid_from=row["tokens_valid_from"],
        last_login_at=row["last_login_at"],
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )
