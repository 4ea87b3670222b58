"""The journal: what is recorded stands or falls with the change, and stays within its tenant."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from uuid import UUID

import asyncpg
import orjson
import pytest

from iotistica.store.agents import AgentStore
from iotistica.store.journal import Entry, Filter, Journal, Origin, record
from iotistica.store.pool import Pool

AGENT = UUID("7b0c7c4e-0b0e-4d4f-9a53-8d0d54a7a2f1")


@pytest.fixture
async def ada(pool: Pool, tenant: str) -> Origin:
    await AgentStore(pool).ensure_tenant(tenant)
    return Origin(
        tenant=tenant,
        kind="user",
        id="7",
        name="ada",
        address="192.0.2.7",
        user_agent="curl/8\0",
        request_id="abc",
    )


async def types(pool: Pool, tenant: str, **where: object) -> list[str]:
    rows = await Journal(pool).newest(tenant, Filter(**where), below=None, limit=10)  # type: ignore[arg-type]
    return [row["event_type"] for row in rows]


async def test_an_entry_is_read_as_it_was_recorded(pool: Pool, ada: Origin) -> None:
    before = {"name": "p\0ump", "odd": "\\u0000", "owner": AGENT, "roles": {"b", "a"}}
    await record(
        pool,
        ada,
        Entry(
            event_type="agent.renamed",
            subject=f"agent/{AGENT}",
            before=before,
            after={"at": datetime(2026, 1, 2, tzinfo=UTC)},
            agent=AGENT,
            severity="warning",
        ),
    )
    [row] = await Journal(pool).newest(ada.tenant, Filter(), below=None, limit=10)
    found = dict(row)
    assert datetime.now(UTC) - found.pop("created_at") < timedelta(minutes=1)
    assert found.pop("id") > 0
    assert orjson.loads(found.pop("before")) == {
        "name": "pump",
        "odd": "\\u0000",
        "owner": str(AGENT),
        "roles": ["a", "b"],
    }
    assert orjson.loads(found.pop("after")) == {"at": "2026-01-02T00:00:00Z"}
    assert found == {
        "event_type": "agent.renamed",
        "severity": "warning",
        "actor_type": "user",
        "actor_id": "7",
        "actor_name": "ada",
        "subject": f"agent/{AGENT}",
        "agent_uuid": AGENT,
        "ip_address": "192.0.2.7",
        "user_agent": "curl/8",
        "request_id": "abc",
    }


async def test_an_entry_falls_with_its_transaction(pool: Pool, ada: Origin) -> None:
    async with pool.acquire() as connection:
        transaction = connection.transaction()
        await transaction.start()
        await record(connection, ada, *(Entry(event_type=f"a.{n}", subject="a/1") for n in "bc"))
        await transaction.rollback()
        assert await types(pool, ada.tenant) == []
        await record(connection, ada, *(Entry(event_type=f"a.{n}", subject="a/1") for n in "bc"))
    assert await types(pool, ada.tenant) == ["a.c", "a.b"]


async def test_filters_and_pages(pool: Pool, ada: Origin) -> None:
    system = Origin(tenant=ada.tenant)
    await record(pool, ada, Entry(event_type="user.created", subject="user/1"))
    await record(pool, ada, Entry(event_type="user.deleted", subject="user/2"))
    await record(pool, system, Entry(event_type="user.created", subject="user/2"))
    every = await Journal(pool).newest(ada.tenant, Filter(), below=None, limit=10)
    rest = await Journal(pool).newest(ada.tenant, Filter(), below=every[0]["id"], limit=1)
    assert rest == every[1:2]
    assert await types(pool, ada.tenant, actor="7") == ["user.deleted", "user.created"]
    assert await types(pool, ada.tenant, subject="user/2", event_type="user.created") == [
        "user.created"
    ]
    newest = every[0]["created_at"]
    assert await types(pool, ada.tenant, since=newest) == ["user.created"]
    assert await types(pool, ada.tenant, until=newest) == ["user.deleted", "user.created"]


async def test_another_tenant_reads_nothing(pool: Pool, ada: Origin) -> None:
    await record(pool, ada, Entry(event_type="user.created", subject="user/1"))
    await AgentStore(pool).ensure_tenant("other-tenant")
    assert await types(pool, "other-tenant") == []


async def test_an_unknown_actor_is_refused(pool: Pool, ada: Origin) -> None:
    ghost = Origin(tenant=ada.tenant, kind="ghost")  # type: ignore[arg-type]
    with pytest.raises(asyncpg.CheckViolationError, match="audit_logs_actor_is_known"):
        await record(pool, ghost, Entry(event_type="a.b", subject="a/1"))
