"""`iotistica spool` and `iotistica quota`, as a person runs them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from tests.integration.test_ingestion import Fleet, fleet

from iotistica import ledger
from iotistica.quotas import Quota
from iotistica.spool import Batch, Kind, Spool, inventory
from iotistica.store.pool import Pool
from iotistica.store.tenants import tenant_quotas

__all__ = ["fleet"]  # a fixture


@pytest.fixture
def environment(postgres_url: str, redis_url: str) -> dict[str, str]:
    return {**os.environ, "DATABASE_URL": postgres_url, "REDIS_URL": redis_url}


@pytest.fixture
def empty_database(postgres_url: str) -> str:
    """One profile serves: the store is not what is tested."""
    return postgres_url


async def run(environment: dict[str, str], *arguments: str) -> tuple[int, Any, str]:
    """Exit code, what it printed as JSON, and standard error."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "iotistica", *arguments, "--json"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, orjson.loads(done.stdout) if done.stdout else None, done.stderr


def batch(fleet: Fleet, name: str, *, readings: int) -> Batch:
    header = b"%d-0 %s" % (time.time_ns() // 1_000_000, fleet.topic)
    return Batch(
        name=name,
        tenant=fleet.tenant,
        kind=Kind.LIVE,
        entries=[(b"1-0", [header, fleet.payload(readings)])],
        messages=1,
        counts={ledger.field(fleet.agent, ledger.SPOOLED): 1},
    )


@pytest.fixture
async def spools(fleet: Fleet, spool_dir: Path) -> Path:
    """One segment left by ingestion, one by a bridge."""
    for service, readings in (("ingestion", 3), ("api", 2)):
        spool = Spool(spool_dir / service, max_bytes=1 << 20)
        await spool.put(batch(fleet, service, readings=readings))
        spool.close()
    return spool_dir


async def test_ls_lists_what_waits(environment: dict[str, str], spools: Path, fleet: Fleet) -> None:
    code, found, errors = await run(environment, "spool", "ls")
    assert (code, errors) == (0, "")
    assert [(one["service"], one["segments"]) for one in found["spools"]] == [
        ("api", 1),
        ("ingestion", 1),
    ]
    assert found["spools"][0]["messages"] == {fleet.tenant: 1}


async def test_verify_names_what_is_damaged(environment: dict[str, str], spools: Path) -> None:
    code, found, _ = await run(environment, "spool", "verify")
    assert (code, found["damaged"], len(found["segments"])) == (0, 0, 2)
    path = next(inventory.segments(spools))
    path.write_bytes(path.read_bytes()[:-9])
    code, found, _ = await run(environment, "spool", "verify")
    assert (code, found["damaged"]) == (1, 1)
    [damaged] = [one for one in found["segments"] if one["damage"]]
    assert damaged["segment"] == str(path)
    assert damaged["batches"][0]["name"] == "api"


async def test_replay_brings_everything_to_its_place(
    environment: dict[str, str], spools: Path, fleet: Fleet, connection: asyncpg.Connection
) -> None:
    code, found, errors = await run(environment, "spool", "replay")
    assert (code, found, errors) == (0, {"replayed": 2, "left": 0}, "")
    assert await connection.fetchval("SELECT count(*) FROM readings") == 3
    assert (await fleet.streams.depth(fleet.tenant)).entries == 1


async def test_replay_leaves_a_running_process_its_spool(
    environment: dict[str, str], spools: Path
) -> None:
    running = Spool(spools / "ingestion", max_bytes=1 << 20)
    assert running.segments == 1
    code, found, _ = await run(environment, "spool", "replay")
    assert (code, found) == (1, {"replayed": 1, "left": 1})
    running.close()


async def test_a_quota_is_set_and_listed(
    environment: dict[str, str], fleet: Fleet, pool: Pool
) -> None:
    code, _, errors = await run(
        environment, "quota", "set", fleet.tenant, "--messages", "50", "--bytes", "1e6"
    )
    assert (code, errors) == (0, "")
    assert await tenant_quotas(pool) == {
        fleet.tenant: Quota(messages_per_s=50, bytes_per_s=1_000_000)
    }
    code, found, _ = await run(environment, "quota", "list")
    assert (code, found[fleet.tenant]["messages_per_s"]) == (0, 50)
    code, _, errors = await run(environment, "quota", "set", "nobody", "--messages", "1")
    assert (code, orjson.loads(errors)) == (1, {"error": "tenant nobody does not exist"})


async def test_a_quota_of_storage_asks_before_it_removes(
    environment: dict[str, str], fleet: Fleet, pool: Pool
) -> None:
    agent = await pool.fetchval("SELECT uuid FROM agents WHERE tenant_id = $1", fleet.tenant)
    await pool.execute(
        "INSERT INTO rollup_daily (bucket, agent_uuid, metric_name, device_name, protocol, unit,"
        " sample_count, good_count, value_count, value_sum, value_m2)"
        " SELECT date_bin('1 day', now(), 'epoch') - n * interval '1 day', $1, 'm', 'd', 'x', '',"
        " 100, 0, 0, 0, 0 FROM generate_series(3, 12) AS n",
        agent,
    )
    command = ("quota", "set", fleet.tenant, "--stored", "250")
    code, _, errors = await run(environment, *command)
    assert (code, "800 readings from before" in errors) == (2, True)
    assert await tenant_quotas(pool) == {}
    code, found, _ = await run(environment, *command, "--yes")
    assert (code, found[fleet.tenant]["stored_readings"]) == (0, 250)
    code, _, _ = await run(environment, "quota", "set", fleet.tenant, "--stored", "1000")
    assert (code, (await tenant_quotas(pool))[fleet.tenant]) == (0, Quota(stored_readings=1000))
