"""Rules of retention over REST, what is answered where readings are gone, quotas of storage."""

from __future__ import annotations

import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import pytest
from tests.rest import Rest
from tests.stored import PER_DAY, is_plain, measure, refresh, rule, sweep

from iotistica.quotas import Quota
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.store.pruning import prune
from iotistica.store.retention import Retention
from iotistica.store.storage import Storage
from iotistica.store.tenants import set_quota, tenant_quotas

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
PATH = "/api/v1/retention"


def ago(days: int) -> datetime:
    return TODAY - timedelta(days=days)


@pytest.fixture
async def agent(pool: Pool, rest: Rest) -> str:
    """Readings of the last ten days but today, of two metrics."""
    agent = str(uuid.uuid4())
    await AgentStore(pool).add_agents(rest.tenant, [(agent, "agent")])
    for metric in ("temp", "energy"):
        await measure(pool, agent, metric, ago(10), days=10)
    await refresh(pool)
    return agent


async def put(rest: Rest, pattern: str, keep_days: int, **more: Any) -> Any:
    body = {"pattern": pattern, "keep_days": keep_days, **more}
    return await rest.ask("PUT", f"{PATH}/rules", body)


async def test_rules_are_set_changed_and_removed_and_the_journal_knows(
    rest: Rest, pool: Pool, agent: str
) -> None:
    made = await put(rest, "*", 30)
    assert (made.status, made.body["metrics"], made.body["remove_rollups"]) == (200, 2, False)
    assert (await put(rest, "te*", 7, remove_rollups=True)).body["metrics"] == 1
    again = await put(rest, "*", 20)
    assert (again.body["id"], again.body["keep_days"]) == (made.body["id"], 20)
    found = (await rest.ask("GET", PATH)).body
    assert [(one["pattern"], one["keep_days"], one["metrics"]) for one in found["rules"]] == [
        ("*", 20, 1),
        ("te*", 7, 1),
    ]
    assert (found["readings_days"], found["hours_days"], found["storage"]) == (730, 1825, None)
    assert (await rest.ask("DELETE", f"{PATH}/rules/{made.body['id']}")).status == 204
    assert (await rest.ask("DELETE", f"{PATH}/rules/{made.body['id']}")).status == 404
    rows = await pool.fetch(
        "SELECT event_type, subject, before->>'keep_days', after->>'keep_days' FROM audit_logs"
        " ORDER BY id"
    )
    assert [tuple(row) for row in rows] == [
        ("retention_rule.set", "retention_rule/*", None, "30"),
        ("retention_rule.set", "retention_rule/te*", None, "7"),
        ("retention_rule.set", "retention_rule/*", "30", "20"),
        ("retention_rule.removed", "retention_rule/*", "20", None),
    ]


async def test_a_rule_cannot_keep_more_than_the_platform(rest: Rest) -> None:
    refused = await put(rest, "*", 731)
    assert refused.status == 400
    assert "keep_days is 731" in refused.body["message"]
    assert "730 days (IOTISTICA_RETENTION_DAYS)" in refused.body["message"]
    assert (await put(rest, "*", 730)).status == 200
    for wrong in ("", "a\0b", "x" * 513):
        assert (await put(rest, wrong, 7)).status == 400
    assert (await put(rest, "*", 0)).status == 400


async def test_a_tenant_has_so_many_rules(rest: Rest) -> None:
    for n in range(100):
        assert (await put(rest, f"m{n}", 7)).status == 200
    assert (await put(rest, "m0", 8)).status == 200
    assert (await put(rest, "another", 7)).status == 409


async def test_viewers_look_and_do_not_touch(rest: Rest) -> None:
    answer = await rest.ask("GET", PATH, role="viewer")
    body = {"pattern": "*", "keep_days": 7}
    refused = await rest.ask("PUT", f"{PATH}/rules", body, role="viewer")
    assert (answer.status in (200, 403), refused.status) == (True, 403)


async def test_a_preview_tells_what_goes_and_changes_nothing(
    rest: Rest, pool: Pool, tenant: str, agent: str
) -> None:
    question = {"rules": [{"pattern": "temp", "keep_days": 4}]}
    told = (await rest.ask("POST", f"{PATH}/preview", question)).body
    assert told["readings"] == 6 * PER_DAY
    assert told["oldest"] == str(ago(10).date())
    [one] = told["metrics"]
    assert (one["metric"], one["pattern"], one["readings"]) == ("temp", "temp", 6 * PER_DAY)
    assert one["first_kept"] == str(ago(4).date())
    assert (await rest.ask("GET", PATH)).body["rules"] == []
    assert (await rest.ask("POST", f"{PATH}/preview", {})).body["readings"] == 0
    await put(rest, "temp", 4)
    assert (await rest.ask("POST", f"{PATH}/preview", {})).body == told
    assert await sweep(pool, datetime.now(UTC)) == told["readings"], "as it was told"
    assert (await rest.ask("POST", f"{PATH}/preview", {})).body["readings"] == 0


async def test_ranges_whose_readings_are_gone_are_answered_from_rollups(
    rest: Rest, pool: Pool, tenant: str, agent: str
) -> None:
    path = f"/api/v1/readings/{agent}/timeseries"

    async def ask(metric: str, day: int, **more: str) -> tuple[str, int]:
        query = {
            "metric": metric,
            "start": ago(day).isoformat(),
            "end": (ago(day) + timedelta(hours=6)).isoformat(),
            **more,
        }
        text = "&".join(f"{name}={quote(value)}" for name, value in query.items())
        answer = await rest.ask("GET", f"{path}?{text}")
        assert answer.status == 200, answer.body
        return answer.body["resolution"], answer.body["count"]

    assert await ask("temp", 8) == ("raw", 19)
    await rule(pool, tenant, "temp", 4)
    await sweep(pool, datetime.now(UTC))
    assert await ask("temp", 8) == ("1m", 19)
    assert await ask("temp", 8, resolution="raw") == ("raw", 0)
    assert await ask("energy", 8) == ("raw", 19)
    assert await ask("temp", 3) == ("raw", 19)
    question = {
        "start": ago(8).isoformat(),
        "end": (ago(8) + timedelta(hours=6)).isoformat(),
        "queries": [{"metric": "temp", "agent_uuids": [agent], "aggregator": "avg"}],
    }
    answer = await rest.ask("POST", "/api/v1/readings/query", question)
    assert answer.status == 200, answer.body
    assert len(answer.body["results"][0][0]["dps"]) == 19


async def test_the_newest_value_of_a_silent_series_survives_rules_and_the_platform(
    rest: Rest, pool: Pool, tenant: str, agent: str
) -> None:
    async def latest() -> dict[str, Any]:
        answer = await rest.ask("GET", f"/api/v1/readings/{agent}/latest")
        return {one["metric_name"]: (one["time"], one["value"]) for one in answer.body["readings"]}

    await measure(pool, agent, "silent", ago(100))
    before = await latest()
    assert set(before) == {"temp", "energy", "silent"}
    await put(rest, "silent", 1, remove_rollups=True)
    assert await sweep(pool, datetime.now(UTC)) == PER_DAY
    assert await latest() == before
    if await is_plain(pool):
        assert (await prune(pool, Settings(retention_days=1)))["readings"] > 5
    else:
        await pool.execute("SELECT drop_chunks('readings', INTERVAL '1 day')")
    gone = "SELECT count(*) FROM readings WHERE metric_name = 'energy'"
    assert await pool.fetchval(gone) <= 2 * PER_DAY
    assert await latest() == before


async def test_a_quota_of_storage_keeps_the_newest(
    rest: Rest, pool: Pool, tenant: str, agent: str
) -> None:
    now = datetime.now(UTC)
    storage = Storage(pool, Quota())
    assert await storage.count(now) == []
    await set_quota(pool, tenant, Quota(stored_readings=2 * 7 * PER_DAY + 10))
    assert (await tenant_quotas(pool))[tenant].stored_readings == 2 * 7 * PER_DAY + 10
    [fill] = await storage.count(now)
    assert (fill.tenant, round(fill.fill, 2)) == (tenant, round(20 / (14 + 10 / PER_DAY), 2))
    told = (await rest.ask("GET", PATH)).body["storage"]
    assert (told["readings"], told["percent"] > 140) == (20 * PER_DAY, True)
    assert (told["oldest"], told["quota_since"]) == (str(ago(10).date()), str(ago(7).date()))
    assert await sweep(pool, now) == 2 * 3 * PER_DAY
    await pool.execute("UPDATE tenant_storage SET counted_at = now() - interval '2 hours'")
    [fill] = await storage.count(now)
    assert 0.99 < fill.fill <= 1
    assert await sweep(pool, now) == 0
    # What comes late for a day that was too much goes again.
    await measure(pool, agent, "temp", ago(9), shift_s=1)
    assert await sweep(pool, now) == PER_DAY
    # Without a quota, nothing more is removed.
    await set_quota(pool, tenant, Quota())
    assert await storage.count(now) == []
    assert await Retention(pool, Settings()).sweep(now)
    assert await pool.fetchval("SELECT count(*) FROM tenant_storage") == 0


async def test_the_newest_two_days_stay_whatever_the_quota(
    rest: Rest, pool: Pool, tenant: str, agent: str
) -> None:
    now = datetime.now(UTC)
    await measure(pool, agent, "temp", ago(0))
    await Storage(pool, Quota(stored_readings=1)).count(now)
    assert await sweep(pool, now) == 2 * 9 * PER_DAY
    left = await pool.fetchval("SELECT min(time) FROM readings")
    assert left == ago(1)
