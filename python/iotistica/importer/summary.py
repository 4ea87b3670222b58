"""What became of an import."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from iotistica.importer.refusal import Refusal

FIRST = 5
"""Refusals of each reason that are kept."""


@dataclass(slots=True, kw_only=True)
class Summary:
    """Counts of readings; a line is read once all of its readings are decided."""

    files: int = 0
    """Read to their ends."""
    lines: int = 0
    readings: int = 0
    stored: int = 0
    """With a dry run: what would be stored, or is there."""
    duplicate: int = 0
    """Were there already, or stood in the file twice."""
    collided: int = 0
    """Of the duplicates: share agent, metric and time with a reading of another device."""
    texts: int = 0
    """Values that are no numbers; telemetry keeps them in `extra`."""
    refused: int = 0
    letters: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    first: dict[str, list[Refusal]] = field(default_factory=dict)
    ignored: set[str] = field(default_factory=set)
    """Columns that no reading takes."""
    seconds: float = 0.0
    dry_run: bool = False
    ended: str | None = None
    """Why it ended early."""

    def refuse(self, refusal: Refusal) -> bool:
        """Count it; whether it is among the first of its reason."""
        self.refused += 1
        self.reasons[refusal.reason] += 1
        first = self.first.setdefault(refusal.reason, [])
        if len(first) < FIRST:
            first.append(refusal)
            return True
        return False

    @property
    def rate(self) -> int:
        """Readings a second."""
        return round(self.readings / self.seconds) if self.seconds else 0

    def described(self) -> dict[str, Any]:
        """For JSON."""
        names = (
            *("files", "lines", "readings", "stored", "duplicate", "collided", "refused"),
            *("texts", "letters"),
        )
        reasons = [
            {
                "reason": reason,
                "count": count,
                "first": [one.described() for one in self.first[reason]],
            }
            for reason, count in self.reasons.most_common()
        ]
        return {
            **{name: getattr(self, name) for name in names},
            "reasons": reasons,
            "ignored_columns": sorted(self.ignored),
            "seconds": round(self.seconds, 3),
            "dry_run": self.dry_run,
            "ended": self.ended,
        }

    def text(self) -> str:
        """For people."""
        return "".join(f"{line}\n" for line in self._lines())

    def _lines(self) -> Iterator[str]:
        stored = "would be stored or are there" if self.dry_run else "stored"
        yield (
            f"{self.lines:,} lines, {self.readings:,} readings in {self.seconds:,.1f} s "
            f"({self.rate:,} a second)"
        )
        yield f"  {self.stored:,} {stored}"
        if self.duplicate:
            yield f"  {self.duplicate:,} already there"
        if self.collided:
            yield f"    {self.collided:,} of them from another device than the one that is stored"
        if self.texts:
            yield f"  {self.texts:,} values are no numbers: their text is kept in extra"
        if self.refused:
            yield f"  {self.refused:,} refused"
        for reason, count in self.reasons.most_common():
            places = ", ".join(f"{one.file}:{one.line}" for one in self.first[reason])
            yield f"    {count:,} {reason}: {places}{', …' if count > FIRST else ''}"
        if self.letters:
            yield f"  {self.letters:,} dead letters written: iotistica dlq list"
        if self.ignored:
            yield f"  columns that no reading takes: {', '.join(map(repr, sorted(self.ignored)))}"
        if self.ended is not None:
            yield f"ended early: {self.ended}; run it again, nothing is stored twice"
