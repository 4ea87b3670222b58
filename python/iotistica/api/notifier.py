"""Tells alerts to webhooks: from the queue in PostgreSQL, until each has said that it has them."""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass

from iotistica import log, metrics
from iotistica.api import auth
from iotistica.settings import Settings
from iotistica.store.webhooks import DeliveryStore, Due
from iotistica.webhooks.sender import Call, Outcome, Sender
from iotistica.webhooks.signature import explicit_key, secret_of

_MOST_DELAY_S = 3600.0

_occasional = log.Occasional(log.get(__name__))


def webhook_key(settings: Settings) -> bytes:
    """What secrets of webhooks are computed with. Raises `ConfigError` where there is none."""
    return explicit_key(settings) or auth.secret(settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class Patience:
    """How often a delivery is tried, and how long is waited in between."""

    attempts: int
    first_delay_s: float

    def delay_s(self, attempts: int) -> float | None:
        """Seconds until the next attempt after so many; None where there is none."""
        if attempts >= self.attempts:
            return None
        # At most an hour; spread, so that what failed together does not come back together.
        delay_s = min(self.first_delay_s * 2.0 ** min(attempts - 1, 30), _MOST_DELAY_S)
        return delay_s * random.uniform(0.8, 1.2)  # noqa: S311 (no secret)


class Notifier:
    """Delivers what is due; any number of processes may do so at once.

    At least once: whoever dies during an attempt leaves it to the next, after a while. A receiver
    knows a delivery by its number.
    """

    def __init__(self, settings: Settings, store: DeliveryStore) -> None:
        self._store = store
        self._settings = settings
        self._patience = Patience(
            attempts=settings.webhook_max_attempts, first_delay_s=settings.webhook_first_delay_s
        )
        self._lease_s = settings.webhook_timeout_s * 2 + 30
        self._sender = Sender(
            timeout_s=settings.webhook_timeout_s, private=settings.webhook_private_addresses
        )

    async def deliver_due(self) -> int:
        """Try what is due; how many attempts were made. Raises `StoreUnavailable`."""
        count = 0
        while due := await self._store.claim(lease_s=self._lease_s):
            await asyncio.gather(*(self._deliver(one) for one in due))
            count += len(due)
        return count

    async def test(self, tenant: str, webhook: int) -> tuple[Due, Outcome]:
        """Try a webhook once and now. Raises `StoreUnavailable`, `NotFound`."""
        due = await self._store.test(tenant, webhook, lease_s=self._lease_s)
        outcome = await self._sender.send(self._call(due))
        await self._note(due, outcome, again_s=None)
        return due, outcome

    async def _deliver(self, due: Due) -> None:
        if not due.enabled:
            await self._store.finish(due, status="dead", error="the webhook is disabled")
            return
        outcome = await self._sender.send(self._call(due))
        await self._note(due, outcome, again_s=self._patience.delay_s(due.attempts))

    async def _note(self, due: Due, outcome: Outcome, *, again_s: float | None) -> None:
        if outcome.error is None:
            status = "delivered"
        else:
            status = "dead" if again_s is None else "pending"
            _occasional.warning(
                "a webhook was not told", delivery=due.id, attempts=due.attempts, result=status
            )
        metrics.WEBHOOK_DELIVERIES.labels(status).inc()
        await self._store.finish(
            due,
            status=status,
            response=outcome.status,
            error=outcome.error,
            again_s=again_s or 0.0,
        )

    def _call(self, due: Due) -> Call:
        return Call(
            url=due.url,
            secret=secret_of(webhook_key(self._settings), due.tenant, due.salt),
            delivery=due.id,
            event=due.event,
            body=due.body(),
        )
