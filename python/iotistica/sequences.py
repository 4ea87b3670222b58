"""The numbers that agents give their messages (`msgId`), and the gaps in them. Pure.

Of each agent Redis holds the numbers that were seen, as ranges; `streams/sequences.lua` merges new
ones into them, in any order, and this module is the same in Python, to read and to test by.

Numbering that begins again (0 or 1, far below what was seen) starts a new run of ranges. Two runs
are kept, because the last messages of the old one may come after the first of the new: a number
belongs to the run whose highest is nearer. A run keeps `MOST_RANGES` ranges; of an older gap only
its size is remembered.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from itertools import pairwise

MOST_RANGES = 64
REORDERED = 100
"""A message may come so many numbers late: within them, 0 or 1 is not a new beginning."""
AGE_MS = 5000
"""What is missing for less may still come."""
MOST_NUMBER = 10**12 - 1
"""What is larger is a time, and no count of messages."""

Range = tuple[int, int]
"""First and last number, inclusive."""
Run = tuple[Range, ...]
"""Ranges that do not touch, ascending."""

_STATE = re.compile(
    r"(?P<numbers>\d+( \d+){6});(?P<previous>[\d,-]*);(?P<current>[\d,-]*)", re.ASCII
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Numbering:
    """What was seen of one agent's numbers."""

    restarts: int = 0
    seen: int = 0
    """Different numbers, over all runs."""
    missed: int = 0
    """Numbers missing in runs that are kept no longer."""
    forgotten: int = 0
    """Numbers missing in gaps that are kept no longer; at most, as some may have come since."""
    settled: int = 0
    """Gaps up to here are older than `AGE_MS`."""
    mark: int = 0
    """The highest number at `mark_ms`, which becomes `settled` when it is old enough."""
    mark_ms: int = 0
    previous: Run = ()
    current: Run = ()

    def old(self, now_ms: int) -> int:
        """Highest number below which gaps are older than `AGE_MS`."""
        age_ms = abs(now_ms - self.mark_ms)
        if age_ms >= 2 * AGE_MS:
            return highest(self.current)
        return self.mark if age_ms >= AGE_MS else self.settled


def parse(text: str) -> Numbering:
    """What Redis holds. Raises `ValueError`."""
    if not text:
        return Numbering()
    match = _STATE.fullmatch(text)
    if match is None:
        raise ValueError(f"the numbers of an agent are {text[:80]!r}; that is not their form")
    restarts, seen, missed, forgotten, settled, mark, mark_ms = map(int, match["numbers"].split())
    return Numbering(
        restarts=restarts,
        seen=seen,
        missed=missed,
        forgotten=forgotten,
        settled=settled,
        mark=mark,
        mark_ms=mark_ms,
        previous=parse_run(match["previous"]),
        current=parse_run(match["current"]),
    )


def text(state: Numbering) -> str:
    """Inverse of `parse`."""
    numbers = (state.restarts, state.seen, state.missed, state.forgotten)
    marks = (state.settled, state.mark, state.mark_ms)
    head = " ".join(map(str, (*numbers, *marks)))
    return f"{head};{run_text(state.previous)};{run_text(state.current)}"


def parse_run(written: str) -> Run:
    """`1-5,7` as ranges."""
    parts = (part.partition("-") for part in written.split(",") if part)
    return tuple((int(low), int(high or low)) for low, _, high in parts)


def run_text(run: Iterable[Range]) -> str:
    """Ranges as `1-5,7`."""
    return ",".join(str(low) if low == high else f"{low}-{high}" for low, high in run)


def merge(state: Numbering, ranges: Iterable[Range], now_ms: int) -> Numbering:
    """The state after more numbers were seen."""
    for low, high in sorted(ranges):
        if _begins_again(state.current, low, high):
            state = replace(
                state,
                restarts=state.restarts + 1,
                seen=state.seen + high - low + 1,
                missed=state.missed + missing(state.previous),
                previous=state.current,
                current=((low, high),),
                settled=0,
                mark=0,
                mark_ms=now_ms,
            )
            continue
        old = bool(state.previous) and (
            abs(low - highest(state.previous)) < abs(low - highest(state.current))
        )
        run = state.previous if old else state.current
        grown, forgotten = _shortened(_insert(run, low, high))
        state = replace(
            state,
            seen=state.seen + length(grown) - forgotten - length(run),
            forgotten=state.forgotten + forgotten,
            previous=grown if old else state.previous,
            current=state.current if old else grown,
        )
    if state.current and abs(now_ms - state.mark_ms) >= AGE_MS:
        mark = highest(state.current)
        state = replace(state, settled=state.mark, mark=mark, mark_ms=now_ms)
    return state


def _begins_again(run: Run, low: int, high: int) -> bool:
    if low > 1 or not run or highest(run) <= high + REORDERED:
        return False
    # Otherwise it is late: a gap is where it belongs.
    return run[0][0] > high + REORDERED or any(first <= low <= last for first, last in run)


def _insert(run: Run, low: int, high: int) -> Run:
    before = [one for one in run if one[1] < low - 1]
    after = [one for one in run if one[0] > high + 1]
    touched = run[len(before) : len(run) - len(after)]
    if touched:
        low, high = min(low, touched[0][0]), max(high, touched[-1][1])
    return (*before, (low, high), *after)


def _shortened(run: Run) -> tuple[Run, int]:
    """At most `MOST_RANGES`, and how many numbers are missing in the gaps that went."""
    surplus = len(run) - MOST_RANGES
    if surplus <= 0:
        return run, 0
    head = run[: surplus + 1]
    return ((head[0][0], head[-1][1]), *run[surplus + 1 :]), missing(head)


def highest(run: Run) -> int:
    """The last number; 0 where there is none."""
    return run[-1][1] if run else 0


def length(run: Iterable[Range]) -> int:
    """How many numbers a run holds."""
    return sum(high - low + 1 for low, high in run)


def union(one: Run, other: Run) -> Run:
    """The numbers of both."""
    for low, high in other:
        one = _insert(one, low, high)
    return one


def gaps(run: Run) -> list[Range]:
    """What is missing between the first number and the last."""
    return [(high + 1, low - 1) for (_, high), (low, _) in pairwise(run)]


def missing(run: Run) -> int:
    """How many numbers are missing between the first and the last."""
    return length(gaps(run))


def fold(past: Numbering, closed: Numbering) -> Numbering:
    """What to keep of the numbers when Redis lost its data: those of the epoch that ended, and
    the sums of all before."""
    if not closed.current:
        return past
    return replace(
        closed,
        restarts=past.restarts + closed.restarts,
        seen=past.seen + closed.seen,
        missed=past.missed + missing(past.previous) + missing(past.current) + closed.missed,
        forgotten=past.forgotten + closed.forgotten,
    )
