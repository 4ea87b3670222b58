"""What a tenant keeps shorter than the platform does: which rule counts for a metric. No I/O."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

NEWEST_DAYS = 2
"""Today and yesterday (UTC) stay, whatever a quota of storage says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Rule:
    """Readings of metrics that fit are kept for so many days."""

    pattern: str
    """`*` is any text, `?` any character, everything else itself; upper and lower case differ."""
    keep_days: int
    remove_rollups: bool = False

    def fits(self, metric: str) -> bool:
        """Whether the name fits, as `LIKE retention_like(pattern)` tells in PostgreSQL."""
        signs = {"*": ".*", "?": "."}
        expression = "".join(signs.get(sign) or re.escape(sign) for sign in self.pattern)
        return re.fullmatch(expression, metric, re.DOTALL) is not None

    @property
    def rank(self) -> tuple[int, int, int, bytes]:
        """The lowest counts: the most characters that are no wildcards, then the fewest `*`, then
        the longest time."""
        stars, marks = self.pattern.count("*"), self.pattern.count("?")
        literal = len(self.pattern) - stars - marks
        return (-literal, stars, -self.keep_days, self.pattern.encode())

    def first_kept(self, today: date) -> date:
        """The oldest day of which anything is kept: one is removed when all of it is too old."""
        return today - timedelta(days=self.keep_days)


def governing(rules: Iterable[Rule], metric: str) -> Rule | None:
    """The rule that counts for a metric; SQL's `retention_rule` says the same."""
    return min(
        (rule for rule in rules if rule.fits(metric)), key=lambda rule: rule.rank, default=None
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Going:
    """Readings of a metric that a rule removes."""

    metric: str
    rule: Rule
    readings: int
    oldest: date
    first_kept: date


def going(
    rules: Iterable[Rule], stored: Mapping[tuple[str, date], int], today: date
) -> list[Going]:
    """What rules remove of what is stored, by metric and day; the most first."""
    known = list(rules)
    by_metric: dict[str, dict[date, int]] = {}
    for (metric, day), readings in stored.items():
        by_metric.setdefault(metric, {})[day] = readings
    found = []
    for metric, days in by_metric.items():
        rule = governing(known, metric)
        if rule is None:
            continue
        first_kept = rule.first_kept(today)
        old = {day: readings for day, readings in days.items() if day < first_kept}
        if old:
            found.append(
                Going(
                    metric=metric,
                    rule=rule,
                    readings=sum(old.values()),
                    oldest=min(old),
                    first_kept=first_kept,
                )
            )
    return sorted(found, key=lambda one: (-one.readings, one.metric))


def quota_since(days: Mapping[date, int], most: int, today: date) -> date | None:
    """The first day that stays where a tenant may have at most so many readings; None for all.

    Whole days go, the oldest first, but never the newest two.
    """
    total = sum(days.values())
    if total <= most:
        return None
    newest_first = today - timedelta(days=NEWEST_DAYS - 1)
    first = None
    for day in sorted(days):
        if total <= most or day >= newest_first:
            break
        total -= days[day]
        first = day + timedelta(days=1)
    return first
