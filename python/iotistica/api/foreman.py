"""Moves jobs on: schedules, fan-out, time-outs, rollouts, ends, and what agents are told.

One control process at a time does it. Every step is a transaction that may be done again, so a
process that is killed leaves nothing behind that its successor would not finish.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta

from iotistica.api.job_events import publish
from iotistica.errors import StoreUnavailable
from iotistica.jobs import wire
from iotistica.store import agent_jobs, job_steps
from iotistica.store.job_events import JobEvent
from iotistica.store.pool import Connection, Pool, unavailable
from iotistica.store.turn import turn
from iotistica.streams import Channels, Outbox, Outgoing

_TURN = "jobs"
_TOLD_AT_ONCE = 100
_MOST_WAITING = 2000
"""Messages in the outbox from which on agents are told later: it is not for jobs alone, and job
documents are large."""


class Foreman:
    """The chore of the control processes. Raises `StoreUnavailable`."""

    def __init__(
        self,
        pool: Pool,
        outbox: Outbox,
        channels: Channels,
        *,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._pool = pool
        self._outbox = outbox
        self._channels = channels
        self._clock = clock

    async def work(self) -> None:
        """Do everything that is due now.

        A defect of ours costs the job that meets it; it is raised when all others are done.
        """
        defect: Exception | None = None
        with unavailable("move jobs on"):
            while await self._time_out():
                pass
            for job in await job_steps.due(self._pool, self._clock()):
                try:
                    with unavailable("move jobs on"):
                        while await self._move(job):
                            pass
                except StoreUnavailable:
                    raise
                except Exception as error:
                    error.add_note(f"job {job}")
                    defect = defect or error
            while await self._tell():
                pass
        if defect is not None:
            raise defect

    async def forget(self, *, days: int) -> None:
        """Remove jobs that have been over for so long, with what agents said of them."""
        before = self._clock() - timedelta(days=days)
        with unavailable("forget old jobs"):
            more = True
            while more:
                async with turn(self._pool, _TURN) as connection:
                    more = connection is not None and await job_steps.forget(connection, before)

    async def _time_out(self) -> bool:
        async with turn(self._pool, _TURN) as connection:
            if connection is None:
                return False
            now = self._clock()
            events = await job_steps.time_out(connection, now)
        await publish(self._channels, events)
        return len(events) == job_steps.AT_ONCE

    async def _move(self, job: str) -> bool:
        """One step of a job; whether there may be another at once."""
        async with turn(self._pool, _TURN) as connection:
            if connection is None:
                return False
            now = self._clock()
            more, events = await _step(connection, job, now)
        await publish(self._channels, events)
        return more

    async def _tell(self) -> bool:
        """Tell agents, oldest news first; whether there is more."""
        if await self._outbox.waiting() > _MOST_WAITING:
            return False
        async with turn(self._pool, _TURN) as connection:
            if connection is None:
                return False
            now = self._clock()
            news = await agent_jobs.untold(connection, now, _TOLD_AT_ONCE)
            await self._outbox.put(
                [
                    Outgoing(topic, payload)
                    for notice, given in news
                    for topic, payload in wire.TELLING[notice](given, now)
                ]
            )
            await agent_jobs.mark_told(connection, (given for _, given in news))
        return len(news) == _TOLD_AT_ONCE


async def _step(connection: Connection, job: str, now: datetime) -> tuple[bool, list[JobEvent]]:
    found = await job_steps.lock(connection, job)
    if found is None or not found["unsettled"]:
        return False, []
    if found["status"] == "SCHEDULED":
        if found["next_run_at"] > now:
            return False, []
        await job_steps.begin(connection, found, now)
        return True, []
    if found["status"] == "IN_PROGRESS":
        if not found["fanned_out"]:
            await job_steps.fan_out_or_abort(connection, found, now)
            return True, []
        decision = await job_steps.move_on(connection, found, now)
        aborted = decision is not None and decision.abort is not None
        if not aborted:
            await job_steps.settle(connection, found, now)
        return aborted, []
    events = await job_steps.end_open(connection, found, found["reason"], now)
    if len(events) < job_steps.AT_ONCE:
        await job_steps.settle(connection, found, now)
        return False, events
    return True, events
