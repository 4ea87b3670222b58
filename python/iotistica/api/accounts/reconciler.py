"""Tells the broker what the tables say of its users, now or as soon as it can be told."""

from __future__ import annotations

import hashlib

import orjson

from iotistica import log
from iotistica.api.accounts import Account, Accounts, Rule
from iotistica.api.accounts.broker_passwords import BrokerPasswords, StoredPassword
from iotistica.errors import StoreUnavailable
from iotistica.store.broker_users import BrokerUser, BrokerUserStore

_log = log.get(__name__)


class Reconciler:
    """PostgreSQL is the truth: whoever changes a user there need not reach the broker."""

    def __init__(
        self, store: BrokerUserStore, accounts: Accounts, passwords: BrokerPasswords
    ) -> None:
        self._store = store
        self._accounts = accounts
        self._passwords = passwords
        self._is_caught_up = False

    async def tell(self, username: str) -> bool:
        """Tell of one user now; False where that has to wait for the chore."""
        try:
            await self._tell(await self._store.untold(username=username))
        except StoreUnavailable as error:
            _log.warning("the broker will be told later", username=username, error=str(error))
            return False
        return True

    async def tell_soon(self) -> None:
        """Tell of all that changed, as far as it goes now."""
        try:
            await self.step()
        except StoreUnavailable as error:
            _log.warning("the broker will be told later", error=str(error))

    async def step(self, *, everyone: bool = False) -> None:
        """Tell of all that changed, or of all that there is. Raises `StoreUnavailable`."""
        after = 0
        while users := await self._store.untold(after=after, everyone=everyone):
            await self._tell(users)
            after = users[-1].id

    async def catch_up(self) -> None:
        """The chore: everyone at first, and whenever the broker has lost what it knew.

        Raises `StoreUnavailable`.
        """
        if await self._accounts.prepare():
            self._is_caught_up = False
        await self.step(everyone=not self._is_caught_up)
        self._is_caught_up = True

    async def _tell(self, users: list[BrokerUser]) -> None:
        known = [one for user in users if user.is_active and (one := self._account(user))]
        gone = [user.username for user in users if not user.is_active]
        if known:
            await self._accounts.put(known)
        if gone:
            await self._accounts.remove(gone)
        if users:
            await self._store.told(users)

    def _account(self, user: BrokerUser) -> Account | None:
        stored = StoredPassword(user.password_salt, user.password_sealed)
        if stored == StoredPassword():
            return None  # a password that is kept by whoever set it
        password = self._passwords.reveal(user.username, stored)
        if password is None:
            _log.error("a password was sealed under another secret", username=user.username)
            return None
        rules = tuple(Rule(*rule) for rule in user.rules)
        return Account(user.username, password, rules, _version(stored, rules))


def _version(stored: StoredPassword, rules: tuple[Rule, ...]) -> str:
    what = [
        (stored.sealed or stored.salt or b"").hex(),
        [(one.filter, one.access) for one in rules],
    ]
    return hashlib.sha256(orjson.dumps(what)).hexdigest()[:32]
