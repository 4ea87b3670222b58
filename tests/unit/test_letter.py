"""Dead letters as records: written, read back, chosen, and made a message again."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica._native import format_topic
from iotistica.ingestion import messages
from iotistica.streams import DeadLetter, Entry, Filter, Letter
from iotistica.streams.letter import form_of, is_id, parse

REFUSED = {"reason": "refused_by_database", "attempts": 0, "readings": 1}
AGENT = "0a8b3b0e-5c1e-4f0e-9d55-0242ac120002"
TOPIC = format_topic("73eddd385ce8", AGENT, "endpoints/modbus").encode()
FAILED = datetime(2026, 11, 20, 12, 0, 0, 123000, tzinfo=UTC)
DEAD = DeadLetter(
    data=b"\x78\x9c\x00\xff",
    topic=TOPIC,
    original_id="1795453097011-3",
    error="payload is not JSON",
    reason="json",
    stage="decode",
    failed_at=FAILED,
    agent=AGENT,
    attempts=2,
    readings=7,
    replays=4,
    received_ms=1795453097002,
)
WRITTEN_MS = 1795453100000


def written(dead: DeadLetter, entry_id: bytes = b"1795453100000-1") -> Entry:
    """Its stream entry as Redis gives it back."""
    fields = dead.fields("t")
    return entry_id, [part if isinstance(part, bytes) else str(part).encode() for part in fields]


def without(entry: Entry, *names: bytes) -> Entry:
    pairs = list(zip(entry[1][::2], entry[1][1::2], strict=True))
    return entry[0], [part for pair in pairs if pair[0] not in names for part in pair]


def test_a_letter_is_read_as_it_was_written() -> None:
    letter = parse("t", written(DEAD))
    assert letter == Letter(id="1795453100000-1", tenant="t", size=4, dead=DEAD)


def test_a_head_tells_the_size_of_the_payload_that_it_lacks() -> None:
    entry = without(written(DEAD), b"data")
    letter = parse("t", (entry[0], [*entry[1], b"bytes", b"1234"]))
    assert (letter.size, letter.dead.data) == (1234, b"")


def test_described_names_every_field_by_value() -> None:
    assert parse("t", written(DEAD)).described() == {
        "id": "1795453100000-1",
        "tenant": "t",
        "agent": AGENT,
        "topic": TOPIC.decode(),
        "stage": "decode",
        "reason": "json",
        "error": "payload is not JSON",
        "readings": 7,
        "attempts": 2,
        "replays": 4,
        "failed_at": FAILED,
        "received_ms": 1795453097002,
        "original_id": "1795453097011-3",
        "bytes": 4,
    }


def test_a_letter_of_the_reference_is_read_as_far_as_it_goes() -> None:
    fields = [b"data", b"[]", b"original_id", b"5-0", b"error", b"no", b"attempts", b"3"]
    letter = parse("t", (b"9-0", [*fields, b"failed_at", b"2026-11-20T12:00:00.123Z"]))
    assert letter.dead == DeadLetter(
        data=b"[]",
        topic=b"",
        original_id="5-0",
        error="no",
        reason="",
        stage="",
        failed_at=FAILED,
        attempts=3,
    )
    assert letter.dead.entry() == (b"5-0", [b"data", b"[]"])


@given(
    st.lists(st.binary(max_size=30), max_size=12),
    st.sampled_from([b"0-0", b"1795453100000-1", b"9223372036854775807-9223372036854775807"]),
)
def test_anything_in_a_stream_is_read(fields: list[bytes], entry_id: bytes) -> None:
    letter = parse("t", (entry_id, fields))
    assert letter.described()["id"] == entry_id.decode()
    letter.dead.entry()


@pytest.mark.parametrize(
    ("name", "value"),
    [
        (b"attempts", b"-1"),
        (b"readings", "٣".encode()),
        (b"replays", b"9" * 5000),
        (b"received_ms", b"x"),
        (b"failed_at", b"0001-01-01T00:00:00+10:00"),
        (b"failed_at", b"yesterday"),
        (b"error", b"\xff"),
    ],
)
def test_a_field_that_is_nonsense_counts_as_missing(name: bytes, value: bytes) -> None:
    entry = without(written(DEAD), name)
    dead = parse("t", (entry[0], [*entry[1], name, value])).dead
    missing = {b"failed_at": datetime(2026, 11, 23, 16, 58, 20, tzinfo=UTC), b"error": "\ufffd"}
    assert getattr(dead, name.decode()) == missing.get(name, 0)


# A message again


def test_a_message_of_ours_keeps_its_topic_and_the_time_of_its_reception() -> None:
    assert DEAD.entry() == (b"1795453097011-3", [b"1795453097002-0 " + TOPIC, DEAD.data])


@pytest.mark.parametrize(
    ("changes", "received"),
    [
        ({"received_ms": 0}, 1795453097011),
        ({"received_ms": 0, "original_id": b""}, 1795176000123),
        ({}, 1795453097002),
    ],
)
def test_reception_falls_back_to_what_is_known(changes: dict[str, Any], received: int) -> None:
    assert dataclasses.replace(DEAD, **changes).received == received


@pytest.mark.parametrize(
    ("payload", "fields"),
    [
        (b"[1]", [b"data", b"[1]", b"source", b""]),
        (b"eJw=", [b"compressed", b"1", b"payload_b64", b"eJw=", b"encoding", b"br"]),
        (b"00ff", [b"compressed", b"1", b"payload", b"00ff", b"deviceUuid", b"x"]),
        (b"", [b"what", b"is this"]),
    ],
)
def test_an_entry_of_the_reference_comes_back_whole(payload: bytes, fields: list[bytes]) -> None:
    letter = messages.refused((b"6-0", fields), ValueError("no"), **REFUSED)
    assert (letter.topic, letter.data) == (b"", payload)
    assert parse("t", written(letter)).dead.entry() == (b"6-0", fields)


def test_a_form_too_large_to_be_written_by_a_script_is_left_out() -> None:
    payload, form = form_of([b"data", b"[]", *(b"x%d" % n for n in range(100))])
    assert (payload, form) == (b"[]", ())


def test_ingestion_tells_when_a_message_was_received() -> None:
    entry = (b"5-0", [b"17-0 " + TOPIC, b"first"])
    assert messages.refused(entry, ValueError("no"), **REFUSED).received_ms == 17
    for header in (b"x-0 t", b"-5-0 t", b"9" * 5000 + b"-0 t", b"17 t"):
        assert messages.refused((b"5-0", [header, b""]), ValueError(), **REFUSED).received_ms == 0


# Filters

AT = datetime(2026, 11, 23, 16, 58, 20, tzinfo=UTC)  # WRITTEN_MS


@pytest.mark.parametrize(
    ("conditions", "matches"),
    [
        ({}, True),
        ({"ids": {"1795453100000-1"}}, True),
        ({"ids": {"1795453100000-2"}}, False),
        ({"reason": "json"}, True),
        ({"reason": "utf8"}, False),
        ({"stage": "decode"}, True),
        ({"stage": "commit"}, False),
        ({"agent": AGENT}, True),
        ({"agent": ""}, False),
        ({"since": AT}, True),
        ({"since": AT.replace(microsecond=1000)}, False),
        ({"until": AT}, True),
        ({"until": AT.replace(second=19, microsecond=999_999)}, False),
        ({"reason": "json", "agent": "x"}, False),
    ],
)
def test_a_filter_chooses_by_each_of_its_conditions(
    conditions: dict[str, Any], matches: bool
) -> None:
    where = Filter(**conditions)
    assert where.matches(parse("t", written(DEAD))) is matches
    assert where.is_empty is (conditions == {})


def test_bounds_are_ids_of_milliseconds() -> None:
    assert Filter().bounds == ("-", "+")
    assert Filter(since=AT, until=AT).bounds == (str(WRITTEN_MS), str(WRITTEN_MS))
    assert Filter(since=datetime(1, 1, 1, tzinfo=UTC)).bounds == ("0", "+")


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-1-1", "x-1", "1-1 ", "9" * 20 + "-1"])
def test_other_texts_are_no_ids(text: str) -> None:
    assert not is_id(text)
    assert is_id("1795453100000-1")
