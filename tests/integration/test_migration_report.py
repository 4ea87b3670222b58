"""`iotistica migrate --status` and `--dry-run` on both storage profiles."""

from __future__ import annotations

import secrets
from urllib.parse import urlsplit, urlunsplit

import asyncpg
import pytest
from tests.shell import Shell

from iotistica.errors import ConfigError
from iotistica.store import timescale
from iotistica.store.inspection import inspected
from iotistica.store.migrate import migrate, wanted
from iotistica.store.migration_report import State, plan, report


async def _execute(url: str, *statements: str) -> None:
    connection = await asyncpg.connect(url)
    for statement in statements:
        await connection.execute(statement)
    await connection.close()


async def test_dry_run_names_in_order_what_migrate_then_applies(empty_database: str) -> None:
    would = await plan(empty_database)
    assert not would.is_decided
    assert all(entry.in_transaction for entry in would.missing)
    applied = await migrate(empty_database)
    assert [entry.name for entry in would.missing] == applied
    after = await report(empty_database)
    assert (after.profile, after.is_decided, after.is_well) == (would.profile, True, True)
    assert after.missing == []


async def test_a_user_who_may_only_read_learns_it_and_nothing_is_written(
    postgres_url: str,
) -> None:
    reader = f"reader_{secrets.token_hex(4)}"
    await _execute(
        postgres_url,
        f"CREATE ROLE {reader} LOGIN PASSWORD '{reader}'",
        f"ALTER ROLE {reader} SET default_transaction_read_only = on",
    )
    parts = urlsplit(postgres_url)
    url = urlunsplit(parts._replace(netloc=f"{reader}:{reader}@{parts.hostname}:{parts.port}"))
    try:
        assert [one.name for one in (await plan(url)).missing] == [o.name for o in wanted("plain")]
        assert not (await report(url)).is_well
        connection = await asyncpg.connect(postgres_url)
        assert await connection.fetchval("SELECT to_regclass('schema_migrations')") is None
        await connection.close()
    finally:
        await _execute(postgres_url, f"DROP ROLE {reader}")


async def test_an_inspection_cannot_write(postgres_url: str) -> None:
    async with inspected(postgres_url) as connection:
        with pytest.raises(asyncpg.ReadOnlySQLTransactionError):
            await connection.execute("CREATE TABLE written (a int)")


async def test_what_is_missing_changed_or_unknown_is_said(postgres_url: str) -> None:
    await migrate(postgres_url)
    await _execute(
        postgres_url,
        "DELETE FROM schema_migrations WHERE version = 4",
        "UPDATE schema_migrations SET checksum = 'x' WHERE version = 5",
        "INSERT INTO schema_migrations (version, name, checksum) VALUES (9000, '9000_new', '')",
    )
    found = await report(postgres_url)
    states = {one.version: one.state for one in found.entries if one.state is not State.APPLIED}
    assert states == {4: State.MISSING, 5: State.CHANGED, 9000: State.UNKNOWN}
    assert not found.is_well
    with pytest.raises(ConfigError, match="was changed after it was applied"):
        await plan(postgres_url)


async def test_the_command_says_it_and_exits_with_the_verdict(postgres_url: str) -> None:
    shell = Shell({"DATABASE_URL": postgres_url})
    before = await shell("migrate", "--status", "--json")
    assert (before.code, before.document["well"], before.document["profile"]) == (1, False, "plain")
    dry = await shell("migrate", "--dry-run", "--json")
    assert dry.code == 0
    assert dry.document["would_apply"][0] == {
        "version": 1,
        "name": "0001_tenants_agents",
        "transaction": True,
    }
    await migrate(postgres_url)
    after = await shell("migrate", "--status")
    assert after.code == 0
    assert after.output.splitlines()[0] == "profile plain"
    assert after.output.splitlines()[1].startswith("applied   0001_tenants_agents  20")
    assert after.output.splitlines()[-1] == "all are applied"
    both = await shell("migrate", "--status", "--dry-run")
    assert (both.code, both.errors) == (
        2,
        "iotistica: --status and --dry-run are both given; give one of them\n",
    )


async def test_an_old_timescaledb_is_refused_by_migrate_and_by_services(
    timescale_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await timescale.check_at_start(timescale_url)  # nothing to refuse before the first migration
    monkeypatch.setattr(timescale, "REQUIRED", (99, 0, 0))
    with pytest.raises(ConfigError, match=r"too old: 99\.0\.0 or newer is required"):
        await migrate(timescale_url)
    connection = await asyncpg.connect(timescale_url)
    extension = "SELECT count(*) FROM pg_extension WHERE extname = 'timescaledb'"
    assert await connection.fetchval(extension) == 0  # none is left behind
    await connection.close()
    monkeypatch.undo()
    await migrate(timescale_url)
    await timescale.check_at_start(timescale_url)
    monkeypatch.setattr(timescale, "REQUIRED", (99, 0, 0))
    for refused in (migrate, timescale.check_at_start):
        with pytest.raises(ConfigError, match=r"too old: 99\.0\.0 or newer is required"):
            await refused(timescale_url)
    assert not (await report(timescale_url)).is_well


async def test_services_start_without_a_database(unused_tcp_port: int) -> None:
    await timescale.check_at_start(f"postgresql://nobody@127.0.0.1:{unused_tcp_port}/nothing")
