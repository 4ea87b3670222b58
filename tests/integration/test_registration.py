"""Registration of agents by the reference's three steps, and what goes wrong on the way."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import secrets
import uuid
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from cryptography.hazmat.primitives.asymmetric.ec import SECP384R1, generate_private_key
from tests.agent_double import AgentDouble, Response, ed25519, p256
from tests.rest import KEY, Rest

from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool

Make = Callable[..., AgentDouble]


class ByTable:
    """Carries the double's requests to the table of routes."""

    def __init__(self, rest: Rest, address: str = "192.0.2.1") -> None:
        self._rest = rest
        self._address = address

    async def __call__(
        self, method: str, path: str, body: Any, headers: Mapping[str, str]
    ) -> Response:
        told = {"x-forwarded-for": self._address, **headers}
        answer = await self._rest.ask(method, path, body, role=None, headers=told)
        return Response(answer.status, answer.body, answer.headers)


async def provisioning_key(rest: Rest, *, tenant: str | None = None, **changes: Any) -> str:
    name = secrets.token_hex(4)
    fleet = await rest.ask("POST", "/api/v1/fleets", {"fleetName": name}, tenant=tenant)
    body = {"fleetUuid": fleet.body["fleet_uuid"], **changes}
    made = await rest.ask("POST", "/api/v1/provisioning-keys", body, tenant=tenant)
    assert made.status == 201, made.body
    return str(made.body["key"])


@pytest.fixture
async def make(rest: Rest) -> Make:
    """Makes agents that may register."""
    key = await provisioning_key(rest)

    def double(**changes: Any) -> AgentDouble:
        return AgentDouble(**{"ask": ByTable(rest), "provisioning_key": key, **changes})

    return double


async def test_a_registration_names_the_default_broker_of_the_tenant(
    rest: Rest, make: Make
) -> None:
    broker = {
        "name": "main",
        "host": "mqtt.example.com",
        "port": 8883,
        "protocol": "mqtts",
        "username": "not the agent's",
        "client_id_prefix": "plant",
        "is_default": True,
    }
    made = (await rest.ask("POST", "/api/v1/brokers", broker)).body["data"]
    agent = make()
    mqtt = (await agent.register()).body["mqtt"]
    assert mqtt["broker"] == "mqtts://mqtt.example.com:8883"
    assert mqtt["brokerConfig"] == {
        "protocol": "mqtts",
        "host": "mqtt.example.com",
        "port": 8883,
        "username": f"agent_{agent.uuid}",
        "password": mqtt["password"],
        "useTls": True,
        "verifyCertificate": True,
        "clientIdPrefix": "plant",
        "keepAlive": 60,
        "cleanSession": True,
        "reconnectPeriod": 1000,
        "connectTimeout": 30000,
    }
    summary = (await rest.ask("GET", "/api/v1/brokers/summary")).body["data"]
    assert [(one["id"], one["agents"]) for one in summary] == [(made["id"], 1)]
    path = f"/api/v1/brokers/{made['id']}"
    await rest.ask("PUT", path, {"is_active": False})
    assert (await agent.register()).body["mqtt"]["broker"] == "mqtt://localhost:1883"


async def test_a_registration_answers_what_agents_expect(rest: Rest, make: Make) -> None:
    agent = make(name="press 7")
    before = datetime.now(UTC)
    answer = await agent.register()
    assert answer.status == 200
    body = dict(answer.body)
    mqtt = body.pop("mqtt")
    created = datetime.fromisoformat(body.pop("createdAt"))
    assert before - timedelta(seconds=5) < created < datetime.now(UTC) + timedelta(seconds=5)
    assert len(base64.urlsafe_b64decode(body.pop("challenge") + "=")) == 32
    fleets = (await rest.ask("GET", "/api/v1/fleets")).body["fleets"]
    assert body == {
        "id": body["id"],
        "uuid": agent.uuid,
        "deviceName": "press 7",
        "deviceType": "standalone",
        "tenantId": rest.tenant,
        "fleetUuid": fleets[0]["fleet_uuid"],
    }
    assert isinstance(body["id"], int)
    assert mqtt["username"] == f"agent_{agent.uuid}"
    assert len(mqtt["password"]) == 24
    assert len(base64.b64decode(mqtt["password"])) == 16
    assert mqtt["broker"] == "mqtt://localhost:1883"
    assert mqtt["brokerConfig"] == {
        "protocol": "mqtt",
        "host": "localhost",
        "port": 1883,
        "username": mqtt["username"],
        "password": mqtt["password"],
        "useTls": False,
        "clientIdPrefix": "Iotistic",
        "keepAlive": 60,
        "cleanSession": False,
        "reconnectPeriod": 5000,
        "connectTimeout": 30000,
    }
    assert agent.topic("endpoints/#") in mqtt["topics"]["publish"]
    assert agent.topic("jobs/notify-next") in mqtt["topics"]["subscribe"]


@pytest.mark.parametrize("key", [ed25519, p256])
async def test_the_three_steps_let_an_agent_in(rest: Rest, make: Make, key: Any) -> None:
    agent = make(private_key=key())
    await agent.register()
    refused = await agent.call("GET", f"/api/v1/device/{agent.uuid}/ping")
    assert (refused.status, refused.body["message"]) == (
        403,
        f"agent {agent.uuid} has not completed its key exchange",
    )
    answer = await agent.exchange(agent.sign(agent.registration["challenge"]))
    assert answer.status == 200
    assert answer.body["status"] == "ok"
    assert answer.body["device"] == {
        "id": agent.registration["id"],
        "uuid": agent.uuid,
        "deviceName": "double",
    }
    ping = await agent.call("GET", f"/api/v1/device/{agent.uuid}/ping")
    assert (ping.status, ping.body["status"], ping.body["uuid"]) == (200, "ok", agent.uuid)
    shown = await agent.call("GET", f"/api/v1/devices/{agent.uuid}")
    assert shown.body["provisioning_state"] == "provisioned"
    assert shown.body["pop_verified"] is True
    assert shown.body["agent_version"] == "1.4.2"
    assert shown.body["mac_address"] == "02:00:00:00:00:01"
    assert shown.body["os_version"] == "Debian 12"


async def test_no_secret_is_stored(connection: asyncpg.Connection, make: Make) -> None:
    agent = make()
    await agent.come_in()
    row = await connection.fetchrow("SELECT * FROM agents WHERE uuid = $1", agent.uuid)
    key = KEY.encode()
    mac = hmac.digest(key, f"device-api-key:{agent.api_key}".encode(), hashlib.sha256).hex()
    assert row["device_api_key_hash"] == f"hmac-sha256$device-api-key${mac}"
    stored = await connection.fetchrow("SELECT * FROM provisioning_keys")
    mac = hmac.digest(
        key, f"provisioning-key:{agent.provisioning_key}".encode(), hashlib.sha256
    ).hex()
    assert stored["key_hash"] == f"hmac-sha256$provisioning-key${mac}"
    assert stored["key_hash_fast"] == mac
    user = await connection.fetchrow("SELECT * FROM mqtt_users")
    secret_texts = (agent.api_key, agent.provisioning_key, agent.registration["mqtt"]["password"])
    for table in (row, stored, user):
        text = str(dict(table))
        assert not any(secret in text for secret in secret_texts)
    assert user["password_hash"].startswith("$7$101$")
    rules = await connection.fetch("SELECT username, topic, access FROM mqtt_acls")
    assert [tuple(rule) for rule in rules] == [(f"agent_{agent.uuid}", agent.topic("#"), 7)]


async def test_a_repeated_registration_is_the_same_again(
    connection: asyncpg.Connection, make: Make
) -> None:
    """⚠ The reference answers 409."""
    agent = make()
    first = await agent.register()
    again = await agent.register()
    assert again.status == 200
    assert again.body == first.body
    await agent.exchange(agent.sign(again.body["challenge"]))
    later = await agent.register()
    assert later.status == 200
    assert later.body["mqtt"] == first.body["mqtt"]
    assert later.body["challenge"] != first.body["challenge"]
    assert (await agent.call("GET", f"/api/v1/device/{agent.uuid}/ping")).status == 200
    assert await connection.fetchval("SELECT agents_provisioned FROM provisioning_keys") == 1


async def test_a_repeated_key_exchange_is_the_same_again(make: Make) -> None:
    agent = make()
    await agent.register()
    signature = agent.sign(agent.registration["challenge"])
    first = await agent.exchange(signature)
    again = await agent.exchange(signature)
    assert (first.status, again.status) == (200, 200)
    assert again.body == first.body


async def test_an_open_challenge_is_the_answer_when_it_is_asked_again(make: Make) -> None:
    """⚠ The reference answers 409 while a challenge is open."""
    agent = make()
    await agent.register()
    first, again = await agent.challenge(), await agent.challenge()
    assert (first.status, again.status) == (200, 200)
    assert first.body == again.body
    assert first.body["challenge"] == agent.registration["challenge"]
    expires = datetime.fromisoformat(first.body["expiresAt"])
    left_s = (expires - datetime.now(UTC)).total_seconds()
    assert 290 < left_s < 301


async def test_a_challenge_is_good_once_and_for_its_time(
    connection: asyncpg.Connection, make: Make
) -> None:
    agent = make()
    await agent.register()
    used = agent.sign(agent.registration["challenge"])
    assert (await agent.exchange(used)).status == 200
    fresh = (await agent.challenge()).body["challenge"]
    assert fresh != agent.registration["challenge"]
    refused = await agent.exchange(used)
    assert refused.status == 401
    await connection.execute(
        "UPDATE agents SET last_challenge_expires_at = now() - interval '1 second'"
    )
    late = await agent.exchange(agent.sign(fresh))
    assert (late.status, late.body["message"]) == (401, "there is no open challenge; ask for one")
    other = (await agent.challenge()).body["challenge"]
    assert other != fresh
    assert (await agent.exchange(agent.sign(other))).status == 200


async def test_signatures_of_others_prove_nothing(make: Make) -> None:
    agent = make()
    await agent.register()
    challenge = agent.registration["challenge"]
    thief = make(uuid=agent.uuid, api_key=agent.api_key)
    wrong = await thief.exchange(thief.sign(challenge))
    assert wrong.status == 401
    assert "signature" in wrong.body["message"]
    garbage = await agent.exchange("%%%")
    assert (garbage.status, garbage.body["message"]) == (400, "field signature must be base64")
    # A wrong one costs the right one nothing.
    assert (await agent.exchange(agent.sign(challenge))).status == 200


async def test_the_key_exchange_needs_its_header_and_an_agent(rest: Rest, make: Make) -> None:
    agent = make()
    await agent.register()
    path = f"/api/v1/device/{agent.uuid}/key-exchange"
    body = {"signature": agent.sign(agent.registration["challenge"])}
    bare = await rest.ask("POST", path, body, role=None)
    assert (bare.status, bare.body["message"]) == (401, "the header x-agent-key is missing")
    unknown = f"/api/v1/device/{uuid.uuid4()}"
    headers = {"x-agent-key": "k"}
    answer = await rest.ask("POST", f"{unknown}/key-exchange", body, role=None, headers=headers)
    assert answer.status == 404
    assert (await rest.ask("POST", f"{unknown}/challenge", role=None)).status == 404
    other = {**body, "uuid": str(uuid.uuid4())}
    assert (await rest.ask("POST", path, other, role=None, headers=headers)).status == 400


async def test_other_keys_for_a_known_uuid_are_refused(make: Make) -> None:
    agent = make()
    await agent.come_in()
    taken = f"agent {agent.uuid} cannot be registered with these keys; the uuid or a key is taken"
    for thief in (
        make(uuid=agent.uuid),
        make(uuid=agent.uuid, api_key=agent.api_key),
        make(uuid=agent.uuid, private_key=agent.private_key),
    ):
        answer = await thief.register()
        assert (answer.status, answer.body["message"]) == (409, taken)
    twin = make(api_key=agent.api_key)
    assert (await twin.register()).status == 409


async def test_an_agent_of_another_tenant_is_refused_by_the_same_words(
    rest: Rest, pool: Pool, make: Make
) -> None:
    agent = make()
    await agent.come_in()
    foreign_tenant = secrets.token_hex(6)
    await AgentStore(pool).ensure_tenant(foreign_tenant)
    key = await provisioning_key(rest, tenant=foreign_tenant)
    foreign = make(provisioning_key=key, uuid=agent.uuid)
    known = make(uuid=agent.uuid)
    assert (await foreign.register()).body == (await known.register()).body
    # Not even with the agent's own keys.
    same = make(
        provisioning_key=key,
        uuid=agent.uuid,
        api_key=agent.api_key,
        private_key=agent.private_key,
    )
    assert (await same.register()).status == 409


async def test_a_key_lets_in_no_more_than_it_may_however_many_come_at_once(
    rest: Rest, connection: asyncpg.Connection, make: Make
) -> None:
    key = await provisioning_key(rest, maxDevices=3)
    agents = [make(provisioning_key=key) for _ in range(12)]
    answers = await asyncio.gather(*(agent.register() for agent in agents))
    assert sorted(answer.status for answer in answers) == [200] * 3 + [401] * 9
    refused = {answer.body["message"] for answer in answers if answer.status == 401}
    assert refused == {"the provisioning key has let in as many agents as it may"}
    counts = await connection.fetchrow(
        "SELECT max_agents, agents_provisioned FROM provisioning_keys WHERE max_agents = 3"
    )
    assert tuple(counts) == (3, 3)
    assert await connection.fetchval("SELECT count(*) FROM agents") == 3
    # Those that are in may say it again.
    inside = next(one for one, answer in zip(agents, answers, strict=True) if answer.status == 200)
    assert (await inside.register()).status == 200


async def test_two_registrations_of_one_agent_at_once_are_one(
    connection: asyncpg.Connection, make: Make
) -> None:
    agent = make()
    answers = await asyncio.gather(*(agent.register() for _ in range(6)))
    assert [answer.status for answer in answers] == [200] * 6
    assert len({answer.body["challenge"] for answer in answers}) == 1
    assert len({answer.body["mqtt"]["password"] for answer in answers}) == 1
    assert await connection.fetchval("SELECT agents_provisioned FROM provisioning_keys") == 1


async def test_two_tenants_that_register_one_uuid_at_once_are_one_and_none(
    rest: Rest, pool: Pool, connection: asyncpg.Connection, make: Make
) -> None:
    other = secrets.token_hex(6)
    await AgentStore(pool).ensure_tenant(other)
    keys = [await provisioning_key(rest), await provisioning_key(rest, tenant=other)]
    for _ in range(5):
        one = str(uuid.uuid4())
        pair = [make(provisioning_key=key, uuid=one) for key in keys]
        answers = await asyncio.gather(*(agent.register() for agent in pair))
        assert sorted(answer.status for answer in answers) == [200, 409]
        tenant = await connection.fetchval("SELECT tenant_id FROM agents WHERE uuid = $1", one)
        winner = next(answer for answer in answers if answer.status == 200)
        assert winner.body["tenantId"] == tenant


async def test_keys_that_are_not_good_are_refused(
    rest: Rest, connection: asyncpg.Connection, make: Make
) -> None:
    unknown = await make(provisioning_key=secrets.token_hex(32)).register()
    assert (unknown.status, unknown.body["message"]) == (401, "the provisioning key is not valid")
    bare = await rest.ask("POST", "/api/v1/agent/register", make().body(), role=None)
    assert (bare.status, bare.body["message"]) == (
        401,
        "the header x-provisioning-key is missing",
    )
    await connection.execute(
        "UPDATE provisioning_keys SET expires_at = now() - interval '1 second'"
    )
    expired = await make().register()
    assert (expired.status, expired.body["message"]) == (401, "the provisioning key has expired")


async def test_an_agent_that_was_expected_takes_its_place(rest: Rest, make: Make) -> None:
    expected = str(uuid.uuid4())
    body = {"deviceName": "expected", "uuid": expected}
    assert (await rest.ask("POST", "/api/v1/agents", body)).status == 201
    agent = make(uuid=expected, name="arrived")
    await agent.come_in()
    shown = await rest.ask("GET", f"/api/v1/agents/{expected}")
    assert shown.body["name"] == "arrived"
    assert shown.body["fleet_uuid"] == agent.registration["fleetUuid"]


async def test_attempts_are_recorded(
    rest: Rest, connection: asyncpg.Connection, make: Make
) -> None:
    agent = make()
    await agent.register()
    await make(uuid=agent.uuid).register()
    await make(provisioning_key="wrong").register()
    rows = await connection.fetch("SELECT * FROM provisioning_attempts ORDER BY id")
    key = await connection.fetchval("SELECT id FROM provisioning_keys")
    assert [
        (row["tenant_id"], row["provisioning_key_id"], row["success"], row["ip_address"])
        for row in rows
    ] == [
        (rest.tenant, key, True, "192.0.2.1"),
        (rest.tenant, key, False, "192.0.2.1"),
        (None, None, False, "192.0.2.1"),
    ]
    assert [str(row["agent_uuid"]) for row in rows[:2]] == [agent.uuid] * 2
    assert rows[2]["error_message"] == "the provisioning key is not valid"


async def test_an_address_that_fails_too_often_is_blocked_for_an_hour(
    rest: Rest, connection: asyncpg.Connection, make: Make
) -> None:
    for _ in range(11):
        assert (await make(provisioning_key="wrong").register()).status == 401
    blocked = await make().register()
    assert blocked.status == 429
    assert 3500 < blocked.body["retryAfter"] <= 3600
    assert int(blocked.headers["retry-after"]) == blocked.body["retryAfter"]
    elsewhere = make(ask=ByTable(rest, "192.0.2.2"))
    assert (await elsewhere.register()).status == 200
    await connection.execute(
        "UPDATE provisioning_attempts SET created_at = now() - interval '61 minutes'"
    )
    assert (await make().register()).status == 200


@pytest.mark.parametrize("name", ["uuid", "deviceName", "deviceType", "deviceApiKey"])
async def test_what_is_missing_is_named(make: Make, name: str) -> None:
    agent = make()
    body = {key: value for key, value in agent.body().items() if key != name}
    headers = {"x-provisioning-key": agent.provisioning_key}
    answer = await agent.ask("POST", "/api/v1/agent/register", body, headers)
    assert answer.status == 400
    assert name in answer.body["message"]


async def test_public_keys_must_be_ed25519_or_p256(make: Make) -> None:
    bad = await make().register(devicePublicKey="-----BEGIN PUBLIC KEY-----\n!\n")
    assert (bad.status, bad.body["message"]) == (
        400,
        "field devicePublicKey is not a public key in PEM",
    )
    other = make(private_key=generate_private_key(SECP384R1()))
    answer = await other.register()
    assert (answer.status, answer.body["message"]) == (
        400,
        "field devicePublicKey must be an Ed25519 or a P-256 key",
    )


async def test_a_registration_stands_in_the_journal(
    connection: asyncpg.Connection, make: Make
) -> None:
    agent = make()
    await agent.register()
    await agent.register()
    rows = await connection.fetch(
        "SELECT actor_type, actor_id, subject, agent_uuid, ip_address FROM audit_logs"
        " WHERE event_type = 'agent.registered'"
    )
    assert [(*row[:3], str(row[3]), row[4]) for row in rows] == [
        ("agent", agent.uuid, f"agent/{agent.uuid}", agent.uuid, "192.0.2.1")
    ]
