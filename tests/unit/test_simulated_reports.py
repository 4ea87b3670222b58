"""What simulated agents report."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from tests.control import short

from iotistica.api.families import Incoming
from iotistica.api.families.log_lines import entry, lines_of
from iotistica.api.families.reports import Reported, read_metrics, read_state
from iotistica.simulator.reports import Reports

UUID = "3f2b6c1e-0000-4000-8000-000000000001"
TENANT = "73eddd385ce8"
BASE = f"i/{short(TENANT)}/a/{short(UUID)}"


def incoming(topic: str, value: Any) -> Incoming:
    return Incoming(
        tenant=TENANT,
        agent=UUID,
        rest="",
        topic=topic,
        value=orjson.loads(orjson.dumps(value)),
        payload=b"",
        received_ms=2**41,
    )


def test_the_first_state_is_full_and_the_others_are_changes() -> None:
    reports = Reports(TENANT, UUID, 300, "0")
    turns = [dict(reports.turn()) for _ in range(13)]
    states = [read_state(incoming("", turn[f"{BASE}/state"])) for turn in turns]
    assert all(isinstance(one, Reported) for one in states)
    fields = [set(one.report.fields) for one in states if isinstance(one, Reported)]
    assert {"apps", "config", "network_interfaces", "agent_version"} <= fields[0]
    assert all("apps" not in one and "cpu_usage" in one for one in fields[1:])
    assert f"{BASE}/agent/startup" in turns[0]
    with_metrics = [n for n, turn in enumerate(turns) if f"{BASE}/metrics" in turn]
    assert with_metrics == [0, 6, 12]
    metrics = read_metrics(incoming("", turns[0][f"{BASE}/metrics"]))
    assert isinstance(metrics, Reported)
    assert {"cpu_usage", "cpu_temp", "network"} <= set(metrics.report.fields)
    lines = [turn[f"{BASE}/logs/gateway"] for turn in turns if f"{BASE}/logs/gateway" in turn]
    assert 1 <= len(lines) < 13
    raw = entry(agent=UUID, batch="", body=orjson.dumps(lines), received_ms=2**41)
    found = lines_of(
        [str(p).encode() if not isinstance(p, bytes) else p for p in raw], 0, oldest_ms=0
    )
    assert [line.message for line in found] == [line["message"] for line in lines]  # type: ignore[index]


async def test_reports_go_to_the_broker_until_they_are_cancelled() -> None:
    published: list[str] = []
    first = asyncio.Event()

    class Link:
        async def publish(self, topic: str, payload: bytes, *, retain: bool = False) -> None:
            assert orjson.loads(payload)
            published.append(topic)
            first.set()

    task = asyncio.create_task(Reports(TENANT, UUID, 0, "0").publish(Link()))
    await first.wait()
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert published[0] == f"{BASE}/agent/startup"
