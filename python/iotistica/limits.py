"""The limits of one message, from the settings to the Rust side."""

from __future__ import annotations

from iotistica._native import Limits
from iotistica.settings import Settings


def limits_of(settings: Settings) -> Limits:
    """What one message may be, as the Rust side takes it."""
    return Limits(
        max_message_bytes=settings.max_message_bytes,
        max_inflated_bytes=settings.max_inflated_bytes,
        max_depth=settings.max_depth,
        max_elements=settings.max_elements,
        max_text_bytes=settings.max_text_bytes,
        max_extra_bytes=settings.max_extra_bytes,
        retention_days=settings.retention_days,
        max_future_s=settings.max_future_s,
    )
