"""Container logs: by MQTT and by HTTP into one stream, from there into the table."""

from __future__ import annotations

import base64
import gzip
import secrets
import time
import uuid
import zlib
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import asyncpg
import brotli
import orjson
import pytest
from tests.control import Place, until
from tests.rest import Rest

from iotistica import keys
from iotistica.api.families.log_lines import entry, inflate, lines_of
from iotistica.errors import BadRequest, StoreUnavailable, TooLarge
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.logs import LogStore
from iotistica.store.pool import Pool, open_pool
from iotistica.store.pruning import prune
from iotistica.streams import Streams

NOW = datetime.now(UTC).replace(microsecond=0)


async def stored(place: Place) -> list[asyncpg.Record]:
    return await place.database.fetch("SELECT * FROM agent_logs ORDER BY time, service_name")


async def lines(place: Place, count: int) -> list[asyncpg.Record]:
    async def all_there() -> Any:
        found = await stored(place)
        return found if len(found) >= count else None

    return await until(all_there)


async def test_lines_by_mqtt_are_stored_and_published(place: Place) -> None:
    """The reference has neither a subscription nor a handler for `logs`."""
    listening = place.redis.pubsub()
    await listening.subscribe(keys.logs_channel(place.tenant, place.agent))
    await listening.get_message(timeout=5)
    at = NOW - timedelta(minutes=5)
    full = {
        "message": "Ölstand \x00 niedrig",
        "timestamp": at.isoformat(),
        "level": "WARN",
        "stream": "stderr",
        "containerName": "plc",
        "line": 7,
    }
    async with place.control():
        await place.tell("logs/gateway", full, "just text")
        found = await lines(place, 2)
        live = orjson.loads((await until(lambda: listening.get_message(timeout=1)))["data"])
    await listening.aclose()
    by_service = {row["service_name"]: row for row in found}
    assert set(by_service) == {"plc", "gateway"}
    row = by_service["plc"]
    assert str(row["agent_uuid"]) == place.agent
    assert (row["time"], row["level"], row["is_stderr"]) == (at, "warn", True)
    assert row["message"] == "Ölstand  niedrig"
    assert orjson.loads(row["meta"]) == {"line": 7}
    assert by_service["gateway"]["message"] == "just text"
    assert by_service["gateway"]["level"] == "info"
    assert live["logs"][0]["message"] in ("Ölstand  niedrig", "just text")
    assert await place.redis.xlen(keys.log_stream(place.tenant)) == 0


async def test_what_is_no_line_is_a_dead_letter(place: Place) -> None:
    async with place.control():
        await place.tell("logs/gateway", {"text": "x"}, 5)
        letters = await until(lambda: two(place))
    assert {letter[b"reason"] for letter in letters} == {b"not_a_line"}


async def two(place: Place) -> Any:
    found = await place.letters()
    return found if len(found) == 2 else None


NDJSON = b"\n".join(
    orjson.dumps(
        {
            "serviceName": f"service-{n % 2}",
            "timestamp": (NOW - timedelta(seconds=n)).isoformat(),
            "level": "error" if n % 3 == 0 else "info",
            "message": f"line {n}",
            "isStderr": n == 1,
            "isSystem": n == 2,
            "context": {"a": 1, "b": 1},
            "meta": {"b": 2},
        }
    )
    for n in range(6)
)


@pytest.mark.parametrize(
    ("encoding", "body"),
    [
        (None, NDJSON),
        ("identity", NDJSON),
        ("gzip", gzip.compress(NDJSON)),
        ("deflate", zlib.compress(NDJSON)),
        ("br", brotli.compress(NDJSON)),
    ],
)
async def test_a_batch_by_http_is_taken_once(
    place: Place, device_api: Rest, encoding: str | None, body: bytes
) -> None:
    headers = {"content-type": "application/x-ndjson", "x-batch-id": "b-1"}
    if encoding is not None:
        headers["content-encoding"] = encoding
    path = f"/api/v1/device/{place.agent}/logs"
    first = await device_api.ask("POST", path, body, key=place.agent, headers=headers)
    assert first.status == 202
    assert first.body == {"batchId": "b-1", "accepted": True, "queued": True}
    again = await device_api.ask("POST", path, body, key=place.agent, headers=headers)
    assert again.status == 200
    assert again.body == {"batchId": "b-1", "accepted": True, "duplicate": True}
    async with place.control():
        found = await lines(place, 6)
    assert sorted(row["message"] for row in found) == [f"line {n}" for n in range(6)]
    row = next(one for one in found if one["message"] == "line 1")
    assert (row["is_stderr"], row["is_system"]) == (True, False)
    assert orjson.loads(row["meta"]) == {"a": 1, "b": 2}


async def test_the_entry_has_the_fields_of_the_reference(place: Place, device_api: Rest) -> None:
    headers = {"content-type": "application/json", "x-batch-id": "b-2"}
    path = f"/api/v1/device/{place.agent}/logs"
    body = b'[{"message":"m"}]'
    assert (
        await device_api.ask("POST", path, body, key=place.agent, headers=headers)
    ).status == 202
    ((_, fields),) = await place.redis.execute_command(
        "XRANGE", keys.log_stream(place.tenant), "-", "+"
    )
    named = dict(zip(fields[::2], fields[1::2], strict=True))
    assert named.pop(b"receivedMs").isdigit()
    assert named == {
        b"compressed": b"1",
        b"deviceUuid": place.agent.encode(),
        b"batchId": b"b-2",
        b"encoding": b"identity",
        b"contentType": b"application/json",
        b"payload_b64": base64.b64encode(body),
        b"payloadSize": b"17",
        b"source": b"http",
    }
    ttl = await place.redis.ttl(keys.log_batch(place.tenant, place.agent, "b-2"))
    assert 86_000 < ttl <= 86_400


async def test_bad_batches_are_told_so(place: Place, device_api: Rest) -> None:
    path = f"/api/v1/device/{place.agent}/logs"
    zipped = {"content-encoding": "zip"}
    assert (await device_api.ask("POST", path, b"x", key=place.agent, headers=zipped)).status == 400
    assert (await device_api.ask("POST", path, b"", key=place.agent)).status == 400
    large = b" " * (10 * 1024 * 1024 + 1)
    assert (await device_api.ask("POST", path, large, key=place.agent)).status == 413
    assert (await device_api.ask("POST", path, b"[]", key=str(uuid4()))).status == 403
    assert (await device_api.ask("POST", path, b"[]", role=None)).status == 401
    assert (await device_api.ask("POST", path, b"[]")).status == 403
    assert await place.redis.xlen(keys.log_stream(place.tenant)) == 0


async def test_a_batch_that_cannot_be_read_becomes_a_dead_letter(
    place: Place, device_api: Rest
) -> None:
    """The reference has no dead letters for logs."""
    path = f"/api/v1/device/{place.agent}/logs"
    assert (await device_api.ask("POST", path, b"no json", key=place.agent)).status == 202
    assert (await device_api.ask("POST", path, b'["fine"]', key=place.agent)).status == 202
    async with place.control():
        (letter,) = await until(place.letters)
        (row,) = await lines(place, 1)
    assert (letter[b"stage"], letter[b"reason"]) == (b"logs", b"bad_log")
    assert letter[b"data"] == base64.b64encode(b"no json")
    assert letter[b"agent"] == place.agent.encode()
    assert letter[b"error"].startswith(b"the body is not JSON")
    assert row["message"] == "fine"


async def test_lines_of_an_agent_of_nobody_become_dead_letters(place: Place) -> None:
    streams = Streams.of(place.settings)
    stranger = str(uuid4())
    fields = entry(agent=stranger, batch="", body=b'["x"]', received_ms=time.time_ns() // 10**6)
    await streams.logs.add(place.tenant, [fields])
    async with place.control():
        (letter,) = await until(place.letters)
    await streams.close()
    assert b"is not one of tenant" in letter[b"error"]
    assert await stored(place) == []


async def test_entries_that_a_writer_left_are_stored_once(place: Place, device_api: Rest) -> None:
    """Killed between commit and acknowledgment: the entry comes again and adds nothing."""
    path = f"/api/v1/device/{place.agent}/logs"
    await device_api.ask("POST", path, b'["a", "a", "b"]', key=place.agent)
    streams = Streams.of(place.settings)
    name = f"{place.settings.mqtt_client_id}-control-0"
    ((entry_id, fields),) = await streams.logs.read(place.tenant, name, count=10)
    pool = await open_pool(place.settings, application_name="test")
    entry_ms = int(entry_id.partition(b"-")[0])
    await LogStore(pool).add(lines_of(fields, entry_ms, oldest_ms=0))
    await pool.close()
    assert len(await stored(place)) == 3
    async with place.control():

        async def settled() -> bool:
            return await place.redis.xlen(keys.log_stream(place.tenant)) == 0

        await until(settled)
    await streams.close()
    assert sorted(row["message"] for row in await stored(place)) == ["a", "a", "b"]


async def test_logs_wait_while_postgresql_hangs(place: Place, device_api: Rest) -> None:
    path = f"/api/v1/device/{place.agent}/logs"
    async with place.control() as control:
        await device_api.ask("POST", path, b'["before"]', key=place.agent)
        await lines(place, 1)
        with place.stopped_postgres():
            # What needs Redis alone goes on.
            for n in range(20):
                answer = await device_api.ask("POST", path, b'["%d"]' % n, key=place.agent)
                assert answer.status == 202

            async def says_why() -> bool:
                return any("logs wait" in reason for reason in control.reasons())

            await until(says_why)
        found = await lines(place, 21)
    assert {row["message"] for row in found} == {"before", *(str(n) for n in range(20))}
    assert await place.letters() == []


async def test_a_full_stream_refuses_and_says_so(place: Place) -> None:
    """The reference trims the stream: lines that nobody has read are gone without a word."""
    settings = place.settings.model_copy(update={"log_stream_max_entries": 3})
    streams = Streams.of(settings)
    fields = entry(agent=place.agent, batch="", body=b'["x"]', received_ms=1)
    for _ in range(3):
        await streams.logs.add(place.tenant, [fields])
    with pytest.raises(StoreUnavailable, match="holds 3 entries, at most 3"):
        await streams.logs.add(place.tenant, [fields])
    assert await place.redis.xlen(keys.log_stream(place.tenant)) == 3
    await streams.close()


# The table, in both profiles


@pytest.fixture
async def agent(pool: Pool, tenant: str) -> str:
    found = str(uuid4())
    store = AgentStore(pool)
    await store.ensure_tenant(tenant)
    await store.add_agents(tenant, [(found, "agent")])
    fields = entry(
        agent=found,
        batch="",
        body=NDJSON,
        content_type="application/x-ndjson",
        received_ms=time.time_ns() // 1_000_000,
    )
    raw = [part if isinstance(part, bytes) else str(part).encode() for part in fields]
    await LogStore(pool).add(lines_of(raw, 0, oldest_ms=0))
    return found


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("", [0, 1, 2, 3, 4, 5]),
        ("limit=2", [0, 1]),
        ("limit=2&offset=2", [2, 3]),
        ("service=service-1", [1, 3, 5]),
        ("container=service-0", [0, 2, 4]),
        ("level=error", [0, 3]),
        ("level=ERROR,info&service=service-0", [0, 2, 4]),
        ("text=LINE%204", [4]),
        ("text=%25", []),
        ("from={two_s_ago:%Y-%m-%dT%H:%M:%SZ}", [0, 1, 2]),
        ("to={four_s_ago:%Y-%m-%dT%H:%M:%SZ}", [4, 5]),
    ],
)
async def test_lines_are_found(rest: Rest, agent: str, query: str, expected: list[int]) -> None:
    query = query.format(
        two_s_ago=NOW - timedelta(seconds=2), four_s_ago=NOW - timedelta(seconds=4)
    )
    answer = await rest.ask("GET", f"/api/v1/agents/{agent}/logs?{query}")
    assert answer.status == 200
    assert [line["message"] for line in answer.body["logs"]] == [f"line {n}" for n in expected]
    assert answer.body["count"] == len(expected)


async def test_pages_follow_each_other_without_gaps(rest: Rest, agent: str) -> None:
    found, cursor = [], ""
    for _ in range(10):
        page = (await rest.ask("GET", f"/api/v1/agents/{agent}/logs?limit=2{cursor}")).body
        found += [line["message"] for line in page["logs"]]
        if page["cursor"] is None:
            break
        cursor = f"&cursor={page['cursor']}"
    assert found == [f"line {n}" for n in range(6)]


async def test_logs_of_another_tenant_do_not_exist(rest: Rest, agent: str) -> None:
    for path in ("logs", "logs/services"):
        answer = await rest.ask("GET", f"/api/v1/agents/{agent}/{path}", tenant="another")
        nobody = await rest.ask("GET", f"/api/v1/agents/{uuid4()}/{path}")
        assert answer.status == nobody.status == 404
    services = (await rest.ask("GET", f"/api/v1/agents/{agent}/logs/services")).body
    assert services == {"count": 2, "services": ["service-0", "service-1"]}


@pytest.mark.parametrize(
    "query", ["limit=0", "cursor=xyz", "from=tomorrow", "from=2026-02-01&to=2026-01-01", "pages=1"]
)
async def test_a_wrong_query_names_its_parameter(rest: Rest, agent: str, query: str) -> None:
    answer = await rest.ask("GET", f"/api/v1/agents/{agent}/logs?{query}")
    assert answer.status == 400
    assert query.partition("=")[0] in answer.body["message"]


def test_a_line_without_a_time_has_that_of_its_message_id() -> None:
    agent, made_ms = str(uuid.uuid4()), 1_795_453_097_011
    cases = (
        ({"msgId": f"{agent}-{made_ms}-x7"}, made_ms),
        ({"msgId": f"{agent}-{made_ms}-x7", "timestamp": made_ms + 5}, made_ms + 5),
        ({"msgId": "7"}, made_ms + 9000),
        ({"msgId": f"{agent}-100000000000-x7"}, made_ms + 9000),
        ({}, made_ms + 9000),
    )
    for fields, expected in cases:
        body = orjson.dumps({"message": "started", **fields})
        raw = entry(agent=agent, batch="", body=body, received_ms=made_ms + 9000)
        given = [one if isinstance(one, bytes) else str(one).encode() for one in raw]
        [line] = lines_of(given, 0, oldest_ms=made_ms - 1000)
        assert round(line.time.timestamp() * 1000) == expected
        assert "timestamp" not in line.meta


async def test_old_days_are_removed_whole(pool: Pool, agent: str, connection: Any) -> None:
    old = "SELECT agent_logs_make_days(ARRAY[(current_date - date '1970-01-01') - 40])"
    await connection.fetchval(old)
    assert (await prune(pool, Settings()))["agent_logs"] == 1
    partitions = await connection.fetch(
        "SELECT inhrelid::regclass::text AS name FROM pg_inherits "
        "WHERE inhparent = 'agent_logs'::regclass"
    )
    days = {row["name"] for row in partitions}
    assert f"agent_logs_{(NOW - timedelta(days=40)).strftime('%Y%m%d')}" not in days
    assert f"agent_logs_{NOW.strftime('%Y%m%d')}" in days
    assert await connection.fetchval("SELECT count(*) FROM agent_logs") == 6


async def test_dropped_summaries_are_kept_once(place: Place, device_api: Rest) -> None:
    path = f"/api/v1/device/{place.agent}/logs/dropped-summaries"
    body = {"summaries": [{"service": "a", "count": 7}, {"x": "\0"}], "reportedAt": "2026-01-31"}
    for _ in range(2):
        answer = await device_api.ask("POST", path, body, key=place.agent)
        assert answer.status == 200
        assert (answer.body["status"], answer.body["received"]) == ("ok", 2)
    rows = await place.database.fetch("SELECT * FROM agent_log_drops ORDER BY id")
    assert [orjson.loads(row["summary"]) for row in rows] == [
        {"service": "a", "count": 7},
        {"x": ""},
    ]
    assert rows[0]["reported_at"] == datetime(2026, 1, 31, tzinfo=UTC)


# Pure


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_a_bomb_costs_its_limit(encoding: str) -> None:
    body = b"0" * 10_000_000
    packed = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress}[encoding]
    with pytest.raises(TooLarge, match="more than 1000 bytes"):
        inflate(packed(body), encoding, 1000)
    assert inflate(packed(b"0" * 1000), encoding, 1000) == b"0" * 1000


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br"])
def test_a_body_that_was_cut_off_is_refused(encoding: str) -> None:
    text = secrets.token_bytes(5000)
    packed = {"gzip": gzip.compress, "deflate": zlib.compress, "br": brotli.compress}[encoding]
    with pytest.raises(BadRequest):
        inflate(packed(text)[:-10], encoding)


def test_a_line_of_a_wrong_clock_has_the_time_of_its_reception() -> None:
    received_ms = 1_790_000_000_000
    body = [{"message": "m", "timestamp": stamp} for stamp in ("1970-01-01", 1.9e12, "?", None)]
    fields = entry(agent="A", batch="", body=orjson.dumps(body), received_ms=received_ms)
    raw = [part if isinstance(part, bytes) else str(part).encode() for part in fields]
    found = lines_of(raw, 0, oldest_ms=received_ms - 86_400_000)
    assert {line.time.timestamp() * 1000 for line in found} == {received_ms}
    assert [line.meta for line in found] == [
        {"timestamp": "1970-01-01"},
        {"timestamp": 1.9e12},
        {},
        {},
    ]
    assert len({line.digest for line in found}) == 4
    assert found[0].agent == "a"
