"""Users of the broker and their rules by REST: what may be made, what is stored, who may."""

from __future__ import annotations

import asyncio
import secrets
from typing import Any

import asyncpg
import pytest
from tests.agent_double import AgentDouble
from tests.integration.test_accounts import Told
from tests.integration.test_registration import ByTable, provisioning_key
from tests.rest import KEY, Rest

from iotistica import mqtt
from iotistica._native import encode_tenant
from iotistica.api.accounts.broker_passwords import BrokerPasswords
from iotistica.api.accounts.reconciler import Reconciler
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.agent_parts import AgentParts
from iotistica.api.broker_parts import broker_handlers
from iotistica.api.route import routes_of
from iotistica.api.table import Table
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.broker_users import BrokerUserStore
from iotistica.store.pool import Pool
from iotistica.streams import Streams

USERS = "/api/v1/auth/mqtt-users"
ACLS = "/api/v1/auth/mqtt-acls"
PASSWORD = "correct horse battery"


async def made(rest: Rest, name: str = "node-red", **more: Any) -> dict[str, Any]:
    answer = await rest.ask("POST", USERS, {"username": name, **more})
    assert answer.status == 201, answer.body
    body: dict[str, Any] = answer.body
    return body


def topic(rest: Rest, rest_of_it: str) -> str:
    return f"i/{encode_tenant(rest.tenant)}/{rest_of_it}"


async def test_a_user_is_made_shown_changed_and_removed(
    rest: Rest, connection: asyncpg.Connection
) -> None:
    user = await made(rest)
    assert user == {
        "id": user["id"],
        "username": f"{rest.tenant}.node-red",
        "agentUuid": None,
        "isActive": True,
        "isSuperuser": False,
        "isTold": True,
        "createdAt": user["createdAt"],
        "updatedAt": user["updatedAt"],
        "acls": [],
        "password": user["password"],
    }
    assert len(user["password"]) == 24
    path = f"{USERS}/{user['id']}"
    shown = {name: value for name, value in user.items() if name != "password"}
    assert (await rest.ask("GET", path)).body == shown
    listed = {name: value for name, value in shown.items() if name != "acls"}
    answer = await rest.ask("GET", USERS)
    assert answer.body == {"count": 1, "users": [listed], "cursor": None}
    for method in ("PATCH", "PUT"):
        changed = await rest.ask(method, path, {"generatePassword": True})
        assert changed.status == 200
        assert len(changed.body["password"]) == 24
        assert changed.body["password"] != user["password"]
    changed = await rest.ask("PATCH", path, {"isActive": False})
    assert (changed.body["isActive"], changed.body["password"]) == (False, None)
    assert (await rest.ask("DELETE", path)).status == 204
    for method, body in (("GET", None), ("PATCH", {}), ("DELETE", None)):
        assert (await rest.ask(method, path, body)).status == 404
    # The broker, which is told nothing here, knows; so the row is gone as well.
    assert await connection.fetchval("SELECT count(*) FROM mqtt_users") == 0


async def test_no_answer_and_no_row_has_a_password(
    rest: Rest, connection: asyncpg.Connection, pool: Pool
) -> None:
    user = await made(rest, password=PASSWORD)
    assert user["password"] is None
    answers = [user, (await rest.ask("GET", USERS)).body]
    answers.append((await rest.ask("GET", f"{USERS}/{user['id']}")).body)
    row = await connection.fetchrow("SELECT * FROM mqtt_users")
    assert row["password_hash"] is None
    assert row["password_salt"] is None
    assert PASSWORD not in repr(answers)
    assert PASSWORD not in repr(dict(row))
    assert PASSWORD.encode() not in row["password_sealed"]
    assert "hash" not in repr(answers).lower()
    assert PASSWORD not in repr(await connection.fetch("SELECT * FROM audit_logs"))


async def test_the_broker_is_told_passwords_of_both_kinds(
    rest: Rest, connection: asyncpg.Connection, pool: Pool
) -> None:
    rules = [{"topic": topic(rest, "a/+/endpoints/#"), "access": 5}]
    await made(rest, "chosen", password=PASSWORD, acls=rules)
    generated = await made(rest, "generated")
    told = Told()
    passwords = BrokerPasswords(AgentDigests(Settings.load(jwt_secret=KEY)))
    await Reconciler(BrokerUserStore(pool), told, passwords).catch_up()
    chosen = told.known[f"{rest.tenant}.chosen"]
    assert chosen.password == PASSWORD
    assert [(rule.filter, rule.access) for rule in chosen.rules] == [(rules[0]["topic"], 5)]
    assert told.known[generated["username"]].password == generated["password"]
    versions = {one.version for one in told.known.values()}
    await rest.ask("PATCH", f"{USERS}/{generated['id']}", {"password": PASSWORD})
    await Reconciler(BrokerUserStore(pool), told, passwords).catch_up()
    assert told.known[generated["username"]].password == PASSWORD
    assert told.known[generated["username"]].version not in versions


async def test_a_password_under_another_secret_is_no_reason_to_stop(rest: Rest, pool: Pool) -> None:
    await made(rest, "chosen", password=PASSWORD)
    await made(rest, "generated")
    told = Told()
    passwords = BrokerPasswords(AgentDigests(Settings.load(jwt_secret="x" * 64)))
    await Reconciler(BrokerUserStore(pool), told, passwords).catch_up()
    assert list(told.known) == [f"{rest.tenant}.generated"]


async def test_rules_of_a_user(rest: Rest) -> None:
    user = await made(rest)
    path = f"{USERS}/{user['id']}/acls"
    body = {"topic": topic(rest, "a/+/endpoints/#"), "access": 5}
    rule = await rest.ask("POST", path, body)
    assert rule.status == 201
    assert rule.body == {
        "id": rule.body["id"],
        "username": user["username"],
        "topic": body["topic"],
        "access": 5,
        "priority": 0,
        "createdAt": rule.body["createdAt"],
    }
    assert (await rest.ask("GET", path)).body == {"count": 1, "acls": [rule.body]}
    assert (await rest.ask("GET", f"{USERS}/{user['id']}")).body["acls"] == [rule.body]
    again = await rest.ask("POST", path, body)
    assert (again.status, again.body["message"]) == (
        409,
        f"the user has a rule of the topic filter {body['topic']!r}",
    )
    own = f"{ACLS}/{rule.body['id']}"
    agent = "00000000-0000-0000-0000-000000000000"
    other = {"topic": f"i/{rest.tenant}/a/{agent}/#", "access": 7, "clientid": None}
    changed = await rest.ask("PUT", own, other)
    assert changed.body["topic"] == topic(rest, f"a/{'A' * 22}/#")
    assert (await rest.ask("POST", path, body)).status == 201
    assert (await rest.ask("PUT", own, body)).status == 409
    assert (await rest.ask("DELETE", own)).status == 204
    assert (await rest.ask("DELETE", own)).status == 404
    assert (await rest.ask("GET", path)).body["count"] == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (
            {"topic": "#", "access": 7},
            "field topic is '#': it must lie within the tenant, below i/",
        ),
        ({"topic": "$SYS/#", "access": 7}, "it must lie within the tenant"),
        ({"topic": "$share/g/i/+/#", "access": 7}, "it must lie within the tenant"),
        ({"topic": "i/+/a/#", "access": 7}, "it must lie within the tenant"),
        (
            {"topic": "i/OWN/a#", "access": 7},
            "# must be the last level, and alone in it (MQTT 5.0 section 4.7)",
        ),
        ({"topic": "i/OWN/a\n", "access": 7}, "it must be printable"),
        ({"topic": "i/OWN/a", "access": 8}, "field access is 8"),
        ({"topic": "i/OWN/a", "access": 0}, "field access is 0"),
        ({"topic": "i/OWN/a", "clientid": "x"}, "field clientid is"),
        ({"access": 7}, "topic"),
        ({"topic": "i/OWN/a"}, "access"),
    ],
)
async def test_a_rule_that_is_refused_says_why(
    rest: Rest, body: dict[str, Any], message: str
) -> None:
    user = await made(rest)
    if "topic" in body:
        body = {**body, "topic": body["topic"].replace("OWN", encode_tenant(rest.tenant))}
    answer = await rest.ask("POST", f"{USERS}/{user['id']}/acls", body)
    assert answer.status == 400
    assert message in answer.body["message"]
    whole = await rest.ask("POST", USERS, {"username": "x1", "acls": [body]})
    assert whole.status == 400
    assert (await rest.ask("GET", USERS)).body["count"] == 1


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ({"username": "agent_x"}, "names in agent_ are those of agents"),
        ({"username": "other.x"}, "it must begin with a letter or digit"),
        ({"username": "a b"}, "field username is"),
        ({"username": "x", "password": "short"}, "field password"),
        ({"username": "x", "password": "with a line\nbreak in it"}, "field password"),
        ({"username": "x", "isSuperuser": True}, "field isSuperuser is true"),
        ({"username": "x", "is_superuser": True}, "is_superuser"),
    ],
)
async def test_a_user_that_is_refused(rest: Rest, body: dict[str, Any], message: str) -> None:
    answer = await rest.ask("POST", USERS, body)
    assert answer.status == 400
    assert message in answer.body["message"]


async def test_nobody_is_a_superuser_by_a_change(rest: Rest) -> None:
    user = await made(rest)
    answer = await rest.ask("PATCH", f"{USERS}/{user['id']}", {"isSuperuser": True})
    assert answer.status == 400
    both = {"password": PASSWORD, "generatePassword": True}
    answer = await rest.ask("PATCH", f"{USERS}/{user['id']}", both)
    assert (answer.status, answer.body["message"]) == (
        400,
        "the body: give one of password and generatePassword",
    )


async def test_a_name_of_another_tenant_is_free(rest: Rest, pool: Pool) -> None:
    other = secrets.token_hex(6)
    await AgentStore(pool).ensure_tenant(other)
    await made(rest)
    theirs = await rest.ask("POST", USERS, {"username": "node-red"}, tenant=other)
    assert theirs.status == 201
    assert theirs.body["username"] == f"{other}.node-red"
    again = await rest.ask("POST", USERS, {"username": "node-red"})
    assert again.status == 409
    # Not even with the other's name in it.
    assert (await rest.ask("POST", USERS, {"username": f"{other}.node-red"})).status == 400


async def test_a_name_that_was_given_up_is_as_good_as_new(
    rest: Rest, connection: asyncpg.Connection
) -> None:
    user = await made(rest, acls=[{"topic": topic(rest, "#"), "access": 7}])
    await rest.ask("DELETE", f"{USERS}/{user['id']}")
    # As if the broker were away.
    await connection.execute(
        "INSERT INTO mqtt_users (username, tenant_id, password_hash, deleted, is_active)"
        " VALUES ($1, $2, 'h', true, false)",
        *(user["username"], rest.tenant),
    )
    again = await made(rest)
    assert (again["isActive"], again["acls"]) == (True, [])
    assert again["password"] != user["password"]


async def test_there_is_an_end_of_users_and_rules(
    rest: Rest, connection: asyncpg.Connection
) -> None:
    user = await made(rest)
    await connection.execute(
        "INSERT INTO mqtt_acls (username, topic, access)"
        " SELECT $1, 'i/x/' || n, 7 FROM generate_series(1, 100) AS n",
        user["username"],
    )
    body = {"topic": topic(rest, "a"), "access": 7}
    answer = await rest.ask("POST", f"{USERS}/{user['id']}/acls", body)
    assert (answer.status, answer.body["message"]) == (
        409,
        "the user has 100 rules; more are not allowed",
    )
    await connection.execute(
        "INSERT INTO mqtt_users (username, tenant_id, password_hash)"
        " SELECT 'u' || n, $1, 'h' FROM generate_series(1, 998) AS n",
        rest.tenant,
    )
    several = [rest.ask("POST", USERS, {"username": f"x{n}"}) for n in range(5)]
    statuses = [answer.status for answer in await asyncio.gather(*several)]
    assert sorted(statuses) == [201, 409, 409, 409, 409]


async def test_pages_of_users(rest: Rest) -> None:
    names = [(await made(rest, f"u{n}"))["username"] for n in range(5)]
    found: list[str] = []
    cursor: str | None = "0"
    while cursor is not None:
        page = (await rest.ask("GET", f"{USERS}?limit=2&cursor={cursor}")).body
        found += [user["username"] for user in page["users"]]
        cursor = page["cursor"]
    assert found == names


async def test_the_account_of_an_agent_is_shown_and_left_alone(rest: Rest) -> None:
    agent = AgentDouble(ask=ByTable(rest), provisioning_key=await provisioning_key(rest))
    await agent.come_in()
    assert (await rest.ask("GET", USERS)).body["count"] == 0
    [account] = (await rest.ask("GET", f"{USERS}?agents=true")).body["users"]
    assert (account["username"], account["agentUuid"]) == (f"agent_{agent.uuid}", agent.uuid)
    path = f"{USERS}/{account['id']}"
    [rule] = (await rest.ask("GET", path)).body["acls"]
    assert (rule["topic"], rule["access"]) == (agent.topic("#"), 7)
    body = {"topic": rule["topic"], "access": 7}
    for method, where, what in (
        ("PATCH", path, {"isActive": False}),
        ("DELETE", path, None),
        ("POST", f"{path}/acls", {"topic": topic(rest, "a/x/#"), "access": 7}),
        ("PUT", f"{ACLS}/{rule['id']}", body),
        ("DELETE", f"{ACLS}/{rule['id']}", None),
    ):
        answer = await rest.ask(method, where, what)
        assert answer.status == 409, (method, where)
        assert f"it is the account of agent {agent.uuid}" in answer.body["message"]


async def test_roles(rest: Rest) -> None:
    user = await made(rest, acls=[{"topic": topic(rest, "#"), "access": 7}])
    path, rule = f"{USERS}/{user['id']}", f"{ACLS}/{user['acls'][0]['id']}"
    assert (await rest.ask("GET", USERS, role="viewer")).status == 403
    assert (await rest.ask("GET", path, role="operator")).status == 200
    body = {"topic": topic(rest, "a"), "access": 7}
    for method, where, what in (
        ("POST", USERS, {"username": "x1"}),
        ("PATCH", path, {"isActive": True}),
        ("POST", f"{path}/acls", body),
        ("PUT", rule, {"topic": topic(rest, "b"), "access": 7}),
    ):
        assert (await rest.ask(method, where, what, role="operator")).status == 403
        assert (await rest.ask(method, where, what, role="manager")).status in (200, 201)
    # A role of the tenant's own, which may make users and not say what they may do.
    role = {"name": "clerk", "permissions": ["mqtt:user:write"]}
    assert (await rest.ask("POST", "/api/v1/roles", role)).status == 201
    key = {"name": "clerk", "permissions": ["mqtt:user:write"]}
    made_key = (await rest.ask("POST", "/api/v1/auth/api-keys", key)).body["key"]
    headers = {"x-api-key": made_key}
    plain = {"username": "x2"}
    answer = await rest.ask("POST", USERS, {**plain, "acls": [body]}, role=None, headers=headers)
    assert answer.status == 403
    assert "mqtt:acl:manage" in answer.body["message"]
    answer = await rest.ask("POST", USERS, plain, role=None, headers=headers)
    assert answer.status == 201


async def test_changes_are_in_the_journal(rest: Rest) -> None:
    user = await made(rest, acls=[{"topic": topic(rest, "a"), "access": 1}])
    path = f"{USERS}/{user['id']}"
    await rest.ask("PATCH", path, {"isActive": False, "password": PASSWORD})
    rule = user["acls"][0]["id"]
    await rest.ask("PUT", f"{ACLS}/{rule}", {"topic": topic(rest, "b"), "access": 2})
    await rest.ask("DELETE", f"{ACLS}/{rule}")
    await rest.ask("DELETE", path)
    entries = [
        (entry["eventType"], entry["subject"], entry["before"], entry["after"])
        for entry in (await rest.ask("GET", "/api/v1/audit-log")).body["entries"]
    ]
    name = user["username"]
    one = {"username": name, "topic": topic(rest, "a"), "access": 1}
    two = {"username": name, "topic": topic(rest, "b"), "access": 2}
    subject, rules = f"mqtt_user/{user['id']}", f"mqtt_acl/{rule}"
    on, off = ({"username": name, "isActive": is_active} for is_active in (True, False))
    assert list(reversed(entries)) == [
        ("mqtt_user.created", subject, None, {**on, "acls": [one]}),
        ("mqtt_user.changed", subject, on, {**off, "password": "changed"}),
        ("mqtt_acl.changed", rules, one, two),
        ("mqtt_acl.deleted", rules, two, None),
        ("mqtt_user.deleted", subject, off, None),
    ]


async def test_an_operators_user_at_a_broker_with_files(
    broker: Any, rest: Rest, pool: Pool, streams: Streams
) -> None:
    server = broker.server
    settings = Settings.load(
        jwt_secret=KEY,
        mqtt_url=broker.bridge_url,
        mqtt_accounts="files",
        mqtt_password_file=str(server.credentials.password_file),
        mqtt_acl_file=str(server.credentials.acl_file),
        mqtt_pid_file=str(server.child.command.pid_file),
    )
    parts = AgentParts.of(settings, pool, streams)
    found = broker_handlers(parts, rest.identity.limiter)
    table = Table([route for part in found for route in routes_of(part)], rest.identity.callers)
    rest = Rest(table, rest.tenant, rest.identity)
    user = await made(
        rest, password=PASSWORD, acls=[{"topic": topic(rest, "lines/#"), "access": 7}]
    )
    url = server.url_for(user["username"], PASSWORD)
    options = mqtt.parse_url(url, client_id=secrets.token_hex(8), clean_start=True)
    async with mqtt.connect(options) as session:
        await session.publish(topic(rest, "lines/3"), b"1", qos=1)
        with pytest.raises(mqtt.Refused):
            await session.publish(topic(rest, "halls/3"), b"1", qos=1)
        assert (await rest.ask("DELETE", f"{USERS}/{user['id']}")).status == 204
        with pytest.raises(mqtt.Disconnected):
            async with asyncio.timeout(10):
                await session.receive()
