"""Which column of a file is which field of a reading."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from iotistica.errors import ConfigError
from iotistica.importer.cells import code, number
from iotistica.importer.plan import EXTRA, FIELDS, Plan


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """Positions of the columns of a file; None for fields that it does not have."""

    header: tuple[str, ...]
    time: int
    agent: int | None
    metrics: tuple[tuple[str, int | None, int], ...]
    """Name of a metric, the column that holds the name if one does, and the column of its value."""
    extra: int | None
    members: tuple[tuple[str, int], ...]
    """Columns that fill a member of `extra`."""
    protocol: int | None
    converted: tuple[tuple[str, Callable[[Any], Any], int], ...]
    """Fields that may be numbers, what makes them so, and their columns."""
    others: tuple[tuple[str, int], ...]
    """Fields that are text."""
    ignored: tuple[str, ...]

    @classmethod
    def of(cls, header: Sequence[str], plan: Plan) -> Layout:
        """Raises `ConfigError` where a column is missing, or stands there twice."""
        twice = [name for name, count in Counter(header).items() if count > 1]
        if twice:
            raise ConfigError(f"column {twice[0]!r} stands {header.count(twice[0])} times")
        place = {name: at for at, name in enumerate(header)}
        for field, column in plan.columns.items():
            if column not in place:
                raise ConfigError(f"column {column!r} for {field} is none of {_shown(header)}")
        found = {name: plan.columns.get(name, name) for name in FIELDS}
        used = set(plan.columns.values())
        at = {name: place[column] for name, column in found.items() if column in place}
        if plan.wide:
            # A column that merely has the name of a field may be a metric of that name.
            at = {name: i for name, i in at.items() if name not in ("metric_name", "value")}
        if (
            plan.agent is not None
            and "agent_uuid" in at
            and found["agent_uuid"] not in plan.ignored
        ):
            raise ConfigError(
                f"--agent is given, and column {found['agent_uuid']!r} names agents too; leave one "
                f"out: --ignore {found['agent_uuid']}"
            )
        required = ["time"] if plan.wide else ["time", "metric_name", "value"]
        required += ["agent_uuid"] if plan.agent is None else []
        for name in required:
            if name not in at:
                raise ConfigError(
                    f"no column {found[name]!r} among {_shown(header)}; name it: "
                    f"--column {name}=COLUMN"
                    + (", or give --agent" if name == "agent_uuid" else "")
                )
        taken = {header[i] for i in at.values()} | used | plan.ignored
        rest = [name for name in header if name not in taken]
        return cls(
            header=tuple(header),
            time=at["time"],
            agent=None if plan.agent is not None else at["agent_uuid"],
            # Spreadsheets and data frames write an index without a name.
            metrics=tuple((name, None, place[name]) for name in rest if name)
            if plan.wide
            else (("", at["metric_name"], at["value"]),),
            extra=at.get("extra"),
            members=tuple(
                (name.removeprefix(EXTRA), place[column])
                for name, column in plan.columns.items()
                if name.startswith(EXTRA)
            ),
            protocol=at.get("protocol"),
            converted=tuple(
                (name, convert, at[name]) for name, convert in _CONVERTED.items() if name in at
            ),
            others=tuple((name, at[name]) for name in _TEXTS if name in at),
            ignored=tuple(name for name in rest if not (plan.wide and name)),
        )


# A quality may be the number of an OPC status.
_CONVERTED = {"quality": code, "anomaly_score": number, "anomaly_threshold": number}
_TEXTS = ("unit", "device_name")


def _shown(header: Sequence[str]) -> str:
    shown = ", ".join(repr(name[:40]) for name in header[:20])
    return shown + (f" and {len(header) - 20} more" if len(header) > 20 else "")
