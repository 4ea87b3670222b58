"""Says when dead letters need a person: their stream fills up, or nearly everything becomes one.

Nothing is trimmed and nothing stops: a full stream of letters must not hold up good data. Pure.
"""

from __future__ import annotations

import enum
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

_WINDOW_S = 60.0
_SLICE_S = 5.0
_ENOUGH = 100
"""Messages without which a share says nothing."""
_NEARLY_FULL = 0.8
_RELIEF = 0.9
"""An alarm ends at this part of the figure that raised it, so that it does not flutter."""


class Kind(enum.StrEnum):
    """What is wrong."""

    FILLING = "filling"
    FULL = "full"
    SHARE = "share"


@dataclass(frozen=True, slots=True)
class Alarm:
    """One thing that is wrong with the letters of a tenant."""

    kind: Kind
    tenant: str
    sentence: str


@dataclass(slots=True)
class _Slice:
    """Messages of a few seconds."""

    began: float
    messages: int = 0
    dead: int = 0


@dataclass(slots=True)
class _Watch:
    """One tenant."""

    slices: deque[_Slice] = field(default_factory=deque)
    letters: int = 0
    raised: dict[Kind, Alarm] = field(default_factory=dict)


class LetterAlarm:
    """Watches the dead letters of all tenants. `bound`: letters that are too many; `share`: of the
    last minute's messages, above which the fault must be ours."""

    def __init__(
        self, *, bound: int, share: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._bound = bound
        self._share = share
        self._clock = clock
        self._watches: dict[str, _Watch] = {}

    def decided(self, tenant: str, *, messages: int, dead: int) -> None:
        """Take note of messages that are done, and of how many of them became dead letters."""
        slices, now = self._of(tenant).slices, self._clock()
        if not slices or now - slices[-1].began >= _SLICE_S:
            slices.append(_Slice(now))
            self._forget(slices)
        slices[-1].messages += messages
        slices[-1].dead += dead

    def measured(self, tenant: str, *, letters: int) -> None:
        """Take note of how many letters there are."""
        self._of(tenant).letters = letters

    def fill(self, tenant: str) -> float:
        """Letters against the bound; above 1 they are more."""
        return self._of(tenant).letters / self._bound

    def share(self, tenant: str) -> float:
        """Share of the last minute's messages that became letters; 0 where they were too few."""
        slices = self._of(tenant).slices
        self._forget(slices)
        messages = sum(one.messages for one in slices)
        return sum(one.dead for one in slices) / messages if messages >= _ENOUGH else 0.0

    def check(self) -> tuple[list[Alarm], list[Alarm]]:
        """Alarms that began, and that ended, since the last call."""
        began: list[Alarm] = []
        ended: list[Alarm] = []
        for tenant, watch in self._watches.items():
            before, watch.raised = watch.raised, self._alarms(tenant, watch.raised)
            began += [alarm for kind, alarm in watch.raised.items() if kind not in before]
            ended += [alarm for kind, alarm in before.items() if kind not in watch.raised]
        return began, ended

    @property
    def sentences(self) -> list[str]:
        """What is wrong, as it stood at the last `check`."""
        alarms = (alarm for watch in self._watches.values() for alarm in watch.raised.values())
        return [alarm.sentence for alarm in alarms]

    def _alarms(self, tenant: str, raised: dict[Kind, Alarm]) -> dict[Kind, Alarm]:
        fill, share = self.fill(tenant), self.share(tenant)
        letters = (
            f"tenant {tenant}: {self._of(tenant).letters:,} dead letters, the bound is "
            f"{self._bound:,}; nothing is trimmed, so replay or purge them with iotistica dlq"
        )
        us = (
            f"tenant {tenant}: {share:.0%} of the last minute's messages became dead letters; "
            f"above {self._share:.0%} the fault is likely to be on our side"
        )
        figures = (
            (Kind.FULL, fill >= 1, fill >= _RELIEF, letters),
            (Kind.FILLING, fill >= _NEARLY_FULL, fill >= _NEARLY_FULL * _RELIEF, letters),
            (Kind.SHARE, share > self._share, share > self._share * _RELIEF, us),
        )
        found: dict[Kind, Alarm] = {}
        for kind, begins, lasts, sentence in figures:
            said = kind is Kind.FILLING and Kind.FULL in found
            if (lasts if kind in raised else begins) and not said:
                found[kind] = Alarm(kind, tenant, sentence)
        return found

    def _of(self, tenant: str) -> _Watch:
        return self._watches.setdefault(tenant, _Watch())

    def _forget(self, slices: deque[_Slice]) -> None:
        while slices and self._clock() - slices[0].began >= _WINDOW_S:
            slices.popleft()
