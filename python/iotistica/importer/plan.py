"""What is to be imported, and how."""

from __future__ import annotations

import enum
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from iotistica.errors import ConfigError


class Form(enum.StrEnum):
    """How a file is written."""

    CSV = "csv"
    NDJSON = "ndjson"
    PARQUET = "parquet"


class OnError(enum.StrEnum):
    """What becomes of lines that can never pass."""

    STOP = "stop"
    """The first one ends the import; what stands before it is stored."""
    SKIP = "skip"
    """They are counted, and the first are shown."""
    LETTERS = "letters"
    """They become dead letters besides."""


FIELDS = (
    "time",
    "agent_uuid",
    "metric_name",
    "value",
    "quality",
    "unit",
    "protocol",
    "device_name",
    "extra",
    "anomaly_score",
    "anomaly_threshold",
)
"""Fields of a reading, by the names that columns have unless told otherwise."""
_ALIASES = {"metric": "metric_name", "agent": "agent_uuid", "device": "device_name"}
EXTRA = "extra."
"""Before the name of a member of `extra` that a column fills."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One import."""

    files: Sequence[str]
    """Paths; `-` is standard input."""
    tenant: str
    agent: str | None = None
    """Whose all readings are; None where a column tells."""
    agents: Mapping[str, str] | None = None
    """UUIDs by the names that stand in the column; None where it holds UUIDs."""
    columns: Mapping[str, str] = field(default_factory=dict)
    """Columns by field, or by `extra.NAME`, where they are named otherwise."""
    form: Form | None = None
    """None: as the name of each file says."""
    wide: bool = False
    """Whether every column that is no field is a metric."""
    ignored: frozenset[str] = frozenset()
    """Columns that are no metrics all the same."""
    delimiter: str | None = None
    on_error: OnError = OnError.STOP
    rate: float | None = None
    """Readings a second at the most."""
    dry_run: bool = False


def columns_of(pairs: Sequence[str]) -> dict[str, str]:
    """Columns by field, of `FIELD=COLUMN`. Raises `ConfigError`."""
    columns: dict[str, str] = {}
    for pair in pairs:
        given, equals, column = pair.partition("=")
        name = _ALIASES.get(given, given)
        if not equals or not column:
            raise ConfigError(f"--column {pair!r} is not FIELD=COLUMN, such as time=ts")
        if name not in FIELDS and not (name.startswith(EXTRA) and name != EXTRA):
            known = ", ".join(FIELDS)
            raise ConfigError(f"--column {pair!r}: {given!r} is none of {known}, extra.NAME")
        if name in columns:
            raise ConfigError(f"--column {pair!r}: {name} is given twice")
        columns[name] = column
    return columns
