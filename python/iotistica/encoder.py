"""Encodes the entries of one tenant, and learns its agents and dictionaries as they come."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass

from iotistica import metrics
from iotistica._native import Batch, Context, Waiting, encode_batch
from iotistica.limits import limits_of
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.streams import Entry, Streams


@dataclass(frozen=True, slots=True)
class Learned:
    """Answer of a look-up: agents that are not the tenant's, those that are, dictionaries."""

    strangers: frozenset[str]
    members: frozenset[str]
    versions: Mapping[str, int]

    def stranger(self, one: Waiting) -> bool:
        """Whether the message waits in vain."""
        return one.needs == "agent" and one.agent in self.strangers

    def helps(self, one: Waiting) -> bool:
        """Whether what the message waits for is here."""
        match one.needs:
            case "agent":
                return one.agent in self.members
            case "dictionary":
                return self.versions.get(one.agent or "") == one.version
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
        streams: Streams,
    ) -> None:
        self._tenant = tenant
        self._context = Context(tenant, limits_of(settings), key_compaction=settings.key_compaction)
        self._backfill_after_ms = int(settings.backfill_after_s * 1000)
        self._executor = executor
        self._agents = agents
        self._streams = streams

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
        versions: dict[str, int] = {}
        for agent in {one.agent for one in waiting if one.needs == "dictionary" and one.agent}:
            if found := await self._streams.dictionary(agent):
                self._put_dictionary(agent, *found)
                versions[agent] = found[0]
        return Learned(frozenset(asked - members), frozenset(members), versions)

    def forget(self, agents: Sequence[str]) -> None:
        """Ask for these again: they left the tenant."""
        self._context.remove_agents(agents)

    def _put_dictionary(self, agent: str, version: int, dictionary: bytes) -> None:
        try:
            self._context.put_dictionary(agent, version, dictionary)
        except ValueError:
            # A broken dictionary is as good as none: its messages are rejected in time.
            return
