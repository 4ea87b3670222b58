"""What a broker that asks is answered: may this client connect, may it do that.

Users are remembered, not decisions: an answer from memory is the comparison of one password, or of
a topic with a few filters. A change is told by Redis and drops a user in every process; should that
not arrive, users are looked up again after `mqtt_callback_cache_s`. While PostgreSQL is away, those
that were here lately go on being known: else every message of the fleet would be refused.
"""

from __future__ import annotations

import hmac
import time
from collections.abc import Callable
from dataclasses import dataclass

from iotistica import log
from iotistica.api.accounts import READ, SUBSCRIBE, WRITE
from iotistica.api.accounts.asking import ALL
from iotistica.api.accounts.broker_passwords import BrokerPasswords, StoredPassword
from iotistica.api.device_keys import DeviceKeys
from iotistica.api.remembered import Remembered
from iotistica.errors import Forbidden, StoreUnavailable
from iotistica.store.broker_users import BrokerUser, BrokerUserStore
from iotistica.topic_filters import covers, is_name, unshared

EVERYTHING = READ | WRITE | SUBSCRIBE

_MOST_USERS = 50_000
_MOST_STRANGERS = 5000
_STRANGER_S = 5.0
_STALE_S = 600.0

_log = log.get(__name__)


@dataclass(frozen=True, slots=True)
class Service:
    """The account that iotistica itself connects with: the one superuser."""

    username: str
    password: str


@dataclass(frozen=True, slots=True)
class _Client:
    """Whoever is behind a username."""

    user: BrokerUser
    is_by_key: bool = False
    """The username was the agent's API key, which is its own proof."""


class BrokerAccess:
    """Decides. Every method raises `StoreUnavailable` where nobody can decide now."""

    def __init__(
        self,
        store: BrokerUserStore,
        *,
        passwords: BrokerPasswords,
        keys: DeviceKeys,
        service: Service | None,
        cache_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._passwords = passwords
        self._keys = keys
        self._service = service
        self._clock = clock
        self._users = Remembered(self._load, lifetime_s=cache_s, most=_MOST_USERS, clock=clock)
        self._strangers: dict[str, float] = {}
        self._lately: dict[str, tuple[float, BrokerUser]] = {}
        self._changes = 0

    async def refusal(self, username: str, password: str) -> str | None:
        """Why a client may not connect, in the reference's words; None where it may."""
        if self.is_superuser(username):
            return None if self._is_service(password) else "Invalid password"
        try:
            client = await self._client(username)
        except Forbidden:
            return "User inactive"
        if client is None:
            self._passwords.verify(username, None, password)
            return "User not found"
        user = client.user
        stored = StoredPassword(user.password_salt, user.password_sealed)
        is_right = self._passwords.verify(user.username, stored, password)
        if client.is_by_key:
            is_right |= not password or hmac.compare_digest(password.encode(), username.encode())
        elif not password:
            return "Missing credentials"
        if not is_right:
            return "Invalid password"
        return None if user.is_active else "User inactive"

    def is_superuser(self, username: str) -> bool:
        """Whether it is iotistica itself: nobody else is one."""
        return self._service is not None and username == self._service.username

    async def allows(self, username: str, topic: str, access: int) -> bool:
        """Whether one of the user's rules allows all of `access` on all of `topic`."""
        if self.is_superuser(username):
            return True
        try:
            client = await self._client(username)
        except Forbidden:
            return False
        if client is None or not client.user.is_active:
            return False
        if access & SUBSCRIBE:
            topic = unshared(topic)
        elif not is_name(topic):
            return False
        return any(
            granted & access == access and covers(rule, topic)
            for rule, granted in client.user.rules
        )

    def forget(self, username: str) -> None:
        """Look a user up again, whose password or rights have changed; `*` is all."""
        self._changes += 1
        if username == ALL:
            self._users.drop(lambda _name, _known: True)
            self._strangers.clear()
            self._lately.clear()
            return
        self._users.drop(lambda name, _known: name == username)
        self._strangers.pop(username, None)
        self._lately.pop(username, None)

    def forget_all(self) -> None:
        """The same for all: changes may have been missed. What is stale may still be used where
        PostgreSQL is away."""
        self._changes += 1
        self._users.drop(lambda _name, _known: True)
        self._strangers.clear()

    def _is_service(self, password: str) -> bool:
        expected = self._service.password if self._service is not None else ""
        return bool(expected) and hmac.compare_digest(password.encode(), expected.encode())

    async def _client(self, username: str) -> _Client | None:
        # Names that we gave have one of the two; a key must not be noted as a stranger's name.
        if not username.startswith("agent_") and "." not in username:
            agent = await self._keys.identify(username)
            if agent is not None:
                found = await self._known(f"agent_{agent.id}")
                return None if found is None else _Client(found, is_by_key=True)
        known = await self._known(username)
        return None if known is None else _Client(known)

    async def _known(self, username: str) -> BrokerUser | None:
        if (until := self._strangers.get(username)) is not None:
            if until > self._clock():
                return None
            del self._strangers[username]
        changes = self._changes
        known = await self._users.get(username)
        if known is None and changes == self._changes:
            if len(self._strangers) >= _MOST_STRANGERS:
                self._strangers.clear()
            self._strangers[username] = self._clock() + _STRANGER_S
        return known

    async def _load(self, username: str) -> BrokerUser | None:
        changes = self._changes
        try:
            found = await self._store.get(username)
        except StoreUnavailable as error:
            at, known = self._lately.get(username, (0.0, None))
            if known is None or self._clock() - at > _STALE_S:
                raise
            _log.warning("a user of the broker goes by what was known", error=str(error))
            return known
        self._lately.pop(username, None)
        if found is not None and changes == self._changes:
            while len(self._lately) >= _MOST_USERS:
                del self._lately[next(iter(self._lately))]
            self._lately[username] = self._clock(), found
        return found
