"""Accounts that come at the same time, told to the broker at once."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence

from iotistica.api.accounts import Account


class Together:
    """One write at a time; it takes along whatever came during the one before."""

    def __init__(self, write: Callable[[Mapping[str, Account]], Awaitable[None]]) -> None:
        self._write = write
        self._waiting: dict[str, Account] = {}
        self.alone = asyncio.Lock()
        """Held by a write; by whoever else must not meet one."""

    async def put(self, accounts: Sequence[Account]) -> None:
        """Returns when they are written. Raises what writing raises."""
        self._waiting |= {account.username: account for account in accounts}
        async with self.alone:
            if not any(self._waiting.get(one.username) is one for one in accounts):
                return  # the write before took them along
            batch, self._waiting = self._waiting, {}
            try:
                await self._write(batch)
            except BaseException:
                # Whoever waits for these tries them again.
                self._waiting = batch | self._waiting
                raise
