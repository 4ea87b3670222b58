"""What a check found."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How bad it is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"
    NOT_CHECKED = "not checked"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line: `check` names what was looked at, `advice` says what to do where that is known."""

    level: Level
    check: str
    text: str
    advice: str = ""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(Level.OK, check, text)


def warning(check: str, text: str, advice: str) -> Finding:
    """It works, but will not for ever, or not well."""
    return Finding(Level.WARNING, check, text, advice)


def problem(check: str, text: str, advice: str) -> Finding:
    """Something does not work, or data may be lost."""
    return Finding(Level.PROBLEM, check, text, advice)


def not_checked(check: str, why: str, advice: str = "") -> Finding:
    """Nothing is known."""
    return Finding(Level.NOT_CHECKED, check, why, advice)
