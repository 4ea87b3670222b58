"""`/readings/export` on both storage profiles: every form reads back as what is in the table."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import math
import uuid
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import asyncpg
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyarrow import parquet
from tests.integration.test_rollups import refresh
from tests.rest import Rest

from iotistica.errors import Busy, TooSlow
from iotistica.store.exports import READING_COLUMNS, Chosen, ExportStore, Layout
from iotistica.store.pool import Pool

START = datetime(2026, 3, 1, tzinfo=UTC)
PRESS, DRILL, FOREIGN = (uuid.UUID(int=n) for n in (201, 202, 203))
DAYS = 3
ODD = '=cmd|"x", \\N\r\n\t✓ \x01\x02'
"""A metric name that every form has some trouble with."""
END = START + timedelta(days=DAYS)
WINDOW = f"start={START:%Y-%m-%dT%H:%M:%SZ}&end={END - timedelta(seconds=1):%Y-%m-%dT%H:%M:%SZ}"
_INSERT = """
INSERT INTO readings (time, agent_uuid, metric_name, value, quality, unit, protocol, extra)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8)
"""


@pytest.fixture
async def plant(rest: Rest, pool: Pool, connection: asyncpg.Connection) -> Rest:
    """Two agents with three days of a reading a minute, and another tenant's."""
    await connection.execute("INSERT INTO tenants VALUES ('other', 'other')")
    if await connection.fetchval(
        "SELECT to_regprocedure('readings_make_days(integer[])') IS NOT NULL"
    ):
        first = int(START.timestamp()) // 86_400
        await connection.execute("SELECT readings_make_days($1)", [first + n for n in range(DAYS)])
        await connection.execute(
            "INSERT INTO rollup_marks (hour, agent_uuid) SELECT h, a FROM generate_series("
            "$2::timestamptz, $3::timestamptz - interval '1 h', '1 h') AS h, unnest($1::uuid[]) a",
            *([PRESS, DRILL, FOREIGN], START, END),
        )
    for agent, tenant in ((PRESS, rest.tenant), (DRILL, rest.tenant), (FOREIGN, "other")):
        await connection.execute(
            "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, 'x')", agent, tenant
        )
        await connection.execute(
            """
            INSERT INTO readings
                (time, agent_uuid, metric_name, value, quality, unit, protocol, extra)
            SELECT $1::timestamptz + n * interval '1 min', $2, metric,
                   CASE WHEN n % 10 > 0 THEN n / 3.0 END, 'good',
                   CASE WHEN metric <> 'plain' THEN 'C' WHEN n % 2 = 0 THEN '' END, 'modbus',
                   '{"device_name": "d", "b": [null, 1.5]}'
            FROM generate_series(0, $4 * 1440 - 1) AS n, unnest($3::text[]) AS metric
            """,
            *(START, agent, ["plain", ODD], DAYS),
        )
        await connection.executemany(
            "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, protocol, time)"
            " VALUES ($1, 'd', $2, 'modbus', $3)",
            [(agent, metric, END - timedelta(minutes=1)) for metric in ("plain", ODD)],
        )
    await refresh(pool, connection, END + timedelta(days=1))
    return rest


async def export(rest: Rest, query: str, agent: uuid.UUID | None = None, **more: Any) -> Any:
    of = "" if agent is None else f"{agent}/"
    return await rest.ask("GET", f"/api/v1/readings/{of}export?{query}", **more)


def read(form: str, body: bytes) -> list[dict[str, Any]]:
    """Rows of a file, their times and numbers as such."""
    if form == "parquet":
        return _plain(parquet.read_table(io.BytesIO(body)))
    if form == "arrow":
        return _plain(pa.ipc.open_stream(body).read_all())
    if form == "ndjson":
        rows = [json.loads(line) for line in body.decode().split("\n") if line]
    else:
        assert form == "csv"
        rows = list(csv.DictReader(io.StringIO(body.decode(), newline="")))
        numbers = ("value", "anomaly_score", "anomaly_threshold")
        for row in rows:
            row |= {name: float(row[name]) if row[name] else None for name in numbers}
            row["extra"] = json.loads(row["extra"])
    return [{**row, "time": datetime.fromisoformat(row["time"])} for row in rows]


def _plain(table: pa.Table) -> list[dict[str, Any]]:
    return [{**row, "extra": json.loads(row["extra"])} for row in table.to_pylist()]


async def stored(connection: asyncpg.Connection, *agents: uuid.UUID) -> list[dict[str, Any]]:
    rows = await connection.fetch(
        "SELECT * FROM readings WHERE agent_uuid = ANY ($1)"
        " ORDER BY date_trunc('day', time, 'UTC'), agent_uuid, metric_name, time",
        agents,
    )
    return [
        {**row, "agent_uuid": str(row["agent_uuid"]), "extra": json.loads(row["extra"])}
        for row in rows
    ]


def _as_read_from_csv(row: dict[str, Any]) -> dict[str, Any]:
    """Without quotes there is nothing, with them an empty text; this reader takes both as such."""
    return {
        name: "" if value is None and name in ("quality", "unit") else value
        for name, value in row.items()
    }


@pytest.mark.parametrize("form", ["csv", "ndjson", "parquet", "arrow"])
async def test_every_form_reads_back_as_the_table(
    plant: Rest, connection: asyncpg.Connection, form: str
) -> None:
    answer = await export(plant, f"{WINDOW}&format={form}")
    assert answer.status == 200, answer.body
    expected = await stored(connection, PRESS, DRILL)
    assert len(expected) == 2 * 2 * DAYS * 1440
    found = read(form, answer.body)
    if form == "csv":
        expected = [_as_read_from_csv(row) for row in expected]
    assert list(found[0]) == list(READING_COLUMNS)
    assert found == expected


async def test_compressed_chunks_are_exported_as_the_others(
    plant: Rest, connection: asyncpg.Connection, postgres_url: str, database: str
) -> None:
    if database == postgres_url:
        pytest.skip("the plain profile compresses nothing")
    before = (await export(plant, f"{WINDOW}&format=ndjson")).body
    compress = "SELECT count(compress_chunk(chunk)) FROM show_chunks('readings') AS chunk"
    assert await connection.fetchval(compress) == DAYS
    assert (await export(plant, f"{WINDOW}&format=ndjson")).body == before


async def test_columns_have_types_that_fit(plant: Rest) -> None:
    body = (await export(plant, f"{WINDOW}&format=parquet&resolution=1h")).body
    schema = parquet.read_schema(io.BytesIO(body))
    text = pa.dictionary(pa.int32(), pa.string())
    assert schema.field("time").type == pa.timestamp("us", tz="UTC")
    assert schema.field("metric_name").type == text
    assert (schema.field("avg_value").type, schema.field("sample_count").type) == (
        pa.float64(),
        pa.int64(),
    )


async def test_null_and_empty_text_are_told_apart(plant: Rest) -> None:
    body = (await export(plant, f"{WINDOW}&metric=plain&columns=unit", PRESS)).body
    assert body.decode().split("\n")[:3] == ["unit", '""', ""]
    body = (await export(plant, f"{WINDOW}&metric=plain&columns=unit&format=arrow", PRESS)).body
    assert pa.ipc.open_stream(body).read_all()["unit"].to_pylist()[:2] == ["", None]


@pytest.mark.parametrize(
    ("resolution", "path"), [("1h", "hourly"), ("daily", "daily")], ids=["1h", "daily"]
)
async def test_buckets_are_those_of_the_queries(plant: Rest, resolution: str, path: str) -> None:
    metric = quote(ODD, safe="")
    answer = await export(
        plant, f"{WINDOW}&resolution={resolution}&format=ndjson&metric={metric}", PRESS
    )
    found = [json.loads(line) for line in answer.body.splitlines()]
    asked = await plant.ask("GET", f"/api/v1/readings/{PRESS}/{metric}/{path}?{WINDOW}")
    expected = asked.body["aggregates"][::-1]
    assert len(found) == len(expected) == (DAYS * 24 if resolution == "1h" else DAYS)
    for own, other in zip(found, expected, strict=True):
        assert datetime.fromisoformat(own["time"]) == datetime.fromisoformat(other["bucket"])
        for name in ("min_value", "max_value", "first_value", "last_value", "sample_count"):
            assert own[name] == other[name]
        assert math.isclose(own["avg_value"], other["avg_value"], rel_tol=1e-12)


async def test_minutes_are_exported_and_a_range_within_a_day(plant: Rest) -> None:
    window = "start=2026-03-02T10:00:30Z&end=2026-03-02T10:02:00Z"
    lines = (await export(plant, f"{window}&resolution=1m&metric=plain&columns=time", PRESS)).body
    assert [line[11:16] for line in lines.decode().splitlines()[1:]] == ["10:00", "10:01", "10:02"]
    # Both ends belong to it.
    lines = (await export(plant, f"{window}&metric=plain&columns=time", PRESS)).body
    assert [line[11:16] for line in lines.decode().splitlines()[1:]] == ["10:01", "10:02"]


async def test_no_rows_are_a_whole_file(rest: Rest) -> None:
    for form in ("csv", "ndjson", "parquet", "arrow"):
        answer = await export(rest, f"{WINDOW}&format={form}")
        assert answer.status == 200
        assert read(form, answer.body) == []
        if form == "csv":
            assert answer.body.decode() == f"{','.join(READING_COLUMNS)}\n"


async def test_the_accept_field_chooses(rest: Rest) -> None:
    for accept, kind in (
        ("*/*", "text/csv; charset=utf-8"),
        ("text/csv;q=0.1, application/vnd.apache.parquet", "application/vnd.apache.parquet"),
    ):
        answer = await export(rest, f"{WINDOW}&resolution=daily", headers={"accept": accept})
        assert (answer.status, answer.headers["content-type"]) == (200, kind)
        assert answer.headers["content-disposition"].startswith(
            'attachment; filename="readings-daily-20260301T000000Z-'
        )
    answer = await export(rest, WINDOW, headers={"accept": "image/png"})
    assert answer.status == 406
    assert "application/x-ndjson" in answer.body["message"]


WRONG = {
    "": ("start",),
    "start=yesterday": ("start", "7d-ago"),
    "start=1d-ago&end=2d-ago": ("start", "end"),
    "start=1d-ago&resolution=5m": ("resolution", "raw, 1m, 1h, daily"),
    "start=1d-ago&format=xlsx": ("format", "csv, ndjson, parquet, arrow"),
    "start=1d-ago&columns=time,avg_value": ("columns", "avg_value", "metric_name"),
    "start=1d-ago&columns=time,time": ("columns", "twice"),
    "start=1d-ago&agent=x": ("agent",),
    "start=1d-ago&limit=5": ("limit", "columns"),
}


async def test_what_is_wrong_is_named(rest: Rest) -> None:
    for query, words in WRONG.items():
        answer = await export(rest, query)
        assert answer.status == 400, query
        assert all(word in answer.body["message"] for word in words), (query, answer.body)


async def test_without_pyarrow_it_says_what_to_install(
    rest: Rest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    answer = await export(rest, f"{WINDOW}&format=parquet")
    assert answer.status == 501
    assert "iotistica[arrow]" in answer.body["message"]
    assert (await export(rest, f"{WINDOW}&resolution=daily")).status == 200


async def test_other_tenants_are_as_if_they_were_not(plant: Rest) -> None:
    everything = await export(plant, f"{WINDOW}&columns=agent_uuid")
    assert set(everything.body.decode().split()[1:]) == {str(PRESS), str(DRILL)}
    unknown = uuid.UUID(int=999)
    for agent in (FOREIGN, unknown):
        for asked in (
            await export(plant, WINDOW, agent),
            await export(plant, f"{WINDOW}&agent={PRESS},{agent}"),
        ):
            assert asked.status == 404
            assert asked.body["message"] == f"agent {agent} does not exist"


async def test_the_statement_itself_keeps_tenants_apart(plant: Rest, pool: Pool) -> None:
    pieces: list[bytes] = []
    await ExportStore(pool).copy(plant.tenant, chosen(FOREIGN), Layout.TABLE, keep(pieces))
    assert pieces == []


async def test_viewers_may_not_export(plant: Rest) -> None:
    assert (await export(plant, WINDOW, role="viewer")).status == 403
    assert (await export(plant, f"{WINDOW}&resolution=daily", role="operator")).status == 200


def chosen(agent: uuid.UUID = PRESS) -> Chosen:
    return Chosen(
        agents=[agent],
        metrics=None,
        start=START,
        end=END,
        level="raw",
        columns=READING_COLUMNS,
    )


def keep(pieces: list[bytes]) -> Any:
    async def sink(piece: bytes) -> None:
        pieces.append(piece)

    return sink


async def test_pieces_are_of_whole_rows(plant: Rest, pool: Pool) -> None:
    pieces: list[bytes] = []
    await ExportStore(pool).copy(plant.tenant, chosen(), Layout.CELLS, keep(pieces))
    assert len(pieces) > 3
    rows = [list(csv.reader(io.StringIO(one.decode(), newline=""))) for one in pieces]
    assert {len(row) for part in rows for row in part} == {len(READING_COLUMNS)}
    assert sum(map(len, rows)) == 2 * DAYS * 1440


async def test_a_slow_reader_is_ended_by_the_limit(
    plant: Rest, pool: Pool, connection: asyncpg.Connection
) -> None:
    store = ExportStore(pool, most=1, limit_s=0.3)

    async def stuck(_piece: bytes) -> None:
        await asyncio.Event().wait()

    with pytest.raises(TooSlow, match="IOTISTICA_EXPORT_TIMEOUT_S"):
        await store.copy(plant.tenant, chosen(), Layout.TABLE, stuck)
    left = "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'test' AND xact_start"
    assert await connection.fetchval(f"{left} IS NOT NULL") == 0
    # Its slot is free again.
    pieces: list[bytes] = []
    await store.copy(plant.tenant, chosen(), Layout.TABLE, keep(pieces))
    assert pieces


async def test_exports_wait_for_their_turn(plant: Rest, pool: Pool) -> None:
    store = ExportStore(pool, most=1, limit_s=0.5)
    has_begun = asyncio.Event()

    async def stuck(_piece: bytes) -> None:
        has_begun.set()
        await asyncio.Event().wait()

    first = asyncio.create_task(store.copy(plant.tenant, chosen(), Layout.TABLE, stuck))
    await has_begun.wait()
    store._limit_s = 0.05
    with pytest.raises(Busy, match="IOTISTICA_EXPORT_MAX_AT_ONCE"):
        await store.copy(plant.tenant, chosen(), Layout.TABLE, keep([]))
    first.cancel()
    await asyncio.wait([first])


TEXTS = st.text(st.characters(exclude_characters="\x00", exclude_categories=["Cs"]), max_size=20)
FINITE = st.floats(allow_nan=False, allow_infinity=False)
TIMES = st.integers(0, DAYS * 86_400_000_000 - 1).map(lambda us: START + timedelta(microseconds=us))
ROWS = st.lists(
    st.tuples(TIMES, TEXTS.filter(bool), st.none() | FINITE, st.none() | TEXTS, st.none() | TEXTS),
    min_size=1,
    max_size=8,
    unique_by=lambda row: row[:2],
)


@pytest.mark.parametrize("form", ["csv", "ndjson", "parquet", "arrow"])
async def test_whatever_is_in_the_table_reads_back(
    plant: Rest, connection: asyncpg.Connection, form: str
) -> None:
    """Fifty batches of any rows, by every form."""
    drawn: list[Any] = []

    @settings(max_examples=25, deadline=None, database=None, derandomize=True)
    @given(rows=ROWS)
    def draw(rows: Any) -> None:
        drawn.append(rows)

    draw()
    for rows in drawn:
        await connection.execute("DELETE FROM readings")
        await connection.executemany(
            _INSERT,
            [
                (time, PRESS, metric, value, quality, unit, unit or "", json.dumps({"a": quality}))
                for time, metric, value, quality, unit in rows
                if "\\u0000" not in json.dumps(quality)
            ],
        )
        found = read(form, (await export(plant, f"{WINDOW}&format={form}")).body)
        expected = await stored(connection, PRESS)
        if form == "csv":
            expected = [_as_read_from_csv(row) for row in expected]
        assert found == [row for row in expected if row["time"] < END - timedelta(seconds=1)]
