"""Lines of a file as the messages that an agent would have sent. Pure.

From here on a reading of a file is one of telemetry. Each is a message of its own, so that whatever
is wrong with it can be told by its line. What files cannot tell apart is told apart here: text that
is a number is one. What must be there in a file is asked for here: a time (telemetry takes the time
of reception, which no second run would repeat) and the name of the metric.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import orjson
import ormsgpack

from iotistica._native import decode_agent, format_topic
from iotistica.importer.cells import code, number
from iotistica.importer.layout import Layout
from iotistica.importer.plan import Plan
from iotistica.importer.refusal import Unfit

_UUID = re.compile(r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}")
_MOST_HEADERS = 100_000
# Members of `extra` that telemetry keeps there from the message around a reading; within the
# reading they would be its fields.
_OF_MESSAGE = frozenset({"metric", "nodeName", "name", "value", "unit", "quality", "nodeType"})


class Line(NamedTuple):
    """What stands in a line, and where it does."""

    number: int
    layout: Layout
    cells: Sequence[Any]


class Message(NamedTuple):
    """One reading as ingestion takes it, and the line that it comes from."""

    header: bytes
    payload: bytes
    line: Line
    value_at: int
    """Column of the value."""


class Shaper:
    """Turns lines into messages of the agents of one tenant."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._headers: dict[str, bytes] = {}
        self.strangers: set[str] = set()
        """Agents met for the first time; to be emptied by who looks them up."""
        self.texts = 0
        """Values that are no numbers: telemetry keeps them in `extra`."""

    def messages(self, line: Line) -> Iterator[Message | Unfit]:
        """One message for each value, or why there is none. Raises `Unfit` for a whole line."""
        layout, cells = line.layout, line.cells
        reading: dict[str, Any] = {}
        message: dict[str, Any] = {"readings": [reading]}
        header = self._header(line, self._shared(line, reading, message))
        for name, metric_at, value_at in layout.metrics:
            cell = cells[value_at]
            if metric_at is None:
                if cell is None or cell == "":
                    continue
            elif (name := cells[metric_at]) is None or name == "":
                column = layout.header[metric_at]
                raise Unfit("metric_missing", "is empty", column=column, value=name)
            reading["metric"] = name
            reading["value"] = self._value(cell)
            try:
                yield Message(header, ormsgpack.packb(message), line, value_at)
            except TypeError as error:
                yield _unpacked(line, error)

    def _shared(self, line: Line, reading: dict[str, Any], message: dict[str, Any]) -> str:
        """Fill in what all readings of a line share; the end of their topic."""
        layout, cells = line.layout, line.cells
        rest = "endpoints"
        if layout.extra is not None or layout.members:
            self._extra(line, reading, message)
        for name, at in layout.others:
            if (cell := cells[at]) is not None and cell != "":
                reading[name] = cell
        for name, convert, at in layout.converted:
            if (cell := cells[at]) is not None and cell != "":
                reading[name] = convert(cell)
        if layout.protocol is not None and (cell := cells[layout.protocol]):
            if "protocol" in reading:
                # What an agent said that is no protocol stays in `extra`; the column has the real.
                rest = f"endpoints/{cell}"
            else:
                reading["protocol"] = cell
        reading["timestamp"] = _moment(cells[layout.time], layout)
        return rest

    def _value(self, cell: Any) -> Any:
        value = number(cell)
        if value.__class__ is not float and value.__class__ is not int and value is not None:
            self.texts += 1
        return value

    def _extra(self, line: Line, reading: dict[str, Any], message: dict[str, Any]) -> None:
        layout, cells = line.layout, line.cells
        members: dict[str, Any] = {}
        if layout.extra is not None and (cell := cells[layout.extra]) not in (None, ""):
            members = _object(cell, layout.header[layout.extra])
        for name, at in layout.members:
            if (cell := cells[at]) is not None and cell != "":
                members[name] = cell
        for name, member in members.items():
            (message if name in _OF_MESSAGE else reading)[name] = member

    def _header(self, line: Line, rest: str) -> bytes:
        layout = line.layout
        cell = self._plan.agent if layout.agent is None else line.cells[layout.agent]
        known = self._headers.get(cell) if isinstance(cell, str) else None
        if known is None:
            agent = self._agent(cell, layout)
            if len(self._headers) >= _MOST_HEADERS:
                self._headers.clear()
            known = self._headers[str(cell)] = _header_of(self._plan.tenant, agent)
        return known if rest == "endpoints" else known.removesuffix(b"endpoints") + rest.encode()

    def _agent(self, cell: Any, layout: Layout) -> str:
        """UUID of the agent that a cell names."""
        column = None if layout.agent is None else layout.header[layout.agent]
        if cell is None or cell == "":
            raise Unfit("agent_form", "is empty", column=column, value=cell)
        if self._plan.agents is not None and layout.agent is not None:
            agent = self._plan.agents.get(str(cell))
            if agent is None:
                raise Unfit(
                    "unknown_agent", "is not in the file of --agents", column=column, value=cell
                )
            cell = agent
        agent = decode_agent(str(cell).strip())
        if not is_uuid(agent):
            rule = "is neither a UUID nor its 22 characters"
            raise Unfit("agent_form", rule, column=column, value=cell)
        self.strangers.add(agent.lower())
        return agent


def is_uuid(text: str) -> bool:
    """Whether it is a UUID in its usual form."""
    return _UUID.fullmatch(text) is not None


def _moment(cell: Any, layout: Layout) -> Any:
    if cell is None or cell == "":
        raise Unfit("time_missing", "is empty", column=layout.header[layout.time], value=cell)
    if cell.__class__ is not str or cell[4:5] == "-":
        return cell
    found = code(cell)
    return number(found) if found is cell else found


def _object(cell: Any, column: str) -> dict[str, Any]:
    if isinstance(cell, dict):
        return dict(cell)
    try:
        members = orjson.loads(cell)
    except (orjson.JSONDecodeError, TypeError):
        members = None
    if not isinstance(members, dict):
        raise Unfit("extra_form", "is not a JSON object", column=column, value=cell)
    return members


def _header_of(tenant: str, agent: str) -> bytes:
    return f"0-0 {format_topic(tenant, agent, 'endpoints')}".encode()


def _unpacked(line: Line, error: TypeError) -> Unfit:
    """Why MessagePack cannot take the cells of a line."""
    for column, cell in zip(line.layout.header, line.cells, strict=True):
        if isinstance(cell, str) and not _is_utf8(cell):
            return Unfit("utf8", "is not UTF-8", column=column, value=cell)
    return Unfit("reading_form", f"cannot be sent: {error}")


def _is_utf8(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
