"""`/api/v1/grafana/…`: what Grafana's JSON data sources ask (reference 5.2, docs/grafana.md)."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from datetime import UTC, datetime
from itertools import groupby
from typing import Any, get_args
from uuid import UUID

import orjson

from iotistica.api import panels
from iotistica.api.http import Reply, json_reply
from iotistica.api.models import grafana as models
from iotistica.api.models.queries import Function
from iotistica.api.panels import Asked
from iotistica.api.principal import Principal
from iotistica.api.route import route
from iotistica.errors import BadRequest
from iotistica.store.annotations import Annotations, Wanted
from iotistica.store.choices import Choices, Kind
from iotistica.store.metric_queries import Found, MetricQueries
from iotistica.store.tags import TagStore

_MOST = 1000
_FILTERS = ("agent", "device", "protocol", "unit")
"""What series may be filtered by, beside the tags of their agents."""
_LISTS: dict[str, Kind] = {
    "agent": "agents",
    "device": "devices",
    "protocol": "protocols",
    "unit": "units",
}
_COLUMNS = (
    ("time", "time"),
    ("timeEnd", "time"),
    ("title", "string"),
    ("text", "string"),
    ("tags", "other"),
)


class Grafana:
    """Handlers of panels: their series, and of annotations."""

    def __init__(self, queries: MetricQueries, annotations: Annotations) -> None:
        self._queries = queries
        self._annotations = annotations

    @route("GET", "/api/v1/grafana", needs="data:read")
    async def check(self) -> models.Greeting:
        """Say that the data source works, and that its credentials are good."""
        return {"status": "ok", "message": "Data source is working"}

    @route(
        "POST",
        "/api/v1/grafana/query",
        needs="data:read",
        reply=list[models.PanelPart],
    )
    async def query(self, body: models.PanelQuery, caller: Principal) -> Reply:
        """Series of the targets of a panel, or tables of them, or of annotations.

        A target is the name of a metric. Steps are chosen so that the panel has room for them;
        where steps are missing there is one point without a value.
        """
        start, end = panels.between(body.range, datetime.now(UTC))
        asked, filters = panels.asked(body), panels.adhoc(body)
        points = panels.points(body, end - start)
        wanted = [one for one in asked if one.payload.annotations is None]
        questions = [panels.question(one, filters, points) for one in wanted]
        found = (
            await self._queries.answer(caller.tenant, questions, start=start, end=end)
            if questions
            else []
        )
        # In a thread, as a large answer takes so long that others would wait.
        parts = await asyncio.to_thread(_parts, wanted, found)
        for one in asked:
            if one.payload.annotations is not None:
                marks = _wanted(one.payload, one.payload.annotations, f"{one.place}.payload")
                rows = await self._annotations.between(caller.tenant, marks, start=start, end=end)
                parts.append(orjson.Fragment(orjson.dumps(_marks(one.ref_id, rows))))
        return json_reply(parts)

    @route(
        "POST",
        "/api/v1/grafana/annotations",
        needs="data:read",
        reply=list[models.Annotation],
    )
    async def annotations(self, body: models.AnnotationBody, caller: Principal) -> Reply:
        """Incidents of anomalies, alerts of rules or single anomalies, as marks on panels.

        The query of the annotation says which: `incidents`, `alerts`, `events`, or JSON with
        `annotations`, `agents` and `severity`.
        """
        start, end = panels.between(body.range, datetime.now(UTC))
        place, given = "annotation.query", body.annotation.get("query") or ""
        if given in ("incidents", "alerts", "events"):
            given = {"annotations": given}
        query = panels.structure(given, models.AnnotationQuery, place)
        wanted = _wanted(query, query.annotations, place)
        rows = await self._annotations.between(caller.tenant, wanted, start=start, end=end)
        return json_reply([{"annotation": body.annotation, **_mark(row)} for row in rows])


class GrafanaLists:
    """Handlers of what one may choose from while a dashboard is made, and of its variables."""

    def __init__(self, choices: Choices, tags: TagStore) -> None:
        self._choices = choices
        self._tags = tags

    @route("POST", "/api/v1/grafana/search", needs="data:read", reply=list[models.Choice])
    async def search(self, body: models.SearchBody | None, caller: Principal) -> Reply:
        """Metrics that have this text in their names; or what a variable lists."""
        text = (body and body.target) or ""
        try:
            wanted = panels.listing(text)
            found = await self._listed(caller.tenant, wanted)
        except BadRequest:
            found = await self._list(caller.tenant, "metrics", search=text or None)
        return json_reply(found)

    @route("POST", "/api/v1/grafana/variable", needs="data:read", reply=list[models.VariableValue])
    async def variable(self, body: models.VariableBody, caller: Principal) -> Reply:
        """Values of a variable: `agents`, `devices`, `metrics`, or `tag` with its key."""
        found = await self._listed(caller.tenant, panels.listing(body.payload))
        return json_reply([{"__text": one["text"], "__value": one["value"]} for one in found])

    @route("GET", "/api/v1/grafana/agents", needs="data:read", reply=list[models.Choice])
    async def agents(self, query: models.ListQuery, caller: Principal) -> Reply:
        """Agents by name; the value is the uuid."""
        return await self._get(caller, "agents", query)

    @route("GET", "/api/v1/grafana/devices", needs="data:read", reply=list[models.Choice])
    async def devices(self, query: models.ListQuery, caller: Principal) -> Reply:
        """Devices behind agents that have sent readings."""
        return await self._get(caller, "devices", query)

    @route("GET", "/api/v1/grafana/metrics", needs="data:read", reply=list[models.Choice])
    async def metrics(self, query: models.ListQuery, caller: Principal) -> Reply:
        """Metrics that there are readings of."""
        return await self._get(caller, "metrics", query)

    @route("GET", "/api/v1/grafana/variable/agents", needs="data:read", reply=list[models.Choice])
    async def variable_agents(self, query: models.ListQuery, caller: Principal) -> Reply:
        """The same as `/grafana/agents`."""
        return await self._get(caller, "agents", query)

    @route("GET", "/api/v1/grafana/variable/devices", needs="data:read", reply=list[models.Choice])
    async def variable_devices(self, query: models.ListQuery, caller: Principal) -> Reply:
        """The same as `/grafana/devices`."""
        return await self._get(caller, "devices", query)

    @route("GET", "/api/v1/grafana/variable/metrics", needs="data:read", reply=list[models.Choice])
    async def variable_metrics(self, query: models.ListQuery, caller: Principal) -> Reply:
        """The same as `/grafana/metrics`."""
        return await self._get(caller, "metrics", query)

    @route("POST", "/api/v1/grafana/metrics", needs="data:read", reply=list[models.MetricChoice])
    async def offered(self, body: models.MetricsBody | None, caller: Principal) -> Reply:
        """Metrics with the fields of their payloads, for the query builder."""
        found = await self._list(caller.tenant, "metrics")
        payloads = orjson.Fragment(orjson.dumps(_FIELDS))
        return json_reply(
            [{"label": one["text"], "value": one["value"], "payloads": payloads} for one in found]
        )

    @route(
        "POST",
        "/api/v1/grafana/metric-payload-options",
        needs="data:read",
        reply=list[models.Option],
    )
    async def options(self, body: models.OptionsBody, caller: Principal) -> Reply:
        """Options of a field of the payload, which are `agents` and `devices`."""
        if body.name not in ("agents", "devices"):
            raise BadRequest(
                f"field name is {body.name[:64]!r}; allowed are agents and devices, which "
                "have options that are asked for"
            )
        payload = panels.structure(body.payload, dict[str, Any], "payload")
        chosen = payload.get("agents") or [] if body.name == "devices" else []
        found = await self._list(
            caller.tenant, body.name, agents=panels.agents(chosen, "payload.agents")
        )
        return json_reply([{"label": one["text"], "value": one["value"]} for one in found])

    @route("POST", "/api/v1/grafana/tag-keys", needs="data:read", reply=list[models.TagKey])
    async def tag_keys(self, body: models.TagKeysBody | None, caller: Principal) -> Reply:
        """What ad hoc filters may filter by."""
        rows = await self._tags.keys(caller.tenant, limit=_MOST, after=None)
        keys = [*_FILTERS, *(row["key"] for row in rows if row["key"] not in _FILTERS)]
        return json_reply([{"type": "string", "text": key} for key in keys])

    @route("POST", "/api/v1/grafana/tag-values", needs="data:read", reply=list[models.TagValue])
    async def tag_values(self, body: models.TagValuesBody, caller: Principal) -> Reply:
        """Values that a key of ad hoc filters has."""
        return json_reply([{"text": text} for text in await self._values(caller.tenant, body.key)])

    async def _get(self, caller: Principal, kind: Kind, query: models.ListQuery) -> Reply:
        found = await self._list(
            caller.tenant, kind, agents=query.agent or None, search=query.search
        )
        return json_reply(found)

    async def _listed(self, tenant: str, wanted: models.Listing) -> list[dict[str, str]]:
        if wanted.list == "tag":
            if not wanted.key:
                raise BadRequest("field payload.key is missing: the key of a tag is expected")
            return [{"text": one, "value": one} for one in await self._values(tenant, wanted.key)]
        chosen = panels.agents(wanted.agents, "payload.agents")
        return await self._list(tenant, wanted.list, agents=chosen)

    async def _values(self, tenant: str, key: str) -> list[str]:
        if key in _LISTS:
            return [one["text"] for one in await self._list(tenant, _LISTS[key])]
        rows = await self._tags.values(tenant, key, limit=_MOST, after=None)
        return [row["value"] for row in rows]

    async def _list(
        self,
        tenant: str,
        kind: Any,
        *,
        agents: Sequence[UUID] | None = None,
        search: str | None = None,
    ) -> list[dict[str, str]]:
        rows = await self._choices.listed(tenant, kind, agents=agents, search=search, limit=_MOST)
        return [dict(row) for row in rows]


_FIELDS: list[models.PayloadField] = [
    {"name": "agents", "label": "Agents", "type": "multi-select"},
    {"name": "devices", "label": "Devices", "type": "multi-select"},
    {
        "name": "aggregator",
        "label": "Aggregator",
        "type": "select",
        "options": [{"label": one, "value": one} for one in get_args(Function)],
    },
    {"name": "downsample", "label": "Steps", "type": "input"},
    {
        "name": "rate",
        "label": "Change a second",
        "type": "select",
        "options": [{"label": one, "value": one} for one in ("false", "true")],
    },
]


def _parts(asked: list[Asked], found: list[list[Found]]) -> list[orjson.Fragment]:
    parts: list[Any] = []
    pairs = list(zip(asked, found, strict=True))
    for _, several in groupby(pairs, key=lambda pair: pair[0].place):
        own = list(several)
        if own[0][0].is_table:
            rows = [(one.metric, series) for one, some in own for series in some]
            parts.append(panels.table(own[0][0], rows))
        else:
            parts += (panels.drawn(one, series) for one, some in own for series in some)
    return [orjson.Fragment(orjson.dumps(part)) for part in parts]


def _wanted(query: models.Payload | models.AnnotationQuery, source: Any, place: str) -> Wanted:
    return Wanted(
        source=source,
        agents=panels.agents(query.agents, f"{place}.agents"),
        severity=query.severity,
    )


def _mark(row: Any) -> dict[str, Any]:
    mark = {name: row[name] for name in ("title", "text", "tags")}
    mark["time"] = panels.ms(row["time"])
    if row["until"] is not None and row["until"] > row["time"]:
        mark |= {"timeEnd": panels.ms(row["until"]), "isRegion": True}
    return mark


def _marks(ref_id: str, rows: Sequence[Any]) -> models.PanelPart:
    """As a table with the columns that Grafana makes annotations of."""
    marks = [_mark(row) for row in rows]
    return {
        "refId": ref_id,
        "type": "table",
        "columns": [{"text": name, "type": kind} for name, kind in _COLUMNS],
        "rows": [[mark.get(name) for name, _ in _COLUMNS] for mark in marks],
    }
