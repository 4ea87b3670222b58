"""What iotistica relies on in an MQTT 5 broker: the same for Mosquitto and for our own."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator
from typing import Any

import aiomqtt
import mqtt5
import pytest
from tests.wire import Wire

A = mqtt5.PubAckReasonCode
Connect = Callable[..., Wire]


@pytest.fixture
async def topic(broker: Any) -> str:
    """A topic of this test's own, below which the user `agent` may do everything."""
    topic = f"i/{secrets.token_hex(4)}/a/{secrets.token_hex(8)}"
    await broker.add({"agent": (f"readwrite {topic}/#",), "watcher": ("read i/#",)})
    return topic


@pytest.fixture
def connect(broker: Any, topic: str) -> Iterator[Connect]:
    """Open connections as a user of this broker; all are closed at the end."""
    opened: list[Wire] = []

    def open_one(user: str = "iotistica-api", **options: Any) -> Wire:
        password = options.pop("password", broker.passwords.get(user, ""))
        options = {"client_id": secrets.token_hex(8), **options}
        opened.append(Wire(broker.server.port, user, password, **options))
        return opened[-1]

    yield open_one
    for wire in opened:
        wire.abort()


def test_a_wrong_password_is_refused(connect: Connect) -> None:
    assert connect().connack.reason_code == 0
    for user, password in [("iotistica-api", "wrong"), ("nobody", "x"), ("agent", "")]:
        assert connect(user, password=password).connack.reason_code in (0x86, 0x87)


def test_an_agent_writes_below_its_own_topics_only(connect: Connect, topic: str) -> None:
    bridge = connect()
    bridge.subscribe("i/#")
    assert connect("agent").publish(f"{topic}/endpoints/x", b"mine") == A.SUCCESS
    # A connection each: Mosquitto 2.0.11 closes one at its second refusal.
    for other in ("i/other/a/other/endpoints/x", "other"):
        assert connect("agent").publish(other, b"not mine") == A.NOT_AUTHORIZED
    assert bridge.payloads(1) == [b"mine"]
    assert bridge.silent()


def test_an_agent_reads_below_its_own_topics_only(connect: Connect, topic: str) -> None:
    agent, bridge = connect("agent"), connect()
    agent.subscribe("i/#", "#", "$share/g/i/#", "$SYS/#", f"{topic}/cmd/#")
    bridge.publish("i/other/a/other/cmd/x", b"for another")
    bridge.publish(f"{topic}/cmd/x", b"for it")
    assert set(agent.payloads(1)) == {b"for it"}
    while not agent.silent():
        assert {packet.payload for packet in agent.unread} <= {b"for it"}
        agent.unread.clear()


def test_a_watcher_may_not_publish(connect: Connect, topic: str) -> None:
    assert connect("watcher").publish(f"{topic}/x", b"x") == A.NOT_AUTHORIZED


def test_nobody_listening_is_told(connect: Connect, topic: str) -> None:
    assert connect().publish(f"{topic}/x", b"x") == A.NO_MATCHING_SUBSCRIBERS


def test_a_session_collects_while_its_client_is_away(connect: Connect, topic: str) -> None:
    options = {"client_id": secrets.token_hex(8), "session_expiry_interval": 60}
    first = connect(**options)
    assert not first.connack.session_present
    first.subscribe(f"{topic}/#")
    first.close()
    sent = [b"%d" % number for number in range(300)]
    connect().publish_all(f"{topic}/x", sent)
    again = connect(clean_start=False, **options)
    assert again.connack.session_present
    assert again.payloads(300) == sent
    again.close()
    fresh = connect(**options)
    assert not fresh.connack.session_present
    connect().publish(f"{topic}/x", b"nobody gets this")
    assert fresh.silent()


def test_what_was_not_acknowledged_comes_again_in_order(connect: Connect, topic: str) -> None:
    options = {"client_id": secrets.token_hex(8), "session_expiry_interval": 60}
    first = connect(**options)
    first.subscribe(f"{topic}/#")
    connect().publish_all(f"{topic}/x", [b"1", b"2", b"3"])
    messages = list(first.messages(3, ack=False))
    first.send(mqtt5.PubAckPacket(messages[0].packet_id))
    first.silent()
    first.abort()
    again = connect(clean_start=False, **options)
    got = list(again.messages(2))
    assert [(m.payload, m.duplicate, m.packet_id) for m in got] == [
        (m.payload, True, m.packet_id) for m in messages[1:]
    ]


def test_a_session_without_expiry_ends_with_its_connection(connect: Connect, topic: str) -> None:
    identifier = secrets.token_hex(8)
    first = connect(client_id=identifier)
    first.subscribe(f"{topic}/#")
    first.close()
    assert not connect(client_id=identifier, clean_start=False).connack.session_present


def test_the_window_of_the_subscriber_is_kept(broker: Any, connect: Connect, topic: str) -> None:
    if broker.server.name == "mosquitto":
        pytest.skip("mosquitto before 2.0.13 forgets the window after the first one")
    slow = connect(receive_max=5)
    slow.subscribe(f"{topic}/#")
    connect().publish_all(f"{topic}/x", [b"%d" % number for number in range(20)])
    first = list(slow.messages(5, ack=False))
    assert slow.silent()
    slow.send(*(mqtt5.PubAckPacket(message.packet_id) for message in first[:2]))
    assert slow.payloads(2, ack=False) == [b"5", b"6"]
    assert slow.silent()


def test_a_second_client_takes_the_session_over(connect: Connect, topic: str) -> None:
    options = {"client_id": secrets.token_hex(8), "session_expiry_interval": 60}
    first = connect(**options)
    first.subscribe(f"{topic}/#")
    second = connect(clean_start=False, **options)
    assert second.connack.session_present
    last = first.drain()
    # Mosquitto 2.0.11 closes without a word.
    taken = mqtt5.DisconnectReasonCode.SESSION_TAKEN_OVER
    assert last is None or last.reason_code == taken
    connect().publish(f"{topic}/x", b"x")
    assert second.payloads(1) == [b"x"]


def test_a_group_divides_the_messages(connect: Connect, topic: str) -> None:
    members = [connect(), connect()]
    for member in members:
        member.subscribe(f"$share/g/{topic}/#")
    sent = [b"%d" % number for number in range(100)]
    connect().publish_all(f"{topic}/x", sent)
    got: list[list[bytes]] = [[], []]
    for index, member in enumerate(members):
        while not member.silent():
            got[index] += [packet.payload for packet in member.unread]
            member.unread.clear()
    assert sorted(got[0] + got[1]) == sorted(sent)
    assert min(len(part) for part in got) >= 30


def test_a_retained_message_awaits_subscribers(connect: Connect, topic: str) -> None:
    publisher = connect()
    publisher.publish(f"{topic}/status", b"old", retain=True)
    publisher.publish(f"{topic}/status", b"on", retain=True)
    late = connect()
    late.subscribe(f"{topic}/#")
    (message,) = late.messages(1)
    assert (message.payload, message.retain) == (b"on", True)
    publisher.publish(f"{topic}/status", b"", retain=True)
    later = connect()
    later.subscribe(f"{topic}/#")
    assert later.silent()


def test_retained_messages_are_sent_as_asked(connect: Connect, topic: str) -> None:
    connect().publish(f"{topic}/status", b"on", retain=True)
    subscriber = connect()
    never = mqtt5.RetainHandling.SEND_NEVER
    once = mqtt5.RetainHandling.SEND_IF_SUBSCRIPTION_NOT_EXISTS
    subscriber.subscribe(f"{topic}/#", retain_handling=never)
    subscriber.subscribe(f"{topic}/#", retain_handling=once)
    assert subscriber.silent()
    subscriber.subscribe(f"{topic}/+", retain_handling=once)
    assert subscriber.payloads(1) == [b"on"]


def test_retain_as_published_and_no_local(connect: Connect, topic: str) -> None:
    subscriber = connect()
    subscriber.subscribe(f"{topic}/kept", retain_as_published=True, no_local=True)
    subscriber.subscribe(f"{topic}/cleared", retain_as_published=False)
    subscriber.publish(f"{topic}/kept", b"own", retain=True)
    publisher = connect()
    publisher.publish(f"{topic}/kept", b"kept", retain=True)
    publisher.publish(f"{topic}/cleared", b"cleared", retain=True)
    got = [(message.payload, message.retain) for message in subscriber.messages(2)]
    assert got == [(b"kept", True), (b"cleared", False)]


def test_a_will_is_published_for_a_client_that_vanishes(connect: Connect, topic: str) -> None:
    watcher = connect("watcher")
    watcher.subscribe(f"{topic}/#")
    will = mqtt5.Will(f"{topic}/gone", payload=b"gone", qos=mqtt5.QoS.AT_LEAST_ONCE)
    connect("agent", will=will).close()
    assert watcher.silent()
    connect("agent", will=will).abort()
    assert watcher.payloads(1) == [b"gone"]


def test_a_silent_client_is_disconnected(connect: Connect) -> None:
    last = connect(keep_alive=1).drain()
    assert last is None or last.reason_code == mqtt5.DisconnectReasonCode.KEEP_ALIVE_TIMEOUT


def test_properties_pass_through(connect: Connect, topic: str) -> None:
    subscriber = connect()
    subscriber.subscribe(f"{topic}/#", subscription_id=268_435_455)
    connect().publish(
        f"{topic}/x",
        b"{}",
        message_expiry_interval=100,
        content_type="application/json",
        response_topic="r",
        correlation_data=b"\0\1",
        user_properties=[("a", "1"), ("a", "2")],
    )
    (message,) = subscriber.messages(1)
    assert (message.content_type, message.response_topic) == ("application/json", "r")
    assert message.correlation_data == b"\0\1"
    assert message.user_properties == [("a", "1"), ("a", "2")]
    assert message.subscription_ids == [268_435_455]
    assert message.message_expiry_interval in (99, 100)


def test_wildcards_do_not_match_dollar_topics(connect: Connect) -> None:
    bridge = connect()
    bridge.subscribe("$SYS/broker/publish/messages/dropped", "$SYS/broker/clients/connected")
    got = {message.topic: int(message.payload) for message in bridge.messages(2, timeout_s=15)}
    assert got["$SYS/broker/publish/messages/dropped"] >= 0
    other = connect()
    other.subscribe("+/broker/#")
    assert other.silent()


async def test_aiomqtt_receives_and_acknowledges(broker: Any, topic: str) -> None:
    def client(identifier: str) -> aiomqtt.Client:
        return aiomqtt.Client(
            hostname="127.0.0.1",
            port=broker.server.port,
            identifier=identifier,
            username="iotistica-api",
            password=broker.passwords["iotistica-api"].encode(),
            session_expiry_interval=60,
        )

    async with client(f"s{topic[2:10]}") as subscriber, client(f"p{topic[2:10]}") as publisher:
        pattern = f"$share/g/{topic}/#"
        await subscriber.subscribe(pattern, max_qos=aiomqtt.QoS.AT_LEAST_ONCE)
        for number in range(50):
            await publisher.publish(
                f"{topic}/x",
                b"%d" % number,
                qos=aiomqtt.QoS.AT_LEAST_ONCE,
                packet_id=next(publisher.packet_ids),
            )
        got = []
        async for message in subscriber.messages():
            await subscriber.puback(message.packet_id)
            got.append(int(message.payload))
            if len(got) == 50:
                break
        assert got == list(range(50))


@pytest.mark.parametrize("garbage", [b"\0" * 64, b"\xff" * 300])
def test_garbage_closes_only_its_own_connection(connect: Connect, garbage: bytes) -> None:
    other, bad = connect(), connect()
    bad.connection.sendall(garbage)
    bad.drain()
    assert other.silent()
