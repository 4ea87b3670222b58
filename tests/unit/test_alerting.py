"""Alert rules: what they say, and what they decide."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica.alerting.decision import (
    FLAP_HOLD,
    FLAP_WINDOW,
    FLAPS,
    Policy,
    Seen,
    Standing,
    Step,
    Verb,
    decide,
)
from iotistica.alerting.rule import Band, Condition, RuleBody, as_like

NOW = datetime(2026, 1, 31, 12, tzinfo=UTC)
HIGH = Band(operator=">", high=80, clear_high=75)
LOW = Band(operator="<=", low=5, clear_low=10)
RANGE = Band(operator="outside", low=10, high=20, clear_low=12, clear_high=18)


def condition(**fields: Any) -> Condition:
    return msgspec.convert({"kind": "threshold", **fields}, Condition)


@pytest.mark.parametrize(
    ("fields", "band"),
    [
        ({"operator": ">", "value": 80, "clear": 75}, HIGH),
        ({"operator": ">=", "value": 80}, Band(operator=">=", high=80, clear_high=80)),
        ({"operator": "<=", "value": 5, "clear": 10}, LOW),
        ({"operator": "<", "value": 5}, Band(operator="<", low=5, clear_low=5)),
        (
            {"operator": "outside", "low": 10, "high": 20, "clear_low": 12, "clear_high": 18},
            RANGE,
        ),
        (
            {"operator": "outside", "low": 10, "high": 20},
            Band(operator="outside", low=10, high=20, clear_low=10, clear_high=20),
        ),
        (
            {"kind": "rate", "operator": ">", "value": 3, "per": "hour"},
            Band(operator=">", high=3, clear_high=3),
        ),
        (
            {"kind": "absence", "silent_s": 600, "clear_s": 60},
            Band(operator=">", high=600, clear_high=60),
        ),
    ],
)
def test_a_condition_is_a_band(fields: dict[str, Any], band: Band) -> None:
    assert condition(**fields).band() == band


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"operator": ">"}, "operator > needs a value"),
        ({"operator": ">", "value": 1, "clear": 2}, "clear is 2; it must not be above value, 1"),
        ({"operator": "<", "value": 2, "clear": 1}, "clear is 1; it must not be below value, 2"),
        ({"operator": ">", "value": 1, "low": 2}, "operator > has value and clear, no range"),
        ({"operator": "outside", "low": 1}, "operator outside needs low and high"),
        (
            {"operator": "outside", "low": 1, "high": 2, "value": 1},
            "a range has low and high, no value or clear",
        ),
        (
            {"operator": "outside", "low": 1, "high": 3, "clear_low": 2.5, "clear_high": 2},
            "low is 1, clear_low 2.5, clear_high 2, high 3; they must not fall",
        ),
        ({"operator": "outside", "low": 3, "high": 1}, "low is 3, clear_low 3, clear_high 1"),
        (
            {"kind": "absence", "silent_s": 60, "clear_s": 61},
            "clear_s is 61; it must not be above silent_s, 60",
        ),
        ({"kind": "rate", "operator": ">", "value": 1, "per": "day"}, "Invalid enum value 'day'"),
        ({"kind": "sum"}, "Invalid value 'sum'"),
    ],
)
def test_a_condition_that_makes_no_sense_is_refused(fields: dict[str, Any], error: str) -> None:
    with pytest.raises(msgspec.ValidationError) as caught:
        condition(**fields)
    assert str(caught.value).startswith(error)


def test_only_an_absence_does_without_a_metric() -> None:
    silent = {"name": "a", "condition": {"kind": "absence", "silent_s": 600}}
    assert msgspec.convert(silent, RuleBody).metric is None
    loud = {"name": "a", "condition": {"kind": "threshold", "operator": ">", "value": 1}}
    with pytest.raises(msgspec.ValidationError, match="a threshold rule needs a metric"):
        msgspec.convert(loud, RuleBody)


def test_patterns_become_those_of_postgresql() -> None:
    assert as_like("temp*_?%\\") == r"temp%\__\%\\"


@pytest.mark.parametrize(
    ("band", "value", "raises", "holds"),
    [
        (HIGH, 80.1, True, True),
        (HIGH, 80, False, True),
        (HIGH, 75.1, False, True),
        (HIGH, 75, False, False),
        (LOW, 5, True, True),
        (LOW, 5.1, False, True),
        (LOW, 10, False, True),
        (LOW, 10.1, False, False),
        (RANGE, 9, True, True),
        (RANGE, 21, True, True),
        (RANGE, 10, False, True),
        (RANGE, 12, False, False),
        (RANGE, 18, False, False),
        (RANGE, 19, False, True),
    ],
)
def test_bounds_belong_where_they_should(
    band: Band, value: float, raises: bool, holds: bool
) -> None:
    assert (band.raises(value), band.holds(value)) == (raises, holds)


def seen(value: float | None, age_s: float = 0, since_s: float | None = None) -> Seen:
    since = None if since_s is None else NOW - timedelta(seconds=since_s)
    return Seen(value, NOW - timedelta(seconds=age_s), since)


MINUTE = timedelta(minutes=1)
PLAIN = Policy(band=HIGH)
SLOW = Policy(band=HIGH, held_for=MINUTE, clear_for=MINUTE)
OPEN, FLAPPING = Standing(), Standing(flapping=True)


@pytest.mark.parametrize(
    ("policy", "what", "standing", "step"),
    [
        (PLAIN, seen(81), None, Step(Verb.OPEN)),
        (PLAIN, seen(80), None, None),
        (PLAIN, seen(None), None, None),
        (PLAIN, seen(81, age_s=3601), None, None),
        # A clock that is ahead.
        (PLAIN, seen(81, age_s=-3600), None, Step(Verb.OPEN)),
        (SLOW, seen(81), None, None),
        (SLOW, seen(81, since_s=59), None, None),
        (SLOW, seen(81, since_s=60), None, Step(Verb.OPEN)),
        (SLOW, seen(81, age_s=61), None, Step(Verb.OPEN)),
        (PLAIN, seen(76), OPEN, Step(Verb.KEEP)),
        (PLAIN, seen(75), OPEN, Step(Verb.RESOLVE, NOW)),
        (PLAIN, seen(None), OPEN, None),
        (SLOW, seen(75), OPEN, Step(Verb.KEEP, NOW)),
        (SLOW, seen(75), Standing(NOW - MINUTE / 2), Step(Verb.KEEP, NOW - MINUTE / 2)),
        (SLOW, seen(75), Standing(NOW - MINUTE), Step(Verb.RESOLVE, NOW - MINUTE)),
        # Back in between: the wait begins anew.
        (SLOW, seen(76), Standing(NOW - MINUTE), Step(Verb.KEEP)),
        (PLAIN, seen(75), FLAPPING, Step(Verb.KEEP, NOW, True)),
        (
            PLAIN,
            seen(75),
            Standing(NOW - FLAP_HOLD, flapping=True),
            Step(Verb.RESOLVE, NOW - FLAP_HOLD, True),
        ),
    ],
)
def test_decisions(
    policy: Policy, what: Seen, standing: Standing | None, step: Step | None
) -> None:
    assert decide(policy, what, standing, now=NOW) == step


def test_what_opened_often_is_flapping() -> None:
    assert decide(PLAIN, seen(81), None, now=NOW, recent=FLAPS - 1) == Step(Verb.OPEN)
    assert decide(PLAIN, seen(81), None, now=NOW, recent=FLAPS) == Step(Verb.OPEN, flapping=True)


class History:
    """One series under one rule, evaluated every ten seconds."""

    STEP = timedelta(seconds=10)

    def __init__(self, policy: Policy) -> None:
        self.policy = policy
        self.now = NOW
        self.standing: Standing | None = None
        self.opened: list[datetime] = []
        self.resolved: list[datetime] = []

    def see(self, value: float) -> None:
        self.now += self.STEP
        recent = sum(one > self.now - FLAP_WINDOW for one in self.opened)
        what = Seen(value, self.now)
        step = decide(self.policy, what, self.standing, now=self.now, recent=recent)
        if step is None:
            return
        if step.verb is Verb.OPEN:
            assert self.standing is None
            assert self.policy.band.raises(value)
            self.opened.append(self.now)
            self.standing = Standing(None, step.flapping)
        elif step.verb is Verb.RESOLVE:
            assert not self.policy.band.holds(value)
            self.resolved.append(self.now)
            self.standing = None
        else:
            self.standing = Standing(step.cleared_since, step.flapping)


BANDS = st.sampled_from([HIGH, LOW, RANGE])
VALUES = st.lists(st.floats(-20, 120), max_size=60)


@given(BANDS, VALUES, st.lists(st.floats(0, 1), min_size=1, max_size=60))
def test_within_the_band_nothing_ever_changes(
    band: Band, before: list[float], shares: list[float]
) -> None:
    history = History(Policy(band=band))
    for value in before:
        history.see(value)
    count = len(history.opened), len(history.resolved)
    for share in shares:
        value = {
            ">": 75.0001 + share * 4.9999,
            "<=": 5.0001 + share * 4.9999,
            "outside": 10 + share * 1.9999,
        }[band.operator]
        assert not band.raises(value)
        assert band.holds(value)
        history.see(value)
    assert (len(history.opened), len(history.resolved)) == count


@given(BANDS, VALUES)
def test_what_raises_also_holds(band: Band, values: list[float]) -> None:
    assert all(band.holds(value) for value in values if band.raises(value))


@given(BANDS, VALUES)
def test_alerts_open_and_resolve_in_turn(band: Band, values: list[float]) -> None:
    history = History(Policy(band=band, clear_for=timedelta(seconds=20)))
    for value in values:
        history.see(value)
    turns = sorted([*history.opened, *history.resolved])
    assert turns[::2] == history.opened
    assert turns[1::2] == history.resolved


@given(st.lists(st.sampled_from([70.0, 78.0, 90.0]), min_size=400, max_size=720))
def test_flapping_is_damped(values: list[float]) -> None:
    history = History(PLAIN)
    for value in values:
        history.see(value)
    most = FLAPS + FLAP_WINDOW / FLAP_HOLD
    for start in history.opened:
        assert sum(start <= one < start + FLAP_WINDOW for one in history.opened) <= most


def test_a_series_that_flips_at_every_look_opens_four_alerts_in_an_hour() -> None:
    history = History(PLAIN)
    for n in range(360):
        history.see(90.0 if n % 2 else 70.0)
    assert len(history.opened) == 4
    assert history.standing is not None
    assert history.standing.flapping
