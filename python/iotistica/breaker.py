"""Circuit breaker: stop asking a server that fails, and find out when it is back. No I/O."""

from __future__ import annotations

import enum
import time
from collections.abc import Callable


class State(enum.StrEnum):
    """Closed: all is well. Open: nobody asks. Half-open: one asks at a time."""

    CLOSED = "closed"
    HALF_OPEN = "half-open"
    OPEN = "open"


class Breaker:
    """Opens after `failures` in a row; after `probe_s` lets one caller through at a time, and
    closes after `successes` of them. Whoever was let through must call `succeeded` or `failed`.
    """

    def __init__(
        self,
        *,
        failures: int = 5,
        probe_s: float = 30.0,
        successes: int = 3,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._failures, self._probe_s, self._successes = failures, probe_s, successes
        self._clock = clock
        self._state = State.CLOSED
        self._in_a_row = 0
        self._probe_at = 0.0
        self.passed = 0
        """Successes ever: proof, between two failures, that the server takes other work."""
        self.opened = 0
        """How often it has opened."""

    @property
    def state(self) -> State:
        """Where it stands."""
        return self._state

    @property
    def is_closed(self) -> bool:
        """Whether all is well."""
        return self._state is State.CLOSED

    def permits(self) -> bool:
        """Whether to ask the server now; where it is not closed, True takes the only probe."""
        if self._state is State.CLOSED:
            return True
        now = self._clock()
        if now < self._probe_at:
            return False
        self._state = State.HALF_OPEN
        # Should the caller never report, the next one may try after the same time.
        self._probe_at = now + self._probe_s
        return True

    def retry_after_s(self) -> float:
        """Seconds until `permits` may be True again."""
        return 0.0 if self.is_closed else max(self._probe_at - self._clock(), 0.0)

    def succeeded(self) -> None:
        """The server did what it was asked."""
        self.passed += 1
        if self._state is not State.HALF_OPEN:
            # Late news from before it opened says nothing about now.
            self._in_a_row = self._in_a_row if self._state is State.OPEN else 0
            return
        self._in_a_row += 1
        self._probe_at = self._clock()
        if self._in_a_row >= self._successes:
            self._state, self._in_a_row = State.CLOSED, 0

    def failed(self) -> None:
        """The server did not answer, or could not do it now."""
        if self._state is State.OPEN:
            return
        self._in_a_row = self._in_a_row + 1 if self._state is State.CLOSED else self._failures
        if self._in_a_row >= self._failures:
            self.opened += 1
            self._state, self._in_a_row = State.OPEN, 0
            self._probe_at = self._clock() + self._probe_s
