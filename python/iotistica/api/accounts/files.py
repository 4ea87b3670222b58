"""Accounts of a broker that reads Mosquitto's files: Mosquitto, or the broker of our wheel."""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from urllib.parse import quote

from iotistica import mqtt
from iotistica.api.accounts import SUBSCRIBE, WRITE, Account, Rule
from iotistica.api.accounts.together import Together
from iotistica.credentials import Credentials, User
from iotistica.errors import ConfigError, StoreUnavailable

_RELOAD_S = 5.0
_PROBE_S = 0.02
_READING = SUBSCRIBE | 1


class Files:
    """Writes both files, tells the broker by SIGHUP, and waits until it has read them.

    A broker that does not run is no reason to fail: it reads the files when it starts.
    """

    def __init__(self, credentials: Credentials, *, pid_file: Path | None, mqtt_url: str) -> None:
        self._credentials = credentials
        self._pid_file = pid_file
        self._mqtt_url = mqtt_url
        self._together = Together(self._put)

    async def prepare(self) -> bool:
        """Nothing: whoever starts the broker makes the services' own account."""
        return False

    async def put(self, accounts: Sequence[Account]) -> None:
        """Many that come at the same time share one write and one reload."""
        await self._together.put(accounts)

    async def remove(self, usernames: Collection[str]) -> None:
        """Their sessions end with the reload."""
        async with self._together.alone:
            await self._write(lambda: self._credentials.remove(usernames))
            self._reload()

    async def _put(self, batch: Mapping[str, Account]) -> None:
        users = {
            name: User(one.password, tuple(_line(rule) for rule in one.rules))
            for name, one in batch.items()
        }
        await self._write(lambda: self._credentials.add(users))
        if self._reload():
            await self._until_known(list(batch.values())[-1])

    async def _write(self, change: Callable[[], None]) -> None:
        try:
            await asyncio.to_thread(change)
        except (OSError, ConfigError) as error:
            raise StoreUnavailable(f"the broker's files cannot be written: {error}") from error

    def _reload(self) -> bool:
        """Whether there is a broker to reload."""
        if self._pid_file is None:
            return False
        with suppress(OSError, ValueError, IndexError):
            os.kill(int(self._pid_file.read_text().split()[0]), signal.SIGHUP)
            return True
        return False

    async def _until_known(self, account: Account) -> None:
        options = self._options(account)
        deadline = time.monotonic() + _RELOAD_S
        while True:
            try:
                async with mqtt.connect(options):
                    return
            except (mqtt.Refused, mqtt.Disconnected) as error:
                if time.monotonic() > deadline:
                    raise StoreUnavailable(
                        f"the broker did not take the files within {_RELOAD_S:g} s: {error}"
                    ) from None
            await asyncio.sleep(_PROBE_S)

    def _options(self, account: Account) -> mqtt.Options:
        ours = mqtt.parse_url(self._mqtt_url, client_id="")
        user, password = quote(account.username, safe=""), quote(account.password, safe="")
        return mqtt.parse_url(
            f"{'mqtts' if ours.tls else 'mqtt'}://{user}:{password}@{ours.host}:{ours.port}",
            # An id of its own: the agent's may be connected.
            client_id=f"iotistica-probe-{os.getpid()}",
            clean_start=True,
        )


def _line(rule: Rule) -> str:
    """A rule as Mosquitto's acl_file has it."""
    if not rule.access & WRITE:
        return f"read {rule.filter}"
    return f"{'readwrite' if rule.access & _READING else 'write'} {rule.filter}"
