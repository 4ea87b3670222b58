"""Accounts of a broker that asks us: whoever remembers what was answered is told to look again."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from iotistica import keys
from iotistica.api.accounts import Account
from iotistica.streams.channels import Channels

ALL = "*"
"""In the place of a name: all that is remembered."""

_MOST = 100


class Asking:
    """Tells every web process by Redis."""

    def __init__(self, channels: Channels) -> None:
        self._channels = channels

    async def prepare(self) -> bool:
        """Nothing: there is nothing that the broker could lose."""
        return False

    async def put(self, accounts: Sequence[Account]) -> None:
        """From now on the broker is answered by what they are now."""
        await self._tell([account.username for account in accounts])

    async def remove(self, usernames: Collection[str]) -> None:
        """The same. A session goes on, in which nothing is allowed any more."""
        await self._tell(usernames)

    async def _tell(self, usernames: Collection[str]) -> None:
        names = usernames if len(usernames) <= _MOST else [ALL]
        await self._channels.publish_many(
            (keys.BROKER_USERS_CHANNEL, name.encode()) for name in names
        )
