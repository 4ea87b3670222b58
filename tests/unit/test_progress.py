"""What an agent's update does to its part of a job."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import orjson
import pytest

from iotistica.jobs.progress import STATUSES, TERMINAL, Part, Rejection, Update, advance, read

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)
QUEUED = Part(
    id=1,
    tenant="t",
    agent="a",
    job="j",
    job_name="n",
    status="QUEUED",
    version=1,
    attempt=1,
    retries_left=0,
    max_retries=0,
    retry_delay_s=60,
    timeout_minutes=5,
    available_at=NOW,
    queued_at=NOW,
    notice="queued",
)
RUNNING = replace(QUEUED, status="IN_PROGRESS", version=2, started_at=NOW, notice=None)
LATER = NOW + timedelta(seconds=90)


def moved(part: Part, update: Update) -> Part:
    after = advance(part, update, LATER)
    assert isinstance(after, Part)
    return after


def refused(part: Part, update: Update) -> Rejection:
    after = advance(part, update, LATER)
    assert isinstance(after, Rejection)
    return after


def test_a_start_is_noted_once() -> None:
    first = moved(QUEUED, Update(status="IN_PROGRESS", digest="1"))
    assert (first.status, first.version, first.started_at) == ("IN_PROGRESS", 2, LATER)
    assert first.timeout_at == LATER + timedelta(minutes=5)
    assert first.notice is None
    again = advance(first, Update(status="IN_PROGRESS", digest="2"), LATER + timedelta(seconds=9))
    assert isinstance(again, Part)
    assert (again.version, again.started_at, again.timeout_at) == (3, LATER, first.timeout_at)


@pytest.mark.parametrize("status", sorted(TERMINAL))
def test_an_end_is_final(status: Any) -> None:
    done = moved(RUNNING, Update(status=status, digest="1"))
    assert (done.status, done.completed_at, done.started_at) == (status, LATER, NOW)
    assert done.timeout_at is None
    for other in STATUSES:
        rejection = refused(done, Update(status=other, digest=other))  # type: ignore[arg-type]
        assert rejection.code == "InvalidStateTransition"


def test_an_agent_may_end_what_it_never_said_it_began() -> None:
    done = moved(QUEUED, Update(status="SUCCEEDED"))
    assert (done.started_at, done.completed_at) == (LATER, LATER)


def test_nothing_goes_back_to_the_queue() -> None:
    assert refused(RUNNING, Update(status="QUEUED")).code == "InvalidStateTransition"
    assert moved(QUEUED, Update(status="QUEUED", digest="1")).status == "QUEUED"


@pytest.mark.parametrize(
    ("known", "message"),
    [
        ({"expected_version": 1}, "expectedVersion is 1; it must be 2"),
        ({"execution_number": 2}, "executionNumber is 2; it must be 1"),
    ],
)
def test_what_the_agent_knows_must_be_so(known: dict[str, int], message: str) -> None:
    rejection = refused(RUNNING, Update(status="SUCCEEDED", **known))  # type: ignore[arg-type]
    assert (rejection.code, rejection.message) == ("VersionMismatch", message)
    right = {"expected_version": 2, "execution_number": 1}
    assert moved(RUNNING, Update(status="SUCCEEDED", **right)).version == 3  # type: ignore[arg-type]


def test_the_latest_update_is_known_when_it_comes_again() -> None:
    update = Update(status="SUCCEEDED", expected_version=2, digest="1")
    done = moved(RUNNING, update)
    assert advance(done, update, LATER) is None


def test_with_a_token_it_is_known_though_others_came_since() -> None:
    first = Update(status="IN_PROGRESS", digest="1", token="x")
    plain = Update(status="IN_PROGRESS", digest="2")
    part = moved(moved(moved(RUNNING, first), plain), Update(status="IN_PROGRESS", digest="3"))
    assert advance(part, first, LATER) is None
    assert moved(part, plain).version == 6


def test_a_failed_attempt_is_followed_by_another_after_a_doubling_pause() -> None:
    part = replace(RUNNING, retries_left=2, max_retries=2)
    for attempt, delay_s in ((2, 60), (3, 120)):
        part = moved(part, Update(status="FAILED", reason="r", digest=str(attempt)))
        assert (part.status, part.attempt, part.notice) == ("QUEUED", attempt, "queued")
        assert part.available_at == LATER + timedelta(seconds=delay_s)
        assert (part.started_at, part.timeout_at, part.completed_at) == (None, None, None)
        assert part.written["reason"] == "r"
        # Nobody has it meanwhile.
        early = refused(part, Update(status="SUCCEEDED", digest="early"))
        assert early.code == "ResourceNotFound"
        part = replace(part, status="IN_PROGRESS", available_at=LATER, started_at=LATER)
    assert moved(part, Update(status="FAILED", digest="4")).status == "FAILED"


@pytest.mark.parametrize("status", ["REJECTED", "CANCELED", "SUCCEEDED"])
def test_other_ends_are_not_tried_again(status: Any) -> None:
    part = replace(RUNNING, retries_left=2, max_retries=2)
    assert moved(part, Update(status=status)).status == status


def test_what_is_given_replaces_and_the_rest_stays() -> None:
    part = moved(RUNNING, Update(status="IN_PROGRESS", stdout="a", stderr="b", digest="1"))
    part = moved(part, Update(status="IN_PROGRESS", stdout="", digest="2"))
    assert part.written == {"stdout": "", "stderr": "b"}


# Messages


def update_of(value: Any) -> Update:
    return read(value, orjson.dumps(value), most_bytes=64)


def test_a_message_is_read_with_its_details() -> None:
    update = update_of(
        {
            "status": "FAILED",
            "statusDetails": {"reason": "no\0", "stdout": "o", "exitCode": 3, "progress": 40},
            "expectedVersion": "2",
            "executionNumber": 1,
            "clientToken": 17,
        }
    )
    assert update == Update(
        status="FAILED",
        reason="no\ufffd",
        stdout="o",
        exit_code=3,
        details={"reason": "no\ufffd", "exitCode": 3, "progress": 40},
        expected_version=2,
        execution_number=1,
        token="17",
        digest=update.digest,
    )
    assert len(update.digest) == 16


def test_what_is_too_long_is_cut_and_says_so() -> None:
    update = update_of(
        {
            "status": "FAILED",
            "statusDetails": {"stdout": "x" * 100 + "end", "reason": "r" * 3000, "more": "m" * 70},
        }
    )
    assert update.stdout == "[39 bytes cut]\n" + "x" * 61 + "end"
    assert update.reason == "r" * 1999 + "…"
    assert update.details == {"cut": "3093 bytes; at most 64 are kept"}


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([], "the update is a list; it must be an object"),
        ({}, "field status is 'None'; it must be one of CANCELED, FAILED,"),
        ({"status": "DONE"}, "field status is 'DONE'; it must be one of"),
        ({"status": ["QUEUED"]}, "field status is \"['QUEUED']\"; it must be one of"),
        ({"status": "FAILED", "statusDetails": "x"}, "field statusDetails is a str; not an object"),
        (
            {"status": "FAILED", "expectedVersion": 2**40},
            "field expectedVersion is '1099511627776'; it must be a whole number",
        ),
        (
            {"status": "FAILED", "executionNumber": True},
            "field executionNumber is 'True'; it must be a whole number",
        ),
    ],
)
def test_a_message_that_makes_no_sense_is_refused(value: Any, message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        update_of(value)
