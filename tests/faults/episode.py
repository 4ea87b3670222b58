"""One episode: load, a fault, quiet, and the comparison of every reading."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from dataclasses import dataclass

from tests.faults.account import Account, auditor, imbalance
from tests.faults.injections import Fault
from tests.faults.load import Crew, Load
from tests.faults.rig import Rig
from tests.faults.scene import Scene

BEFORE_MESSAGES = 60
"""Acknowledged before the fault, so that it hits a platform at work."""
AFTER_MESSAGES = 60
"""Acknowledged after it is healed: new messages must pass as well."""
PATIENCE_S = 40.0
"""With nothing moving for so long, what is missing is lost."""
_READY_S = 40.0
_MOST_LINES = 10
_BALANCE_S = 8.0
_CRASHES = "iotistica_ingestion_worker_crashes_total"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What an episode showed."""

    fault: str
    account: Account
    recovery_s: float
    """From the healing until every reading of the episode was accounted for."""
    wrong: Sequence[str]
    """All that was not as it should be, in sentences; empty where all is well."""


async def play(
    rig: Rig, crew: Crew, fault: Fault, *, rng: random.Random, brief: bool = True
) -> Outcome:
    """Play one episode on a rig that is well, and leave it well. Raises `StartFailed`."""
    load = Load(crew)
    scene = Scene(rig=rig, crew=crew, load=load, rng=rng, brief=brief)
    async with auditor(rig, crew.plan.readings) as books:
        after = await books.newest()
    before, balance = rig.pids(), await imbalance(rig)
    load.start()
    try:
        await load.more(BEFORE_MESSAGES)
        await fault.inject(scene)
        healed_at = time.monotonic()
        await load.more(AFTER_MESSAGES, within_s=60.0)
        ledgers = await load.finish()
    finally:
        await load.abandon()
    await scene.until("PostgreSQL answers", rig.answers, within_s=_READY_S)
    async with auditor(rig, crew.plan.readings) as books:
        account = await books.settle(
            ledgers, after=after, pardoned=scene.pardoned, patience_s=PATIENCE_S
        )
    wrong = [*scene.wrong, *_differences(account), *await _unwell(scene, before)]
    for check in scene.checks:
        wrong += check(account)
    if scene.pardoned is None:
        wrong += await _unbalanced(rig, balance)
    return Outcome(fault.name, account, account.at_s - healed_at, wrong)


async def _unbalanced(rig: Rig, before: dict[str, tuple[int, int]]) -> list[str]:
    """Agents whose ledger does not add up; a message that came twice may still be on its way."""
    deadline = time.monotonic() + _BALANCE_S
    while True:
        now = await imbalance(rig)
        wrong = {agent: by for agent, by in now.items() if by not in ((0, 0), before.get(agent))}
        if not wrong or time.monotonic() > deadline:
            return [
                f"the ledger of agent {agent or 'nobody'} is {messages} messages and {readings} "
                f"readings off; it was {before.get(agent, (0, 0))} before"
                for agent, (messages, readings) in wrong.items()
            ]
        await asyncio.sleep(0.1)


def _differences(account: Account) -> list[str]:
    verdict = account.verdict
    if verdict.clean:
        return []
    letters = {(one.stage, one.reason) for one in account.letters}
    return [
        f"{verdict.lost} readings lost, {verdict.doubled} doubled",
        *account.differences[:_MOST_LINES],
        *(
            [f"and {more} more series"]
            if (more := len(account.differences) - _MOST_LINES) > 0
            else []
        ),
        f"dead letters by stage and reason: {sorted(letters)}",
    ]


async def _unwell(scene: Scene, before: dict[str, int]) -> list[str]:
    """Processes that ended by themselves, workers that crashed, services that are not ready."""
    rig, wrong = scene.rig, []
    for name, thing in {**rig.servers, **rig.programs}.items():
        if not thing.child.running:
            status, log = thing.child.returncode, thing.child.command.log
            wrong.append(f"{name} has ended by itself with status {status}; see {log}")
            await rig.revive(name)
    for name, program in rig.programs.items():
        await scene.until(f"{name} is ready again", program.is_ready, within_s=_READY_S)
        if reasons := await program.reasons():
            wrong.append(f"{name} is not ready: {'; '.join(reasons)}")
        if await program.metric(_CRASHES):
            wrong.append(f"a worker of {name} has crashed; see {program.log}")
    now = rig.pids()
    wrong += [
        f"{name} was replaced, which the fault does not explain; see {rig.directory / 'logs'}"
        for name, pid in before.items()
        if name not in scene.doomed and now.get(name) != pid
    ]
    return wrong
