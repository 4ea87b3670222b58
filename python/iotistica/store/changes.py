"""How processes that remember rows learn which of them have changed.

Every row says by which transaction it was last changed. A process asks again and again for the
rows whose transaction had not ended when it asked before (`pg_snapshot_xmin`); so none is missed,
in whatever order transactions end, and nobody waits for anybody. LISTEN would need a session of its
own, which pgbouncer does not give, and what Redis publishes while nobody listens is gone.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from iotistica.store.pool import Pool, unavailable

END_OF_TIME = str(2**64 - 1)
"""The mark that nothing lies behind."""
MOST = 10_000
"""Changes told one by one; after more, everything counts as changed."""

# Not beyond this snapshot: a restored dump has the numbers of another server's transactions.
_SINCE = """
WITH now AS MATERIALIZED (SELECT pg_current_snapshot() AS snapshot)
SELECT pg_snapshot_xmin(snapshot)::text AS mark, {found} FROM now
"""
_FOUND = """
ARRAY(SELECT {column}::text FROM {table}
      WHERE changed_by_transaction >= $1::text::xid8
        AND changed_by_transaction < pg_snapshot_xmax(snapshot) LIMIT $2) AS {name}
"""


@dataclass(frozen=True, slots=True)
class Changes:
    """What changed since a mark."""

    mark: str
    """Where to go on."""
    agents: Sequence[str]
    tenants: Sequence[str]
    is_whole: bool
    """False where more changed than is told."""


def statement(*, agents: str, tenants: str | None = None) -> str:
    """The question to tables whose rows say by which transaction they were changed."""
    found = [_FOUND.format(name="agents", column="agent_uuid", table=agents)]
    if tenants is not None:
        found.append(_FOUND.format(name="tenants", column="tenant_id", table=tenants))
    return _SINCE.format(found=", ".join(found))


async def changes_since(pool: Pool, asked: str, mark: str, what: str) -> Changes:
    """Ask a `statement`; one look at an index of each table. Raises `StoreUnavailable`."""
    with unavailable(what):
        row = await pool.fetchrow(asked, mark, MOST + 1)
    assert row is not None
    agents, tenants = row["agents"], row.get("tenants", ())
    return Changes(row["mark"], agents, tenants, max(len(agents), len(tenants)) <= MOST)


class Feed(Protocol):
    """Tells what has changed."""

    async def changes(self, mark: str) -> Changes:
        """What changed since. Raises `StoreUnavailable`."""


class Follower:
    """One who remembers rows, and how far it has followed their changes."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed
        self._mark: str | None = None

    @asynccontextmanager
    async def look(self) -> AsyncIterator[Changes | None]:
        """What changed since the last look; None where everything may have.

        The next look goes on from here if the block ends well. After one that did not, everything
        may have changed: perhaps it was a failover, and what is remembered comes from changes that
        are lost.
        """
        before = self._mark
        try:
            changes = await self._feed.changes(before or END_OF_TIME)
            yield changes if before is not None and changes.is_whole else None
        except BaseException:
            self._mark = None
            raise
        self._mark = changes.mark
