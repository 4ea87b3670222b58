"""What a tenant may send each second: token buckets. What is over quota is late, never lost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from iotistica import log
from iotistica.errors import StoreUnavailable

_LOG = log.get(__name__)
_BURST_S = 10.0
"""An idle tenant saves up so many seconds of its rate: agents publish in bursts."""
_REFRESH_S = 10.0

N = TypeVar("N", bound=float)


@dataclass(frozen=True, slots=True, kw_only=True)
class Quota:
    """Limits of one tenant; None is no limit."""

    messages_per_s: float | None = None
    readings_per_s: float | None = None
    bytes_per_s: float | None = None
    stored_readings: int | None = None
    """At a time; see `store.storage`."""

    def over(self, default: Quota) -> Quota:
        """These limits, and those of `default` where there is none."""
        return Quota(
            messages_per_s=_first(self.messages_per_s, default.messages_per_s),
            readings_per_s=_first(self.readings_per_s, default.readings_per_s),
            bytes_per_s=_first(self.bytes_per_s, default.bytes_per_s),
            stored_readings=_first(self.stored_readings, default.stored_readings),
        )


def _first(value: N | None, default: N | None) -> N | None:
    return default if value is None else value


class Bucket:
    """Tokens that come at a rate and are saved up to a bound. It may run into debt once, so that an
    amount larger than the bound passes, and pays it off before anything else does. No I/O.
    """

    def __init__(self, rate: float, *, clock: Callable[[], float] = time.monotonic) -> None:
        self.rate = rate
        self._clock = clock
        self._level = rate * _BURST_S
        self._at = clock()

    def has_tokens(self) -> bool:
        """Whether anything may pass now."""
        now = self._clock()
        self._level = min(self._level + (now - self._at) * self.rate, self.rate * _BURST_S)
        self._at = now
        return self._level > 0

    def take(self, amount: float) -> None:
        """Pay for what passes."""
        self._level -= amount


class Quotas:
    """The buckets of all tenants, as far as one process knows. A quota of the whole platform is
    divided by the processes that take a part of the load: `share`, or for a tenant `divide`.
    """

    def __init__(
        self, *, default: Quota, share: int = 1, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._default = default
        self._share = share
        self._clock = clock
        self._own: Mapping[str, Quota] = {}
        self._shares: dict[str, int] = {}
        self._buckets: dict[tuple[str, str], Bucket] = {}

    def set(self, own: Mapping[str, Quota]) -> None:
        """Take the quotas of tenants that have one of their own."""
        self._own = own

    def divide(self, tenant: str, share: int) -> None:
        """Tell how many processes take a part of a tenant's load now."""
        self._shares[tenant] = max(share, 1)

    def allows(self, tenant: str, **amounts: float) -> bool:
        """Whether so many messages, bytes or readings are within the quota; then they are paid.

        What is over quota is not paid: it goes another way and must not make the next wait longer.
        """
        if not all(self.within(tenant, name) for name in amounts):
            return False
        for name, amount in amounts.items():
            self.pay(tenant, name, amount)
        return True

    def within(self, tenant: str, name: str) -> bool:
        """Whether any messages, bytes or readings are within the quota now."""
        bucket = self._bucket(tenant, name)
        return bucket is None or bucket.has_tokens()

    def pay(self, tenant: str, name: str, amount: float) -> None:
        """Count what has passed."""
        if (bucket := self._bucket(tenant, name)) is not None:
            bucket.take(amount)

    def _bucket(self, tenant: str, name: str) -> Bucket | None:
        quota = self._own.get(tenant, self._default).over(self._default)
        rate: float | None = getattr(quota, f"{name}_per_s")
        if rate is None:
            self._buckets.pop((tenant, name), None)
            return None
        rate /= self._shares.get(tenant, self._share)
        bucket = self._buckets.get((tenant, name))
        if bucket is None or bucket.rate != rate:
            bucket = self._buckets[tenant, name] = Bucket(rate, clock=self._clock)
        return bucket

    async def follow(self, load: Callable[[], Awaitable[Mapping[str, Quota]]]) -> None:
        """Read the quotas again and again, until cancelled. While the database is away, those known
        last hold.
        """
        while True:
            try:
                self.set(await load())
            except StoreUnavailable as error:
                _LOG.debug("quotas could not be read", error=str(error))
            await asyncio.sleep(_REFRESH_S)
