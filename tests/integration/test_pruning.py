"""What is older than its retention is removed, in both storage profiles."""

from __future__ import annotations

import uuid
from typing import Any

import asyncpg
import pytest

from iotistica.settings import Settings
from iotistica.store import pruning
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.store.pruning import DAYS, OLD, prune
from iotistica.store.turn import turn

# Every other table, and why nothing of it gets old.
KEPT = {
    "schema_migrations": "one row for each migration",
    "tenants": "made by people",
    "users": "made by people",
    "roles": "made by people",
    "api_keys": "made by people; the journal names revoked ones",
    "fleets": "made by people",
    "provisioning_keys": "made by people",
    "tag_definitions": "made by people",
    "groups": "made by people",
    "job_templates": "made by people",
    "job_handlers": "made by people",
    "alert_rules": "made by people",
    "alert_webhooks": "made by people",
    "agents": "one row for each agent",
    "agent_tags": "leave with their agent",
    "agent_current_state": "one row for each agent",
    "agent_target_state": "one row for each agent",
    "tenant_target_state": "one row for each tenant",
    "agent_target_state_history": "keeps so many versions",
    "readings_latest": "one row for each series, which leaves with its agent",
    "ledgers": "one row for each tenant",
    "ledger_agents": "one row for each agent",
    "ledger_losses": "a loss stands for good",
    "presence_watch": "one row",
    "mqtt_users": "removed once the broker knows",
    "mqtt_acls": "leave with their user",
    "mqtt_broker_config": "made by people",
    "rollup_marks": "removed once the rollups are made",
    "rollup_state": "one row",
    "rollup_1m": "by months, dropped by store/upkeep.py",
    "rollup_1h": "by months, dropped by store/upkeep.py",
    "retention_rules": "made by people",
    "retention_floors": "one row for each series, which leaves with its agent",
    "retention_levels": "one row for each level",
    "retention_sweeps": "one row for each tenant and day that there is",
    "tenant_storage": "one row for each tenant",
    "dictionary_metadata": "one row for each agent",
    "dictionary_versions": "keeps so many versions",
    "job_executions": "removed job by job, see test_foreman",
    "agent_job_status": "leave with their job",
    "anomaly_alerts": "leave with their incident",
}
DAY = "interval '1 day'"
# How to make a row that is this old; agent, tenant and user are there.
ROWS = {
    "agent_events": "(tenant_id, agent_uuid, source, type, time) VALUES ($1, $2, 'x', 'x', {at})",
    "agent_updates": "(agent_uuid, completed_at) VALUES ($2, {at})",
    "agent_log_drops": "(agent_uuid, reported_at, summary, digest)"
    " VALUES ($2, {at}, '{{}}', sha256({at}::text::bytea))",
    "agent_log_services": "VALUES ($2, {at}::text, {at})",
    "refresh_tokens": "(id, user_id, expires_at) SELECT gen_random_uuid(), id, {at} FROM users",
    "invites": "(tenant_id, email, role, token_hash, expires_at)"
    " VALUES ($1, 'x', 'viewer', sha256({at}::text::bytea), {at})",
    "agent_key_history": "(agent_uuid, key_hash, issued_at, valid_until, reason, ip_address)"
    " VALUES ($2, {at}::text, now(), {at}, 'x', 'x')",
    "provisioning_attempts": "(tenant_id, ip_address, user_agent, success, created_at)"
    " VALUES ($1, 'x', 'x', true, {at})",
    "agent_departures": "VALUES ($1, gen_random_uuid(), {at})",
    "endpoint_health": "(agent_uuid, name, time) VALUES ($2, 'x', {at})",
    "agent_key_changes": "VALUES (gen_random_uuid(), {at})",
    "rollup_daily": "(bucket, agent_uuid, metric_name, device_name, protocol, unit, sample_count,"
    " good_count, value_count, value_sum, value_m2)"
    " VALUES ({at}, $2, 'm', '', '', '', 1, 1, 1, 1, 0)",
    "audit_logs": "(tenant_id, event_type, actor_type, actor_id, actor_name, subject, ip_address,"
    " user_agent, request_id, created_at)"
    " VALUES ($1, 'x', 'user', 'x', 'x', 'x', 'x', 'x', 'x', {at})",
    "alerts": "(tenant_id, rule_name, kind, agent_uuid, device_name, metric_name, severity, labels,"
    " message, status, opened_at, seen_at, flapping, resolved_at)"
    " VALUES ($1, 'x', 'x', $2, 'x', 'x', 'info', '{{}}', 'x', 'resolved', now(), now(), false,"
    " {at})",
}


@pytest.fixture
async def agent(pool: Pool, tenant: str) -> str:
    agent = str(uuid.uuid4())
    store = AgentStore(pool)
    await store.ensure_tenant(tenant)
    await store.add_agents(tenant, [(agent, "agent")])
    await pool.execute(
        "INSERT INTO users (tenant_id, username, email, password_hash, role)"
        " VALUES ($1, 'x', 'x', 'x', 'viewer')",
        tenant,
    )
    return agent


async def test_every_table_is_pruned_or_has_a_reason(connection: asyncpg.Connection) -> None:
    found = await connection.fetch(
        "SELECT relname FROM pg_class JOIN pg_namespace AS n ON n.oid = relnamespace"
        " WHERE nspname = 'public' AND relkind IN ('r', 'p') AND NOT relispartition"
    )
    pruned = {old.table for old in OLD} | {table for table, _ in DAYS}
    tables = {row["relname"] for row in found}
    # With TimescaleDB aggregates find by themselves what has changed.
    tables |= {"rollup_marks", "rollup_state"}
    assert tables == pruned | set(KEPT)


@pytest.mark.parametrize("table", ROWS)
async def test_rows_are_kept_for_their_days_and_no_longer(
    pool: Pool, tenant: str, agent: str, table: str
) -> None:
    [old] = [one for one in OLD if one.table == table]
    days = old.days_of(Settings())
    # One more where whole days are waited for.
    for age in (days - 0.01, days + 1.01):
        row = ROWS[table].format(at=f"(now() - {age} * {DAY})")
        text = f"INSERT INTO {table} {row}"
        given: list[Any] = [one for n, one in ((1, tenant), (2, agent)) if f"${n}" in text]
        await pool.execute(text if "$1" in text else text.replace("$2", "$1"), *given)
    removed = await prune(pool, Settings())
    assert {name: count for name, count in removed.items() if count} == {table: 1}
    left = await pool.fetchval(
        f"SELECT count(*) FROM {table} WHERE {old.moment} > now() - ({days} * {DAY})"
    )
    assert (left, await pool.fetchval(f"SELECT count(*) FROM {table}")) == (1, 1)


async def test_a_session_that_was_ended_goes_before_it_expires(pool: Pool, agent: str) -> None:
    await pool.execute(
        "INSERT INTO refresh_tokens (id, user_id, expires_at, revoked_at)"
        " SELECT gen_random_uuid(), id, now() + interval '1 y', now() - interval '91 d' FROM users"
    )
    assert (await prune(pool, Settings()))["refresh_tokens"] == 1


async def test_an_alert_that_is_open_stays(pool: Pool, tenant: str, agent: str) -> None:
    row = ROWS["alerts"].format(at="(now() - interval '10 y')")
    await pool.execute(f"INSERT INTO alerts {row}", tenant, agent)
    await pool.execute("UPDATE alerts SET status = 'open'")
    assert (await prune(pool, Settings()))["alerts"] == 0


async def test_it_goes_on_in_steps_until_nothing_old_is_left(
    pool: Pool, tenant: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pruning, "AT_ONCE", 2)
    await AgentStore(pool).ensure_tenant(tenant)
    await pool.execute(
        "INSERT INTO agent_departures"
        " SELECT $1, gen_random_uuid(), now() - n * interval '1 day' FROM generate_series(1, 12) n",
        tenant,
    )
    assert (await prune(pool, Settings()))["agent_departures"] == 6
    assert await pool.fetchval("SELECT count(*) FROM agent_departures") == 6


async def test_one_process_at_a_time_and_none_waits(pool: Pool, tenant: str) -> None:
    await AgentStore(pool).ensure_tenant(tenant)
    await pool.execute(
        "INSERT INTO agent_departures VALUES ($1, $2, 'epoch')", tenant, uuid.uuid4()
    )
    async with turn(pool, "prune"):
        assert set((await prune(pool, Settings())).values()) == {0}
    assert (await prune(pool, Settings()))["agent_departures"] == 1


async def test_old_days_of_readings_are_removed_whole(
    connection: asyncpg.Connection, pool: Pool
) -> None:
    if not await connection.fetchval("SELECT to_regproc('readings_make_days') IS NOT NULL"):
        await connection.execute(
            "INSERT INTO readings (time, agent_uuid, metric_name, protocol)"
            " VALUES ('2010-01-01', gen_random_uuid(), 'm', 'x')"
        )
        assert (await prune(pool, Settings()))["readings"] == 0  # its own policy does that
        assert await connection.fetchval("SELECT count(*) FROM readings") == 1
        return
    ago = "current_date - date '1970-01-01' -"
    await connection.execute(f"SELECT readings_make_days(ARRAY[{ago} 735, {ago} 732, {ago} 729])")
    assert (await prune(pool, Settings()))["readings"] == 2
    days = await connection.fetch(
        "SELECT (current_date - to_date(right(inhrelid::regclass::text, 8), 'YYYYMMDD')) AS age"
        " FROM pg_inherits WHERE inhparent = 'readings'::regclass"
    )
    assert max(row["age"] for row in days) == 729
    assert (await prune(pool, Settings(retention_days=700)))["readings"] == 1
