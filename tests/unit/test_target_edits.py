"""Values of target states: differences, deviations, processing of configs."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from iotistica.targets.difference import deviations, differences
from iotistica.targets.processing import Signer, processed
from iotistica.targets.state import Content, etag_of

AGENT = "0f9a7c1e-1111-4222-8333-444455556666"
ENDPOINT = "aaaaaaaa-1111-4222-8333-444455556666"


def found(before: Any, after: Any) -> list[dict[str, Any]]:
    return msgspec.to_builtins(list(differences(before, after)))


@pytest.mark.parametrize(
    ("before", "after", "expected"),
    [
        ({"a": 1}, {"a": 1.0}, []),
        ({"a": 1}, {"a": True}, [{"path": "/a", "op": "changed", "before": 1, "after": True}]),
        (
            {"a": [1, 2]},
            {"a": [2, 1]},
            [{"path": "/a", "op": "changed", "before": [1, 2], "after": [2, 1]}],
        ),
        ({}, {"a/b~": None}, [{"path": "/a~1b~0", "op": "added"}]),
        ({"l": []}, {"l": [{"id": 1}]}, [{"path": "/l/1", "op": "added", "after": {"id": 1}}]),
        (
            {"l": [{"name": "x"}, {"name": "y"}]},
            {"l": [{"name": "y"}]},
            [{"path": "/l/x", "op": "removed", "before": {"name": "x"}}],
        ),
        (
            {"l": [{"name": "x"}, {"name": "x"}]},
            {"l": [{"name": "x"}]},
            [
                {
                    "path": "/l",
                    "op": "changed",
                    "before": [{"name": "x"}] * 2,
                    "after": [{"name": "x"}],
                }
            ],
        ),
        (
            {"a": {"b": {}}},
            {"a": 1},
            [{"path": "/a", "op": "changed", "before": {"b": {}}, "after": 1}],
        ),
    ],
)
def test_differences(before: Any, after: Any, expected: Any) -> None:
    assert found(before, after) == expected


def test_an_agent_as_it_should_be_has_no_deviations() -> None:
    target = Content(
        {"1": {"appName": "a", "services": [{"serviceName": "s", "image": "i:1"}]}},
        {"logging": {"level": "info"}, "endpoints": [{"name": "e", "x": 1}]},
    )
    reported = Content(
        {
            "1": {
                "appName": "a",
                "status": "running",
                "services": [{"serviceName": "s", "image": "i:1", "containerId": "c"}],
            }
        },
        {
            "logging": {"level": "info", "since": 1},
            "endpoints": [{"name": "e", "x": 1, "connected": True}],
            "more": 1,
        },
    )
    assert deviations(target, reported) == []


def test_deviations_say_what_is_missing_extra_and_different() -> None:
    target = Content(
        {
            "1": {
                "appName": "a",
                "services": [{"serviceName": "s", "image": "i:2"}, {"serviceName": "t"}],
            },
            "2": {},
        },
        {"logging": {"level": "info"}, "endpoints": [{"name": "e"}], "features": {}},
    )
    reported = Content(
        {
            "1": {
                "appName": "b",
                "services": [{"serviceName": "s", "image": "i:1"}, {"serviceName": "u"}],
            },
            "3": {},
        },
        {"logging": {"level": "debug"}, "endpoints": [{"name": "e"}, {"name": "f"}]},
    )
    assert msgspec.to_builtins(deviations(target, reported)) == [
        {
            "kind": "service",
            "id": "1/s",
            "state": "different",
            "differences": [{"path": "/image", "op": "changed", "before": "i:2", "after": "i:1"}],
        },
        {"kind": "service", "id": "1/t", "state": "missing"},
        {"kind": "service", "id": "1/u", "state": "extra"},
        {
            "kind": "app",
            "id": "1",
            "state": "different",
            "differences": [{"path": "/appName", "op": "changed", "before": "a", "after": "b"}],
        },
        {"kind": "app", "id": "2", "state": "missing"},
        {"kind": "app", "id": "3", "state": "extra"},
        {
            "kind": "config",
            "id": "logging",
            "state": "different",
            "differences": [
                {"path": "/level", "op": "changed", "before": "info", "after": "debug"}
            ],
        },
        {
            "kind": "config",
            "id": "endpoints",
            "state": "different",
            "differences": [{"path": "/f", "op": "added", "after": {"name": "f"}}],
        },
        {"kind": "config", "id": "features", "state": "missing"},
    ]


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        ({"name": "cpu_usage"}, {"name": f"{AGENT}_system_cpu_usage"}),
        ({"name": "system_cpu_usage"}, {"name": f"{AGENT}_system_cpu_usage"}),
        ({"name": f"{ENDPOINT}_temp"}, {"name": f"{AGENT}_{ENDPOINT}_temp"}),
        ({"name": f"{AGENT}_{ENDPOINT}_temp"}, {"name": f"{AGENT}_{ENDPOINT}_temp"}),
        (
            {"name": "temp", "endpoint": "press"},
            {"name": f"{AGENT}_{ENDPOINT}_temp", "endpoint": "press"},
        ),
        (
            {"name": "temp", "endpointUuid": ENDPOINT},
            {"name": f"{AGENT}_{ENDPOINT}_temp", "endpointUuid": ENDPOINT},
        ),
        ("temp", f"{AGENT}_system_temp"),
        (
            {"name": "t", "expectedRange": [0, 1.5]},
            {"name": f"{AGENT}_system_t", "expectedRange": [0, 1.5]},
        ),
        ({"name": "t", "expectedRange": [None, 1]}, {"name": f"{AGENT}_system_t"}),
        ({"name": "t", "expectedRange": ["Infinity", 1]}, {"name": f"{AGENT}_system_t"}),
        ({"name": "t", "expectedRange": [1]}, {"name": f"{AGENT}_system_t"}),
        ({"name": "t", "expectedRange": [float("nan"), 1]}, {"name": f"{AGENT}_system_t"}),
        ({"other": 1}, {"other": 1}),
        (7, 7),
    ],
)
def test_names_of_metrics_get_their_full_form(metric: Any, expected: Any) -> None:
    config = {
        "endpoints": [{"name": "press", "uuid": ENDPOINT}],
        "anomalyDetection": {"enabled": True, "metrics": [metric]},
    }
    made = processed(AGENT, Content({}, config)).config["anomalyDetection"]  # type: ignore[arg-type]
    assert made == {"enabled": True, "metrics": [expected]}


def test_metrics_may_be_an_object_by_name() -> None:
    config = {"anomalyDetection": {"metrics": {"t": {"expectedRange": [0, None]}, "u": {}}}}
    made = processed(AGENT, Content({}, config)).config["anomalyDetection"]  # type: ignore[arg-type]
    assert made["metrics"] == {f"{AGENT}_system_t": {}, f"{AGENT}_system_u": {}}


def test_a_default_keeps_the_names_of_its_metrics() -> None:
    config = {"anomalyDetection": {"metrics": [{"name": "t"}]}}
    assert processed(None, Content({}, config)).config == config


def test_nothing_is_signed_without_a_secret_or_a_version() -> None:
    now = datetime.now(UTC)
    for secret, agent in ((None, {"version": "1"}), (b"s", {}), (b"s", {"version": ""})):
        content = Content({}, {"agent": agent})
        assert Signer(secret).sign(content, now=now) is content


def test_etags_tell_versions_and_contents_apart_but_not_the_order_of_members() -> None:
    one = Content({"a": {"x": 1, "y": 2}}, {})
    assert etag_of(1, one) == etag_of(1, Content({"a": {"y": 2, "x": 1}}, {}))
    others = {
        etag_of(1, one),
        etag_of(2, one),
        etag_of(1, Content({}, {})),
        etag_of(1, Content({}, one.apps)),
    }
    assert len(others) == 4
    assert all(len(etag) == 40 for etag in others)
