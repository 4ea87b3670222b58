"""Grafana's JSON data sources, with the bodies that the plugins send, on both storage profiles."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from tests.integration.test_metric_queries import (
    COUNT,
    DRILL,
    FOREIGN,
    METRIC,
    PRESS,
    START,
    STEP,
    plant,  # noqa: F401 (a fixture)
)
from tests.rest import Answer, Rest

from iotistica.api import panels

END = START + timedelta(days=2)


def ms(time: datetime) -> int:
    return int(time.timestamp() * 1000)


def iso(time: datetime) -> str:
    return time.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.000Z")


def span(start: datetime = START, end: datetime = END) -> dict[str, Any]:
    """A range as moment.js writes it."""
    raw = {"from": "now-2d", "to": "now"}
    return {"from": iso(start), "to": iso(end), "raw": raw}


def panel(*targets: Mapping[str, Any], **more: Any) -> dict[str, Any]:
    """What `simpod-json-datasource` 0.6 sends: the whole request of the panel."""
    source = {"type": "simpod-json-datasource", "uid": "iotistica"}
    return {
        "app": "dashboard",
        "requestId": "Q100",
        "timezone": "browser",
        "panelId": 1,
        "panelPluginId": "timeseries",
        "dashboardUID": "a8d1",
        "range": span(),
        "interval": "5m",
        "intervalMs": 300_000,
        "maxDataPoints": 1000,
        "scopedVars": {"__interval": {"text": "5m", "value": "5m"}},
        "startTime": 1_792_000_000_000,
        "rangeRaw": {"from": "now-2d", "to": "now"},
        "filters": [],
        "targets": [
            {"datasource": source, "editorMode": "code", "payload": {}, "refId": "A", **target}
            for target in targets
        ],
        **more,
    }


async def post(rest: Rest, path: str, body: Any, **more: Any) -> Any:
    answer = await rest.ask("POST", f"/api/v1/grafana/{path}", body, **more)
    assert answer.status == 200, answer.body
    return answer.body


async def refused(rest: Rest, path: str, body: Any) -> str:
    answer = await rest.ask("POST", f"/api/v1/grafana/{path}", body)
    assert answer.status == 400, answer.body
    return str(answer.body["message"])


async def test_the_reference_asks_for_no_credentials(plant: Rest) -> None:  # noqa: F811
    """Its check of tokens was replaced by nothing: whoever found the port read everything."""
    paths = {
        "GET": ("", "/", "/agents", "/devices", "/metrics", "/variable/agents"),
        "POST": ("/search", "/query", "/annotations", "/tag-keys", "/tag-values", "/variable"),
    }
    for method, own in paths.items():
        for path in own:
            answer = await plant.ask(method, f"/api/v1/grafana{path}", role=None)
            assert answer.status == 401, path


async def test_a_key_of_a_service_is_enough(plant: Rest) -> None:  # noqa: F811
    made = await plant.ask(
        "POST", "/api/v1/auth/api-keys", {"name": "grafana", "permissions": ["data:read"]}
    )
    assert made.status == 201, made.body
    for name, value in (("authorization", f"Bearer {made.body['key']}"), ("x-api-key", None)):
        headers = {name: value or made.body["key"]}
        for path in ("/api/v1/grafana", "/api/v1/grafana/"):
            answer = await plant.ask("GET", path, role=None, headers=headers)
            assert (answer.status, answer.body["status"]) == (200, "ok")
    less = await plant.ask(
        "POST", "/api/v1/auth/api-keys", {"name": "less", "permissions": ["device:read"]}
    )
    headers = {"x-api-key": less.body["key"]}
    answer = await plant.ask("POST", "/api/v1/grafana/query", panel(), role=None, headers=headers)
    assert answer.status == 403


async def test_a_panel_gets_each_series_by_itself(plant: Rest) -> None:  # noqa: F811
    found = await post(plant, "query", panel({"target": METRIC}))
    assert [(one["target"], one["refId"]) for one in found] == [
        (f"press-1 x {METRIC}", "A"),
        (f"press-1 y {METRIC}", "A"),
        (f"drill_1 {METRIC}", "A"),
    ]
    assert found[0]["tags"] == {
        "agent": "press-1",
        "device": "x",
        "metric": METRIC,
        "agent_uuid": str(PRESS),
    }
    # In steps of 5 minutes, of which each second one has a reading.
    assert found[0]["datapoints"] == [[float(n), ms(START + n * STEP)] for n in range(COUNT)]


async def test_steps_fit_the_panel(plant: Rest) -> None:  # noqa: F811
    """48 hours in at most 50 points, or in no steps shorter than 6 hours."""
    for more, step in (
        ({"maxDataPoints": 50}, timedelta(hours=1)),
        ({"maxDataPoints": 50.5, "intervalMs": 6 * 3_600_000}, timedelta(hours=8)),
        ({"maxDataPoints": 10, "intervalMs": 1}, timedelta(hours=6)),
    ):
        body = panel({"target": METRIC, "payload": {"agents": [str(DRILL)]}}, **more)
        [series] = await post(plant, "query", body)
        times = [time for _, time in series["datapoints"]]
        assert times == list(range(ms(START), ms(END), int(step.total_seconds()) * 1000))
        each = step // STEP
        assert [value for value, _ in series["datapoints"]] == pytest.approx(
            [10 * (n * each + (each - 1) / 2) for n in range(len(times))]
        )


async def test_a_payload_says_how(plant: Rest) -> None:  # noqa: F811
    day = {"agents": str(PRESS), "downsample": "1d-max"}
    for payload, expected in (
        (day | {"devices": "x"}, [[143.0, 287.0]]),
        # As the query builder sends it: everything is text, what is empty as well.
        (day | {"devices": ["(x|y)"], "rate": "false", "aggregator": ""}, [[143, 287], [286, 574]]),
        (day | {"group_by": [], "aggregator": "sum"}, [[429.0, 861.0]]),
        (day | {"devices": ["x"], "rate": True}, [[144 / 86_400]]),
        ({"agents": [str(FOREIGN)]}, []),
    ):
        found = await post(plant, "query", panel({"target": METRIC, "payload": payload}))
        got = [[value for value, _ in one["datapoints"]] for one in found]
        assert got == [pytest.approx(one) for one in expected], payload


async def test_tables_and_requests_of_simple_json(plant: Rest) -> None:  # noqa: F811
    """`grafana-simple-json-datasource` sends a type, and ad hoc filters by another name."""
    body = {
        "panelId": 1,
        "range": span(),
        "rangeRaw": {"from": "now-6h", "to": "now"},
        "interval": "1d",
        "intervalMs": 86_400_000,
        "targets": [
            {"target": METRIC, "refId": "A", "type": "timeserie"},
            {"target": METRIC, "refId": "B", "type": "table", "data": {"downsample": "1d-last"}},
        ],
        "adhocFilters": [{"key": "agent", "operator": "=", "value": "drill_1"}],
        "format": "json",
        "maxDataPoints": 550,
    }
    series, table = await post(plant, "query", body)
    assert (series["target"], series["refId"]) == (f"drill_1 {METRIC}", "A")
    assert table == {
        "refId": "B",
        "type": "table",
        "columns": [
            {"text": "Time", "type": "time"},
            {"text": "Agent", "type": "string"},
            {"text": "Device", "type": "string"},
            {"text": "Metric", "type": "string"},
            {"text": "Value", "type": "number"},
        ],
        "rows": [
            [ms(START), "drill_1", None, METRIC, 1430.0],
            [ms(START + timedelta(days=1)), "drill_1", None, METRIC, 2870.0],
        ],
    }


async def test_ad_hoc_filters(plant: Rest) -> None:  # noqa: F811
    press = [f"press-1 {device} {METRIC}" for device in "xy"]
    drill = [f"drill_1 {METRIC}"]
    for operator, key, value, expected in (
        ("=", "site", "hall 50%-p", press),
        ("!=", "site", "hall 50%-p", drill),
        ("=~", "site", "-d$", drill),
        ("!~", "site", "-d$", press),
        ("!~", "owner", ".", press + drill),
        ("!=", "device", "x", [press[1], *drill]),
        ("=", "unit", "C", press),
    ):
        one = {"key": key, "operator": operator, "value": value}
        found = await post(plant, "query", panel({"target": METRIC}, filters=[one]))
        assert [series["target"] for series in found] == expected, (operator, key)
    several = {"key": "device", "operator": "=|", "value": "x", "values": ["x", "y"]}
    found = await post(plant, "query", panel({"target": METRIC}, filters=[several]))
    assert [series["target"] for series in found] == press


async def test_a_name_that_grafana_wrote_as_an_expression(plant: Rest) -> None:  # noqa: F811
    """Variables are put into targets with their special characters escaped."""
    for target in (r"line\/speed \[m\/s\]", r"(line\/speed \[m\/s\]|other\.metric)"):
        found = await post(plant, "query", panel({"target": target}))
        assert [one["target"] for one in found][-1] == f"drill_1 {METRIC}"
    assert panels.names("(a|b)") == ["(a|b)", "a", "b"]
    assert panels.names([r"a\|b", "c"]) == [r"a\|b", "a|b", "c"]


async def test_wrong_targets_are_named(plant: Rest) -> None:  # noqa: F811
    """Grafana shows the message."""
    for target, field in (
        ({"target": ""}, "targets[0].target"),
        ({"target": "m", "payload": {"agregator": "avg"}}, "targets[0].payload"),
        ({"target": "m", "payload": {"aggregator": "median"}}, "targets[0].payload.aggregator"),
        ({"target": "m", "payload": {"agents": "press-1"}}, "targets[0].payload.agents"),
        ({"target": "m", "payload": {"downsample": "1y-avg"}}, "targets[0].payload.downsample"),
        ({"target": "m", "payload": "{"}, "targets[0].payload"),
        ({"target": "m", "type": "heatmap"}, "targets[0].type"),
    ):
        assert field in await refused(plant, "query", panel(target)), target
    unknown = [{"key": "device", "operator": "<", "value": "x"}]
    assert "filters[0].operator" in await refused(plant, "query", panel(filters=unknown))
    assert "range.from" in await refused(plant, "query", panel(range=span(END, START)))
    assert "range.to" in await refused(plant, "query", panel(range={**span(), "to": "later"}))
    wrong = {"key": "site", "operator": "=~", "value": "("}
    answer = await refused(plant, "query", panel({"target": METRIC}, filters=[wrong]))
    assert "regular expression" in answer


async def test_what_is_hidden_or_empty_is_not_asked(plant: Rest) -> None:  # noqa: F811
    assert await post(plant, "query", panel()) == []
    hidden = panel({"target": METRIC, "hide": True}, {"refId": "B"})
    assert await post(plant, "query", hidden) == []
    assert await post(plant, "query", panel({"target": "no such metric"})) == []


async def test_lists_for_dashboards(plant: Rest) -> None:  # noqa: F811
    both = [{"text": "drill_1", "value": str(DRILL)}, {"text": "press-1", "value": str(PRESS)}]
    devices = [{"text": one, "value": one} for one in "xy"]
    for path, expected in (
        ("agents", both),
        ("agents?search=PRESS", both[1:]),
        ("devices", devices),
        (f"devices?agent={DRILL}", []),
        (f"devices?agent={FOREIGN}", []),
        ("metrics", [{"text": METRIC, "value": METRIC}]),
        ("variable/agents", both),
        ("variable/devices", devices),
        ("variable/metrics?search=zzz", []),
    ):
        answer = await plant.ask("GET", f"/api/v1/grafana/{path}")
        assert (answer.status, answer.body) == (200, expected), path


async def test_variables(plant: Rest) -> None:  # noqa: F811
    for payload, expected in (
        ({"target": "agents"}, ["drill_1", "press-1"]),
        ({"target": "devices"}, ["x", "y"]),
        ({"target": f"devices ({DRILL}|{PRESS})"}, ["x", "y"]),
        ({"target": f"devices {DRILL}"}, []),
        ({"list": "metrics", "agents": [str(PRESS)]}, [METRIC]),
        ({"target": "tag site"}, ["hall 50%-d", "hall 50%-p"]),
        ({"list": "tag", "key": "protocol"}, ["modbus", "opcua"]),
    ):
        found = await post(plant, "variable", {"payload": payload, "range": span()})
        assert [one["__text"] for one in found] == expected, payload
    [first, _] = await post(plant, "variable", {"payload": {"target": "agents"}})
    assert first == {"__text": "drill_1", "__value": str(DRILL)}
    for payload in ({"target": "fleets"}, {"list": "fleets"}, {"list": "tag"}):
        assert "payload" in await refused(plant, "variable", {"payload": payload})


async def test_search_finds_metrics_and_serves_variables(plant: Rest) -> None:  # noqa: F811
    metrics = [{"text": METRIC, "value": METRIC}]
    for body in ({"target": ""}, {}, {"type": "timeserie", "target": "SPEED"}):
        assert await post(plant, "search", body) == metrics
    assert await post(plant, "search", {"target": "no such"}) == []
    found = await post(plant, "search", {"target": "agents"})
    assert [one["text"] for one in found] == ["drill_1", "press-1"]


async def test_the_query_builder(plant: Rest) -> None:  # noqa: F811
    [one] = await post(plant, "metrics", {})
    assert (one["label"], one["value"]) == (METRIC, METRIC)
    fields = [field["name"] for field in one["payloads"]]
    assert fields == ["agents", "devices", "aggregator", "downsample", "rate"]
    asked = {"metric": METRIC, "payload": {"agents": [str(PRESS)]}, "name": "devices"}
    found = await post(plant, "metric-payload-options", asked)
    assert found == [{"label": one, "value": one} for one in "xy"]
    asked["name"] = "colors"
    assert "field name" in await refused(plant, "metric-payload-options", asked)


async def test_tags_for_ad_hoc_filters(plant: Rest) -> None:  # noqa: F811
    keys = [one["text"] for one in await post(plant, "tag-keys", {})]
    assert keys == ["agent", "device", "protocol", "unit", "line", "site"]
    values = await post(plant, "tag-values", {"key": "site"})
    assert values == [{"text": "hall 50%-d"}, {"text": "hall 50%-p"}]
    values = await post(plant, "tag-values", {"key": "agent", "filters": []})
    assert [one["text"] for one in values] == ["drill_1", "press-1"]


async def annotated(rest: Rest, connection: asyncpg.Connection) -> None:
    for tenant, agent in ((rest.tenant, PRESS), ("other", FOREIGN)):
        await connection.execute(
            """
            INSERT INTO anomaly_incidents (tenant_id, fingerprint, metric, severity, status,
                affected_devices, affected_agents, opened_at, first_seen, last_seen, event_count)
            VALUES ($1, 'f', 'speed', 'critical', 'active', '{x}', ARRAY[$2::uuid], $3, $3,
                    $3::timestamptz + interval '1 h', 7)
            """,
            *(tenant, agent, START),
        )
        await connection.execute(
            """
            INSERT INTO alerts (tenant_id, rule_name, kind, agent_uuid, device_name, metric_name,
                severity, labels, message, status, opened_at, seen_at, flapping, resolved_at)
            VALUES ($1, 'hot', 'threshold', $2, '', 'speed', 'warning', '{}', 'too fast',
                    'resolved', $3, $3, false, $3::timestamptz + interval '5 min')
            """,
            *(tenant, agent, START),
        )
        await connection.execute(
            """
            INSERT INTO anomaly_events (tenant_id, agent_uuid, device_name, device_type, metric,
                timestamp_ms, observed_value, anomaly_score, severity, triggered_by, suppressed,
                fingerprint)
            VALUES ($1, $2, 'x', 'plc', 'speed', $3, 9, 0.5, 'info', '{}', false, 'f')
            """,
            *(tenant, agent, ms(START)),
        )


def annotation(query: Any, **more: Any) -> dict[str, Any]:
    """What `grafana-simple-json-datasource` sends for annotations."""
    own = {"name": "marks", "enable": True, "iconColor": "red", "query": query}
    return {"range": span(), "rangeRaw": {"from": "now-2d", "to": "now"}, "annotation": own} | more


async def test_annotations(plant: Rest, connection: asyncpg.Connection) -> None:  # noqa: F811
    await annotated(plant, connection)
    hour = START + timedelta(hours=1)
    expected = {
        "incidents": {
            "time": ms(START),
            "timeEnd": ms(hour),
            "isRegion": True,
            "title": "incident: speed",
            "text": "7 events, active",
            "tags": ["incident", "critical", "active", "speed", "x"],
        },
        "alerts": {
            "time": ms(START),
            "timeEnd": ms(START + timedelta(minutes=5)),
            "isRegion": True,
            "title": "alert: hot",
            "text": "too fast",
            "tags": ["alert", "warning", "resolved", "speed"],
        },
        "events": {
            "time": ms(START),
            "title": "anomaly: speed",
            "text": "value 9, score 0.5",
            "tags": ["anomaly", "info", "speed", "x"],
        },
    }
    for query, marks in expected.items():
        body = annotation(query)
        [found] = await post(plant, "annotations", body)
        assert found == {"annotation": body["annotation"], **marks}
    [found] = await post(plant, "annotations", annotation(""))
    assert found["title"] == "incident: speed"
    for query in (
        {"annotations": "alerts", "severity": "critical"},
        {"annotations": "events", "agents": str(DRILL)},
        {"agents": [str(FOREIGN)]},
    ):
        assert await post(plant, "annotations", annotation(query)) == []
    later = span(hour + timedelta(minutes=1))
    for query in expected:
        assert await post(plant, "annotations", annotation(query, range=later)) == []
    assert "annotation.query" in await refused(plant, "annotations", annotation("#deploy"))


async def test_annotations_of_newer_plugins_are_targets(
    plant: Rest,  # noqa: F811
    connection: asyncpg.Connection,
) -> None:
    await annotated(plant, connection)
    target = {"target": "marks", "payload": {"annotations": "alerts"}, "refId": "Anno"}
    [found] = await post(plant, "query", panel(target))
    assert [column["text"] for column in found["columns"]] == [
        "time",
        "timeEnd",
        "title",
        "text",
        "tags",
    ]
    assert found["rows"] == [
        [
            ms(START),
            ms(START + timedelta(minutes=5)),
            "alert: hot",
            "too fast",
            ["alert", "warning", "resolved", "speed"],
        ]
    ]


async def test_infinity_reads_the_plain_api(plant: Rest) -> None:  # noqa: F811
    """Times as `${__from:date:iso}`, or `${__timeFrom}`, which write the same."""
    path = f"/api/v1/readings/{DRILL}/timeseries?metric=line%2Fspeed%20%5Bm%2Fs%5D"
    answer: Answer = await plant.ask(
        "GET", f"{path}&start={iso(START)}&end={iso(END)}&step=1d&aggregate=max"
    )
    assert [row["value"] for row in answer.body["readings"]] == [2870.0, 1430.0]
