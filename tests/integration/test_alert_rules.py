"""Alert rules over stored readings, in both storage profiles."""

from __future__ import annotations

import asyncio
import secrets
import uuid
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iotistica.alerting.decision import FLAP_HOLD
from iotistica.alerting.rule import Band, RuleBody, RuleChange
from iotistica.errors import BadRequest, Conflict
from iotistica.selection import AgentFilter
from iotistica.store.agents import AgentStore
from iotistica.store.alert_evaluation import AlertEvaluation
from iotistica.store.alert_rules import AlertRuleStore
from iotistica.store.groups import GroupStore
from iotistica.store.journal import Origin
from iotistica.store.pool import Pool

HOT = {"kind": "threshold", "operator": ">", "value": 80, "clear": 75}
SECOND = timedelta(seconds=1)


@dataclass
class Plant:
    """A tenant with agents, whose readings and clock the test makes."""

    pool: Pool
    tenant: str
    agents: list[str]
    # Ahead of the server's clock, so that a rule that was made just now is due.
    now: datetime = field(
        default_factory=lambda: datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=1)
    )

    async def rule(self, condition: Any = HOT, **fields: Any) -> int:
        given = {"name": secrets.token_hex(4), "metric": "temp", "interval_s": 10, **fields}
        body = msgspec.convert({**given, "condition": condition}, RuleBody)
        rule = await AlertRuleStore(self.pool).add(Origin(tenant=self.tenant), body)
        number: int = rule["id"]
        return number

    async def read(
        self,
        value: float | None,
        *,
        agent: int = 0,
        device: str = "pump",
        metric: str = "temp",
        ago_s: float = 0,
        is_latest: bool = True,
    ) -> None:
        """A reading, as ingestion would store it."""
        at = self.now - timedelta(seconds=ago_s)
        day = int(at.timestamp()) // 86_400
        if await self.pool.fetchval("SELECT to_regproc('readings_make_days') IS NOT NULL"):
            await self.pool.execute("SELECT readings_make_days(ARRAY[$1::int])", day)
        await self.pool.execute(
            "INSERT INTO readings (time, agent_uuid, metric_name, value, protocol, extra)"
            " VALUES ($1, $2, $3, $4, 'mqtt', jsonb_build_object('device_name', $5::text))"
            " ON CONFLICT DO NOTHING",
            at,
            self.agents[agent],
            metric,
            value,
            device,
        )
        if is_latest:
            await self.pool.execute(
                "INSERT INTO readings_latest"
                " (agent_uuid, device_name, metric_name, value, protocol, time, updated_at)"
                " VALUES ($1, $2, $3, $4, 'mqtt', $5, $5) ON CONFLICT"
                " (agent_uuid, device_name, metric_name) DO UPDATE SET value = EXCLUDED.value,"
                " time = EXCLUDED.time, updated_at = EXCLUDED.updated_at",
                self.agents[agent],
                device,
                metric,
                value,
                at,
            )

    async def tag(self, agent: int, tags: dict[str, str]) -> None:
        for key, value in tags.items():
            await self.pool.execute(
                "INSERT INTO agent_tags (tenant_id, agent_uuid, key, value)"
                " VALUES ($1, $2, $3, $4)",
                self.tenant,
                self.agents[agent],
                key,
                value,
            )

    async def group(self, **fields: Any) -> uuid.UUID:
        return await GroupStore(self.pool).add(
            Origin(tenant=self.tenant),
            name=secrets.token_hex(4),
            description="",
            chosen=AgentFilter(**fields),
        )

    async def look(self, *, after_s: float = 10) -> list[str]:
        """Let time pass and evaluate; what happened."""
        self.now += timedelta(seconds=after_s)
        notices = await AlertEvaluation(self.pool).evaluate(self.tenant, self.now)
        return sorted(one.event for one in notices)

    async def alerts(self) -> list[asyncpg.Record]:
        return await self.pool.fetch(
            "SELECT *, agent_uuid::text AS agent FROM alerts WHERE tenant_id = $1 ORDER BY id",
            self.tenant,
        )


@pytest.fixture
async def plant(pool: Pool, tenant: str) -> Plant:
    agents = [str(uuid.uuid4()) for _ in range(3)]
    store = AgentStore(pool)
    await store.ensure_tenant(tenant)
    await store.add_agents(tenant, [(one, "agent") for one in agents])
    return Plant(pool, tenant, agents)


async def test_a_threshold_opens_holds_and_resolves(plant: Plant) -> None:
    rule = await plant.rule(severity="critical", labels={"team": "north"}, name="hot")
    await plant.read(80)
    assert await plant.look() == []
    await plant.read(91.5)
    assert await plant.look() == ["alert.opened"]
    (alert,) = await plant.alerts()
    shown = {name: alert[name] for name in ("rule_id", "rule_name", "kind", "agent", "message")}
    assert shown == {
        "rule_id": rule,
        "rule_name": "hot",
        "kind": "threshold",
        "agent": plant.agents[0],
        "message": "temp of pump is 91.5 (> 80)",
    }
    assert (alert["device_name"], alert["metric_name"]) == ("pump", "temp")
    assert (alert["status"], alert["severity"], alert["labels"]) == (
        "open",
        "critical",
        '{"team": "north"}',
    )
    assert (alert["opened_value"], alert["opened_at"]) == (91.5, plant.now)
    await plant.read(95)
    assert await plant.look() == []
    await plant.read(76)  # between the two bounds
    assert await plant.look() == []
    (alert,) = await plant.alerts()
    assert (alert["status"], alert["value"], alert["opened_value"]) == ("open", 76, 91.5)
    await plant.read(75)
    assert await plant.look() == ["alert.resolved"]
    (alert,) = await plant.alerts()
    assert (alert["status"], alert["resolution"]) == ("resolved", "cleared")
    assert (alert["resolved_at"], alert["value"]) == (plant.now, 75)
    await plant.read(76)
    assert await plant.look() == []
    await plant.read(81)
    assert await plant.look() == ["alert.opened"]
    assert len(await plant.alerts()) == 2


async def test_each_series_has_an_alert_of_its_own(plant: Plant) -> None:
    await plant.rule(metric="temp*")
    await plant.read(90, device="pump")
    await plant.read(90, device="valve", ago_s=1)
    await plant.read(90, metric="temp_in")
    await plant.read(90, metric="tempo")
    await plant.read(90, agent=1)
    await plant.read(70, agent=2)
    await plant.read(90, metric="pressure")
    assert await plant.look() == ["alert.opened"] * 5
    found = [(one["agent"], one["device_name"], one["metric_name"]) for one in await plant.alerts()]
    first, second, _ = plant.agents
    assert sorted(found) == sorted(
        [
            (first, "pump", "temp"),
            (first, "valve", "temp"),
            (first, "pump", "temp_in"),
            (first, "pump", "tempo"),
            (second, "pump", "temp"),
        ]
    )
    assert await plant.look() == []


async def test_special_characters_of_a_metric_are_themselves(plant: Plant) -> None:
    await plant.rule(metric="a_b%")
    await plant.read(90, metric="axb%")
    await plant.read(90, metric="a_bc")
    assert await plant.look() == []
    await plant.read(90, metric="a_b%")
    assert await plant.look() == ["alert.opened"]


async def test_a_rule_is_about_its_agents_alone(plant: Plant, pool: Pool) -> None:
    stranger = str(uuid.uuid4())
    await AgentStore(pool).ensure_tenant("other")
    await AgentStore(pool).add_agents("other", [(stranger, "agent")])
    await plant.rule(agents=[plant.agents[1]])
    plant.agents.append(stranger)
    for agent in range(4):
        await plant.read(90, agent=agent)
    assert await plant.look() == ["alert.opened"]
    assert [one["agent"] for one in await plant.alerts()] == [plant.agents[1]]
    await plant.rule()
    await plant.look()
    assert stranger not in [one["agent"] for one in await plant.alerts()]


async def test_a_rule_is_about_agents_with_tags(plant: Plant, pool: Pool) -> None:
    await plant.rule(tags={"site": "north", "pump": None})
    for agent, tags in enumerate(({"site": "north", "pump": "a"}, {"site": "north"}, {})):
        await plant.tag(agent, tags)
        await plant.read(90, agent=agent)
    assert await plant.look() == ["alert.opened"]
    assert [one["agent"] for one in await plant.alerts()] == [plant.agents[0]]
    await plant.tag(1, {"pump": "b"})
    assert await plant.look() == ["alert.opened"]
    await pool.execute("DELETE FROM agent_tags WHERE agent_uuid = $1", plant.agents[0])
    assert await plant.look() == ["alert.resolved"]
    first, second = await plant.alerts()
    assert (first["status"], first["resolution"]) == ("resolved", "the rule no longer watches it")
    assert (second["agent"], second["status"]) == (plant.agents[1], "open")


async def test_a_rule_is_about_the_group_as_it_is_now(plant: Plant, pool: Pool) -> None:
    group = await plant.group(any_of=[AgentFilter(name="edge-?"), AgentFilter(type="vm")])
    await plant.rule(group_id=group)
    await plant.rule(group_id=group, tags={"site": "north"})
    await plant.rule(group_id=group, agents=[plant.agents[2]])
    await pool.execute("UPDATE agents SET name = 'edge-1' WHERE uuid = $1", plant.agents[0])
    await plant.tag(0, {"site": "north"})
    await plant.tag(1, {"site": "north"})
    for agent in range(3):
        await plant.read(90, agent=agent)
    assert await plant.look() == ["alert.opened"] * 2
    assert {one["agent"] for one in await plant.alerts()} == {plant.agents[0]}
    await pool.execute("UPDATE agents SET type = 'vm' WHERE uuid = $1", plant.agents[2])
    assert await plant.look() == ["alert.opened"] * 2
    await pool.execute("UPDATE agents SET name = 'core' WHERE uuid = $1", plant.agents[0])
    assert await plant.look() == ["alert.resolved"] * 2
    change = GroupStore(pool).change
    await change(Origin(tenant=plant.tenant), group, {"filter": AgentFilter(type="none")})
    assert await plant.look() == ["alert.resolved"] * 2
    assert [one["status"] for one in await plant.alerts()] == ["resolved"] * 4


async def test_the_absence_of_agents_of_a_group(plant: Plant, pool: Pool) -> None:
    group = await plant.group(type="vm")
    await pool.execute("UPDATE agents SET type = 'vm' WHERE uuid = $1", plant.agents[1])
    await plant.rule({"kind": "absence", "silent_s": 30}, metric=None, group_id=group)
    await plant.rule({"kind": "absence", "silent_s": 30}, metric="temp", group_id=group)
    for agent in range(3):
        await plant.read(1, agent=agent)
    assert await plant.look(after_s=60) == ["alert.opened"] * 2
    assert {one["agent"] for one in await plant.alerts()} == {plant.agents[1]}
    assert sorted(one["metric_name"] for one in await plant.alerts()) == ["", "temp"]


async def test_a_group_with_rules_stays(plant: Plant, pool: Pool) -> None:
    group = await plant.group(type="vm")
    rule = await plant.rule(group_id=group)
    origin = Origin(tenant=plant.tenant)
    with pytest.raises(Conflict, match=f"group {group} stays: alert rules are about it"):
        await GroupStore(pool).remove(origin, group)
    await AlertRuleStore(pool).change(origin, rule, RuleChange(group_id=None, tags={"a": "b"}))
    await GroupStore(pool).remove(origin, group)


async def test_a_group_of_another_tenant_does_not_exist(plant: Plant, pool: Pool) -> None:
    await AgentStore(pool).ensure_tenant("the-neighbor")
    foreign = await GroupStore(pool).add(
        Origin(tenant="the-neighbor"), name="g", description="", chosen=AgentFilter()
    )
    for group in (foreign, uuid.uuid4()):
        with pytest.raises(BadRequest, match=f"field group_id: group {group} does not exist"):
            await plant.rule(group_id=group)


async def test_a_rule_is_about_a_fleet(plant: Plant, pool: Pool) -> None:
    fleet = uuid.uuid4()
    await pool.execute(
        "INSERT INTO fleets (fleet_uuid, tenant_id, fleet_name) VALUES ($1, $2, 'north')",
        fleet,
        plant.tenant,
    )
    await pool.execute("UPDATE agents SET fleet_uuid = $1 WHERE uuid = $2", fleet, plant.agents[2])
    await plant.rule(fleet_uuid=str(fleet))
    for agent in range(3):
        await plant.read(90, agent=agent)
    assert await plant.look() == ["alert.opened"]
    assert [one["agent"] for one in await plant.alerts()] == [plant.agents[2]]


@pytest.mark.parametrize(
    ("condition", "good", "bad"),
    [
        ({"operator": ">=", "value": 10}, 9.9, 10),
        ({"operator": "<", "value": 10}, 10, 9.9),
        ({"operator": "<=", "value": 10}, 10.1, 10),
        ({"operator": "outside", "low": 1, "high": 2}, 2, 2.1),
        ({"operator": "outside", "low": 1, "high": 2}, 1, 0.9),
    ],
)
async def test_every_operator(
    plant: Plant, condition: dict[str, Any], good: float, bad: float
) -> None:
    await plant.rule({"kind": "threshold", **condition})
    await plant.read(good)
    assert await plant.look() == []
    await plant.read(bad)
    assert await plant.look() == ["alert.opened"]
    await plant.read(good)
    assert await plant.look() == ["alert.resolved"]


async def test_a_threshold_may_have_to_hold_for_a_while(plant: Plant) -> None:
    await plant.rule({**HOT, "for_s": 60})
    await plant.read(90, ago_s=200)
    await plant.read(70, ago_s=50)
    await plant.read(90, ago_s=40, device="valve")
    await plant.read(90, ago_s=30)
    await plant.read(90)
    assert await plant.look(after_s=0) == []
    assert await plant.look(after_s=29) == ["alert.opened"]  # the valve, since 69 s
    assert (await plant.alerts())[0]["device_name"] == "valve"
    assert await plant.look(after_s=10) == ["alert.opened"]
    assert (await plant.alerts())[1]["device_name"] == "pump"


async def test_a_short_recovery_between_two_looks_is_noticed(plant: Plant) -> None:
    await plant.rule({**HOT, "for_s": 60})
    await plant.read(90, ago_s=55)
    await plant.look(after_s=0)
    await plant.read(70, ago_s=3, is_latest=False)
    await plant.read(90)
    assert await plant.look() == []
    assert await plant.look(after_s=40) == []
    assert await plant.look() == ["alert.opened"]


async def test_old_readings_open_no_alert_and_keep_one(plant: Plant) -> None:
    await plant.rule(max_age_s=600)
    await plant.read(90, ago_s=601)
    assert await plant.look(after_s=0) == []
    await plant.read(90)
    assert await plant.look() == ["alert.opened"]
    assert await plant.look(after_s=10_000) == []
    assert [one["status"] for one in await plant.alerts()] == ["open"]


async def test_what_is_no_number_changes_nothing(plant: Plant) -> None:
    await plant.rule()
    await plant.read(None)
    assert await plant.look() == []
    await plant.read(90)
    assert await plant.look() == ["alert.opened"]
    for value in (None, float("nan")):
        await plant.read(value)
        assert await plant.look() == []
    assert [one["status"] for one in await plant.alerts()] == ["open"]


async def test_an_alert_is_resolved_when_it_has_been_clear_for_a_while(plant: Plant) -> None:
    await plant.rule(clear_for_s=60)
    await plant.read(90)
    assert await plant.look() == ["alert.opened"]
    await plant.read(70)
    assert await plant.look() == []
    (alert,) = await plant.alerts()
    assert alert["cleared_since"] == plant.now
    assert await plant.look(after_s=40) == []
    await plant.read(78)  # back within the band: it begins anew
    assert await plant.look() == []
    assert (await plant.alerts())[0]["cleared_since"] is None
    await plant.read(70)
    assert await plant.look() == []
    assert await plant.look(after_s=59) == []
    assert await plant.look() == ["alert.resolved"]


async def test_a_series_that_flaps_is_damped(plant: Plant) -> None:
    await plant.rule()
    events: list[str] = []
    for _ in range(20):
        for value in (90, 70):
            await plant.read(value)
            events += await plant.look()
    assert events == ["alert.opened", "alert.resolved"] * 3 + ["alert.opened"]
    assert [one["flapping"] for one in await plant.alerts()] == [False, False, False, True]
    assert await plant.look(after_s=FLAP_HOLD.total_seconds()) == ["alert.resolved"]


async def test_a_rate_of_change(plant: Plant) -> None:
    await plant.rule(
        {
            "kind": "rate",
            "operator": ">",
            "value": 10,
            "clear": 5,
            "per": "minute",
            "window_s": 120,
        }
    )
    await plant.read(0, ago_s=300)
    await plant.read(100, ago_s=100)
    await plant.read(100, ago_s=100, device="valve")
    await plant.read(110, ago_s=40)
    assert await plant.look(after_s=0) == []  # 10 per minute
    await plant.read(125)
    assert await plant.look() == ["alert.opened"]  # 25 in 100 s
    (alert,) = await plant.alerts()
    assert alert["opened_value"] == pytest.approx(25 / 100 * 60)
    assert alert["message"] == "temp of pump changes by 15 per minute (> 10)"
    await plant.read(125)
    assert await plant.look(after_s=60) == []  # 25 in 110 s
    await plant.read(126)
    assert await plant.look(after_s=60) == []  # 16 in 110 s, or 8.7 a minute: within the band
    await plant.read(127)
    assert await plant.look() == ["alert.resolved"]  # 2 in 120 s


async def test_a_falling_rate_by_the_hour(plant: Plant) -> None:
    await plant.rule(
        {"kind": "rate", "operator": "<", "value": -5, "per": "hour", "window_s": 3600}
    )
    await plant.read(100, ago_s=1800)
    await plant.read(97)
    assert await plant.look() == ["alert.opened"]
    assert (await plant.alerts())[0]["opened_value"] == -6


async def test_values_beyond_sense_do_not_break_a_rate(plant: Plant) -> None:
    await plant.rule({"kind": "rate", "operator": ">", "value": 1, "per": "hour"})
    await plant.read(-1e308, ago_s=60)
    await plant.read(1e308)
    await plant.read(0, ago_s=60, agent=1)
    await plant.read(100, agent=1)
    assert await plant.look() == ["alert.opened"]


async def test_the_absence_of_a_metric(plant: Plant) -> None:
    await plant.rule({"kind": "absence", "silent_s": 600, "clear_s": 60})
    await plant.read(1, ago_s=595)
    await plant.read(1, agent=1)
    assert await plant.look(after_s=0) == []
    assert await plant.look() == ["alert.opened"]
    (alert,) = await plant.alerts()
    assert alert["message"] == "temp of pump is silent for 605 s (> 600 s)"
    assert (alert["opened_value"], alert["agent"]) == (605, plant.agents[0])
    assert await plant.look() == []
    await plant.read(1, ago_s=70)  # late: not yet clear
    assert await plant.look() == []
    await plant.read(1)
    assert await plant.look() == ["alert.resolved"]


async def test_the_absence_of_an_agent(plant: Plant, pool: Pool) -> None:
    await plant.rule({"kind": "absence", "silent_s": 600}, metric=None)
    await plant.read(1, ago_s=650, metric="a")
    await plant.read(1, ago_s=10, metric="b")
    await plant.read(1, ago_s=700, agent=1)
    await pool.execute(
        "UPDATE agents SET created_at = $1 WHERE uuid = ANY ($2::uuid[])",
        plant.now - 650 * SECOND,
        plant.agents[2:],
    )
    assert await plant.look(after_s=0) == ["alert.opened"] * 2
    alerts = {one["agent"]: one for one in await plant.alerts()}
    assert set(alerts) == set(plant.agents[1:])
    assert (alerts[plant.agents[1]]["device_name"], alerts[plant.agents[1]]["metric_name"]) == (
        "",
        "",
    )
    assert alerts[plant.agents[2]]["message"] == (
        f"agent {plant.agents[2]} is silent for 650 s (> 600 s)"
    )
    await plant.read(1, agent=1, metric="other")
    assert await plant.look() == ["alert.resolved"]


async def test_a_series_that_is_watched_no_longer_is_resolved(plant: Plant, pool: Pool) -> None:
    rules = AlertRuleStore(pool)
    origin = Origin(tenant=plant.tenant)
    rule = await plant.rule()
    await plant.read(90)
    await plant.read(90, agent=1)
    assert await plant.look() == ["alert.opened"] * 2
    await rules.change(origin, rule, RuleChange(agents=[uuid.UUID(plant.agents[1])]))
    assert await plant.look() == ["alert.resolved"]
    ended = {one["agent"]: one["resolution"] for one in await plant.alerts()}
    assert ended == {plant.agents[0]: "the rule no longer watches it", plant.agents[1]: None}
    await rules.change(origin, rule, RuleChange(enabled=False))
    ended = {one["agent"]: one["resolution"] for one in await plant.alerts()}
    assert ended[plant.agents[1]] == "the rule was disabled"
    assert await plant.look() == []
    await rules.change(origin, rule, RuleChange(enabled=True))
    assert await plant.look() == ["alert.opened"]
    await rules.remove(origin, rule)
    last = (await plant.alerts())[-1]
    assert (last["rule_id"], last["status"], last["resolution"]) == (
        None,
        "resolved",
        "the rule was removed",
    )


async def test_a_rule_waits_for_its_interval(plant: Plant) -> None:
    await plant.rule(interval_s=60)
    assert await plant.look() == []
    await plant.read(90)
    assert await plant.look(after_s=59) == []
    assert await plant.look(after_s=1) == ["alert.opened"]
    evaluation = AlertEvaluation(plant.pool)
    assert await evaluation.due_tenants(plant.now) == []
    assert await evaluation.due_tenants(plant.now + 60 * SECOND) == [plant.tenant]


async def test_processes_at_once_open_each_alert_once(plant: Plant) -> None:
    for n in range(20):
        await plant.rule(metric=f"m{n}")
        for agent in range(3):
            await plant.read(90, metric=f"m{n}", agent=agent)
    plant.now += SECOND
    found = await asyncio.gather(
        *(AlertEvaluation(plant.pool).evaluate(plant.tenant, plant.now) for _ in range(6))
    )
    assert sum(len(one) for one in found) == 60
    alerts = await plant.alerts()
    assert len({(one["rule_id"], one["agent"], one["metric_name"]) for one in alerts}) == 60
    assert len(alerts) == 60


@pytest.mark.parametrize(
    "table", ["alerts", "alert_deliveries", "alert_rules"], ids=lambda table: f"at {table}"
)
async def test_whoever_dies_in_between_has_changed_nothing(
    plant: Plant, connection: asyncpg.Connection, table: str
) -> None:
    """Its session is ended by the server at the very statement."""
    await plant.pool.execute(
        "INSERT INTO alert_webhooks (tenant_id, name, url, events, severities, enabled, salt)"
        " VALUES ($1, 'w', 'http://x', '{alert.opened}', '{warning}', true, '')",
        plant.tenant,
    )
    await plant.rule()
    await plant.read(90)
    await connection.execute(
        "CREATE FUNCTION die() RETURNS trigger LANGUAGE plpgsql AS"
        " $$ BEGIN PERFORM pg_terminate_backend(pg_backend_pid()); RETURN NEW; END $$"
    )
    verb = "UPDATE" if table == "alert_rules" else "INSERT"
    await connection.execute(
        f"CREATE TRIGGER die BEFORE {verb} ON {table} FOR EACH ROW EXECUTE FUNCTION die()"
    )
    with pytest.raises(Exception, match=r"terminat|closed"):
        await plant.look()
    assert await plant.alerts() == []
    await connection.execute(f"DROP TRIGGER die ON {table}")
    assert await plant.look() == ["alert.opened"]
    assert len(await plant.alerts()) == 1
    assert await connection.fetchval("SELECT count(*) FROM alert_deliveries") == 1


async def test_the_database_and_the_core_agree_on_what_is_outside(
    connection: asyncpg.Connection,
) -> None:
    values = [-1.0, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0]
    for operator in (">", ">=", "<", "<=", "outside"):
        band = Band(operator=operator, low=0.5, high=1.5)  # type: ignore[arg-type]
        for value in values:
            found = await connection.fetchval(
                "SELECT alert_breaches($1, $2, 0.5, 1.5)", value, operator
            )
            assert found == band.raises(value), (operator, value)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(st.lists(st.sampled_from([70.0, 78.0, 90.0]), min_size=3, max_size=12))
async def test_any_history_keeps_one_alert_to_a_series(plant: Plant, values: list[float]) -> None:
    await plant.rule()
    for value in values:
        await plant.read(value)
        await plant.look()
        unresolved = [one for one in await plant.alerts() if one["status"] != "resolved"]
        keys = [(one["rule_id"], one["agent"]) for one in unresolved]
        assert len(keys) == len(set(keys))
