"""When a message was made, as it says itself. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

_MESSAGE_ID = re.compile(r"[0-9a-fA-F-]{36}-(\d{12,14})-\w+")
_TIMES = ("timestamp", "timestampMs", "time")
# What an agent kept while it was offline is at most two hours old (reference section 1.4); whoever
# claims more has a clock that is wrong.
_OLDEST_MS = 3 * 3_600_000


def made_ms(value: Any, received_ms: int) -> int:
    """Epoch milliseconds, by `msgId` (`{agent}-{ms}-{random}`) or a time, else when it came."""
    if isinstance(value, dict):
        if (stamp := id_ms(value)) is not None:
            return plausible_ms(stamp, received_ms)
        for name in _TIMES:
            if (stamp := epoch_ms(value.get(name))) is not None:
                return plausible_ms(stamp, received_ms)
    return received_ms


def id_ms(value: Mapping[str, Any]) -> int | None:
    """Epoch milliseconds in `msgId`; None where there is none in it."""
    identifier = value.get("msgId")
    match = _MESSAGE_ID.fullmatch(identifier) if isinstance(identifier, str) else None
    return int(match[1]) if match else None


def plausible_ms(stamp_ms: int, received_ms: int) -> int:
    """An agent's clock is believed where it could be right; nothing is made after it came."""
    return min(stamp_ms, received_ms) if stamp_ms > received_ms - _OLDEST_MS else received_ms


def epoch_ms(value: Any) -> int | None:
    """ISO 8601, epoch seconds or milliseconds; None for anything else."""
    try:
        if isinstance(value, int | float) and not isinstance(value, bool):
            return int(value if abs(value) >= 1e11 else value * 1000)
        moment = datetime.fromisoformat(value)
        return int((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)
    except (TypeError, ValueError, OverflowError):
        return None


def moment(epoch: float) -> datetime:
    """Of epoch milliseconds."""
    return datetime.fromtimestamp(epoch / 1000, UTC)


def is_dated(value: Any) -> bool:
    """Whether the message can be told from another that says the same."""
    return isinstance(value, dict) and any(name in value for name in ("msgId", *_TIMES))
