"""Target states of many agents, and what agents report against theirs."""

from __future__ import annotations

import secrets
import uuid
from typing import Any

import asyncpg
import orjson
import pytest
from tests.web_process import Control

from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.streams import Streams

APPLY = "/api/v1/target-state/apply"
APPS, OTHER = {"1": {"a": 1}}, {"2": {"b": 2}}


@pytest.fixture
async def control(pool: Pool, streams: Streams, tenant: str, redis_url: str) -> Control:
    return Control(pool, streams, tenant, Settings(redis_url=redis_url, target_max_apps=3))


async def apply(control: Control, **body: Any) -> Any:
    answer = await control.ask("POST", APPLY, body)
    assert answer.status == 200, answer.body
    return answer.body


async def state(control: Control, agent: str) -> dict[str, Any]:
    return await control.write("GET", agent, "/target-state")


async def test_apply_changes_the_named_agents(control: Control, streams: Streams) -> None:
    agents = [await control.add_agent() for _ in range(3)]
    await control.write("POST", agents[0], "/target-state", {"apps": OTHER, "config": {"k": 1}})
    done = await apply(control, agents=agents[:2] * 2, apps=APPS, reason="all")
    assert done == {
        "dryRun": False,
        "selected": 2,
        "changed": 2,
        "unchanged": 0,
        "failed": [],
        "failedCount": 0,
    }
    states = [await state(control, agent) for agent in agents]
    assert [one["apps"] for one in states] == [APPS, APPS, {}]
    assert [one["version"] for one in states] == [2, 1, 0]
    assert states[0]["config"] == {"k": 1}
    assert (await control.poll(agents[1])).body[agents[1]]["apps"] == APPS
    assert await streams.outbox.waiting() == 3


async def test_a_dry_run_changes_nothing(control: Control) -> None:
    agents = [await control.add_agent() for _ in range(2)]
    stranger = str(uuid.uuid4())
    done = await apply(control, agents=[*agents, stranger], config={"x": 1}, dryRun=True)
    assert (done["dryRun"], done["selected"], done["changed"], done["failedCount"]) == (
        True,
        3,
        2,
        1,
    )
    assert [one["uuid"] for one in done["failed"]] == [stranger]
    assert [(await state(control, agent))["version"] for agent in agents] == [0, 0]


async def test_a_merge_patch_keeps_what_it_does_not_name(control: Control) -> None:
    agent = await control.add_agent()
    config = {"logging": {"level": "info", "file": "f"}, "k": 1}
    await control.write("POST", agent, "/target-state", {"apps": APPS, "config": config})
    patch = {"logging": {"level": "debug"}, "k": None}
    await apply(control, agents=[agent], apps={"2": {"n": 1}}, config=patch, merge=True)
    found = await state(control, agent)
    assert found["config"] == {"logging": {"level": "debug", "file": "f"}}
    assert found["apps"] == {**APPS, "2": {"n": 1}}
    await apply(control, agents=[agent], apps={"1": None}, merge=True, deploy=False)
    found = await state(control, agent)
    assert (found["apps"], found["needs_deployment"]) == ({"2": {"n": 1}}, True)


async def test_all_are_those_of_the_tenant(control: Control) -> None:
    agents = [await control.add_agent() for _ in range(2)]
    foreign = await control.add_agent(secrets.token_hex(6))
    assert (await apply(control, all=True, config={"x": 1}))["selected"] == 2
    assert {(await state(control, agent))["version"] for agent in agents} == {1}
    assert (await control.poll(foreign)).body == {foreign: {"apps": {}, "config": {}}}


async def test_one_refused_agent_stands_not_in_the_way_of_others(control: Control) -> None:
    agents = [await control.add_agent() for _ in range(3)]
    foreign = await control.add_agent(secrets.token_hex(6))
    full = {str(n): {} for n in range(3)}
    await control.write("POST", agents[0], "/target-state", {"apps": full})
    done = await apply(control, agents=[*agents, foreign], apps={"x": {}}, merge=True)
    assert (done["changed"], done["failedCount"]) == (2, 2)
    messages = {one["uuid"]: one["message"] for one in done["failed"]}
    assert "4 apps" in messages[agents[0]]
    assert messages[foreign] == f"agent {foreign} does not exist"
    assert (await state(control, agents[1]))["apps"] == {"x": {}}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"all": True}, "neither apps nor config"),
        ({"apps": {}}, "exactly one"),
        ({"apps": {}, "all": True, "agents": [str(uuid.uuid4())]}, "exactly one"),
        ({"apps": [], "all": True, "merge": True}, "object by id"),
        ({"apps": {}, "agents": []}, "agents"),
        ({"apps": {}, "agents": ["x"]}, "agents[0]"),
    ],
)
async def test_a_wrong_order_is_refused(control: Control, body: Any, words: str) -> None:
    answer = await control.ask("POST", APPLY, body)
    assert (answer.status, words in answer.body["message"]) == (400, True), answer.body


async def test_the_default_has_versions_of_its_own(control: Control) -> None:
    path = "/api/v1/target-state/default"
    nobody = await control.ask("PUT", path, {"apps": {}}, tenant=secrets.token_hex(6))
    assert nobody.status == 404
    await control.add_agent()
    assert (await control.ask("GET", path)).body["version"] == 0
    for number in (1, 2):
        made = await control.ask("PUT", path, {"apps": [{"appId": "d"}], "config": {"n": number}})
        assert (made.status, made.body["version"]) == (200, number)
    got = await control.ask("GET", path)
    assert (got.body["apps"], got.body["config"]) == ({"d": {"appId": "d"}}, {"n": 2})
    other = secrets.token_hex(6)
    await control.add_agent(other)
    assert (await control.ask("GET", path, tenant=other)).body["version"] == 0
    assert (await control.ask("PUT", path, {"apps": {}}, role="viewer")).status == 403


async def report(connection: asyncpg.Connection, agent: str, apps: Any, config: Any) -> None:
    await connection.execute(
        "INSERT INTO agent_current_state (agent_uuid, apps, config, system_info, version, "
        "reported_at) VALUES ($1, $2, $3, '{\"cpu_usage\": 5}', 3, '2026-11-25T10:00:00Z')",
        agent,
        orjson.dumps(apps).decode(),
        orjson.dumps(config).decode(),
    )


async def test_what_an_agent_reported(control: Control, connection: asyncpg.Connection) -> None:
    agent, silent = await control.add_agent(), await control.add_agent()
    foreign = await control.add_agent(secrets.token_hex(6))
    await report(connection, agent, APPS, {"k": 1})
    answer = await control.ask("GET", f"/api/v1/agents/{agent}/current-state")
    assert answer.body == {
        "apps": APPS,
        "config": {"k": 1},
        "system_info": {"cpu_usage": 5},
        "reported_at": "2026-11-25T10:00:00Z",
        "version": 3,
    }
    none = await control.ask("GET", f"/api/v1/agents/{silent}/current-state")
    assert (none.status, none.body["error"]) == (404, "No state reported yet")
    for rest in ("current-state", "drift"):
        assert (await control.ask("GET", f"/api/v1/agents/{foreign}/{rest}")).status == 404


async def test_drift_of_one_agent(control: Control, connection: asyncpg.Connection) -> None:
    agent = await control.add_agent(name="press")
    await control.write("POST", agent, "/target-state", {"apps": APPS, "config": {"k": 1}})
    # What is only staged is no drift.
    await control.write("PUT", agent, "/target-state", {"apps": OTHER})
    before = await control.write("GET", agent, "/drift")
    assert (before["status"], before["deviations"]) == ("not_reported", [])
    await report(connection, agent, {"1": {"a": 1, "status": "up"}}, {"k": 2})
    found = await control.write("GET", agent, "/drift")
    assert {name: found[name] for name in ("name", "status", "target_version")} == {
        "name": "press",
        "status": "drifted",
        "target_version": 1,
    }
    assert (found["reported_version"], found["needs_deployment"]) == (3, True)
    assert found["deviations"] == [
        {
            "kind": "config",
            "id": "k",
            "state": "different",
            "differences": [{"path": "", "op": "changed", "before": 1, "after": 2}],
        }
    ]


async def test_drift_of_all_agents(control: Control, connection: asyncpg.Connection) -> None:
    agents = sorted([await control.add_agent() for _ in range(5)])
    await control.add_agent(secrets.token_hex(6))
    await apply(control, all=True, apps=APPS)
    for agent in agents[:2]:
        await report(connection, agent, APPS, {})
    await report(connection, agents[2], {}, {})
    page = (await control.ask("GET", "/api/v1/target-state/drift?limit=4")).body
    assert [one["uuid"] for one in page["agents"]] == agents[:4]
    assert [one["status"] for one in page["agents"]] == [
        "in_sync",
        "in_sync",
        "drifted",
        "not_reported",
    ]
    assert (page["in_sync"], page["drifted"], page["not_reported"]) == (2, 1, 1)
    rest = await control.ask("GET", f"/api/v1/target-state/drift?cursor={page['cursor']}")
    assert [one["uuid"] for one in rest.body["agents"]] == agents[4:]
    assert rest.body["cursor"] is None
    only = await control.ask("GET", "/api/v1/target-state/drift?status=drifted")
    assert [one["uuid"] for one in only.body["agents"]] == [agents[2]]
    assert (await control.ask("GET", "/api/v1/target-state/drift?cursor=x")).status == 400


async def test_a_fleet_gets_a_target_state(
    control: Control, connection: asyncpg.Connection
) -> None:
    agents = [await control.add_agent() for _ in range(3)]
    fleet = await connection.fetchval(
        "INSERT INTO fleets (tenant_id, fleet_name) VALUES ($1, 'f') RETURNING fleet_uuid::text",
        control.tenant,
    )
    await connection.execute(
        "UPDATE agents SET fleet_uuid = $1 WHERE uuid = ANY ($2::uuid[])", fleet, agents[:2]
    )
    done = await apply(control, fleet=fleet, apps=APPS)
    assert (done["selected"], done["changed"]) == (2, 2)
    states = [await state(control, agent) for agent in agents]
    assert [one["version"] for one in states] == [1, 1, 0]
    other = secrets.token_hex(6)
    await control.add_agent(other)
    for tenant, which in ((other, fleet), (control.tenant, str(uuid.uuid4()))):
        answer = await control.ask("POST", APPLY, {"fleet": which, "apps": {}}, tenant=tenant)
        assert answer.status == 404


async def test_a_group_and_a_filter_get_a_target_state(
    control: Control, connection: asyncpg.Connection
) -> None:
    named = [await control.add_agent(name=name) for name in ("press-1", "press-2", "oven-1")]
    await control.add_agent(secrets.token_hex(6), name="press-3")
    group = await connection.fetchval(
        "INSERT INTO groups (tenant_id, name, filter) VALUES ($1, 'g', $2) RETURNING id::text",
        control.tenant,
        '{"name": "press-*"}',
    )
    assert (await apply(control, group=group, apps=APPS))["changed"] == 2
    assert (await apply(control, filter={"name": "oven-*"}, apps=OTHER))["changed"] == 1
    states = [await state(control, agent) for agent in named]
    assert [one["apps"] for one in states] == [APPS, APPS, OTHER]
    missing = {"group": str(uuid.uuid4()), "apps": {}}
    assert (await control.ask("POST", APPLY, missing)).status == 404
