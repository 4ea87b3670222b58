"""What can never pass, and where it stands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from iotistica._native import Reject
    from iotistica.importer.shape import Line, Message

_SHOWN = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A line, or one value of it, that is not stored."""

    file: str
    line: int
    """From 1, the header included; of Parquet the number of the row."""
    column: str | None
    value: Any
    reason: str
    """Short fixed name of the rule, as dead letters have it."""
    rule: str

    def __str__(self) -> str:
        where = f"{self.file}:{self.line}: "
        if self.column is not None:
            where += f"column {self.column}, {self.shown}: "
        return where + self.rule

    @property
    def shown(self) -> str:
        """The value, cut."""
        return repr(self.value if not isinstance(self.value, str) else self.value[:_SHOWN])[:80]

    def described(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "file": self.file,
            "line": self.line,
            "column": self.column,
            "value": None if self.column is None else str(self.value)[:_SHOWN],
            "reason": self.reason,
            "rule": self.rule,
        }


class Unfit(Exception):
    """A line, or one value of it, cannot be made a message."""

    def __init__(
        self,
        reason: str,
        rule: str,
        *,
        column: str | None = None,
        value: Any = None,
    ) -> None:
        super().__init__(rule)
        self.reason = reason
        self.rule = rule
        self.column = column
        self.value = value

    def at(self, file: str, line: int) -> Refusal:
        """The same where it stands."""
        return Refusal(
            file=file,
            line=line,
            column=self.column,
            value=self.value,
            reason=self.reason,
            rule=self.rule,
        )


class Refused(NamedTuple):
    """A refusal with what it is about, as far as it came."""

    refusal: Refusal
    line: Line | None
    message: Message | None
    reject: Reject | None = None
