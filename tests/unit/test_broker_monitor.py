"""Figures, schemas, trees and kinds of payloads: the pure parts of the broker monitor."""

from __future__ import annotations

import base64
import re
import zlib
from dataclasses import dataclass
from typing import Any

import msgspec
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica import keys
from iotistica.errors import BadRequest
from iotistica.monitor.figures import Rates, figures, value
from iotistica.monitor.payload import kind, written
from iotistica.monitor.schema import infer
from iotistica.monitor.tree import grow
from iotistica.mqtt.trial import Target, connect_packet
from iotistica.topic_filters import covers

MOSQUITTO = {
    "$SYS/broker/version": "mosquitto version 2.0.18",
    "$SYS/broker/uptime": "61 seconds",
    "$SYS/broker/clients/connected": 3,
    "$SYS/broker/clients/total": 5,
    "$SYS/broker/messages/received": 100,
    "$SYS/broker/publish/messages/dropped": 0,
    "$SYS/broker/subscriptions/count": 7,
    "$SYS/broker/retained messages/count": 40,
}


def test_figures_have_names_and_say_what_the_broker_does_not_tell() -> None:
    found = figures(MOSQUITTO)
    assert found["broker"] == {"version": "mosquitto version 2.0.18", "uptimeSeconds": 61}
    assert found["clients"] == {"connected": 3, "disconnected": 2, "total": 5, "maximum": None}
    assert found["messages"]["received"] == 100
    assert found["messages"]["publishDropped"] == 0
    assert found["messages"]["stored"] is None
    assert (found["subscriptions"], found["retained"]) == (7, 40)


def test_a_value_is_a_number_where_it_is_one() -> None:
    assert value(b"12") == 12
    assert value(b"0.25") == 0.25
    assert value(b"61 seconds") == "61 seconds"
    assert value(b"9" * 30) == "9" * 30
    assert value(b"\xff\x00x") == "�x"


@given(st.binary(max_size=400))
def test_any_value_can_be_written_as_json(payload: bytes) -> None:
    orjson.dumps(value(payload))


def rates_of(rates: Rates, received: int, at_s: float) -> float | None:
    found = figures({"$SYS/broker/messages/received": received})
    return rates.take(found, at_s)["messagesReceived"]


def test_rates_are_those_of_the_last_minute() -> None:
    rates = Rates()
    assert rates_of(rates, 100, 0.0) is None
    assert rates_of(rates, 150, 5.0) == 10.0
    # The broker tells every ten seconds, and is asked every five.
    assert rates_of(rates, 150, 10.0) == 5.0
    assert rates_of(rates, 700, 60.0) == 10.0
    assert rates_of(rates, 700, 120.0) == 0.0


def test_a_broker_that_started_again_has_no_negative_rate() -> None:
    rates = Rates()
    rates_of(rates, 1000, 0.0)
    assert rates_of(rates, 10, 5.0) is None
    assert rates_of(rates, 20, 10.0) == 2.0


def test_a_schema_names_fields_and_types() -> None:
    reading = {"metric": "temperature", "value": 21.5}
    other = {"metric": "on", "value": True, "unit": None}
    assert infer({"sensor": "a", "readings": [reading, reading, other], "n": 1}) == {
        "type": "object",
        "properties": {
            "sensor": {"type": "string"},
            "readings": {
                "type": "array",
                "items": {
                    "type": "object",
                    "properties": {
                        "metric": {"type": "string"},
                        "value": {"type": ["number", "boolean"]},
                        "unit": {"type": "null"},
                    },
                    "required": ["metric", "value"],
                },
            },
            "n": {"type": "integer"},
        },
        "required": ["sensor", "readings", "n"],
    }


def test_whole_and_broken_numbers_are_numbers() -> None:
    assert infer([1, 2.5]) == {"type": "array", "items": {"type": "number"}}


JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=60,
)


@given(JSON)
def test_a_schema_is_bounded_whatever_is_looked_at(payload: Any) -> None:
    schema = infer(payload)
    assert len(orjson.dumps(schema)) <= 4096
    assert "type" in schema


def test_a_payload_too_wide_or_too_deep_is_cut() -> None:
    wide = infer({f"field {number}": number for number in range(5000)})
    assert wide == {"type": "object", "truncated": True}
    deep: Any = 1
    for _ in range(100):
        deep = {"a": deep}
    schema = infer(deep)
    for _ in range(6):
        schema = schema["properties"]["a"]
    assert schema == {"type": "object", "truncated": True}


@given(st.lists(st.fixed_dictionaries({"a": JSON}), min_size=1, max_size=5))
def test_what_is_required_is_in_every_item(items: list[Any]) -> None:
    found = infer(items)
    if "truncated" not in found and "properties" in found["items"]:
        assert found["items"]["required"] == ["a"]


@pytest.mark.parametrize(
    ("payload", "expected"),
    [
        (b'{"a":1}', "json"),
        (b"  [1]", "json"),
        (msgspec.msgpack.encode({"a": 1}), "msgpack"),
        (zlib.compress(b'{"a":1}'), "deflate+json"),
        (zlib.compress(msgspec.msgpack.encode([1, 2])), "deflate+msgpack"),
        (b"\x78\x9cnot deflated", "binary"),
        (b"on", "text"),
        (b"", "empty"),
        (b"\x00\x01", "binary"),
    ],
)
def test_kinds_of_payloads(payload: bytes, expected: str) -> None:
    assert kind(payload) == expected


@given(st.binary(max_size=200))
def test_any_payload_has_a_kind(payload: bytes) -> None:
    assert kind(payload)
    assert kind(zlib.compress(payload)).startswith("deflate+")


@given(st.binary(min_size=1, max_size=100))
def test_payloads_are_read_as_they_are_written(payload: bytes) -> None:
    assert written(payload.hex(), "auto") == payload
    assert written("0x" + payload.hex(" "), "hex") == payload
    assert written(base64.b64encode(payload).decode(), "base64") == payload
    assert written(base64.urlsafe_b64encode(payload).decode().rstrip("="), "base64") == payload


@given(st.text(max_size=60), st.sampled_from(["auto", "base64", "hex"]))
def test_text_that_is_no_payload_is_refused(text: str, encoding: str) -> None:
    plain = re.sub(r"\s", "", text)
    if not re.fullmatch(r"(0x)?[0-9A-Za-z+/_=-]*", plain):
        with pytest.raises(BadRequest, match="field payload is"):
            written(text, encoding)


@dataclass
class Counted:
    topic: str
    messages: int = 1
    bytes: int = 10
    last_seen_ms: int = 0


def test_a_tree_counts_what_is_below_each_level() -> None:
    topics = [
        Counted("i/t/a/x/endpoints/modbus", 3, 30, 5),
        Counted("i/t/a/x/endpoints/opcua", 2, 20, 7),
        Counted("i/t/a/x", 1, 10, 1),
        Counted("i/t/a/y/state", 4, 40, 9),
    ]
    root = grow(topics, under="i/t/a", depth=1)
    assert (root["topics"], root["messages"], root["bytes"]) == (4, 10, 100)
    assert root["lastSeen"] == "1970-01-01T00:00:00.009Z"
    assert grow([], under="", depth=1)["lastSeen"] is None
    x, y = root["children"]
    assert (x["name"], x["topic"], x["topics"], x["messages"]) == ("x", "i/t/a/x", 3, 6)
    assert x["ownMessages"] == 1
    assert x["children"] == []
    assert (y["name"], y["messages"], y["ownMessages"]) == ("y", 4, 0)


LEVELS = st.lists(st.sampled_from(["a", "b", "", "ü"]), min_size=1, max_size=5).map("/".join)


@given(st.lists(LEVELS, unique=True), st.integers(1, 8))
def test_every_message_is_somewhere_in_the_tree(names: list[str], depth: int) -> None:
    root = grow([Counted(name) for name in names], under="", depth=depth)

    def own(node: dict[str, Any]) -> int:
        return int(node["ownMessages"]) + sum(own(child) for child in node["children"])

    assert root["topics"] == root["messages"] == len(names)
    deep = [name for name in names if len(name.split("/")) > depth]
    assert own(root) == len(names) - len(deep)


@pytest.mark.parametrize(
    ("topic", "collected"),
    [
        ("$SYS/broker/clients/connected", True),
        ("$SYS/broker/retained messages/count", True),
        ("$SYS/broker/load/bytes/sent/1min", True),
        ("$SYS/brokers/node1/stats/connections.count", True),
        ("$SYS/broker/log/M/subscribe", False),
        ("$SYS/broker/connection/bridge/state", False),
        ("$SYS/brokers/node1/clients/agent-7/connected", False),
    ],
)
def test_logs_and_clients_of_all_tenants_are_not_collected(topic: str, collected: bool) -> None:
    assert any(covers(one, topic) for one in keys.SYSTEM_FILTERS) is collected


def test_the_connect_packet_of_a_test_is_that_of_mqtt_5() -> None:
    target = Target(
        address="192.0.2.1",
        port=1883,
        host="broker",
        tls=None,
        client_id="me",
        username="u",
        password="p",
    )
    assert connect_packet(target) == (
        b"\x10\x15\x00\x04MQTT\x05\xc2\x00\x1e\x00\x00\x02me\x00\x01u\x00\x01p"
    )
