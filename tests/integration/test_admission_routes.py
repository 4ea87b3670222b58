"""How users come into being: the first one, invitations, registration."""

from __future__ import annotations

import asyncio
from typing import Any

import asyncpg
import pytest
from tests.people import PASSWORD, add, bearing, journal, login, someone
from tests.rest import KEY, Answer, Rest

from iotistica.api.auth import Tokens
from iotistica.api.route import routes_of
from iotistica.api.routes.admission import Admission
from iotistica.api.table import Table
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool

OTHER = "another-tenant"
TOKEN = "a bootstrap token of some length"


def person(name: str = "ada", **more: Any) -> dict[str, Any]:
    return {"username": name, "password": PASSWORD, **more}


async def invite(rest: Rest, **body: str) -> dict[str, Any]:
    answer = await rest.ask("POST", "/api/v1/invites", {"email": "ada@example.org", **body})
    assert answer.status == 201, answer.body
    made: dict[str, Any] = answer.body
    return made


async def accept(rest: Rest, token: str, name: str = "ada") -> Answer:
    return await rest.ask("POST", "/api/v1/invites/accept", person(name, token=token), role=None)


@pytest.fixture
async def opened(rest: Rest, pool: Pool) -> Rest:
    """The same API as a deployment sets it that has a bootstrap token and is open to all."""
    settings = Settings.load(
        redis_url="redis://127.0.0.1:1",
        initial_admin_bootstrap_token=TOKEN,
        registration_tenant=rest.tenant,
    )
    part = Admission(rest.identity, pool, settings)
    return Rest(Table(routes_of(part), Tokens(KEY.encode())), rest.tenant, rest.identity)


async def bootstrap(rest: Rest, token: str = TOKEN, name: str = "root", **more: Any) -> Answer:
    body = person(name, email=f"{name}@example.org", **more)
    headers = {"x-bootstrap-token": token}
    return await rest.ask("POST", "/api/v1/auth/bootstrap-admin", body, role=None, headers=headers)


async def test_the_first_user_is_an_owner(opened: Rest, rest: Rest) -> None:
    answer = await bootstrap(opened)
    assert answer.status == 201
    assert answer.body["message"] == "Administrator created"
    assert answer.body["user"] == answer.body["data"]["user"]
    assert answer.body["user"]["role"] == "owner"
    logged_in = await login(rest, "root")
    assert logged_in.body["user"]["tenantId"] == rest.tenant
    assert logged_in.body["mustChangePassword"] is False
    [entry] = await journal(rest, "user.created")
    assert (entry["actorType"], entry["actorName"]) == ("system", "bootstrap")


async def test_there_is_one_first_user(opened: Rest, pool: Pool) -> None:
    answers = await asyncio.gather(*(bootstrap(opened, name=f"root{n}") for n in range(4)))
    assert sorted(answer.status for answer in answers) == [201, 409, 409, 409]
    assert await pool.fetchval("SELECT count(*) FROM users") == 1
    refused = await bootstrap(opened, name="late", tenantId="fresh-tenant")
    assert (refused.status, refused.body["message"]) == (409, "the platform has users already")
    assert not await pool.fetchval("SELECT EXISTS (SELECT FROM tenants WHERE id = 'fresh-tenant')")


@pytest.mark.parametrize("token", ["", "wrong", TOKEN[:-1], TOKEN + "x", "\u00e4"])
async def test_another_bootstrap_token_is_denied(opened: Rest, token: str) -> None:
    answer = await bootstrap(opened, token)
    assert (answer.status, answer.body["message"]) == (401, "the bootstrap token is not valid")


async def test_without_a_bootstrap_token_there_is_no_bootstrap(rest: Rest) -> None:
    answer = await bootstrap(rest, "")
    assert answer.status == 403
    assert answer.body["message"] == "INITIAL_ADMIN_BOOTSTRAP_TOKEN is not set"


async def test_the_first_user_may_name_a_new_tenant(opened: Rest, pool: Pool) -> None:
    assert (await bootstrap(opened, tenantId="a/b")).status == 400
    assert (await bootstrap(opened, tenantId="73eddd385ce8")).status == 201
    assert await pool.fetchval("SELECT tenant_id FROM users") == "73eddd385ce8"


async def test_of_several_tenants_one_must_be_named(opened: Rest, pool: Pool) -> None:
    await AgentStore(pool).ensure_tenant(OTHER)
    answer = await bootstrap(opened)
    assert (answer.status, answer.body["message"]) == (
        400,
        "there are 2 tenants; say which one is meant",
    )


async def test_registration_is_closed(rest: Rest) -> None:
    body = person(email="ada@example.org")
    answer = await rest.ask("POST", "/api/v1/auth/register", body, role=None)
    assert answer.status == 403
    assert answer.body["message"] == "registration is closed; ask for an invitation"


async def test_where_it_is_open_one_becomes_a_viewer_of_that_tenant(
    opened: Rest, rest: Rest
) -> None:
    body = person(email="ada@example.org", role="owner", tenantId=OTHER)
    answer = await opened.ask("POST", "/api/v1/auth/register", body, role=None)
    assert answer.status == 201
    assert answer.body["user"]["role"] == "viewer"
    assert (await login(rest, "ada")).body["user"]["tenantId"] == rest.tenant
    again = await opened.ask("POST", "/api/v1/auth/register", body, role=None)
    assert (again.status, again.body["message"]) == (409, "username 'ada' is taken")
    missing = await opened.ask("POST", "/api/v1/auth/register", person("bob"), role=None)
    assert missing.status == 400


@pytest.mark.parametrize(
    ("path", "field"),
    [("/api/v1/invites/accept", "token"), ("/api/v1/auth/register", "inviteToken")],
)
async def test_an_invitation_is_accepted_once(rest: Rest, path: str, field: str) -> None:
    made = await invite(rest, role="operator")
    listed = await rest.ask("GET", "/api/v1/invites")
    token = made.pop("token")
    assert listed.body == {"count": 1, "invites": [made], "cursor": None}
    body = person(fullName="Ada L.", **{field: token})
    answer = await rest.ask("POST", path, body, role=None)
    assert answer.status == 201
    assert answer.body["message"] == "Invitation accepted"
    user = (await login(rest, "ada")).body["user"]
    assert {name: user[name] for name in ("email", "role", "fullName", "tenantId")} == {
        "email": "ada@example.org",
        "role": "operator",
        "fullName": "Ada L.",
        "tenantId": rest.tenant,
    }
    again = await accept(rest, token, "bob")
    assert (again.status, again.body["message"]) == (401, "the invitation is not valid")
    assert (await rest.ask("GET", "/api/v1/invites")).body["count"] == 0
    [entry] = await journal(rest, "user.created")
    assert entry["actorName"] == f"invitation {made['id']}"
    [entry] = await journal(rest, "invite.created")
    assert entry["after"] == {"email": "ada@example.org", "role": "operator"}


async def test_two_who_accept_at_once_are_one(rest: Rest) -> None:
    token = (await invite(rest))["token"]
    answers = await asyncio.gather(*(accept(rest, token, f"ada{n}") for n in range(4)))
    assert sorted(answer.status for answer in answers) == [201, 401, 401, 401]


async def test_an_invitation_survives_a_name_that_is_taken(rest: Rest) -> None:
    await add(rest, "bob")
    token = (await invite(rest))["token"]
    assert (await accept(rest, token, "bob")).status == 409
    assert (await accept(rest, token, "ada")).status == 201


async def test_an_invitation_that_is_over_admits_nobody(rest: Rest, pool: Pool) -> None:
    made = await invite(rest)
    assert (await rest.ask("DELETE", f"/api/v1/invites/{made['id']}")).status == 204
    assert (await accept(rest, made["token"])).status == 401
    assert (await rest.ask("DELETE", f"/api/v1/invites/{made['id']}")).status == 404
    late = await invite(rest)
    await pool.execute("UPDATE invites SET expires_at = now()")
    assert (await accept(rest, late["token"])).status == 401
    for token in ("", "x", "\u00e4" * 50):
        assert (await accept(rest, token)).status == 401


async def test_nobody_invites_to_more_than_they_may(rest: Rest) -> None:
    admin = await someone(rest, "grace", "admin")
    body = {"email": "ada@example.org", "role": "owner"}
    assert (await rest.ask("POST", "/api/v1/invites", body, headers=admin)).status == 403
    body["role"] = "king"
    assert (await rest.ask("POST", "/api/v1/invites", body, headers=admin)).status == 400


async def test_invitations_of_another_tenant_are_as_if_they_did_not_exist(
    rest: Rest, pool: Pool
) -> None:
    await AgentStore(pool).ensure_tenant(OTHER)
    body = {"email": "ada@example.org"}
    theirs = (await rest.ask("POST", "/api/v1/invites", body, tenant=OTHER)).body
    assert (await rest.ask("GET", "/api/v1/invites")).body["count"] == 0
    answer = await rest.ask("DELETE", f"/api/v1/invites/{theirs['id']}")
    assert answer.status == 404
    assert answer.body["message"] == f"invitation {theirs['id']} does not exist"
    assert (await accept(rest, theirs["token"])).status == 201
    assert (await login(rest, "ada")).body["user"]["tenantId"] == OTHER


async def test_nothing_of_an_invitation_is_stored(
    rest: Rest, connection: asyncpg.Connection
) -> None:
    token = (await invite(rest))["token"]
    for table in ("invites", "audit_logs"):
        rows = await connection.fetch(f"SELECT t::text AS row FROM {table} t")
        assert rows
        assert not [row for row in rows if token in row["row"]]


async def test_a_user_who_was_invited_may_do_what_the_role_says(rest: Rest) -> None:
    role = {"name": "night", "permissions": ["user:read"]}
    await rest.ask("POST", "/api/v1/roles", role)
    await accept(rest, (await invite(rest, role="night"))["token"])
    who = bearing(await login(rest, "ada"))
    assert (await rest.ask("GET", "/api/v1/users", headers=who)).status == 200
