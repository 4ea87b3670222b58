"""The live line of `iotistica up`: what the two services' metrics say, as rates."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from dataclasses import dataclass

import aiohttp
from prometheus_client.parser import text_string_to_metric_families
from rich.console import Console
from rich.live import Live

_TERMINAL_S = 1.0
_PLAIN_S = 5.0


@dataclass(frozen=True, slots=True)
class Figures:
    """Totals and gauges at one moment (monotonic seconds)."""

    at_s: float
    messages: float
    readings: float
    lag: float
    dead_letters: float

    def since(self, before: Figures) -> str:
        """One line: rates since `before`, and how things stand now."""
        # A restarted process counts from zero again.
        seconds = max(self.at_s - before.at_s, 1e-3)
        messages = max(self.messages - before.messages, 0) / seconds
        readings = max(self.readings - before.readings, 0) / seconds
        return (
            f"{messages:,.0f} messages/s   {readings:,.0f} readings/s   "
            f"lag {self.lag:,.0f}   dead letters {self.dead_letters:,.0f}"
        )


def parse(api: str, ingestion: str) -> Figures:
    """Figures out of the two Prometheus texts."""
    received, stored = _sums(api), _sums(ingestion)
    return Figures(
        at_s=time.monotonic(),
        messages=received["iotistica_bridge_messages_total"],
        readings=stored["iotistica_readings_stored_total"],
        lag=stored["iotistica_ingestion_lag_entries"]
        + stored["iotistica_ingestion_pending_entries"],
        dead_letters=stored["iotistica_dead_letter_entries"],
    )


def _sums(text: str) -> Counter[str]:
    sums: Counter[str] = Counter()
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            sums[sample.name] += sample.value  # type: ignore[assignment]
    return sums


async def show(console: Console, api: str, ingestion: str, restarts: Counter[str]) -> None:
    """Print figures until cancelled: one line that lives on a terminal, else line after line."""
    every_s = _TERMINAL_S if console.is_terminal else _PLAIN_S
    timeout = aiohttp.ClientTimeout(total=every_s)
    async with aiohttp.ClientSession(timeout=timeout) as session:
        with Live(console=console, auto_refresh=False, transient=True) as live:
            before = None
            while True:
                now = await _fetch(session, api, ingestion)
                line = _line(before, now, restarts)
                if console.is_terminal:
                    live.update(line, refresh=True)
                elif before and now:
                    console.print(line, highlight=False)
                before = now
                await asyncio.sleep(every_s)


def _line(before: Figures | None, now: Figures | None, restarts: Counter[str]) -> str:
    line = "waiting for figures"
    if before and now:
        line = now.since(before)
    if restarts:
        line += "   restarts " + ", ".join(f"{name} {count}" for name, count in restarts.items())
    return line


async def _fetch(session: aiohttp.ClientSession, api: str, ingestion: str) -> Figures | None:
    async def text(url: str) -> str:
        async with session.get(f"{url}/metrics") as response:
            return await response.text()

    try:
        return parse(*await asyncio.gather(text(api), text(ingestion)))
    except (OSError, TimeoutError, aiohttp.ClientError, ValueError):
        return None
