"""Users who are made without the API: by the command line, and by `iotistica up`."""

from __future__ import annotations

from typing import Any

import msgspec

from iotistica.api.models.identity import Email, Username
from iotistica.api.passwords import Passwords
from iotistica.errors import BadRequest
from iotistica.settings import Settings
from iotistica.store.journal import Origin
from iotistica.store.pool import Pool
from iotistica.store.users import NewUser, User, UserStore

ADMIN = "admin"
"""Who `iotistica up` makes in its tenant."""


async def make_user(
    settings: Settings,
    pool: Pool,
    *,
    tenant: str,
    username: str,
    password: str,
    role: str = "owner",
    email: str | None = None,
) -> User:
    """A user of a tenant that exists. Raises `BadRequest`, `Conflict`, `StoreUnavailable`."""
    address = email or f"{username}@localhost"
    _check("username", username, Username)
    _check("email", address, Email)
    passwords = Passwords(settings)
    try:
        password_hash = await passwords.hash(password)
    finally:
        passwords.close()
    new = NewUser(username=username, email=address, password_hash=password_hash, role=role)
    async with UserStore(pool).changing(Origin(tenant=tenant, name="command line")) as change:
        return await change.create(new)


async def keep_admin(settings: Settings, pool: Pool, *, tenant: str, password: str) -> bool:
    """Make ADMIN in a tenant without users; whether this is (still) the password of ADMIN."""
    users = UserStore(pool)
    if not await users.is_anybody(tenant):
        await make_user(settings, pool, tenant=tenant, username=ADMIN, password=password)
        return True
    known = await users.credentials(ADMIN, tenant)
    if known is None:
        return False
    passwords = Passwords(settings)
    try:
        return (await passwords.verify(known.password_hash, password)).is_right
    finally:
        passwords.close()


def _check(name: str, value: str, kind: Any) -> None:
    try:
        msgspec.convert(value, kind)
    except msgspec.ValidationError:
        raise BadRequest(f"{name} is {value[:64]!r}, which is not allowed as one") from None
