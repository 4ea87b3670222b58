"""What crosses the boundary besides the vectors: buffers, letters, errors, properties."""

from __future__ import annotations

import contextlib
import math
import subprocess
import sys
import uuid
import zlib
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import orjson
import ormsgpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica import _native, ledger

TENANT = "73eddd385ce8"
AGENT = "6f1c2f9e-1c1b-4f6e-9a55-0b6a2f6f0a01"
NOW_MS = 1_795_454_000_000
TOPIC = _native.format_topic(TENANT, AGENT, "endpoints/modbus/line-1")

texts = st.text(st.characters(codec="utf-8"))
integers = st.integers(-(2**63), 2**64 - 1)
floats = st.floats(allow_nan=False, allow_infinity=False)
scalars = st.none() | st.booleans() | integers | floats | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner) | st.dictionaries(texts, inner), max_leaves=30
)
roots = st.lists(values) | st.dictionaries(texts, values)


def encode(*payloads: bytes, **options: Any) -> _native.Batch:
    known = _native.Context(TENANT)
    known.add_agents([AGENT])
    fields = [
        part
        for i, payload in enumerate(payloads)
        for part in (f"{NOW_MS}-{i} {TOPIC}".encode(), payload)
    ]
    return _native.encode_batch([(b"1-0", fields)], known, now_ms=NOW_MS, **options)


def reading(**fields: Any) -> bytes:
    return orjson.dumps({"metric": "t", "value": 1, **fields})


@given(roots)
def test_decoding_undoes_what_other_encoders_did(value: Any) -> None:
    packed, text = ormsgpack.packb(value), orjson.dumps(value)
    for payload in (packed, text, zlib.compress(packed), zlib.compress(text)):
        assert orjson.loads(_native.decode(payload)) == value


@given(st.binary())
def test_no_bytes_raise_anything_but_undecodable(payload: bytes) -> None:
    with contextlib.suppress(_native.Undecodable):
        orjson.loads(_native.decode(payload))


@given(st.uuids(), st.binary(min_size=6, max_size=6))
def test_identifiers_survive_the_round_trip(agent: uuid.UUID, tenant: bytes) -> None:
    parsed = _native.parse_topic(_native.format_topic(tenant.hex(), str(agent), "state"))
    assert (parsed.tenant, parsed.agent, parsed.kind) == (tenant.hex(), str(agent), "state")


@given(st.text())
def test_no_text_raises_anything_but_invalid_topic(topic: str) -> None:
    with contextlib.suppress(_native.InvalidTopic):
        _native.parse_topic(topic)


@given(
    st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.integers(0, 9)), max_size=40)
)
def test_dedup_keeps_the_last_like_a_dict(readings: list[tuple[str, int, int]]) -> None:
    payload = orjson.dumps(
        {"readings": [{"metric": m, "timestamp": NOW_MS + t, "value": v} for m, t, v in readings]}
    )
    known = _native.Context(TENANT)
    report = orjson.loads(_native.explain(TOPIC, payload, known, now_ms=NOW_MS))
    kept = {(m, t): float(v) for m, t, v in readings}
    assert [row["value"] for row in report["rows"]] == [kept[key] for key in sorted(kept)]
    assert report["duplicates"] == len(readings) - len(kept)


@given(st.lists(st.binary(max_size=200), max_size=20))
def test_neighbors_of_hostile_messages_are_stored(payloads: list[bytes]) -> None:
    batch = encode(*payloads, reading(metric="the neighbor"), final=True)
    assert batch.outcomes[-1].rows == 1
    assert batch.messages == len(payloads) + 1
    assert batch.readings == batch.rows + batch.duplicates + batch.dropped + batch.rejected


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_value_that_is_not_finite_is_rejected(number: float) -> None:
    batch = encode(ormsgpack.packb({"metric": "t", "value": number}))
    (reject,) = batch.rejects
    assert (reject.stage, reject.reason, reject.readings) == ("normalize", "value_not_finite", 1)


def test_a_reject_carries_everything_a_dead_letter_needs() -> None:
    (reject,) = encode(b'{"metric": ').rejects
    assert (reject.entry, reject.message, reject.agent) == (0, 0, AGENT)
    assert reject.topic == TOPIC
    assert reject.payload == b'{"metric": '
    assert (reject.stage, reject.reason) == ("decode", "json")
    assert reject.detail == "payload is not JSON: EOF while parsing a value at line 1 column 11"


def test_a_reject_of_the_reference_form_carries_all_of_its_data() -> None:
    data = orjson.dumps([{"deviceUuid": "nobody", "data": {"metric": "t"}}])
    known = _native.Context(TENANT)
    batch = _native.encode_batch([(b"1-0", [b"data", data])], known, now_ms=NOW_MS)
    (reject,) = batch.rejects
    assert (reject.topic, reject.payload, reject.reason) == (None, data, "agent_form")


def test_no_detail_quotes_the_payload() -> None:
    secret = b"correct-horse-battery-staple"
    for payload in (secret, b'{"a":' + secret, zlib.compress(secret)[:-3], b"\x91" + secret):
        for reject in encode(payload).rejects:
            assert "horse" not in reject.detail


def test_a_message_over_the_size_limit_is_rejected_unread() -> None:
    known = _native.Context(TENANT, _native.Limits(max_message_bytes=10))
    known.add_agents([AGENT])
    fields = [f"{NOW_MS}-0 {TOPIC}".encode(), reading()]
    (reject,) = _native.encode_batch([(b"1-0", fields)], known, now_ms=NOW_MS).rejects
    assert reject.reason == "message_too_large"


def test_repeated_extras_cannot_blow_a_message_up() -> None:
    limits = _native.Limits(max_inflated_bytes=100_000)
    known = _native.Context(TENANT, limits)
    known.add_agents([AGENT])
    readings = [{"metric": f"m{i}", "value": i, "note": i} for i in range(500)]
    payload = orjson.dumps({"ballast": "x" * 8000, "readings": readings})
    fields = [f"{NOW_MS}-0 {TOPIC}".encode(), payload]
    batch = _native.encode_batch([(b"1-0", fields)], known, now_ms=NOW_MS)
    assert len(batch.copy) < 250_000
    assert {reject.reason for reject in batch.rejects} == {"extra_too_large"}
    assert batch.rows + batch.rejected == 500


def test_buffers_outlive_their_batch_and_are_read_only() -> None:
    view = memoryview(encode(reading()).copy)
    assert view.readonly
    assert view.nbytes == len(view)
    assert bytes(view[:11]) == b"PGCOPY\n\xff\r\n\0"


def test_columns_are_those_of_the_tables() -> None:
    assert _native.KEY_COLUMNS == ("agent_uuid", "metric_name", "time")
    assert _native.READINGS_COLUMNS == (
        "time", "agent_uuid", "metric_name", "value", "quality",
        "unit", "protocol", "extra", "anomaly_score", "anomaly_threshold",
    )  # fmt: skip
    assert set(_native.LATEST_COLUMNS) == {
        "agent_uuid", "device_name", "metric_name", "time", "value", "quality", "unit", "protocol",
    }  # fmt: skip


def test_a_removed_agent_waits_again() -> None:
    known = _native.Context(TENANT)
    known.add_agents([AGENT])
    known.remove_agents([AGENT])
    fields = [f"{NOW_MS}-0 {TOPIC}".encode(), reading()]
    batch = _native.encode_batch([(b"1-0", fields)], known, now_ms=NOW_MS)
    assert [(one.needs, one.agent) for one in batch.waiting] == [("agent", AGENT)]


@pytest.mark.parametrize("agent", ["", "gateway-7", AGENT + "0"])
def test_an_agent_must_be_a_uuid(agent: str) -> None:
    with pytest.raises(ValueError, match="is not a UUID"):
        _native.Context(TENANT).add_agents([agent])


@pytest.mark.parametrize(
    ("dictionary", "rule"),
    [
        (b"[]", "not a JSON object"),
        (b"{", "not JSON"),
        (b"{}", "no list or map `fields`"),
        (b'{"fields":{"70000":"a"}}', "index 70000 is not within"),
        (b'{"fields":["%s"]}' % (b"a" * 2000), "name of 2000 bytes"),
    ],
)
def test_a_wrong_dictionary_says_what_is_wrong(dictionary: bytes, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        _native.Context(TENANT).put_dictionary(AGENT, 1, dictionary)


def test_one_context_serves_many_threads() -> None:
    known = _native.Context(TENANT)
    known.add_agents([AGENT])
    payload = orjson.dumps({"readings": [{"metric": f"m{i}", "value": i} for i in range(500)]})
    entries = [(b"1-0", [f"{NOW_MS}-0 {TOPIC}".encode(), payload])]

    def run(_: int) -> bytes:
        return bytes(memoryview(_native.encode_batch(entries, known, now_ms=NOW_MS).copy))

    with ThreadPoolExecutor(8) as pool:
        assert len(set(pool.map(run, range(64)))) == 1


def test_the_stub_is_true() -> None:
    allowed = Path(__file__).parents[1] / "stubtest-allowlist.txt"
    stubtest = [sys.executable, "-m", "mypy.stubtest", "--ignore-unused-allowlist"]
    stubtest += ["--allowlist", str(allowed), "iotistica._native"]
    found = subprocess.run(stubtest, capture_output=True, text=True, check=False)
    assert found.returncode == 0, found.stdout


spellings = st.sampled_from(
    [AGENT, AGENT.upper(), _native.encode_agent(AGENT), str(uuid.UUID(int=7)), "press-1"]
)
topics = st.builds(
    lambda agent, rest: f"i/ASNFZ4mr/a/{agent}/{rest}",
    spellings,
    st.sampled_from(["endpoints/x", ""]),
) | st.sampled_from(["", "i/x", "$SYS/x"])
entries_of_topics = st.lists(st.lists(topics))


def counted(entries: list[list[str]]) -> Counter[str]:
    """The same in Python."""
    found: Counter[str] = Counter()
    for topic in (topic for entry in entries for topic in entry):
        try:
            agent = ledger.agent_of(_native.parse_topic(topic).agent)
        except _native.InvalidTopic:
            agent = ledger.NOBODY
        found[ledger.field(agent, ledger.ACCEPTED)] += 1
    return found


def unpacked(accepted: _native.Accepted) -> dict[str, int]:
    pairs = iter(ormsgpack.unpackb(accepted.pack()))
    return dict(zip(pairs, pairs, strict=True))


@given(entries_of_topics, entries_of_topics, st.integers(1, 400))
def test_accepted_messages_are_counted_by_agent(
    some: list[list[str]], others: list[list[str]], times: int
) -> None:
    def accepted(entries: list[list[str]]) -> _native.Accepted:
        return _native.Accepted(
            *(
                [
                    part
                    for n, topic in enumerate(entry)
                    for part in (b"17-%d %b" % (n, topic.encode()), b"p")
                ]
                for entry in entries
            )
        )

    total, of_others = accepted(some), accepted(others)
    assert unpacked(total) == counted(some)
    for _ in range(times):
        total.add(of_others)
    assert unpacked(total) == counted(some) + Counter(
        {name: times * number for name, number in counted(others).items()}
    )
    assert len(total) == len(unpacked(total))
    told = {ledger.parse(name)[0] for name in unpacked(total)} - {ledger.NOBODY}
    assert sorted(total.agents()) == sorted(told)


@pytest.mark.parametrize("wrong", [["1-0 t", b"p"], [None], [1]])
def test_headers_are_bytes(wrong: list[Any]) -> None:
    with pytest.raises(TypeError):
        _native.Accepted(wrong)
