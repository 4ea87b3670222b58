"""R7: every caller of one tenant against every route, aimed at what belongs to another tenant.

The matrix is made of the route table, so a new route is in it from its first day, and one whose
path names a kind of thing that is not known here fails. What is another tenant's must answer as
what does not exist does, must show nothing of it, and must not be changed.
"""

from __future__ import annotations

import secrets
import time
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import asyncpg
import orjson
import pytest
from tests import people
from tests.dictionaries import learn
from tests.rest import KEY, Answer, Rest

from iotistica.api.agent_digests import AgentDigests
from iotistica.api.auth import issue_token
from iotistica.api.device_keys import PURPOSE
from iotistica.api.openapi import document
from iotistica.api.principal import PERMISSIONS
from iotistica.api.route import Route
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.streams import DeadLetter, Seen, Streams

MARK = "foreign-thing"
"""Stands in whatever the other tenant has."""
EXAMPLE = "7b0c7c4e-0b0e-4d4f-9a53-8d0d54a7a2f1"
"""The agent of the document's examples."""
ACTORS = ("owner", "service", "agent", "nobody")

# What the parameters of paths name, by the longest fitting beginning of the path.
KINDS = {
    "uuid": {"/api/v1": "agent"},
    "id": {
        "/api/v1/invites": "invite",
        "/api/v1/users": "user",
        "/api/v1/auth/api-keys": "api_key",
        "/api/v1/fleets": "fleet",
        "/api/v1/groups": "group",
        "/api/v1/dead-letters": "letter",
        "/api/v1/anomaly-incidents": "incident",
        "/api/v1/anomaly-alerts": "anomaly_alert",
        "/api/v1/alert-rules": "rule",
        "/api/v1/alerts": "alert",
        "/api/v1/alert-webhooks": "webhook",
        "/api/v1/jobs/templates": "template",
        "/api/v1/jobs/handlers": "job_handler",
        "/api/v1/auth/mqtt-users": "mqtt_user",
        "/api/v1/auth/mqtt-acls": "mqtt_acl",
        "/api/v1/brokers": "broker",
        "/api/v1/retention": "retention_rule",
    },
    "name": {"/api/v1/roles": "role", "/api/v1/agents": "endpoint"},
    "key": {"/api/v1/tags": "tag"},
    "keyId": {"/api/v1/provisioning-keys": "provisioning_key"},
    "job": {"/api/v1": "job"},
    "delivery": {"/api/v1/alert-webhooks": "delivery"},
    # Within an agent that is named before.
    "version": {"/api/v1/agents": "version"},
    "appId": {"/api/v1/agents": "app"},
    "protocol": {"/api/v1/agents": "protocol"},
    "deviceName": {"/api/v1/agents": "endpoint"},
    "correlationId": {"/api/v1/events": "request"},
    "metric": {"/api/v1/readings": "metric"},
}


@dataclass
class World:
    """Two tenants: `rest` asks as the one, `things` belong to the other."""

    rest: Rest
    connection: asyncpg.Connection
    other: str
    things: dict[str, str]
    absent: dict[str, str]
    """The same kinds of things, of nobody."""
    headers: dict[str, dict[str, str]]
    """Credentials of each actor."""

    async def ask(self, route: Route, actor: str, things: Mapping[str, str], body: Any) -> Answer:
        path = "/".join(
            things[kind(route, level[1:])] if level.startswith(":") else level
            for level in route.path.split("/")
        )
        return await self.rest.ask(route.method, path, body, role=None, headers=self.headers[actor])

    async def rows(self) -> dict[str, list[str]]:
        """Everything of the other tenant in the database."""
        found = {}
        columns = await self.connection.fetch(
            """
            SELECT table_name, column_name FROM information_schema.columns
            WHERE table_schema = 'public' AND column_name IN ('tenant_id', 'agent_uuid')
              AND table_name IN (SELECT tablename FROM pg_tables WHERE schemaname = 'public')
            """
        )
        for table, column in columns:
            value = self.other if column == "tenant_id" else uuid.UUID(self.things["agent"])
            rows = await self.connection.fetch(
                f"SELECT t::text FROM {table} AS t WHERE {column} = $1 ORDER BY 1", value
            )
            found[f"{table}.{column}"] = [row[0] for row in rows]
        return found


def kind(route: Route, name: str) -> str:
    places = [place for place in KINDS.get(name, ()) if route.path.startswith(place)]
    assert places, f":{name} of {route.method} {route.path} is not known to this test"
    return KINDS[name][max(places, key=len)]


async def made(rest: Rest, tenant: str, path: str, body: Any) -> Any:
    answer = await rest.ask("POST", f"/api/v1{path}", body, tenant=tenant)
    assert answer.status in (200, 201), (path, answer.body)
    return answer.body


async def furnish(
    rest: Rest, connection: asyncpg.Connection, streams: Streams, tenant: str, agent: str
) -> dict[str, str]:
    """One of each kind of thing for a tenant; their ids."""
    config = {"secret": MARK, "endpoints": [{"name": "plc", "protocol": "can", "note": MARK}]}
    state = {"apps": [{"appId": "7", "name": MARK}], "config": config}
    await made(rest, tenant, f"/agents/{agent}/target-state", state)
    await rest.ask("PUT", f"/api/v1/agents/{agent}/tags", {"tags": {MARK: MARK}}, tenant=tenant)
    fleet = (await made(rest, tenant, "/fleets", {"fleetName": MARK}))["fleet_uuid"]
    document = {"steps": [{"do": MARK}]}
    job = {"job_name": MARK, "job_document": document, "target_type": "all"}
    condition = {"kind": "threshold", "operator": ">", "value": 1.0}
    rule = {"name": MARK, "metric": MARK, "condition": condition}
    webhook = {"name": MARK, "url": f"https://8.8.8.8/{MARK}"}
    broker = {"name": MARK, "host": MARK, "port": 1883}
    key = {"name": MARK, "permissions": ["data:read"]}
    provisioning = {"fleetUuid": fleet, "description": MARK}
    letter = DeadLetter(
        data=MARK.encode(),
        topic=f"i/{tenant}/a/{agent}/endpoints/x".encode(),
        original_id="1-1",
        error=MARK,
        reason="json",
        stage="decode",
        failed_at=datetime.now(UTC),
        agent=agent,
    )
    await streams.dead_letter(tenant, [letter])
    topic = Seen(topic=MARK, messages=1, bytes=1, kind="json", qos=1, retained=False)
    await streams.topics.add(tenant, [topic], now_ms=time.time_ns() // 1_000_000)
    letters = await rest.ask("GET", "/api/v1/dead-letters", tenant=tenant)
    things = {
        "agent": agent,
        "version": 1,
        "metric": MARK,
        "app": "7",
        "endpoint": "plc",
        "protocol": "can",
        "tag": MARK,
        "fleet": fleet,
        "letter": letters.body["letters"][0]["id"],
        "user": await people.add(rest, MARK, tenant=tenant),
        "role": (await made(rest, tenant, "/roles", key))["name"],
        "api_key": (await made(rest, tenant, "/auth/api-keys", key))["id"],
        "invite": (await made(rest, tenant, "/invites", {"email": f"{MARK}@example.org"}))["id"],
        "group": (await made(rest, tenant, "/groups", {"name": MARK, "filter": {}}))["id"],
        "provisioning_key": (await made(rest, tenant, "/provisioning-keys", provisioning))["id"],
        "template": (
            await made(rest, tenant, "/jobs/templates", {"name": MARK, "job_document": document})
        )["id"],
        "job": (await made(rest, tenant, "/jobs/execute", job))["job"]["job_id"],
        "job_handler": (
            await made(rest, tenant, "/jobs/handlers", {"name": MARK, "script_content": MARK})
        )["id"],
        "rule": (await made(rest, tenant, "/alert-rules", rule))["id"],
        "webhook": (await made(rest, tenant, "/alert-webhooks", webhook))["id"],
        "broker": (await made(rest, tenant, "/brokers", broker))["data"]["id"],
    }
    acls = [{"topic": f"i/{tenant}/{MARK}/#", "access": 7}]
    mqtt_user = {"username": MARK, "acls": acls}
    mqtt_user = await made(rest, tenant, "/auth/mqtt-users", mqtt_user)
    things |= {"mqtt_user": mqtt_user["id"], "mqtt_acl": mqtt_user["acls"][0]["id"]}
    await made(rest, tenant, "/tags/definitions", {"key": MARK})
    body = {"pattern": MARK, "keep_days": 7}
    answer = await rest.ask("PUT", "/api/v1/retention/rules", body, tenant=tenant)
    things["retention_rule"] = answer.body["id"]
    things["request"] = await connection.fetchval(
        "SELECT request_id FROM audit_logs WHERE tenant_id = $1 ORDER BY id LIMIT 1", tenant
    )
    things["incident"] = await connection.fetchval(
        """
        INSERT INTO anomaly_incidents
            (tenant_id, fingerprint, metric, severity, status, affected_devices, affected_agents,
             opened_at, first_seen, last_seen, event_count)
        VALUES ($1, $2, $2, 'critical', 'open', ARRAY[$2], ARRAY[$3::uuid], now(), now(), now(), 1)
        RETURNING incident_id
        """,
        *(tenant, MARK, agent),
    )
    things["anomaly_alert"] = await connection.fetchval(
        """
        INSERT INTO anomaly_alerts
            (tenant_id, incident_id, agent_uuid, device_name, metric, fingerprint, severity,
             message)
        VALUES ($1, $2, $3, $4, $4, $4, 'critical', $4) RETURNING alert_id
        """,
        *(tenant, things["incident"], agent, MARK),
    )
    things["alert"] = await connection.fetchval(
        """
        INSERT INTO alerts (tenant_id, rule_id, rule_name, kind, agent_uuid, device_name,
                            metric_name, severity, labels, message, opened_at, seen_at, flapping)
        VALUES ($1, $2, $3, 'threshold', $4, $3, $3, 'critical', '{}', $3, now(), now(), false)
        RETURNING id
        """,
        *(tenant, things["rule"], MARK, agent),
    )
    await measure(connection, agent)
    things["delivery"] = await connection.fetchval(
        """
        INSERT INTO alert_deliveries (tenant_id, webhook_id, event, payload, status)
        VALUES ($1, $2, 'alert.opened', '{}', 'dead') RETURNING id
        """,
        *(tenant, things["webhook"]),
    )
    return {name: str(thing) for name, thing in things.items()}


async def measure(connection: asyncpg.Connection, agent: str) -> None:
    """A reading, and what ingestion keeps beside it."""
    if await connection.fetchval("SELECT to_regclass('rollup_marks') IS NOT NULL"):
        await connection.execute("SELECT readings_make_days(ARRAY[20000])")
        await connection.execute(
            "INSERT INTO rollup_marks VALUES (date '1970-01-01' + 20000, $1)", agent
        )
    for table, column, value in (
        ("readings", "extra", orjson.dumps({"device_name": MARK}).decode()),
        ("readings_latest", "device_name", MARK),
    ):
        await connection.execute(
            f"INSERT INTO {table} (time, agent_uuid, metric_name, protocol, unit, {column})"
            " VALUES (date '1970-01-01' + 20000, $1, $2, $2, $2, $3)",
            *(agent, MARK, value),
        )


def absent_like(things: Mapping[str, str]) -> dict[str, str]:
    """Ids of the same forms that nothing has."""
    absent = {}
    for name, thing in things.items():
        if name in ("version", "app", "endpoint", "protocol"):
            absent[name] = thing  # of an agent that does not exist
        elif thing.isdigit():
            absent[name] = str(int(thing) + 500_000)
        elif len(thing) == len(EXAMPLE):
            absent[name] = str(uuid.uuid4())
        elif name == "letter":
            absent[name] = "1795453097011-9"
        else:
            absent[name] = f"absent-{thing}"
    return absent


@pytest.fixture
async def world(rest: Rest, pool: Pool, streams: Streams, connection: asyncpg.Connection) -> World:
    other, foreign, own = secrets.token_hex(6), str(uuid.uuid4()), str(uuid.uuid4())
    # Numbers that can be told apart in a text.
    await connection.execute(
        "SELECT setval(format('%I', sequencename)::regclass, 1000000 * row_number() OVER ()) "
        "FROM pg_sequences WHERE schemaname = 'public'"
    )
    agents = AgentStore(pool)
    await agents.ensure_tenant(other)
    await agents.add_agents(other, [(foreign, MARK)])
    await agents.add_agents(rest.tenant, [(own, "own")])
    things = await furnish(rest, connection, streams, other, foreign)
    await learn(pool, streams, other, foreign, fields=[MARK])
    service = {"name": "own", "permissions": sorted(PERMISSIONS)}
    token = issue_token(KEY, tenant=rest.tenant, role="owner")
    key = (await made(rest, rest.tenant, "/auth/api-keys", service))["key"]
    own_key = secrets.token_hex(32)
    await connection.execute(
        "UPDATE agents SET device_api_key_hash = $2, pop_verified = true, is_active = true "
        "WHERE uuid = $1",
        *(own, AgentDigests(Settings.load(jwt_secret=KEY)).of(PURPOSE, own_key)),
    )
    return World(
        rest=rest,
        connection=connection,
        other=other,
        things=things,
        absent=absent_like(things),
        headers={
            "owner": {"authorization": f"Bearer {token}"},
            "service": {"x-api-key": key},
            "agent": {"x-device-api-key": own_key},
            "nobody": {},
        },
    )


def bodies(routes: tuple[Route, ...]) -> dict[str, Any]:
    """The document's example of the body of each route, as text."""
    found = {}
    for path, methods in document(routes)["paths"].items():
        for method, operation in methods.items():
            content = operation.get("requestBody", {}).get("content", {})
            for media in content.values():
                found[f"{method.upper()} {path}"] = orjson.dumps(media["example"]).decode()
    return found


def aimed(body: str | None, agent: str) -> Any:
    """The body with this agent wherever the example has one."""
    return None if body is None else orjson.loads(body.replace(EXAMPLE, agent))


def comparable(answer: Answer, things: Mapping[str, str]) -> tuple[int, str]:
    """What came back, without the ids that were asked for."""
    text = orjson.dumps(answer.body).decode() if not isinstance(answer.body, bytes) else ""
    for name in sorted(things, key=lambda one: -len(things[one])):
        if len(things[name]) > 3:
            text = text.replace(things[name], f"<{name}>")
    return answer.status, text


def names_something(route: Route, body: str | None) -> bool:
    return ":" in route.path or (body is not None and EXAMPLE in body)


async def test_nobody_reaches_anything_of_another_tenant(world: World) -> None:
    routes = [route for route in world.rest.table.routes if not route.access.public]
    examples = bodies(world.rest.table.routes)
    before, asked, refused = await world.rows(), 0, 0
    assert sum(bool(rows) for rows in before.values()) >= 20
    for actor in ACTORS:
        for route in routes:
            path = "/".join(
                f"{{{level[1:]}}}" if level.startswith(":") else level
                for level in route.path.split("/")
            )
            body = examples.get(f"{route.method} {path}")
            what = f"{actor}: {route.method} {route.path}"
            answer = await world.ask(route, actor, world.things, aimed(body, world.things["agent"]))
            asked += 1
            refused += answer.status in (401, 403, 404)
            assert answer.status < 500, (what, answer.body)
            shown = answer.body if isinstance(answer.body, bytes) else orjson.dumps(answer.body)
            if actor == "nobody":
                assert answer.status == 401, what
            if not names_something(route, body):
                assert MARK.encode() not in shown, what
                assert world.other.encode() not in shown, what
                assert world.things["agent"].encode() not in shown, what
                continue
            nothing = await world.ask(
                route, actor, world.absent, aimed(body, world.absent["agent"])
            )
            assert comparable(answer, world.things) == comparable(nothing, world.absent), what
    assert await world.rows() == before
    assert asked == len(ACTORS) * len(routes)
    print(f"{asked} requests, {refused} refused")
