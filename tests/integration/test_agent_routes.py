"""Agents, fleets, tags, groups and provisioning keys, as operators use them."""

from __future__ import annotations

import secrets
import uuid
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from tests.rest import Answer, Rest

from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool


@pytest.fixture
async def other(pool: Pool) -> str:
    """Another tenant."""
    tenant = secrets.token_hex(6)
    await AgentStore(pool).ensure_tenant(tenant)
    return tenant


async def ok(rest: Rest, method: str, path: str, body: Any = None, **who: Any) -> Any:
    answer = await rest.ask(method, f"/api/v1{path}", body, **who)
    assert answer.status in (200, 201), answer.body
    return answer.body


async def refused(rest: Rest, method: str, path: str, body: Any = None, **who: Any) -> Answer:
    answer = await rest.ask(method, f"/api/v1{path}", body, **who)
    assert answer.status >= 400, answer.body
    return answer


async def agents(rest: Rest, *names: str, **who: Any) -> list[str]:
    """Make agents; their uuids."""
    made = [await ok(rest, "POST", "/agents", {"deviceName": name}, **who) for name in names]
    return [one["device"]["uuid"] for one in made]


def names(body: Any) -> list[str]:
    assert body["count"] == len(body["agents"])
    return [agent["name"] for agent in body["agents"]]


async def found(rest: Rest, **chosen: Any) -> list[str]:
    return sorted(names(await ok(rest, "POST", "/agents/query", {"filter": chosen})))


async def test_an_agent_is_made_shown_changed_and_removed(
    rest: Rest, connection: asyncpg.Connection
) -> None:
    place = {"latitude": 52.5, "longitude": 13.4, "name": "hall 1"}
    body = {"deviceName": "press", "deviceType": "gateway", "location": place}
    answer = await rest.ask("POST", "/api/v1/agents", body)
    assert answer.status == 201
    assert answer.body["success"] is True
    made = answer.body["device"]
    assert (made["name"], made["device_name"], made["type"]) == ("press", "press", "gateway")
    assert made["location"] == place
    assert (made["is_active"], made["is_online"], made["tags"]) == (True, False, {})
    assert made["provisioning_state"] == "created"
    path = f"/agents/{made['uuid']}"
    assert await ok(rest, "GET", path) == made
    assert await ok(rest, "GET", f"/devices/{made['uuid']}") == made
    fleet = (await ok(rest, "POST", "/fleets", {"fleetName": "hall"}))["fleet_uuid"]
    patch = {"deviceName": "press 2", "ipAddress": "10.0.0.7", "fleetUuid": fleet}
    changed = (await ok(rest, "PATCH", path, patch))["device"]
    assert (changed["name"], changed["ip_address"]) == ("press 2", "10.0.0.7")
    assert (changed["fleet_uuid"], changed["fleet_name"]) == (fleet, "hall")
    assert (changed["type"], changed["location"]) == ("gateway", place)
    gone = (await ok(rest, "PATCH", path, {"location": None, "fleetUuid": None}))["device"]
    assert (gone["location"], gone["fleet_uuid"], gone["ip_address"]) == (None, None, "10.0.0.7")
    removed = await ok(rest, "DELETE", path)
    assert removed == {"message": "The agent is removed", "status": "ok"}
    assert (await refused(rest, "GET", path)).status == 404
    assert (await refused(rest, "DELETE", path)).status == 404
    rows = await connection.fetch("SELECT event_type, before, after FROM audit_logs ORDER BY id")
    assert [row["event_type"] for row in rows] == [
        "agent.created",
        "fleet.created",
        "agent.changed",
        "agent.changed",
        "agent.deleted",
    ]
    assert '"name": "press"' in rows[2]["before"]
    assert '"name": "press 2"' in rows[2]["after"]


@pytest.mark.parametrize(
    ("body", "part"),
    [
        ({}, "deviceName"),
        ({"deviceName": ""}, "deviceName"),
        ({"deviceName": "a\0b"}, "deviceName"),
        ({"deviceName": "a", "location": {"latitude": 91, "longitude": 0}}, "location"),
        ({"deviceName": "a", "uuid": "x"}, "uuid"),
    ],
)
async def test_what_an_agent_may_not_be_is_named(rest: Rest, body: Any, part: str) -> None:
    answer = await refused(rest, "POST", "/agents", body)
    assert answer.status == 400
    assert part in answer.body["message"]


async def test_a_uuid_is_one_agent(rest: Rest, other: str) -> None:
    body = {"deviceName": "a", "uuid": str(uuid.uuid4())}
    await ok(rest, "POST", "/agents", body)
    again = await refused(rest, "POST", "/agents", body)
    foreign = await refused(rest, "POST", "/agents", body, tenant=other)
    assert (again.status, foreign.status) == (409, 409)
    assert again.body == foreign.body
    unknown = {"deviceName": "b", "fleetUuid": str(uuid.uuid4())}
    assert (await refused(rest, "POST", "/agents", unknown)).status == 404


async def test_pages_by_number_and_by_cursor(rest: Rest) -> None:
    await agents(rest, *"abcdefg")
    first = await ok(rest, "GET", "/agents?limit=3")
    assert names(first) == ["a", "b", "c"]
    assert first["pagination"] == {"page": 1, "limit": 3, "totalDevices": 7, "totalPages": 3}
    third = await ok(rest, "GET", "/agents?limit=3&page=3")
    assert (names(third), third["cursor"]) == (["g"], None)
    seen, cursor = names(first), first["cursor"]
    while cursor is not None:
        page = await ok(rest, "GET", f"/agents?limit=3&cursor={cursor}")
        assert "pagination" not in page
        seen, cursor = seen + names(page), page["cursor"]
    assert seen == list("abcdefg")
    assert (await refused(rest, "GET", "/agents?cursor=!")).status == 400
    assert (await refused(rest, "GET", f"/agents?page=2&cursor={first['cursor']}")).status == 400
    assert (await refused(rest, "GET", "/agents?limit=0")).status == 400
    assert (await ok(rest, "GET", "/agents"))["pagination"]["limit"] == 10


async def test_filters_of_the_listing(rest: Rest, connection: asyncpg.Connection) -> None:
    one, two, three = await agents(rest, "Press 1", "press 2", "oven_3")
    await connection.execute(
        "UPDATE agents SET is_online = true, agent_version = '1.4.0', os_version = 'Debian 12',"
        " cpu_usage = 80 WHERE uuid = $1",
        one,
    )
    await ok(rest, "PATCH", f"/agents/{two}/active", {"is_active": False})
    await ok(rest, "PUT", f"/agents/{three}/tags", {"tags": {"line": "7", "site": "north"}})
    for query, expected in (
        ("online=true", ["Press 1"]),
        ("online=false", ["oven_3", "press 2"]),
        ("filter=inactive", ["press 2"]),
        ("filter=active", ["Press 1", "oven_3"]),
        ("version=1.4.0", ["Press 1"]),
        ("version=1.*", ["Press 1"]),
        ("name=press*", ["Press 1", "press 2"]),
        ("name=press%3F1", ["Press 1"]),
        ("name=oven_3", ["oven_3"]),
        ("name=oven%253", []),
        ("tag=line", ["oven_3"]),
        ("tag=line:7&tag=site:north", ["oven_3"]),
        ("tag=line:7,site:south", []),
        ("field=info.os_version:Debian%2012", ["Press 1"]),
        ("field=info.cpu_usage:80", ["Press 1"]),
        ("filter=all", ["Press 1", "oven_3", "press 2"]),
    ):
        assert sorted(names(await ok(rest, "GET", f"/agents?{query}"))) == expected, query
    shown = (await ok(rest, "GET", "/agents?tag=line&includeTags=true"))["agents"][0]
    assert shown["tags"] == {"line": "7", "site": "north"}
    assert (await refused(rest, "GET", "/agents?field=secret.x:1")).status == 400
    assert (await refused(rest, "GET", "/agents?field=info")).status == 400
    assert (await refused(rest, "GET", "/agents?tag=a%20b")).status == 400


async def test_conditions_combine(rest: Rest, connection: asyncpg.Connection) -> None:
    uuids = await agents(rest, "a1", "a2", "b1", "b2")
    for number, one in enumerate(uuids):
        await connection.execute(
            "UPDATE agents SET agent_version = $2, cpu_usage = $3, is_online = $4 WHERE uuid = $1",
            one,
            ("1.9.0", "v1.10.2-rc1", "2.0", None)[number],
            (10.0, 90.5, 50.0, None)[number],
            number % 2 == 0,
        )
    fleet = (await ok(rest, "POST", "/fleets", {"fleetName": "f"}))["fleet_uuid"]
    await ok(rest, "PATCH", f"/agents/{uuids[0]}", {"fleetUuid": fleet})
    await ok(rest, "PUT", f"/agents/{uuids[1]}/tags", {"tags": {"x": ""}})

    def field(op: str, value: Any, path: str = "info.cpu_usage") -> dict[str, Any]:
        return {"fields": [{"path": path, "op": op, "value": value}]}

    for chosen, expected in (
        ({"fleet": fleet}, ["a1"]),
        ({"uuids": uuids[:2], "online": True}, ["a1"]),
        ({"versionFrom": "1.10"}, ["a2", "b1"]),
        ({"versionFrom": "1.9", "versionBelow": "2.0"}, ["a1", "a2"]),
        ({"versionBelow": "1.10"}, ["a1"]),
        (field("gt", 50), ["a2"]),
        (field("ge", 50), ["a2", "b1"]),
        (field("lt", 50), ["a1"]),
        (field("le", 50), ["a1", "b1"]),
        (field("lt", "text"), []),
        (field("eq", 90.5), ["a2"]),
        (field("ne", 90.5), ["a1", "b1", "b2"]),
        (field("exists", None), ["a1", "a2", "b1"]),
        (field("matches", "v1.10*", "info.agent_version"), ["a2"]),
        ({"tags": {"x": None}}, ["a2"]),
        ({"tags": {"x": ""}}, ["a2"]),
        ({"tags": {"x": "y"}}, []),
        ({"anyOf": [{"name": "a1"}, {"name": "b*", "online": True}]}, ["a1", "b1"]),
        ({"anyOf": []}, []),
        ({"noneOf": [{"name": "a*"}, {"online": True}]}, ["b2"]),
        ({"noneOf": [field("gt", 50)]}, ["a1", "b1", "b2"]),
        ({"allOf": [{"name": "a*"}, {"noneOf": [{"online": True}]}]}, ["a2"]),
        ({}, ["a1", "a2", "b1", "b2"]),
    ):
        assert await found(rest, **chosen) == expected, chosen
    counted = {"filter": {"name": "a*"}, "limit": 1, "countAll": True, "includeTags": True}
    page = await ok(rest, "POST", "/agents/query", counted)
    assert (names(page), page["total"], page["agents"][0]["tags"]) == (["a1"], 2, {})
    page = await ok(rest, "POST", "/agents/query", {**counted, "cursor": page["cursor"]})
    assert names(page) == ["a2"]


async def test_fields_of_reported_states(rest: Rest, connection: asyncpg.Connection) -> None:
    one, _ = await agents(rest, "reports", "silent")
    await connection.execute(
        "INSERT INTO agent_current_state (agent_uuid, config, system_info, version, reported_at)"
        " VALUES ($1, $2, $3, 7, now())",
        one,
        '{"endpoints": [{"name": "plc", "enabled": true}]}',
        '{"vpn_health": {"up": false}}',
    )
    for path, op, value, expected in (
        ("reported.config.endpoints.0.name", "eq", "plc", ["reports"]),
        ("reported.config.endpoints", "contains", [{"enabled": True}], ["reports"]),
        ("reported.vpn_health.up", "eq", False, ["reports"]),
        ("reported.version", "gt", 6, ["reports"]),
        ("reported.version", "exists", None, ["reports"]),
        ("reported.apps", "exists", None, []),
        ("reported.version", "ne", 7, ["silent"]),
    ):
        assert await found(rest, fields=[{"path": path, "op": op, "value": value}]) == expected


async def test_fields_of_target_states(rest: Rest) -> None:
    one, _ = await agents(rest, "set", "unset")
    body = {"apps": {}, "config": {"intervals": {"poll": 30}}}
    await ok(rest, "POST", f"/agents/{one}/target-state", body)
    for path, op, value, expected in (
        ("target.config.intervals.poll", "eq", 30, ["set"]),
        ("target.version", "ge", 1, ["set"]),
        ("target.config.intervals.poll", "ne", 30, ["unset"]),
    ):
        assert await found(rest, fields=[{"path": path, "op": op, "value": value}]) == expected


@pytest.mark.parametrize(
    ("chosen", "part"),
    [
        ({"unknown": 1}, "unknown"),
        ({"name": ""}, "name"),
        ({"tags": {"a b": "c"}}, "tags"),
        ({"tags": {"a": "b\0"}}, "tags"),
        ({"fields": [{"path": "users.password_hash"}]}, "users.password_hash"),
        ({"fields": [{"path": "info.x", "op": "is"}]}, "op"),
        ({"fields": [{"path": "info.x", "op": "matches", "value": 1}]}, "info.x"),
        ({"fields": [{"path": "info.x", "value": "\0"}]}, "info.x"),
        ({"uuids": ["x"]}, "uuids"),
    ],
)
async def test_a_wrong_condition_is_named(rest: Rest, chosen: Any, part: str) -> None:
    answer = await refused(rest, "POST", "/agents/query", {"filter": chosen})
    assert answer.status == 400
    assert part in answer.body["message"]


async def test_values_of_filters_are_never_sql(rest: Rest) -> None:
    await agents(rest, "a")
    for text in ("'; DROP TABLE agents; --", "$1", "%", "\\", "*'*", '"'):
        assert await found(rest, name=text) == []
        assert await found(rest, version=text, type=text) == []
        assert await found(rest, tags={"k": text}) == []
        assert await found(rest, fields=[{"path": f"info.{text.replace('.', '')}"}]) in ([], ["a"])
        assert await found(rest, fields=[{"path": "info.os_version", "value": text}]) == []
    assert await found(rest) == ["a"]


async def test_filters_stand_in_one_another_only_so_deep(rest: Rest) -> None:
    chosen: dict[str, Any] = {"name": "a"}
    for _ in range(4):
        chosen = {"allOf": [chosen]}
    assert await found(rest, **chosen) == []
    answer = await refused(rest, "POST", "/agents/query", {"filter": {"allOf": [chosen]}})
    assert (answer.status, answer.body["message"]) == (
        400,
        "filters stand in one another in 5 levels at the most",
    )


async def test_locations(rest: Rest) -> None:
    one, _ = await agents(rest, "placed", "nowhere")
    await ok(rest, "PATCH", f"/agents/{one}", {"location": "hall 3"})
    body = await ok(rest, "GET", "/agents/locations?limit=1")
    assert body["agents"] == [
        {
            "uuid": one,
            "name": "placed",
            "is_online": False,
            "location": "hall 3",
            "fleet_uuid": None,
        }
    ]
    rest_of_it = await ok(rest, "GET", f"/agents/locations?limit=1&cursor={body['cursor']}")
    assert rest_of_it == {"count": 0, "agents": [], "cursor": None}


async def test_fleets(rest: Rest) -> None:
    body = {"fleetName": "north", "fleetType": "virtual", "description": "d"}
    answer = await rest.ask("POST", "/api/v1/fleets", body)
    assert answer.status == 201
    fleet = answer.body
    assert (fleet["fleet_name"], fleet["fleet_type"], fleet["description"]) == (
        "north",
        "virtual",
        "d",
    )
    taken = await refused(rest, "POST", "/fleets", body)
    assert (taken.status, taken.body["message"]) == (
        409,
        "fleetName is 'north'; a fleet of that name exists",
    )
    path = f"/fleets/{fleet['fleet_uuid']}"
    [one] = await agents(rest, "a")
    await ok(rest, "PATCH", f"/agents/{one}", {"fleetUuid": fleet["fleet_uuid"]})
    assert (await ok(rest, "GET", path))["agent_count"] == 1
    full = await refused(rest, "DELETE", path)
    assert (full.status, full.body["message"]) == (
        409,
        f"fleet {fleet['fleet_uuid']} has agents; move them first",
    )
    changed = await ok(rest, "PATCH", path, {"fleetName": "south"})
    assert (changed["fleet_name"], changed["fleet_type"]) == ("south", "virtual")
    await ok(rest, "POST", "/fleets", {"fleetName": "west"})
    assert (await refused(rest, "PATCH", path, {"fleetName": "west"})).status == 409
    page = await ok(rest, "GET", "/fleets?limit=1")
    assert [one["fleet_name"] for one in page["fleets"]] == ["south"]
    page = await ok(rest, "GET", f"/fleets?cursor={page['cursor']}")
    assert [one["fleet_name"] for one in page["fleets"]] == ["west"]
    await ok(rest, "PATCH", f"/agents/{one}", {"fleetUuid": None})
    await ok(rest, "DELETE", path)
    assert (await refused(rest, "GET", path)).status == 404


async def test_tags(rest: Rest) -> None:
    one, two = await agents(rest, "one", "two")
    path = f"/agents/{one}/tags"
    assert await ok(rest, "GET", path) == {"uuid": one, "tags": {}}
    await ok(rest, "PUT", path, {"tags": {"site": "north", "line": "1", "old": "x"}})
    put = await ok(rest, "PUT", path, {"tags": {"site": "south", "line": "1"}})
    assert put["tags"] == {"site": "south", "line": "1"}
    assert await ok(rest, "GET", path) == {"uuid": one, "tags": {"site": "south", "line": "1"}}
    body = {"agentUuids": [one, two, str(uuid.uuid4())], "tags": {"site": "west"}}
    assert await ok(rest, "POST", "/agents/tags/bulk", body) == {"dryRun": False, "count": 2}
    assert (await ok(rest, "GET", path))["tags"] == {"site": "west", "line": "1"}
    assert (await ok(rest, "GET", "/tags/keys"))["keys"] == [
        {"key": "line", "agents": 1, "values": 1},
        {"key": "site", "agents": 2, "values": 1},
    ]
    await ok(rest, "PUT", f"/agents/{two}/tags", {"tags": {"site": "east"}})
    assert await ok(rest, "GET", "/tags/values/site") == {
        "key": "site",
        "count": 2,
        "values": [{"value": "east", "agents": 1}, {"value": "west", "agents": 1}],
        "cursor": None,
    }
    left = await ok(rest, "DELETE", f"{path}?key=site")
    assert left == {"uuid": one, "tags": {"line": "1"}}
    assert (await ok(rest, "DELETE", path))["tags"] == {}
    assert (await ok(rest, "GET", path))["tags"] == {}
    assert (await refused(rest, "PUT", path, {"tags": {"a b": "c"}})).status == 400


async def test_definitions_of_tags_bind_values(rest: Rest) -> None:
    [one] = await agents(rest, "one")
    body = {"key": "site", "description": "where", "allowedValues": ["north", "south"]}
    made = await ok(rest, "POST", "/tags/definitions", body)
    assert (made["key"], made["allowed_values"]) == ("site", ["north", "south"])
    path = f"/agents/{one}/tags"
    wrong = await refused(rest, "PUT", path, {"tags": {"site": "west"}})
    assert (wrong.status, wrong.body["message"]) == (
        400,
        "tag site is 'west'; allowed are north, south",
    )
    bulk = {"agentUuids": [one], "tags": {"site": "west"}}
    assert (await refused(rest, "POST", "/agents/tags/bulk", bulk)).status == 400
    await ok(rest, "PUT", path, {"tags": {"site": "north", "free": "anything"}})
    listed = await ok(rest, "GET", "/tags/definitions")
    assert [one["key"] for one in listed["definitions"]] == ["site"]
    await ok(rest, "DELETE", "/tags/definitions/site")
    await ok(rest, "PUT", path, {"tags": {"site": "west"}})
    assert (await refused(rest, "DELETE", "/tags/definitions/site")).status == 404


async def test_a_group_holds_whoever_matches_now(rest: Rest) -> None:
    await agents(rest, "press 1")
    body = {"name": "presses", "filter": {"name": "press*", "active": True}}
    group = await ok(rest, "POST", "/groups", body)
    assert group["filter"] == body["filter"]
    path = f"/groups/{group['id']}"
    assert names(await ok(rest, "GET", f"{path}/agents")) == ["press 1"]
    await agents(rest, "press 2", "oven")
    page = await ok(rest, "GET", f"{path}/agents?limit=1")
    assert names(page) == ["press 1"]
    assert names(await ok(rest, "GET", f"{path}/agents?cursor={page['cursor']}")) == ["press 2"]
    changed = await ok(rest, "PATCH", path, {"filter": {"tags": {"x": None}}})
    assert (changed["name"], changed["filter"]) == ("presses", {"tags": {"x": None}})
    assert names(await ok(rest, "GET", f"{path}/agents")) == []
    assert (await refused(rest, "POST", "/groups", body)).status == 409
    wrong = {"name": "w", "filter": {"fields": [{"path": "nothing.x"}]}}
    assert (await refused(rest, "POST", "/groups", wrong)).status == 400
    assert (await refused(rest, "PATCH", path, {"filter": wrong["filter"]})).status == 400
    listed = await ok(rest, "GET", "/groups")
    assert [(one["name"], one["id"]) for one in listed["groups"]] == [("presses", group["id"])]
    await ok(rest, "DELETE", path)
    assert (await refused(rest, "GET", f"{path}/agents")).status == 404


async def test_bulk_actions_count_first_and_then_act(rest: Rest) -> None:
    await agents(rest, "a1", "a2", "b1")
    base = {"filter": {"name": "a*"}}
    tag = {**base, "action": "tag", "tags": {"wave": "1"}}
    dry = await ok(rest, "POST", "/agents/bulk", {**tag, "dryRun": True})
    assert dry == {"dryRun": True, "count": 2}
    assert await found(rest, tags={"wave": "1"}) == []
    assert await ok(rest, "POST", "/agents/bulk", tag) == {"dryRun": False, "count": 2}
    assert await found(rest, tags={"wave": "1"}) == ["a1", "a2"]
    fleet = (await ok(rest, "POST", "/fleets", {"fleetName": "f"}))["fleet_uuid"]
    move = {"filter": {"tags": {"wave": "1"}}, "action": "fleet", "fleetUuid": fleet}
    await ok(rest, "POST", "/agents/bulk", move)
    assert await found(rest, fleet=fleet) == ["a1", "a2"]
    group = await ok(rest, "POST", "/groups", {"name": "g", "filter": {"fleet": fleet}})
    off = {"group": group["id"], "action": "active", "active": False}
    assert (await ok(rest, "POST", "/agents/bulk", off))["count"] == 2
    assert await found(rest, active=False) == ["a1", "a2"]
    untag = {"filter": {}, "all": True, "action": "untag", "keys": ["wave"]}
    assert (await ok(rest, "POST", "/agents/bulk", untag))["count"] == 3
    assert await found(rest, tags={"wave": None}) == []


@pytest.mark.parametrize(
    ("body", "status", "part"),
    [
        ({"action": "tag", "tags": {"a": "b"}}, 400, "filter and group"),
        ({"action": "tag", "tags": {"a": "b"}, "filter": {}}, 400, "no agents are named"),
        ({"action": "tag", "filter": {"name": "a"}}, 400, "tags"),
        ({"action": "untag", "filter": {"name": "a"}}, 400, "keys"),
        ({"action": "active", "filter": {"name": "a"}}, 400, "active"),
        ({"action": "other", "filter": {"name": "a"}}, 400, "action"),
        (
            {"action": "fleet", "filter": {"name": "a"}, "fleetUuid": str(uuid.UUID(int=1))},
            404,
            "fleet",
        ),
        ({"action": "active", "active": True, "group": str(uuid.UUID(int=1))}, 404, "group"),
    ],
)
async def test_a_bulk_action_that_is_not_whole_does_nothing(
    rest: Rest, body: Any, status: int, part: str
) -> None:
    answer = await refused(rest, "POST", "/agents/bulk", body)
    assert answer.status == status
    assert part in answer.body["message"]


async def test_more_agents_than_one_step_takes(rest: Rest, pool: Pool) -> None:
    many = [(str(uuid.uuid4()), f"m{number}") for number in range(2100)]
    await AgentStore(pool).add_agents(rest.tenant, many)
    body = {"filter": {"name": "m*"}, "action": "tag", "tags": {"wave": "1"}}
    assert (await ok(rest, "POST", "/agents/bulk", body))["count"] == 2100
    counted = {"filter": {"tags": {"wave": "1"}}, "limit": 1, "countAll": True}
    assert (await ok(rest, "POST", "/agents/query", counted))["total"] == 2100


async def test_provisioning_keys(rest: Rest, connection: asyncpg.Connection) -> None:
    fleet = (await ok(rest, "POST", "/fleets", {"fleetName": "f"}))["fleet_uuid"]
    body = {"fleetUuid": fleet, "maxDevices": 5, "expiresInDays": 10, "description": "line 1"}
    answer = await rest.ask("POST", "/api/v1/provisioning-keys", body)
    assert answer.status == 201
    made = answer.body
    assert len(bytes.fromhex(made["key"])) == 32
    assert (made["fleetUuid"], made["maxDevices"], made["description"]) == (fleet, 5, "line 1")
    ends = datetime.fromisoformat(made["expiresAt"])
    assert abs(ends - datetime.now(UTC) - timedelta(days=10)) < timedelta(minutes=1)
    assert "not shown again" in made["warning"]
    single = {"fleetUuid": fleet, "newKey": True, "previousKeyId": made["id"]}
    second = (await rest.ask("POST", "/api/v1/provisioning-keys/generate", single)).body
    assert second["maxDevices"] == 1
    listed = await ok(rest, "GET", f"/provisioning-keys?fleetUuid={fleet}")
    assert [(key["id"], key["is_active"]) for key in listed["keys"]] == [
        (second["id"], True),
        (made["id"], False),
    ]
    old = listed["keys"][1]
    assert (old["max_agents"], old["agents_provisioned"], old["revoked_reason"]) == (
        5,
        0,
        "replaced",
    )
    assert made["key"] not in str(listed)
    first = await ok(rest, "GET", "/provisioning-keys?limit=1")
    assert [key["id"] for key in first["keys"]] == [second["id"]]
    rest_of_it = await ok(rest, "GET", f"/provisioning-keys?limit=1&cursor={first['cursor']}")
    assert [key["id"] for key in rest_of_it["keys"]] == [made["id"]]
    path = f"/provisioning-keys/{second['id']}"
    await ok(rest, "DELETE", path, {"reason": "lost"})
    row = await connection.fetchrow("SELECT * FROM provisioning_keys WHERE id = $1", second["id"])
    assert (row["is_active"], row["revoked_reason"]) == (False, "lost")
    register = {
        "uuid": str(uuid.uuid4()),
        "deviceName": "a",
        "deviceType": "b",
        "deviceApiKey": "c" * 64,
        "devicePublicKey": ED25519,
    }
    headers = {"x-provisioning-key": second["key"]}
    refusal = await rest.ask("POST", "/api/v1/agent/register", register, role=None, headers=headers)
    assert (refusal.status, refusal.body["message"]) == (401, "the provisioning key is not valid")
    events = await connection.fetch("SELECT event_type FROM audit_logs ORDER BY id")
    assert [row["event_type"] for row in events][1:] == [
        "provisioning_key.created",
        "provisioning_key.revoked",
        "provisioning_key.created",
        "provisioning_key.revoked",
    ]


ED25519 = """-----BEGIN PUBLIC KEY-----
MCowBQYDK2VwAyEA11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=
-----END PUBLIC KEY-----
"""


@pytest.mark.parametrize(
    ("changes", "part"),
    [
        ({"maxDevices": 0}, "maxDevices"),
        ({"maxDevices": 10_001}, "maxDevices"),
        ({"expiresInDays": 0}, "expiresInDays"),
        ({"expiresInDays": 3651}, "expiresInDays"),
        ({"fleetUuid": "x"}, "fleetUuid"),
    ],
)
async def test_rules_of_provisioning_keys(rest: Rest, changes: Any, part: str) -> None:
    body = {"fleetUuid": str(uuid.uuid4()), **changes}
    answer = await refused(rest, "POST", "/provisioning-keys", body)
    assert answer.status == 400
    assert part in answer.body["message"]
    unknown = {"fleetUuid": str(uuid.uuid4())}
    assert (await refused(rest, "POST", "/provisioning-keys", unknown)).status == 404


async def test_roles(rest: Rest) -> None:
    [one] = await agents(rest, "a")
    for method, path, body, least, below in (
        ("GET", "/agents", None, "viewer", None),
        ("GET", "/fleets", None, "viewer", None),
        ("GET", "/tags/keys", None, "viewer", None),
        ("POST", "/agents/query", {}, "viewer", None),
        ("POST", "/fleets", {"fleetName": "f"}, "operator", "viewer"),
        ("PATCH", f"/agents/{one}", {"deviceName": "b"}, "operator", "viewer"),
        ("PATCH", f"/agents/{one}/active", {"is_active": True}, "operator", "viewer"),
        ("PUT", f"/agents/{one}/tags", {"tags": {}}, "operator", "viewer"),
        ("GET", "/provisioning-keys", None, "manager", "operator"),
        ("POST", "/tags/definitions", {"key": "k"}, "admin", "manager"),
        ("DELETE", f"/agents/{one}", None, "manager", "operator"),
    ):
        if below is not None:
            assert (await refused(rest, method, path, body, role=below)).status == 403, path
        await ok(rest, method, path, body, role=least)


async def foreign_things(rest: Rest, other: str) -> Sequence[tuple[str, str, Any]]:
    [agent] = await agents(rest, "foreign", tenant=other)
    fleet = await ok(rest, "POST", "/fleets", {"fleetName": "f"}, tenant=other)
    group = await ok(rest, "POST", "/groups", {"name": "g", "filter": {}}, tenant=other)
    wanted = {"fleetUuid": fleet["fleet_uuid"]}
    key = await ok(rest, "POST", "/provisioning-keys", wanted, tenant=other)
    return (
        ("GET", "/agents/{}", agent, None),
        ("GET", "/devices/{}", agent, None),
        ("PATCH", "/agents/{}", agent, {"deviceName": "mine"}),
        ("PATCH", "/agents/{}/active", agent, {"is_active": False}),
        ("DELETE", "/agents/{}", agent, None),
        ("GET", "/agents/{}/tags", agent, None),
        ("PUT", "/agents/{}/tags", agent, {"tags": {"a": "b"}}),
        ("DELETE", "/agents/{}/tags", agent, None),
        ("GET", "/device/{}/key-status", agent, None),
        ("GET", "/device/{}/rotation-history", agent, None),
        ("GET", "/fleets/{}", fleet["fleet_uuid"], None),
        ("PATCH", "/fleets/{}", fleet["fleet_uuid"], {"fleetName": "mine"}),
        ("DELETE", "/fleets/{}", fleet["fleet_uuid"], None),
        ("GET", "/groups/{}", group["id"], None),
        ("GET", "/groups/{}/agents", group["id"], None),
        ("PATCH", "/groups/{}", group["id"], {"name": "mine"}),
        ("DELETE", "/groups/{}", group["id"], None),
        ("DELETE", "/provisioning-keys/{}", key["id"], None),
    )


async def test_what_another_tenant_has_does_not_exist(rest: Rest, other: str) -> None:
    for method, path, theirs, body in await foreign_things(rest, other):
        nothing = str(uuid.uuid4())
        one = await refused(rest, method, path.format(theirs), body)
        two = await refused(rest, method, path.format(nothing), body)
        assert (one.status, two.status) == (404, 404), path
        told = one.body["message"].replace(theirs, nothing)
        assert told == two.body["message"], path
    for path in ("/agents", "/fleets", "/groups", "/provisioning-keys", "/agents/locations"):
        assert (await ok(rest, "GET", path))["count"] == 0


async def test_nothing_of_another_tenant_can_be_used(
    rest: Rest, other: str, connection: asyncpg.Connection
) -> None:
    [own] = await agents(rest, "own")
    [theirs] = await agents(rest, "theirs", tenant=other)
    fleet = await ok(rest, "POST", "/fleets", {"fleetName": "f"}, tenant=other)
    path, wanted = f"/agents/{own}", {"fleetUuid": fleet["fleet_uuid"]}
    assert (await refused(rest, "PATCH", path, wanted)).status == 404
    assert (await refused(rest, "POST", "/provisioning-keys", wanted)).status == 404
    move = {"action": "fleet", "filter": {"name": "*"}, **wanted}
    assert (await refused(rest, "POST", "/agents/bulk", move)).status == 404
    body = {"agentUuids": [own, theirs], "tags": {"a": "b"}}
    assert (await ok(rest, "POST", "/agents/tags/bulk", body))["count"] == 1
    everyone = {"action": "active", "active": False, "filter": {}, "all": True}
    assert (await ok(rest, "POST", "/agents/bulk", everyone))["count"] == 1
    assert await found(rest, uuids=[own, theirs]) == ["own"]
    assert await connection.fetchval("SELECT is_active FROM agents WHERE uuid = $1", theirs)
    assert await connection.fetchval("SELECT count(*) FROM agent_tags") == 1
