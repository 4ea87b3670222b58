"""`/api/v1/dead-letters` by its handlers, on a real PostgreSQL and Redis."""

from __future__ import annotations

import base64
import secrets
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import orjson
import pytest
from tests.letters import START_MS, Letters

from iotistica import keys
from iotistica._native import format_topic
from iotistica.api.auth import Tokens, issue_token
from iotistica.api.http import Request
from iotistica.api.principal import ROLES
from iotistica.api.route import routes_of
from iotistica.api.routes.dead_letters import DeadLetters
from iotistica.api.table import Table
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.migrate import migrate
from iotistica.store.pool import open_pool
from iotistica.streams import DeadLetter, Streams

BASE = "/api/v1/dead-letters"
KEY = secrets.token_bytes(32)


@dataclass
class Office:
    """The API of one tenant's letters."""

    table: Table
    tenant: str
    agent: str
    streams: Streams
    agents: AgentStore
    connection: asyncpg.Connection

    @property
    def letters(self) -> Letters:
        return Letters(self.tenant, self.agent, self.streams)

    def letter(self, number: int = 0, **changes: Any) -> DeadLetter:
        own = {"readings": 2, "error": "agent is not one of tenant"}
        return self.letters.letter(number, **{**own, **changes})

    async def park(self, *letters: DeadLetter, tenant: str | None = None) -> list[str]:
        return await self.letters.park(*letters, tenant=tenant)

    async def left(self) -> list[str]:
        return await self.letters.left()

    async def register(self) -> None:
        await self.agents.ensure_tenant(self.tenant)
        await self.agents.add_agents(self.tenant, [(self.agent, "test")])

    async def ask(
        self,
        method: str = "GET",
        path: str = "",
        *,
        role: str | None = "owner",
        tenant: str | None = None,
        body: Any = None,
        **query: str,
    ) -> tuple[int, Any]:
        headers = {}
        if role is not None:
            token = issue_token(KEY, tenant=tenant or self.tenant, role=role)
            headers["authorization"] = f"Bearer {token}"
        reply = await self.table.answer(
            Request(
                method=method,
                path=BASE + path,
                headers=headers,
                query={name: [quote(value, safe=",")] for name, value in query.items()},
                body=body if isinstance(body, bytes) else orjson.dumps(body),
            )
        )
        return reply.status, orjson.loads(reply.body)

    async def replay(self, **body: Any) -> Any:
        status, answer = await self.ask("POST", "/replay", role="operator", body=body)
        assert status == 200, answer
        return answer


@pytest.fixture
async def office(postgres_url: str, redis_url: str, tenant: str) -> AsyncIterator[Office]:
    await migrate(postgres_url)
    settings = Settings(database_url=postgres_url, redis_url=redis_url, dlq_max_entries=1000)
    pool = await open_pool(settings, application_name="test")
    streams = Streams(redis_url)
    connection = await asyncpg.connect(postgres_url)
    with ThreadPoolExecutor(1) as executor:
        handlers = DeadLetters(settings=settings, pool=pool, streams=streams, executor=executor)
        yield Office(
            table=Table(routes_of(handlers), Tokens(KEY)),
            tenant=tenant,
            agent=str(uuid.uuid4()),
            streams=streams,
            agents=AgentStore(pool),
            connection=connection,
        )
    await streams.close()
    await connection.close()
    pool.terminate()


async def test_a_list_has_every_field_by_value(office: Office) -> None:
    [letter_id] = await office.park(office.letter())
    assert await office.ask() == (
        200,
        {
            "count": 1,
            "cursor": None,
            "letters": [
                {
                    "id": letter_id,
                    "tenant": office.tenant,
                    "agent": office.agent,
                    "topic": format_topic(office.tenant, office.agent, "endpoints/modbus"),
                    "stage": "topic",
                    "reason": "unknown_agent",
                    "error": "agent is not one of tenant",
                    "readings": 2,
                    "attempts": 0,
                    "replays": 0,
                    "failed_at": "2026-11-20T12:00:00Z",
                    "received_ms": START_MS,
                    "original_id": f"{START_MS}-0",
                    "bytes": len(office.letter().data),
                }
            ],
        },
    )


async def test_a_list_goes_on_from_its_cursor_youngest_first(office: Office) -> None:
    ids = await office.park(*(office.letter(n) for n in range(5)))
    _, first = await office.ask(limit="3")
    _, rest = await office.ask(cursor=first["cursor"])
    found = [letter["id"] for letter in first["letters"] + rest["letters"]]
    assert found == ids[::-1]
    assert rest["cursor"] is None


async def test_a_list_chooses_by_every_filter(office: Office) -> None:
    ids = await office.park(
        *(office.letter(), office.letter(reason="json"), office.letter(stage="commit")),
        office.letter(agent="b"),
    )
    soon = (datetime.now(UTC) + timedelta(hours=1)).isoformat()
    past = (datetime.now(UTC) - timedelta(hours=1)).isoformat()
    for query, expected in (
        ({"reason": "json"}, ids[1:2]),
        ({"stage": "commit"}, ids[2:3]),
        ({"agent": "b"}, ids[3:]),
        ({"since": past, "until": soon}, ids),
        ({"since": soon}, []),
        ({"until": past}, []),
        ({"ids": f"{ids[0]},{ids[2]},1-1"}, [ids[0], ids[2]]),
        ({"ids": ids[0], "reason": "json"}, []),
    ):
        _, body = await office.ask(**query)
        assert [letter["id"] for letter in body["letters"]] == expected[::-1], query


async def test_a_summary_counts_and_tells_how_full_it_is(office: Office) -> None:
    await office.park(office.letter(), office.letter(), office.letter(reason="json"))
    _, body = await office.ask(path="/summary", reason="unknown_agent")
    assert body == {
        "letters": 2,
        "readings": 4,
        "reasons": {"unknown_agent": 2},
        "stages": {"topic": 2},
        "agents": {office.agent: 2},
        "complete": True,
        "total": 3,
        "bound": 1000,
    }


async def test_a_letter_is_shown_with_its_payload_and_its_rows(office: Office) -> None:
    [letter_id] = await office.park(office.letter(3))
    status, body = await office.ask(path=f"/{letter_id}")
    assert status == 200
    assert base64.b64decode(body["payload"]) == office.letter(3).data
    assert [row["value"] for row in body["explained"]["rows"]] == [1.5]
    assert body["original_id"] == f"{START_MS}-0"
    for other in ("1-1", "x"):
        status, body = await office.ask(path=f"/{other}")
        assert (status, body["message"]) == (404, f"dead letter {other} does not exist")


async def test_a_dry_run_tells_and_changes_nothing(office: Office) -> None:
    ids = await office.park(office.letter(), office.letter(data=b"{"))
    await office.register()
    body = await office.replay(all=True, dryRun=True)
    assert body == {
        "dryRun": True,
        "count": 2,
        "passed": 1,
        "still_bad": 1,
        "failed": 0,
        "inserted": 1,
        "duplicate": 0,
        "rejected": 0,
        "reasons": {"json": 1},
        "letters": [
            {
                "id": ids[0],
                "tenant": office.tenant,
                "agent": office.agent,
                "result": "passed",
                "inserted": 1,
                "duplicate": 0,
                "rejected": 0,
                "stage": None,
                "reason": None,
                "error": None,
            },
            {
                "id": ids[1],
                "tenant": office.tenant,
                "agent": office.agent,
                "result": "still_bad",
                "inserted": 0,
                "duplicate": 0,
                "rejected": 0,
                "stage": "decode",
                "reason": "json",
                "error": "payload is not JSON: EOF while parsing an object at line 1 column 1",
            },
        ],
        "cursor": None,
    }
    assert await office.left() == ids
    assert await office.connection.fetchval("SELECT count(*) FROM readings") == 0


async def test_replay_takes_filters_and_goes_on_from_its_cursor(office: Office) -> None:
    ids = await office.park(*(office.letter(n, reason=f"r{n % 2}") for n in range(10)))
    await office.register()
    first = await office.replay(filters={"reason": "r1"}, limit=3)
    assert [letter["id"] for letter in first["letters"]] == ids[1:7:2]
    rest = await office.replay(filters={"reason": "r1"}, cursor=first["cursor"])
    assert [letter["id"] for letter in rest["letters"]] == ids[7::2]
    assert rest["cursor"] is None
    assert await office.left() == ids[::2]
    assert (await office.replay(filters={"ids": [ids[0]]}))["passed"] == 1
    assert await office.connection.fetchval("SELECT count(*) FROM readings") == 6


async def test_replay_gives_an_event_to_its_family(office: Office) -> None:
    topic = format_topic(office.tenant, office.agent, "events/door").encode()
    event = office.letter(topic=topic, data=b'{"msgId": "m-1"}', stage="control")
    await office.park(event)
    await office.register()
    answer = await office.replay(filters={"stage": "control"})
    assert (answer["count"], answer["passed"], answer["still_bad"]) == (1, 1, 0)
    assert await office.left() == []
    assert await office.connection.fetchval("SELECT type FROM agent_events") == "door"


async def test_purge_removes_what_matches(office: Office) -> None:
    ids = await office.park(office.letter(), office.letter(reason="json"), office.letter())
    assert await office.ask("DELETE", reason="json") == (200, {"purged": 1, "cursor": None})
    assert await office.ask("DELETE", ids=ids[0]) == (200, {"purged": 1, "cursor": None})
    assert await office.left() == [ids[2]]
    assert (await office.ask("DELETE", all="true"))[1]["purged"] == 1
    assert await office.left() == []


# Who may do what

RIGHTS = {
    ("GET", ""): ("viewer", "data:read"),
    ("GET", "/summary"): ("viewer", "data:read"),
    ("GET", "/{id}"): ("viewer", "data:read"),
    ("POST", "/replay"): ("operator", "device:control"),
    ("DELETE", ""): ("admin", "data:delete"),
}


@pytest.mark.parametrize(("method", "path"), RIGHTS)
async def test_each_role_may_do_what_it_may(office: Office, method: str, path: str) -> None:
    lowest, permission = RIGHTS[method, path]
    ranks = list(ROLES)
    for role in (*ROLES, "root", ""):
        [letter_id] = await office.park(office.letter())
        before = await office.left()
        status, body = await office.ask(
            *(method, path.format(id=letter_id)),
            role=role,
            body={"filters": {"reason": "none"}},
            reason="none",
        )
        if role in ROLES and ranks.index(role) >= ranks.index(lowest):
            assert status == 200, role
        else:
            assert (status, body) == (
                403,
                {
                    "error": "Forbidden",
                    "message": f"role {role!r} lacks the permission {permission}",
                },
            )
        assert await office.left() == before
    assert (await office.ask(method, path.format(id="1-1"), role=None))[0] == 401


async def test_another_tenants_letters_do_not_exist(office: Office) -> None:
    [letter_id] = await office.park(office.letter())
    await office.register()
    other = secrets.token_hex(6)
    assert (await office.ask(tenant=other))[1]["letters"] == []
    assert (await office.ask(path=f"/{letter_id}", tenant=other))[0] == 404
    assert (await office.ask(path="/summary", tenant=other))[1]["total"] == 0
    for method, path, query in (
        ("DELETE", "", {"all": "true"}),
        ("DELETE", "", {"ids": letter_id}),
    ):
        assert (await office.ask(method, path, tenant=other, **query))[1]["purged"] == 0
    for body in ({"all": True}, {"filters": {"ids": [letter_id]}}):
        _, answer = await office.ask("POST", "/replay", tenant=other, body=body)
        assert answer["count"] == 0
    assert await office.left() == [letter_id]


async def test_a_tenant_named_like_the_strays_does_not_get_them(office: Office) -> None:
    await office.park(office.letter(), tenant=keys.STRAY)
    for method, path in (("GET", ""), ("GET", "/summary"), ("GET", "/1-1"), ("DELETE", "")):
        assert (await office.ask(method, path, tenant=keys.STRAY))[0] == 403
    assert (await office.ask("POST", "/replay", tenant=keys.STRAY, body={"all": True}))[0] == 403


# What is wrong is named


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({"limit": "0"}, "parameter limit is '0': expected int >= 1"),
        ({"limit": "1001"}, "parameter limit is '1001': expected int <= 1000"),
        ({"cursor": "x"}, "parameter cursor is 'x': expected str matching regex "),
        ({"color": "red"}, "parameter 'color' is not known; allowed: ids, reason, stage, agent"),
        ({"since": "soon"}, "parameter since is 'soon'; allowed is an ISO 8601 time"),
        ({"ids": "x"}, "parameter ids is 'x': expected str matching regex "),
        ({"ids": ",".join(["1-1"] * 1001)}, "parameter ids is "),
    ],
)
async def test_a_wrong_parameter_is_named(
    office: Office, query: dict[str, str], message: str
) -> None:
    status, body = await office.ask(**query)
    assert (status, body["error"]) == (400, "Bad request")
    assert body["message"].startswith(message)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b"{", "the body is not JSON: "),
        ([], "the body: expected object, got array"),
        ({}, "no letters are named; give a filter, or say all=true"),
        ({"dry_run": True}, "the body: Object contains unknown field dry_run"),
        ({"filters": []}, "field filters is []: expected object, got array"),
        ({"filters": {"color": "red"}}, 'field filters is {"color":"red"}: Object contains'),
        ({"filters": {"ids": "1-1"}}, 'field filters.ids is "1-1": expected array, got str'),
        ({"filters": {"ids": [1]}}, "field filters.ids[0] is 1: expected str, got int"),
        ({"filters": {"ids": ["x"]}}, 'field filters.ids[0] is "x": expected str matching regex'),
        ({"filters": {"reason": 1}}, "field filters.reason is 1: expected str | null, got int"),
        ({"filters": {"until": "x"}}, "parameter until is 'x'; allowed is an ISO 8601 time"),
        ({"all": 1}, "field all is 1: expected bool, got int"),
        ({"all": True, "dryRun": "no"}, 'field dryRun is "no": expected bool, got str'),
        ({"all": True, "limit": 0}, "field limit is 0: expected int >= 1"),
        ({"all": True, "limit": 10001}, "field limit is 10001: expected int <= 10000"),
        ({"all": True, "limit": 1.5}, "field limit is 1.5: expected int, got float"),
        ({"all": True, "limit": True}, "field limit is true: expected int, got bool"),
        ({"all": True, "cursor": "x"}, "cursor 'x' is not one that an earlier answer gave"),
        ({"all": True, "cursor": 1}, "field cursor is 1: expected str | null, got int"),
    ],
)
async def test_a_wrong_body_is_named(office: Office, body: Any, message: str) -> None:
    await office.park(office.letter())
    status, answer = await office.ask("POST", "/replay", body=body)
    assert (status, answer["error"]) == (400, "Bad request")
    assert answer["message"].startswith(message)
    assert len(await office.left()) == 1


@pytest.mark.parametrize(
    "query", [{}, {"all": "0"}, {"all": "yes"}, {"cursor": "x", "all": "true"}]
)
async def test_purge_of_everything_must_be_said(office: Office, query: dict[str, str]) -> None:
    await office.park(office.letter())
    assert (await office.ask("DELETE", **query))[0] == 400
    assert len(await office.left()) == 1


async def test_servers_that_are_away_are_503(office: Office) -> None:
    ids = await office.park(office.letter())
    await office.connection.execute(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
        "WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    await office.connection.execute("ALTER TABLE readings RENAME TO gone")
    await office.register()
    status, body = await office.ask("POST", "/replay", body={"all": True})
    assert (status, body["error"]) == (503, "Service unavailable")
    assert await office.left() == ids
