"""The golden vectors of `tests/vectors/`, which `tests/vectors.rs` runs as well."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import pytest

from iotistica import _native

TENANT = "73eddd385ce8"
AGENT = "6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01"
NOW_MS = 1_795_454_000_000
VECTORS = Path(__file__).parents[1] / "vectors"

Case = dict[str, Any]


def cases(name: str) -> Any:
    found: list[Case] = orjson.loads((VECTORS / f"{name}.json").read_bytes())
    assert found
    return pytest.mark.parametrize("case", found)


def context(**limits: int) -> _native.Context:
    known = _native.Context(TENANT, _native.Limits(**limits))
    known.add_agents([AGENT])
    return known


def explain(payload: bytes, known: _native.Context, topic: str = "endpoints/x") -> Case:
    full_topic = _native.format_topic(TENANT, AGENT, topic)
    report: Case = orjson.loads(_native.explain(full_topic, payload, known, now_ms=NOW_MS))
    return report


@cases("topic")
def test_topic(case: Case) -> None:
    if "error" in case:
        with pytest.raises(_native.InvalidTopic, match="is not i/"):
            _native.parse_topic(case["topic"])
        return
    parsed = _native.parse_topic(case["topic"])
    for name in ("tenant", "raw_tenant", "agent", "kind", "rest"):
        assert getattr(parsed, name) == case[name]


@cases("ids")
def test_ids_both_ways(case: Case) -> None:
    kinds = {
        "tenant": (_native.encode_tenant, _native.decode_tenant),
        "agent": (_native.encode_agent, _native.decode_agent),
    }
    encode, decode = kinds[case["kind"]]
    assert encode(case["plain"]) == case["encoded"]
    assert decode(case["encoded"]) == case["plain"]


def check_decoded(case: Case) -> None:
    limits = {}
    if "limit" in case:
        limits["max_inflated_bytes"] = case["limit"]
    if "elements" in case:
        limits["max_elements"] = case["elements"]
    payload = bytes.fromhex(case["payload"])
    if "error" not in case:
        decoded = _native.decode(payload, _native.Limits(**limits))
        assert orjson.loads(decoded) == case["json"]
        return
    with pytest.raises(_native.Undecodable):
        _native.decode(payload, _native.Limits(**limits))
    report = explain(payload, context(**limits))
    assert [reject["reason"] for reject in report["rejects"]] == [case["error"]]


@cases("inflate")
def test_inflate(case: Case) -> None:
    check_decoded(case)


@cases("decode")
def test_decode(case: Case) -> None:
    check_decoded(case)


@cases("expand")
def test_expand(case: Case) -> None:
    known = context()
    known.put_dictionary(AGENT, 1, orjson.dumps(case["dictionary"]))
    report = explain(orjson.dumps(case["message"]), known)
    if "error" in case:
        assert [reject["reason"] for reject in report["rejects"]] == [case["error"]]
        return
    assert report.get("expanded") == case["expanded"]
    assert report.get("unknown_fields") == case.get("unknown_fields")


@cases("time")
def test_time(case: Case) -> None:
    payload = orjson.dumps({"metric": "t", "value": 1, "timestamp": case["given"]})
    report = explain(payload, context())
    if "error" in case:
        assert [reject["reason"] for reject in report["rejects"]] == [case["error"]]
    else:
        assert [row["time"] for row in report["rows"]] == [case["time"]]


@cases("quality")
def test_quality(case: Case) -> None:
    report = explain(orjson.dumps({"metric": "t", "quality": case["given"]}), context())
    assert [row["quality"] for row in report["rows"]] == [case["quality"]]


@cases("normalize")
def test_normalize(case: Case) -> None:
    report = explain(orjson.dumps(case["payload"]), context(), case["topic"])
    assert report["rows"] == case["rows"]
    for name in ("dropped", "duplicates", "collisions"):
        assert report[name] == case[name]
    rejects = [{key: reject[key] for key in ("reason", "readings")} for reject in report["rejects"]]
    assert rejects == case["rejects"]


def attributes(objects: list[Any], *names: str) -> list[Case]:
    return [{name: getattr(one, name) for name in names} for one in objects]


@cases("entry")
def test_entry(case: Case) -> None:
    known = _native.Context(TENANT, key_compaction=case["key_compaction"])
    known.add_agents([AGENT])
    entries = [
        (entry["id"].encode(), [field.encode() for field in entry["fields"]])
        for entry in case["entries"]
    ]
    batch = _native.encode_batch(
        entries,
        known,
        now_ms=NOW_MS,
        final=case["final"],
        divert_before_ms=case.get("divert_before_ms"),
    )
    counts = ("rows", "duplicates", "collisions", "dropped", "rejected")
    assert attributes(batch.outcomes, "entry", "message", "agent", *counts) == case["outcomes"]
    rejects = attributes(batch.rejects, "entry", "message", "reason", "readings")
    assert rejects == case["rejects"]
    waiting = attributes(batch.waiting, "entry", "message", "needs", "agent", "version", "hash")
    assert waiting == case["waiting"]
    names = ("messages", "readings", "rows", "duplicates", "collisions", "dropped", "rejected")
    tallies = attributes(batch.tallies, "entry", "agent", *names, "reasons", "numbers")
    assert orjson.loads(orjson.dumps(tallies)) == case["tallies"]
    for name in counts:
        assert getattr(batch, name) == sum(outcome[name] for outcome in case["outcomes"])


@cases("copy")
def test_copy(case: Case) -> None:
    name = f"{NOW_MS}-0 {_native.format_topic(TENANT, AGENT, 'endpoints/x')}".encode()
    entry = (b"1-0", [name, orjson.dumps(case["payload"])])
    batch = _native.encode_batch([entry], context(), now_ms=NOW_MS)
    assert bytes(memoryview(batch.copy)).hex() == case["copy"]
    assert bytes(memoryview(batch.latest)).hex() == case["latest"]
    assert list(batch.copy.arrays()) == case["arrays"]
    assert batch.days == case["days"]
    assert batch.oldest_received_ms == NOW_MS


@cases("lttb")
def test_lttb(case: Case) -> None:
    assert _native.lttb(case["times"], case["values"], case["points"]) == case["chosen"]
