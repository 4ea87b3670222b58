"""Read-only transactions for questions and exports; those that last give way to ingestion."""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from types import TracebackType

from iotistica.store.pool import Connection, Pool

_BEGIN = """
SELECT inet_client_port(), count(set_config(name, setting, true))
FROM unnest($1::text[], $2::text[]) AS session (name, setting)
"""
_NICENESS = 19
_CLOSE_S = 1.0


@asynccontextmanager
async def read_session(
    pool: Pool, *, limit_s: float, demote_after_s: float, settings: Mapping[str, str] | None = None
) -> AsyncIterator[Connection]:
    """A connection in a read-only transaction that sees one state of the database.

    Each statement has `limit_s` and one core at the most. After `demote_after_s` ingestion gets the
    cores first (`Demotion`); with 0 never.
    """
    session = {
        "statement_timeout": str(round(limit_s * 1000)),
        "max_parallel_workers_per_gather": "0",
        **(settings or {}),
    }
    async with (
        pool.acquire() as connection,
        Demotion(connection) as demotion,
        connection.transaction(isolation="repeatable_read", readonly=True),
    ):
        port = await connection.fetchval(_BEGIN, list(session), list(session.values()))
        if demote_after_s:
            demotion.begin(port, demote_after_s)
        yield connection


class Demotion:
    """Gives the process at the other end of a connection the lowest priority, when its time comes.

    Where PostgreSQL runs on this machine, as our user or we as root; elsewhere nothing happens: the
    process is not found. As no process may raise itself again, the connection is closed afterwards.
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._timer: asyncio.TimerHandle | None = None
        self._is_demoted = False

    def begin(self, client_port: int | None, after_s: float) -> None:
        """Let it happen `after_s` from now; the port as PostgreSQL sees it, or None for a socket of
        this machine."""
        pid = self._connection.get_server_pid()
        self._timer = asyncio.get_running_loop().call_later(after_s, self._demote, pid, client_port)

    def _demote(self, pid: int, client_port: int | None) -> None:
        self._is_demoted = demote(pid, client_port)

    async def __aenter__(self) -> Demotion:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()
        if self._is_demoted and not self._connection.is_closed():
            try:
                await self._connection.close(timeout=_CLOSE_S)
            except TimeoutError:
                self._connection.terminate()


def demote(pid: int, client_port: int | None) -> bool:
    """Give PostgreSQL's process of a connection the lowest priority, if it is on this machine.

    Both numbers are the server's; a process of another machine has its own title for them
    (`postgres: user database host(port) activity`, PostgreSQL's `update_process_title`).
    """
    process = Path("/proc") / str(pid)
    try:
        title = (process / "cmdline").read_bytes()
        mark = b"[local]" if client_port is None else b"(%d)" % client_port
        if not title.startswith(b"postgres:") or mark not in title:
            return False
        os.setpriority(os.PRIO_PROCESS, pid, _NICENESS)
    except OSError:
        return False
    # Linux weighs sessions before processes where it groups them so, and each of PostgreSQL's
    # processes is a session (sched(7), "The autogroup feature").
    with contextlib.suppress(OSError):
        (process / "autogroup").write_text(str(_NICENESS))
    return True
