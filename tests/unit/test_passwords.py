"""Passwords: hashed off the loop, replaced when parameters change, never too many at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from iotistica.api.passwords import Passwords, Verdict
from iotistica.errors import StoreUnavailable
from iotistica.settings import Settings


def passwords(**settings: int) -> Passwords:
    return Passwords(Settings.load(**{"password_memory_kib": 64, **settings}))


@pytest.fixture
def desk() -> Iterator[Passwords]:
    desk = passwords()
    yield desk
    desk.close()


async def test_a_password_is_its_own_and_no_other(desk: Passwords) -> None:
    stored = await desk.hash("correct horse")
    assert stored.startswith("$argon2id$v=19$m=64,t=2,p=1$")
    assert stored != await desk.hash("correct horse")
    assert await desk.verify(stored, "correct horse") == Verdict(True)
    for wrong in ("", "correct hors", "correct horse ", "Correct horse", "x" * 10_000):
        assert await desk.verify(stored, wrong) == Verdict(False)


@pytest.mark.parametrize("stored", [None, "", "x", "$argon2id$", "scrypt$1$2$3$4$5"])
async def test_no_password_is_that_of_no_hash(desk: Passwords, stored: str | None) -> None:
    for given in ("", "correct horse"):
        assert await desk.verify(stored, given) == Verdict(False)


async def test_a_hash_of_other_parameters_is_made_anew(desk: Passwords) -> None:
    old = passwords(password_memory_kib=32)
    stored = await old.hash("correct horse")
    verdict = await desk.verify(stored, "correct horse")
    assert verdict.is_right
    assert verdict.fresh is not None
    assert await desk.verify(verdict.fresh, "correct horse") == Verdict(True)
    assert await desk.verify(stored, "wrong horse") == Verdict(False)
    old.close()


async def test_the_loop_goes_on_meanwhile() -> None:
    slow = passwords(password_memory_kib=64 * 1024, password_passes=8)
    hashing = asyncio.create_task(slow.hash("correct horse"))
    turns = 0
    while not hashing.done():
        turns += 1
        await asyncio.sleep(0)
    assert turns > 100
    slow.close()


async def test_a_flood_is_asked_to_try_again(desk: Passwords) -> None:
    answers = await asyncio.gather(
        *(desk.verify(None, "x") for _ in range(300)), return_exceptions=True
    )
    refused = [one for one in answers if isinstance(one, StoreUnavailable)]
    assert len(refused) == 100
    assert str(refused[0]) == "200 passwords wait to be hashed"
    assert await desk.verify(None, "x") == Verdict(False)
