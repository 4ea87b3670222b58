"""Who calls by the key of an agent, remembered so that a poll asks no server.

A change is told by Redis, and drops what is remembered of that agent in every process at once.
Should that not arrive, each process looks every `device_key_recheck_s` for what has changed since
it looked last, with one small query, however many agents there are. While PostgreSQL is away,
agents that were here lately go on being known for a few minutes.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from hashlib import blake2b

from iotistica import log
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.principal import Principal
from iotistica.errors import Forbidden, StoreUnavailable
from iotistica.settings import Settings
from iotistica.store.agent_keys import AgentKeyStore, KeyHolder
from iotistica.store.changes import Follower
from iotistica.streams.notices import Notices

PURPOSE = "device-api-key"

_MAX_KNOWN = 200_000
_UNUSED_S = 3600.0
_STALE_RECHECKS = 10
_REFUSED_S = 2.0
_MAX_REFUSED = 10_000
_MAX_KEY = 512
_AT_ONCE = 5000
_FOREVER = float("inf")

_log = log.get(__name__)


@dataclass(slots=True)
class _Known:
    principal: Principal
    valid_until: float
    fresh_until: float
    used_at: float
    name: bytes


class DeviceKeys:
    """Finds the agents behind keys."""

    def __init__(self, store: AgentKeyStore, digests: AgentDigests, settings: Settings) -> None:
        self._store = store
        self._digests = digests
        self._recheck_s = settings.device_key_recheck_s
        self._gap = asyncio.Event()
        # By the digest: no key stays in memory.
        self._known: dict[str, _Known] = {}
        # And by a faster digest under a secret of this process, which every request needs.
        self._secret = secrets.token_bytes(32)
        self._named: dict[bytes, _Known] = {}
        self._digests_of: dict[str, set[str]] = {}
        self._refused: dict[str, float] = {}
        self._changes = 0
        self._follower = Follower(store)
        self._stale_s = self._recheck_s * _STALE_RECHECKS
        self._fresh_until = float("-inf")

    async def identify(self, key: str) -> Principal | None:
        """The agent that a key belongs to; None for a key that nobody has.

        Raises `Forbidden` for an agent that is deactivated or has not proved its private key yet,
        `StoreUnavailable`.
        """
        if not 0 < len(key) <= _MAX_KEY:
            return None
        if (principal := self.remembered(key)) is not None:
            return principal
        now, key_hash = time.monotonic(), self.digest(key)
        self._drop(key_hash)
        if self._refused.get(key_hash, 0.0) > now:
            return None
        return await self._find(key, key_hash, now)

    def remembered(self, key: str) -> Principal | None:
        """The agent of a key, where memory knows it. Called in any thread; changes nothing."""
        known = self._named.get(self._name(key)) if len(key) <= _MAX_KEY else None
        if known is None:
            return None
        now = time.monotonic()
        # In this order: as a rule the first suffices, and one of many agents is in no cache.
        if now >= self._fresh_until and now >= known.fresh_until:
            return None
        if time.time() >= known.valid_until:
            return None
        known.used_at = now
        return known.principal

    def _name(self, key: str) -> bytes:
        return blake2b(key.encode(), key=self._secret, digest_size=16).digest()

    def digest(self, key: str) -> str:
        """The form in which a key is stored."""
        return self._digests.of(PURPOSE, key)

    def forget(self, agent: str) -> None:
        """Ask again for this agent, whose keys or rights have changed."""
        self._changes += 1
        self._refused.clear()
        for key_hash in list(self._digests_of.get(agent, ())):
            self._drop(key_hash)

    async def run(self, notices: Notices, heard: asyncio.Event) -> None:
        """Until cancelled: forget what changed, and check what is remembered.

        `heard` is set while changes are told.
        """
        async with asyncio.TaskGroup() as group:
            group.create_task(notices.receive(self.forget, self._gap.set, heard))
            group.create_task(self._recheck_often())

    async def recheck(self) -> None:
        """Drop what is no longer so. Raises `StoreUnavailable`."""
        now = time.monotonic()
        for key_hash in [k for k, known in self._known.items() if now - known.used_at > _UNUSED_S]:
            self._drop(key_hash)
        async with self._follower.look() as changes:
            if changes is None:
                await self._check_all()
            else:
                for agent in changes.agents:
                    self.forget(agent)
        self._fresh_until = now + self._stale_s

    async def _check_all(self) -> None:
        self._changes += 1  # what is being read now may be older than the look
        remembered = list(self._known.items())
        for first in range(0, len(remembered), _AT_ONCE):
            await self._check(dict(remembered[first : first + _AT_ONCE]))

    async def _check(self, some: dict[str, _Known]) -> None:
        holders = await self._store.holders(list(some))
        good = {one.key_hash: one for one in holders if one.is_active and one.is_complete}
        for key_hash, known in some.items():
            holder = good.get(key_hash)
            if holder is not None and _principal(holder) == known.principal:
                known.valid_until = _timestamp(holder.valid_until)
            elif self._known.get(key_hash) is known:
                self._drop(key_hash)

    def _drop(self, key_hash: str) -> None:
        known = self._known.pop(key_hash, None)
        if known is not None:
            self._named.pop(known.name, None)
            digests = self._digests_of[known.principal.id]
            digests.discard(key_hash)
            if not digests:
                del self._digests_of[known.principal.id]

    async def _find(self, key: str, key_hash: str, now: float) -> Principal | None:
        changes = self._changes
        holders = await self._store.holders([key_hash])
        if not holders:
            if len(self._refused) >= _MAX_REFUSED:
                self._refused.clear()
            if changes == self._changes:
                self._refused[key_hash] = now + _REFUSED_S
            return None
        holder = holders[0]
        if not holder.is_active:
            raise Forbidden(f"agent {holder.agent} is deactivated")
        if not holder.is_complete:
            raise Forbidden(f"agent {holder.agent} has not completed its key exchange")
        principal = _principal(holder)
        # A change that was told meanwhile may be later than what was read.
        if changes == self._changes:
            if len(self._known) >= _MAX_KNOWN:
                self._drop(next(iter(self._known)))
            until = _timestamp(holder.valid_until)
            known = _Known(principal, until, now + self._stale_s, now, self._name(key))
            self._known[key_hash] = self._named[known.name] = known
            self._digests_of.setdefault(holder.agent, set()).add(key_hash)
        return principal

    async def _recheck_often(self) -> None:
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._gap.wait(), self._recheck_s)
            self._gap.clear()
            try:
                await self.recheck()
            except StoreUnavailable as error:
                _log.warning("keys of agents could not be checked again", error=str(error))


def _timestamp(moment: datetime | None) -> float:
    return _FOREVER if moment is None else moment.timestamp()


def _principal(holder: KeyHolder) -> Principal:
    return Principal(kind="agent", tenant=holder.tenant, id=holder.agent, name=holder.name)
