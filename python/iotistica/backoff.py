"""Pauses between attempts: doubling, bounded, with jitter so that replicas do not march in step."""

from __future__ import annotations

import random
from collections.abc import Callable


class Backoff:
    """Successive pauses in seconds; `reset` after a success."""

    __slots__ = ("_attempt", "_first_s", "_jitter", "_most_s")

    def __init__(
        self,
        first_s: float = 0.1,
        most_s: float = 10.0,
        *,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._jitter = jitter
        self._attempt = 0

    def reset(self) -> None:
        """Begin again with the shortest pause."""
        self._attempt = 0

    def next_s(self) -> float:
        """The pause before the next attempt: between half and all of the doubled last one."""
        whole = min(self._most_s, self._first_s * 2.0**self._attempt)
        # Beyond this the pause has long reached any sensible bound; larger powers overflow.
        self._attempt = min(self._attempt + 1, 64)
        return float(whole * (0.5 + self._jitter() / 2))
