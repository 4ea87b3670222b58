"""Agents that send what they should not, among those that behave."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterator

from tests.faults.account import Account
from tests.faults.hostile import Hostile
from tests.faults.load import Sender
from tests.faults.ordeal import fate
from tests.faults.scene import Scene

from iotistica.simulator.ledger import digest
from iotistica.simulator.plan import COMPACTED, PLAIN

_FORMS = tuple(form for form in PLAIN if form not in COMPACTED)
"""The sender has published no dictionary."""
_RATE = 400.0
_OVERSIZED = 1_200_000
"""Over what the bridge takes, below what the broker cuts off."""


async def flood(scene: Scene) -> None:
    """Hostile payloads at several times the rate of the good ones."""
    hostile = _maker(scene)
    payloads = [hostile.make()[1] for _ in range(800 if scene.brief else 4000)]
    payloads += [bytes([65 + n]) * _OVERSIZED for n in range(3)]
    scene.rng.shuffle(payloads)
    sender = Sender(scene.crew)
    await sender.send(payloads, rate=_RATE)
    _expect_letters(scene, sender)


async def clocks(scene: Scene) -> None:
    """An agent whose clock jumps to 1970 and to 2099 and back."""
    maker = _maker(scene)
    kinds = itertools.cycle(("clock at 1970", "clock at 2099"))
    sender = Sender(scene.crew)
    await sender.send(_mixed(maker, kinds, 200), rate=_RATE / 4)
    _expect_letters(scene, sender)


def _maker(scene: Scene) -> Hostile:
    seed, now_us = str(scene.rng.random()), time.time_ns() // 1000
    return Hostile(seed, scene.crew.sender, now_us=now_us, forms=_FORMS)


def _mixed(maker: Hostile, kinds: Iterator[str], count: int) -> Iterator[bytes]:
    for number in range(count):
        yield maker.make(next(kinds))[1] if number % 2 else maker.good(number)


def _expect_letters(scene: Scene, sender: Sender) -> None:
    """Each payload that the decoder refuses is a dead letter, each one that it takes is none."""

    def check(account: Account) -> list[str]:
        found = {letter.digest: letter for letter in account.letters}
        wrong = []
        for payload in sender.acknowledged:
            expected, letter = fate(payload, scene.crew.sender), found.get(digest(payload))
            if expected is not None and letter is None:
                wrong.append(f"no dead letter for {expected}: {payload[:40]!r}")
            elif expected is None and letter is not None:
                wrong.append(f"dead letter {letter.reason} for what is good: {payload[:40]!r}")
        return wrong[:10]

    scene.checks.append(check)
