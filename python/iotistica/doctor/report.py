"""An examination for people, and for machines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import orjson
import typer
from rich.console import Console
from rich.text import Text

from iotistica.doctor.finding import Finding, Level

if TYPE_CHECKING:
    from iotistica.doctor.examination import Group

_MARKS = {
    Level.OK: ("✓", "green"),
    Level.WARNING: ("!", "yellow"),
    Level.PROBLEM: ("✗", "red"),
    Level.NOT_CHECKED: ("-", "dim"),
}


def show(groups: Sequence[Group], *, as_json: bool) -> None:
    """Print it; colors only on a terminal."""
    if as_json:
        typer.echo(orjson.dumps(document(groups)))
        return
    console = Console()
    for group in groups:
        console.print(Text(group.name, style="bold"))
        for finding in group.findings:
            console.print(_line(finding), soft_wrap=True)
    console.print(summary(groups), highlight=False)


def document(groups: Sequence[Group]) -> dict[str, object]:
    """`counts` by level, and every finding."""
    counts = _counts(groups)
    return {
        "healthy": not counts[Level.PROBLEM],
        "counts": {level.value: counts[level] for level in Level},
        "findings": [
            {
                "group": group.name,
                "check": one.check,
                "level": one.level,
                "text": one.text,
                "advice": one.advice or None,
            }
            for group in groups
            for one in group.findings
        ],
    }


def summary(groups: Sequence[Group]) -> str:
    """How many of each, in a line."""
    counts = _counts(groups)
    return (
        f"{counts[Level.PROBLEM]} problems, {counts[Level.WARNING]} warnings, "
        f"{counts[Level.NOT_CHECKED]} not checked, {counts[Level.OK]} ok"
    )


def _counts(groups: Sequence[Group]) -> Counter[Level]:
    return Counter(one.level for group in groups for one in group.findings)


def _line(finding: Finding) -> Text:
    mark, style = _MARKS[finding.level]
    # The word stands there, too: marks alone tell nothing to a log or a screen reader.
    word = "" if finding.level is Level.OK else f"{finding.level.value}: "
    line = Text.assemble(("  " + mark, style), f" {finding.check}: ", (word, style), finding.text)
    if finding.advice:
        line.append(f". To do: {finding.advice}", style="cyan")
    return line
