"""Which numbers of an agent's messages are missing, and which may still come. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from iotistica.sequences import MOST_NUMBER, Numbering, Range, gaps, highest, length, union

_SHARE = 10


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """The numbers of one agent, judged."""

    seen: int
    highest: int
    restarts: int
    missing: Sequence[Range]
    """Numbers that were never seen."""
    open: Sequence[Range]
    """Numbers that may still come."""
    unknown: Sequence[Range]
    """Numbers that fell into the time when Redis lost its data: stored or lost, nobody counted."""
    unnamed: int
    """Numbers never seen either, too long ago to be named; at most."""

    @property
    def missing_messages(self) -> int:
        """How many were never seen."""
        return length(self.missing) + self.unnamed

    @property
    def is_count(self) -> bool:
        """Whether the numbers count messages: one in ten of those there could be was seen.

        Else they are something else, such as times, and their gaps mean nothing.
        """
        possible = self.seen + self.missing_messages + length(self.open) + length(self.unknown)
        return possible <= _SHARE * self.seen

    @property
    def troubled(self) -> bool:
        """Whether messages are missing."""
        return self.is_count and self.missing_messages > 0


def judge(past: Numbering, live: Numbering, *, now_ms: int, may_come: bool) -> Gaps | None:
    """Gaps of the present epoch and the one before; None where the agent gives no numbers.

    `may_come`: messages of the agent are on their way that are older than `AGE_MS`.
    """
    if not past.current and not live.current:
        return None
    judged: dict[str, list[Range]] = {"missing": gaps(past.previous), "open": [], "unknown": []}
    # Nothing is awaited of a run whose numbering has ended, but what is on its way.
    done, old = (0, 0) if may_come else (MOST_NUMBER, live.old(now_ms))
    runs = [(run, bound) for run, bound in ((live.previous, done), (live.current, old)) if run]
    end = highest(past.current) if past.current else -1
    if _goes_on(past, live):
        runs[0] = (union(past.current, runs[0][0]), runs[0][1])
    else:
        runs.insert(0, (past.current, 0))
    for number, (run, bound) in enumerate(runs):
        for low, high in gaps(run):
            if number == 0 and low <= end + 1:
                # What was young at the last snapshot, or came after it, nobody has counted.
                verdict = "missing" if high < min(past.settled, end) else "unknown"
            else:
                verdict = "missing" if high < bound else "open"
            judged[verdict].append((low, high))
    return Gaps(
        seen=past.seen + live.seen,
        highest=highest(live.current or past.current),
        restarts=past.restarts + live.restarts,
        unnamed=past.missed + past.forgotten + live.missed + live.forgotten,
        **judged,
    )


def _goes_on(past: Numbering, live: Numbering) -> bool:
    """Whether the first run of the epoch is the one in which the epoch before it ended."""
    first = live.previous if live.restarts else live.current
    if not first or live.restarts > 1:
        return False
    return first[0][0] > 1 or not any(low <= first[0][0] <= high for low, high in past.current)
