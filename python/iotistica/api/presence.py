"""Who was heard: collected in every process, written together every few seconds."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import orjson

from iotistica import keys, ledger, log, metrics
from iotistica.api.chore import Chore
from iotistica.errors import StoreUnavailable
from iotistica.settings import Settings
from iotistica.store.pool import Pool
from iotistica.store.presence import Change, PresenceStore
from iotistica.streams import Channels, Streams

_EVERY_S = 3.0
_REFRESH_SHARE = 0.2
"""Of the silence after which an agent is offline: it is written no more often, however much it
sends."""
_SWEEP_SHARE = 0.25
_AT_ONCE = 5000

_occasional = log.Occasional(log.get(__name__))


def presence_of(settings: Settings, pool: Pool, streams: Streams) -> Presence:
    """The presence of a process."""
    store = PresenceStore(pool, offline_after_s=settings.agent_offline_after_s)
    refresh_s = _REFRESH_SHARE * settings.agent_offline_after_s
    return Presence(store, streams.channels, refresh_s=refresh_s)


class Presence:
    """Call `seen` for every message or request of an agent; it costs an entry in a dictionary."""

    def __init__(
        self,
        store: PresenceStore,
        channels: Channels,
        *,
        refresh_s: float,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._store = store
        self._channels = channels
        self._refresh_s = refresh_s
        self._clock = clock
        self._due: dict[str, float] = {}
        self._later: dict[str, float] = {}
        self._written: dict[str, float] = {}
        self._swept_at = clock()

    def seen(self, *agents: str) -> None:
        """Agents (UUIDs) were heard now. May be called in any thread."""
        now = self._clock()
        for agent in agents:
            (self._later if agent in self._written else self._due)[agent] = now

    async def flush(self) -> None:
        """Write those that are due. Raises `StoreUnavailable`; then nothing is forgotten."""
        self._sweep()
        # A copy, because polls are answered, and their agents seen, in threads of the web server.
        due = sorted(self._due)
        for first in range(0, len(due), _AT_ONCE):
            some = {agent: self._due[agent] for agent in due[first : first + _AT_ONCE]}
            uuids = {a: at for a, at in some.items() if ledger.agent_of(a) != ledger.NOBODY}
            changes = await self._store.seen(uuids)
            self._written.update(some)
            for agent in some:
                del self._due[agent]
            await tell(self._channels, changes)

    def _sweep(self) -> None:
        """Find whose time has come again: now and then, as it looks at all agents."""
        now = self._clock()
        if now - self._swept_at < _SWEEP_SHARE * self._refresh_s:
            return
        self._swept_at = now
        for agent in [a for a, at in self._written.items() if now - at >= self._refresh_s]:
            del self._written[agent]
            if (at := self._later.pop(agent, None)) is not None:
                self._due.setdefault(agent, at)

    def chore(self) -> Chore:
        """Writes every few seconds."""
        return Chore("note who was seen", _EVERY_S, self.flush, most_pause_s=_EVERY_S)


def gap_s(every_s: float) -> float:
    """After so long without a look nobody watches any more."""
    return 3 * every_s


class Watch:
    """Finds who is silent, while this process hears what agents send."""

    def __init__(
        self,
        store: PresenceStore,
        channels: Channels,
        *,
        every_s: float,
        hears: Callable[[], bool],
    ) -> None:
        self._store = store
        self._channels = channels
        self._gap_s = gap_s(every_s)
        self._hears = hears

    async def check(self) -> None:
        """Mark the silent as offline. Raises `StoreUnavailable`."""
        if self._hears():
            await tell(self._channels, await self._store.check(gap_s=self._gap_s))


async def tell(channels: Channels, changes: Sequence[Change]) -> None:
    """Publish who came and went, to whoever listens now."""
    for change in changes:
        metrics.PRESENCE_CHANGES.labels("online" if change.online else "offline").inc()
    try:
        await channels.publish_many(
            (channel, message)
            for change, message in [(change, _message(change)) for change in changes]
            for channel in (
                keys.presence_channel(change.tenant, change.agent),
                keys.tenant_presence_channel(change.tenant),
            )
        )
    except StoreUnavailable as error:
        _occasional.warning("live values were not published", error=str(error))


def _message(change: Change) -> bytes:
    return orjson.dumps(
        {"deviceUuid": change.agent, "online": change.online, "timestamp": change.time},
        option=orjson.OPT_UTC_Z,
    )
