"""S1: stream entries to a sorted binary COPY buffer, one call, one core.

The baseline is the best pure-Python way we know: zlib, ormsgpack or orjson, one pass over the
readings, a dict for duplicates, `sorted`, and `struct` for the COPY stream. It does less (no
limits, no key compaction, only the first payload shape), and its rows are checked against ours.
"""

from __future__ import annotations

import random
import struct
import time
import uuid
import zlib
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import orjson
import ormsgpack

from harness import arguments, rate, report
from iotistica import _native

TENANT = "73eddd385ce8"
AGENTS = [str(uuid.UUID(int=i << 96 | 4 << 76 | 2 << 62)) for i in range(1, 21)]
METRICS = [
    ("temperature", "C"),
    ("pressure", "bar"),
    ("voltage", "V"),
    ("current", "A"),
    ("flow", "l/min"),
]
MESSAGES = 200
EPOCH_US = 946_684_800_000_000
_END_US = time.time_ns() // 1000 - 60_000_000

Payload = dict[str, Any]
Encode = Callable[[Payload], bytes]


def payload(agent: int, sequence: int, rng: random.Random) -> Payload:
    """The load tests' shape: 12 messages of 5 readings, a second apart (reference section 10)."""
    messages = []
    for i in range(12):
        at = datetime.fromtimestamp((_END_US // 1_000_000) - sequence * 12 - i, UTC)
        stamp = at.strftime("%Y-%m-%dT%H:%M:%S.123Z")
        readings = [
            {
                "metric": metric,
                "value": round(rng.gauss(50, 20), 3),
                "unit": unit,
                "quality": "good",
                "timestamp": stamp,
                "protocol": "modbus",
            }
            for metric, unit in METRICS
        ]
        messages.append(
            {
                "protocol": "modbus",
                "deviceUuid": AGENTS[agent],
                "deviceName": f"modbus_plc_{agent}",
                "timestamp": stamp,
                "readings": readings,
            }
        )
    return {
        "sensor": "plc",
        "protocol": "modbus",
        "messages": messages,
        "msgId": f"{agent}-{sequence}",
    }


READING = ("metric", "value", "unit", "quality", "timestamp", "protocol")
FIELDS = [
    "sensor", "protocol", "messages", "msgId", "messages[].protocol", "messages[].deviceUuid",
    "messages[].deviceName", "messages[].timestamp", "messages[].readings",
    *(f"messages[].readings[].{name}" for name in READING),
]  # fmt: skip


def compact(whole: Payload) -> Payload:
    """The same payload in tuple form (reference section 2)."""

    def pairs(value: Payload, path: str) -> list[Any]:
        out: list[Any] = []
        for key, item in value.items():
            index = FIELDS.index(path + key)
            if isinstance(item, list):
                out.append(["a", index, [pairs(element, f"{path}{key}[].") for element in item]])
            else:
                out.append([index, item])
        return out

    return {"v": 1, "p": pairs(whole, "")}


FORMATS: dict[str, Encode] = {
    "msgpack+deflate": lambda whole: zlib.compress(ormsgpack.packb(whole)),
    "msgpack": ormsgpack.packb,
    "json+deflate": lambda whole: zlib.compress(orjson.dumps(whole)),
    "json": orjson.dumps,
    "compact+msgpack": lambda whole: ormsgpack.packb(compact(whole)),
}

_ROW = struct.Struct(">hiqi16s").pack
_F64 = struct.Struct(">id").pack
_LEN = struct.Struct(">i").pack
_NULLS = _LEN(-1) * 2


def _text(value: str) -> bytes:
    raw = value.encode()
    return _LEN(len(raw)) + raw


def python_rows(fields: list[bytes]) -> dict[tuple[bytes, str, int], bytes]:
    """Decode, normalize and deduplicate in Python; the value of a key is its encoded row."""
    rows: dict[tuple[bytes, str, int], bytes] = {}
    texts: dict[str, bytes] = {}
    for name, raw in zip(fields[::2], fields[1::2], strict=True):
        agent = uuid.UUID(_native.decode_agent(name.decode().split("/")[3])).bytes
        if raw[:2] == b"\x78\x9c":
            raw = zlib.decompress(raw)
        whole = orjson.loads(raw) if raw[:1] == b"{" else ormsgpack.unpackb(raw)
        for message in whole["messages"]:
            extra = b'\x01{"device_uuid":"%s","device_name":"%s"}' % (
                message["deviceUuid"].encode(),
                message["deviceName"].encode(),
            )
            for reading in message["readings"]:
                stamp = datetime.fromisoformat(reading["timestamp"])
                micros = int(stamp.timestamp() * 1_000_000) - EPOCH_US
                metric = reading["metric"]
                parts = [
                    texts.get(text) or texts.setdefault(text, _text(text))
                    for text in (metric, reading["quality"], reading["unit"], reading["protocol"])
                ]
                rows[agent, metric, micros] = b"".join(
                    (
                        _ROW(10, 8, micros, 16, agent),
                        parts[0],
                        _F64(8, reading["value"]),
                        *parts[1:],
                        _LEN(len(extra)),
                        extra,
                        _NULLS,
                    )
                )
    return rows


def python_copy(fields: list[bytes]) -> bytes:
    """The whole way in Python."""
    rows = python_rows(fields)
    body = b"".join(row for _, row in sorted(rows.items()))
    return b"PGCOPY\n\xff\r\n\0" + bytes(8) + body + b"\xff\xff"


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--format", choices=[*FORMATS, "all"], default="all")
    given = parser.parse_args()
    context = _native.Context(TENANT)
    context.add_agents(AGENTS)
    fields = orjson.dumps({"fields": FIELDS})
    for agent in AGENTS:
        context.put_dictionary(agent, 1, fields)
    names = list(FORMATS) if given.format == "all" else [given.format]
    # The headline comes last, so that it is the closing line.
    for name in sorted(names, key=lambda name: name == "msgpack+deflate"):
        measure(name, context, given.runs, given.json and name == names[0])


def measure(name: str, context: _native.Context, runs: int, as_json: bool) -> None:
    rng = random.Random(1)
    whole = [payload(i % len(AGENTS), i // len(AGENTS), rng) for i in range(MESSAGES)]

    def entry(encode: Encode) -> list[bytes]:
        now_ms = time.time_ns() // 1_000_000
        topics = [_native.format_topic(TENANT, agent, "endpoints/modbus") for agent in AGENTS]
        pairs = (
            (f"{now_ms}-{i} {topics[i % len(topics)]}".encode(), encode(one))
            for i, one in enumerate(whole)
        )
        return [part for pair in pairs for part in pair]

    fields = entry(FORMATS[name])
    baseline_fields = entry(FORMATS[name.replace("compact+", "")])
    entries = [(b"1-0", fields)]

    def ours() -> _native.Batch:
        return _native.encode_batch(entries, context, now_ms=time.time_ns() // 1_000_000)

    batch = ours()
    readings = batch.readings
    correct = bytes(batch.copy) == python_copy(baseline_fields) and not batch.rejects
    results, baselines = [], []
    for _ in range(runs):
        results.append(rate(ours, readings))
        baselines.append(rate(lambda: python_copy(baseline_fields), readings))
    report(
        bench=f"decode/{name}", runs=results, baselines=baselines, unit="readings/s",
        as_json=as_json, correct=correct, bytes_per_message=len(fields[1]),
    )  # fmt: skip


if __name__ == "__main__":
    main()
