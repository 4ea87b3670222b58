"""What `iotistica decode` does: a payload explained layer by layer by the production code."""

from __future__ import annotations

import io
import time
from pathlib import Path
from typing import Any

import orjson
from rich.console import Console
from rich.table import Table

from iotistica._native import Context, explain, parse_topic
from iotistica.errors import ConfigError
from iotistica.limits import limits_of
from iotistica.settings import Settings

_NO_TENANT = "000000000000"
_NO_AGENT = "00000000-0000-0000-0000-000000000000"
_SHOWN_LINES = 24
_SHOWN_ROWS = 20
_COLUMNS = ("time", "metric_name", "value", "unit", "quality", "protocol", "extra")


def explain_payload(
    payload: bytes, *, topic: str | None, dictionary: Path | None
) -> dict[str, Any]:
    """What each stage makes of a payload. Raises `ConfigError` for a bad topic or dictionary."""
    settings = Settings.load()
    tenant, agent = _NO_TENANT, _NO_AGENT
    if topic is not None:
        try:
            parsed = parse_topic(topic)
        except ValueError as error:
            raise ConfigError(f"--topic {topic}: {error}") from None
        tenant, agent = parsed.tenant, parsed.agent
    context = Context(tenant, limits_of(settings))
    if dictionary is not None:
        try:
            message = dictionary.read_bytes()
            context.put_dictionary(agent, _version(message), message)
        except (OSError, ValueError) as error:
            raise ConfigError(f"--dictionary {dictionary}: {error}") from None
    explained = explain(topic, payload, context, now_ms=time.time_ns() // 1_000_000)
    return dict(orjson.loads(explained))


def _version(dictionary: bytes) -> int:
    message = orjson.loads(dictionary)
    version = message.get("version") if isinstance(message, dict) else None
    if not isinstance(version, int):
        raise ValueError("it has no number `version`; expected a message of meta/dictionary")
    return version


def is_accepted(explained: dict[str, Any]) -> bool:
    """Whether nothing in the payload is rejected."""
    return not explained["rejects"]


def text(explained: dict[str, Any]) -> str:
    """The report for people, in the order of the stages."""
    output = io.StringIO()
    console = Console(file=output, width=120, highlight=False, markup=False, soft_wrap=True)
    for title, lines in _sections(explained):
        console.print(title)
        for line in lines:
            console.print(f"  {line}")
    if explained["rows"]:
        console.print(_table(explained["rows"]))
    return output.getvalue()


def _sections(explained: dict[str, Any]) -> list[tuple[str, list[str]]]:
    sections = []
    if topic := explained.get("topic"):
        sections.append(("topic", [f"{name}: {value}" for name, value in topic.items()]))
    sections.append(("payload", [f"{explained['bytes']:,} bytes"]))
    wrapping = explained["wrapping"]
    inflated = explained.get("inflated_bytes")
    lines = [f"wrapping {wrapping['is']}, because {wrapping['because']}"]
    if wrapping["is"] != "none" and inflated is not None:
        lines.append(f"inflated to {inflated:,} bytes")
    sections.append(("inflate", lines))
    if form := explained.get("format"):
        lines = [f"{form['is']}, because {form['because']}"]
        sections.append(("decode", lines + _shown(explained.get("decoded"))))
    if compact := explained.get("compact"):
        sections.append(("expand", _compact(compact, explained)))
    sections.append(("normalize", _outcome(explained)))
    return sections


def _compact(compact: dict[str, Any], explained: dict[str, Any]) -> list[str]:
    known = compact["dictionary"]
    given = (
        "no dictionary is given" if known is None else f"the dictionary given is version {known}"
    )
    lines = [f"key-compacted with dictionary version {compact['version']}; {given}"]
    if unknown := explained.get("unknown_fields"):
        lines.append(f"{unknown} fields are not in the dictionary and were left out")
    return lines + _shown(explained.get("expanded"))


def _outcome(explained: dict[str, Any]) -> list[str]:
    lines = [
        f"{len(explained['rows'])} rows, {explained['duplicates']} duplicates, "
        f"{explained['dropped']} dropped without content"
    ]
    for reject in explained["rejects"]:
        what = f"{reject['readings']} readings" if reject["readings"] else "the message"
        lines.append(
            f"rejected at {reject['stage']}, {reject['reason']}: {what}: {reject['detail']}"
        )
    return lines


def _shown(value: Any) -> list[str]:
    if value is None:
        return []
    lines = orjson.dumps(value, option=orjson.OPT_INDENT_2).decode().splitlines()
    more = len(lines) - _SHOWN_LINES
    return lines if more <= 0 else [*lines[:_SHOWN_LINES], f"... {more:,} more lines; see --json"]


def _table(rows: list[dict[str, Any]]) -> Table:
    table = Table(*_COLUMNS, box=None, pad_edge=False, title="rows", title_justify="left")
    for row in rows[:_SHOWN_ROWS]:
        table.add_row(*(_cell(row[column]) for column in _COLUMNS))
    if len(rows) > _SHOWN_ROWS:
        table.add_row(f"... {len(rows) - _SHOWN_ROWS:,} more; see --json")
    return table


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return orjson.dumps(value).decode() if isinstance(value, dict) else str(value)
