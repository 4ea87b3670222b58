"""Nothing malformed reaches a handler, and nothing ends the door or Robyn behind it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio
from tests.integration.door_cases import CASES, GOOD, Case
from tests.integration.door_rig import Rig, running, talk

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with running() as rig:
        yield rig


async def test_there_are_enough_cases() -> None:
    names = [case.name for case in CASES]
    assert len(names) == len(set(names)) >= 500


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
async def test_malformed_requests(rig: Rig, case: Case) -> None:
    assert rig.door is not None
    await rig.seen()
    answers, rest = await talk(rig.port, case.pieces, end=case.end)
    assert tuple(answer.status for answer in answers) == case.statuses
    assert rest == b""
    for answer in answers:
        assert answer.headers["x-content-type-options"] == "nosniff"
        assert answer.headers["x-request-id"]
        if answer.status >= 400:
            assert set(answer.json) == {"error", "message"}
            assert answer.headers["connection"] == "close"
    assert len(await rig.seen()) == case.statuses.count(200)
    answers, _ = await talk(rig.port, [GOOD])
    assert answers[0].status == 200
    assert rig.door.poll() is None
    assert rig.webs[0].poll() is None


async def test_the_answer_is_the_same_however_the_bytes_come(rig: Rig) -> None:
    quick = [case for case in CASES if len(case.pieces) == 1 and case.statuses and not case.end]
    chosen = [case for case in quick if len(case.pieces[0]) < 200]  # type: ignore[arg-type]

    async def check(case: Case) -> None:
        sent = case.pieces[0]
        assert isinstance(sent, bytes)
        if 408 in case.statuses:
            return
        answers, _ = await talk(rig.port, [sent[at : at + 1] for at in range(len(sent))])
        assert tuple(answer.status for answer in answers) == case.statuses, case.name

    assert len(chosen) > 300
    for start in range(0, len(chosen), 20):
        await asyncio.gather(*(check(case) for case in chosen[start : start + 20]))


async def test_hundreds_of_malformed_requests_at_once(rig: Rig) -> None:
    async def check(case: Case) -> None:
        answers, _ = await talk(rig.port, case.pieces, end=case.end, timeout_s=20)
        assert tuple(answer.status for answer in answers) == case.statuses, case.name

    cases = [case for case in CASES if case.pieces]
    # As many as are written to before the door takes a connection for idle, on a busy machine too.
    for start in range(0, len(cases), 200):
        await asyncio.gather(*(check(case) for case in cases[start : start + 200]))
    metrics = await rig.metrics()
    assert metrics['refused_total{reason="chunk"}'] >= 30
    assert metrics["body_bytes"] == 0
