"""What a run showed: by fault, for people and as JSON."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from statistics import median
from typing import Any

from rich.console import Group
from rich.table import Table
from tests.faults.episode import Outcome

_COUNTS = ("sent", "stored", "doubled", "lost", "rejected")


@dataclass(slots=True)
class Report:
    """Outcomes, and sentences about what was wrong."""

    seed: str
    directory: str = ""
    kills: int = 0
    seconds: float = 0.0
    skipped: dict[str, str] = field(default_factory=dict)
    """Faults that were not injected, and why."""
    wrong: list[tuple[str, str]] = field(default_factory=list)
    _outcomes: dict[str, list[Outcome]] = field(default_factory=lambda: defaultdict(list))
    _before_last: int = 0

    def add(self, outcome: Outcome) -> None:
        """Take an episode in."""
        self._before_last = len(self.wrong)
        self._outcomes[outcome.fault].append(outcome)
        self.wrong += [(outcome.fault, sentence) for sentence in outcome.wrong]

    def fail(self, fault: str, sentence: str) -> None:
        """Take in that an episode could not be played to its end."""
        self._before_last = len(self.wrong)
        self.wrong.append((fault, sentence))

    def wrong_of_last(self) -> list[str]:
        """What was wrong in the last episode."""
        return [sentence for _, sentence in self.wrong[self._before_last :]]

    @contextmanager
    def clock(self) -> Iterator[None]:
        """Measures the run."""
        began = time.monotonic()
        try:
            yield
        finally:
            self.seconds = time.monotonic() - began

    @property
    def well(self) -> bool:
        """Whether nothing was wrong."""
        return not self.wrong

    def rows(self) -> list[dict[str, Any]]:
        """One for each fault, in the order of first injection; the last one is the sum."""
        rows = [_row(name, outcomes) for name, outcomes in self._outcomes.items()]
        everything = [outcome for outcomes in self._outcomes.values() for outcome in outcomes]
        return [*rows, _row("all", everything)] if everything else []

    def document(self) -> dict[str, Any]:
        """For `--json`."""
        rows = self.rows()
        return {
            "seed": self.seed,
            "seconds": round(self.seconds, 1),
            "kills": self.kills,
            "well": self.well,
            **{name: rows[-1][name] if rows else 0 for name in (*_COUNTS, "pardoned")},
            "faults": rows[:-1],
            "skipped": self.skipped,
            "wrong": [f"{fault}: {sentence}" for fault, sentence in self.wrong],
        }

    def table(self) -> Group:
        """For people."""
        table = Table(title=f"seed {self.seed}, {self.seconds:.0f} s, {self.kills} kills")
        for name in ("fault", "injected", *_COUNTS, "recovery p50", "max"):
            table.add_column(name, justify="left" if name == "fault" else "right", no_wrap=True)
        rows = self.rows()
        for row in rows:
            if row is rows[-1]:
                table.add_section()
            lost = f"{row['lost']:,}" + (f" (+{row['pardoned']:,})" if row["pardoned"] else "")
            counts = [lost if name == "lost" else f"{row[name]:,}" for name in _COUNTS]
            times = [f"{row[name]:.1f} s" for name in ("recovery_p50_s", "recovery_max_s")]
            table.add_row(row["fault"], str(row["injected"]), *counts, *times)
        notes = [f"left out: {name}, {why}" for name, why in self.skipped.items()]
        if any(row["pardoned"] for row in rows):
            notes.append("(+n): what the fault itself destroyed on the server's disk")
        notes += [f"WRONG {fault}: {sentence}" for fault, sentence in self.wrong]
        notes += [f"logs are in {self.directory}"] if self.wrong else []
        return Group(table, *notes)


def _row(name: str, outcomes: list[Outcome]) -> dict[str, Any]:
    accounts = [outcome.account for outcome in outcomes]
    recoveries = [outcome.recovery_s for outcome in outcomes]
    return {
        "fault": name,
        "injected": len(outcomes),
        **{count: sum(getattr(one.verdict, count) for one in accounts) for count in _COUNTS},
        "pardoned": sum(account.pardoned for account in accounts),
        "recovery_p50_s": round(median(recoveries), 2),
        "recovery_max_s": round(max(recoveries), 2),
    }
