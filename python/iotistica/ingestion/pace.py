"""How many entries to read at once. Pure."""

from __future__ import annotations

_TARGET_READINGS = 50_000
"""Readings to a COPY: larger batches cost PostgreSQL no less per row, only memory and delay."""
_FIRST_ENTRIES = 8
_MEMORY = 0.7


class Pace:
    """Learns how many readings an entry holds, as that is the sender's choice."""

    def __init__(self, *, most_entries: int) -> None:
        self._most_entries = most_entries
        self._readings_per_entry = 0.0

    @property
    def count(self) -> int:
        """Entries that make about one batch."""
        if not self._readings_per_entry:
            return min(_FIRST_ENTRIES, self._most_entries)
        wanted = int(_TARGET_READINGS / self._readings_per_entry)
        return max(1, min(wanted, self._most_entries))

    def learn(self, *, entries: int, readings: int) -> None:
        """Take a batch into account."""
        seen = max(readings / entries, 1.0)
        known = self._readings_per_entry or seen
        self._readings_per_entry = _MEMORY * known + (1 - _MEMORY) * seen
