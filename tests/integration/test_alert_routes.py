"""Alert rules, their alerts, and webhooks, by REST."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from tests.receiver import receiving
from tests.rest import Answer, Rest

from iotistica.selection import AgentFilter
from iotistica.store.agents import AgentStore
from iotistica.store.alert_evaluation import AlertEvaluation
from iotistica.store.groups import GroupStore
from iotistica.store.journal import Origin
from iotistica.store.pool import Pool

RULE = {
    "name": "hot",
    "metric": "temp",
    "condition": {"kind": "threshold", "operator": ">", "value": 80},
}


async def agent_of(pool: Pool, tenant: str) -> str:
    agent = str(uuid.uuid4())
    await AgentStore(pool).ensure_tenant(tenant)
    await AgentStore(pool).add_agents(tenant, [(agent, "agent")])
    return agent


async def raise_alert(rest: Rest, pool: Pool, **fields: Any) -> dict[str, Any]:
    agent = await agent_of(pool, rest.tenant)
    made = await rest.ask("POST", "/api/v1/alert-rules", {**RULE, "agents": [agent], **fields})
    assert made.status == 201, made.body
    await pool.execute(
        "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, value, protocol, time)"
        " VALUES ($1, 'pump', 'temp', 90, 'mqtt', now())",
        agent,
    )
    later = datetime.now(UTC) + timedelta(minutes=1)
    assert len(await AlertEvaluation(pool).evaluate(rest.tenant, later)) == 1
    listed = await rest.ask("GET", f"/api/v1/alerts?rule={made.body['id']}")
    (alert,) = listed.body["alerts"]
    return dict(alert)


async def journal(pool: Pool, tenant: str) -> list[tuple[Any, ...]]:
    rows = await pool.fetch(
        "SELECT event_type, before::text, after::text FROM audit_logs WHERE tenant_id = $1"
        " ORDER BY id",
        tenant,
    )
    return [tuple(row) for row in rows]


# Rules


async def test_a_rule_is_made_shown_changed_and_removed(rest: Rest, pool: Pool) -> None:
    agent = await agent_of(pool, rest.tenant)
    group = await GroupStore(pool).add(
        Origin(tenant=rest.tenant), name="vms", description="", chosen=AgentFilter(type="vm")
    )
    given = {
        **RULE,
        "description": "too hot",
        "condition": {"kind": "threshold", "operator": ">", "value": 80, "clear": 75, "for_s": 60},
        "agents": [agent],
        "tags": {"site": "north", "pump": None},
        "group_id": str(group),
        "severity": "critical",
        "labels": {"team": "north"},
    }
    made = await rest.ask("POST", "/api/v1/alert-rules", given)
    assert made.status == 201
    number = made.body["id"]
    assert made.body["condition"].pop("clear_low") is None
    assert {name: made.body[name] for name in given if name != "condition"} == {
        name: given[name] for name in given if name != "condition"
    }
    condition = {name: one for name, one in made.body["condition"].items() if one is not None}
    assert condition == given["condition"]
    assert made.body["fleet_uuid"] is None
    assert (made.body["enabled"], made.body["interval_s"]) == (True, 30)
    assert (made.body["evaluated_at"], made.body["open_alerts"]) == (None, 0)
    path = f"/api/v1/alert-rules/{number}"
    shown = (await rest.ask("GET", path)).body
    assert shown["name"] == "hot"
    changed = await rest.ask("PATCH", path, {"severity": "info", "agents": None, "labels": {}})
    assert changed.status == 200
    assert {n: v for n, v in changed.body.items() if shown[n] != v} == {
        "severity": "info",
        "agents": None,
        "labels": {},
        "modified_at": changed.body["modified_at"],
    }
    kept = await rest.ask("DELETE", f"/api/v1/groups/{group}")
    assert kept.status == 409
    assert (await rest.ask("DELETE", path)).status == 204
    assert (await rest.ask("GET", path)).status == 404
    assert (await rest.ask("DELETE", path)).status == 404
    assert (await rest.ask("DELETE", f"/api/v1/groups/{group}")).status == 200
    _, created, change, deleted, _ = await journal(pool, rest.tenant)
    assert (created[0], created[1]) == ("alert_rule.created", None)
    assert change == (
        "alert_rule.changed",
        f'{{"agents": ["{agent}"], "labels": {{"team": "north"}}, "severity": "critical"}}',
        '{"agents": null, "labels": {}, "severity": "info"}',
    )
    assert (deleted[0], deleted[2]) == ("alert_rule.deleted", None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"condition": {"kind": "threshold", "operator": ">"}}, "operator > needs a value"),
        ({"metric": None}, "a threshold rule needs a metric"),
        ({"interval_s": 1}, "field interval_s is 1: expected float >= 5.0"),
        ({"severity": "bad"}, "field severity is"),
        ({"labels": {"a b": "c"}}, "at key in $.labels"),
        ({"agents": []}, "field agents is []: expected array of length >= 1"),
        ({"more": 1}, "unknown field more"),
    ],
)
async def test_a_rule_that_makes_no_sense_is_refused(
    rest: Rest, change: dict[str, Any], message: str
) -> None:
    answer = await rest.ask("POST", "/api/v1/alert-rules", {**RULE, **change})
    assert answer.status == 400
    assert message in answer.body["message"]


async def test_a_change_must_leave_a_rule_that_makes_sense(rest: Rest) -> None:
    number = (await rest.ask("POST", "/api/v1/alert-rules", RULE)).body["id"]
    answer = await rest.ask("PATCH", f"/api/v1/alert-rules/{number}", {"metric": None})
    assert (answer.status, answer.body["message"]) == (
        400,
        "the rule: a threshold rule needs a metric",
    )


async def test_a_name_is_taken_once_in_a_tenant(rest: Rest, pool: Pool) -> None:
    await AgentStore(pool).ensure_tenant("other")
    assert (await rest.ask("POST", "/api/v1/alert-rules", RULE)).status == 201
    again = await rest.ask("POST", "/api/v1/alert-rules", RULE)
    assert (again.status, again.body["message"]) == (
        409,
        "name is 'hot'; an alert rule of that name exists",
    )
    assert (await rest.ask("POST", "/api/v1/alert-rules", RULE, tenant="other")).status == 201
    other = await rest.ask("POST", "/api/v1/alert-rules", {**RULE, "name": "cold"})
    renamed = await rest.ask("PATCH", f"/api/v1/alert-rules/{other.body['id']}", {"name": "hot"})
    assert renamed.status == 409


async def test_an_agent_of_another_tenant_does_not_exist(rest: Rest, pool: Pool) -> None:
    stranger = await agent_of(pool, "other")
    for agent in (stranger, str(uuid.uuid4())):
        answer = await rest.ask("POST", "/api/v1/alert-rules", {**RULE, "agents": [agent]})
        assert (answer.status, answer.body["message"]) == (
            400,
            f"field agents: agent {agent} does not exist",
        )


async def test_rules_are_listed_by_pages_and_filters(rest: Rest) -> None:
    silent = {"kind": "absence", "silent_s": 600}
    for n, condition in enumerate((RULE["condition"], silent, RULE["condition"])):
        body = {**RULE, "name": f"r{n}", "condition": condition, "enabled": n != 2}
        assert (await rest.ask("POST", "/api/v1/alert-rules", body)).status == 201

    async def names(query: str) -> list[str]:
        answer = await rest.ask("GET", f"/api/v1/alert-rules?{query}")
        return [one["name"] for one in answer.body["rules"]]

    assert await names("") == ["r2", "r1", "r0"]
    assert await names("kind=absence") == ["r1"]
    assert await names("enabled=false") == ["r2"]
    first = (await rest.ask("GET", "/api/v1/alert-rules?limit=2")).body
    assert await names(f"limit=2&cursor={first['cursor']}") == ["r0"]


# Alerts


async def test_an_alert_is_shown_and_acknowledged(rest: Rest, pool: Pool) -> None:
    alert = await raise_alert(rest, pool, labels={"team": "north"})
    number = alert["id"]
    rule = await rest.ask("GET", f"/api/v1/alert-rules/{alert['rule_id']}")
    assert rule.body["open_alerts"] == 1
    shown = (await rest.ask("GET", f"/api/v1/alerts/{number}")).body
    assert shown == alert
    assert (shown["message"], shown["status"]) == ("temp of pump is 90 (> 80)", "open")
    path = f"/api/v1/alerts/{number}/acknowledge"
    done = await rest.ask("PATCH", path)
    assert done.body == {
        **alert,
        "status": "acknowledged",
        "acknowledged_by": "development",
        "acknowledged_at": done.body["acknowledged_at"],
    }
    assert (await rest.ask("PATCH", path)).body == done.body
    assert [one[0] for one in await journal(pool, rest.tenant)] == [
        "alert_rule.created",
        "alert.acknowledged",
    ]
    await rest.ask("DELETE", f"/api/v1/alert-rules/{alert['rule_id']}")
    ended = (await rest.ask("GET", f"/api/v1/alerts/{number}")).body
    assert (ended["status"], ended["rule_id"], ended["rule_name"]) == ("resolved", None, "hot")
    assert (await rest.ask("PATCH", path)).status == 409


async def test_alerts_are_listed_by_filters(rest: Rest, pool: Pool) -> None:
    one = await raise_alert(rest, pool, name="a", labels={"team": "north", "hall": "2"})
    two = await raise_alert(rest, pool, name="b", severity="critical")
    await rest.ask("PATCH", f"/api/v1/alerts/{two['id']}/acknowledge")

    async def found(query: str) -> list[str]:
        answer = await rest.ask("GET", f"/api/v1/alerts?{query}")
        assert answer.status == 200, answer.body
        return [each["rule_name"] for each in answer.body["alerts"]]

    assert await found("") == ["b", "a"]
    assert await found("status=open") == ["a"]
    assert await found("severity=critical") == ["b"]
    assert await found(f"agent={one['agent_uuid']}") == ["a"]
    assert await found("label=team%3Dnorth,hall%3D2") == ["a"]
    assert await found("label=team%3Dsouth") == []
    assert await found(f"cursor={two['id']}") == ["a"]
    wrong = await rest.ask("GET", "/api/v1/alerts?label=north")
    assert wrong.body["message"] == "parameter label is 'north'; name=value is expected"


# Webhooks

HOOK = {"name": "pager", "url": "https://hooks.example.com/secret-path"}


async def make_hook(rest: Rest, **fields: Any) -> Answer:
    return await rest.ask("POST", "/api/v1/alert-webhooks", {**HOOK, **fields})


async def test_a_webhook_shows_its_secret_once(rest: Rest, pool: Pool) -> None:
    made = await make_hook(rest)
    assert made.status == 201
    number, secret = made.body["id"], made.body["secret"]
    assert secret.startswith("whsec_")
    path = f"/api/v1/alert-webhooks/{number}"
    shown = await rest.ask("GET", path)
    assert shown.body == {name: one for name, one in made.body.items() if name != "secret"}
    assert shown.body["events"] == [
        "alert.opened",
        "alert.acknowledged",
        "alert.resolved",
        "anomaly.alert",
    ]
    listed = (await rest.ask("GET", "/api/v1/alert-webhooks")).body
    assert listed["webhooks"] == [shown.body]
    rotated = await rest.ask("POST", f"{path}/rotate-secret")
    assert rotated.body["secret"] != secret
    changed = await rest.ask("PATCH", path, {"events": ["alert.opened"], "enabled": False})
    assert (changed.body["events"], changed.body["enabled"]) == (["alert.opened"], False)
    dump = await pool.fetchval("SELECT string_agg(w::text, '') FROM alert_webhooks AS w")
    written = await journal(pool, rest.tenant)
    for text in (dump, str(written)):
        assert secret not in text
        assert rotated.body["secret"] not in text
    assert "secret-path" not in str(written)
    assert (await rest.ask("DELETE", path)).status == 204
    assert (await rest.ask("GET", path)).status == 404
    assert [one[0] for one in await journal(pool, rest.tenant)] == [
        "alert_webhook.created",
        "alert_webhook.secret_rotated",
        "alert_webhook.changed",
        "alert_webhook.deleted",
    ]


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1/", "http://[::1]/", "http://169.254.169.254/", "ftp://example.com/"]
)
async def test_a_url_that_only_we_could_reach_is_refused(rest: Rest, url: str) -> None:
    assert (await make_hook(rest, url=url)).status == 400
    number = (await make_hook(rest)).body["id"]
    answer = await rest.ask("PATCH", f"/api/v1/alert-webhooks/{number}", {"url": url})
    assert answer.status == 400


async def test_a_test_says_what_the_receiver_answered(rest: Rest, pool: Pool) -> None:
    number = (await make_hook(rest)).body["id"]
    path = f"/api/v1/alert-webhooks/{number}"
    async with receiving() as receiver:
        await pool.execute("UPDATE alert_webhooks SET url = $1", receiver.url)
        tried = (await rest.ask("POST", f"{path}/test")).body
        assert receiver.received == []
    assert tried["delivered"] is False
    assert tried["error"] == "url leads to 127.0.0.1, which is not a public address"
    (delivery,) = (await rest.ask("GET", f"{path}/deliveries")).body["deliveries"]
    assert (delivery["id"], delivery["event"]) == (tried["delivery"], "test")
    assert (delivery["status"], delivery["attempts"]) == ("dead", 1)
    assert delivery["payload"] == {"message": "This is a test."}
    retry = f"{path}/deliveries/{delivery['id']}/retry"
    assert (await rest.ask("POST", retry)).status == 204
    assert (await rest.ask("POST", retry)).status == 404
    listed = (await rest.ask("GET", f"{path}/deliveries?status=pending")).body["deliveries"]
    assert [(one["id"], one["attempts"]) for one in listed] == [(delivery["id"], 0)]
    assert (await rest.ask("GET", f"{path}/deliveries?status=dead")).body["count"] == 0


async def test_a_name_of_a_webhook_is_taken_once(rest: Rest) -> None:
    assert (await make_hook(rest)).status == 201
    assert (await make_hook(rest)).status == 409


# Who may


async def test_what_is_another_tenants_does_not_exist(rest: Rest, pool: Pool) -> None:
    await AgentStore(pool).ensure_tenant("other")
    alert = await raise_alert(rest, pool)
    hook = (await make_hook(rest)).body["id"]
    await rest.ask("POST", f"/api/v1/alert-webhooks/{hook}/test")
    rule, number = alert["rule_id"], alert["id"]
    delivery = await pool.fetchval("SELECT max(id) FROM alert_deliveries")
    for method, path, body in (
        ("GET", f"/api/v1/alert-rules/{rule}", None),
        ("PATCH", f"/api/v1/alert-rules/{rule}", {"enabled": False}),
        ("DELETE", f"/api/v1/alert-rules/{rule}", None),
        ("GET", f"/api/v1/alerts/{number}", None),
        ("PATCH", f"/api/v1/alerts/{number}/acknowledge", None),
        ("GET", f"/api/v1/alert-webhooks/{hook}", None),
        ("PATCH", f"/api/v1/alert-webhooks/{hook}", {"enabled": False}),
        ("DELETE", f"/api/v1/alert-webhooks/{hook}", None),
        ("POST", f"/api/v1/alert-webhooks/{hook}/test", None),
        ("POST", f"/api/v1/alert-webhooks/{hook}/rotate-secret", None),
        ("GET", f"/api/v1/alert-webhooks/{hook}/deliveries", None),
        ("POST", f"/api/v1/alert-webhooks/{hook}/deliveries/{delivery}/retry", None),
    ):
        theirs = await rest.ask(method, path, body, tenant="other")
        unknown = await rest.ask(
            method, "/".join("987654" if p.isdigit() else p for p in path.split("/")), body
        )
        assert theirs.status == unknown.status == 404, path
        assert theirs.body["error"] == unknown.body["error"]
    for path, things in (
        ("alert-rules", "rules"),
        ("alerts", "alerts"),
        ("alert-webhooks", "webhooks"),
    ):
        answer = await rest.ask("GET", f"/api/v1/{path}", tenant="other")
        assert answer.body[things] == []
    assert (await rest.ask("GET", f"/api/v1/alert-rules/{rule}")).body["enabled"] is True


@pytest.mark.parametrize(
    ("role", "method", "path", "status"),
    [
        ("viewer", "GET", "/api/v1/alert-rules", 200),
        ("viewer", "GET", "/api/v1/alerts", 200),
        ("viewer", "POST", "/api/v1/alert-rules", 403),
        ("operator", "POST", "/api/v1/alert-rules", 201),
        ("operator", "GET", "/api/v1/alert-webhooks", 403),
        ("manager", "GET", "/api/v1/alert-webhooks", 200),
        ("manager", "POST", "/api/v1/alert-webhooks", 403),
        ("admin", "POST", "/api/v1/alert-webhooks", 201),
        (None, "GET", "/api/v1/alerts", 401),
    ],
)
async def test_who_may(rest: Rest, role: str | None, method: str, path: str, status: int) -> None:
    body = None
    if method == "POST":
        hook = {"name": "h", "url": "https://hooks.example.com/"}
        body = RULE if path.endswith("rules") else hook
    assert (await rest.ask(method, path, body, role=role)).status == status
