"""What happened: events of agents and entries of the journal, as one."""

from __future__ import annotations

import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import orjson
import pytest
from tests.rest import Rest

from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool

NOW = datetime.now(UTC).replace(microsecond=0)
AGO = timedelta(hours=30)
"""When the story begins."""


@dataclass
class Story:
    """A tenant with two agents and what happened to them, minute by minute."""

    rest: Rest
    connection: asyncpg.Connection
    agent: str
    other: str

    async def get(self, target: str, **more: Any) -> Any:
        answer = await self.rest.ask("GET", f"/api/v1/events{target}", **more)
        assert answer.status == 200, answer.body
        return answer.body

    async def happen(
        self, minute: int, source: str, kind: str, *, agent: str | None = None, **data: Any
    ) -> None:
        await self.connection.execute(
            "INSERT INTO agent_events (tenant_id, agent_uuid, source, type, time, data) "
            "VALUES ($1, $2, $3, $4, $5, $6)",
            self.rest.tenant,
            agent or self.agent,
            source,
            kind,
            at(minute),
            orjson.dumps(data).decode(),
        )

    async def change(self, minute: int, kind: str, subject: str, request: str, **more: Any) -> None:
        values = {"agent_uuid": None, "severity": "info", **more}
        await self.connection.execute(
            "INSERT INTO audit_logs (tenant_id, event_type, severity, actor_type, actor_id, "
            "actor_name, subject, agent_uuid, before, after, ip_address, user_agent, request_id, "
            "created_at) VALUES ($1, $2, $3, 'user', '7', 'ada', $4, $5, '{\"a\": 1}', NULL, "
            "'192.0.2.1', '', $6, $7)",
            self.rest.tenant,
            kind,
            values["severity"],
            subject,
            values["agent_uuid"],
            request,
            at(minute),
        )


def at(minute: int) -> datetime:
    return NOW - AGO + timedelta(minutes=minute)


def types(body: Any) -> list[str]:
    assert body["success"] is True
    assert body["count"] == len(body["events"])
    return [one["event_type"] for one in body["events"]]


@pytest.fixture
async def story(rest: Rest, pool: Pool, connection: asyncpg.Connection) -> Story:
    agent, other = str(uuid.uuid4()), str(uuid.uuid4())
    await AgentStore(pool).add_agents(rest.tenant, [(agent, "a"), (other, "b")])
    story = Story(rest, connection, agent, other)
    await story.happen(0, "presence", "online")
    await story.happen(1, "agent", "startup", version="1.4")
    await story.change(2, "agent.tagged", f"agent/{agent}", "r-1", agent_uuid=uuid.UUID(agent))
    await story.change(2, "user.created", "user/9", "r-1", severity="warning")
    await story.happen(3, "jobs", "job.failed", jobId="j")
    await story.happen(4, "events", "door", severity="critical")
    await story.happen(5, "presence", "offline", lastSeenAt="x")
    await story.happen(6, "presence", "online", agent=other)
    return story


async def test_search_finds_events_and_changes_newest_first(story: Story) -> None:
    found = await story.get("/search")
    assert types(found) == [
        "presence.online",
        "presence.offline",
        "events.door",
        "job.failed",
        "user.created",
        "agent.tagged",
        "agent.startup",
        "presence.online",
    ]
    door, created = found["events"][2], found["events"][4]
    assert door.pop("id").startswith("e")
    assert door == {
        "timestamp": at(4).isoformat().replace("+00:00", "Z"),
        "type": "events.door",
        "event_type": "events.door",
        "source": "events",
        "agent_uuid": story.agent,
        "aggregate_type": "agent",
        "aggregate_id": story.agent,
        "severity": "critical",
        "actor_type": "agent",
        "actor_id": story.agent,
        "actor_name": "",
        "correlation_id": None,
        "data": {"severity": "critical"},
    }
    assert created.pop("id").startswith("c")
    assert created == {
        "timestamp": at(2).isoformat().replace("+00:00", "Z"),
        "type": "user.created",
        "event_type": "user.created",
        "source": "journal",
        "agent_uuid": None,
        "aggregate_type": "user",
        "aggregate_id": "9",
        "severity": "warning",
        "actor_type": "user",
        "actor_id": "7",
        "actor_name": "ada",
        "correlation_id": "r-1",
        "data": {"before": {"a": 1}, "after": None},
    }


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("eventTypes=agent.startup,job.failed", ["job.failed", "agent.startup"]),
        ("severity=warning,critical", ["events.door", "user.created"]),
        ("aggregateTypes=user", ["user.created"]),
        ("actorType=user&actorId=7", ["user.created", "agent.tagged"]),
        ("actorType=user&actorId=8", []),
        ("correlationId=r-1", ["user.created", "agent.tagged"]),
        ("limit=2&offset=1", ["presence.offline", "events.door"]),
    ],
)
async def test_a_search_is_narrowed(story: Story, query: str, expected: list[str]) -> None:
    assert types(await story.get(f"/search?{query}")) == expected


async def test_a_search_by_agent_and_time(story: Story) -> None:
    zone = "%2B00:00"
    since, until = (at(minute).isoformat().replace("+00:00", zone) for minute in (3, 5))
    found = await story.get(f"/search?deviceUuid={story.agent}&dateFrom={since}&dateTo={until}")
    assert types(found) == ["presence.offline", "events.door", "job.failed"]
    wrong = await story.rest.ask("GET", f"/api/v1/events/search?dateFrom={until}&dateTo={since}")
    assert wrong.status == 400
    assert "parameter dateFrom" in wrong.body["message"]


@pytest.mark.parametrize("path", ["/search", "/recent", "/device", "/device/timeline"])
async def test_pages_follow_each_other_without_gap_or_overlap(story: Story, path: str) -> None:
    # Two events and two changes of one moment.
    await story.happen(2, "events", "same")
    await story.happen(2, "events", "same")
    target = path.replace("/device", f"/device/{story.agent}")
    whole = [one["id"] for one in (await story.get(target))["events"]]
    assert len(whole) == len(set(whole)) == (10 if path in ("/search", "/recent") else 8)
    cursor, found = "", []
    while cursor is not None:
        page = await story.get(f"{target}?limit=1{cursor and '&cursor=' + cursor}")
        found += [one["id"] for one in page["events"]]
        cursor = page["cursor"]
    assert found == whole


async def test_what_happened_to_one_agent(story: Story) -> None:
    path = f"/device/{story.agent}"
    newest = await story.get(path)
    assert newest["deviceUuid"] == story.agent
    order = types(newest)
    assert order == [
        "presence.offline",
        "events.door",
        "job.failed",
        "agent.tagged",
        "agent.startup",
        "presence.online",
    ]
    assert types(await story.get(f"{path}/timeline")) == order[::-1]
    since = at(4).isoformat().replace("+00:00", "Z")
    assert types(await story.get(f"{path}/timeline?sinceDate={since}")) == order[1::-1]
    assert types(await story.get(f"{path}/timeline?eventTypes=job.failed")) == ["job.failed"]
    assert types(await story.get(f"{path}?eventType=agent.startup")) == ["agent.startup"]


async def test_events_are_counted_by_type_and_hour(story: Story) -> None:
    body = await story.get("/stats?daysBack=2")
    assert (body["daysBack"], body["total"]) == (2, 8)
    assert {(one["source"], one["event_type"]): one["count"] for one in body["stats"]} == {
        ("agent", "agent.startup"): 1,
        ("events", "events.door"): 1,
        ("jobs", "job.failed"): 1,
        ("journal", "agent.tagged"): 1,
        ("journal", "user.created"): 1,
        ("presence", "presence.offline"): 1,
        ("presence", "presence.online"): 2,
    }
    assert sum(one["count"] for one in body["hours"]) == 8
    hours = {one["period_start"] for one in body["hours"]}
    expected = {at(minute).replace(minute=0, second=0) for minute in (0, 6)}
    assert {datetime.fromisoformat(one) for one in hours} == expected
    assert (await story.get("/stats?daysBack=1"))["total"] == 0


async def test_events_of_an_agent_by_period_and_in_short(story: Story) -> None:
    path = f"/device/{story.agent}"
    span = "&".join(
        f"{name}={at(minute).isoformat().replace('+00:00', 'Z')}"
        for name, minute in (("dateFrom", 0), ("dateTo", 60))
    )
    body = await story.get(f"{path}/aggregate?period=day&{span}")
    assert (body["period"], body["count"]) == ("day", len(body["aggregation"]))
    assert {one["event_type"]: one["count"] for one in body["aggregation"]}["job.failed"] == 1
    assert sum(one["count"] for one in body["aggregation"]) == 6
    for one in body["aggregation"]:
        start = datetime.fromisoformat(one["period_start"])
        assert (start.hour, start.minute) == (0, 0)
    wide = f"{path}/aggregate?period=hour&dateFrom=2020-01-01&dateTo=2026-01-01"
    refused = await story.rest.ask("GET", f"/api/v1/events{wide}")
    assert refused.status == 400
    summary = (await story.get(f"{path}/summary?daysBack=2"))["summary"]
    assert (summary["total"], summary["online"], summary["offline"]) == (6, 1, 1)
    assert datetime.fromisoformat(summary["first"]) == at(0)
    assert datetime.fromisoformat(summary["last"]) == at(5)


async def test_one_request_and_everything_that_it_changed(story: Story) -> None:
    body = {"deviceName": "press", "fleetUuid": None}
    headers = {"x-request-id": "request-of-a-test"}
    path = f"/api/v1/agents/{story.agent}"
    assert (await story.rest.ask("PATCH", path, body, headers=headers)).status == 200
    chain = await story.get("/chain/request-of-a-test")
    assert (chain["correlationId"], types(chain)) == ("request-of-a-test", ["agent.changed"])
    assert chain["events"][0]["data"]["after"]["name"] == "press"
    assert types(await story.get("/chain/r-1")) == ["agent.tagged", "user.created"]
    assert types(await story.get("/chain/nobody")) == []


async def test_an_agent_is_shown_as_it_was(story: Story) -> None:
    rest, path = story.rest, f"/api/v1/events/device/{story.agent}"
    target = f"/api/v1/agents/{story.agent}/target-state"
    for body in ({"apps": {"1": {"n": 1}}}, {"apps": {"1": {"n": 2}}, "config": {"a": 1}}):
        assert (await rest.ask("POST", target, body)).status == 200
    staged = await rest.ask("PUT", target, {"apps": {}})
    assert staged.status == 200
    await story.connection.execute(
        "UPDATE agents SET created_at = $2 WHERE uuid = $1", story.agent, at(0)
    )
    for version, minute in ((1, 1), (2, 10), (3, 20)):
        await story.connection.execute(
            "UPDATE agent_target_state_history SET changed_at = $3 "
            "WHERE agent_uuid = $1 AND version = $2",
            *(story.agent, version, at(minute)),
        )

    async def then(minute: int) -> Any:
        body = {"timestamp": at(minute).isoformat()}
        answer = await rest.ask("POST", f"{path}/snapshot", body)
        assert answer.status == 200
        return answer.body

    early = await then(-1)
    assert (early["existed"], early["target"], early["target_is_known"]) == (False, None, True)
    assert (early["is_online"], early["presence_changed_at"]) == (None, None)
    first, last = await then(3), await then(30)
    assert (first["existed"], first["is_online"]) == (True, True)
    assert (first["target"]["version"], first["target"]["apps"]) == (1, {"1": {"n": 1}})
    assert (last["target"]["version"], last["target"]["served_version"]) == (3, 2)
    assert (last["target"]["action"], last["is_online"]) == ("staged", False)
    assert datetime.fromisoformat(last["presence_changed_at"]) == at(5)

    times = {"time1": at(3).isoformat(), "time2": at(12).isoformat()}
    compared = (await rest.ask("POST", f"{path}/compare", times)).body
    assert (compared["before"]["target"]["version"], compared["after"]["target"]["version"]) == (
        1,
        2,
    )
    assert compared["differences"] == [
        {"path": "/apps/1/n", "op": "changed", "before": 1, "after": 2},
        {"path": "/config/a", "op": "added", "after": 1},
    ]
    assert [one["event_type"] for one in compared["events"]] == [
        "events.door",
        "job.failed",
        "presence.offline",
    ]
    turned = {"time1": times["time2"], "time2": times["time1"]}
    assert (await rest.ask("POST", f"{path}/compare", turned)).status == 400

    # What is forgotten is not made up.
    await story.connection.execute(
        "DELETE FROM agent_target_state_history WHERE agent_uuid = $1 AND version = 1", story.agent
    )
    forgotten = await then(3)
    assert (forgotten["target"], forgotten["target_is_known"]) == (None, False)


async def test_events_of_another_tenant_are_those_of_nobody(story: Story) -> None:
    for path in (
        "",
        "/timeline",
        "/summary",
        "/aggregate?period=day&dateFrom=2026-01-01&dateTo=2026-01-02",
    ):
        for agent, tenant in ((story.agent, "another"), (str(uuid.uuid4()), None)):
            answer = await story.rest.ask(
                "GET", f"/api/v1/events/device/{agent}{path}", tenant=tenant
            )
            assert answer.status == 404
    for path in ("/search", "/recent"):
        assert (await story.get(path, tenant="another"))["count"] == 0
    assert (await story.get("/stats", tenant="another"))["total"] == 0
    assert (await story.get("/chain/r-1", tenant="another"))["count"] == 0


async def test_events_show_settings_and_need_the_permission_for_them(story: Story) -> None:
    for role, status in (("viewer", 403), ("operator", 403), ("manager", 200), (None, 401)):
        answer = await story.rest.ask("GET", "/api/v1/events/search", role=role)
        assert answer.status == status
    wrong = await story.rest.ask("GET", "/api/v1/events/search?cursor=abc")
    assert wrong.status == 400
