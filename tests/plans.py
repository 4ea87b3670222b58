"""What the planner did, down to the statements within functions: by `auto_explain`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any

import asyncpg
import orjson

_SETUP = (
    "LOAD 'auto_explain'",
    "SET auto_explain.log_min_duration = 0",
    "SET auto_explain.log_nested_statements = on",
    "SET auto_explain.log_analyze = on",
    "SET auto_explain.log_buffers = on",
    "SET auto_explain.log_timing = off",
    "SET auto_explain.log_format = 'json'",
    "SET client_min_messages = 'log'",
)

Plan = dict[str, Any]
"""As EXPLAIN (FORMAT JSON) has it: `Query Text` and `Plan`."""


class Watched:
    """One connection in place of a pool, whose plans are kept. Its user must be a superuser."""

    def __init__(self, connection: asyncpg.Connection) -> None:
        self._connection = connection
        self.plans: list[Plan] = []

    async def start(self) -> None:
        """From here on."""
        for statement in _SETUP:
            await self._connection.execute(statement)
        self._connection.add_log_listener(self._heard)

    def _heard(self, _connection: Any, message: asyncpg.PostgresLogMessage) -> None:
        _, found, text = str(message.message).partition("plan:\n")  # type: ignore[attr-defined]
        if found:
            self.plans.append(orjson.loads(text))

    @asynccontextmanager
    async def acquire(self) -> AsyncIterator[asyncpg.Connection]:
        """The connection."""
        yield self._connection

    async def fetch(self, statement: str, *arguments: Any) -> list[asyncpg.Record]:
        """All rows."""
        return await self._connection.fetch(statement, *arguments)

    def nodes(self) -> Iterator[Plan]:
        """All nodes of all plans."""
        for plan in self.plans:
            yield from _nodes(plan["Plan"])

    def relations(self) -> dict[str, Plan]:
        """Scans that were executed, by the relation, whichever of its indexes was used."""
        return {
            node["Relation Name"]: node
            for node in self.nodes()
            if "Relation Name" in node and node.get("Actual Loops", 0)
        }


def _nodes(node: Plan) -> Iterator[Plan]:
    yield node
    for inner in node.get("Plans", []):
        yield from _nodes(inner)
