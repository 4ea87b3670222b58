"""Anomaly events read, and how they add up to incidents."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica.anomalies.event import read
from iotistica.anomalies.incident import HOUR_MS, Alert, Incident, Occurrence, place
from iotistica.errors import BadRequest

AGENT = "7b0c7c4e-0b0e-4d4f-9a53-8d0d54a7a2f1"
ENDPOINT = "11111111-2222-4333-8444-555555555555"
LEAST: dict[str, Any] = {"timestampMs": 1_700_000_000_000, "metric": "temp", "fingerprint": "f"}


@pytest.mark.parametrize(
    ("metric", "endpoint", "name"),
    [
        ("temp", None, "temp"),
        (f"{ENDPOINT}_temp", ENDPOINT, "temp"),
        (f"{ENDPOINT.upper()}_temp_2", ENDPOINT, "temp_2"),
        (f"{AGENT}_{ENDPOINT}_cpu_usage", ENDPOINT, "cpu_usage"),
        # Ids of somebody else are a name like any other.
        (f"{ENDPOINT}_{AGENT}_temp", ENDPOINT, f"{AGENT}_temp"),
        (f"{ENDPOINT}_", None, f"{ENDPOINT}_"),
        ("a_b", None, "a_b"),
    ],
)
def test_a_metric_is_split_from_its_ids(metric: str, endpoint: str | None, name: str) -> None:
    assert read({**LEAST, "metric": metric}).split(AGENT) == (endpoint, name)


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"timestampMs": None}, "the event lacks the required field timestampMs"),
        ({"metric": None}, "the event lacks the required field metric"),
        ({"fingerprint": None}, "the event lacks the required field fingerprint"),
        ({"metric": ""}, "metric is '': expected str of length >= 1"),
        ({"timestampMs": -1}, "timestampMs is -1: expected int >= 0"),
        ({"confidence": 1.2}, "confidence is 1.2: expected float <= 1.0"),
        ({"severity": "worse"}, "severity is 'worse': invalid enum value 'worse'"),
        ({"cooldownSec": -5}, "cooldownSec is -5: expected float >= 0.0"),
        ({"expectedRange": [3, 2]}, "expectedRange is [3.0, 2.0]; the first must be the lower"),
        ({"expectedRange": [3]}, "expectedRange is [3]: expected array of length 2, got 1"),
        ({"observedValue": "hot"}, "observedValue is 'hot': expected float | null, got str"),
        (
            {"windowStartMs": 5, "windowEndMs": 4},
            "windowStartMs is 5; it must not be after windowEndMs, 4",
        ),
    ],
)
def test_an_event_that_is_wrong_is_refused_by_name(change: dict[str, Any], error: str) -> None:
    with pytest.raises(BadRequest) as caught:
        read({**LEAST, **change})
    assert str(caught.value).replace("Invalid", "invalid") == error


def test_what_is_no_object_is_refused() -> None:
    with pytest.raises(BadRequest, match=r"the event is \[1\]; a JSON object is expected"):
        read([1])


@pytest.mark.parametrize(
    ("given", "ms"),
    [
        (1_700_000_000_000, 1_700_000_000_000),
        ("2023-11-14T22:13:20Z", 1_700_000_000_000),
        ("2023-11-14T22:13:20", 1_700_000_000_000),
        ("long ago", None),
        (None, None),
    ],
)
def test_both_forms_of_first_seen_are_read(given: Any, ms: int | None) -> None:
    assert read({**LEAST, "firstSeen": given}).first_seen_ms == ms


def event(minute: float, **changes: Any) -> Occurrence:
    fields: dict[str, Any] = {
        "agent": AGENT,
        "device": "pump",
        "metric": "t",
        "severity": "warning",
    }
    return Occurrence(at_ms=int(minute * 60_000), **{**fields, **changes})


def test_events_within_the_hour_are_one_incident() -> None:
    incidents: list[Incident] = []
    place(incidents, event(0, score=1.0, confidence=0.5))
    assert [one.status for one in incidents] == ["open"]
    place(incidents, event(59.9, score=3.0, device="valve", agent="b"))
    place(incidents, event(60, score=2.0))
    assert [(one.opened_ms, one.events) for one in incidents] == [(0, 2), (3_600_000, 1)]
    first = incidents[0]
    assert (first.status, first.score, first.confidence) == ("active", 3.0, 0.5)
    assert (first.devices, first.agents) == ({"pump", "valve"}, {AGENT, "b"})
    assert (first.first_ms, first.last_ms) == (0, 3_594_000)


def test_a_late_event_joins_what_was_opened_after_it() -> None:
    incidents: list[Incident] = []
    place(incidents, event(90))
    place(incidents, event(40))
    assert [(one.opened_ms, one.first_ms, one.events) for one in incidents] == [
        (5_400_000, 2_400_000, 2)
    ]


def test_an_alert_is_worth_what_is_new_or_worse() -> None:
    incidents: list[Incident] = []
    severities = ("info", "warning", "warning", "info", "critical", "warning", "critical")
    alerts = [place(incidents, event(n, severity=one))[1] for n, one in enumerate(severities)]
    assert alerts == [
        None,
        Alert("warning", None),
        None,
        None,
        Alert("critical", "warning"),
        None,
        None,
    ]
    assert incidents[0].severity == "critical"


def test_a_suppressed_event_opens_and_alerts_nothing_but_counts() -> None:
    incidents: list[Incident] = []
    assert place(incidents, event(0, suppressed=True)) == (None, None)
    place(incidents, event(1))
    _, alert = place(incidents, event(2, suppressed=True, severity="critical"))
    assert alert is None
    assert [(one.events, one.last_ms) for one in incidents] == [(2, 120_000)]


def test_what_was_resolved_comes_back_once_something_newer_happens() -> None:
    incidents: list[Incident] = []
    place(incidents, event(0))
    incidents[0].status, incidents[0].resolved_ms = "resolved", 600_000
    assert place(incidents, event(5))[1] is None
    assert incidents[0].status == "resolved"
    assert place(incidents, event(11))[1] == Alert("warning", None)
    assert (incidents[0].status, incidents[0].resolved_ms) == ("active", None)
    assert len(incidents) == 1


@given(st.lists(st.integers(0, 400), max_size=40))
def test_incidents_are_opened_an_hour_apart_in_any_order(minutes: list[int]) -> None:
    incidents: list[Incident] = []
    for minute in minutes:
        place(incidents, event(minute))
    opened = sorted(one.opened_ms for one in incidents)
    assert all(later - one >= HOUR_MS for one, later in pairwise(opened))
    assert sum(one.events for one in incidents) == len(minutes)
