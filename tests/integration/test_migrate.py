"""Migrations against both storage profiles."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import asyncpg
import pytest

from iotistica.errors import ConfigError, StoreUnavailable
from iotistica.store import migrate as migrations
from iotistica.store.migrate import Migration, migrate

COLUMNS = [
    ("time", "timestamp with time zone", None, "NO"),
    ("agent_uuid", "uuid", None, "NO"),
    ("metric_name", "text", "C", "NO"),
    ("value", "double precision", None, "YES"),
    ("quality", "text", None, "YES"),
    ("unit", "text", None, "YES"),
    ("protocol", "text", None, "NO"),
    ("extra", "jsonb", None, "YES"),
    ("anomaly_score", "double precision", None, "YES"),
    ("anomaly_threshold", "double precision", None, "YES"),
]


async def test_readings_is_the_table_of_the_overview(connection: asyncpg.Connection) -> None:
    rows = await connection.fetch(
        "SELECT column_name, data_type, collation_name, is_nullable "
        "FROM information_schema.columns WHERE table_name = 'readings' ORDER BY ordinal_position"
    )
    assert [tuple(row) for row in rows] == COLUMNS
    key = await connection.fetchval(
        "SELECT pg_get_constraintdef(oid) FROM pg_constraint "
        "WHERE conrelid = 'readings'::regclass AND contype = 'p'"
    )
    assert key == 'PRIMARY KEY (agent_uuid, metric_name, "time")'


@pytest.mark.parametrize(
    ("tenant", "rule"),
    [
        ("acme-iot", "tenants_id_is_no_short_form"),
        ("73EDDD385CE8", "tenants_id_is_lower_case_hex"),
        ("a/b", "tenants_id_is_one_topic_level"),
        ("+", "tenants_id_is_one_topic_level"),
    ],
)
async def test_a_tenant_that_topics_cannot_name_is_refused(
    connection: asyncpg.Connection, tenant: str, rule: str
) -> None:
    insert = "INSERT INTO tenants (id, name) VALUES ($1, $1)"
    with pytest.raises(asyncpg.CheckViolationError, match=rule):
        await connection.execute(insert, tenant)
    for allowed in ("73eddd385ce8", "self-hosted", "acme.iot"):
        await connection.execute(insert, allowed)


async def test_a_second_run_applies_nothing(empty_database: str) -> None:
    first = await migrate(empty_database)
    versions = sorted({migration.version for migration in migrations.available()})
    assert [int(name.partition("_")[0]) for name in first] == versions
    assert await migrate(empty_database) == []


async def test_several_processes_apply_each_file_once(empty_database: str) -> None:
    program = (
        "import asyncio, sys\n"
        "from iotistica.store.migrate import migrate\n"
        "print(len(asyncio.run(migrate(sys.argv[1]))))"
    )
    processes = [
        await asyncio.create_subprocess_exec(
            *(sys.executable, "-c", program, empty_database),
            stdout=asyncio.subprocess.PIPE,
            env=dict(os.environ),
        )
        for _ in range(3)
    ]
    outputs = [(await process.communicate())[0] for process in processes]
    versions = {migration.version for migration in migrations.available()}
    assert sorted(int(output) for output in outputs) == [0, 0, len(versions)]


async def test_timescale_gets_a_hypertable_with_policies(timescale_url: str) -> None:
    assert "0002_readings.timescale" in await migrate(timescale_url)
    connection = await asyncpg.connect(timescale_url)
    try:
        jobs = await connection.fetch(
            "SELECT proc_name, config::jsonb - 'hypertable_id' AS config "
            "FROM timescaledb_information.jobs WHERE hypertable_name = 'readings' ORDER BY 1"
        )
        assert [tuple(job) for job in jobs] == [
            ("policy_compression", '{"compress_after": "7 days"}'),
            ("policy_retention", '{"drop_after": "730 days"}'),
        ]
        width = await connection.fetchval(
            "SELECT time_interval::text FROM timescaledb_information.dimensions"
        )
        assert width == "1 day"
        settings = await connection.fetchrow(
            "SELECT segmentby, orderby FROM timescaledb_information.hypertable_compression_settings"
        )
        assert tuple(settings) == ("agent_uuid,metric_name", '"time" DESC')
    finally:
        await connection.close()


async def test_plain_gets_native_partitions_of_one_utc_day(postgres_url: str) -> None:
    assert "0002_readings.plain" in await migrate(postgres_url)
    connection = await asyncpg.connect(postgres_url, server_settings={"timezone": "Asia/Tokyo"})
    try:
        assert await connection.fetchval("SELECT readings_make_days('{20000,20001}')") == 2
        assert await connection.fetchval("SELECT readings_make_days('{20000,20001}')") == 0
        await connection.execute("SET timezone = 'UTC'")
        bounds = await connection.fetchval(
            "SELECT pg_get_expr(relpartbound, oid) FROM pg_class "
            "WHERE relname = 'readings_20241004'"
        )
        assert bounds == "FOR VALUES FROM ('2024-10-04 00:00:00+00') TO ('2024-10-05 00:00:00+00')"
    finally:
        await connection.close()


async def test_changed_file_is_refused(postgres_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    await migrate(postgres_url)
    changed = [
        Migration(one.version, one.name, one.profile, one.sql + "-- changed\n")
        for one in migrations.available()
    ]
    monkeypatch.setattr(migrations, "available", lambda: changed)
    with pytest.raises(ConfigError, match="0001_tenants_agents was changed after it was applied"):
        await migrate(postgres_url)


async def test_database_of_a_newer_release_is_refused(postgres_url: str) -> None:
    await migrate(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    await connection.execute(
        "INSERT INTO schema_migrations (version, name, checksum) VALUES (9000, '9000_new', '')"
    )
    await connection.close()
    with pytest.raises(ConfigError, match="9000_new, which this iotistica does not know"):
        await migrate(postgres_url)


async def test_failed_file_leaves_nothing_behind(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = Migration(1, "0001_broken", "", "CREATE TABLE half (a int); SELECT 1 / 0;")
    monkeypatch.setattr(migrations, "available", lambda: [broken])
    with pytest.raises(asyncpg.DivisionByZeroError):
        await migrate(postgres_url)
    connection = await asyncpg.connect(postgres_url)
    assert await connection.fetchval("SELECT to_regclass('half')") is None
    assert await connection.fetchval("SELECT count(*) FROM schema_migrations") == 0
    await connection.close()


async def test_file_without_transaction_runs_statement_by_statement(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sql = "-- no-transaction\nCREATE TABLE t (a int);\nCREATE INDEX CONCURRENTLY t_a ON t (a);\n"
    monkeypatch.setattr(migrations, "available", lambda: [Migration(1, "0001_concurrent", "", sql)])
    assert await migrate(postgres_url) == ["0001_concurrent"]


async def test_server_away_is_one_sentence(unused_tcp_port: int) -> None:
    with pytest.raises(StoreUnavailable, match="PostgreSQL could not migrate: "):
        await migrate(f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/nothing")


async def test_malformed_url_is_a_config_error() -> None:
    with pytest.raises(ConfigError, match="DATABASE_URL is not a PostgreSQL URL"):
        await migrate("mysql://127.0.0.1/iotistica")


def test_package_carries_the_files() -> None:
    names = {path.name for path in Path("migrations").glob("*.sql")}
    assert {f"{one.name}.sql" for one in migrations.available()} == names
