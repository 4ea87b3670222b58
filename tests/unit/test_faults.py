"""Malformed messages, and the production code's opinion of everything the simulator sends."""

from __future__ import annotations

import random
import time

import pytest

from iotistica._native import Batch, Context, encode_batch, format_topic
from iotistica.simulator.faults import malformed
from iotistica.simulator.payloads import Payloads, Span
from iotistica.simulator.plan import PLAIN, Format
from iotistica.simulator.protocols import PROTOCOLS
from iotistica.simulator.series import Series

TENANT = "73eddd385ce8"
AGENT = "0e6f3c1e-5b52-5a0e-8e0e-9d6a9b1f7c01"
NOW_MS = time.time_ns() // 1_000_000
SPAN = Span((NOW_MS - 60_000) * 1000, 5_000_000)


def payloads(index: int) -> Payloads:
    return Payloads(AGENT, Series(AGENT, index), 60, random.Random(1))


def encode(agent: Payloads, payload: bytes) -> Batch:
    context = Context(TENANT)
    context.add_agents([AGENT])
    context.put_dictionary(AGENT, 1, agent.dictionary.message())
    topic = format_topic(TENANT, AGENT, f"endpoints/{agent.series.protocol.topic}")
    field = f"{NOW_MS}-0 {topic}".encode()
    return encode_batch([(b"1-1", [field, payload])], context, now_ms=NOW_MS, final=True)


@pytest.mark.parametrize("index", range(len(PROTOCOLS)))
@pytest.mark.parametrize("form", PLAIN)
def test_every_format_of_every_protocol_becomes_the_same_rows(index: int, form: Format) -> None:
    agent = payloads(index)
    message = agent.message(SPAN)
    batch = encode(agent, agent.encode(message, form))
    assert (batch.readings, batch.copy.rows, batch.rejects) == (60, 60, [])
    plain = encode(agent, agent.encode(message, Format.JSON))
    assert bytes(memoryview(batch.copy)) == bytes(memoryview(plain.copy))


@pytest.mark.parametrize("form", PLAIN)
def test_nothing_of_a_malformed_message_is_stored(form: Format) -> None:
    rng = random.Random(f"malformed {form}")
    for index in range(len(PROTOCOLS)):
        agent = payloads(index)
        for _ in range(60):
            payload = malformed(agent, SPAN, form, rng)
            batch = encode(agent, payload)
            assert batch.copy.rows == 0, payload[:200]
            assert batch.rejects, payload[:200]


def test_malformed_messages_break_every_stage() -> None:
    rng = random.Random(5)
    agent = payloads(0)
    stages = set()
    for turn in range(200):
        batch = encode(agent, malformed(agent, SPAN, PLAIN[turn % len(PLAIN)], rng))
        stages |= {(reject.stage, reject.reason) for reject in batch.rejects}
    assert {stage for stage, _ in stages} == {"inflate", "decode", "normalize"}
    assert {reason for _, reason in stages} >= {
        "inflate_corrupt",
        "inflate_too_large",
        "json",
        "messagepack",
        "too_deep",
        "time_invalid",
        "time_too_old",
        "time_in_future",
    }
