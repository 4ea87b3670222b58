"""What Grafana asks, as questions to the store, and series as it draws them. Pure."""

from __future__ import annotations

import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from typing import Any, TypeVar
from uuid import UUID

import msgspec
import orjson

from iotistica.api import window
from iotistica.api.models import grafana as models
from iotistica.errors import BadRequest
from iotistica.series.rates import Counter, rates
from iotistica.store.metric_queries import Filter, Found, Question

T = TypeVar("T")
Point = tuple[datetime, float | None]

_MOST_QUESTIONS = 100
_MOST_NAMES = 1000
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MS = timedelta(milliseconds=1)
_DEFAULT_POINTS = 1000
_FEWEST = 3
"""Points that tell what is usual."""
# Grafana's operators of ad hoc filters; those of several values are matched as an expression.
_KINDS = {"=": "exact", "!=": "unequal", "=~": "regexp", "!~": "unlike"}
_OF_SEVERAL = {"=|": "regexp", "!=|": "unlike"}
_COLUMNS: list[models.Column] = [
    {"text": "Time", "type": "time"},
    {"text": "Agent", "type": "string"},
    {"text": "Device", "type": "string"},
    {"text": "Metric", "type": "string"},
    {"text": "Value", "type": "number"},
]
_ALTERNATIVES = re.compile(r"(?<!\\)\|")
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@dataclass(frozen=True, slots=True, kw_only=True)
class Asked:
    """One query of a panel: series of a metric, or annotations."""

    place: str
    """The field it stands in."""
    ref_id: str
    metric: str
    payload: models.Payload
    is_table: bool


def between(asked: models.Range, now: datetime) -> tuple[datetime, datetime]:
    """Raises `BadRequest` naming the field."""
    start, end = (
        window.moment("range.from", asked.start, now),
        window.moment("range.to", asked.to, now),
    )
    if start > end:
        raise BadRequest(
            f"field range.from ({start.isoformat()}) is after range.to ({end.isoformat()})"
        )
    return start, end


def names(texts: models.Many) -> list[str]:
    """The names in a text that variables were put into: Grafana writes them as an expression.

    One value has its special characters escaped, several are `(a|b)`. A text that is no such
    expression is a name as it stands.
    """
    found: list[str] = []
    for text in [texts] if isinstance(texts, str) else texts:
        inner = text[1:-1] if text.startswith("(") and text.endswith(")") else text
        several = _ALTERNATIVES.split(inner) if inner != text else [text]
        plain = [_ESCAPED.sub(r"\1", one) for one in several]
        found += plain if plain == [text] else [text, *plain]
    return list(dict.fromkeys(one for one in found if one))


def agents(texts: models.Many, place: str) -> list[UUID] | None:
    """Agents by their uuids; None for any. Raises `BadRequest` naming the field."""
    found = []
    for name in names(texts):
        if name.startswith("(") and name.endswith(")"):
            continue
        try:
            found.append(UUID(name))
        except ValueError:
            raise BadRequest(
                f"field {place} is {name[:64]!r}: uuids of agents are expected"
            ) from None
    if len(found) > _MOST_NAMES:
        raise BadRequest(f"field {place} has {len(found)} agents; allowed are {_MOST_NAMES}")
    return found or None


def structure(given: models.Free, kind: type[T], place: str) -> T:
    """A payload as the plugins send it: an object, or JSON as text, or nothing.

    The query builder makes texts of everything, and sends what was not filled in as empty ones.
    Raises `BadRequest` naming the field.
    """
    fields: Any = given or {}
    if isinstance(given, str):
        try:
            fields = orjson.loads(given) if given.strip() else {}
        except orjson.JSONDecodeError:
            raise BadRequest(f"field {place} is {given[:64]!r}: JSON is expected") from None
    if not isinstance(fields, dict):
        raise BadRequest(f"field {place} is no object")
    filled = {name: one for name, one in fields.items() if one not in ("", None)}
    try:
        return msgspec.convert(filled, kind, strict=False)
    except msgspec.ValidationError as error:
        rule, _, where = str(error).replace("`", "").partition(" - at $")
        raise BadRequest(f"field {place}{where}: {rule}") from None


def listing(given: models.Free) -> models.Listing:
    """What a variable lists: an object, or a text such as `devices UUID` or `tag KEY`.

    Raises `BadRequest` naming the field.
    """
    place = "payload"
    if isinstance(given, dict) and set(given) == {"target"}:
        given, place = str(given["target"]), "payload.target"
    if not isinstance(given, str):
        return structure(given, models.Listing, place)
    kind, _, rest = given.strip().partition(" ")
    if kind not in ("agents", "devices", "metrics", "tag"):
        raise BadRequest(
            f"field {place} is {given[:64]!r}; allowed are agents, devices, metrics (each with "
            "uuids of agents after it, where only theirs are meant) and tag with its key"
        )
    if kind == "tag":
        return models.Listing(list="tag", key=rest.strip())
    return models.Listing(list=kind, agents=rest.strip())  # type: ignore[arg-type]


def asked(query: models.PanelQuery) -> list[Asked]:
    """The queries that are not hidden. Raises `BadRequest` naming the field."""
    found = []
    for number, one in enumerate(query.targets):
        # A query that was just added has nothing in it yet.
        if one.hide or one.target is None:
            continue
        place = f"targets[{number}]"
        payload = structure(one.payload or one.data, models.Payload, f"{place}.payload")
        if payload.annotations is None and not one.target:
            raise BadRequest(f"field {place}.target is empty: the name of a metric is expected")
        is_table = one.type == "table" or payload.format == "table"
        metrics = [""] if payload.annotations is not None else names(one.target)
        found += [
            Asked(place=place, ref_id=one.ref_id, metric=name, payload=payload, is_table=is_table)
            for name in metrics
        ]
    if len(found) > _MOST_QUESTIONS:
        raise BadRequest(
            f"field targets asks for {len(found)} metrics; allowed are {_MOST_QUESTIONS}"
        )
    return found


def question(one: Asked, filters: Sequence[Filter], points: int) -> Question:
    """As the store takes it. Raises `BadRequest` naming the field."""
    payload = one.payload
    length, _, function = (payload.downsample or "").partition("-")
    place = f"{one.place}.payload"
    devices = names(payload.devices)
    own = [Filter("regexp", "device", one_of(devices))] if devices else []
    return Question(
        metric=one.metric,
        agents=agents(payload.agents, f"{place}.agents"),
        aggregator=payload.aggregator,
        step=window.span(f"{place}.downsample", length) if length else None,
        function=function or None,
        filters=[*filters, *own],
        groups=["agent", *(("device",) if payload.group_by is None else payload.group_by)],
        points=points,
    )


def points(query: models.PanelQuery, span: timedelta) -> int:
    """How many of each series the panel has room for, at its least interval."""
    room = int(query.max_data_points or _DEFAULT_POINTS)
    if query.interval_ms:
        room = min(room, max(-int(-(span / _MS) // query.interval_ms), 1))
    return room


def adhoc(query: models.PanelQuery) -> list[Filter]:
    """Ad hoc filters. Raises `BadRequest` naming the field."""
    place, given = (
        ("filters", query.filters) if query.filters else ("adhocFilters", query.adhoc_filters or [])
    )
    found = []
    for number, one in enumerate(given):
        if one.operator in _OF_SEVERAL:
            several = one.values or [one.value]
            found.append(Filter(_OF_SEVERAL[one.operator], one.key, one_of(several)))
        elif one.operator in _KINDS:
            found.append(Filter(_KINDS[one.operator], one.key, one.value))
        else:
            allowed = ", ".join((*_KINDS, *_OF_SEVERAL))
            raise BadRequest(
                f"field {place}[{number}].operator is {one.operator!r}; allowed are {allowed}"
            )
    return found


def one_of(several: Iterable[str]) -> str:
    """An expression of PostgreSQL that each of these fits, and nothing else."""
    return "^(?:" + "|".join(re.escape(one) for one in several) + ")$"


def drawn(one: Asked, found: Found) -> models.PanelPart:
    """A series as a panel draws it."""
    tags = {name: value for name, value in found.tags.items() if value}
    return {
        "target": " ".join([*tags.values(), one.metric]),
        "refId": one.ref_id,
        "tags": {**tags, "metric": one.metric, "agent_uuid": found.agent},
        "datapoints": [
            (value, ms(time)) for time, value in with_gaps(_values(one, found), found.step)
        ],
    }


def table(one: Asked, series: Iterable[tuple[str, Found]]) -> models.PanelPart:
    """Series as rows, by series and time."""
    return {
        "refId": one.ref_id,
        "type": "table",
        "columns": _COLUMNS,
        "rows": [
            [ms(time), found.tags.get("agent"), found.tags.get("device") or None, metric, value]
            for metric, found in series
            for time, value in _values(one, found)
        ],
    }


def _values(one: Asked, found: Found) -> list[tuple[datetime, Any]]:
    if one.payload.rate:
        return rates(found.points, Counter(one.payload.counter))
    return found.points


def with_gaps(series: Sequence[tuple[datetime, Any]], step: timedelta | None) -> list[Point]:
    """The points of steps, with one that has no value where some are missing: there the line ends.

    That is after more than twice the usual distance, so that what is read more rarely than there
    are steps is a line as well.
    """
    if step is None or len(series) < _FEWEST:
        return list(series)
    usual = statistics.median_low(time - before for (before, _), (time, _) in pairwise(series))
    whole: list[Point] = [series[0]]
    for (before, _), (time, value) in pairwise(series):
        if time - before > 2 * usual:
            whole.append((before + step, None))
        whole.append((time, value))
    return whole


def ms(time: datetime) -> int:
    """Since the epoch."""
    return (time - _EPOCH) // _MS
