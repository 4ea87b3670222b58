"""What lies in the spools of this machine, whoever owns them. Reads only, and only trailers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from iotistica.spool import segment
from iotistica.spool.spool import QUARANTINE, SUFFIX


@dataclass(frozen=True, slots=True)
class Holding:
    """The spool of one process."""

    service: str
    directory: Path
    segments: int
    bytes: int
    quarantined: int
    unreadable: int
    """Segments whose trailer is damaged; their messages are not counted."""
    messages: Mapping[str, int] = field(default_factory=dict)
    """By tenant."""


def holdings(root: Path) -> list[Holding]:
    """Every spool under `root`: `{root}/{service}/{place}/`."""
    return [_holding(place) for place in sorted(root.glob("*/*")) if place.is_dir()]


def segments(root: Path) -> Iterator[Path]:
    """Every segment under `root`, oldest first within its spool."""
    for place in sorted(root.glob("*/*")):
        yield from sorted(place.glob(f"*{SUFFIX}"))


def _holding(place: Path) -> Holding:
    messages: Counter[str] = Counter()
    count = size = unreadable = 0
    for path in place.glob(f"*{SUFFIX}"):
        try:
            size += path.stat().st_size
            found = segment.summary(path)
        except FileNotFoundError:  # replayed meanwhile
            continue
        count += 1
        if found is None:
            unreadable += 1
        else:
            messages.update(found.messages)
    quarantined = sum(1 for _ in (place / QUARANTINE).glob("*"))
    return Holding(place.parent.name, place, count, size, quarantined, unreadable, messages)
