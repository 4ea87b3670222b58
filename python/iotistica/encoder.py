"""Encodes the entries of one tenant, and learns its agents and dictionaries as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from iotistica import metrics
from iotistica._native import Batch, Context, Waiting, encode_batch
from iotistica.dictionaries import Held, Wanted
from iotistica.dictionaries.library import Library
from iotistica.limits import limits_of
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.streams import Entry


@dataclass(frozen=True, slots=True)
class Learned:
    """Answer of a look-up: agents that are not the tenant's, those that are, dictionaries."""

    strangers: frozenset[str]
    members: frozenset[str]
    dictionaries: frozenset[Wanted]

    def stranger(self, one: Waiting) -> bool:
        """Whether the message waits in vain."""
        return one.needs == "agent" and one.agent in self.strangers

    def helps(self, one: Waiting) -> bool:
        """Whether what the message waits for is here."""
        match one.needs:
            case "agent":
                return one.agent in self.members
            case "dictionary":
                return wanted(one) in self.dictionaries
            case _:  # room in a batch: the next one has it
                return True


class Encoder:
    """One tenant's `Context` and what fills it."""

    def __init__(
        self,
        tenant: str,
        *,
        settings: Settings,
        executor: Executor,
        agents: AgentStore,
        library: Library,
    ) -> None:
        self._tenant = tenant
        self._context = Context(tenant, limits_of(settings), key_compaction=settings.key_compaction)
        self._backfill_after_ms = int(settings.backfill_after_s * 1000)
        self._executor = executor
        self._agents = agents
        self._library = library

    async def encode(
        self, entries: Sequence[Entry], *, final: bool = False, divert: bool = False
    ) -> Batch:
        """One crossing into Rust, in a thread: the event loop goes on with other batches.

        With `divert`, messages that are old come back as waiting for the backfill stream.
        """
        with metrics.STAGE_SECONDS.labels("encode").time():
            return await asyncio.get_running_loop().run_in_executor(
                self._executor, self._encode, entries, final, divert
            )

    def _encode(self, entries: Sequence[Entry], final: bool, divert: bool) -> Batch:
        now_ms = time.time_ns() // 1_000_000
        before_ms = now_ms - self._backfill_after_ms if divert and self._backfill_after_ms else None
        return encode_batch(
            entries, self._context, now_ms=now_ms, final=final, divert_before_ms=before_ms
        )

    async def look_up(self, waiting: Sequence[Waiting]) -> Learned:
        """Learn what these messages wait for. Raises `StoreUnavailable`."""
        asked = {one.agent for one in waiting if one.needs == "agent" and one.agent}
        members = set(await self._agents.agents_of(self._tenant, sorted(asked))) if asked else set()
        self._context.add_agents(sorted(members))
        needed = {wanted(one) for one in waiting if one.needs == "dictionary"}
        dictionaries = await self.learn(needed) if needed else frozenset[Wanted]()
        return Learned(frozenset(asked - members), frozenset(members), dictionaries)

    async def learn(self, needed: Iterable[Wanted]) -> frozenset[Wanted]:
        """Those of these dictionaries that are known now. Raises `StoreUnavailable`."""
        found = await self._library.find(self._tenant, needed)
        learned = {one for one, held in found.items() if self._put(one.agent, held)}
        if broken := found.keys() - learned:
            # By somebody else's hand: what we write to Redis can be used.
            again = await self._library.find(self._tenant, broken, cached=False)
            learned |= {one for one, held in again.items() if self._put(one.agent, held)}
        return frozenset(learned)

    def _put(self, agent: str, held: Held) -> bool:
        try:
            self._context.put_dictionary(agent, held.version, held.json)
        except ValueError:
            return False
        return True

    def forget(self, agents: Sequence[str]) -> None:
        """Ask for these again: they left the tenant."""
        self._context.remove_agents(agents)

    def forget_dictionaries(self, agents: Sequence[str]) -> None:
        """Ask for those of these agents again: they changed."""
        self._context.forget_dictionaries(agents)


def wanted(one: Waiting) -> Wanted:
    """The dictionary that a message waits for."""
    return Wanted(one.agent or "", one.version, one.hash)
