"""What `iotistica doctor` finds in PostgreSQL, each illness brought about on a real server."""

from __future__ import annotations

import asyncio
import secrets
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest

from iotistica.doctor import database, readings
from iotistica.doctor.examination import guarded
from iotistica.doctor.finding import Finding, Level
from iotistica.doctor.place import Place
from iotistica.settings import Settings
from iotistica.store import timescale
from iotistica.store.inspection import inspected
from iotistica.store.migrate import migrate
from iotistica.store.upkeep import drop_rollups


def place(**settings: Any) -> Place:
    return Place(settings=Settings(**settings), state={})


async def look(check: Any, url: str, **thresholds: Any) -> list[Finding]:
    where = thresholds.pop("where", place())
    async with inspected(url) as connection:
        found: list[Finding] = await check(connection, where, **thresholds)
        return found


def texts(found: list[Finding], level: Level) -> list[str]:
    return [one.text for one in found if one.level is level]


async def test_a_migrated_database_is_well(database_url: str) -> None:
    for check in (
        database.check_server,
        database.check_schema,
        database.check_timescale,
        readings.check_rollups,
        database.check_bloat,
        database.check_age,
        database.check_transactions,
        database.check_unlogged,
    ):
        assert {one.level for one in await look(check, database_url)} <= {Level.OK}, check


@pytest.fixture
def database_url(database: str) -> str:
    return database


async def test_a_schema_that_lacks_something_is_a_problem(empty_database: str) -> None:
    [missing] = await look(database.check_schema, empty_database)
    assert (missing.level, missing.advice) == (Level.PROBLEM, "run `iotistica migrate`")
    assert missing.text.endswith("are missing, the first 0001_tenants_agents")


async def test_changed_and_unknown_migrations_are_problems(
    database_url: str, connection: asyncpg.Connection
) -> None:
    await connection.execute("UPDATE schema_migrations SET checksum = '' WHERE version = 4")
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, checksum) VALUES (9000, '9000_new', '')"
    )
    assert texts(await look(database.check_schema, database_url), Level.PROBLEM) == [
        "0004_ledger was changed after it was applied",
        "9000_new is of a newer release",
    ]


async def test_an_old_timescaledb_is_a_problem(
    timescale_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await migrate(timescale_url)
    monkeypatch.setattr(timescale, "REQUIRED", (99, 0, 0))
    [finding] = await look(database.check_timescale, timescale_url)
    assert finding.level is Level.PROBLEM
    assert "is too old: 99.0.0 or newer is required" in finding.text


async def test_policies_that_are_gone_off_or_other_than_the_settings(timescale_url: str) -> None:
    await migrate(timescale_url)
    connection = await asyncpg.connect(timescale_url)
    await connection.execute("SELECT remove_compression_policy('readings')")
    await connection.execute(
        "SELECT alter_job(job_id, scheduled => false) FROM timescaledb_information.jobs "
        "WHERE proc_name = 'policy_refresh_continuous_aggregate' "
        "AND schedule_interval = '1 hour'"
    )
    await connection.close()
    found = await look(readings.check_policies, timescale_url, where=place(retention_days=90))
    # Jobs start at once, and how they end is not asked here.
    problems = [one for one in texts(found, Level.PROBLEM) if "failed when it last ran" not in one]
    assert problems == [
        "readings has no policy of compression",
        "the refresh of readings_daily is switched off",
    ]
    differs = texts(found, Level.WARNING)
    assert "the retention of readings says 730 days, the settings want 90 days" in differs
    assert (
        "the retention of readings_1h is missing, the settings want 1825 days" in differs
    )  # nobody has set it yet


async def test_policies_that_the_control_process_has_set(timescale_url: str) -> None:
    await migrate(timescale_url)
    settings = place(retention_days=90).settings
    async with asyncpg.create_pool(timescale_url, min_size=0) as pool:
        await drop_rollups(pool, settings)
    found = await look(readings.check_policies, timescale_url, where=place(retention_days=90))
    assert texts(found, Level.WARNING) == []


async def test_a_policy_that_fails(timescale_url: str) -> None:
    await migrate(timescale_url)
    connection = await asyncpg.connect(timescale_url)
    table = "_timescaledb_internal.bgw_job_stat"
    job = await connection.fetchval(
        "SELECT job_id FROM timescaledb_information.jobs WHERE proc_name = 'policy_retention'"
    )
    fail = (
        f"UPDATE {table} SET last_run_success = false, total_failures = 3, total_runs = 7 "
        f"WHERE job_id = {job}"
    )
    # Until its first run is over: that writes the same row.
    over = f"SELECT last_finish > '-infinity' FROM {table} WHERE job_id = {job}"
    while not await connection.fetchval(over):
        await asyncio.sleep(0.05)
    await connection.execute(fail)
    await connection.close()
    found = await look(readings.check_policies, timescale_url)
    [ours] = [one for one in found if "the retention of readings" in one.text]
    assert (ours.level, ours.text) == (
        Level.PROBLEM,
        "the retention of readings failed when it last ran, 3 times of 7",
    )
    assert ours.advice == f"see timescaledb_information.job_errors for job {job}"


async def test_rollups_that_timescaledb_does_not_refresh(timescale_url: str) -> None:
    await migrate(timescale_url)
    connection = await asyncpg.connect(timescale_url)
    await connection.execute(
        "SELECT alter_job(job_id, next_start => now() + interval '1 hour') "
        "FROM timescaledb_information.jobs "
        "WHERE proc_name = 'policy_refresh_continuous_aggregate'"
    )
    await connection.close()
    later = datetime.now(UTC) + timedelta(hours=4)
    found = await look(readings.check_rollups, timescale_url, now=later)
    late = sorted(text.partition(" at ")[0] for text in texts(found, Level.PROBLEM))
    assert late == [
        f"readings_{level} should have been refreshed" for level in ("1h", "1m", "daily")
    ]


async def test_rollups_that_nobody_makes(postgres_url: str) -> None:
    await migrate(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    hour = datetime(2026, 3, 1, 5, tzinfo=UTC)
    mark = "INSERT INTO rollup_marks (hour, agent_uuid) VALUES ($1, gen_random_uuid())"
    await connection.execute(mark, hour)
    now = hour + timedelta(hours=4)
    [never] = await look(readings.check_rollups, postgres_url, now=now)
    assert (never.level, never.text) == (
        Level.PROBLEM,
        "nobody has ever refreshed; readings wait from 2026-03-01 05:00 UTC on",
    )
    await connection.execute("UPDATE rollup_state SET closed_before = $1", hour)
    [stopped] = await look(readings.check_rollups, postgres_url, now=now)
    assert stopped.text == "nobody has refreshed since 2026-03-01 05:00 UTC"
    await connection.execute("UPDATE rollup_state SET closed_before = $1", now)
    [waiting] = await look(readings.check_rollups, postgres_url, now=now)
    assert (waiting.level, waiting.text) == (Level.OK, "1 hours of agents wait to be made")
    await connection.execute(mark, hour)
    [many] = await look(readings.check_rollups, postgres_url, now=now, most_hours=1)
    assert (many.level, many.text) == (Level.WARNING, "2 hours of agents wait to be made")
    await connection.close()


async def test_a_partition_of_tomorrow_that_is_not_there(postgres_url: str) -> None:
    await migrate(postgres_url)
    now = datetime(2026, 3, 1, 23, tzinfo=UTC)
    [none] = await look(readings.check_partitions, postgres_url, now=now)
    assert (none.level, none.text) == (Level.OK, "none, as there are no readings")
    connection = await asyncpg.connect(postgres_url)
    today = (now.date() - datetime(1970, 1, 1).date()).days
    await connection.execute("SELECT readings_make_days($1)", [today])
    [missing] = await look(readings.check_partitions, postgres_url, now=now)
    assert (missing.level, missing.text) == (
        Level.WARNING,
        "tomorrow's, readings_20260302, is not there; its first reading must make it",
    )
    await connection.execute("SELECT readings_make_days($1)", [today + 1])
    [there] = await look(readings.check_partitions, postgres_url, now=now)
    assert (there.level, there.text) == (Level.OK, "2, tomorrow's is there")
    await connection.close()


async def test_settings_that_lose_data_or_are_small(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    name = postgres_url.rpartition("/")[2]
    await connection.execute(f"ALTER DATABASE {name} SET synchronous_commit = off")
    await connection.execute(f"ALTER DATABASE {name} SET work_mem = '1MB'")
    await connection.close()
    where = place(database_pool_size=60)
    found = await look(database.check_settings, postgres_url, where=where)
    # The server of the tests is told not to wait for its disk.
    assert texts(found, Level.PROBLEM) == [
        f"{setting} is off: a crash loses readings that were acknowledged"
        for setting in ("synchronous_commit", "fsync", "full_page_writes")
    ]
    assert texts(found, Level.WARNING) == [
        "work_mem is 1 MiB",
        "max_connections is 100, 3 of them reserved; one Cloud API and one Ingestion may open 181",
    ]


async def test_dead_rows(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("CREATE TABLE dying (a int) WITH (autovacuum_enabled = off)")
    await connection.execute("INSERT INTO dying SELECT generate_series(1, 1000)")
    await connection.execute("DELETE FROM dying WHERE a > 100")
    await connection.execute("SELECT pg_stat_force_next_flush()")
    await connection.close()
    [finding] = await look(database.check_bloat, postgres_url, rows=500)
    assert (finding.level, finding.text) == (
        Level.WARNING,
        "table dying has 900 dead rows beside 100, never vacuumed",
    )
    [few] = await look(database.check_bloat, postgres_url)
    assert few.level is Level.OK


async def test_old_transaction_ids(postgres_url: str) -> None:
    [old] = await look(database.check_age, postgres_url, high=0)
    assert (old.level, old.text.partition(" is ")[0]) == (
        Level.WARNING,
        "the oldest transaction id",
    )
    [ancient] = await look(database.check_age, postgres_url, most=0)
    assert ancient.level is Level.PROBLEM


async def test_transactions_that_stay_open(empty_database: str) -> None:
    connection = await asyncpg.connect(
        empty_database, server_settings={"application_name": "forgetful"}
    )
    pid = connection.get_server_pid()
    async with connection.transaction():
        await connection.execute("SELECT 1")
        [idle] = await look(database.check_transactions, empty_database, idle_s=0)
        assert (idle.level, idle.text) == (
            Level.WARNING,
            f"process {pid} (forgetful) has been idle in a transaction for 0 s",
        )
        assert f"pg_terminate_backend({pid})" in idle.advice
        [long] = await look(database.check_transactions, empty_database, open_s=0)
        assert long.text == f"a transaction of process {pid} (forgetful) has been open for 0 s"
    await connection.close()


async def test_a_slot_that_holds_the_log(postgres_url: str) -> None:
    slot = f"doctor_{secrets.token_hex(4)}"
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("SELECT pg_create_physical_replication_slot($1, true)", slot)
    try:
        found = await look(database.check_slots, postgres_url, most_bytes=0)
        [ours] = [one for one in found if slot in one.text]
        assert ours.level is Level.WARNING
        assert ours.text.startswith(f"slot {slot} has no reader and holds ")
        assert f"pg_drop_replication_slot('{slot}')" in ours.advice
    finally:
        await connection.execute("SELECT pg_drop_replication_slot($1)", slot)
        await connection.close()


async def test_a_table_that_a_crash_empties(postgres_url: str) -> None:
    connection = await asyncpg.connect(postgres_url)
    await connection.execute("CREATE UNLOGGED TABLE fleeting (a int)")
    await connection.close()
    [finding] = await look(database.check_unlogged, postgres_url)
    assert (finding.level, finding.text) == (Level.PROBLEM, "a crash empties fleeting")


async def test_a_check_that_fails_is_a_finding_and_the_next_one_works(postgres_url: str) -> None:
    async def check_nothing(connection: Any, _place: Place) -> list[Finding]:
        return list(await connection.fetch("SELECT * FROM nothing"))

    async def check_patience(connection: Any, _place: Place) -> list[Finding]:
        return list(await connection.fetch("SELECT pg_sleep(60)"))

    async with inspected(postgres_url) as connection:
        [failed] = await guarded(check_nothing, connection, place())
        [slow] = await guarded(check_patience, connection, place(), limit_s=0.2)
        [version] = await guarded(database.check_server, connection, place())
    assert (failed.level, failed.check, failed.text) == (
        Level.NOT_CHECKED,
        "nothing",
        'the check failed: relation "nothing" does not exist',
    )
    assert (slow.level, slow.text) == (Level.NOT_CHECKED, "it took longer than 0.2 s")
    assert version.level is Level.OK
