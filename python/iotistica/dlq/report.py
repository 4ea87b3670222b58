"""What people read about letters."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.table import Table

from iotistica import explain
from iotistica.redrive import Proof, Result, Totals
from iotistica.streams import Letter
from iotistica.streams.letters import Page, Summary
from iotistica.tables import rendered

_SHOWN_AGENTS = 20
_RESULTS = {Result.PASSED: "passed", Result.STILL_BAD: "still bad", Result.FAILED: "undecided"}


def listed(page: Page) -> str:
    """A table, youngest letter first."""
    if not page.letters:
        return "no letters\n" if page.cursor is None else _more(page.cursor)
    table = Table(
        *("id", "failed at", "stage", "reason", "agent", "readings", "replays", "bytes", "error"),
        box=None,
        pad_edge=False,
    )
    for letter in page.letters:
        dead = letter.dead
        table.add_row(
            *(letter.id, f"{dead.failed_at:%Y-%m-%d %H:%M:%S}", dead.stage, dead.reason),
            *(dead.agent, f"{dead.readings:,}", str(dead.replays), f"{letter.size:,}", dead.error),
        )
    return rendered(table) + (_more(page.cursor) if page.cursor else "")


def summary(found: Summary) -> str:
    """Counts, the largest first."""
    output = f"{found.letters:,} letters with {found.readings:,} readings\n"
    for name, counts in (
        ("reason", found.reasons),
        ("stage", found.stages),
        ("agent", found.agents),
    ):
        output += "\n" + _counted(name, counts)
    return output if found.letters else "no letters\n"


def shown(letter: Letter, explained: dict[str, Any]) -> str:
    """All fields, then what each stage makes of the payload."""
    fields = "".join(f"{name:<12} {value}\n" for name, value in letter.described().items())
    return f"{fields}\n{explain.text(explained)}"


def proof(one: Proof, *, dry_run: bool) -> str:
    """One line about one letter."""
    inserts = f"{'would insert' if dry_run else 'inserted'} {one.inserted:,}"
    line = f"{one.id} {_RESULTS[one.result]}: {inserts}, already there {one.duplicate:,}"
    if one.faults:
        first = one.faults[0]
        line += f", still bad {one.rejected:,}: {first.stage}, {first.reason}: {one.error}"
    return line


def replayed(totals: Totals, missing: Sequence[str], *, dry_run: bool) -> str:
    """What became, or would become, of all of them."""
    would = "would be " if dry_run else ""
    text = (
        f"{totals.letters:,} letters: {totals.passed:,} {'would pass' if dry_run else 'passed'}, "
        f"{totals.still_bad:,} {would}still bad, {totals.failed:,} undecided\n"
        f"{totals.inserted:,} readings {would}inserted, {totals.duplicate:,} already there, "
        f"{totals.rejected:,} still bad\n"
    )
    for reason, count in totals.reasons.most_common():
        text += f"  {reason}: {count:,} letters\n"
    if missing:
        text += f"not there, or not chosen by the filter: {' '.join(missing)}\n"
    return text


def _counted(name: str, counts: Counter[str]) -> str:
    table = Table(name, "letters", box=None, pad_edge=False)
    for value, count in counts.most_common(_SHOWN_AGENTS):
        table.add_row(value or "(none)", f"{count:,}")
    if len(counts) > _SHOWN_AGENTS:
        table.add_row(f"... {len(counts) - _SHOWN_AGENTS:,} more; see --json")
    return rendered(table)


def _more(cursor: str) -> str:
    return f"more: --cursor {cursor}\n"
