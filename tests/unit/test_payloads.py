"""What simulated agents publish, decoded by decoders that iotistica does not use."""

from __future__ import annotations

import hashlib
import json
import random
import zlib
from datetime import datetime, timedelta
from typing import Any

import orjson
import ormsgpack
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from iotistica import _native
from iotistica.dictionaries import Dictionary, extend, read_delta, read_dictionary
from iotistica.simulator.payloads import Payloads, Span, iso, widths
from iotistica.simulator.plan import PLAIN, Format
from iotistica.simulator.protocols import PROTOCOLS
from iotistica.simulator.series import Series, State

AGENT = "0e6f3c1e-5b52-5a0e-8e0e-9d6a9b1f7c01"
SPAN = Span(1_790_000_000_123_000, 5_000_000)
INDEXES = range(len(PROTOCOLS))


def payloads(index: int = 0, readings: int = 60, *, learning: bool = False) -> Payloads:
    series = Series(AGENT, index)
    return Payloads(AGENT, series, readings, random.Random(1), learning=learning)


def decode(payload: bytes, form: Format) -> Any:
    if form in (Format.JSON_DEFLATE, Format.MSGPACK_DEFLATE):
        payload = zlib.decompress(payload)
    if form in (Format.JSON, Format.JSON_DEFLATE, Format.LEGACY):
        return json.loads(payload)
    return ormsgpack.unpackb(payload)


def expand_pairs(pairs: list[Any], fields: list[str]) -> dict[str, Any]:
    expanded: dict[str, Any] = {}
    for pair in pairs:
        if pair[0] == "a":
            _, key, items = pair
            expanded[key] = [expand_pairs(item, fields) for item in items]
        else:
            index, value = pair
            expanded[fields[index].rpartition("[].")[2]] = value
    return expanded


def expand_columns(message: dict[str, Any], fields: list[str]) -> dict[str, Any]:
    return {
        fields[index]: [expand_columns(item, fields) for item in value]
        if isinstance(value, list)
        else value
        for index, value in zip(message["i"], message["d"], strict=True)
    }


def name_codes(expanded: dict[str, Any], dictionary: dict[str, Any], protocol: str) -> None:
    """Replace the codes of an expanded message by their names, as the cloud does."""
    names = {
        "metric": dictionary["metrics"][protocol],
        "deviceName": dictionary["devices"][protocol],
        "unit": dictionary["enums"]["unit"],
        "quality": dictionary["enums"]["quality"],
    }
    turned = {key: {code: name for name, code in codes.items()} for key, codes in names.items()}
    for message in expanded["messages"]:
        message["deviceName"] = turned["deviceName"][message["deviceName"]]
        for reading in message["readings"]:
            for key in ("metric", "unit", "quality"):
                if type(reading[key]) is int:
                    reading[key] = turned[key].get(reading[key], reading[key])


@pytest.mark.parametrize("index", INDEXES)
@pytest.mark.parametrize(
    "form", [Format.JSON, Format.MSGPACK, Format.JSON_DEFLATE, Format.MSGPACK_DEFLATE]
)
def test_a_payload_decodes_to_the_message(index: int, form: Format) -> None:
    agent = payloads(index)
    message = agent.message(SPAN)
    assert decode(agent.encode(message, form), form) == message


@pytest.mark.parametrize("index", INDEXES)
def test_the_tuple_form_expands_to_the_message(index: int) -> None:
    agent = payloads(index)
    message = agent.message(SPAN)
    dictionary = json.loads(agent.dictionary.message())
    compacted = decode(agent.encode(message, Format.COMPACT), Format.COMPACT)
    assert compacted["v"] == dictionary["version"]
    expanded = expand_pairs(compacted["p"], dictionary["fields"])
    name_codes(expanded, dictionary, message["protocol"])
    assert expanded == message


@pytest.mark.parametrize("index", INDEXES)
def test_the_legacy_form_expands_to_the_message(index: int) -> None:
    agent = payloads(index)
    message = agent.message(SPAN)
    dictionary = json.loads(agent.dictionary.message())
    compacted = decode(agent.encode(message, Format.LEGACY), Format.LEGACY)
    assert expand_columns(compacted, dictionary["fields"]) == message


@pytest.mark.parametrize("index", INDEXES)
def test_a_learning_agent_tells_everything_that_it_learns(index: int) -> None:
    agent = payloads(index, learning=True)
    message = agent.message(SPAN)
    known = read_dictionary(json.loads(agent.dictionary.message()))
    whole = payloads(index).dictionary
    versions = []
    while True:
        for form in (Format.COMPACT, Format.LEGACY):
            compacted = decode(agent.encode(message, form), form)
            assert (compacted["v"], compacted["h"]) == (known.version, known.hash)
            expanded = expanded_by(known, agent.encode(message, form))
            for one, sent in zip(expanded["messages"], message["messages"], strict=True):
                assert one["deviceName"] == sent["deviceName"]
                for reading, made in zip(one["readings"], sent["readings"], strict=True):
                    # Of the protocol's extras only what was learned; nothing else is missing.
                    assert {key: made[key] for key in reading} == reading
                    assert {"metric", "value", "unit", "timestamp"} <= reading.keys()
        versions.append(known.version)
        if (delta := agent.dictionary.learn()) is None:
            break
        known = extend(known, read_delta(json.loads(delta)))
        assert known == read_dictionary(json.loads(agent.dictionary.message()))
    assert versions == [1, 2, 3, 4]
    assert agent.dictionary.fields == whole.fields
    assert agent.dictionary.enums == whole.enums
    assert expanded["messages"][0]["readings"][0].keys() == (
        message["messages"][0]["readings"][0].keys()
    )


def expanded_by(known: Dictionary, payload: bytes) -> Any:
    """What the cloud makes of a compacted payload."""
    agent = "6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01"
    context = _native.Context("73eddd385ce8")
    context.put_dictionary(agent, known.version, known.held().json)
    topic = _native.format_topic("73eddd385ce8", agent, "endpoints/x")
    report = orjson.loads(_native.explain(topic, payload, context, now_ms=SPAN.start_us // 1000))
    assert report["unknown_fields"] == 0
    return report["expanded"]


def test_the_hash_is_that_of_the_sorted_field_names() -> None:
    agent = payloads()
    fields = json.loads(agent.dictionary.message())["fields"]
    text = json.dumps(sorted(fields), separators=(",", ":"))
    compacted = decode(agent.encode(agent.message(SPAN), Format.COMPACT), Format.COMPACT)
    assert compacted["h"] == hashlib.sha256(text.encode()).hexdigest()


def test_a_deflated_payload_has_the_header_that_the_cloud_looks_for() -> None:
    agent = payloads()
    for form in (Format.JSON_DEFLATE, Format.MSGPACK_DEFLATE):
        payload = agent.encode(agent.message(SPAN), form)
        assert payload[0] == 0x78
        assert payload[1] in (0x01, 0x5E, 0x9C, 0xDA)


def test_mixed_is_not_the_format_of_one_payload() -> None:
    with pytest.raises(ValueError, match="mixed"):
        payloads().encode({}, Format.MIXED)
    assert set(PLAIN) == set(Format) - {Format.MIXED}


@given(readings=st.integers(1, 200))
def test_a_message_holds_as_many_readings_as_asked_for(readings: int) -> None:
    assert sum(widths(readings)) == readings
    assert all(1 <= width <= 5 for width in widths(readings))
    message = payloads(readings=readings).message(SPAN)
    assert sum(len(part["readings"]) for part in message["messages"]) == readings


@given(start=st.integers(0, 4_000_000_000_000_000), step=st.integers(1, 5_000_000))
@settings(max_examples=50)
def test_no_two_readings_of_a_series_share_a_timestamp(start: int, step: int) -> None:
    message = payloads().message(Span(start, step))
    times = [part["timestamp"] for part in message["messages"]]
    assert len(set(times)) == len(times) == 12


@given(time_us=st.integers(0, 4_000_000_000_000_000))
def test_iso_is_exact(time_us: int) -> None:
    moment = datetime.fromisoformat("1970-01-01T00:00:00+00:00") + timedelta(microseconds=time_us)
    assert datetime.fromisoformat(iso(time_us)) == moment


def test_iso_has_milliseconds_as_javascript_writes_them() -> None:
    assert iso(1_763_000_000_000_000) == "2025-11-13T02:13:20.000Z"
    assert iso(1_763_000_000_120_000) == "2025-11-13T02:13:20.120Z"
    assert iso(1_763_000_000_120_001) == "2025-11-13T02:13:20.120001Z"


@pytest.mark.parametrize("index", INDEXES)
def test_values_move_and_stay_plausible(index: int) -> None:
    series = Series(AGENT, index)
    start = 1_790_000_000_000_000
    day = [series.sample(start + minute * 60_000_000)[1] for minute in range(1440)]
    for metric, column in zip(series.protocol.metrics, zip(*day, strict=True), strict=True):
        values = [value for value in column if value is not None]
        assert len(set(values)) > 5
        assert abs(sum(values) / len(values) - metric.mean) < metric.swing
        assert max(values) - min(values) > metric.swing


@pytest.mark.parametrize("index", INDEXES)
def test_a_value_can_be_recomputed_from_its_time(index: int) -> None:
    agent = payloads(index)
    for part, time_us in zip(
        agent.message(SPAN)["messages"],
        range(SPAN.start_us, SPAN.start_us + 12 * SPAN.step_us, SPAN.step_us),
        strict=True,
    ):
        values = [reading["value"] for reading in part["readings"]]
        assert values == [agent.series.value(metric, time_us) for metric in range(5)]


def test_a_few_samples_are_bad_and_carry_no_value() -> None:
    agent = payloads()
    times = range(SPAN.start_us, SPAN.start_us + 20_000_000, 1000)
    states = [agent.series.sample(time_us)[0] for time_us in times]
    assert 0.001 < states.count(State.BAD) / len(states) < 0.004
    assert 0.005 < states.count(State.DOUBTFUL) / len(states) < 0.012
    bad = agent.message(Span(times[states.index(State.BAD)], 1000))["messages"][0]["readings"][0]
    assert bad["value"] is None
    assert bad["quality"] == "BAD"


def test_protocols_bring_their_own_extras_and_topics() -> None:
    extras = {
        protocol.name: set().union(*(metric.extra for metric in protocol.metrics))
        for protocol in PROTOCOLS
    }
    assert extras == {
        "modbus": {"registerAddress"},
        "opcua": {"nodeId"},
        "bacnet": {"objectId"},
        "snmp": {"oid"},
        "mqtt": set(),
        "can": {"canId", "spn"},
    }
    assert {protocol.topic for protocol in PROTOCOLS} >= {"modbus", "plant-a/line-3/energy-meter"}


def test_agents_of_one_protocol_differ() -> None:
    other = Series("5c9a4a52-9c7b-5a53-8a50-1a2b3c4d5e6f", 0)
    times = [SPAN.start_us + n * 60_000_000 for n in range(100)]
    assert [Series(AGENT, 0).sample(t) for t in times] != [other.sample(t) for t in times]
