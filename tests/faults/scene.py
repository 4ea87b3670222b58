"""What a fault is given to work with, and what it leaves to be checked."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from tests.faults.account import Account
from tests.faults.load import Crew, Load, Marks
from tests.faults.program import Program
from tests.faults.rig import CHILDREN, Rig

_POLL_S = 0.02

Check = Callable[[Account], list[str]]
"""Sentences about what is wrong with the account of the episode, once all is quiet."""


@dataclass(slots=True, kw_only=True)
class Scene:
    """A rig under load."""

    rig: Rig
    crew: Crew
    load: Load
    rng: random.Random
    brief: bool
    """Hold faults for their shortest time."""
    doomed: set[str] = field(default_factory=set)
    """Processes that the fault ends; the end of any other is a finding."""
    checks: list[Check] = field(default_factory=list)
    pardoned: Marks | None = None
    """What was acknowledged until then may be lost: the fault destroyed it on disk."""
    wrong: list[str] = field(default_factory=list)
    """What was seen to be wrong during the fault."""

    async def hold(self, least_s: float, most_s: float) -> None:
        """Let the fault last."""
        await asyncio.sleep(least_s if self.brief else self.rng.uniform(least_s, most_s))

    async def until(
        self, what: str, condition: Callable[[], Awaitable[bool]], *, within_s: float
    ) -> float:
        """Seconds until a condition holds; that it does not in time is noted as wrong."""
        began = time.monotonic()
        while not await condition():
            if time.monotonic() - began > within_s:
                self.wrong.append(f"not within {within_s:g} s: {what}")
                break
            await asyncio.sleep(_POLL_S)
        return time.monotonic() - began

    async def until_it_says_so(self, program: Program, *, within_s: float = 10.0) -> None:
        """A service that cannot do its work must say so, and why."""

        async def says_so() -> bool:
            return bool(await program.reasons())

        await self.until(f"{program.name} says that it is not ready", says_so, within_s=within_s)

    async def kill(self, name: str) -> None:
        """SIGKILL a process."""
        self.doom(name)
        await self.rig.kill(name)

    def doom(self, name: str) -> None:
        """Expect the end of a process and of those that it supervises."""
        self.doomed |= {name, *(CHILDREN if name == "api" else ())}
