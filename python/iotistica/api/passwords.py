"""Passwords: Argon2id (RFC 9106), in threads, so that the loop of the handlers never waits."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from iotistica.errors import StoreUnavailable
from iotistica.settings import Settings

T = TypeVar("T")

_THREADS = 2
"""Hashes at once: each holds `password_memory_kib`, and a flood of logins must not hold more."""
_MOST_WAITING = 200
"""About two seconds of work; whoever comes then is asked to try again."""


@dataclass(frozen=True, slots=True)
class Verdict:
    """What became of a password; `fresh` is a hash of today's parameters where the old is not."""

    is_right: bool
    fresh: str | None = None


class Passwords:
    """Hashes and verifies. Raises `StoreUnavailable` where too many wait."""

    def __init__(self, settings: Settings) -> None:
        self._hasher = PasswordHasher(
            time_cost=settings.password_passes,
            memory_cost=settings.password_memory_kib,
            parallelism=settings.password_lanes,
        )
        self._threads = ThreadPoolExecutor(_THREADS, "password")
        self._waiting = 0
        self._nobodys = self._hasher.hash("")

    async def hash(self, password: str) -> str:
        """The hash to store."""
        return await self._run(self._hasher.hash, password)

    async def verify(self, stored: str | None, password: str) -> Verdict:
        """Whether the password is that of the hash; None, of nobody, takes as long to deny."""
        return await self._run(self._verify, stored, password)

    def close(self) -> None:
        """Let the threads end."""
        self._threads.shutdown(wait=False)

    def _verify(self, stored: str | None, password: str) -> Verdict:
        try:
            self._hasher.verify(self._nobodys if stored is None else stored, password)
        except (VerificationError, InvalidHashError):
            return Verdict(False)
        if stored is None:
            return Verdict(False)
        is_old = self._hasher.check_needs_rehash(stored)
        return Verdict(True, self._hasher.hash(password) if is_old else None)

    async def _run(self, work: Callable[..., T], *arguments: Any) -> T:
        if self._waiting >= _MOST_WAITING:
            raise StoreUnavailable(f"{self._waiting} passwords wait to be hashed")
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)
        finally:
            self._waiting -= 1
