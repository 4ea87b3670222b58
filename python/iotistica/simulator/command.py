"""What `iotistica simulate` does once its arguments are read."""

from __future__ import annotations

import asyncio
import dataclasses
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import uvloop
from rich.console import Console

from iotistica.errors import ConfigError
from iotistica.settings import Settings
from iotistica.simulator.fleet import Fleet, Progress
from iotistica.simulator.plan import Plan
from iotistica.simulator.run import Summary, provisioned, publish, summarize
from iotistica.simulator.target import Target, exclusive, find
from iotistica.simulator.verify import Verdict


def run(
    plan: Plan,
    *,
    data_dir: Path | None,
    tenant: str | None,
    patience_s: float | None,
    as_json: bool,
) -> bool:
    """Carry out a plan and print what came of it; whether all is well.

    With `patience_s` the table is compared. Raises `ConfigError`, `StoreUnavailable`.
    """
    if plan.reports and patience_s is not None:
        raise ConfigError("--reports makes rows that --verify would not know; give one of them")
    settings = Settings.load()
    target = find(data_dir, settings, tenant)
    with exclusive(target.directory, plan.seed):
        summary, verdict = uvloop.run(_simulate(plan, target, settings, patience_s))
    sys.stdout.write(_json(summary, verdict) if as_json else _text(summary, verdict))
    return verdict is None or verdict.clean


async def _simulate(
    plan: Plan, target: Target, settings: Settings, patience_s: float | None
) -> tuple[Summary, Verdict | None]:
    fleet = Fleet(plan, target.tenant)
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, _Interrupt(fleet))
    async with provisioned(fleet, plan.readings, target, settings) as verifier:
        with _status() as show:
            ledgers = await publish(fleet, target, lambda progress: show(_line(progress, plan)))
            summary = summarize(fleet, ledgers, plan.readings)
            if patience_s is None:
                return summary, None
            show(f"{summary.messages:,} messages sent, waiting for ingestion")
            return summary, await verifier.wait(ledgers, patience_s)


class _Interrupt:
    """The first signal ends the run, and what was sent is still verified; the second ends all."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet
        self._task = asyncio.current_task()
        self._again = False

    def __call__(self) -> None:
        if self._again and self._task is not None:
            self._task.cancel()
        self._again = True
        self._fleet.stop()


@contextmanager
def _status() -> Iterator[Callable[[str], None]]:
    """A line that changes in place on a terminal, and nothing elsewhere."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield lambda _text: None
        return
    with console.status("connecting") as status:
        yield lambda text: status.update(text)


def _line(progress: Progress, plan: Plan) -> str:
    goal = f" of {plan.messages:,}" if plan.messages else ""
    speed = progress.published / max(progress.seconds, 0.001)
    return (
        f"{progress.published:,}{goal} messages in {progress.seconds:.0f} s, "
        f"{speed:,.0f} messages/s, {speed * plan.readings:,.0f} readings/s"
    )


def _json(summary: Summary, verdict: Verdict | None) -> str:
    lines = [dataclasses.asdict(summary)]
    if verdict is not None:
        lines.append(dataclasses.asdict(verdict))
    return "".join(f"{orjson.dumps(line).decode()}\n" for line in lines)


def _text(summary: Summary, verdict: Verdict | None) -> str:
    seconds = max(summary.seconds, 0.001)
    text = (
        f"{summary.agents:,} agents sent {summary.messages:,} messages with {summary.readings:,} "
        f"readings in {summary.seconds:.1f} s: {summary.messages / seconds:,.0f} messages/s, "
        f"{summary.readings / seconds:,.0f} readings/s\n"
    )
    if verdict is not None:
        text += (
            f"{verdict.sent:,} readings sent, {verdict.stored:,} stored, {verdict.lost:,} lost, "
            f"{verdict.doubled:,} doubled, {verdict.rejected:,} rejected\n"
        )
    return text
