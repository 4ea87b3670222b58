"""The audit as its users meet it: by command, by REST, after real messages on their real way."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
import uuid
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
import redis.asyncio
from tests.integration.test_ingestion import Fleet, fleet, ingestion, raw, until

from iotistica import keys
from iotistica._native import format_topic
from iotistica.api.auth import Tokens, issue_token
from iotistica.api.http import Request
from iotistica.api.route import routes_of
from iotistica.api.routes.audit import Audit
from iotistica.api.table import Table
from iotistica.audit.auditor import Auditor
from iotistica.ingestion.bookkeeper import Bookkeeper
from iotistica.ledger import field
from iotistica.sequences import AGE_MS
from iotistica.spool import Batch, Kind, Spool
from iotistica.store.agents import AgentStore
from iotistica.store.ledger import LedgerStore
from iotistica.store.pool import Pool
from iotistica.streams import Settlement, Streams

__all__ = ["fleet", "raw"]

KEY = secrets.token_bytes(32)
OTHER = "1a8b3b0e-5c1e-4f0e-9d55-0242ac120002"


async def send(fleet: Fleet, *payloads: bytes, agent: str | None = None) -> None:
    """Hand messages over as the bridge does, counted."""
    agent = agent or fleet.agent
    topic = format_topic(fleet.tenant, agent, "endpoints/modbus").encode()
    now_ms = await fleet.streams.ledger.now_ms()
    fields: list[bytes] = []
    for number, payload in enumerate(payloads):
        fields += [b"%d-%d %s" % (now_ms, number, topic), payload]
    counts = {field(agent, "accepted"): len(payloads)}
    await fleet.streams.add(fleet.tenant, fields, counts=counts)


@pytest.fixture
def store(pool: Pool) -> LedgerStore:
    return LedgerStore(pool)


@pytest.fixture
def auditor(streams: Streams, store: LedgerStore) -> Auditor:
    return Auditor(streams.ledger, store)


# The whole way


async def test_what_ingestion_makes_of_messages_adds_up(
    database: str, redis_url: str, fleet: Fleet, auditor: Auditor, connection: asyncpg.Connection
) -> None:
    async with ingestion(database, redis_url, ledger_snapshot_s=0.1):
        await send(fleet, fleet.payload(3, msgId=1), fleet.payload(2, msgId="2"))
        fleet.sent = 2
        await send(fleet, fleet.payload(4, msgId=f"{fleet.agent}-4"))  # three known readings
        await send(fleet, b"\x00", b"{")
        await send(fleet, fleet.payload(1), agent=OTHER)  # a stranger

        async def settled() -> bool:
            found = await auditor.report(fleet.tenant)
            return found.total.counts.get("settled") == 6 and found.evidence.past.agents == {}

        await until(settled)
        [account] = (await auditor.report(fleet.tenant, agent=fleet.agent)).accounts
        assert account.balanced is True
        assert account.gaps.open == [(3, 3)]
        counts = {name: number for name, number in account.counts.items() if ":" not in name}
        assert counts == {"accepted": 5, "settled": 5, "readings": 9, "stored": 6, "duplicate": 3}
        whole = await auditor.report(fleet.tenant)
        assert whole.balanced is True
        assert {one.agent for one in whole.accounts} == {fleet.agent, OTHER}

        async def kept() -> bool:
            counters = await connection.fetch("SELECT counters FROM ledger_agents")
            found = [orjson.loads(row["counters"]) for row in counters]
            return sum(one.get("settled", 0) for one in found) == 6

        await until(kept)
    assert await connection.fetchval("SELECT held_until < now() FROM ledgers")


# By command


async def audit(*arguments: str, **environment: str) -> tuple[int, str, str]:
    """Exit code, output and errors of the command."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "iotistica", "audit", *arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **environment},
    )
    output, errors = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode(), errors.decode()


@pytest.fixture
def urls(database: str, redis_url: str) -> dict[str, str]:
    return {"DATABASE_URL": database, "REDIS_URL": redis_url}


async def test_a_clean_platform_exits_with_0(urls: dict[str, str], fleet: Fleet) -> None:
    await send(fleet, fleet.payload(), fleet.payload())
    code, output, errors = await audit(**urls)
    assert (code, errors) == (0, "")
    assert output.splitlines() == [
        f"tenant {fleet.tenant}: balances; 1 agents, 0 with problems",
        "  messages  2 accepted = 0 settled + 0 spooled + 2 in flight",
        "  readings  0 = 0 stored + 0 duplicate + 0 collided + 0 redelivered + 0 dropped "
        "+ 0 rejected",
        "  agent                                 accepted  settled  waiting  readings  stored  "
        "others  rejected",
        f"  {fleet.agent}         2        0        2         0       0       0         0",
    ]


async def test_what_does_not_add_up_exits_with_1(
    urls: dict[str, str], fleet: Fleet, raw: redis.asyncio.Redis
) -> None:
    await send(fleet, fleet.payload(), fleet.payload())
    await raw.delete(keys.ingestion_stream(fleet.tenant))
    code, output, _ = await audit("--problems", **urls)
    assert code == 1
    assert "does not balance; 1 agents, 1 with problems" in output
    assert output.endswith("    2 messages came that nothing accounts for\n")
    code, output, _ = await audit("--json", **urls)
    assert code == 1
    found = orjson.loads(output)
    assert found["clean"] is False
    [tenant] = found["tenants"]
    assert (tenant["tenant"], tenant["balanced"]) == (fleet.tenant, False)
    [agent] = tenant["agents"]
    assert (agent["agent"], agent["messages"]["difference"]) == (fleet.agent, 2)


async def test_gaps_exit_with_1(
    urls: dict[str, str], fleet: Fleet, raw: redis.asyncio.Redis
) -> None:
    sequences = f"0 5 0 0 0 0 {await fleet.streams.ledger.now_ms() - 2 * AGE_MS};;1-3,5-6"
    await raw.hset(keys.ledger_sequences(fleet.tenant), fleet.agent, sequences)
    code, output, _ = await audit(**urls)
    assert code == 1
    assert "missing   1 messages by their numbers" in output
    assert output.endswith("    1 message numbers never seen: 4\n")


async def test_one_tenant_or_agent_can_be_asked_for(
    urls: dict[str, str], fleet: Fleet, pool: Pool
) -> None:
    await AgentStore(pool).ensure_tenant("another.one")
    await send(fleet, fleet.payload())
    _, output, _ = await audit("--json", **urls)
    assert {one["tenant"] for one in orjson.loads(output)["tenants"]} == {
        *(fleet.tenant, "another.one")
    }
    for arguments in (
        ("--agent", fleet.agent.upper()),
        ("--tenant", fleet.tenant, "--agent", fleet.agent),
    ):
        code, output, _ = await audit("--json", *arguments, **urls)
        assert code == 0
        [tenant] = orjson.loads(output)["tenants"]
        assert tenant["tenant"] == fleet.tenant
        assert [agent["agent"] for agent in tenant["agents"]] == [fleet.agent]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tenant", "none.such"), "--tenant is 'none.such'; there is no such tenant"),
        (("--agent", "x"), "--agent is 'x'; it must be a UUID"),
        (("--agent", OTHER), f"--agent is {OTHER}; there is no such agent"),
        (("--tenant", "T.1", "--agent", OTHER), f"--agent is {OTHER}; tenant T.1 has no such"),
    ],
)
async def test_a_wrong_argument_exits_with_2(
    urls: dict[str, str], pool: Pool, arguments: tuple[str, ...], message: str
) -> None:
    await AgentStore(pool).ensure_tenant("T.1")
    code, output, errors = await audit(*arguments, **urls)
    assert (code, output) == (2, "")
    assert errors.startswith(f"iotistica: {message}")


async def test_servers_that_are_away_exit_with_1_and_a_sentence() -> None:
    away = {"DATABASE_URL": "postgresql://127.0.0.1:1/x", "REDIS_URL": "redis://127.0.0.1:1"}
    code, _, errors = await audit("--json", **away)
    assert code == 1
    assert "PostgreSQL could not list the tenants" in orjson.loads(errors)["error"]


async def test_the_platform_of_a_data_directory_is_found(
    urls: dict[str, str], fleet: Fleet, tmp_path: Path
) -> None:
    state = {
        "tenant": fleet.tenant,
        "database": urls["DATABASE_URL"],
        "redis": urls["REDIS_URL"],
        "mqtt": "mqtt://127.0.0.1:1",
    }
    (tmp_path / "state.json").write_bytes(orjson.dumps(state))
    await send(fleet, fleet.payload())
    code, output, errors = await audit("--data-dir", str(tmp_path))
    assert (code, errors) == (0, "")
    assert "1 accepted = 0 settled + 0 spooled + 1 in flight" in output


async def test_what_lies_in_the_spools_of_this_machine_is_told(
    urls: dict[str, str], fleet: Fleet, spool_dir: Path
) -> None:
    spool = Spool(spool_dir / "api", max_bytes=1 << 20)
    entries = [(b"", [b"1-0 t", b"p"])]
    batch = Batch(name="b", tenant=fleet.tenant, kind=Kind.LIVE, entries=entries, messages=7)
    await spool.put(batch)
    code, output, _ = await audit(**urls)
    assert code == 0
    assert "  on disk   api 7 messages in the spools of this machine" in output
    spool.close()


async def test_rows_are_counted_on_request(
    urls: dict[str, str], fleet: Fleet, streams: Streams
) -> None:
    counts = {field(fleet.agent, name): 3 for name in ("readings", "stored")}
    await streams.settle(fleet.tenant, Settlement(counts=counts))
    assert (await audit(**urls))[0] == 0
    code, output, _ = await audit("--count", **urls)
    assert code == 1
    assert output.endswith("    3 rows missing in the table\n")


async def test_losses_are_acknowledged_on_request(
    urls: dict[str, str],
    fleet: Fleet,
    streams: Streams,
    store: LedgerStore,
    raw: redis.asyncio.Redis,
) -> None:
    keeper = Bookkeeper(streams.ledger, store, period_s=0.0, most_share=float("inf"))
    await send(fleet, fleet.payload())
    await keeper.run_once([fleet.tenant])
    await raw.flushall()
    await keeper.run_once([fleet.tenant])
    assert (await audit(**urls))[0] == 1
    code, _, errors = await audit("--acknowledge", "known", **urls)
    assert (code, "--acknowledge needs --tenant" in errors) == (2, True)
    code, output, _ = await audit("--tenant", fleet.tenant, "--acknowledge", "a flush", **urls)
    assert code == 0
    assert " (command): a flush\n" in output
    assert (await audit(**urls))[0] == 0


async def test_a_watch_goes_on_until_it_is_interrupted(urls: dict[str, str], fleet: Fleet) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "iotistica", "audit", "--watch", "--json"),
        stdout=asyncio.subprocess.PIPE,
        env={**os.environ, **urls},
    )
    assert process.stdout is not None
    accepted = []
    for _ in range(2):
        line = orjson.loads(await process.stdout.readline())
        accepted.append(line["tenants"][0]["total"]["messages"]["accepted"])
        await send(fleet, fleet.payload())
    assert accepted == [0, 1]
    process.send_signal(signal.SIGINT)
    assert await asyncio.wait_for(process.wait(), 10) == 0


# By REST


@pytest.fixture
def table(auditor: Auditor, store: LedgerStore, pool: Pool) -> Table:
    return Table(routes_of(Audit(auditor, store, AgentStore(pool))), Tokens(KEY))


async def get(
    table: Table, path: str, tenant: str | None, query: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    headers = {}
    if tenant is not None:
        headers["authorization"] = f"Bearer {issue_token(KEY, tenant=tenant, role='viewer')}"
    request = Request(
        method="GET",
        path=path,
        headers=headers,
        query={name: [value] for name, value in (query or {}).items()},
    )
    reply = await table.answer(request)
    return reply.status, orjson.loads(reply.body)


async def test_rest_needs_a_token(table: Table) -> None:
    for path in ("", "/losses", f"/{OTHER}"):
        assert (await get(table, f"/api/v1/audit{path}", None))[0] == 401


async def test_rest_tells_the_tenant_of_the_token(table: Table, fleet: Fleet) -> None:
    await send(fleet, fleet.payload(), fleet.payload())
    await send(fleet, fleet.payload(), agent=OTHER)
    status, body = await get(table, "/api/v1/audit", fleet.tenant)
    assert status == 200
    assert (body["tenant"], body["balanced"], body["clean"]) == (fleet.tenant, True, True)
    assert body["total"]["messages"] == {
        "accepted": 3,
        "settled": 0,
        "spooled": 0,
        "in_flight": 3,
        "lost_at_most": 0,
        "carried": 0,
        "refused": {},
        "missing": 0,
        "difference": 0,
    }
    assert {agent["agent"] for agent in body["agents"]} == {fleet.agent, OTHER}
    assert body["streams"] == {"entries": 2, "counted": True, "foreign_entries": 0}
    status, body = await get(table, "/api/v1/audit", "another.one")
    assert (status, body["agents"], body["total"]["messages"]["accepted"]) == (200, [], 0)


async def test_rest_lists_agents_with_problems_first_and_no_more_than_asked_for(
    table: Table, fleet: Fleet, streams: Streams
) -> None:
    agents = sorted(str(uuid.uuid4()) for _ in range(4))
    await streams.settle(fleet.tenant, Settlement(counts={field(agents[3], "accepted"): 1}))
    for agent in agents[:3]:
        await send(fleet, fleet.payload(), agent=agent)
    _, body = await get(table, "/api/v1/audit", fleet.tenant, {"limit": "2"})
    assert [agent["agent"] for agent in body["agents"]] == [agents[3], agents[0]]
    assert (body["agents_total"], body["agents_with_problems"]) == (4, 1)
    _, body = await get(table, "/api/v1/audit", fleet.tenant, {"problems": "true"})
    assert [agent["problems"] for agent in body["agents"]] == [
        ["1 messages came that nothing accounts for"]
    ]


async def test_rest_tells_one_agent(table: Table, fleet: Fleet) -> None:
    path = f"/api/v1/audit/{fleet.agent}"
    status, body = await get(table, path, fleet.tenant)
    assert (status, body["agent"], body["messages"]["accepted"]) == (200, fleet.agent, 0)
    await send(fleet, fleet.payload())
    status, body = await get(table, path, fleet.tenant)
    assert (status, body["agent"], body["messages"]["accepted"]) == (200, fleet.agent, 1)
    assert (body["balanced"], body["problems"], body["numbers"]) == (True, [], None)


async def test_rest_knows_no_agent_of_another_tenant(table: Table, fleet: Fleet) -> None:
    await send(fleet, fleet.payload())
    status, body = await get(table, f"/api/v1/audit/{fleet.agent}", "another.one")
    assert (status, body["message"]) == (404, f"agent {fleet.agent} does not exist")


async def test_rest_tells_the_losses(
    table: Table, fleet: Fleet, streams: Streams, store: LedgerStore, raw: redis.asyncio.Redis
) -> None:
    keeper = Bookkeeper(streams.ledger, store, period_s=0.0, most_share=float("inf"))
    await send(fleet, fleet.payload(), fleet.payload())
    await keeper.run_once([fleet.tenant])
    await raw.flushall()
    await keeper.run_once([fleet.tenant])
    status, body = await get(table, "/api/v1/audit/losses", fleet.tenant)
    assert (status, body["count"]) == (200, 1)
    [loss] = body["losses"]
    assert (loss["kind"], loss["accepted"], loss["in_flight_at_most"]) == ("emptied", 2, 2)
    assert (await get(table, "/api/v1/audit/losses", "another.one"))[1]["losses"] == []
    _, whole = await get(table, "/api/v1/audit", fleet.tenant)
    assert (whole["clean"], whole["losses"]) == (False, [loss])


async def test_a_loss_that_is_known_is_no_news(
    table: Table, fleet: Fleet, streams: Streams, store: LedgerStore, raw: redis.asyncio.Redis
) -> None:
    keeper = Bookkeeper(streams.ledger, store, period_s=0.0, most_share=float("inf"))

    async def lose() -> int:
        await send(fleet, fleet.payload(), fleet.payload())
        await keeper.run_once([fleet.tenant])
        await raw.flushall()
        await keeper.run_once([fleet.tenant])
        return (await get(table, "/api/v1/audit/losses", fleet.tenant))[1]["losses"][0]["id"]

    async def acknowledge(tenant: str, upto: int, role: str = "admin") -> tuple[int, dict]:
        token = issue_token(KEY, tenant=tenant, role=role)
        request = Request(
            method="POST",
            path="/api/v1/audit/losses/acknowledge",
            headers={"authorization": f"Bearer {token}"},
            body=orjson.dumps({"upto": upto, "reason": "flushed by mistake"}),
        )
        reply = await table.answer(request)
        return reply.status, orjson.loads(reply.body)

    first = await lose()
    _, whole = await get(table, "/api/v1/audit", fleet.tenant)
    [lost] = [one["problems"] for one in whole["agents"]]
    assert (whole["clean"], lost) == (
        False,
        ["2 messages were in flight when Redis lost its data"],
    )
    assert (await acknowledge(fleet.tenant, first, role="manager"))[0] == 403
    assert await acknowledge("another.one", first) == (200, {"acknowledged": 0})
    assert await acknowledge(fleet.tenant, first) == (200, {"acknowledged": 1})
    assert await acknowledge(fleet.tenant, first) == (200, {"acknowledged": 0})
    _, whole = await get(table, "/api/v1/audit", fleet.tenant)
    assert (whole["clean"], [one["problems"] for one in whole["agents"]]) == (True, [[]])
    [loss] = whole["losses"]
    assert (loss["acknowledgment"], loss["in_flight_at_most"]) == ("flushed by mistake", 2)
    assert loss["acknowledged_by"] == "development"
    assert await lose() > first
    assert (await get(table, f"/api/v1/audit/{fleet.agent}", fleet.tenant))[1]["problems"] == [
        "4 messages were in flight when Redis lost its data"
    ]


@pytest.mark.parametrize(
    ("path", "query", "message"),
    [
        ("", {"limit": "-1"}, "parameter limit is '-1': expected int >= 0"),
        ("", {"limit": "1001"}, "parameter limit is '1001': expected int <= 1000"),
        ("", {"problems": "maybe"}, "parameter problems is 'maybe': expected bool, got str"),
        ("/x", {}, "parameter uuid is 'x': Invalid UUID"),
    ],
)
async def test_rest_names_a_wrong_parameter(
    table: Table, path: str, query: dict[str, str], message: str
) -> None:
    status, body = await get(table, f"/api/v1/audit{path}", "T", query)
    assert status == 400
    assert body["message"].startswith(message)


async def test_callers_at_one_moment_share_an_audit(
    table: Table, fleet: Fleet, auditor: Auditor, monkeypatch: pytest.MonkeyPatch
) -> None:
    report, calls = auditor.report, []

    async def counted(tenant: str, **more: Any) -> Any:
        calls.append(tenant)
        return await report(tenant, **more)

    monkeypatch.setattr(auditor, "report", counted)
    replies = await asyncio.gather(
        *(get(table, "/api/v1/audit", fleet.tenant) for _ in range(20)),
        get(table, "/api/v1/audit", "another.one"),
    )
    assert [status for status, _ in replies] == [200] * 21
    assert sorted(calls) == sorted([fleet.tenant, "another.one"])
