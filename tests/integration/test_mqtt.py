"""The MQTT adapter against a real broker. Every test runs with both client libraries:
`test_all_of_this_holds_with_aiomqtt_2` runs this file again with the other one in front."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from iotistica import mqtt
from iotistica.embedded.broker import BUILTIN, find_broker
from iotistica.embedded.ports import free_port
from iotistica.errors import ConfigError

STABLE = Path(sys.prefix) / "aiomqtt2"
CLIENT = mqtt.client_version()


async def until(holds: Callable[[], Any], timeout_s: float = 20.0) -> None:
    async with asyncio.timeout(timeout_s):
        while not holds():
            await asyncio.sleep(0.005)


class Wire:
    """A TCP proxy that remembers what the client wrote, and can fall silent or be cut."""

    def __init__(self, port: int) -> None:
        self._target = port
        self._server: asyncio.Server
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self.flowing = asyncio.Event()
        self.flowing.set()
        self.mute = False
        """Whether replies are lost."""
        self.written = bytearray()
        self.writes: list[bytes] = []
        self.port = 0

    async def __aenter__(self) -> Wire:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        self.cut()
        self.flowing.set()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def cut(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        onward, back = await asyncio.open_connection("127.0.0.1", self._target)
        self._writers += [writer, back]
        for source, sink, is_client in ((reader, back, True), (onward, writer, False)):
            self._tasks.add(asyncio.create_task(self._pump(source, sink, is_client)))

    async def _pump(
        self, source: asyncio.StreamReader, sink: asyncio.StreamWriter, is_client: bool
    ) -> None:
        with contextlib.suppress(OSError):
            while data := await source.read(65536):
                await self.flowing.wait()
                if is_client:
                    self.written += data
                    self.writes.append(data)
                elif self.mute:
                    continue
                sink.write(data)
                await sink.drain()
        sink.close()

    def pubacks(self) -> list[int]:
        """Packet ids of the PUBACKs written by the client, in order."""
        ids, rest = [], bytes(self.written)
        while rest:
            size, shift, at = 0, 0, 1
            while True:
                size |= (rest[at] & 0x7F) << shift
                shift, at = shift + 7, at + 1
                if not rest[at - 1] & 0x80:
                    break
            if rest[0] == 0x40:
                ids.append(int.from_bytes(rest[at : at + 2], "big"))
            rest = rest[at + size :]
        return ids

    def pings(self) -> int:
        return self.written.count(b"\xc0\x00")


@pytest.fixture
async def wire(broker: Any) -> AsyncIterator[Wire]:
    async with Wire(broker.server.port) as wire:
        yield wire


@pytest.fixture
def options(broker: Any) -> mqtt.Options:
    """A persistent session of this test's own."""
    return mqtt.parse_url(
        broker.bridge_url, client_id=f"test-{secrets.token_hex(6)}", session_expiry_s=60
    )


@pytest.fixture
def topic() -> str:
    """Root of this test's own topics."""
    return f"i/{secrets.token_hex(6)}"


@asynccontextmanager
async def subscriber(options: mqtt.Options, topic: str) -> AsyncIterator[mqtt.Session]:
    async with mqtt.connect(options) as session:
        await session.subscribe(f"{topic}/#")
        yield session


@pytest.fixture
async def publisher(broker: Any) -> AsyncIterator[mqtt.Session]:
    name = f"p-{secrets.token_hex(6)}"
    async with mqtt.connect(
        mqtt.parse_url(broker.bridge_url, client_id=name, clean_start=True)
    ) as session:
        yield session


async def gather(session: mqtt.Session, count: int) -> list[mqtt.Message]:
    found: list[mqtt.Message] = []
    async with asyncio.timeout(20):
        while len(found) < count:
            found += await session.receive()
    return found


async def test_messages_arrive_whole_and_in_order(
    options: mqtt.Options, topic: str, publisher: mqtt.Session
) -> None:
    sent = [(f"{topic}/{n % 7}/µ", os.urandom(n)) for n in range(500)]
    async with subscriber(options, topic) as session:
        await publisher.publish_many(sent)
        messages = await gather(session, 500)
        assert [(m.topic, m.payload) for m in messages] == sent
        assert {(m.qos, m.retain) for m in messages} == {(1, False)}
        assert session.in_flight == 500
        session.acknowledge(messages)
        assert session.in_flight == 0


async def test_a_large_message_arrives(
    options: mqtt.Options, topic: str, publisher: mqtt.Session
) -> None:
    payload = os.urandom(900_000)
    async with subscriber(options, topic) as session:
        await publisher.publish(f"{topic}/large", payload)
        (message,) = await gather(session, 1)
        assert message.payload == payload
        session.acknowledge([message])


async def test_only_what_was_acknowledged_does_not_come_again(
    options: mqtt.Options, topic: str, publisher: mqtt.Session
) -> None:
    async with subscriber(options, topic) as session:
        assert not session.resumed
        await publisher.publish_many((f"{topic}/x", b"%d" % n) for n in range(10))
        session.acknowledge((await gather(session, 10))[:4])
        # Packets are taken in order; of a connection that another one takes over, none further.
        await session.publish(f"{topic}-elsewhere/x", b"")
    async with mqtt.connect(options) as session:
        assert session.resumed
        messages = await gather(session, 6)
        assert [m.payload for m in messages] == [b"%d" % n for n in range(4, 10)]
        session.acknowledge(messages)
        await session.publish(f"{topic}-elsewhere/x", b"")
    async with mqtt.connect(options) as session:
        await publisher.publish(f"{topic}/x", b"last")
        messages = await gather(session, 1)
        assert [m.payload for m in messages] == [b"last"]
        session.acknowledge(messages)


async def test_acknowledgements_leave_in_order_of_arrival_and_together(
    options: mqtt.Options, topic: str, publisher: mqtt.Session, wire: Wire
) -> None:
    async with subscriber(replace(options, port=wire.port), topic) as session:
        await publisher.publish_many((f"{topic}/x", b"") for _ in range(50))
        messages = await gather(session, 50)
        session.acknowledge(reversed(messages[1:]))
        await publisher.publish(f"{topic}/x", b"more")
        more = await gather(session, 1)
        assert wire.pubacks() == []
        writes = len(wire.writes)
        session.acknowledge([messages[0]])
        await until(lambda: len(wire.pubacks()) == 50)
        assert wire.pubacks() == [m.packet_id for m in messages]
        # paho writes each packet by itself, as fast as it can.
        assert CLIENT == "aiomqtt2" or len(wire.writes) == writes + 1
        session.acknowledge(more)


async def test_a_lost_connection_ends_the_session(
    options: mqtt.Options, topic: str, publisher: mqtt.Session, wire: Wire
) -> None:
    async with subscriber(replace(options, port=wire.port), topic) as session:
        receiving = asyncio.create_task(session.receive())
        wire.flowing.clear()
        publishing = asyncio.create_task(session.publish(f"{topic}/x", b""))
        await until(lambda: bool(session._unconfirmed))
        wire.cut()
        wire.flowing.set()
        for task in (receiving, publishing):
            with pytest.raises(mqtt.Disconnected):
                await asyncio.wait_for(task, 10)
        for call in (session.receive(), session.publish("i/x", b""), session.subscribe("i/x")):
            with pytest.raises(mqtt.Disconnected):
                await call


async def test_a_connection_that_is_lost_while_it_subscribes_ends_the_call(
    options: mqtt.Options, topic: str, wire: Wire
) -> None:
    async with mqtt.connect(replace(options, port=wire.port)) as session:
        wire.mute = True
        subscribing = asyncio.create_task(session.subscribe(f"{topic}/#"))
        await until(lambda: topic.encode() in wire.written)
        wire.cut()
        with pytest.raises(mqtt.Disconnected):
            await asyncio.wait_for(subscribing, 15)


async def test_nothing_of_an_old_connection_is_acknowledged_on_a_new_one(
    options: mqtt.Options, topic: str, publisher: mqtt.Session, wire: Wire
) -> None:
    through = replace(options, port=wire.port)
    async with subscriber(through, topic) as old:
        await publisher.publish_many((f"{topic}/x", b"%d" % n) for n in range(5))
        messages = await gather(old, 5)
        wire.cut()
        with pytest.raises(mqtt.Disconnected):
            await old.receive()
        async with mqtt.connect(through) as new:
            again = await gather(new, 5)
            old.acknowledge(messages)
            await new.publish(f"{topic}/elsewhere", b"")
            assert wire.pubacks() == []
            new.acknowledge(again)
            await until(lambda: len(wire.pubacks()) == 5)


async def test_qos_0_is_received_also_when_nobody_waits(
    options: mqtt.Options, topic: str, publisher: mqtt.Session
) -> None:
    async with subscriber(options, topic) as session:
        await publisher.publish_many([(f"{topic}/x", b"%d" % n) for n in range(20)], qos=0)
        await publisher.publish(f"{topic}/x", b"end")
        await until(lambda: session.in_flight == 21)
        messages = await session.receive()
        assert [m.qos for m in messages] == [0] * 20 + [1]
        session.acknowledge(messages)
        assert session.in_flight == 0


async def test_messages_in_flight_are_bounded_and_none_is_lost(
    options: mqtt.Options, topic: str, publisher: mqtt.Session
) -> None:
    """A broker that ignores Receive Maximum is held back by TCP."""
    count, size, limit = 2000, 10_000, 10
    bounded = replace(options, max_in_flight_messages=limit)
    async with subscriber(bounded, topic) as session:
        publishing = asyncio.create_task(
            publisher.publish_many((f"{topic}/{n}", bytes(size)) for n in range(count))
        )
        seen: list[str] = []
        most = 0
        async with asyncio.timeout(30):
            while len(seen) < count:
                messages = await session.receive()
                most = max(most, session.in_flight)
                seen += [m.topic for m in messages]
                await asyncio.sleep(0)
                session.acknowledge(messages)
        await publishing
    assert seen == [f"{topic}/{n}" for n in range(count)]
    # What one read of the socket brings is taken.
    assert most <= limit + 64


async def test_a_held_session_stays_alive(
    options: mqtt.Options, topic: str, publisher: mqtt.Session, wire: Wire
) -> None:
    held = replace(options, port=wire.port, keep_alive_s=2, max_in_flight_messages=0)
    async with subscriber(held, topic) as session:
        await publisher.publish(f"{topic}/x", b"")
        messages = await gather(session, 1)
        await until(lambda: wire.pings() >= 3)
        session.acknowledge(messages)
        await publisher.publish(f"{topic}/x", b"after")
        assert [m.payload for m in await gather(session, 1)] == [b"after"]


async def test_a_broker_that_falls_silent_is_noticed(
    options: mqtt.Options, topic: str, wire: Wire
) -> None:
    async with subscriber(replace(options, port=wire.port, keep_alive_s=1), topic) as session:
        wire.flowing.clear()
        with pytest.raises(mqtt.Disconnected):
            await asyncio.wait_for(session.receive(), 15)


async def test_a_refused_publication_is_an_error(broker: Any, tenant: str) -> None:
    agent = "6f1c2a34-0000-4000-8000-000000000002"
    options = mqtt.parse_url(await broker.add_agent(tenant, agent), client_id=f"a-{tenant}")
    async with mqtt.connect(options) as session:
        with pytest.raises(mqtt.Refused):
            await session.publish("i/elsewhere", b"")
    # Mosquitto 2.0.11 without a bound on its queues ends the connection as well.
    async with mqtt.connect(options) as session:
        with pytest.raises(mqtt.Refused):
            await session.publish_many([("i/elsewhere", b"")])


async def test_more_is_published_than_the_window_holds(
    options: mqtt.Options, topic: str, publisher: mqtt.Session
) -> None:
    async with subscriber(options, topic) as session:
        await asyncio.gather(*(publisher.publish(f"{topic}/x", b"") for _ in range(3000)))
        messages = await gather(session, 3000)
        session.acknowledge(messages)


async def test_a_wrong_password_is_refused(options: mqtt.Options) -> None:
    with pytest.raises(mqtt.Refused, match="refused the connection"):
        async with mqtt.connect(replace(options, password="wrong")):
            pass


async def test_a_broker_that_is_not_there_cannot_be_reached(options: mqtt.Options) -> None:
    for host in ("127.0.0.1", "localhost"):
        with pytest.raises(mqtt.Disconnected, match="cannot be reached"):
            async with mqtt.connect(replace(options, host=host, port=free_port())):
                pass


async def test_what_is_no_broker_cannot_be_connected_to(options: mqtt.Options) -> None:
    async def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")

    async def say_nothing(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):
            await reader.read()

    for behave in (hang_up, say_nothing):
        ended = asyncio.Event()

        async def accept(
            reader: asyncio.StreamReader,
            writer: asyncio.StreamWriter,
            behave: Any = behave,
            ended: asyncio.Event = ended,
        ) -> None:
            await behave(reader, writer)
            writer.transport.abort()
            await asyncio.gather(writer.wait_closed(), return_exceptions=True)
            ended.set()

        server = await asyncio.start_server(accept, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        with pytest.raises(mqtt.Disconnected):
            async with mqtt.connect(replace(options, port=port, connect_timeout_s=0.5)):
                pass
        await ended.wait()
        server.close()
        await server.wait_closed()


async def test_cancelled_publications_do_no_harm(
    options: mqtt.Options, topic: str, wire: Wire
) -> None:
    async with subscriber(replace(options, port=wire.port), topic) as session:
        wire.flowing.clear()
        publishing = asyncio.create_task(session.publish(f"{topic}/x", b"1"))
        await until(lambda: bool(session._unconfirmed))
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        wire.flowing.set()
        await session.publish(f"{topic}/x", b"2")
        assert [m.payload for m in await gather(session, 2)] == [b"1", b"2"]


def test_the_client_that_is_wanted_must_be_installed() -> None:
    assert mqtt.client_version("auto") == mqtt.client_version(CLIENT) == CLIENT
    other = {"aiomqtt2": "aiomqtt3", "aiomqtt3": "aiomqtt2"}[CLIENT]
    with pytest.raises(ConfigError, match=f"MQTT_CLIENT is {other}, but {CLIENT}"):
        mqtt.client_version(other)


@pytest.mark.skipif(CLIENT == "aiomqtt2", reason="this is that run")
@pytest.mark.timeout(240)
@pytest.mark.parametrize(
    ("file", "tests"),
    [("test_mqtt.py", "test"), ("test_bridge.py", "acknowledged or killed or loses")],
)
def test_all_of_this_holds_with_aiomqtt_2(file: str, tests: str) -> None:
    if not STABLE.is_dir():
        pytest.skip(f"{STABLE} is not there; make dev installs it")
    path = os.pathsep.join(filter(None, [str(STABLE), os.environ.get("PYTHONPATH")]))
    # One broker is enough here; the other run has them all.
    broker = "builtin" if find_broker() == BUILTIN else "mosquitto"
    chosen = f"({tests}) and {broker}"
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-k", chosen, Path(__file__).with_name(file)],
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
        cwd=Path(__file__).parents[2],
    )
    assert run.returncode == 0, run.stdout[-10_000:]
    assert " passed" in run.stdout
