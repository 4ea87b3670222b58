"""Entries taken apart."""

from __future__ import annotations

from iotistica._native import format_topic
from iotistica.ingestion import messages

AGENT = "0a8b3b0e-5c1e-4f0e-9d55-0242ac120002"
TOPIC = format_topic("73eddd385ce8", AGENT, "endpoints/modbus").encode()
OURS = (b"5-0", [b"1-0 " + TOPIC, b"first", b"1-1 " + TOPIC, b"second"])
REFUSAL = {"reason": "refused_by_database", "attempts": 2}
THEIRS = (b"6-0", [b"data", b"[]", b"source", b"metrics", b"deviceUuid", AGENT.encode()])


def test_message_is_an_entry_of_its_own() -> None:
    assert messages.message(OURS, 1) == (b"5-0", [b"1-1 " + TOPIC, b"second"])
    assert messages.message(THEIRS, None) == THEIRS


def test_single_divides_ours_and_keeps_theirs() -> None:
    assert messages.single([OURS, THEIRS]) == [
        (b"5-0", [b"1-0 " + TOPIC, b"first"]),
        (b"5-0", [b"1-1 " + TOPIC, b"second"]),
        THEIRS,
    ]


def test_key_survives_slicing() -> None:
    whole = messages.key(OURS, 1)
    assert messages.key(messages.message(OURS, 1), 0) == whole
    assert messages.key(OURS, 0) != whole
    assert messages.key(THEIRS, 0) != messages.key(THEIRS, 1)


def test_refused_message_keeps_topic_agent_and_payload() -> None:
    letter = messages.refused(messages.message(OURS, 1), ValueError("no"), **REFUSAL, readings=3)
    assert (letter.data, letter.topic, letter.agent) == (b"second", TOPIC, AGENT)
    assert (letter.original_id, letter.error, letter.readings) == (b"5-0", "no", 3)
    assert (letter.stage, letter.reason) == ("commit", "refused_by_database")
    assert letter.attempts == 2


def test_refused_entry_of_the_reference_keeps_its_payload() -> None:
    letter = messages.refused(THEIRS, ValueError("no"), **REFUSAL, readings=1)
    assert (letter.data, letter.topic, letter.agent) == (b"[]", b"", AGENT)


def test_refused_message_with_a_hopeless_topic_has_no_agent() -> None:
    letter = messages.refused(
        (b"7-0", [b"1-0 \xff", b"x"]), ValueError("no"), **REFUSAL, readings=0
    )
    assert letter.agent == ""
