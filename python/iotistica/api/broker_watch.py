"""Collects what the broker says about itself, in one control process at a time.

All of them ask for the lease in Redis, where the figures go; whoever has it keeps a session of its
own, which the broker forgets with the connection: so nothing is queued for a process that is away.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from iotistica import keys, log, metrics, mqtt, tasks
from iotistica.api.link import session_options
from iotistica.instants import iso_ms
from iotistica.monitor.figures import MOST_TOPICS, Rates, Value, figures, value
from iotistica.settings import Settings
from iotistica.streams import BrokerFigures

_LEASE_PERIODS = 3
_SILENCE_S = 60.0
_MINUTE_MS = 60_000
_SILENT = "the broker publishes no figures below $SYS, or does not show them to this user"

_occasional = log.Occasional(log.get(__name__))


class BrokerWatch:
    """A chore: `work` returns where another process has the lease, and when the session ends."""

    def __init__(self, settings: Settings, name: str, kept: BrokerFigures) -> None:
        """Raises `ConfigError`."""
        self._options = replace(
            session_options(settings, f"{name}-monitor"), clean_start=True, session_expiry_s=0
        )
        self._client = settings.mqtt_client
        self._period_s = settings.monitor_period_s
        self._kept = kept
        self._topics: dict[str, Value] = {}
        self._rates = Rates()
        self._opened_at = 0.0

    async def work(self) -> None:
        """Collect while this process has the lease. Raises `StoreUnavailable`."""
        if not await self._hold():
            return
        try:
            async with mqtt.connect(self._options, client=self._client) as session:
                await session.subscribe(*keys.SYSTEM_FILTERS, qos=0)
                await self._serve(session)
        except (mqtt.Disconnected, mqtt.Refused) as error:
            _occasional.warning("no figures of the broker", error=str(error))
            await self._write(str(error), connected=False)
        finally:
            self._topics.clear()
            self._rates = Rates()
            metrics.BROKER_FIGURES.clear()

    async def _serve(self, session: mqtt.Session) -> None:
        """Until the lease or the session is lost."""
        self._opened_at = time.monotonic()
        work = [asyncio.create_task(self._receive(session)), asyncio.create_task(self._report())]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            await tasks.end(work)

    async def _receive(self, session: mqtt.Session) -> None:
        while True:
            messages = await session.receive()
            for message in messages:
                if message.topic in self._topics or len(self._topics) < MOST_TOPICS:
                    self._topics[message.topic] = value(message.payload)
            session.acknowledge(messages)

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(self._period_s)
            if not await self._hold():
                return
            silent_s = time.monotonic() - self._opened_at
            is_silent = not self._topics and silent_s > _SILENCE_S
            await self._write(_SILENT if is_silent else None, connected=True)

    async def _hold(self) -> bool:
        for_s = self._period_s * _LEASE_PERIODS
        return await self._kept.hold(self._options.client_id, for_s=for_s)

    async def _write(self, error: str | None, *, connected: bool) -> None:
        now_ms = time.time_ns() // 1_000_000
        found = figures(self._topics)
        rates = self._rates.take(found, time.monotonic())
        shown = {
            "timestamp": iso_ms(now_ms),
            "connected": connected,
            "error": error,
            **found,
            "rates": rates,
        }
        await self._kept.put({**shown, "topics": self._topics})
        if connected and self._topics:
            await self._kept.add_point(now_ms // _MINUTE_MS * _MINUTE_MS, _point(shown))
            _export(found)


def _point(shown: Mapping[str, Any]) -> dict[str, Any]:
    """A minute of the history: what changes."""
    names = ("timestamp", "clients", "subscriptions", "retained", "messages", "bytes", "rates")
    return {name: shown[name] for name in names}


def _export(found: Mapping[str, Any]) -> None:
    for group in ("clients", "messages", "bytes"):
        for name, number in found[group].items():
            if number is not None:
                metrics.BROKER_FIGURES.labels(f"{group}.{name}").set(number)
    for name in ("subscriptions", "retained"):
        if found[name] is not None:
            metrics.BROKER_FIGURES.labels(name).set(found[name])
