"""What follows a change of agents: caches and broker learn of it."""

from __future__ import annotations

from collections.abc import Sequence
from uuid import UUID

from iotistica import keys, log
from iotistica.api.accounts.reconciler import Reconciler
from iotistica.api.device_keys import DeviceKeys
from iotistica.errors import StoreUnavailable
from iotistica.streams import Streams

_log = log.get(__name__)


class AgentChanges:
    """Tells whoever remembers. The change itself is committed: nothing here may undo it."""

    def __init__(self, device_keys: DeviceKeys, streams: Streams, reconciler: Reconciler) -> None:
        self._keys = device_keys
        self._streams = streams
        self._reconciler = reconciler

    async def tell(self, agents: Sequence[UUID | str]) -> None:
        """Their keys or rights have changed, or they are gone."""
        for agent in agents:
            self._keys.forget(str(agent))
        try:
            await self._streams.channels.publish_many(
                (keys.AGENTS_CHANNEL, str(agent).encode()) for agent in agents
            )
        except StoreUnavailable as error:
            # They look for themselves before long.
            _log.warning("a change of agents was not told", error=str(error))
        await self._reconciler.tell_soon()
