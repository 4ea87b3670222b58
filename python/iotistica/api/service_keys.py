"""Keys of services: made here, remembered for a while by every process."""

from __future__ import annotations

import secrets
from datetime import UTC, datetime

from iotistica.api.digests import Digests
from iotistica.api.principal import PERMISSIONS, Principal
from iotistica.api.remembered import Remembered
from iotistica.errors import Denied
from iotistica.store.api_keys import ApiKey, ApiKeyStore

PREFIX = "iotapi_"
"""Tells them from tokens and from the keys of agents."""

_PURPOSE = "api-key"
_SHOWN = len(PREFIX) + 6


class ServiceKeys:
    """Makes keys and says whose they are."""

    def __init__(self, store: ApiKeyStore, digests: Digests, *, lifetime_s: float) -> None:
        self._store = store
        self._digests = digests
        self._known: Remembered[bytes, ApiKey] = Remembered(store.find, lifetime_s=lifetime_s)
        self._used: set[int] = set()

    def make(self) -> tuple[str, str, bytes]:
        """A key, what may be shown of it, and its digest."""
        key = PREFIX + secrets.token_urlsafe(32)
        return key, key[:_SHOWN], self._digests.digest(_PURPOSE, key)

    async def identify(self, key: str) -> Principal:
        """The service that has this key. Raises `Denied`, `StoreUnavailable`."""
        found = await self._known.get(self._digests.digest(_PURPOSE, key))
        if found is None or (found.expires_at and found.expires_at <= datetime.now(UTC)):
            raise Denied("the API key is not valid")
        self._used.add(found.id)
        return Principal(
            kind="service",
            tenant=found.tenant,
            id=str(found.id),
            name=found.name,
            permissions=PERMISSIONS & frozenset(found.permissions),
        )

    def drop(self, key: int) -> None:
        """Forget a key that was revoked."""
        self._known.drop(lambda _, found: found.id == key)

    def clear(self) -> None:
        """Forget all of them."""
        self._known.drop(lambda *_: True)

    async def flush(self) -> None:
        """Store which keys were used since the last time. Raises `StoreUnavailable`."""
        used, self._used = self._used, set()
        if used:
            await self._store.note_use(used)
