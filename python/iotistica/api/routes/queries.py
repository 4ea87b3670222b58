"""`POST /api/v1/readings/query`: metrics of many agents (reference 5.4)."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

import orjson

from iotistica.api import window
from iotistica.api.http import Reply, json_reply
from iotistica.api.models import queries as models
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest
from iotistica.series.rates import rates
from iotistica.store.metric_queries import Found, MetricQueries


class Queries:
    """Handlers of queries on metrics of many agents."""

    def __init__(self, store: MetricQueries) -> None:
        self._store = store

    @route("POST", "/api/v1/readings/query", needs="data:read", reply=models.QueryAnswer)
    async def query(self, body: models.QueryBody, caller: Principal) -> Reply:
        """Series of metrics, chosen by agents and tags, in steps, as rates or percentiles.

        Agents that do not exist have no series. Long ranges are answered from rollups.
        """
        now = datetime.now(UTC)
        start = window.moment("start", body.start, now)
        end = now if body.end is None else window.moment("end", body.end, now)
        if start > end:
            raise BadRequest(f"field start ({start.isoformat()}) is after end ({end.isoformat()})")
        asked = [one.question(f"queries[{n}]") for n, one in enumerate(body.queries)]
        found = await self._store.answer(caller.tenant, asked, start=start, end=end)
        # In a thread, as a large answer takes so long that others would wait.
        results = await asyncio.to_thread(_results, body, found)
        return json_reply(
            {"query_count": len(asked), "start": start, "end": end, "results": results}
        )


def _results(body: models.QueryBody, found: list[list[Found]]) -> orjson.Fragment:
    shown = [
        [_shown(query, series) for series in own]
        for query, own in zip(body.queries, found, strict=True)
    ]
    return orjson.Fragment(orjson.dumps(shown, option=orjson.OPT_UTC_Z))


def _shown(query: models.SubQuery, series: Found) -> dict[str, Any]:
    points: list[tuple[datetime, Any]] = series.points
    if query.rate:
        points = list(rates(points, query.counter))
    names = [f"p{one}" for one in sorted(set(query.percentiles))]
    return {
        "metric": query.metric,
        "agent_uuid": series.agent,
        "tags": series.tags,
        "step_s": None if series.step is None else series.step.total_seconds(),
        "dps": [
            {"time": time, **(dict(zip(names, value, strict=True)) if names else {"value": value})}
            for time, value in points
        ],
    }
