"""How much memory a private server may take."""

from __future__ import annotations

import os

MIB = 1024 * 1024


def share_of_memory(divisor: int, *, at_least_mib: int, at_most_mib: int) -> int:
    """Bytes: this machine's memory divided by `divisor`, within bounds."""
    try:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (ValueError, OSError):
        return at_least_mib * MIB
    return max(at_least_mib * MIB, min(total // divisor, at_most_mib * MIB))
