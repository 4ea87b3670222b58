"""`iotistica import` against both storage profiles: what is stored, what is refused, run again."""

from __future__ import annotations

import asyncio
import csv
import gzip
import io
import secrets
import uuid
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import asyncpg
import orjson
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from iotistica import ledger
from iotistica._native import Context, encode_batch, format_topic
from iotistica.api.again import Again
from iotistica.api.routes.exports import LAYOUTS
from iotistica.exports.encoding import encoder
from iotistica.exports.forms import Form
from iotistica.importer.files import Damaged, File
from iotistica.importer.plan import OnError, Plan
from iotistica.importer.run import Import
from iotistica.importer.summary import Summary
from iotistica.redrive import Redrive, Result
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.exports import READING_COLUMNS, Chosen, ExportStore, Layout
from iotistica.store.pool import Pool
from iotistica.store.readings import ReadingStore
from iotistica.store.rollups import Rollups
from iotistica.streams import Filter, Streams

AGENT, OTHER, FOREIGN = (str(uuid.UUID(int=number)) for number in (1, 2, 3))
DAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0) - timedelta(days=3)
LONG = ("time", "agent_uuid", "metric_name", "value")
EXPORT = (*LONG, "quality", "unit", "protocol", "extra", "anomaly_score", "anomaly_threshold")
TEXT = st.characters(codec="utf-8", exclude_characters="\0")
ROWS = """
SELECT time, agent_uuid::text, metric_name, value, quality, unit, protocol, extra::text AS extra,
       anomaly_score, anomaly_threshold
FROM readings ORDER BY agent_uuid, metric_name, time
"""


@dataclass
class Place:
    """A tenant with two agents, and one agent of another tenant."""

    tenant: str
    pool: Pool
    streams: Streams
    directory: Path
    connection: asyncpg.Connection

    def file(self, name: str, header: Sequence[str], *rows: Sequence[Any]) -> str:
        """Write a CSV file; its path."""
        text = io.StringIO()
        csv.writer(text).writerows([header, *rows])
        return self.write(name, text.getvalue().encode())

    def write(self, name: str, content: bytes) -> str:
        path = self.directory / name
        path.write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
        return str(path)

    async def run(self, *files: str, **more: Any) -> tuple[Summary, list[str]]:
        """Import, and what it said meanwhile."""
        said: list[str] = []
        plan = Plan(**{"files": files, "tenant": self.tenant, "on_error": OnError.SKIP, **more})
        run = Import(
            plan, settings=Settings(), pool=self.pool, streams=self.streams, say=said.append
        )
        return await run.run(
            [File.of(name, plan) for name in files], lambda _file, _done: None
        ), said

    async def rows(self) -> list[dict[str, Any]]:
        return [dict(row) for row in await self.connection.fetch(ROWS)]


@pytest.fixture
async def place(
    pool: Pool, streams: Streams, tmp_path: Path, connection: asyncpg.Connection
) -> Place:
    tenant = secrets.token_hex(6)
    agents = AgentStore(pool)
    for owner, owned in ((tenant, (AGENT, OTHER)), (secrets.token_hex(6), (FOREIGN,))):
        await agents.ensure_tenant(owner)
        await agents.add_agents(owner, [(agent, agent[-4:]) for agent in owned])
    return Place(tenant, pool, streams, tmp_path, connection)


def at(minutes: float) -> str:
    return (DAY + timedelta(minutes=minutes)).isoformat()


async def test_a_line_is_stored_as_telemetry_would_store_it(place: Place) -> None:
    path = place.file(
        "a.csv",
        EXPORT,
        (at(0), AGENT, "t", "21.5", "GOOD", "C", "modbus", '{"device_name": "x"}', "0.5", ""),
        (at(1), AGENT, "t", "", "192", "", "", "", "", ""),
        (at(2), AGENT, "t", "open", "nonsense", "", "smoke signals", "", "", ""),
    )
    summary, said = await place.run(path)
    assert (summary.lines, summary.readings, summary.stored, summary.texts) == (3, 3, 3, 1)
    assert said == []
    rows = await place.rows()
    assert rows[0] == {
        "time": DAY,
        "agent_uuid": AGENT,
        "metric_name": "t",
        "value": 21.5,
        "quality": "good",
        "unit": "C",
        "protocol": "modbus",
        "extra": '{"device_name": "x"}',
        "anomaly_score": 0.5,
        "anomaly_threshold": None,
    }
    assert (rows[1]["value"], rows[1]["quality"], rows[1]["extra"]) == (None, "good", None)
    assert (rows[2]["value"], rows[2]["quality"], rows[2]["protocol"]) == (None, "unknown", "mqtt")
    assert orjson.loads(rows[2]["extra"]) == {"value": "open", "protocol": "smoke signals"}


def exported(rows: Sequence[dict[str, Any]]) -> list[list[Any]]:
    return [
        [
            "" if value is None else value.isoformat() if name == "time" else value
            for name, value in row.items()
        ]
        for row in rows
    ]


# What telemetry leaves in `extra` beside the columns of the same names.
EXTRAS = [
    {"value": "open", "anomaly_score": "high"},
    {"protocol": "smoke signals", "unit": 7},
    {"metric": {"a": 1}, "name": "n", "nodeName": "m", "quality": "q", "nodeType": "metadata"},
    {"readings": [1], "messages": 2, "data": {"b": [None, 1.5]}, "metadata": {}, "sensor": "s"},
    {
        "device_name": "d",
        "device_uuid": "no uuid",
        "endpoint_uuid": str(uuid.UUID(int=9, version=4)),
    },
]


async def test_what_was_exported_comes_back_as_it_was(place: Place) -> None:
    """A whole round trip: the rows out in the columns of `iotistica export`, removed, and in."""
    await place.connection.executemany(
        "INSERT INTO readings VALUES ($1, $2, 'any, \"name\"\n✓', $3, 'stale', 'm³', 'opcua', $4)",
        [
            (
                DAY + timedelta(microseconds=number + 1),
                AGENT,
                None if {"value", "anomaly_score"} & extra.keys() else 0.1 + number,
                orjson.dumps(extra).decode(),
            )
            for number, extra in enumerate(EXTRAS)
        ],
    ) if await _has_day(place) else None
    before = await place.rows()
    assert len(before) == len(EXTRAS)
    path = place.file("a.csv", EXPORT, *exported(before))
    await place.connection.execute("DELETE FROM readings")
    summary, _ = await place.run(path)
    assert summary.stored == len(EXTRAS), summary.first
    after = await place.rows()
    for row in (*before, *after):
        row["extra"] = orjson.loads(row["extra"])
    # The unit of a message that is no text has no column.
    assert after == before


@pytest.mark.parametrize("form", [Form.CSV, Form.NDJSON, Form.PARQUET], ids=lambda form: form.value)
async def test_a_file_of_the_export_comes_back_as_it_was(place: Place, form: Form) -> None:
    await ReadingStore(place.pool).make_days([(DAY - datetime(1970, 1, 1, tzinfo=UTC)).days])
    await place.connection.executemany(
        "INSERT INTO readings VALUES ($1, $2, 'any, \"name\"\n✓', $3, 'good', $4, 'opcua', $5)",
        [
            (DAY + timedelta(microseconds=n), AGENT, value, unit, extra)
            for n, (value, unit, extra) in enumerate(
                [
                    (0.1, "m³", '{"b": [null, 1.5]}'),
                    (None, None, '{"value": "open"}'),
                    (1e300, None, None),
                ]
            )
        ],
    )
    before, pieces = await place.rows(), []

    async def write(piece: bytes) -> None:
        pieces.append(piece)

    chosen = Chosen(
        agents=None,
        metrics=None,
        start=DAY,
        end=DAY + timedelta(hours=1),
        level="raw",
        columns=READING_COLUMNS,
    )
    encoded = encoder(form, chosen.columns, write)
    layout = LAYOUTS.get(form, Layout.CELLS)
    await ExportStore(place.pool).copy(place.tenant, chosen, layout, encoded.add)
    await encoded.finish()
    path = place.write(f"a.{form.suffix}", b"".join(pieces))
    await place.connection.execute("DELETE FROM readings")
    summary, said = await place.run(path)
    assert (summary.stored, said) == (3, [])
    assert await place.rows() == before


async def _has_day(place: Place) -> bool:
    await ReadingStore(place.pool).make_days([(DAY - datetime(1970, 1, 1, tzinfo=UTC)).days])
    return True


async def test_a_dirty_file_tells_file_line_column_value_and_rule(place: Place) -> None:
    future = (datetime.now(UTC) + timedelta(days=2)).isoformat()
    rows: list[tuple[Sequence[str], str, str]] = [
        ((at(0), AGENT, "ok", "1"), "", ""),
        (("", AGENT, "t", "1"), "time_missing", "column time, '': is empty"),
        (("31/12/2025", AGENT, "t", "1"), "time_invalid", "column time, '31/12/2025': "),
        (("2001-01-01", AGENT, "t", "1"), "time_too_old", "column time, '2001-01-01': "),
        ((future, AGENT, "t", "1"), "time_in_future", "column time, '"),
        ((at(0), "", "t", "1"), "agent_form", "column agent_uuid, '': is empty"),
        ((at(0), "press-7", "t", "1"), "agent_form", "column agent_uuid, 'press-7': is neither"),
        ((at(0), str(uuid.UUID(int=99)), "t", "1"), "unknown_agent", "column agent_uuid, "),
        ((at(0), AGENT, "", "1"), "metric_missing", "column metric_name, '': is empty"),
        ((at(0), AGENT, "n" * 600, "1"), "text_too_long", "column metric_name, 'nnn"),
        ((at(0), AGENT, "a\0b", "1"), "text_nul", "column metric_name, 'a"),
        ((at(0), AGENT, "t", "NaN"), "value_not_finite", "column value, 'NaN': "),
        ((at(0), AGENT, "t", "1", "2"), "row_form", "5 cells where the header has 4"),
        ((at(0), AGENT, "ok 2", "1"), "", ""),
    ]
    path = place.file("dirty.csv", LONG, *(cells for cells, _, _ in rows))
    summary, said = await place.run(path)
    bad = [(number, *rest) for number, (_, *rest) in enumerate(rows, 2) if rest[0]]
    assert dict(summary.reasons) == {
        reason: sum(other == reason for _, other, _ in bad) for _, reason, _ in bad
    }
    assert summary.stored == 2
    assert summary.refused == len(bad) == len(said)
    assert summary.readings == len(rows) == summary.lines
    for number, _, words in bad:
        assert any(f"{path}:{number}: {words}" in line for line in said), (number, words, said)


async def test_what_is_no_utf8_and_no_csv_costs_its_line_alone(place: Place) -> None:
    good = f"{at(0)},{AGENT},a,1\n{at(0)},{AGENT},b,2\n".encode().splitlines(keepends=True)
    bad = [f'{at(0)},{AGENT},"x"y,1\n'.encode(), f"{at(0)},{AGENT},".encode() + b"\xff,1\n"]
    head = b"\xef\xbb\xbf" + ",".join(LONG).encode() + b"\r\n"
    path = place.write("a.csv", head + good[0] + bad[0] + bad[1] + b"\n" + good[1])
    summary, said = await place.run(path)
    assert (summary.stored, dict(summary.reasons)) == (2, {"row_form": 1, "utf8": 1})
    assert [line.split(":")[1] for line in said] == ["3", "4"]


async def test_an_agent_of_another_tenant_is_refused_as_one_that_does_not_exist(
    place: Place,
) -> None:
    nobody = str(uuid.UUID(int=99))
    path = place.file("a.csv", LONG, *((at(0), agent, "t", "1") for agent in (FOREIGN, nobody)))
    summary, said = await place.run(path)
    assert dict(summary.reasons) == {"unknown_agent": 2}
    one, two = (line.partition(": ")[2] for line in said)
    assert one.replace(FOREIGN, "X") == two.replace(nobody, "X")
    assert await place.rows() == []


async def test_stop_keeps_what_stands_before_the_first_bad_line(place: Place) -> None:
    rows = [(at(0), AGENT, "a", "1"), (at(0), AGENT, "b", "inf"), (at(0), AGENT, "c", "1")]
    summary, _ = await place.run(place.file("a.csv", LONG, *rows), on_error=OnError.STOP)
    assert (summary.stored, summary.refused, summary.lines) == (1, 1, 2)
    assert summary.ended == "a line was refused, and --on-error is stop"
    assert [row["metric_name"] for row in await place.rows()] == ["a"]


async def test_a_second_run_changes_nothing_and_the_ledger_still_adds_up(place: Place) -> None:
    rows = [
        (at(n / 10), agent, metric, str(n))
        for n in range(150)
        for agent in (AGENT, OTHER)
        for metric in ("a", "b")
    ]
    path = place.file("a.csv", LONG, *rows)
    first, _ = await place.run(path)
    assert (first.stored, first.duplicate) == (600, 0)
    before = await place.rows()
    latest = await place.connection.fetch("SELECT * FROM readings_latest ORDER BY 1, 2, 3")
    second, _ = await place.run(path)
    assert (second.stored, second.duplicate, second.refused) == (0, 600, 0)
    assert await place.rows() == before
    again = await place.connection.fetch("SELECT * FROM readings_latest ORDER BY 1, 2, 3")
    keys = ("agent_uuid", "metric_name", "time", "value")
    assert [[row[key] for key in keys] for row in again] == [
        [row[key] for key in keys] for row in latest
    ]
    counts = (await place.streams.ledger.exact(place.tenant, [AGENT], LEDGER))[AGENT]
    assert counts == {ledger.READINGS: 600, ledger.STORED: 300, ledger.REDELIVERED: 300}


LEDGER = (ledger.READINGS, ledger.STORED, ledger.REDELIVERED)


async def test_the_newest_value_stays_the_newest(place: Place) -> None:
    newest = place.file("new.csv", LONG, (at(60), AGENT, "t", "2"), (at(0), AGENT, "t", "1"))
    await place.run(newest)
    await place.run(place.file("old.csv", LONG, (at(30), AGENT, "t", "3")))
    row = await place.connection.fetchrow("SELECT time, value FROM readings_latest")
    assert tuple(row) == (DAY + timedelta(minutes=60), 2.0)


async def test_late_rows_reach_every_level_of_the_rollups(place: Place, plain: bool) -> None:
    async def levels() -> dict[str, tuple[int, float]]:
        found = {}
        for level in ("1m", "1h", "daily"):
            rows = await place.connection.fetch(
                "SELECT sample_count, value_sum FROM readings_buckets($1, $2, $3, $4, $5)",
                level,
                [AGENT],
                ["t"],
                DAY,
                DAY + timedelta(days=1),
            )
            found[level] = (sum(r[0] for r in rows), sum(r[1] for r in rows))
        return found

    await place.run(place.file("a.csv", LONG, *((at(n), AGENT, "t", str(n)) for n in range(100))))
    if plain:
        await Rollups(place.pool).refresh(datetime.now(UTC))
    else:
        for level in ("1m", "1h", "daily"):
            await place.connection.execute(
                f"CALL refresh_continuous_aggregate('readings_{level}', NULL, NULL)"
            )
    assert await levels() == dict.fromkeys(("1m", "1h", "daily"), (100, 4950.0))
    await place.run(place.file("b.csv", LONG, *((at(n + 0.5), AGENT, "t", "1") for n in range(50))))
    if plain:
        assert await levels() == dict.fromkeys(("1m", "1h", "daily"), (150, 5000.0))
        await Rollups(place.pool).refresh(datetime.now(UTC))
    else:
        for level in ("1m", "1h", "daily"):
            await place.connection.execute(
                f"CALL refresh_continuous_aggregate('readings_{level}', NULL, NULL)"
            )
    assert await levels() == dict.fromkeys(("1m", "1h", "daily"), (150, 5000.0))


async def test_days_of_long_ago_are_made_and_those_beyond_retention_are_not(place: Place) -> None:
    days = [DAY - timedelta(days=ago) for ago in (0, 30, 700, 731)]
    rows = [(day.isoformat(), AGENT, "t", "1") for day in days]
    summary, said = await place.run(place.file("a.csv", LONG, *rows))
    assert (summary.stored, dict(summary.reasons)) == (3, {"time_too_old": 1})
    assert "is older than the retention of 730 days" in said[0]
    assert sorted(row["time"] for row in await place.rows()) == sorted(days[:3])


async def test_rows_reach_days_that_are_compressed_already(place: Place, plain: bool) -> None:
    """More of them than TimescaleDB unpacks for one statement by default (100,000)."""
    if plain:
        pytest.skip("plain PostgreSQL does not compress")
    agents = [str(uuid.uuid4()) for _ in range(200)]
    await AgentStore(place.pool).add_agents(place.tenant, [(one, one) for one in agents])
    rows = [(at(n), agent, "t", n) for n in range(1000) for agent in agents]
    path = place.file("a.csv", LONG, *rows)
    assert (await place.run(path))[0].stored == 200_000
    chunks = "SELECT count(compress_chunk(chunk)) FROM show_chunks('readings') AS chunk"
    assert await place.connection.fetchval(chunks) == 1
    late = place.file(
        "b.csv", LONG, *((at(n + 0.5), agent, "t", n) for n in range(100) for agent in agents)
    )
    summary, said = await place.run(late, path)
    assert (summary.stored, summary.duplicate, said) == (20_000, 200_000, [])
    assert await place.connection.fetchval("SELECT count(*) FROM readings") == 220_000


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.floats(-1e9, 1e9) | st.text(TEXT),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(TEXT), inner, max_size=2),
    max_leaves=4,
)
NAMES = st.text(TEXT, min_size=1, max_size=8) | st.sampled_from(
    [
        *("metric", "value", "unit", "quality", "protocol", "name", "nodeName", "nodeType"),
        *("sensor", "data", "metadata", "readings", "messages", "msgId", "timestamp", "v", "p"),
        *("deviceName", "device_name", "device_uuid", "deviceUuid", "endpointUuid"),
        *("anomaly_score", "anomaly_threshold"),
    ]
)


@given(
    readings=st.lists(st.dictionaries(NAMES, JSON, max_size=5), min_size=1, max_size=8),
    message=st.dictionaries(NAMES.filter(lambda name: name != "readings"), JSON, max_size=3),
)
@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_whatever_an_agent_sent_comes_back_as_it_was(
    place: Place, readings: list[dict[str, Any]], message: dict[str, Any]
) -> None:
    await place.connection.execute("DELETE FROM readings")
    context = Context(place.tenant, key_compaction=False)
    context.add_agents([AGENT])
    sent = [
        {"metric": f"m {n}", "quality": "good", **one, "timestamp": at(n)}
        for n, one in enumerate(readings)
    ]
    header = f"1-0 {format_topic(place.tenant, AGENT, 'endpoints/x')}".encode()
    entry = [header, orjson.dumps({**message, "readings": sent})]
    now_ms = int(datetime.now(UTC).timestamp() * 1000)
    batch = encode_batch([(b"0-0", entry)], context, now_ms=now_ms)
    await ReadingStore(place.pool).commit_again(batch)
    before = await place.rows()
    await place.connection.execute("DELETE FROM readings")
    summary, said = await place.run(place.file("a.csv", EXPORT, *exported(before)))
    assert (summary.stored, said) == (len(before), [])
    assert await place.rows() == before


@pytest.fixture
def plain(request: pytest.FixtureRequest) -> bool:
    return "plain" in request.node.name


async def test_wide_files_have_a_column_for_each_metric(place: Place) -> None:
    header = ("ts", "host", "temperature", "any / name", "note", "site")
    rows = [(at(0), "press 1", "1.5", "", "x", "north"), (at(1), "press 2", "nan", "7", "y", "")]
    summary, said = await place.run(
        place.file("wide.csv.gz", header, *rows),
        wide=True,
        columns={"time": "ts", "agent_uuid": "host", "extra.site": "site"},
        agents={"press 1": AGENT, "press 2": OTHER},
        ignored=frozenset({"note"}),
    )
    assert (summary.lines, summary.stored, summary.refused) == (2, 2, 1)
    assert "wide.csv.gz:3: column temperature, 'nan': " in said[0]
    found = [
        (r["agent_uuid"], r["metric_name"], r["value"], r["extra"]) for r in await place.rows()
    ]
    assert found == [
        (AGENT, "temperature", 1.5, '{"site": "north"}'),
        (OTHER, "any / name", 7.0, None),
    ]


async def test_ndjson_lines_may_differ(place: Place) -> None:
    time_ms = int(DAY.timestamp() * 1000)
    members: list[Any] = [
        {"time": time_ms, "agent_uuid": AGENT, "metric_name": "a", "value": 1},
        {"agent_uuid": AGENT, "value": 2.5, "time": at(0), "metric_name": "b", "extra": {"k": [1]}},
        {"time": at(0), "agent_uuid": AGENT, "value": 1},
        [1],
    ]
    content = b"\n".join(map(orjson.dumps, members)) + b"\n{\n"
    summary, said = await place.run(place.write("a.ndjson", content))
    assert (summary.stored, dict(summary.reasons)) == (2, {"row_form": 2, "json": 1})
    assert [line.removeprefix(str(place.directory)).split(":")[1] for line in said] == [
        "3",
        "4",
        "5",
    ]
    assert [(r["metric_name"], r["value"], r["extra"], r["time"]) for r in await place.rows()] == [
        ("a", 1.0, None, DAY),
        ("b", 2.5, '{"k": [1]}', DAY),
    ]


async def test_parquet_has_times_and_numbers_of_its_own(place: Place) -> None:
    pa = pytest.importorskip("pyarrow")
    import pyarrow.parquet

    count = 20_000  # more than one batch
    table = pa.table(
        {
            "when": pa.array(
                [DAY + timedelta(milliseconds=n) for n in range(count)], pa.timestamp("ns", "UTC")
            ),
            "metric_name": pa.array(["t"] * count).dictionary_encode(),
            "value": pa.array([None, float("nan"), *range(count - 2)], pa.float64()),
            "quality": pa.array([0x40940000] * count, pa.int64()),
        }
    )
    path = place.directory / "a.parquet"
    pyarrow.parquet.write_table(table, path)
    summary, said = await place.run(str(path), agent=AGENT, columns={"time": "when"})
    assert (summary.stored, dict(summary.reasons)) == (count - 1, {"value_not_finite": 1})
    assert f"{path}:2: column value, nan: " in said[0]
    found = await place.connection.fetchrow(
        "SELECT min(time), max(time), sum(value), min(quality), max(quality) FROM readings"
    )
    last = DAY + timedelta(milliseconds=count - 1)
    assert tuple(found) == (DAY, last, sum(range(count - 2)), "stale", "stale")


async def test_zstd_and_tabs(place: Place) -> None:
    pa = pytest.importorskip("pyarrow")
    path = place.directory / "a.tsv.zst"
    with pa.CompressedOutputStream(str(path), "zstd") as output:
        output.write(f"time\tmetric_name\tvalue\n{at(0)}\tt\t1\n".encode())
    summary, _ = await place.run(str(path), agent=AGENT)
    assert summary.stored == 1


async def test_letters_are_written_once_and_can_be_replayed(place: Place) -> None:
    late = str(uuid.UUID(int=77))
    rows = [(at(0), late, "t", "1"), ("", AGENT, "t", "1"), (at(0), AGENT, "t", "1")]
    path = place.file("a.csv", LONG, *rows)
    assert (await place.run(path, on_error=OnError.LETTERS))[0].letters == 2
    assert (await place.run(path, on_error=OnError.LETTERS))[0].letters == 0
    letters = place.streams.letters
    found = [one async for page in letters.pages(place.tenant, Filter()) for one in page.letters]
    assert [(one.dead.reason, one.dead.stage, one.dead.agent) for one in found] == [
        ("time_missing", "import", ""),
        ("unknown_agent", "topic", late),
    ]
    assert all(str(one.dead.original_id).startswith(f"{path}:") for one in found)

    await AgentStore(place.pool).add_agents(place.tenant, [(late, "late")])
    parts = {"settings": Settings(), "pool": place.pool, "streams": place.streams}
    with ThreadPoolExecutor(1) as executor:
        again = Again(**parts, executor=executor)
        redrive = Redrive(**parts, executor=executor, families=again, dry_run=False)
        steps = [step async for step in redrive.run(place.tenant, Filter())]
    proofs = [proof for step in steps for proof in step.proofs]
    assert [(proof.result, proof.inserted) for proof in proofs] == [
        # A line that is no message stays what it is: nothing makes up a time for it.
        (Result.STILL_BAD, 0),
        (Result.PASSED, 1),
    ]
    assert [row["agent_uuid"] for row in await place.rows()] == [AGENT, late]


async def test_a_dry_run_changes_nothing(place: Place) -> None:
    path = place.file("a.csv", LONG, (at(0), AGENT, "t", "1"), (at(0), FOREIGN, "t", "1"))
    summary, _ = await place.run(path, dry_run=True, on_error=OnError.LETTERS)
    assert (summary.stored, summary.refused, summary.letters) == (1, 1, 0)
    assert await place.rows() == []
    assert await place.streams.letters.count(place.tenant) == 0
    assert await place.streams.ledger.exact(place.tenant, [AGENT], LEDGER) == {AGENT: {}}


@given(name=st.text(TEXT, min_size=1, max_size=60))
@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
async def test_a_metric_may_have_any_name(place: Place, name: str) -> None:
    for form in ("long", "wide"):
        header = (*LONG[:2], name) if form == "wide" else LONG
        if form == "wide" and (name.strip() != name or name in header[:2]):
            continue
        cells = (at(0), AGENT, "1") if form == "wide" else (at(0), AGENT, name, "1")
        await place.connection.execute("DELETE FROM readings")
        await place.run(place.file("a.csv", header, cells), wide=form == "wide")
        assert [row["metric_name"] for row in await place.rows()] == [name]


async def test_rows_that_the_database_refuses_cost_themselves_alone(place: Place) -> None:
    await place.connection.execute(
        "ALTER TABLE readings ADD CONSTRAINT no_poison CHECK (metric_name <> 'poison')"
    )
    rows = [(at(n), AGENT, "poison" if n in (3, 150) else "t", "1") for n in range(200)]
    path = place.file("a.csv", LONG, *rows)
    summary, said = await place.run(path)
    assert (summary.stored, dict(summary.reasons)) == (198, {"refused_by_database": 2})
    assert [line.split(":")[1] for line in said] == ["5", "152"]
    assert all('violates check constraint "' in line for line in said)


async def test_a_lost_connection_is_no_end(place: Place) -> None:
    rows = [(at(n / 100), AGENT, "t", "1") for n in range(60_000)]
    running = asyncio.create_task(place.run(place.file("a.csv", LONG, *rows)))
    while not await place.connection.fetchval("SELECT count(*) FROM readings"):
        await asyncio.sleep(0.01)
    killed = await place.connection.fetchval(
        "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity "
        "WHERE datname = current_database() AND application_name = 'test'"
    )
    summary, _ = await running
    assert killed >= 1
    assert (summary.readings, summary.refused, summary.ended) == (60_000, 0, None)
    assert await place.connection.fetchval("SELECT count(*) FROM readings") == 60_000


async def test_a_file_that_ends_early_is_told(place: Place) -> None:
    path = place.file("a.csv.gz", LONG, *((at(n), AGENT, "t", "1") for n in range(500)))
    whole = Path(path).read_bytes()
    Path(path).write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Damaged, match=r"a\.csv\.gz: "):
        await place.run(path)


async def test_a_line_without_end_is_told_before_memory_is_full(place: Place) -> None:
    with pytest.raises(Damaged, match="line 1 is longer than"):
        await place.run(place.write("a.csv", b"x" * (3 << 20)))
