"""What the broker has acknowledged, kept compactly: sixteen bytes a message."""

from __future__ import annotations

import zlib
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from iotistica.simulator.payloads import Span

_GAP_US = 3_600_000_000


class Spans:
    """A growing list of `Span`, two integers each."""

    __slots__ = ("_flat",)

    def __init__(self, spans: Iterable[Span] = ()) -> None:
        self._flat = array("q")
        for span in spans:
            self.add(span)

    def add(self, span: Span) -> None:
        """Append one."""
        self._flat.append(span.start_us)
        self._flat.append(span.step_us)

    def __len__(self) -> int:
        return len(self._flat) // 2

    def __iter__(self) -> Iterator[Span]:
        flat = iter(self._flat)
        return (Span(start, step) for start, step in zip(flat, flat, strict=True))

    def times(self, widths: list[int], metric: int) -> set[int]:
        """Times at which one metric was sampled, microseconds."""
        offsets = [index for index, width in enumerate(widths) if width > metric]
        return {span.start_us + offset * span.step_us for span in self for offset in offsets}


@dataclass(frozen=True, slots=True)
class Malformed:
    """A message that must be found among the dead letters."""

    span: Span
    digest: int


@dataclass(slots=True)
class AgentLedger:
    """One agent's account."""

    agent: str
    index: int
    began_us: int
    """No regular sample of this run is older, and none of an earlier run is newer."""
    sent: Spans = field(default_factory=Spans)
    doubtful: Spans = field(default_factory=Spans)
    """Published and never acknowledged: may or may not be stored."""
    malformed: list[Malformed] = field(default_factory=list)

    def uncertain(self) -> Spans:
        """Spans whose rows may be there or not."""
        return Spans([*self.doubtful, *(message.span for message in self.malformed)])

    def ranges(self, samples: int) -> list[tuple[int, int]]:
        """First and last microsecond of the stretches of time that hold every sample."""
        spans = [*self.sent, *self.uncertain()]
        ranges: list[tuple[int, int]] = []
        for first, last in sorted(
            (s.start_us, s.start_us + s.step_us * (samples - 1)) for s in spans
        ):
            if ranges and first - ranges[-1][1] < _GAP_US:
                ranges[-1] = (ranges[-1][0], max(last, ranges[-1][1]))
            else:
                ranges.append((first, last))
        return ranges


def digest(payload: bytes) -> int:
    """Short name of a payload, to find it again among the dead letters."""
    return zlib.crc32(payload) << 32 | len(payload)
