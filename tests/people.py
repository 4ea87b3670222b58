"""Users of a tenant, made in the database and logged in by the API."""

from __future__ import annotations

from typing import Any

from tests.rest import Answer, Rest

from iotistica.store.journal import Origin
from iotistica.store.users import NewUser

PASSWORD = "correct horse"


async def add(rest: Rest, name: str, role: str = "viewer", *, tenant: str | None = None) -> int:
    """A user with PASSWORD; the id."""
    new = NewUser(
        username=name,
        email=f"{name}@example.org",
        password_hash=await rest.identity.passwords.hash(PASSWORD),
        role=role,
    )
    async with rest.identity.users.changing(Origin(tenant=tenant or rest.tenant)) as change:
        return (await change.create(new)).id


async def login(rest: Rest, name: str, password: str = PASSWORD, **more: Any) -> Answer:
    """What a login answers."""
    body = {"username": name, "password": password, **more}
    return await rest.ask("POST", "/api/v1/auth/login", body, role=None)


def bearing(answer: Answer) -> dict[str, str]:
    """Headers with the access token of an answer."""
    return {"authorization": f"Bearer {answer.body['accessToken']}"}


async def someone(rest: Rest, name: str, role: str, *, tenant: str | None = None) -> dict[str, str]:
    """A new user's headers."""
    await add(rest, name, role, tenant=tenant)
    return bearing(await login(rest, name, tenantId=tenant or rest.tenant))


async def journal(rest: Rest, event_type: str) -> list[dict[str, Any]]:
    """Entries of a type, newest first."""
    await rest.identity.settle()
    answer = await rest.ask("GET", f"/api/v1/audit-log?type={event_type}")
    assert answer.status == 200, answer.body
    entries: list[dict[str, Any]] = answer.body["entries"]
    return entries
