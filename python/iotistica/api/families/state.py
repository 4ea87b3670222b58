"""`state` and `metrics`: what agents report about themselves (reference sections 1.4 and 3)."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Sequence

from iotistica import keys, log
from iotistica.api.batch import Batch, Telemetry
from iotistica.api.families import reports
from iotistica.api.families.family import Incoming, Refusal
from iotistica.api.families.reports import Reported
from iotistica.errors import StoreUnavailable
from iotistica.store.reports import ReportStore
from iotistica.streams import Channels

Send = Callable[[Batch], Awaitable[None]]
"""Returns when a batch is safe."""

_occasional = log.Occasional(log.get(__name__))


class Reports:
    """Merges reports, sends their numbers the way of all readings, then tells who listens.

    Everything may be done again: merging is idempotent, and readings have the time of their report.
    """

    def __init__(self, store: ReportStore, channels: Channels, send: Send) -> None:
        self._store = store
        self._channels = channels
        self._send = send

    async def keep(self, reported: Sequence[Reported], *, publish_state: bool) -> None:
        """Keep reports, in order. Raises `StoreUnavailable`."""
        await self._store.merge([one.report for one in reported])
        batches: dict[str, Telemetry] = {}
        for one in reported:
            tenant = one.message.tenant
            if tenant not in batches:
                batches[tenant] = Telemetry(tenant, time.monotonic())
            reports.add_readings(batches[tenant], one)
        for batch in batches.values():
            if batch.fields:
                await self._send(batch)
        await self._publish(reported, publish_state=publish_state)

    async def _publish(self, reported: Sequence[Reported], *, publish_state: bool) -> None:
        messages = []
        for one in reported:
            tenant, agent = one.message.tenant, one.message.agent
            if publish_state and one.report.fields:
                messages.append((keys.state_channel(tenant, agent), reports.state_message(one)))
            if (metrics := reports.metrics_message(one)) is not None:
                messages.append((keys.metrics_channel(tenant, agent), metrics))
        try:
            await self._channels.publish_many(messages)
        except StoreUnavailable as error:
            # Live values are for now; everything else is kept.
            _occasional.warning("live values were not published", error=str(error))


class State:
    """Reports of state, full or partial."""

    filters = ("state",)
    shared = True

    def __init__(self, kept: Reports) -> None:
        self._reports = kept

    async def take(self, messages: Sequence[Incoming]) -> Sequence[Refusal]:
        """Merge and publish them."""
        read = [reports.read_state(message) for message in messages]
        reported = [one for one in read if isinstance(one, Reported)]
        await self._reports.keep(reported, publish_state=True)
        return [one for one in read if isinstance(one, Refusal)]


class Metrics:
    """System metrics by themselves, to which the reference does not subscribe."""

    filters = ("metrics",)
    shared = True

    def __init__(self, kept: Reports) -> None:
        self._reports = kept

    async def take(self, messages: Sequence[Incoming]) -> Sequence[Refusal]:
        """Merge and publish them."""
        read = [reports.read_metrics(message) for message in messages]
        reported = [one for one in read if isinstance(one, Reported)]
        await self._reports.keep(reported, publish_state=False)
        return [one for one in read if isinstance(one, Refusal)]
