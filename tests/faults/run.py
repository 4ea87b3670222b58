"""The long run: faults at random, each with load, quiet and comparison, and a table at the end.

Exit codes: 0 nothing lost or doubled and nothing else wrong, 1 something was, 2 wrong argument.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import signal
import sys
import time
import traceback
from argparse import ArgumentParser, Namespace
from collections.abc import Iterator, Sequence

import orjson
from rich.console import Console
from tests.faults.episode import Outcome, play
from tests.faults.injections import FAULTS, OPEN, Fault
from tests.faults.load import Crew, muster
from tests.faults.report import Report
from tests.faults.rig import Options, Rig, running

from iotistica.simulator.plan import Plan

_PROGRAM = "python -m tests.faults.run"


def plan(rate: float = 120.0, readings: int = 20) -> Plan:
    """The load of an episode: one agent of each protocol, and a share of everything odd."""
    return Plan(
        agents=6,
        rate=rate,
        readings=readings,
        duplicates=0.05,
        malformed=0.03,
        late=0.03,
        seed="faults",
    )


class Deck:
    """Every fault once in random order, then again; `kills` deals only what kills."""

    def __init__(self, faults: Sequence[Fault], rng: random.Random) -> None:
        self._faults, self._rng = faults, rng
        self._cards: list[Fault] = []

    def deal(self, *, kills: bool) -> Fault:
        """The next fault."""
        while True:
            self._cards = self._cards or self._rng.sample(self._faults, len(self._faults))
            fault = self._cards.pop()
            if fault.kills or not kills:
                return fault


async def run(
    options: Namespace, faults: Sequence[Fault], report: Report, console: Console
) -> None:
    """Play episodes until the time is over and enough was killed; `report` takes them in."""
    made = Options(broker=options.broker, ingestions=options.ingestions)
    rng = random.Random(options.seed)
    deck = Deck(faults, rng)
    async with running(made, keep=options.keep) as rig:
        report.directory = str(rig.directory)
        crew = await muster(plan(options.rate, options.readings), rig.target)
        with report.clock():
            until = time.monotonic() + options.duration
            while (over := time.monotonic() >= until) is False or report.kills < options.kills:
                fault = deck.deal(kills=over)
                outcome = await _attempt(rig, crew, fault, rng, report)
                report.kills = rig.kills.total()
                _say(console, fault, outcome, report)


async def _attempt(
    rig: Rig, crew: Crew, fault: Fault, rng: random.Random, report: Report
) -> Outcome | None:
    """One episode; an error in it is noted, and the rig is healed for the next."""
    try:
        outcome = await play(rig, crew, fault, rng=rng, brief=False)
    except Exception as error:
        last = traceback.extract_tb(error.__traceback__)[-1]
        report.fail(fault.name, f"{error!r} in {last.filename}:{last.lineno}")
        await rig.heal()
        return None
    report.add(outcome)
    return outcome


def _say(console: Console, fault: Fault, outcome: Outcome | None, report: Report) -> None:
    what = "the episode failed"
    if outcome is not None:
        verdict = outcome.account.verdict
        what = (
            f"{verdict.sent:,} sent, {verdict.lost:,} lost, {verdict.doubled:,} doubled, "
            f"recovered in {outcome.recovery_s:.1f} s"
        )
    stamp = time.strftime("%H:%M:%S")
    line = f"{stamp} {fault.name}: {what}; {report.kills} kills"
    console.print(line, highlight=False, soft_wrap=True)
    for sentence in report.wrong_of_last():
        console.print(f"         {sentence}", style="red", highlight=False, soft_wrap=True)


def _parse(arguments: Sequence[str] | None) -> Namespace:
    parser = ArgumentParser(prog=_PROGRAM, description=__doc__)
    add = parser.add_argument
    add("--seed", default="1", help="what is injected, and when (default 1)")
    add("--duration", type=float, default=600.0, metavar="SECONDS", help="default 600")
    add("--kills", type=int, default=0, help="go on until so many processes were killed with -9")
    add("--only", nargs="+", metavar="NAME", help="names out of --list")
    add("--list", action="store_true", help="print the faults and stop")
    add("--broker", choices=("builtin", "mosquitto"), default="builtin")
    add("--ingestions", type=int, choices=range(1, 5), default=2, help="processes (default 2)")
    add("--rate", type=float, default=120.0, help="messages a second (default 120)")
    add("--readings", type=int, default=20, help="readings in a message (default 20)")
    add("--keep", action="store_true", help="keep directory, data and logs")
    add("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args(arguments)
    if unknown := set(options.only or ()) - FAULTS.keys():
        parser.error(f"--only: {', '.join(sorted(unknown))} is not one of --list")
    if options.kills and not any(FAULTS[name].kills for name in options.only or FAULTS):
        parser.error("--kills: none of the faults of --only kills")
    return options


def choose(options: Namespace, report_skip: dict[str, str]) -> list[Fault]:
    """The faults to inject; why the others are left out goes into `report_skip`."""
    made = Options(broker=options.broker, ingestions=options.ingestions)
    chosen = []
    for fault in FAULTS.values():
        if options.only and fault.name not in options.only:
            continue
        why = fault.lacks(made) or (OPEN.get(fault.name, "") if not options.only else "")
        if why:
            report_skip[fault.name] = why
        else:
            chosen.append(fault)
    return chosen


@contextlib.contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """SIGTERM ends the run as Ctrl-C does: everything is stopped."""
    before = signal.signal(signal.SIGTERM, signal.getsignal(signal.SIGINT))
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; its exit code."""
    options = _parse(arguments)
    console = Console(stderr=True)
    if options.list:
        for fault in FAULTS.values():
            print(f"{fault.name}: {fault.text}")
        return 0
    skipped: dict[str, str] = {}
    faults = choose(options, skipped)
    if not faults:
        print(f"nothing to inject: {skipped}", file=sys.stderr)
        return 2
    report = Report(seed=options.seed, skipped=skipped)
    # What was seen until an interrupt is reported all the same.
    with _ended_by_sigterm(), contextlib.suppress(KeyboardInterrupt):
        asyncio.run(run(options, faults, report, console))
    Console(width=None if sys.stdout.isatty() else 140).print(report.table())
    if options.json:
        sys.stdout.write(orjson.dumps(report.document()).decode() + "\n")
    return 0 if report.well else 1


if __name__ == "__main__":
    raise SystemExit(main())
