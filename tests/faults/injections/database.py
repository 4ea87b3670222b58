"""PostgreSQL that refuses, crawls, is full, read-only, or dislikes some rows."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import asyncpg
import orjson
from tests.faults.account import Account, auditor
from tests.faults.injections.processes import Inject
from tests.faults.load import Sender
from tests.faults.scene import Scene

from iotistica.simulator.ledger import digest

_OTHERS = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
WHERE datname = 'iotistica' AND pid <> pg_backend_pid() AND application_name <> 'fault'
"""
_LINKS = ("api-postgres", "ingestion-postgres")
_CONDEMNED = "condemned"
_REFUSE = """
CREATE FUNCTION refuse_condemned() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.metric_name = 'condemned' THEN
        RAISE EXCEPTION 'the metric is condemned' USING {using};
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse_condemned BEFORE INSERT ON readings
FOR EACH ROW EXECUTE FUNCTION refuse_condemned();
"""
_ALLOW = """
DROP TRIGGER refuse_condemned ON readings;
DROP FUNCTION refuse_condemned();
"""


async def away(scene: Scene) -> None:
    """PostgreSQL is shut down, as for maintenance, long enough for a breaker to open."""
    scene.doom("postgres")
    await scene.rig.postgres.stop()
    for program in scene.rig.ingestions:
        await scene.until_it_says_so(program)
    await scene.hold(2.0, 15.0)
    await scene.rig.revive("postgres")


async def refuses(scene: Scene) -> None:
    """The server runs and lets nobody into the database."""
    admin = await scene.rig.sql("postgres")
    try:
        await admin.execute("ALTER DATABASE iotistica ALLOW_CONNECTIONS false")
        await admin.execute(_OTHERS)
        for program in scene.rig.ingestions:
            await scene.until_it_says_so(program)
        await scene.hold(2.0, 10.0)
    finally:
        await admin.execute("ALTER DATABASE iotistica ALLOW_CONNECTIONS true")
        await admin.close()


async def slow(scene: Scene) -> None:
    """Every piece of data takes its time, each way, from and to every client."""
    for link in _LINKS:
        scene.rig.links[link].slow(0.3)
    try:
        await scene.hold(3.0, 10.0)
    finally:
        for link in _LINKS:
            await scene.rig.links[link].resume()


async def full(scene: Scene) -> None:
    """Another client takes every connection there is, also those of the platform."""
    admin = await scene.rig.sql("postgres")
    taken: list[asyncpg.Connection] = []
    try:
        until = time.monotonic() + (2.0 if scene.brief else scene.rng.uniform(2.0, 8.0))
        while time.monotonic() < until:
            await admin.execute(_OTHERS)
            taken += [connection async for connection in _every_connection(scene)]
            await asyncio.sleep(0.1)
    finally:
        for connection in [*taken, admin]:
            connection.terminate()
    if len(taken) < 50:
        scene.wrong.append(f"only {len(taken)} connections could be taken")


async def _every_connection(scene: Scene) -> AsyncIterator[asyncpg.Connection]:
    while True:
        try:
            yield await asyncpg.connect(
                scene.rig.postgres.url, server_settings={"application_name": "fault"}
            )
        except asyncpg.TooManyConnectionsError:
            return


async def read_only(scene: Scene) -> None:
    """Sessions may not write, as on a standby or a server whose disk is nearly full."""
    admin = await scene.rig.sql()
    try:
        await admin.execute("ALTER SYSTEM SET default_transaction_read_only = on")
        await admin.execute("SELECT pg_reload_conf()")
        for program in scene.rig.ingestions:
            await scene.until_it_says_so(program)
        await scene.hold(2.0, 10.0)
    finally:
        await admin.execute("ALTER SYSTEM RESET default_transaction_read_only")
        await admin.execute("SELECT pg_reload_conf()")
        await admin.close()


def refuses_rows(using: str) -> Inject:
    """`using` says what the trigger raises."""

    async def inject(scene: Scene) -> None:
        """A trigger refuses the rows of one metric: each message with such a row becomes a dead
        letter, and no other."""
        sender = Sender(scene.crew)
        async with auditor(scene.rig, scene.crew.plan.readings) as books:
            admin = await scene.rig.sql()
            after = await books.newest()
            try:
                await _define(admin, _REFUSE.format(using=using))
                await sender.send(_condemned(12), rate=20.0)
                wanted = {digest(payload) for payload in sender.acknowledged}

                async def refused() -> bool:
                    return wanted <= {one.digest async for one in books.letters(after)}

                await scene.until("refused messages are dead letters", refused, within_s=20.0)
            finally:
                await _define(admin, _ALLOW)
                await admin.close()

        def check(account: Account) -> list[str]:
            ours = [letter for letter in account.letters if letter.stage == "commit"]
            wrong = [
                f"{one.reason} for agent {one.agent}" for one in ours if one.digest not in wanted
            ]
            wrong += [f"{one.reason} twice" for one, n in Counter(ours).items() if n > 1]
            return [f"dead letter of stage commit: {one}" for one in wrong]

        scene.checks.append(check)

    return inject


async def _define(admin: asyncpg.Connection, statements: str) -> None:
    """Carry out all or nothing, as often as it takes: whoever writes rows holds locks as well."""
    while True:
        try:
            await admin.execute(statements)
        except asyncpg.DeadlockDetectedError:
            await asyncio.sleep(0.05)
        else:
            return


def _condemned(count: int) -> Iterator[bytes]:
    for number in range(count):
        stamp = datetime.now(UTC).isoformat(timespec="milliseconds")
        readings = [
            {"metric": metric, "value": number, "timestamp": stamp}
            for metric in ("innocent", _CONDEMNED)
        ]
        yield orjson.dumps({"messages": [{"deviceName": "judge", "readings": readings}]})
