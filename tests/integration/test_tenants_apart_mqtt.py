"""R7 for MQTT: agents against all topics of others, on every broker, with accounts as we make them.

The topics are those that the platform subscribes to and those that it publishes on, taken from
where it does so: a family or a message to agents that is new is in the matrix, or fails here.
"""

from __future__ import annotations

import ast
import re
import secrets
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import mqtt5
import pytest
from tests.conftest import TestBroker
from tests.control import short
from tests.integration.test_accounts import files
from tests.wire import Closed, Wire

from iotistica import keys
from iotistica.api.accounts import Account, Rule
from iotistica.api.duties import Means, families
from iotistica.api.shares import share
from iotistica.settings import Settings
from iotistica.streams import Streams

PACKAGE = Path(__file__).parents[2] / "python" / "iotistica"
MARK, OWN = b"of another", b"own"
PUBLISH, READ = "publish", "read"

# What is sent to agents, by the module that puts it into the outbox.
SENT = {
    "api/foreman.py": ("jobs/notify", "jobs/notify-next"),
    "api/families/jobs.py": ("jobs/start-next/accepted", "jobs/start-next/rejected"),
    "api/target_desk.py": ("cmd/state-changed",),
    "api/routes/agent_commands.py": ("agent/update", "agent/shell"),
    "api/routes/device_keys.py": ("config/api-key-rotation",),
    "api/families/postman.py": (),  # delivers what all others put there
    "streams/outbox.py": (),
    "streams/__init__.py": (),
}
# Of the reference, section 1.3, beside those that we send.
REFERENCE = ("agent/dictionary/resync", "shadow/name/device-state/update/delta", "cmd/write")


def received() -> set[str]:
    """Topics that the platform hears, below those of an agent; a level for each wildcard."""
    settings = Settings.load(redis_url="redis://127.0.0.1:1")
    streams = Streams(settings.require("redis_url"))
    nothing: Any = None
    means = Means(
        name="test",
        settings=settings,
        pool=nothing,
        streams=streams,
        outlet=type("Outlet", (), {"send": None})(),  # type: ignore[arg-type]
        presence=nothing,
        hears=lambda: False,
        members=nothing,
    )
    filters = {one for family in families(means).values() for one in family.filters}
    prefix = keys.family_filter("")
    for one in (keys.TELEMETRY_FILTER, keys.DICTIONARY_FILTER):
        filters.add(one.removeprefix(prefix))
    return {one.replace("#", "x/y").replace("+", "x") for one in filters}


def topics() -> list[str]:
    sent = {topic for several in SENT.values() for topic in several}
    return sorted(received() | sent | set(REFERENCE))


def test_every_module_that_sends_to_agents_is_in_the_matrix() -> None:
    found = set()
    for module in PACKAGE.rglob("*.py"):
        text = module.read_text()
        names = {node.id for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Name)}
        if names & {"Outgoing", "outgoing"}:
            found.add(module.relative_to(PACKAGE).as_posix())
    assert found <= set(SENT), found - set(SENT)


@dataclass
class Agent:
    """An agent with an account as registration makes it."""

    tenant: str
    uuid: str
    account: Account

    def topic(self, rest: str) -> str:
        return f"i/{short(self.tenant)}/a/{short(self.uuid)}/{rest}"


@dataclass
class World:
    broker: TestBroker
    actor: Agent
    """Who tries."""
    targets: dict[str, Agent]
    """Whose topics it aims at."""

    def connect(self, agent: Agent | None = None, **options: Any) -> Wire:
        account = (agent or self.actor).account
        options = {"client_id": secrets.token_hex(8), **options}
        return Wire(self.broker.server.port, account.username, account.password, **options)

    def platform(self) -> Wire:
        """The account of the platform, which reads and writes everything."""
        name = "iotistica-api"
        return Wire(
            self.broker.server.port,
            name,
            self.broker.passwords[name],
            client_id=secrets.token_hex(8),
        )


def made(tenant: str) -> Agent:
    agent = str(uuid.uuid4())
    rule = Rule(keys.agent_filter(tenant, agent), 7)
    return Agent(tenant, agent, Account(f"agent_{agent}", secrets.token_urlsafe(), (rule,)))


@pytest.fixture
async def world(broker: TestBroker) -> AsyncIterator[World]:
    tenant, other = secrets.token_hex(6), secrets.token_hex(6)
    actor, sibling, foreign = made(tenant), made(tenant), made(other)
    told = files(broker)
    await told.put([one.account for one in (actor, sibling, foreign)])
    yield World(broker, actor, {"sibling": sibling, "foreign": foreign})
    await told.remove([one.account.username for one in (actor, sibling, foreign)])


@contextmanager
def watching(world: World) -> Iterator[Wire]:
    """The platform, which hears everything that any agent gets through."""
    with world.platform() as watcher:
        watcher.subscribe("i/#", "cmd/#", "agent/#")
        yield watcher


def heard_until(watcher: Wire, last: bytes) -> list[bytes]:
    """Payloads that came, up to and with this one."""
    payloads: list[bytes] = []
    while last not in payloads:
        payloads += watcher.payloads(1)
    return payloads


@pytest.mark.parametrize("retain", [False, True], ids=["live", "retained"])
async def test_nothing_is_published_on_a_topic_of_another(world: World, retain: bool) -> None:
    cells = 0
    with watching(world) as watcher:
        for name, target in world.targets.items():
            for rest in topics():
                # A connection each: Mosquitto 2.0.11 closes one at its second refusal.
                with world.connect() as wire:
                    answer = wire.publish(target.topic(rest), MARK, retain=retain)
                    assert answer == mqtt5.PubAckReasonCode.NOT_AUTHORIZED, (name, rest)
                cells += 1
        with world.connect() as wire:
            wire.publish(world.actor.topic("state"), OWN)
        assert heard_until(watcher, OWN) == [OWN]
    # And nothing waits there for whoever comes later.
    for target in world.targets.values():
        with world.connect(target) as victim:
            victim.subscribe(target.topic("#"))
            victim.publish(target.topic("state"), OWN)
            assert heard_until(victim, OWN) == [OWN]
    assert cells == len(world.targets) * len(topics())
    print(f"publish, retain={retain}: {cells} cells")


def last_will(topic: str, payload: bytes, *, retain: bool = False) -> mqtt5.Will:
    will: mqtt5.Will = mqtt5.Will(
        topic=topic, payload=payload, qos=mqtt5.QoS.AT_LEAST_ONCE, retain=retain
    )
    return will


async def test_no_last_will_arrives_on_a_topic_of_another(world: World) -> None:
    cells = 0
    with watching(world) as watcher:
        for target in world.targets.values():
            for rest in topics():
                for retain in (False, True):
                    will = last_will(target.topic(rest), MARK, retain=retain)
                    cells += 1
                    try:
                        wire = world.connect(will=will)
                    except Closed:
                        continue
                    # Gone without a word: this is when a will is published.
                    wire.abort()
        will = last_will(world.actor.topic("state"), OWN)
        world.connect(will=will).abort()
        assert heard_until(watcher, OWN) == [OWN]
    print(f"wills: {cells} cells")


def aims(world: World) -> list[str]:
    """Filters by which an agent may try to read what is not its own."""
    found = ["#", "+/#", "i/#", "i/+/a/+/#", "+/+/+/+/#", "$SYS/#", "$SYS/broker/#", "$CONTROL/#"]
    found += ["$CONTROL/dynamic-security/v1", "$share/x/#", "$share/x/i/+/a/+/#"]
    found += [f"$share/{g}/i/+/a/+/#" for g in (keys.SHARED_GROUP, keys.CONTROL_GROUP)]
    for target in world.targets.values():
        tenant = short(target.tenant)
        found += [f"i/{tenant}/#", f"i/{tenant}/a/+/#", f"i/+/a/{short(target.uuid)}/#"]
        for rest in topics():
            found += [target.topic(rest), f"$share/x/{target.topic(rest)}"]
    return found


async def test_nothing_is_read_of_a_topic_of_another(world: World) -> None:
    filters = aims(world)
    with world.platform() as platform:
        # Retained, so that a subscription alone would be answered.
        for target in world.targets.values():
            platform.publish(target.topic("meta/dictionary"), MARK, retain=True)
        for wanted in filters:
            with world.connect() as wire:
                try:
                    wire.subscribe(wanted, world.actor.topic("#"))
                except Closed:
                    continue  # refused by the end of the connection
                for target in world.targets.values():
                    for rest in topics():
                        platform.post(target.topic(rest), MARK, qos=0)
                platform.publish(world.actor.topic("cmd/last"), OWN)
                # The broker keeps the order of what it was sent by one client.
                while (message := next(wire.messages(1))).payload != OWN:
                    raise AssertionError((wanted, message.topic))
        for target in world.targets.values():
            platform.publish(target.topic("meta/dictionary"), b"", retain=True)
    print(f"subscribe: {len(filters)} filters, {len(filters) * 2 * len(topics())} cells")


async def test_an_agent_takes_nothing_away_from_the_platform(world: World) -> None:
    """Who joins the group of a shared subscription is given a share of it, which Mosquitto drops
    because it may not be read: so nobody may know the name of ours."""
    target, settings = world.targets["foreign"], Settings.load(jwt_secret="k" * 64)
    for group, rest, heard in (
        (keys.SHARED_GROUP, keys.TELEMETRY_FILTER, "endpoints/x"),
        (keys.CONTROL_GROUP, keys.family_filter("state"), "state"),
    ):
        ours = share(settings, rest, group)
        with world.platform() as bridge, world.connect() as thief, world.connect(target) as victim:
            bridge.subscribe(ours)
            with suppress(Closed):
                thief.subscribe(
                    keys.shared_filter(rest, group), f"$share/+/{rest}", f"$share/{rest}"
                )
            sent = [b"%d" % number for number in range(20)]
            victim.publish_all(target.topic(heard), sent)
            # By another way than the group, so that it says when all has been given out.
            bridge.subscribe(target.topic("last"))
            victim.publish(target.topic("last"), b"last")
            assert heard_until(bridge, b"last") == [*sent, b"last"]


def test_the_group_is_a_secret_of_the_deployment() -> None:
    one = share(Settings.load(jwt_secret="k" * 64), "x")
    assert one == share(Settings.load(jwt_secret="k" * 64), "x")
    assert one != share(Settings.load(jwt_secret="l" * 64), "x")
    assert re.fullmatch(r"\$share/iotistica-api-[0-9a-f]{24}/x", one)
    # What makes the keys of agents survive a new signing secret keeps the group as well.
    kept = {"secret_digest_pepper": "p" * 32}
    first = share(Settings.load(jwt_secret="k" * 64, **kept), "x")
    assert first == share(Settings.load(jwt_secret="l" * 64, **kept), "x")
