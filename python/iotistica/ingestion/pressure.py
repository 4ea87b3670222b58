"""How much less to read because the database is slow or busy. Pure."""

from __future__ import annotations

_LEAST_SHARE = 1 / 32
_GROWTH = 1.25


class Pressure:
    """The share of a full batch that is read at once.

    Halved while a commit takes longer than `high_ms`, so that it stays far from the statement
    timeout; it grows again when commits take less than half of that.
    """

    def __init__(self, *, high_ms: float) -> None:
        self._high_ms = high_ms
        self.share = 1.0

    def saw(self, commit_ms: float) -> None:
        """Take the slowest commit since the last call into account; 0 is none."""
        if commit_ms > self._high_ms:
            self.share = max(self.share / 2, _LEAST_SHARE)
        elif commit_ms < self._high_ms / 2:
            self.share = min(self.share * _GROWTH, 1.0)
