"""How many entries to read at once. Pure."""

from __future__ import annotations

_FIRST_ENTRIES = 8
_FIRST_READINGS_PER_ENTRY = 400
_MEMORY = 0.7


class Pace:
    """Learns how many readings an entry holds, as that is the sender's choice."""

    def __init__(self, *, most_entries: int) -> None:
        self._most_entries = most_entries
        self._readings_per_entry = 0.0

    def entries_for(self, readings: float) -> int:
        """Entries that hold about so many readings; at least one."""
        most = self._most_entries
        if not self._readings_per_entry:
            most = min(_FIRST_ENTRIES, most)
        return max(1, min(int(readings / self.readings_in(1)), most))

    def readings_in(self, entries: int) -> float:
        """Readings that so many entries hold, as far as is known."""
        return entries * (self._readings_per_entry or _FIRST_READINGS_PER_ENTRY)

    def learn(self, *, entries: int, readings: int) -> None:
        """Take a batch into account."""
        seen = max(readings / entries, 1.0)
        known = self._readings_per_entry or seen
        self._readings_per_entry = _MEMORY * known + (1 - _MEMORY) * seen
