"""Accounts at the broker, however the broker learns of them."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol

READ, WRITE, SUBSCRIBE = 1, 2, 4
"""Bits of `Rule.access` (reference section 1.5)."""


@dataclass(frozen=True, slots=True)
class Rule:
    """What an account may do with the topics of one filter."""

    filter: str
    access: int


@dataclass(frozen=True, slots=True)
class Account:
    """A user of the broker."""

    username: str
    password: str
    rules: tuple[Rule, ...]
    version: str = ""
    """Differs where password or rules differ, and says nothing of either."""


class Accounts(Protocol):
    """Tells the broker. Every method may be repeated, and raises `StoreUnavailable` where the
    broker cannot be told now."""

    async def prepare(self) -> bool:
        """Make sure of what any account needs; True where the broker has lost what it was told."""

    async def put(self, accounts: Sequence[Account]) -> None:
        """Add or replace accounts; when this returns, the broker lets them in."""

    async def remove(self, usernames: Collection[str]) -> None:
        """Remove accounts, and end the sessions that they have."""


class Elsewhere:
    """The `Accounts` of a broker that somebody else keeps."""

    async def prepare(self) -> bool:
        """Nothing."""
        return False

    async def put(self, accounts: Sequence[Account]) -> None:
        """Nothing."""

    async def remove(self, usernames: Collection[str]) -> None:
        """Nothing."""
