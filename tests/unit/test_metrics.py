"""Expositions of several processes as one."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from iotistica.metrics import merge


def exposition(value: float) -> bytes:
    registry = CollectorRegistry()
    Counter("work_total", "Work done", ["kind"], registry=registry).labels('a"b\n').inc(value)
    Gauge("level", "How full", registry=registry).set(value)
    Histogram("lag_seconds", "How late", registry=registry, buckets=(1, 5)).observe(value)
    return generate_latest(registry)


def test_samples_keep_their_process_and_families_stand_once() -> None:
    text = merge({"bridge-0": exposition(1), "web-0": exposition(2)}).decode()
    assert text.count("# TYPE work_total counter") == 1
    assert text.count("# TYPE lag_seconds histogram") == 1
    families = {family.name: family for family in text_string_to_metric_families(text)}
    level = {s.labels["process"]: s.value for s in families["level"].samples}
    assert level == {"bridge-0": 1.0, "web-0": 2.0}
    work = [s for s in families["work"].samples if s.name == "work_total"]
    assert [(s.labels, s.value) for s in work] == [
        ({"kind": 'a"b\n', "process": "bridge-0"}, 1.0),
        ({"kind": 'a"b\n', "process": "web-0"}, 2.0),
    ]
    buckets = [s for s in families["lag_seconds"].samples if s.name == "lag_seconds_bucket"]
    assert len(buckets) == 6


def test_nothing_merges_to_nothing() -> None:
    assert merge({}) == b""
