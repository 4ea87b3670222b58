"""Names of settings in the environment."""

from __future__ import annotations

from pydantic import AliasChoices


def names(field: str, *aliases: str) -> AliasChoices:
    """Our own name of a field, and those of the reference platform."""
    return AliasChoices(f"IOTISTICA_{field.upper()}", *aliases, field)
