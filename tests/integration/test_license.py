"""The licence: what it lets in, and what it never stops."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from uuid import uuid4

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tests.agent_double import AgentDouble
from tests.integration.test_registration import ByTable, provisioning_key
from tests.rest import KEY, Rest, open_rest

from iotistica.api import auth_license, main
from iotistica.errors import ConfigError
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.streams import Streams

NOW = int(time.time())
OURS, FOREIGN = generate_private_key(65537, 2048), generate_private_key(65537, 2048)
PUBLIC = OURS.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode()
CLAIMS: dict[str, Any] = {
    "tenantId": "73eddd385ce8",
    "customerName": "Example Works",
    "plan": "professional",
    "features": {"maxDevices": 2, "canExecuteJobs": True},
    "limits": {"maxUsers": 5},
    "subscription": {"status": "active"},
    "iat": NOW,
    "exp": NOW + 86_400,
}

Licensed = Callable[..., AbstractAsyncContextManager[Rest]]


def signed(key: Any = OURS, algorithm: str = "RS256", **changes: Any) -> str:
    claims = {name: one for name, one in {**CLAIMS, **changes}.items() if one is not None}
    return jwt.encode(claims, key, algorithm=algorithm)


def settings(token: str, **more: Any) -> dict[str, Any]:
    return {"license_key": token, "license_public_key": PUBLIC, **more}


@pytest.fixture
def licensed(pool: Pool, streams: Streams, tenant: str, redis_url: str) -> Licensed:
    """The API under a licence with these claims."""

    def opened(**changes: Any) -> AbstractAsyncContextManager[Rest]:
        return open_rest(pool, streams, tenant, redis_url=redis_url, **settings(signed(**changes)))

    return opened


@pytest.fixture
async def two(licensed: Licensed) -> AsyncIterator[Rest]:
    """The API where two agents are allowed."""
    async with licensed() as rest:
        yield rest


async def make(rest: Rest, name: str = "a") -> Any:
    return await rest.ask("POST", "/api/v1/agents", {"deviceName": name, "uuid": str(uuid4())})


async def test_the_licence_is_shown_with_what_is_used_of_it(two: Rest) -> None:
    await make(two)
    answer = await two.ask("GET", "/api/v1/license", role="viewer")
    assert answer.status == 200
    expires = datetime.fromtimestamp(NOW + 86_400, UTC).isoformat().replace("+00:00", "Z")
    assert answer.body == {
        "mode": "licensed",
        "plan": "professional",
        "customer": {"id": "73eddd385ce8", "name": "Example Works"},
        "features": CLAIMS["features"],
        "limits": CLAIMS["limits"],
        "subscription": CLAIMS["subscription"],
        "maxDevices": 2,
        "used": 1,
        "expiresAt": expires,
        "isExpired": False,
        "usage": {"agents": {"current": 1, "max": 2, "percentUsed": 50}},
    }


async def test_without_a_licence_nothing_is_limited(rest: Rest) -> None:
    for _ in range(3):
        assert (await make(rest)).status == 201
    body = (await rest.ask("GET", "/api/v1/license")).body
    assert (body["mode"], body["plan"], body["maxDevices"], body["used"]) == (
        "community",
        "community",
        None,
        3,
    )
    assert (body["expiresAt"], body["isExpired"], body["customer"]) == (None, False, None)
    assert (await rest.ask("GET", "/api/v1/license", role=None)).status == 401


async def test_no_more_agents_come_in_than_are_allowed(two: Rest) -> None:
    first, second = await make(two), await make(two)
    assert (first.status, second.status) == (201, 201)
    third = await make(two)
    assert (third.status, third.body["message"]) == (
        403,
        "the licence allows 2 active agents, and as many there are",
    )
    # One that is kept out makes room; both are not let in again.
    uuid = first.body["device"]["uuid"]
    active = f"/api/v1/agents/{uuid}/active"
    assert (await two.ask("PATCH", active, {"is_active": False})).status == 200
    assert (await make(two)).status == 201
    assert (await two.ask("PATCH", active, {"is_active": True})).status == 403
    bulk = {"action": "active", "active": True, "filter": {"uuids": [uuid]}}
    assert (await two.ask("POST", "/api/v1/agents/bulk", bulk)).status == 403
    assert (await two.ask("GET", "/api/v1/license")).body["used"] == 2


async def test_registrations_at_once_are_never_more_than_allowed(two: Rest) -> None:
    # By keys of their own, so that no row of a key makes them wait for each other.
    agents = [
        AgentDouble(ask=ByTable(two), provisioning_key=await provisioning_key(two))
        for _ in range(6)
    ]
    answers = await asyncio.gather(*(agent.register() for agent in agents))
    assert sorted(answer.status for answer in answers) == [200, 200, 403, 403, 403, 403]
    assert (await two.ask("GET", "/api/v1/license")).body["used"] == 2
    # Who is in is answered again, as ever.
    known = agents[[answer.status for answer in answers].index(200)]
    assert (await known.register()).status == 200


async def test_an_agent_that_was_expected_has_its_place(two: Rest) -> None:
    key = await provisioning_key(two)
    uuid = (await make(two)).body["device"]["uuid"]
    await make(two)
    expected = AgentDouble(ask=ByTable(two), provisioning_key=key, uuid=uuid)
    assert (await expected.register()).status == 200
    other = AgentDouble(ask=ByTable(two), provisioning_key=key)
    assert (await other.register()).status == 403


async def test_an_expired_licence_keeps_new_agents_out_and_no_others(
    licensed: Licensed, pool: Pool
) -> None:
    async with licensed() as rest:
        agent = AgentDouble(ask=ByTable(rest), provisioning_key=await provisioning_key(rest))
        await agent.register()
        await agent.exchange(agent.sign(agent.registration["challenge"]))
    async with licensed(exp=NOW - 60) as rest:
        agent.ask = ByTable(rest)
        assert (await agent.call("GET", f"/api/v1/device/{agent.uuid}/state")).status == 200
        assert (await agent.register()).status == 200
        refused = await make(rest)
        assert refused.status == 403
        assert "the licence expired at" in refused.body["message"]
        new = AgentDouble(ask=ByTable(rest), provisioning_key=agent.provisioning_key)
        assert (await new.register()).status == 403
        body = (await rest.ask("GET", "/api/v1/license")).body
        assert (body["isExpired"], body["used"]) == (True, 1)


def load(token: str, **more: Any) -> auth_license.License | None:
    return auth_license.read(Settings.load(**settings(token, **more)))


def test_a_licence_is_read_from_the_reference_s_names(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    path = tmp_path / "key.pem"
    path.write_text(PUBLIC)
    monkeypatch.setenv("IOTISTIC_LICENSE_KEY", signed())
    monkeypatch.setenv("LICENSE_PUBLIC_KEY_PATH", str(path))
    found = auth_license.read(Settings.load())
    assert found is not None
    assert (found.plan, found.allowance.most_agents) == ("professional", 2)
    monkeypatch.delenv("LICENSE_PUBLIC_KEY_PATH")
    monkeypatch.setenv("LICENSE_PUBLIC_KEY", PUBLIC.replace("\n", "\\n"))
    assert auth_license.read(Settings.load()) == found
    path = tmp_path / "none.pem"
    monkeypatch.setenv("LICENSE_PUBLIC_KEY_PATH", str(path))
    with pytest.raises(ConfigError, match="cannot be read"):
        auth_license.read(Settings.load())


@pytest.mark.parametrize(
    ("token", "message"),
    [
        (signed(FOREIGN), "is not a licence that LICENSE_PUBLIC_KEY verifies"),
        (signed("k" * 40, "HS256"), "is not a licence that"),
        (jwt.encode(CLAIMS, None, algorithm="none"), "is not a licence that"),
        ("nonsense", "is not a licence that"),
        (signed(features=[]), "the claim features must be an object"),
        (signed(features={"maxDevices": "2"}), "features.maxDevices is '2'"),
        (signed(features={"maxDevices": -1}), "features.maxDevices is -1"),
        (signed(exp=None, expiresAt="soon"), "must be seconds since 1970"),
    ],
)
def test_a_licence_that_is_none_stops_the_start(token: str, message: str) -> None:
    with pytest.raises(ConfigError, match="IOTISTICA_LICENSE_KEY") as raised:
        load(token)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_the_service_does_not_start_with_a_licence_of_somebody_else() -> None:
    servers = {
        "database_url": "postgresql://127.0.0.1/none",
        "redis_url": "redis://127.0.0.1",
        "mqtt_url": "mqtt://127.0.0.1",
        "jwt_secret": KEY,
        "api_port": 0,
    }
    with pytest.raises(ConfigError, match="IOTISTICA_LICENSE_KEY is not a licence"):
        main.check(Settings.load(**servers, **settings(signed(FOREIGN))))
    main.check(Settings.load(**servers, **settings(signed(exp=NOW - 60))))


def test_a_licence_needs_the_key_of_its_maker() -> None:
    with pytest.raises(ConfigError, match="neither LICENSE_PUBLIC_KEY nor"):
        auth_license.read(Settings.load(license_key=signed()))
    with pytest.raises(ConfigError, match="is not a licence that LICENSE_PUBLIC_KEY verifies"):
        load(signed(), license_public_key="no key")


def test_the_earlier_of_two_expiries_counts_and_none_is_forever() -> None:
    both = load(signed(expiresAt=NOW + 5))
    assert both is not None
    assert both.allowance.until == datetime.fromtimestamp(NOW + 5, UTC)
    none = load(signed(exp=None, features={}))
    assert none is not None
    assert not none.allowance.is_bounded
