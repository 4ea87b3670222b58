"""Users and roles of a tenant, through the whole API."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from tests.people import PASSWORD, add, bearing, journal, login, someone
from tests.rest import Rest

from iotistica.api.principal import PERMISSIONS, ROLES
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool

OTHER = "another-tenant"
USERS, ROLE_PATH = "/api/v1/users", "/api/v1/roles"


def new(name: str = "ada", **more: Any) -> dict[str, Any]:
    return {"username": name, "email": f"{name}@example.org", "password": PASSWORD, **more}


@pytest.fixture
async def other(pool: Pool) -> str:
    await AgentStore(pool).ensure_tenant(OTHER)
    return OTHER


async def test_a_user_is_made_shown_changed_and_removed(rest: Rest) -> None:
    admin = await someone(rest, "grace", "admin")
    made = await rest.ask("POST", USERS, new(fullName="Ada L.", role="operator"), headers=admin)
    assert made.status == 201
    user = made.body["id"]
    assert made.body == {
        **made.body,
        "username": "ada",
        "email": "ada@example.org",
        "fullName": "Ada L.",
        "role": "operator",
        "isActive": True,
        "mustChangePassword": True,
        "lastLoginAt": None,
    }
    assert (await rest.ask("GET", f"{USERS}/{user}", headers=admin)).body == made.body
    change = {"email": "countess@example.org", "role": "viewer"}
    changed = await rest.ask("PATCH", f"{USERS}/{user}", change, headers=admin)
    assert changed.status == 200
    assert changed.body == {**made.body, **change, "updatedAt": changed.body["updatedAt"]}
    put = await rest.ask("PUT", f"{USERS}/{user}", {"fullName": "Ada"}, headers=admin)
    assert put.body["fullName"] == "Ada"
    gone = await rest.ask("DELETE", f"{USERS}/{user}", headers=admin)
    assert (gone.status, gone.body) == (204, b"")
    assert (await rest.ask("GET", f"{USERS}/{user}", headers=admin)).status == 404

    [created] = [one for one in await journal(rest, "user.created") if one["actorType"] == "user"]
    assert (created["subject"], created["actorName"]) == (f"user/{user}", "grace")
    assert created["before"] is None
    shown = {
        "username": "ada",
        "email": "ada@example.org",
        "fullName": "Ada L.",
        "role": "operator",
        "isActive": True,
    }
    assert created["after"] == shown
    updated = (await journal(rest, "user.updated"))[-1]
    assert updated["before"] == {"email": "ada@example.org", "role": "operator"}
    assert updated["after"] == change
    [deleted] = await journal(rest, "user.deleted")
    assert deleted["before"] == {**shown, **change, "fullName": "Ada"}


async def test_users_are_listed_in_pages(rest: Rest, other: str) -> None:
    await add(rest, "stranger", tenant=other)
    names = ["ada", "bob", "cyd"]
    for name in names:
        await add(rest, name)
    first = await rest.ask("GET", f"{USERS}?limit=2")
    assert [user["username"] for user in first.body["users"]] == names[:2]
    second = await rest.ask("GET", f"{USERS}?limit=2&cursor={first.body['cursor']}")
    assert [user["username"] for user in second.body["users"]] == names[2:]
    assert (second.body["count"], second.body["cursor"]) == (1, None)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (new("ab"), 'field username is "ab"'),
        (new("a@b"), 'field username is "a@b"'),
        (new(email="ada"), 'field email is "ada"'),
        (new(password="short"), 'field password is "short"'),
        (new(role="king"), "field role is 'king', which does not exist"),
        (new(tenantId="x"), "the body: Object contains unknown field tenantId"),
    ],
)
async def test_a_user_must_be_described_well(
    rest: Rest, body: dict[str, Any], message: str
) -> None:
    answer = await rest.ask("POST", USERS, body)
    assert answer.status == 400
    assert answer.body["message"].startswith(message)


async def test_names_and_addresses_are_taken_once_in_a_tenant(rest: Rest, other: str) -> None:
    await add(rest, "ada", tenant=other)
    assert (await rest.ask("POST", USERS, new("Ada"))).status == 201
    answer = await rest.ask("POST", USERS, new("ADA"))
    assert (answer.status, answer.body["message"]) == (409, "username 'ADA' is taken")
    body = {**new("bob"), "email": "ADA@example.org"}
    answer = await rest.ask("POST", USERS, body)
    assert (answer.status, answer.body["message"]) == (409, "email 'ADA@example.org' is taken")


@pytest.mark.parametrize(
    ("role", "given", "status"),
    [
        ("admin", "admin", 201),
        ("admin", "owner", 403),
        ("owner", "owner", 201),
        ("manager", "viewer", 403),
        ("viewer", "viewer", 403),
    ],
)
async def test_nobody_gives_a_role_that_they_do_not_have(
    rest: Rest, role: str, given: str, status: int
) -> None:
    who = await someone(rest, "grace", role)
    assert (await rest.ask("POST", USERS, new(role=given), headers=who)).status == status


@pytest.mark.parametrize("what", [{"role": "viewer"}, {"isActive": False}, {"email": "x@y"}])
async def test_an_admin_does_not_touch_an_owner(rest: Rest, what: dict[str, Any]) -> None:
    await add(rest, "olga", "owner")
    owner = await add(rest, "otto", "owner")
    admin = await someone(rest, "grace", "admin")
    answer = await rest.ask("PATCH", f"{USERS}/{owner}", what, headers=admin)
    assert answer.status == 403
    assert answer.body["message"] == "role 'admin' lacks itself the permission billing:read"
    assert (await rest.ask("DELETE", f"{USERS}/{owner}", headers=admin)).status == 403


async def test_an_admin_does_not_promote_themselves(rest: Rest) -> None:
    user = await add(rest, "grace", "admin")
    admin = bearing(await login(rest, "grace"))
    answer = await rest.ask("PATCH", f"{USERS}/{user}", {"role": "owner"}, headers=admin)
    assert answer.status == 403


async def test_the_last_owner_stays(rest: Rest) -> None:
    first, second = await add(rest, "olga", "owner"), await add(rest, "otto", "owner")
    assert (await rest.ask("PATCH", f"{USERS}/{second}", {"isActive": False})).status == 200
    message = f"user {first} is the last owner; make another one first"
    for answer in (
        await rest.ask("PATCH", f"{USERS}/{first}", {"role": "admin"}),
        await rest.ask("PATCH", f"{USERS}/{first}", {"isActive": False}),
        await rest.ask("DELETE", f"{USERS}/{first}"),
    ):
        assert (answer.status, answer.body["message"]) == (409, message)
    assert (await rest.ask("PATCH", f"{USERS}/{second}", {"isActive": True})).status == 200
    assert (await rest.ask("DELETE", f"{USERS}/{first}")).status == 204


async def test_two_owners_do_not_remove_each_other(rest: Rest) -> None:
    owners = [await add(rest, name, "owner") for name in ("olga", "otto")]
    for path in ("PATCH", "DELETE"):
        body = {"role": "admin"} if path == "PATCH" else None
        answers = await asyncio.gather(
            *(rest.ask(path, f"{USERS}/{owner}", body) for owner in owners)
        )
        assert sorted(answer.status for answer in answers)[-1] == 409
        listed = (await rest.ask("GET", USERS)).body["users"]
        assert [user["role"] for user in listed].count("owner") == 1


async def test_a_deactivated_user_is_out_at_once(rest: Rest) -> None:
    user = await add(rest, "ada", "admin")
    answer = await login(rest, "ada")
    who = bearing(answer)
    assert (await rest.ask("GET", USERS, headers=who)).status == 200
    await rest.ask("PATCH", f"{USERS}/{user}", {"isActive": False})
    assert (await rest.ask("GET", USERS, headers=who)).status == 401
    body = {"refreshToken": answer.body["refreshToken"]}
    assert (await rest.ask("POST", "/api/v1/auth/refresh", body, role=None)).status == 401
    # What was issued before stays void when the user comes back.
    await rest.ask("PATCH", f"{USERS}/{user}", {"isActive": True})
    assert (await rest.ask("GET", USERS, headers=who)).status == 401
    assert (await login(rest, "ada")).status == 200


async def test_a_demoted_user_has_less_at_once(rest: Rest) -> None:
    user = await add(rest, "ada", "admin")
    who = bearing(await login(rest, "ada"))
    await rest.ask("PATCH", f"{USERS}/{user}", {"role": "viewer"})
    assert (await rest.ask("GET", USERS, headers=who)).status == 403
    mine = await rest.ask("GET", f"{USERS}/me/permissions", headers=who)
    assert mine.body == {"role": "viewer", "permissions": sorted(ROLES["viewer"])}


async def test_a_removed_user_is_out_at_once(rest: Rest) -> None:
    user = await add(rest, "ada")
    who = bearing(await login(rest, "ada"))
    await rest.ask("DELETE", f"{USERS}/{user}")
    assert (await rest.ask("GET", f"{USERS}/me/permissions", headers=who)).status == 401


async def test_users_of_another_tenant_are_as_if_they_did_not_exist(rest: Rest, other: str) -> None:
    theirs = await add(rest, "stranger", "viewer", tenant=other)
    for method, body in (("GET", None), ("PATCH", {}), ("PUT", {}), ("DELETE", None)):
        answers = [
            await rest.ask(method, f"{USERS}/{user}", body) for user in (theirs, 9_000_000_000)
        ]
        assert [answer.status for answer in answers] == [404, 404]
        assert answers[0].body["message"] == f"user {theirs} does not exist"
    assert (await login(rest, "stranger", tenantId=other)).status == 200


@pytest.mark.parametrize("user", ["0", "-1", "x", "9223372036854775808", "1.5", "%00"])
async def test_an_id_must_be_one(rest: Rest, user: str) -> None:
    answer = await rest.ask("GET", f"{USERS}/{user}")
    assert answer.status == 400
    assert answer.body["message"].startswith("parameter id is ")


async def test_the_built_in_roles_are_listed(rest: Rest) -> None:
    answer = await rest.ask("GET", ROLE_PATH)
    assert answer.body["count"] == 5
    assert {role["name"]: set(role["permissions"]) for role in answer.body["roles"]} == ROLES
    assert (await rest.ask("GET", f"{ROLE_PATH}/owner")).body["isBuiltIn"] is True


async def test_a_role_of_ones_own_is_made_used_changed_and_removed(rest: Rest) -> None:
    role = {"name": "night-shift", "description": "At night", "permissions": ["device:read"]}
    made = await rest.ask("POST", ROLE_PATH, role)
    assert (made.status, made.body) == (201, {**role, "isBuiltIn": False})
    assert (await rest.ask("POST", ROLE_PATH, role)).status == 409
    user = await rest.ask("POST", USERS, new(role="night-shift", mustChangePassword=False))
    assert user.status == 201
    who = bearing(await login(rest, "ada"))
    mine = f"{USERS}/me/permissions"
    assert (await rest.ask("GET", mine, headers=who)).body["permissions"] == ["device:read"]
    assert (await rest.ask("GET", USERS, headers=who)).status == 403

    path = f"{ROLE_PATH}/night-shift"
    wider = {"permissions": ["user:read", "device:read", "device:read"]}
    changed = await rest.ask("PUT", path, wider)
    assert changed.body["permissions"] == ["device:read", "user:read"]
    assert (await rest.ask("GET", path)).body == changed.body
    assert (await rest.ask("GET", USERS, headers=who)).status == 200

    answer = await rest.ask("DELETE", path)
    assert answer.status == 409
    assert answer.body["message"] == "role 'night-shift' is that of some user"
    await rest.ask("DELETE", f"{USERS}/{user.body['id']}")
    assert (await rest.ask("DELETE", path)).status == 204
    assert (await rest.ask("GET", path)).status == 404
    [entry] = await journal(rest, "role.updated")
    assert entry["subject"] == "role/night-shift"
    assert entry["before"] == {"description": "At night", "permissions": ["device:read"]}
    assert entry["after"] == {"description": "", "permissions": ["device:read", "user:read"]}
    assert len(await journal(rest, "role.created")) == len(await journal(rest, "role.deleted")) == 1


async def test_nobody_makes_or_changes_a_role_that_permits_more_than_they_may(rest: Rest) -> None:
    admin = await someone(rest, "grace", "admin")
    rich = {"name": "rich", "permissions": ["billing:read"]}
    assert (await rest.ask("POST", ROLE_PATH, rich, headers=admin)).status == 403
    assert (await rest.ask("POST", ROLE_PATH, rich)).status == 201
    path = f"{ROLE_PATH}/rich"
    for method, body in (("PUT", {"permissions": []}), ("DELETE", None)):
        assert (await rest.ask(method, path, body, headers=admin)).status == 403
    assert (await rest.ask("POST", USERS, new(role="rich"), headers=admin)).status == 403


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ({"name": "owner", "permissions": []}, 409, "role 'owner' is built in"),
        ({"name": "Night", "permissions": []}, 400, 'field name is "Night"'),
        (
            {"name": "night", "permissions": ["root"]},
            400,
            "field permissions holds 'root', which is no permission",
        ),
    ],
)
async def test_a_role_must_be_described_well(
    rest: Rest, body: dict[str, Any], status: int, message: str
) -> None:
    answer = await rest.ask("POST", ROLE_PATH, body)
    assert answer.status == status
    assert answer.body["message"].startswith(message)


async def test_built_in_roles_are_not_changed(rest: Rest) -> None:
    for method, body in (("PUT", {"permissions": []}), ("DELETE", None)):
        assert (await rest.ask(method, f"{ROLE_PATH}/viewer", body)).status == 409


async def test_roles_of_another_tenant_are_as_if_they_did_not_exist(rest: Rest, other: str) -> None:
    role = {"name": "secret", "permissions": sorted(PERMISSIONS)}
    assert (await rest.ask("POST", ROLE_PATH, role, tenant=other)).status == 201
    for method, body in (("GET", None), ("PUT", {"permissions": []}), ("DELETE", None)):
        answer = await rest.ask(method, f"{ROLE_PATH}/secret", body)
        assert (answer.status, answer.body["message"]) == (404, "role 'secret' does not exist")
    assert (await rest.ask("GET", ROLE_PATH)).body["count"] == 5
    assert (await rest.ask("POST", USERS, new(role="secret"))).status == 400


async def test_the_journal_is_filtered_and_read_in_pages(rest: Rest, other: str) -> None:
    await add(rest, "stranger", tenant=other)
    ids = [(await rest.ask("POST", USERS, new(name))).body["id"] for name in ("ada", "bob", "cyd")]
    first = await rest.ask("GET", "/api/v1/audit-log?limit=2")
    rest_of_it = await rest.ask("GET", f"/api/v1/audit-log?cursor={first.body['cursor']}")
    entries = [*first.body["entries"], *rest_of_it.body["entries"]]
    assert [entry["subject"] for entry in entries] == [f"user/{one}" for one in reversed(ids)]
    assert rest_of_it.body["cursor"] is None
    one = await rest.ask("GET", f"/api/v1/audit-log?subject=user/{ids[1]}&actor=development")
    assert one.body["entries"] == entries[1:2]
    since = entries[1]["createdAt"]
    assert (await rest.ask("GET", f"/api/v1/audit-log?since={since}")).body["count"] == 2
    assert (await rest.ask("GET", f"/api/v1/audit-log?until={since}")).body["count"] == 1
    assert (await rest.ask("GET", "/api/v1/audit-log?actor=nobody")).body["count"] == 0
    answer = await rest.ask("GET", "/api/v1/audit-log?since=0001-13-01T00:00:00%2B14:00")
    assert answer.status == 400
    viewer = await someone(rest, "vera", "viewer")
    assert (await rest.ask("GET", "/api/v1/audit-log", headers=viewer)).status == 403
