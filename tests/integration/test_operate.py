"""Commands of operators as processes of their own, against the running Cloud API."""

from __future__ import annotations

import asyncio
import os
import secrets
import time
import uuid
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import asyncpg
import orjson
import pytest
import pytest_asyncio
from tests.agent_double import AgentDouble, Http
from tests.cloud_api import TENANT, Api, token
from tests.newcomer import newcomer
from tests.shell import Shell, watched

from iotistica.api.models.agents import NewAgent
from iotistica.client import Client

pytestmark = pytest.mark.asyncio(loop_scope="module")

DOCUMENT = {"steps": [{"action": "run", "command": "uptime"}]}


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def client(api: Api) -> AsyncIterator[Client]:
    async with Client(api.url, token=token()) as client:
        yield client


@pytest.fixture
def shell(api: Api, tmp_path: Path) -> Shell:
    where = {"IOTISTICA_API_URL": api.url, "XDG_DATA_HOME": str(tmp_path / "home")}
    return Shell({**where, "IOTISTICA_API_TOKEN": token()})


@pytest_asyncio.fixture(loop_scope="module")
async def database(api: Api) -> AsyncIterator[asyncpg.Connection]:
    connection = await asyncpg.connect(api.environment["DATABASE_URL"])
    yield connection
    await connection.close()


async def test_agents_are_listed_page_after_page(
    shell: Shell, client: Client, database: asyncpg.Connection
) -> None:
    mark = secrets.token_hex(4)
    names = [f"press {mark} {n:03}" for n in range(3)]
    made = [(await client.agents.create(NewAgent(device_name=name))).uuid for name in names]
    listed = ("agents", "list", "--name", f"press {mark}*")
    done = await shell(*listed, "--json")
    assert (done.code, done.errors) == (0, "")
    assert [(one["uuid"], one["name"]) for one in done.documents] == list(
        zip(made, names, strict=True)
    )
    done = await shell(*listed, "--json", "--limit", "2")
    assert [one["uuid"] for one in done.documents] == made[:2]
    await database.execute("UPDATE agents SET is_online = true WHERE uuid = $1", made[1])
    done = await shell(*listed, "--online")
    assert [row[:4] for row in done.rows] == [[made[1], names[1], "yes", "yes"]]
    done = await shell(*listed, "--offline", "--json")
    assert [one["uuid"] for one in done.documents] == [made[0], made[2]]
    done = await shell(*listed, "--fleet", str(uuid.uuid4()))
    assert (done.code, done.output) == (0, "none\n")


async def test_a_list_longer_than_a_page_is_read_to_its_end(
    shell: Shell, database: asyncpg.Connection
) -> None:
    mark = secrets.token_hex(4)
    await database.execute(
        "INSERT INTO agents (uuid, tenant_id, name) SELECT gen_random_uuid(), $1, $2 || n "
        "FROM generate_series(1, 1203) AS n",
        TENANT,
        mark,
    )
    done = await shell("agents", "list", "--name", f"{mark}*", "--json")
    assert [one["name"] for one in done.documents] == [f"{mark}{n}" for n in range(1, 1204)]
    for form in ([], ["--json"]):
        reader, writer = os.pipe()
        listing = ("agents", "list", "--name", f"{mark}*", *form)
        process = await shell.start(*listing, stdout=writer)
        os.close(writer)
        os.close(reader)
        assert process.stderr is not None
        assert (await process.stderr.read(), await process.wait()) == (b"", 1)
    await database.execute("DELETE FROM agents WHERE name LIKE $1 || '%'", mark)


async def test_an_agent_is_tagged_shown_and_removed(shell: Shell, client: Client) -> None:
    agent = (await client.agents.create(NewAgent(device_name="saw \x1b[31m[red]"))).uuid
    await client.agents.tag(agent, {"hall": "3"})
    done = await shell("agents", "tag", agent, "line:4", "site:a:b")
    assert (done.code, done.output) == (0, "hall:3 line:4 site:a:b\n")
    done = await shell("agents", "untag", agent, "hall", "site", "--json")
    assert done.document == {"tags": {"line": "4"}}
    done = await shell("agents", "list", "--tag", "line:4", "--json")
    assert [one["uuid"] for one in done.documents] == [agent]
    assert done.documents[0]["tags"] == {"line": "4"}
    done = await shell("agents", "show", agent)
    # What an agent calls itself does not steer the terminal.
    assert "\x1b" not in done.output
    shown = dict(line.split(maxsplit=1) for line in done.output.splitlines())
    assert (shown["uuid"], shown["name"]) == (agent, r"saw \x1b[31m[red]")
    done = await shell("agents", "tag", agent, "line")
    assert (done.code, done.errors) == (
        2,
        "iotistica: tag 'line' has no value; KEY:VALUE is expected\n",
    )
    done = await shell("agents", "remove", agent, "--json")
    assert (done.code, orjson.loads(done.errors)) == (
        2,
        {"error": "--yes is not given, and there is nobody to ask"},
    )
    code, seen = await watched(partial(shell.start, "agents", "remove", agent), answer="n\n")
    assert (code, f"Remove agent {agent}?" in seen) == (1, True)
    assert (await client.agents.get(agent)).uuid == agent
    done = await shell("agents", "remove", agent, "--yes")
    assert (done.code, done.output) == (0, f"{agent} is removed\n")
    for command in (("show",), ("logs",), ("metrics",), ("tag", "a:b"), ("untag", "a")):
        done = await shell("agents", command[0], agent, *command[1:])
        assert (done.code, done.errors) == (1, f"iotistica: agent {agent} does not exist\n")


async def test_logs_and_metrics_are_what_the_agent_reported(
    shell: Shell, client: Client, database: asyncpg.Connection
) -> None:
    agent = (await client.agents.create(NewAgent(device_name="kiln"))).uuid
    today = int(time.time() // 86_400)
    await database.execute("SELECT agent_logs_make_days($1)", [today - 1, today])
    await database.execute("SELECT readings_make_days($1)", [today - 1, today])
    await database.execute(
        """
        INSERT INTO agent_logs (agent_uuid, time, service_name, level, message, digest)
        SELECT $1, now() - make_interval(secs => 10 - n), 'control', 'info', E'line\\n' || n, n
        FROM generate_series(1, 3) AS n
        """,
        agent,
    )
    await database.execute(
        """
        INSERT INTO readings (time, agent_uuid, metric_name, value, quality, protocol)
        SELECT now() - make_interval(secs => n), $1, 'cpu_usage', n, 'good', 'system'
        FROM generate_series(1, 3) AS n
        """,
        agent,
    )
    done = await shell("agents", "logs", agent, "--limit", "2")
    assert [line.split(maxsplit=2)[2] for line in done.output.splitlines()] == [
        r"control info line\n2",
        r"control info line\n3",
    ]
    done = await shell("agents", "logs", agent, "--since", "8.5s", "--json")
    assert done.code == 2
    done = await shell("agents", "logs", agent, "--since", "1h", "--text", "E\n1", "--json")
    assert [one["message"] for one in done.documents] == ["line\n1"]
    done = await shell("agents", "logs", agent, "--since", "999999d")
    assert (done.code, done.errors[:34]) == (2, "iotistica: --since is '999999d'; a")
    done = await shell("agents", "logs", agent, "--until", "1h")
    assert (done.code, done.output) == (0, "")
    done = await shell("agents", "metrics", agent, "--limit", "2", "--json")
    assert [one["cpu_usage"] for one in done.documents] == [1, 2]
    done = await shell("agents", "metrics", agent, "--limit", "1")
    assert done.rows[0][1:] == ["1", "-", "-", "-", "-", "-"]
    done = await shell("agents", "metrics", agent, "--period", "1y")
    assert done.code == 2
    assert "period" in done.errors


async def test_target_states_are_staged_deployed_and_rolled_back(
    shell: Shell, client: Client
) -> None:
    agent = (await client.agents.create(NewAgent(device_name="lathe"))).uuid
    target = {"apps": [{"appId": "1", "name": "a"}], "config": {"poll": 30}}
    done = await shell("target", "set", agent, "-", "--reason", "new line", "--json", stdin=target)
    assert (done.code, done.document["version"]) == (0, 1)
    assert (done.document["needs_deployment"], done.document["served_version"]) == (True, None)
    done = await shell("target", "deploy", agent)
    assert (done.code, done.output) == (0, "Target state deployed: version 2, served 2\n")
    # What is shown can be written back.
    shown = (await shell("target", "show", agent, "--json")).document
    shown["config"]["poll"] = 60
    write = ("target", "set", agent, "-", "--deploy", "--if-version")
    done = await shell(*write, "2", stdin=shown)
    assert done.output == "Target state updated: version 3, served 3\n"
    done = await shell(*write, "2", stdin=shown)
    assert (done.code, done.errors) == (
        1,
        f"iotistica: the target state of {agent} is at version 3, not 2\n",
    )
    done = await shell("target", "rollback", agent, "1", "--json")
    assert (done.document["version"], done.document["config"]) == (4, {"poll": 30})
    done = await shell("target", "history", agent, "--json")
    assert [(one["version"], one["action"]) for one in done.documents] == [
        (4, "rolled_back_to_1"),
        (3, "set"),
        (2, "deployed"),
        (1, "staged"),
    ]
    assert done.documents[3]["reason"] == "new line"
    done = await shell("target", "history", agent, "--limit", "1")
    assert done.rows[0][0] == "4"
    done = await shell("target", "show", agent, "--version", "3", "--json")
    assert done.document["config"] == {"poll": 60}
    done = await shell("target", "set", agent, "-", stdin={"apps": 1})
    assert done.code == 2
    assert done.errors.startswith("iotistica: -: Expected ")
    done = await shell("target", "rollback", agent, "9")
    assert done.code == 1


async def test_a_job_is_waited_for(shell: Shell, api: Api, client: Client, tmp_path: Path) -> None:
    agent = await newcomer(client, Http(api.client, api.url))
    await agent.come_in()
    file = tmp_path / "job.json"
    file.write_bytes(orjson.dumps(DOCUMENT))
    run = ("jobs", "run", str(file), "--agent", agent.uuid, "--wait")
    for status, code in (("SUCCEEDED", 0), ("FAILED", 1)):
        waiting = asyncio.create_task(shell(*run, "--json"))
        job = await handed_out(agent)
        await report(agent, job, status)
        done = await waiting
        first, last = done.documents
        assert (done.code, done.errors) == (code, "")
        assert (first["job_id"], first["total_agents"]) == (job, 1)
        assert (last["job_id"], last["status"]) == (job, "COMPLETED")
        assert last["job_name"] == "job.json"
        assert last[f"{status.lower()}_agents"] == 1
    waiting = asyncio.create_task(watched(partial(shell.start, *run)))
    await report(agent, await handed_out(agent), "SUCCEEDED")
    code, seen = await waiting
    assert code == 0
    assert "agents that are done" in seen
    assert "1/1" in seen
    waiting = asyncio.create_task(shell(*run))
    job = await handed_out(agent)
    await report(agent, job, "FAILED", exit_code=7, reason="no \x1b[2Jpower")
    done = await waiting
    ordered, ended, _, part = done.output.splitlines()
    assert done.code == 1
    assert ordered == f"job {job} is ordered of 1 agents"
    assert ended == f"job {job} is COMPLETED: 0 of 1 agents succeeded"
    cells = [agent.uuid, "double", "FAILED", "7", "-", r"no \x1b[2Jpower"]
    assert part.split(maxsplit=5) == cells


async def test_jobs_are_listed_shown_and_canceled(shell: Shell, client: Client) -> None:
    agents = [
        (await client.agents.create(NewAgent(device_name=f"robot {n}"))).uuid for n in range(2)
    ]
    chosen = [one for agent in agents for one in ("--agent", agent)]
    run = ("jobs", "run", "-", "--name", "look")
    done = await shell(*run, *chosen, stdin=DOCUMENT)
    job = done.output.split()[1]
    assert (done.code, done.output) == (0, f"job {job} is ordered of 2 agents\n")
    done = await shell("jobs", "list", "--limit", "1", "--json")
    assert (done.document["job_id"], done.document["job_name"]) == (job, "look")
    done = await shell("jobs", "cancel", job, "--reason", "changed my mind")
    assert (done.code, done.output) == (0, f"{job} is canceled\n")
    done = await shell("jobs", "cancel", job)
    assert done.code == 1
    done = await shell("jobs", "show", job, "--json")
    assert done.document["job_document"] == DOCUMENT
    assert {one["agent_uuid"]: one["status"] for one in done.document["agents"]} == dict.fromkeys(
        agents, "CANCELED"
    )
    done = await shell("jobs", "list", "--status", "CANCELED", "--limit", "1")
    assert done.rows[0][:3] == [job, "look", "CANCELED"]
    done = await shell("jobs", "list", "--status", "LOST")
    assert done.code == 2
    assert "status" in done.errors
    done = await shell(*run, "--all", *chosen, stdin=DOCUMENT)
    assert (done.code, done.errors) == (2, "iotistica: give one of --agent, --group and --all\n")


async def test_alerts_are_listed_and_acknowledged(
    shell: Shell, client: Client, database: asyncpg.Connection
) -> None:
    agent = (await client.agents.create(NewAgent(device_name="oven"))).uuid
    alert = await database.fetchval(
        """
        INSERT INTO alerts (tenant_id, rule_name, kind, agent_uuid, device_name, metric_name,
                            severity, labels, message, opened_at, seen_at, flapping)
        VALUES ($1, 'too hot', 'threshold', $2, '', 'temperature', 'critical', '{}', 'it burns',
                now(), now(), false) RETURNING id
        """,
        TENANT,
        agent,
    )
    done = await shell("alerts", "list", "--agent", agent)
    [row] = done.rows
    assert [row[0], *row[2:]] == [
        *(str(alert), "open", "critical", "too hot", agent, "temperature", "it burns")
    ]
    done = await shell("alerts", "acknowledge", str(alert))
    assert (done.code, done.output) == (0, f"alert {alert} is acknowledged\n")
    done = await shell("alerts", "list", "--status", "acknowledged", "--json")
    assert (done.document["id"], done.document["acknowledged_by"]) == (alert, "development")
    done = await shell("alerts", "list", "--severity", "info", "--json")
    assert done.documents == []
    done = await shell("alerts", "acknowledge", "999999")
    assert done.code == 1


async def test_incidents_are_listed_and_resolved(
    shell: Shell, client: Client, database: asyncpg.Connection
) -> None:
    agent = (await client.agents.create(NewAgent(device_name="pump"))).uuid
    incident = await database.fetchval(
        """
        INSERT INTO anomaly_incidents
            (tenant_id, fingerprint, metric, severity, status, affected_devices, affected_agents,
             opened_at, first_seen, last_seen, event_count)
        VALUES ($1, 'f', 'flow', 'warning', 'active', '{}', ARRAY[$2::uuid], now(), now(), now(), 4)
        RETURNING incident_id
        """,
        TENANT,
        agent,
    )
    done = await shell("incidents", "list", "--agent", agent)
    [row] = done.rows
    assert [row[0], *row[3:]] == [str(incident), "active", "warning", "flow", "4", "1"]
    done = await shell("incidents", "resolve", str(incident), "--notes", "a leak", "--json")
    assert (done.document["status"], done.document["resolution_notes"]) == ("resolved", "a leak")
    done = await shell("incidents", "list", "--status", "open", "--json")
    assert done.documents == []
    done = await shell("incidents", "resolve", "999999")
    assert done.code == 1


async def test_a_rule_of_retention_says_what_it_removes_before_it_does(
    shell: Shell, client: Client, database: asyncpg.Connection
) -> None:
    agent, metric = (await client.agents.create(NewAgent(device_name="old"))).uuid, "flow *"
    for statement in (
        "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, protocol, time)"
        " VALUES ($1, 'd', $2, 'x', now())",
        "INSERT INTO rollup_daily (bucket, agent_uuid, metric_name, device_name, protocol, unit,"
        " sample_count, good_count, value_count, value_sum, value_m2)"
        " VALUES (date_bin('1 day', now(), 'epoch') - interval '9 days', $1, $2, 'd', 'x', '',"
        " 12345, 0, 0, 0, 0)",
    ):
        await database.execute(statement, agent, metric)
    done = await shell("retention", "preview", metric, "7", "--json")
    assert (done.code, done.document["readings"]) == (0, 12345)
    done = await shell("retention", "preview", metric, "7")
    assert done.rows[0][:2] == [metric, "12,345"]
    assert done.output.splitlines()[-1].startswith("12,345 readings go, the oldest of ")
    done = await shell("retention", "set", metric, "7", "--json")
    assert (done.code, "--yes is not given" in done.errors) == (2, True)
    assert (await client.retention.get()).rules == []
    done = await shell("retention", "set", metric, "7", "--yes")
    assert (done.code, done.output) == (0, f"{metric}: kept for 7 days\n")
    done = await shell("retention", "set", "other*", "700", "--json")
    assert (done.code, done.document["keep_days"]) == (0, 700), "nothing goes, nobody is asked"
    done = await shell("retention", "list", "--metric", "flow **", "--json")
    assert [one["pattern"] for one in done.documents] == [metric]
    done = await shell("retention", "list", "--metric", "other")
    assert done.rows[0][:3] == ["other*", "700", "stay"]
    assert "the platform keeps readings for 36500 days" in done.output
    done = await shell("retention", "set", "*", "36501")
    assert (done.code, "keep_days" in done.errors) == (2, True)
    for pattern in ("other*", metric):
        assert (await shell("retention", "remove", pattern)).code == 0
    done = await shell("retention", "remove", metric)
    assert (done.code, done.errors) == (1, f"iotistica: there is no rule for {metric!r}\n")
    assert (await shell("retention", "list", "--json")).documents == []


async def handed_out(agent: AgentDouble) -> str:
    """The job that the agent is to do now."""
    async with asyncio.timeout(20):
        while (
            answer := await agent.call("GET", f"/api/v1/agents/{agent.uuid}/jobs/next")
        ).status != 200:
            await asyncio.sleep(0.05)
    return str(answer.body["job_id"])


async def report(agent: AgentDouble, job: str, status: str, **fields: object) -> None:
    path = f"/api/v1/agents/{agent.uuid}/jobs/{job}/status"
    answer = await agent.call("PATCH", path, {"status": status, **fields})
    assert answer.status == 200, answer.body
