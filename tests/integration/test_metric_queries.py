"""`POST /readings/query` on both storage profiles, by value."""

from __future__ import annotations

import statistics
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import asyncpg
import pytest
from tests.integration.test_rollups import has_marks, refresh
from tests.rest import Rest, open_rest

from iotistica.store.pool import Pool
from iotistica.streams import Streams

START = datetime(2026, 3, 2, tzinfo=UTC)
STEP = timedelta(minutes=10)
COUNT = 2 * 24 * 6
"""Two days."""
PRESS, DRILL, FOREIGN = (uuid.UUID(int=n) for n in (101, 102, 103))
METRIC = "line/speed [m/s]"
# Agent, device, protocol, unit, what a value is of its number, offset of the times in seconds.
SERIES = [
    (PRESS, "x", "modbus", "C", 1.0, 0),
    (PRESS, "y", "opcua", "C", 2.0, 60),
    (DRILL, None, "modbus", None, 10.0, 0),
    (FOREIGN, "x", "modbus", "C", 1000.0, 0),
]


def values(factor: float, first: int, last: int) -> list[float]:
    """Of the readings from number `first` on, before `last`."""
    return [factor * number for number in range(first, last)]


@pytest.fixture
async def plant(rest: Rest, pool: Pool, connection: asyncpg.Connection) -> Rest:
    """Two agents, three series of a metric; an agent of another tenant with the same."""
    await connection.execute("INSERT INTO tenants VALUES ('other', 'other')")
    for agent, tenant, name in (
        (PRESS, rest.tenant, "press-1"),
        (DRILL, rest.tenant, "drill_1"),
        (FOREIGN, "other", "press-2"),
    ):
        await connection.execute(
            "INSERT INTO agents (uuid, tenant_id, name) VALUES ($1, $2, $3)", agent, tenant, name
        )
        for key, value in (("site", f"hall 50%-{name[0]}"), ("line", "a")):
            await connection.execute(
                "INSERT INTO agent_tags (tenant_id, agent_uuid, key, value)"
                " VALUES ($1, $2, $3, $4)",
                *(tenant, agent, key, value),
            )
    if await has_marks(connection):
        day = int(START.timestamp()) // 86_400
        await connection.execute("SELECT readings_make_days($1)", [day, day + 1])
        for agent in (PRESS, DRILL, FOREIGN):
            await connection.execute(
                "INSERT INTO rollup_marks (hour, agent_uuid) SELECT h, $1 FROM generate_series"
                "($2::timestamptz, $2::timestamptz + interval '47 h', '1 h') AS h",
                *(agent, START),
            )
    for agent, device, protocol, unit, factor, offset_s in SERIES:
        await connection.execute(
            """
            INSERT INTO readings
                (time, agent_uuid, metric_name, value, quality, unit, protocol, extra)
            SELECT $1::timestamptz + n * interval '10 min', $2, $3, n * $4::double precision,
                   'good', $5, $6, jsonb_build_object('device_name', $7::text)
            FROM generate_series(0, $8 - 1) AS n
            """,
            START + timedelta(seconds=offset_s),
            *(agent, METRIC, factor, unit, protocol, device, COUNT),
        )
        await connection.execute(
            "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, protocol, time)"
            " VALUES ($1, $2, $3, $4, $5)",
            *(agent, device or "", METRIC, protocol, START + COUNT * STEP),
        )
    await refresh(pool, connection, START + timedelta(days=10))
    return rest


async def ask(rest: Rest, *queries: dict[str, Any], hours: float = 48) -> list[Any]:
    body = {
        "start": START.isoformat(),
        "end": (START + timedelta(hours=hours, seconds=-1)).isoformat(),
        "queries": [{"metric": METRIC, **query} for query in queries],
    }
    answer = await rest.ask("POST", "/api/v1/readings/query", body)
    assert answer.status == 200, answer.body
    assert answer.body["query_count"] == len(queries)
    results: list[Any] = answer.body["results"]
    return results


def numbers(series: Any) -> list[float]:
    return [point["value"] for point in series["dps"]]


def days(factor: float) -> Iterator[list[float]]:
    for day in (0, 1):
        yield values(factor, day * 144, day * 144 + 144)


ALL = {"agent_uuids": [str(PRESS), str(DRILL), str(FOREIGN), str(uuid.UUID(int=1))]}


async def test_long_ranges_are_put_together_from_rollups(plant: Rest) -> None:
    """In the reference every question reads single readings."""
    put: dict[str, Any] = {
        "avg": statistics.mean,
        "sum": sum,
        "min": min,
        "max": max,
        "last": lambda found: found[-1],
        "count": len,
    }
    # Twenty, as many as one may ask at a time.
    functions = [(one, two) for one in put for two in put if one != "sum" and two != "min"][:20]
    answers = await ask(
        plant,
        *({**ALL, "aggregator": two, "downsample": f"1d-{one}"} for one, two in functions),
    )
    for (one, two), found in zip(functions, answers, strict=True):
        press, drill = found
        assert (press["agent_uuid"], drill["agent_uuid"]) == (str(PRESS), str(DRILL))
        assert [point["time"] for point in press["dps"]] == [
            "2026-03-02T00:00:00Z",
            "2026-03-03T00:00:00Z",
        ]
        assert press["step_s"] == 86_400
        expected = [
            put[two]([put[one](x), put[one](y)]) for x, y in zip(days(1.0), days(2.0), strict=True)
        ]
        assert numbers(press) == pytest.approx(expected), (one, two)
        assert numbers(drill) == pytest.approx([put[two]([put[one](z)]) for z in days(10.0)])


async def test_each_time_by_itself_where_these_are_few(plant: Rest) -> None:
    [[press]] = await ask(plant, {"agent_uuids": [str(PRESS)]}, hours=1)
    assert press == {
        "metric": METRIC,
        "agent_uuid": str(PRESS),
        "tags": {},
        "step_s": None,
        "dps": [
            {"time": f"2026-03-02T00:{minute:02}:00Z", "value": value}
            for n in range(6)
            for minute, value in ((n * 10, n * 1.0), (n * 10 + 1, n * 2.0))
        ],
    }


async def test_without_a_step_long_ranges_have_one_that_fits(plant: Rest) -> None:
    [[press], [count]] = await ask(
        plant,
        {"agent_uuids": [str(PRESS)], "aggregator": "max"},
        {"agent_uuids": [str(PRESS)], "aggregator": "count"},
    )
    assert press["step_s"] == 180
    assert max(numbers(press)) == 2.0 * (COUNT - 1)
    assert sum(numbers(count)) == 2 * COUNT


async def test_filters_choose_agents_and_series(plant: Rest) -> None:
    def tag(kind: str, key: str, pattern: str, **more: Any) -> dict[str, Any]:
        return {"type": kind, "tagk": key, "filter": pattern, **more}

    cases: list[tuple[list[dict[str, Any]], list[tuple[str, dict[str, str]]]]] = [
        ([tag("exact", "line", "a")], [("press", {}), ("drill", {})]),
        ([tag("exact", "site", "hall 50%-p")], [("press", {})]),
        # No character of the pattern but * stands for others.
        ([tag("wildcard", "site", "hall 5_%-*")], []),
        ([tag("wildcard", "site", "hall 50%-*")], [("press", {}), ("drill", {})]),
        ([tag("wildcard", "agent", "drill_*")], [("drill", {})]),
        ([tag("regexp", "agent", "^(press|none)-[0-9]$")], [("press", {})]),
        ([tag("exact", "no tag", "")], []),
        ([tag("exact", "line", "a"), tag("exact", "agent", "drill_1")], [("drill", {})]),
        ([tag("exact", "unit", "C")], [("press", {})]),
        (
            [tag("wildcard", "device", "*", group_by=True), tag("exact", "agent", "press-1")],
            [("press", {"device": "x"}), ("press", {"device": "y"})],
        ),
        (
            [
                tag("exact", "protocol", "modbus", group_by=True),
                tag("regexp", "line", ".", group_by=True),
            ],
            [
                ("press", {"line": "a", "protocol": "modbus"}),
                ("drill", {"line": "a", "protocol": "modbus"}),
            ],
        ),
        (
            [tag("regexp", "agent", ".", group_by=True)],
            [("press", {"agent": "press-1"}), ("drill", {"agent": "drill_1"})],
        ),
    ]
    queries = [{"filters": filters, "downsample": "1h-avg"} for filters, _ in cases]
    names = {str(PRESS): "press", str(DRILL): "drill"}
    for (filters, expected), found in zip(cases, await ask(plant, *queries), strict=True):
        shown = [(names[one["agent_uuid"]], one["tags"]) for one in found]
        assert shown == expected, filters
        for one in found:
            assert len(one["dps"]) == 48
    # A device by itself.
    y = [tag("exact", "device", "y")]
    [[own]] = await ask(plant, {"filters": y, "downsample": "2d-sum"})
    assert sum(numbers(own)) == sum(values(2.0, 0, COUNT))


async def test_rates_of_a_counter(plant: Rest) -> None:
    [[drill], [lasts]] = await ask(
        plant,
        {"agent_uuids": [str(DRILL)], "rate": True},
        {
            "agent_uuids": [str(DRILL)],
            "rate": True,
            "downsample": "1h-last",
            "rate_options": {"counter": True, "reset_value": 1e9},
        },
        hours=6,
    )
    assert numbers(drill) == pytest.approx([10.0 / 600] * 35)
    assert numbers(lasts) == pytest.approx([60.0 / 3600] * 5)
    assert lasts["dps"][0]["time"] == "2026-03-02T01:00:00Z"


async def test_percentiles_are_those_of_single_readings(plant: Rest) -> None:
    asked = {"percentiles": [95, 50], "downsample": "1d-avg"}
    by = [{"type": "wildcard", "tagk": "device", "filter": "*", "group_by": True}]
    [found, devices] = await ask(plant, {**ALL, **asked}, {**asked, "filters": by})
    for series, factors in zip(
        [*found, *devices], [(1.0, 2.0), (10.0,), (1.0,), (2.0,)], strict=True
    ):
        for day, point in enumerate(series["dps"]):
            own = [v for f in factors for v in values(f, day * 144, day * 144 + 144)]
            cut = statistics.quantiles(own, n=100, method="inclusive")
            assert point == {
                "time": f"2026-03-0{2 + day}T00:00:00Z",
                "p50": pytest.approx(cut[49]),
                "p95": pytest.approx(cut[94]),
            }
        assert len(series["dps"]) == 2


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ({}, "queries[0] has neither agent_uuids nor filters"),
        ({**ALL, "rate": True, "percentiles": [50]}, "queries[0] has rate and percentiles"),
        ({**ALL, "percentiles": [0]}, "percentiles[0]"),
        ({**ALL, "downsample": "1y-avg"}, "downsample"),
        ({**ALL, "downsample": "5s-avg"}, "the step is 5 s"),
        ({"filters": [{"type": "regexp", "tagk": "line", "filter": "("}]}, "no regular expression"),
        (
            {"filters": [{"type": "regexp", "tagk": "unit", "filter": "[z-a]"}]},
            "no regular expression",
        ),
        ({**ALL, "agent_uuids": ["x"]}, "agent_uuids[0]"),
    ],
)
async def test_what_is_wrong_is_named(plant: Rest, query: dict[str, Any], message: str) -> None:
    body = {"start": "2026-03-02", "end": "2026-03-04", "queries": [{"metric": METRIC, **query}]}
    answer = await plant.ask("POST", "/api/v1/readings/query", body)
    assert answer.status == 400, answer.body
    assert message in answer.body["message"]


async def test_times_may_be_relative(plant: Rest) -> None:
    for times, status in (
        ({"start": "7d-ago"}, 200),
        ({"start": "1h-ago", "end": "2h-ago"}, 400),
        ({"start": "soon"}, 400),
    ):
        body = {**times, "queries": [{"metric": METRIC, **ALL}]}
        assert (await plant.ask("POST", "/api/v1/readings/query", body)).status == status


async def test_nothing_of_another_tenant_is_shown_whoever_is_named(plant: Rest) -> None:
    foreign = [{"type": "exact", "tagk": "agent", "filter": "press-2"}]
    by_name, by_filter = await ask(
        plant,
        {"agent_uuids": [str(FOREIGN)], "downsample": "1h-avg"},
        {"filters": foreign, "downsample": "1h-avg"},
    )
    assert by_name == by_filter == []


async def test_what_is_too_much_is_refused_by_name(
    plant: Rest, pool: Pool, streams: Streams, redis_url: str
) -> None:
    bounds = {"query_max_agents": 1, "query_max_points": 1000, "query_max_readings": 1000}
    narrow = {"start": "2026-03-02", "end": "2026-03-04"}
    async with open_rest(pool, streams, plant.tenant, redis_url=redis_url, **bounds) as bounded:
        for queries, message in (
            ([ALL], "IOTISTICA_QUERY_MAX_AGENTS"),
            (
                [{"agent_uuids": [str(PRESS)], "downsample": "1m-avg"}] * 2,
                "IOTISTICA_QUERY_MAX_POINTS",
            ),
            ([{"agent_uuids": [str(PRESS)], "downsample": "1h-avg"}], None),
            ([{"agent_uuids": [str(PRESS)], "percentiles": [50]}], None),
        ):
            body = {**narrow, "queries": [{"metric": METRIC, **query} for query in queries]}
            answer = await bounded.ask("POST", "/api/v1/readings/query", body)
            assert answer.status == (200 if message is None else 400), answer.body
            assert message is None or message in answer.body["message"]


async def test_percentiles_of_more_readings_than_may_be_looked_at_are_refused(
    plant: Rest, connection: asyncpg.Connection, pool: Pool, streams: Streams, redis_url: str
) -> None:
    await connection.execute(
        """
        INSERT INTO readings (time, agent_uuid, metric_name, value, protocol)
        SELECT $1::timestamptz + n * interval '1 s', $2, 'many', n, 'can'
        FROM generate_series(0, 1000) AS n
        """,
        *(START, DRILL),
    )
    await connection.execute(
        "INSERT INTO readings_latest (agent_uuid, device_name, metric_name, protocol, time)"
        " VALUES ($1, '', 'many', 'can', $2)",
        *(DRILL, START),
    )
    if await has_marks(connection):
        await connection.execute("INSERT INTO rollup_marks VALUES ($1, $2)", START, DRILL)
    else:
        await refresh(pool, connection)
    async with open_rest(
        pool, streams, plant.tenant, redis_url=redis_url, query_max_readings=1000
    ) as bounded:
        asked = {"metric": "many", "agent_uuids": [str(DRILL)], "percentiles": [50]}
        body = {"start": "2026-03-02", "end": "2026-03-04", "queries": [asked]}
        answer = await bounded.ask("POST", "/api/v1/readings/query", body)
        assert answer.status == 400
        assert (
            "at most 1000 (IOTISTICA_QUERY_MAX_READINGS); the range has about 1001"
            in (answer.body["message"])
        )
