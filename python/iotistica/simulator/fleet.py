"""The whole fleet: every agent with a session of its own, one pace for all."""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass

from iotistica.errors import StoreUnavailable
from iotistica.simulator.agent import Agent, Connect
from iotistica.simulator.ledger import AgentLedger
from iotistica.simulator.plan import Plan

STALL_S = 120.0
"""With nothing acknowledged for so long, a fleet that waits gives up."""
GRACE_S = 10.0
"""Time for the last acknowledgements once a run has been stopped."""
_TICK_S = 0.5


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a run is."""

    seconds: float
    published: int
    """Acknowledged publishes, copies and malformed ones included."""
    sessions: int


class Fleet:
    """Runs the agents of a plan. Agents are spread evenly over each interval of the pace."""

    def __init__(self, plan: Plan, tenant: str) -> None:
        self._plan = plan
        self.agents = [
            Agent(plan, plan.agent(tenant, index), tenant, index) for index in range(plan.agents)
        ]
        self._began = 0.0
        self._stop = asyncio.Event()

    def stop(self) -> None:
        """End the run early and cleanly."""
        self._stop.set()

    def progress(self) -> Progress:
        """Sums over the agents."""
        return Progress(
            time.monotonic() - self._began,
            sum(agent.acknowledged for agent in self.agents),
            sum(agent.sessions for agent in self.agents),
        )

    async def run(
        self, connect: Connect, report: Callable[[Progress], None] = lambda _: None
    ) -> list[AgentLedger]:
        """Publish as planned; the accounts of all agents. Raises `StoreUnavailable` on a stall."""
        # Curves and identities never die: keep the collector from walking them again and again.
        gc.collect()
        gc.freeze()
        self._began = time.monotonic()
        tasks = {asyncio.create_task(agent.run(connect, self._due)) for agent in self.agents}
        stopping = asyncio.create_task(self._stop.wait())
        try:
            await self._watch(tasks, stopping, report)
            if self._stop.is_set():
                for agent in self.agents:
                    agent.stop()
                await asyncio.wait(tasks, timeout=GRACE_S)
            _raise_first(tasks)
        finally:
            await _cancel(*tasks, stopping)
            gc.unfreeze()
        report(self.progress())
        return [agent.close() for agent in self.agents]

    async def _watch(
        self,
        tasks: set[asyncio.Task[None]],
        stopping: asyncio.Task[bool],
        report: Callable[[Progress], None],
    ) -> None:
        running, last, moved_at = set(tasks), -1, time.monotonic()
        while running and not stopping.done():
            await asyncio.wait(
                {*running, stopping}, timeout=_TICK_S, return_when=asyncio.FIRST_COMPLETED
            )
            running = {task for task in running if not task.done()}
            _raise_first(tasks)
            progress = self.progress()
            report(progress)
            # A slow pace is no stall: only who waits for the broker can be let down by it.
            if progress.published != last or not any(agent.waits for agent in self.agents):
                last, moved_at = progress.published, time.monotonic()
            elif time.monotonic() - moved_at > STALL_S:
                raise StoreUnavailable(f"the broker acknowledged nothing for {STALL_S:g} s")

    def _due(self, index: int, made: int) -> float | None:
        plan = self._plan
        quota = plan.quota(index)
        if quota is not None and made >= quota:
            return None
        now = time.monotonic() - self._began
        at = 0.0 if plan.rate is None else (made * plan.agents + index) / plan.rate
        if plan.duration_s is not None and max(at, now) >= plan.duration_s:
            return None
        return at - now


def _raise_first(tasks: set[asyncio.Task[None]]) -> None:
    for task in tasks:
        if task.done() and not task.cancelled() and (error := task.exception()):
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            raise error


async def _cancel(*tasks: asyncio.Task[None] | asyncio.Task[bool]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
