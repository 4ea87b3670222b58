"""Incidents, their alerts and the counts of anomalies, by REST."""

from __future__ import annotations

import time
import uuid
from dataclasses import dataclass
from typing import Any

import pytest
from tests.rest import Rest

from iotistica.anomalies.event import read
from iotistica.store.agents import AgentStore
from iotistica.store.anomalies import AnomalyStore, Found
from iotistica.store.pool import Pool

HOUR_MS = 3_600_000
# In the middle of an hour, so that neighbors stay within it.
NOW_MS = int(time.time() * 1000) // HOUR_MS * HOUR_MS - HOUR_MS // 2


def iso(ms: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(ms / 1000)) + "Z"


@dataclass
class Scene:
    rest: Rest
    pool: Pool
    agent: str
    other: str
    """An agent of the tenant `other`."""

    async def happen(
        self, agent: str | None = None, tenant: str | None = None, **fields: Any
    ) -> int:
        """An event; the incident that it belongs to."""
        event = {
            "timestampMs": NOW_MS,
            "metric": "pressure",
            "fingerprint": "f",
            "severity": "warning",
            "deviceName": "pump-1",
            "observedValue": 9.5,
            "anomalyScore": 2.0,
            "confidence": 0.5,
            **fields,
        }
        found = Found(
            tenant=tenant or self.rest.tenant,
            agent=agent or self.agent,
            metric=event["metric"],
            endpoint=None,
            event=read(event),
        )
        await AnomalyStore(self.pool).keep([found])
        return found.incident_id or 0

    async def journal(self) -> list[tuple[str, str, str]]:
        rows = await self.pool.fetch(
            "SELECT event_type, subject, actor_name FROM audit_logs WHERE tenant_id = $1"
            " ORDER BY id",
            self.rest.tenant,
        )
        return [tuple(row) for row in rows]


@pytest.fixture
async def scene(rest: Rest, pool: Pool) -> Scene:
    agents = AgentStore(pool)
    mine, other = str(uuid.uuid4()), str(uuid.uuid4())
    await agents.ensure_tenant("other")
    await agents.add_agents(rest.tenant, [(mine, "mine")])
    await agents.add_agents("other", [(other, "other")])
    return Scene(rest, pool, mine, other)


async def test_an_incident_is_shown_with_its_events_and_alerts(scene: Scene) -> None:
    number = await scene.happen()
    await scene.happen(timestampMs=NOW_MS + 1000, severity="critical", anomalyScore=7.5)
    answer = await scene.rest.ask("GET", f"/api/v1/anomaly-incidents/{number}")
    assert answer.status == 200
    events, alerts = answer.body.pop("events"), answer.body.pop("alerts")
    assert answer.body == {
        "incident_id": number,
        "fingerprint": "f",
        "metric": "pressure",
        "severity": "critical",
        "status": "active",
        "affected_devices": ["pump-1"],
        "affected_agents": [scene.agent],
        "opened_at": iso(NOW_MS),
        "first_seen": iso(NOW_MS),
        "last_seen": iso(NOW_MS + 1000),
        "max_anomaly_score": 7.5,
        "max_confidence": 0.5,
        "event_count": 2,
        "acknowledged_at": None,
        "acknowledged_by": None,
        "resolved_at": None,
        "resolved_by": None,
        "resolution_notes": None,
        "feedback": None,
        "feedback_notes": None,
        "feedback_at": None,
        "feedback_by": None,
    }
    assert [(one["timestamp_ms"], one["severity"]) for one in events] == [
        (NOW_MS + 1000, "critical"),
        (NOW_MS, "warning"),
    ]
    assert [(one["severity"], one["previous_severity"], one["status"]) for one in alerts] == [
        ("critical", "warning", "open"),
        ("warning", None, "open"),
    ]


async def test_incidents_are_listed_by_filters_and_pages(scene: Scene) -> None:
    numbers = [
        await scene.happen(fingerprint=f"f{n}", metric=f"m{n % 2}", severity=severity)
        for n, severity in enumerate(("info", "warning", "critical", "warning", "info"))
    ]
    await scene.happen(agent=scene.other, tenant="other")
    ask = scene.rest.ask

    async def listed(query: str) -> list[int]:
        answer = await ask("GET", f"/api/v1/anomaly-incidents?{query}")
        assert answer.status == 200, answer.body
        assert answer.body["count"] == len(answer.body["incidents"])
        return [numbers.index(one["incident_id"]) for one in answer.body["incidents"]]

    assert await listed("") == [4, 3, 2, 1, 0]
    assert await listed("severity=warning") == [3, 1]
    assert await listed("metric=m1") == [3, 1]
    assert await listed("fingerprint=f2") == [2]
    assert await listed(f"agent={scene.agent}&limit=2") == [4, 3]
    assert await listed(f"agent={scene.other}") == []
    assert await listed(f"since={iso(NOW_MS + 60_000)}") == []
    assert await listed(f"until={iso(NOW_MS + 60_000)}&since={iso(NOW_MS)}") == [4, 3, 2, 1, 0]
    path = f"/api/v1/anomaly-incidents/{numbers[0]}"
    assert (await ask("PATCH", f"{path}/resolve", {})).status == 200
    path = f"/api/v1/anomaly-incidents/{numbers[1]}"
    assert (await ask("PATCH", f"{path}/acknowledge")).status == 200
    assert await listed("status=resolved") == [0]
    assert await listed("status=open") == [4, 3, 2, 1]
    assert await listed("acknowledged=true") == [1, 0]
    first = await ask("GET", "/api/v1/anomaly-incidents?limit=3")
    second = await ask("GET", f"/api/v1/anomaly-incidents?limit=3&cursor={first.body['cursor']}")
    assert [one["incident_id"] for one in second.body["incidents"]] == [numbers[1], numbers[0]]
    assert second.body["cursor"] is None
    wrong = await ask("GET", "/api/v1/anomaly-incidents?severity=bad")
    assert (wrong.status, wrong.body["message"]) == (
        400,
        "parameter severity is 'bad': allowed: info, warning, critical",
    )


async def test_an_incident_is_acknowledged_judged_and_resolved(scene: Scene) -> None:
    number = await scene.happen()
    path, ask = f"/api/v1/anomaly-incidents/{number}", scene.rest.ask
    acknowledged = await ask("PATCH", f"{path}/acknowledge")
    assert acknowledged.body["acknowledged_by"] == "development"
    assert acknowledged.body["acknowledged_at"] is not None
    again = await ask("PATCH", f"{path}/acknowledge")
    assert again.body == acknowledged.body
    alert = (await ask("GET", f"/api/v1/anomaly-alerts?incident={number}")).body["alerts"][0]
    assert (alert["status"], alert["acknowledged_by"]) == ("acknowledged", "development")
    judged = await ask(
        "PATCH", f"{path}/feedback", {"feedback": "false_positive", "feedback_notes": "a test"}
    )
    assert (judged.body["feedback"], judged.body["feedback_notes"]) == ("false_positive", "a test")
    resolved = await ask("PATCH", f"{path}/resolve", {"resolution_notes": "valve replaced"})
    assert (resolved.status, resolved.body["status"]) == (200, "resolved")
    assert resolved.body["resolution_notes"] == "valve replaced"
    assert resolved.body["resolved_by"] == "development"
    alert = (await ask("GET", f"/api/v1/anomaly-alerts/{alert['alert_id']}")).body
    assert (alert["status"], alert["resolved_at"] is not None) == ("resolved", True)
    for verb, body in (("resolve", {}), ("acknowledge", None)):
        assert (await ask("PATCH", f"{path}/{verb}", body)).status == 409
    subject = f"anomaly_incident/{number}"
    assert await scene.journal() == [
        ("anomaly_incident.acknowledged", subject, "development"),
        ("anomaly_incident.judged", subject, "development"),
        ("anomaly_incident.resolved", subject, "development"),
    ]


async def test_an_alert_is_acknowledged_by_itself(scene: Scene) -> None:
    await scene.happen()
    (alert,) = (await scene.rest.ask("GET", "/api/v1/anomaly-alerts?status=open")).body["alerts"]
    path = f"/api/v1/anomaly-alerts/{alert['alert_id']}"
    answer = await scene.rest.ask("PATCH", f"{path}/acknowledge")
    assert answer.body == {
        **alert,
        "status": "acknowledged",
        "acknowledged_by": "development",
        "acknowledged_at": answer.body["acknowledged_at"],
    }
    assert (await scene.rest.ask("PATCH", f"{path}/acknowledge")).body == answer.body
    assert (await scene.rest.ask("GET", "/api/v1/anomaly-alerts?status=open")).body["count"] == 0
    assert await scene.journal() == [
        ("anomaly_alert.acknowledged", f"anomaly_alert/{alert['alert_id']}", "development")
    ]


async def test_what_is_another_tenants_does_not_exist(scene: Scene) -> None:
    number = await scene.happen(agent=scene.other, tenant="other")
    theirs = await scene.rest.ask("GET", "/api/v1/anomaly-alerts", tenant="other")
    alert = theirs.body["alerts"][0]["alert_id"]
    for method, path, body in (
        ("GET", f"/api/v1/anomaly-incidents/{number}", None),
        ("PATCH", f"/api/v1/anomaly-incidents/{number}/acknowledge", None),
        ("PATCH", f"/api/v1/anomaly-incidents/{number}/resolve", {}),
        ("PATCH", f"/api/v1/anomaly-incidents/{number}/feedback", {"feedback": "unsure"}),
        ("GET", f"/api/v1/anomaly-alerts/{alert}", None),
        ("PATCH", f"/api/v1/anomaly-alerts/{alert}/acknowledge", None),
        ("GET", f"/api/v1/anomaly/{scene.other}/summary", None),
        ("GET", f"/api/v1/anomaly/{scene.other}/hourly", None),
        ("GET", f"/api/v1/anomaly/{scene.other}/top-metrics", None),
    ):
        answer = await scene.rest.ask(method, path, body)
        strange = path.replace(str(number), "999999").replace(f"/{alert}", "/999999")
        unknown = await scene.rest.ask(
            method, strange.replace(scene.other, str(uuid.uuid4())), body
        )
        assert (answer.status, unknown.status) == (404, 404), path
    assert (await scene.rest.ask("GET", "/api/v1/anomaly/summary")).body["total"] == 0


async def test_an_incident_is_resolved_without_a_body(scene: Scene) -> None:
    number = await scene.happen()
    resolved = await scene.rest.ask("PATCH", f"/api/v1/anomaly-incidents/{number}/resolve")
    assert (resolved.status, resolved.body["status"]) == (200, "resolved")
    assert resolved.body["resolution_notes"] is None


@pytest.mark.parametrize("verb", ["acknowledge", "resolve", "feedback"])
async def test_a_viewer_looks_and_does_not_touch(scene: Scene, verb: str) -> None:
    number = await scene.happen()
    path = f"/api/v1/anomaly-incidents/{number}"
    assert (await scene.rest.ask("GET", path, role="viewer")).status == 200
    body = {"feedback": "unsure"} if verb == "feedback" else {}
    assert (await scene.rest.ask("PATCH", f"{path}/{verb}", body, role="viewer")).status == 403


async def test_incidents_are_counted(scene: Scene) -> None:
    number = await scene.happen()
    await scene.happen(fingerprint="g", severity="critical")
    await scene.rest.ask("PATCH", f"/api/v1/anomaly-incidents/{number}/resolve", {})
    counted = (await scene.rest.ask("GET", "/api/v1/anomaly-incidents/stats")).body
    assert counted.pop("mean_resolve_s") > 0
    assert counted.pop("mean_acknowledge_s") > 0
    assert counted == {
        "total": 2,
        "open": 1,
        "active": 0,
        "resolved": 1,
        "acknowledged": 1,
        "info": 0,
        "warning": 1,
        "critical": 1,
        "false_positives": 0,
        "events": 2,
    }
    later = f"since={iso(NOW_MS + 60_000)}"
    assert (await scene.rest.ask("GET", f"/api/v1/anomaly-incidents/stats?{later}")).body[
        "total"
    ] == 0


async def test_anomalies_are_counted_by_time_and_metric(scene: Scene) -> None:
    await scene.happen()
    await scene.happen(timestampMs=NOW_MS + 1, anomalyScore=4.0, severity="critical")
    await scene.happen(
        timestampMs=NOW_MS - HOUR_MS, metric="flow", fingerprint="g", severity="info"
    )
    await scene.happen(timestampMs=NOW_MS - 3 * 24 * HOUR_MS, suppressed=True)
    await scene.happen(agent=scene.other, tenant="other")
    span = f"start={iso(NOW_MS - 2 * HOUR_MS)}&end={iso(NOW_MS + HOUR_MS)}"
    for place in ("", f"/{scene.agent}"):
        summary = (await scene.rest.ask("GET", f"/api/v1/anomaly{place}/summary?{span}")).body
        assert summary == {
            "start": iso(NOW_MS - 2 * HOUR_MS),
            "end": iso(NOW_MS + HOUR_MS),
            "total": 3,
            "info": 1,
            "warning": 1,
            "critical": 1,
            "suppressed": 0,
            "agents": 1,
            "metrics": 2,
            "max_score": 4.0,
            "avg_score": pytest.approx(8 / 3),
            "incidents": 2,
            "fingerprints": 2,
            "last_at": summary["last_at"],
        }
        hourly = (await scene.rest.ask("GET", f"/api/v1/anomaly{place}/hourly?{span}")).body
        hour_ms = NOW_MS // HOUR_MS * HOUR_MS
        assert [(one["bucket"], one["total"]) for one in hourly["buckets"]] == [
            (iso(hour_ms - HOUR_MS), 1),
            (iso(hour_ms), 2),
        ]
        top = (await scene.rest.ask("GET", f"/api/v1/anomaly{place}/top-metrics?{span}")).body
        assert [(one["metric"], one["total"], one["critical"]) for one in top["metrics"]] == [
            ("pressure", 2, 1),
            ("flow", 1, 0),
        ]
        top = await scene.rest.ask("GET", f"/api/v1/anomaly{place}/top-metrics?limit=1&{span}")
        assert top.body["count"] == 1
    daily = (await scene.rest.ask("GET", "/api/v1/anomaly/daily")).body
    assert sum(one["total"] for one in daily["buckets"]) == 4
    assert daily["buckets"][0]["suppressed"] == 1


async def test_a_window_that_is_no_window_is_refused(scene: Scene) -> None:
    for query in ("start=2026-01-02&end=2026-01-01", "end=0001-13-01", "start=x"):
        answer = await scene.rest.ask("GET", f"/api/v1/anomaly/summary?{query}")
        assert answer.status == 400, query
