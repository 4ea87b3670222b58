"""Keys of services, and how every process learns that one is revoked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from tests.people import journal, someone
from tests.rest import KEY, Rest

from iotistica.api.auth import Tokens
from iotistica.api.http import Request
from iotistica.api.identity import Identity
from iotistica.api.principal import Principal
from iotistica.api.route import Route
from iotistica.errors import Denied
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool

PATH = "/api/v1/auth/api-keys"
OTHER = "another-tenant"


async def make(rest: Rest, name: str = "historian", **more: Any) -> dict[str, Any]:
    answer = await rest.ask("POST", PATH, {"name": name, "permissions": ["user:read"], **more})
    assert answer.status == 201, answer.body
    body: dict[str, Any] = answer.body
    return body


def bearer(key: str) -> dict[str, str]:
    return {"authorization": f"Bearer {key}"}


@pytest.fixture
async def elsewhere(pool: Pool, redis_url: str) -> AsyncIterator[Identity]:
    """Another process of the same deployment."""
    settings = Settings.load(redis_url=redis_url)
    identity = Identity(settings, pool, Tokens(KEY.encode()))
    identity.start()
    async with asyncio.timeout(5):
        await identity.hears.wait()
    yield identity
    await identity.close()


async def identify(identity: Identity, headers: dict[str, str]) -> Principal:
    route: Any = None
    request = Request(method="GET", path="/", headers=headers)
    return await identity.callers.identify(request, route)


async def denial(identity: Identity, headers: dict[str, str]) -> str:
    """Why they are denied, which must be so within a second."""
    async with asyncio.timeout(1):
        while True:
            try:
                await identify(identity, headers)
            except Denied as error:
                return str(error)
            await asyncio.sleep(0.005)


async def test_a_key_is_shown_once_and_stored_as_a_digest(
    rest: Rest, connection: asyncpg.Connection
) -> None:
    made = await make(rest, description="of plant 3")
    key = made.pop("key")
    assert key.startswith("iotapi_")
    assert len(key) == 50
    assert made.pop("warning").startswith("Keep this key now")
    assert made == {
        **made,
        "name": "historian",
        "description": "of plant 3",
        "keyPrefix": key[:13],
        "permissions": ["user:read"],
        "createdBy": None,
        "expiresAt": None,
        "lastUsedAt": None,
    }
    listed = await rest.ask("GET", PATH)
    assert listed.body == {"count": 1, "keys": [made], "cursor": None}
    for table in ("api_keys", "audit_logs"):
        rows = await connection.fetch(f"SELECT t::text AS row FROM {table} t")
        assert not [row for row in rows if key[13:] in row["row"]]
    [entry] = await journal(rest, "api_key.created")
    assert entry["after"] == {
        "name": "historian",
        "description": "of plant 3",
        "permissions": ["user:read"],
        "expiresAt": None,
    }


async def test_a_key_calls_by_either_header_with_its_permissions(rest: Rest) -> None:
    made = await make(rest)
    for headers in ({"x-api-key": made["key"]}, bearer(made["key"])):
        assert (await rest.ask("GET", "/api/v1/users", headers=headers, role=None)).status == 200
        answer = await rest.ask("DELETE", "/api/v1/users/1", headers=headers, role=None)
        assert answer.status == 403
        assert answer.body["message"] == "the API key 'historian' lacks the permission user:delete"
        answer = await rest.ask("GET", "/api/v1/auth/me", headers=headers, role=None)
        assert (answer.status, answer.body["message"]) == (403, "only a user may do this")


@pytest.mark.parametrize("key", ["iotapi_", "iotapi_" + "A" * 43, "iotapi_\u00e4"])
async def test_a_key_that_does_not_exist_is_denied(rest: Rest, key: str) -> None:
    answer = await rest.ask("GET", "/api/v1/users", headers={"x-api-key": key}, role=None)
    assert (answer.status, answer.body["message"]) == (401, "the API key is not valid")


async def test_the_key_of_another_tenant_reads_that_tenant_only(rest: Rest, pool: Pool) -> None:
    await AgentStore(pool).ensure_tenant(OTHER)
    made = await rest.ask("POST", PATH, {"name": "x", "permissions": ["user:read"]}, tenant=OTHER)
    await someone(rest, "ada", "viewer")
    listed = await rest.ask("GET", "/api/v1/users", headers=bearer(made.body["key"]), role=None)
    assert listed.body["count"] == 0


async def test_nobody_makes_a_key_that_permits_more_than_they_may(rest: Rest) -> None:
    admin = await someone(rest, "grace", "admin")
    body = {"name": "x", "permissions": ["billing:read"]}
    assert (await rest.ask("POST", PATH, body, headers=admin)).status == 403
    maker = await make(rest, "maker", permissions=["api-key:write", "device:read"])
    for permissions, status in ((["device:read"], 201), (["device:write"], 403)):
        body = {"name": "child", "permissions": permissions}
        answer = await rest.ask("POST", PATH, body, headers=bearer(maker["key"]), role=None)
        assert answer.status == status


async def test_the_maker_is_remembered(rest: Rest) -> None:
    admin = await someone(rest, "grace", "admin")
    me = await rest.ask("GET", "/api/v1/auth/me", headers=admin)
    body = {"name": "x", "permissions": ["user:read"]}
    made = await rest.ask("POST", PATH, body, headers=admin)
    assert made.body["createdBy"] == me.body["user"]["id"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ({"permissions": []}, "field permissions is []"),
        ({"permissions": ["root"]}, "field permissions holds 'root', which is no permission"),
        ({"expiresAt": "2020-01-01T00:00:00Z"}, "field expiresAt is '2020-01-01T00:00:00Z'"),
        ({"expiresAt": "soon"}, "parameter expiresAt is 'soon'"),
        ({"expiresAt": "2099-01-01T00:00:00Z", "expiresInDays": 1}, "the body: give one of"),
        ({"expiresInDays": 0}, "field expiresInDays is 0"),
    ],
)
async def test_a_key_must_be_described_well(rest: Rest, more: dict[str, Any], message: str) -> None:
    answer = await rest.ask("POST", PATH, {"name": "x", "permissions": ["user:read"], **more})
    assert answer.status == 400
    assert answer.body["message"].startswith(message)


async def test_a_name_is_free_again_when_its_key_is_revoked(rest: Rest) -> None:
    made = await make(rest)
    answer = await rest.ask("POST", PATH, {"name": "historian", "permissions": ["user:read"]})
    assert (answer.status, answer.body["message"]) == (
        409,
        "an API key named 'historian' exists",
    )
    assert (await rest.ask("DELETE", f"{PATH}/{made['id']}")).status == 204
    await make(rest)


async def test_an_expired_key_is_denied_though_it_is_remembered(rest: Rest, pool: Pool) -> None:
    expiry = datetime.now(UTC) + timedelta(seconds=1)
    made = await make(rest, expiresAt=expiry.isoformat())
    headers = bearer(made["key"])
    assert (await rest.ask("GET", "/api/v1/users", headers=headers, role=None)).status == 200
    async with asyncio.timeout(10):
        while (await rest.ask("GET", "/api/v1/users", headers=headers, role=None)).status == 200:
            await asyncio.sleep(0.05)
    assert datetime.now(UTC) >= expiry


async def test_a_revoked_key_is_denied_everywhere_within_a_second(
    rest: Rest, elsewhere: Identity
) -> None:
    made = await make(rest)
    headers = bearer(made["key"])
    assert (await identify(elsewhere, headers)).name == "historian"
    assert (await rest.ask("GET", "/api/v1/users", headers=headers, role=None)).status == 200
    assert (await rest.ask("DELETE", f"{PATH}/{made['id']}")).status == 204
    assert (await rest.ask("GET", "/api/v1/users", headers=headers, role=None)).status == 401
    assert await denial(elsewhere, headers) == "the API key is not valid"
    assert (await rest.ask("DELETE", f"{PATH}/{made['id']}")).status == 404
    [entry] = await journal(rest, "api_key.revoked")
    assert entry["before"]["name"] == "historian"


async def test_a_deactivated_user_is_denied_everywhere_within_a_second(
    rest: Rest, elsewhere: Identity
) -> None:
    who = await someone(rest, "ada", "admin")
    user = (await rest.ask("GET", "/api/v1/auth/me", headers=who)).body["user"]["id"]
    assert (await identify(elsewhere, who)).name == "ada"
    await rest.ask("PATCH", f"/api/v1/users/{user}", {"isActive": False})
    assert await denial(elsewhere, who) == "the user is not active"


async def test_a_lost_notice_is_made_good_by_the_expiry(pool: Pool, redis_url: str) -> None:
    settings = Settings.load(redis_url=redis_url, user_cache_s=0, api_key_cache_s=0)
    deaf = Identity(settings, pool, Tokens(KEY.encode()))
    await AgentStore(pool).ensure_tenant(OTHER)
    key, prefix, digest = deaf.services.make()
    await pool.execute(
        "INSERT INTO api_keys (tenant_id, name, key_hash, key_prefix, permissions) "
        "VALUES ($1, 'x', $2, $3, '{user:read}')",
        OTHER,
        digest,
        prefix,
    )
    assert (await identify(deaf, bearer(key))).kind == "service"
    await pool.execute("UPDATE api_keys SET revoked_at = now()")
    with pytest.raises(Denied, match="the API key is not valid"):
        await identify(deaf, bearer(key))
    await deaf.close()


async def test_a_use_is_noted_later(rest: Rest) -> None:
    made = await make(rest)
    await rest.ask("GET", "/api/v1/users", headers=bearer(made["key"]), role=None)
    [before] = (await rest.ask("GET", PATH)).body["keys"]
    assert before["lastUsedAt"] is None
    await rest.identity.services.flush()
    [after] = (await rest.ask("GET", PATH)).body["keys"]
    noted = datetime.fromisoformat(after["lastUsedAt"])
    assert datetime.now(UTC) - noted < timedelta(minutes=1)


async def test_keys_of_another_tenant_are_as_if_they_did_not_exist(rest: Rest, pool: Pool) -> None:
    await AgentStore(pool).ensure_tenant(OTHER)
    body = {"name": "x", "permissions": ["user:read"]}
    theirs = (await rest.ask("POST", PATH, body, tenant=OTHER)).body
    assert (await rest.ask("GET", PATH)).body["count"] == 0
    answer = await rest.ask("DELETE", f"{PATH}/{theirs['id']}")
    assert answer.status == 404
    assert answer.body["message"] == f"API key {theirs['id']} does not exist"
    headers = bearer(theirs["key"])
    assert (await rest.ask("GET", "/api/v1/users", headers=headers, role=None)).status == 200


class OneAgent:
    """Knows one agent, as the store of agents will."""

    async def identify(self, key: str) -> Principal | None:
        if key == "a" * 64:
            return Principal(kind="agent", tenant="t", id="7b0c7c4e-0b0e-4d4f-9a53-8d0d54a7a2f1")
        return None


@pytest.mark.parametrize("header", ["x-device-api-key", "authorization"])
async def test_an_agent_calls_by_either_header(pool: Pool, redis_url: str, header: str) -> None:
    identity = Identity(
        Settings.load(redis_url=redis_url), pool, Tokens(KEY.encode()), agents=OneAgent()
    )
    scheme = "Bearer " if header == "authorization" else ""
    assert (await identify(identity, {header: scheme + "a" * 64})).kind == "agent"
    with pytest.raises(Denied, match="the credentials are not valid"):
        await identify(identity, {header: scheme + "b" * 64})
    await identity.close()


async def test_without_credentials_nobody_passes(rest: Rest) -> None:
    secured = [route for route in rest.table.routes if not route.access.public]
    assert len(secured) > 15
    for route in secured:
        answer = await rest.ask(route.method, _filled(route), role=None)
        assert answer.status == 401, route.path
        assert answer.headers["www-authenticate"] == "Bearer"


def _filled(route: Route) -> str:
    return "/".join("1" if level.startswith(":") else level for level in route.path.split("/"))
