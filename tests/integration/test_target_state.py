"""Target states by their routes: what operators write and what agents get."""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import json
import secrets
import uuid
from base64 import b64decode
from datetime import datetime, timedelta
from typing import Any

import orjson
import pytest
from tests.web_process import Control

from iotistica import keys
from iotistica._native import format_topic
from iotistica.settings import Settings
from iotistica.store.events import Event, EventStore, Step
from iotistica.store.pool import Pool
from iotistica.streams import Streams
from iotistica.streams.outbox import outgoing

SECRET = "s" * 32
APPS = {"1": {"appName": "nginx", "services": [{"serviceName": "web", "image": "nginx:1"}]}}
OTHER = {"2": {"appName": "redis", "services": []}}
TARGET = "/target-state"


@pytest.fixture
async def control(pool: Pool, streams: Streams, tenant: str, redis_url: str) -> Control:
    settings = Settings(redis_url=redis_url, update_command_secret=SECRET, target_max_apps=3)
    control = Control(pool, streams, tenant, settings)
    control.streams = streams
    return control


@pytest.fixture
async def agent(control: Control) -> str:
    return await control.add_agent()


def served(answer: Any, agent: str) -> dict[str, Any]:
    assert answer.status == 200
    assert list(answer.body) == [agent]
    return answer.body[agent]


async def test_an_agent_without_target_state_gets_an_empty_one(
    control: Control, agent: str
) -> None:
    answer = await control.poll(agent)
    assert answer.body == {agent: {"apps": {}, "config": {}}}
    assert answer.headers["x-min-poll-interval"] == "10"
    again = await control.poll(agent, answer.headers["etag"])
    assert (again.status, again.body) == (304, b"")
    assert again.headers["x-content-length"] == str(len(orjson.dumps(answer.body)))


async def test_what_is_posted_is_served_at_once(control: Control, agent: str) -> None:
    before = await control.poll(agent)
    body = {"apps": APPS, "config": {"logging": {"level": "debug"}}, "reason": "first"}
    made = await control.write("POST", agent, TARGET, body)
    assert {name: made[name] for name in ("status", "message", "uuid", "version", "apps")} == {
        "status": "ok",
        "message": "Target state updated",
        "uuid": agent,
        "version": 1,
        "apps": APPS,
    }
    assert made["config"] == body["config"]
    assert not made["needs_deployment"]
    state = served(await control.poll(agent, before.headers["etag"]), agent)
    assert state["apps"] == APPS
    assert state["config"] == {"logging": {"level": "debug"}}
    assert (state["version"], state["needs_deployment"]) == (1, False)
    assert state["last_deployed_at"].endswith("Z")


async def test_the_version_grows_on_post_where_the_reference_keeps_it(
    control: Control, agent: str
) -> None:
    versions = [
        (await control.write("POST", agent, TARGET, {"apps": apps}))["version"]
        for apps in (APPS, OTHER, OTHER)
    ]
    assert versions == [1, 2, 3]
    removed = await control.write("DELETE", agent, TARGET)
    assert removed["version"] == 4
    assert (await control.write("POST", agent, TARGET, {"apps": APPS}))["version"] == 5


async def test_apps_may_be_an_array(control: Control, agent: str) -> None:
    apps = [{"appId": 7, "appName": "x"}, {"appId": "eight"}]
    made = await control.write("POST", agent, TARGET, {"apps": apps})
    assert made["apps"] == {"7": apps[0], "eight": apps[1]}


async def test_a_staged_state_is_not_served_where_the_reference_answers_a_false_304(
    control: Control, agent: str
) -> None:
    await control.write("POST", agent, TARGET, {"apps": APPS})
    first = await control.poll(agent)
    staged = await control.write("PUT", agent, TARGET, {"apps": OTHER})
    assert (staged["version"], staged["needs_deployment"]) == (2, True)
    assert staged["served_version"] == 1
    # Without an ETag, and with one that the agent never had: the state that was last deployed.
    for etag in (None, '"other"', staged["etag"]):
        assert served(await control.poll(agent, etag), agent)["apps"] == APPS
    assert (await control.poll(agent, first.headers["etag"])).status == 304

    deployed = await control.write("POST", agent, "/deploy")
    assert (deployed["version"], deployed["needs_deployment"]) == (3, False)
    state = served(await control.poll(agent, first.headers["etag"]), agent)
    assert (state["apps"], state["version"]) == (OTHER, 3)


async def test_the_first_poll_of_an_agent_whose_only_state_is_staged_gets_an_empty_one(
    control: Control, agent: str
) -> None:
    await control.write("PUT", agent, TARGET, {"apps": APPS})
    assert (await control.poll(agent)).body == {agent: {"apps": {}, "config": {}}}
    cancelled = await control.write("POST", agent, "/deploy/cancel")
    assert (cancelled["apps"], cancelled["is_default"]) == ({}, True)


async def test_cancelling_goes_back_to_what_the_agent_has(control: Control, agent: str) -> None:
    await control.write("POST", agent, TARGET, {"apps": APPS, "config": {"a": 1}})
    first = await control.poll(agent)
    await control.write("PUT", agent, TARGET, {"apps": OTHER})
    state = await control.write("POST", agent, "/deploy/cancel", {"reason": "wrong agent"})
    assert (state["apps"], state["config"]) == (APPS, {"a": 1})
    assert (state["version"], state["needs_deployment"]) == (3, False)
    assert (await control.poll(agent, first.headers["etag"])).status == 304
    # Nothing is staged now: neither makes a version.
    assert (await control.write("POST", agent, "/deploy/cancel"))["version"] == 3
    assert (await control.write("POST", agent, "/deploy"))["version"] == 3


async def test_apps_are_staged_one_by_one(control: Control, agent: str) -> None:
    await control.write("POST", agent, TARGET, {"apps": APPS, "config": {"a": 1}})
    added = await control.ask("POST", f"/api/v1/agents/{agent}/apps", {"appId": "n", "x": 1})
    assert added.status == 201
    assert added.body["apps"]["n"] == {"appId": "n", "x": 1}
    again = await control.ask("POST", f"/api/v1/agents/{agent}/apps", {"appId": "n"})
    assert again.status == 409
    changed = await control.write("PATCH", agent, "/apps/n", {"x": 2, "y": 3})
    assert changed["apps"]["n"] == {"appId": "n", "x": 2, "y": 3}
    removed = await control.write("DELETE", agent, "/apps/1")
    assert list(removed["apps"]) == ["n"]
    assert served(await control.poll(agent), agent)["apps"] == APPS

    one = await control.write("POST", agent, "/apps/n/deploy")
    assert one["needs_deployment"]
    state = served(await control.poll(agent), agent)
    assert state["apps"] == {**APPS, "n": {"appId": "n", "x": 2, "y": 3}}
    assert state["config"] == {"a": 1}
    last = await control.write("POST", agent, "/apps/1/deploy")
    assert not last["needs_deployment"]
    assert list(served(await control.poll(agent), agent)["apps"]) == ["n"]
    for method, rest in (
        ("PATCH", "/apps/no"),
        ("DELETE", "/apps/no"),
        ("POST", "/apps/no/deploy"),
    ):
        answer = await control.ask(method, f"/api/v1/agents/{agent}{rest}", {})
        assert answer.status == 404


async def test_if_match_refuses_a_change_of_a_newer_version(control: Control, agent: str) -> None:
    made = await control.write("POST", agent, TARGET, {"apps": APPS})
    path, body = f"/api/v1/agents/{agent}{TARGET}", {"apps": OTHER}
    got = await control.ask("GET", path)
    assert got.headers["etag"] == f'"{made["etag"]}"'
    # Weak, as it comes through the front door where the answer was compressed.
    good = {"if-match": f"W/{got.headers['etag']}"}
    assert (await control.ask("PUT", path, body, headers=good)).status == 200
    late = await control.ask("POST", path, body, headers=good)
    assert late.status == 412
    assert late.body["error"] == "Precondition failed"
    assert "version 2" in late.body["message"]
    assert (await control.ask("POST", path, body, headers={"if-match": "*"})).status == 200
    assert (await control.ask("POST", path, body)).status == 200


async def test_of_writers_with_one_etag_one_wins(control: Control, agent: str) -> None:
    made = await control.write("POST", agent, TARGET, {"apps": APPS})
    path, headers = f"/api/v1/agents/{agent}{TARGET}", {"if-match": made["etag"]}
    bodies = [{"apps": {str(n): {}}} for n in range(5)]
    answers = await asyncio.gather(
        *(control.ask("POST", path, body, headers=headers) for body in bodies)
    )
    assert sorted(answer.status for answer in answers) == [200, 412, 412, 412, 412]


async def test_no_write_of_many_at_once_is_lost(control: Control, agent: str) -> None:
    path = f"/api/v1/agents/{agent}{TARGET}"
    answers = await asyncio.gather(
        *(control.ask("POST", path, {"apps": {str(n): {}}}) for n in range(8))
    )
    assert sorted(answer.body["version"] for answer in answers) == list(range(1, 9))
    history = await control.write("GET", agent, f"{TARGET}/history")
    assert [one["version"] for one in history["versions"]] == list(range(8, 0, -1))


async def test_the_history_tells_who_when_and_why(control: Control, agent: str) -> None:
    await control.write("POST", agent, TARGET, {"apps": APPS, "reason": "first"})
    await control.write("PUT", agent, TARGET, {"apps": OTHER, "config": {"a": [1, 2]}})
    await control.write("POST", agent, "/deploy", {"reason": "go"})
    page = await control.write("GET", agent, f"{TARGET}/history?limit=2")
    rows = [(v["version"], v["action"], v["reason"], v["deployed"]) for v in page["versions"]]
    assert rows == [(3, "deployed", "go", True), (2, "staged", "", False)]
    assert {v["changed_by"] for v in page["versions"]} == {"development"}
    rest = await control.write("GET", agent, f"{TARGET}/history?cursor={page['cursor']}")
    assert [(v["version"], v["reason"]) for v in rest["versions"]] == [(1, "first")]
    assert rest["cursor"] is None
    second = await control.write("GET", agent, f"{TARGET}/history/2")
    assert (second["apps"], second["config"]) == (OTHER, {"a": [1, 2]})
    assert (await control.ask("GET", f"/api/v1/agents/{agent}{TARGET}/history/9")).status == 404
    for rest in ("history?cursor=x", f"history/{2**31}", f"diff?from={2**70}", "diff?from=0"):
        bad = await control.ask("GET", f"/api/v1/agents/{agent}{TARGET}/{rest}")
        assert bad.status == 400, rest


async def test_the_difference_of_two_versions(control: Control, agent: str) -> None:
    one = {"apps": APPS, "config": {"endpoints": [{"name": "a", "x": 1}, {"name": "b"}], "k": 1}}
    two = {
        "apps": {"1": {**APPS["1"], "appName": "n"}},
        "config": {"endpoints": [{"name": "b"}, {"name": "a", "x": 2}], "n/m": True},
    }
    for body in (one, two):
        await control.write("POST", agent, TARGET, body)
    found = await control.write("GET", agent, f"{TARGET}/diff?from=1")
    assert (found["from"], found["to"]) == (1, 2)
    assert sorted(found["differences"], key=lambda one: one["path"]) == [
        {"path": "/apps/1/appName", "op": "changed", "before": "nginx", "after": "n"},
        {"path": "/config/endpoints/a/x", "op": "changed", "before": 1, "after": 2},
        {"path": "/config/k", "op": "removed", "before": 1},
        {"path": "/config/n~1m", "op": "added", "after": True},
    ]
    back = await control.write("GET", agent, f"{TARGET}/diff?from=2&to=1")
    assert len(back["differences"]) == 4


async def test_a_rollback_is_a_new_version(control: Control, agent: str) -> None:
    await control.write("POST", agent, TARGET, {"apps": APPS, "config": {"a": 1}})
    await control.write("POST", agent, TARGET, {"apps": OTHER})
    back = await control.write("POST", agent, f"{TARGET}/rollback", {"version": 1})
    assert (back["version"], back["apps"], back["config"]) == (3, APPS, {"a": 1})
    state = served(await control.poll(agent), agent)
    assert (state["apps"], state["version"]) == (APPS, 3)
    staged = await control.write(
        "POST", agent, f"{TARGET}/rollback", {"version": 2, "deploy": False}
    )
    assert staged["needs_deployment"]
    assert served(await control.poll(agent), agent)["apps"] == APPS
    missing = await control.ask("POST", f"/api/v1/agents/{agent}{TARGET}/rollback", {"version": 99})
    assert missing.status == 404


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"config": {}}, 400, "apps"),
        ({"apps": "x"}, 400, "apps"),
        ({"apps": [{"appName": "x"}]}, 400, "apps[0].appId"),
        ({"apps": [{"appId": 1}, {"appId": "1"}]}, 400, "as in another app"),
        ({"apps": {"x": 1}}, 400, "expected object"),
        ({"apps": {}, "config": []}, 400, "config"),
        ({"apps": {str(n): {} for n in range(4)}}, 413, "TARGET_MAX_APPS"),
        ({"apps": {}, "config": {"a": "x" * 1_100_000}}, 413, "1048576"),
        ({"apps": {}, "config": {"a": "a\0b"}}, 400, "NUL"),
        ({"apps": {}, "config": {"a": 2**70}}, 400, ""),
        ({"apps": {}, "reason": "x" * 501}, 400, "reason"),
    ],
)
async def test_what_cannot_be_a_target_state_is_refused(
    control: Control, agent: str, body: Any, status: int, words: str
) -> None:
    answer = await control.ask("POST", f"/api/v1/agents/{agent}{TARGET}", json.dumps(body).encode())
    assert (answer.status, words in answer.body["message"]) == (status, True), answer.body
    assert (await control.write("GET", agent, TARGET))["version"] == 0


async def test_too_deep_nesting_is_refused(control: Control, agent: str) -> None:
    for depth, status in ((28, 200), (40, 413), (5000, 400)):
        body = b'{"apps":{},"config":' + b'{"a":' * depth + b"1" + b"}" * depth + b"}"
        answer = await control.ask("POST", f"/api/v1/agents/{agent}{TARGET}", body)
        assert answer.status == status, (depth, answer.body)


async def test_another_tenants_agent_answers_as_one_that_does_not_exist(
    control: Control, agent: str
) -> None:
    foreign, nobody = await control.add_agent(secrets.token_hex(6)), str(uuid.uuid4())
    body = {"apps": {}, "appId": "x", "version": 1, "host": "h", "port": 1}
    for method, rest in (
        ("GET", TARGET),
        ("POST", TARGET),
        ("PUT", TARGET),
        ("DELETE", TARGET),
        ("GET", f"{TARGET}/history"),
        ("GET", f"{TARGET}/history/1"),
        ("GET", f"{TARGET}/diff?from=1"),
        ("POST", f"{TARGET}/rollback"),
        ("POST", "/deploy"),
        ("POST", "/deploy/cancel"),
        ("POST", "/apps"),
        ("PATCH", "/apps/x"),
        ("DELETE", "/apps/x"),
        ("POST", "/apps/x/deploy"),
        ("PUT", "/broker"),
    ):
        answers = [
            await control.ask(method, f"/api/v1/agents/{one}{rest}", body)
            for one in (foreign, nobody)
        ]
        assert [answer.status for answer in answers] == [404, 404], (method, rest)
        texts = [answer.body["message"].replace(foreign, nobody) for answer in answers]
        assert texts[0] == texts[1]


async def test_agents_write_by_their_own_key_only_what_the_reference_lets_them(
    control: Control, agent: str
) -> None:
    other = await control.add_agent()
    path = f"/api/v1/agents/{agent}{TARGET}"
    for method in ("GET", "POST", "DELETE"):
        answer = await control.ask(method, path, {"apps": {}}, key=agent)
        assert answer.status == 200, method
        assert (await control.ask(method, path, {"apps": {}}, key=other)).status == 403
    assert (await control.ask("PUT", path, {"apps": {}}, key=agent)).status == 403
    deploy = await control.ask("POST", f"/api/v1/agents/{agent}/deploy", key=agent)
    assert deploy.status == 403
    assert (await control.ask("GET", f"/api/v1/device/{agent}/state", key=other)).status == 403
    history = await control.write("GET", agent, f"{TARGET}/history")
    assert {one["changed_by"] for one in history["versions"]} == {f"agent {agent}"}


async def test_nobody_writes_without_the_permission(control: Control, agent: str) -> None:
    path = f"/api/v1/agents/{agent}{TARGET}"
    for method, rest in (("POST", ""), ("PUT", ""), ("DELETE", ""), ("POST", "/rollback")):
        for role, status in (("viewer", 403), (None, 401)):
            body = {"apps": {}, "version": 1}
            answer = await control.ask(method, path + rest, body, role=role)
            assert answer.status == status
    assert (await control.ask("GET", path, role="viewer")).status == 200


async def test_passwords_become_hashes_as_mosquitto_reads_them(
    control: Control, agent: str
) -> None:
    endpoint = {
        "name": "m",
        "protocol": "mqtt",
        "auth": {"mqtt": {"username": "u", "password": "secret"}},
    }
    body = {"apps": {}, "config": {"endpoints": [endpoint, {"name": "o"}]}}
    made = await control.write("POST", agent, TARGET, body)
    mqtt = made["config"]["endpoints"][0]["auth"]["mqtt"]
    assert set(mqtt) == {"username", "passwordFileHash"}
    empty, scheme, rounds, salt, key = mqtt["passwordFileHash"].split("$")
    assert (empty, scheme, rounds, len(b64decode(salt))) == ("", "7", "101", 12)
    expected = hashlib.pbkdf2_hmac("sha512", b"secret", b64decode(salt), 101, 64)
    assert b64decode(key) == expected
    state = served(await control.poll(agent), agent)
    assert state["config"]["endpoints"][0]["auth"]["mqtt"] == mqtt
    # What was read may be written back.
    again = await control.write("POST", agent, TARGET, {"apps": {}, "config": made["config"]})
    assert again["config"] == made["config"]
    rows = await control.pool.fetch("SELECT config::text AS c FROM agent_target_state_history")
    assert all("secret" not in row["c"] for row in rows)


async def test_the_order_to_update_is_signed_where_it_is_served(
    control: Control, agent: str
) -> None:
    config = {"agent": {"version": "1.2.3", "force": True}}
    made = await control.write("POST", agent, TARGET, {"apps": {}, "config": config})
    assert made["config"] == config
    signed = served(await control.poll(agent), agent)["config"]["agent"]
    issued, expires = signed["update_issued_at"], signed["update_expires_at"]
    text = f"update|1.2.3|{issued}|{expires}||true"
    assert (
        signed["update_signature"] == hmac.new(SECRET.encode(), text.encode(), "sha256").hexdigest()
    )
    assert (issued[:10], issued[10:]) != (expires[:10], expires[10:])
    assert expires[11:] == issued[11:]


async def sent(control: Control) -> list[tuple[str, Any]]:
    entries = await control.streams.outbox.read("test", count=100)
    messages = [outgoing(fields) for _, fields in entries]
    return [(message.topic, orjson.loads(message.payload)) for message in messages]


async def test_agents_are_nudged_when_what_they_get_changes(control: Control, agent: str) -> None:
    await control.write("PUT", agent, TARGET, {"apps": APPS})
    assert await sent(control) == []
    await control.write("POST", agent, "/deploy")
    ((topic, body),) = await sent(control)
    assert topic == format_topic(control.tenant, agent, "cmd/target-state")
    assert (body["action"], body["version"]) == ("poll", 2)
    assert body["etag"] == (await control.poll(agent)).headers["etag"]


async def test_an_update_is_ordered_over_mqtt(control: Control, agent: str) -> None:
    order = {"version": "2.0.0", "scheduled_time": "2026-12-01T10:00:00Z"}
    answer = await control.ask("POST", f"/api/v1/agents/{agent}/update-agent", order)
    assert answer.status == 202
    ((topic, command),) = await sent(control)
    assert topic == format_topic(control.tenant, agent, "agent/update")
    assert answer.body["command"] == command
    assert command["action"] == "update"
    assert command["scheduled_time"] == "2026-12-01T10:00:00.000Z"
    times = f"{command['issued_at']}|{command['expires_at']}"
    text = f"update|2.0.0|{times}|2026-12-01T10:00:00.000Z|false"
    expected = hmac.new(SECRET.encode(), text.encode(), "sha256").hexdigest()
    assert command["signature"] == expected


async def updates(control: Control, agent: str, query: str = "") -> Any:
    answer = await control.ask("GET", f"/api/v1/agents/{agent}/updates{query}")
    assert (answer.status, answer.body["count"]) == (200, len(answer.body["updates"]))
    return answer.body


async def test_an_update_is_followed_from_its_order_to_its_end(
    control: Control, agent: str
) -> None:
    await control.write("POST", agent, "/update-agent", {"version": "2.0.0"})
    (ordered,) = (await updates(control, agent))["updates"]
    assert (ordered["status"], ordered["target_version"]) == ("pending", "2.0.0")
    assert (ordered["requested_by"], ordered["acknowledged_at"]) == ("development", None)
    created, given_up = (datetime.fromisoformat(ordered[n]) for n in ("created_at", "timeout_at"))
    assert given_up - created == timedelta(days=1)

    store = EventStore(control.pool)
    for number, status in enumerate(("acknowledged", "in_progress", "succeeded")):
        at = created + timedelta(seconds=number)
        event = Event(
            tenant=control.tenant,
            agent=agent,
            source="agent",
            type="status",
            time=at,
            data={},
            digest=bytes([number]),
        )
        step = Step(agent=agent, status=status, at=at, current_version="1.0.0")
        await store.add_lifecycle([event], [(event, step)], [])
        (update,) = (await updates(control, agent))["updates"]
        assert (update["id"], update["status"]) == (ordered["id"], status)
    assert update["current_version"] == "1.0.0"
    assert update["completed_at"] is not None


async def test_updates_are_listed_newest_first_by_pages(control: Control, agent: str) -> None:
    for version in ("1", "2", "3"):
        at = {"scheduled_time": "2999-12-31T00:00:00"} if version == "2" else {}
        await control.write("POST", agent, "/update-agent", {"version": version, **at})
    first = await updates(control, agent, "?limit=2")
    assert [one["target_version"] for one in first["updates"]] == ["3", "2"]
    assert first["updates"][1]["scheduled_time"] == "2999-12-31T00:00:00Z"
    assert first["updates"][1]["timeout_at"] == "3000-01-01T00:00:00Z"
    rest = await updates(control, agent, f"?limit=2&cursor={first['cursor']}")
    assert [one["target_version"] for one in rest["updates"]] == ["1"]
    assert rest["cursor"] is None
    for at in ("9999-12-31T23:59:59-01:00", "0001-01-01T00:00:00+01:00"):
        body = {"version": "1", "scheduled_time": at}
        answer = await control.ask("POST", f"/api/v1/agents/{agent}/update-agent", body)
        assert answer.status == 400
    stranger = await control.ask("GET", f"/api/v1/agents/{agent}/updates", tenant="another")
    nobody = await control.ask(
        "POST", f"/api/v1/agents/{uuid.uuid4()}/update-agent", {"version": "1"}
    )
    assert stranger.status == nobody.status == 404


async def test_an_update_that_cannot_be_sent_is_not_pending(
    pool: Pool, redis_url: str, tenant: str
) -> None:
    settings = Settings(redis_url=redis_url, outbox_max_messages=1)
    streams = Streams.of(settings)
    control = Control(pool, streams, tenant, settings)
    agent = await control.add_agent()
    await control.write("POST", agent, "/update-agent", {"version": "1"})
    full = await control.ask("POST", f"/api/v1/agents/{agent}/update-agent", {"version": "2"})
    await streams.close()
    assert full.status == 503
    newest, oldest = (await updates(control, agent))["updates"]
    assert (newest["status"], newest["error"]) == ("failed", "the command could not be sent")
    assert oldest["status"] == "pending"


async def test_the_broker_is_sent_as_a_shadow_delta(control: Control, agent: str) -> None:
    body = {"protocol": "mqtts", "host": "b.example", "port": 8883, "useTls": True}
    await control.write("PUT", agent, "/broker", body)
    ((topic, delta),) = await sent(control)
    assert topic == format_topic(control.tenant, agent, "shadow/name/device-state/update/delta")
    assert delta["state"] == {"mqtt": {"broker": body}}
    assert delta["metadata"]["mqtt"]["timestamp"] == delta["timestamp"]


async def test_changes_stand_in_the_journal(control: Control, agent: str) -> None:
    await control.write("POST", agent, TARGET, {"apps": APPS})
    await control.write("POST", agent, "/update-agent", {"version": "1"})
    rows = await control.pool.fetch(
        "SELECT event_type, agent_uuid::text AS agent, after FROM audit_logs ORDER BY id"
    )
    assert [(row["event_type"], row["agent"]) for row in rows] == [
        ("target_state.updated", agent),
        ("agent.update_ordered", agent),
    ]
    assert orjson.loads(rows[0]["after"])["version"] == 1


async def test_the_history_is_bounded(
    pool: Pool, streams: Streams, tenant: str, redis_url: str
) -> None:
    settings = Settings(redis_url=redis_url, target_history_versions=3)
    control = Control(pool, streams, tenant, settings)
    agent = await control.add_agent()
    for _ in range(5):
        await control.write("POST", agent, TARGET, {"apps": APPS})
    history = await control.write("GET", agent, f"{TARGET}/history")
    assert [one["version"] for one in history["versions"]] == [5, 4, 3]


async def test_a_full_outbox_refuses_no_change(pool: Pool, redis_url: str, tenant: str) -> None:
    streams = Streams(redis_url, outbox_most=1)
    control = Control(pool, streams, tenant, Settings(redis_url=redis_url))
    agent = await control.add_agent()
    for apps in (APPS, OTHER):
        await control.write("POST", agent, TARGET, {"apps": apps})
    assert served(await control.poll(agent), agent)["apps"] == OTHER
    assert await streams.outbox.waiting() == 1
    await streams.close()


def test_the_channel_is_the_one_agreed() -> None:
    assert keys.TARGETS_CHANNEL == "iotistica:targets"
