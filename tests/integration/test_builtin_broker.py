"""The broker of our own wheel: its promises, its bounds, and what it refuses."""

from __future__ import annotations

import contextlib
import resource
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mqtt5
import orjson
import pytest
from tests.wire import Closed, Wire

from iotistica.credentials import Credentials, User

Reason = mqtt5.DisconnectReasonCode
KEPT = {"client_id": "kept", "clean_start": False, "session_expiry_interval": 3600}
USERS = {
    "bridge": User("bridge-password", ("readwrite i/#", "read $SYS/#")),
    "agent": User("agent-password", ("readwrite i/T/a/A/#",)),
}


class Server:
    """The broker as a process, in a directory that outlives it."""

    def __init__(self, directory: Path, *options: object) -> None:
        self.directory = directory
        self.options = [str(option) for option in options]
        self.credentials = Credentials(directory / "passwords", directory / "acl")
        self.credentials.add(USERS)
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with (self.directory / "log").open("ab") as log:
            self.process = subprocess.Popen(self.command(), stderr=log, cwd=self.directory)
        self.port = wait_for(self._ready_port)

    def command(self, port: int = 0) -> list[str]:
        return [
            *(sys.executable, "-m", "iotistica.embedded.builtin_broker", "--port", str(port)),
            *("--data-dir", ".", "--password-file", "passwords", "--acl-file", "acl"),
            *self.options,
        ]

    def _ready_port(self) -> int | None:
        assert self.process is not None
        assert self.process.poll() is None, (self.directory / "log").read_text()
        return next((event["port"] for event in self.events("broker ready")), None)

    def events(self, start: str) -> list[dict[str, Any]]:
        *lines, _ = (self.directory / "log").read_bytes().split(b"\n")
        events = [orjson.loads(line) for line in lines if line.startswith(b"{")]
        return [event for event in events if event["msg"].startswith(start)]

    def end(self, how: signal.Signals = signal.SIGTERM) -> int:
        """Signal the process, wait for its end; returns its exit status."""
        assert self.process is not None
        self.process.send_signal(how)
        status = self.process.wait(timeout=10)
        (self.directory / "log").rename(self.directory / f"log.{time.monotonic_ns()}")
        return status

    def reload(self) -> None:
        assert self.process is not None
        self.process.send_signal(signal.SIGHUP)

    def connect(self, user: str = "bridge", **options: Any) -> Wire:
        return Wire(self.port, user, USERS[user].password, **options)

    def memory_mib(self) -> int:
        assert self.process is not None
        status = Path(f"/proc/{self.process.pid}/status")
        if not status.exists():
            pytest.skip("no /proc to read the memory from")
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) // 1024


def wait_for(condition: Callable[[], Any], timeout_s: float = 10.0) -> Any:
    """The first true value of `condition`."""
    deadline = time.monotonic() + timeout_s
    while not (value := condition()):
        assert time.monotonic() < deadline, "waited in vain"
        time.sleep(0.01)
    return value


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Start brokers with options; they end with the test."""
    servers: list[Server] = []

    def start(*options: object) -> Server:
        servers.append(Server(tmp_path, *options))
        servers[-1].start()
        return servers[-1]

    yield start
    for server in servers:
        if server.process is not None and server.process.poll() is None:
            server.process.kill()
            server.process.wait()


@pytest.fixture
def server(make: Callable[..., Server]) -> Server:
    """A broker with its defaults."""
    return make()


@pytest.fixture
def background() -> Iterator[Callable[[Callable[[], None]], threading.Thread]]:
    """Run something in a thread that the test waits for in the end."""
    threads: list[threading.Thread] = []

    def run(work: Callable[[], None]) -> threading.Thread:
        threads.append(threading.Thread(target=work))
        threads[-1].start()
        return threads[-1]

    yield run
    for thread in threads:
        thread.join(timeout=30)
        assert not thread.is_alive()


def numbers(count: int, size: int = 0) -> list[bytes]:
    return [b"%d" % number + b" " * size for number in range(count)]


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL])
def test_sessions_and_messages_survive_a_restart(server: Server, how: signal.Signals) -> None:
    with server.connect(**KEPT) as first:
        first.subscribe("i/#", subscription_id=7)
        publisher = server.connect()
        publisher.publish("i/status", b"on", retain=True)
        publisher.publish_all("i/x", numbers(100))
        publisher.abort()
        assert first.payloads(11)[0] == b"on"
        first.silent()
    assert server.end(how) == (0 if how == signal.SIGTERM else -signal.SIGKILL)
    server.start()
    with server.connect(**KEPT) as again, server.connect() as late:
        assert again.connack.session_present
        messages = list(again.messages(90))
        if how == signal.SIGKILL:
            # PUBACKs of a subscriber are not waited for: at the worst their messages come again.
            messages += again.messages(
                len(numbers(100)) - numbers(100).index(messages[0].payload) - 90
            )
            assert len(messages) <= 100
        assert [message.payload for message in messages] == numbers(100)[-len(messages) :]
        assert len(messages) == 90 or how == signal.SIGKILL
        assert {tuple(message.subscription_ids) for message in messages} == {(7,)}
        assert again.silent()
        late.subscribe("i/status")
        assert late.payloads(1) == [b"on"]


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "online"])
def test_no_acknowledged_message_is_lost_by_kill_9(
    server: Server,
    offline: bool,
    background: Callable[[Callable[[], None]], threading.Thread],
) -> None:
    acked: list[bytes] = []
    got: set[bytes] = set()
    for turn in range(5):
        subscriber = server.connect(**KEPT, receive_max=50)
        assert subscriber.connack.session_present == (turn > 0)
        subscriber.subscribe("i/#")
        if offline:
            subscriber.abort()

        def publish(turn: int = turn) -> None:
            payloads = (b"%d %d" % (turn, number) for number in range(10**9))
            with contextlib.suppress(Closed, OSError), server.connect("agent") as publisher:
                publisher.publish_all("i/T/a/A/x", payloads, window=20, acked=acked.append)

        before = len(acked)
        thread = background(publish)
        if not offline:
            got |= set(subscriber.payloads(500))
        wait_for(lambda before=before: len(acked) > before + 500)
        server.end(signal.SIGKILL)
        thread.join()
        subscriber.abort()
        server.start()
    with server.connect(**KEPT) as subscriber:
        while not set(acked) <= got:
            got |= {message.payload for message in subscriber.messages(1)}
    assert len(acked) > 2500


def test_a_torn_tail_is_cut_off(server: Server) -> None:
    with server.connect(**KEPT) as first:
        first.subscribe("i/#")
    with server.connect() as publisher:
        publisher.publish_all("i/x", numbers(10))
    server.end(signal.SIGKILL)
    with (server.directory / "journal").open("ab") as journal:
        journal.write(b"\x40\0\0\0torn by a crash")
    server.start()
    assert [event["bytes"] for event in server.events("the journal ends in a torn")] == [19]
    with server.connect(**KEPT) as again:
        assert again.payloads(10) == numbers(10)


def test_the_journal_stays_short(make: Callable[..., Server]) -> None:
    server = make("--compact-bytes", 200_000)
    with server.connect(**KEPT, receive_max=100) as subscriber, server.connect() as publisher:
        subscriber.subscribe("i/#")
        for _ in range(20):
            publisher.publish_all("i/x", numbers(100, size=1000))
            subscriber.payloads(100)
        publisher.publish_all("i/x", numbers(100, size=1000))
        assert (server.directory / "journal").stat().st_size < 1_000_000
        server.end(signal.SIGKILL)
    server.start()
    with server.connect(**KEPT) as again:
        assert [payload.rstrip() for payload in again.payloads(100)] == numbers(100)


@pytest.mark.parametrize("offline", [True, False], ids=["offline", "online"])
def test_a_slow_subscriber_holds_its_publishers_back_and_loses_nothing(
    make: Callable[..., Server],
    offline: bool,
    background: Callable[[Callable[[], None]], threading.Thread],
) -> None:
    server = make("--max-queued-messages", 2000)
    acked: list[bytes] = []
    slow = server.connect(**KEPT, receive_max=10)
    slow.subscribe("i/#")
    if offline:
        slow.abort()

    def publish(part: int) -> None:
        payloads = (b"%d %d" % (part, number) + b" " * 1000 for number in range(25_000))
        with server.connect("agent") as publisher:
            publisher.connection.settimeout(60)
            publisher.publish_all("i/T/a/A/x", payloads, acked=acked.append)

    threads = [background(lambda part=part: publish(part)) for part in range(2)]
    wait_for(lambda: len(acked) >= 2000)
    stalled = len(acked)
    with server.connect() as other:
        assert other.silent(0.5)
    assert stalled <= len(acked) <= 2010
    if offline:
        slow = server.connect(**KEPT)
    got = [payload.split() for payload in slow.payloads(50_000)]
    for part in (b"0", b"1"):
        assert [int(number) for of, number in got if of == part] == list(range(25_000))
    for thread in threads:
        thread.join(timeout=10)
    assert len(acked) == 50_000
    assert server.memory_mib() < 120
    slow.subscribe("$SYS/broker/publish/messages/dropped")
    assert slow.payloads(1) == [b"0"]
    slow.abort()


def test_memory_is_bounded_for_all_sessions_together(make: Callable[..., Server]) -> None:
    server = make("--max-total-queued-bytes", 1_000_000)
    first, second = (server.connect(client_id=f"s{n}", receive_max=1) for n in range(2))
    first.subscribe("i/one")
    second.subscribe("i/two")
    with first, second, server.connect() as publisher:
        for number in range(60):
            publisher.post(f"i/{('one', 'two')[number % 2]}", b" " * 50_000)
        acked = 0
        with contextlib.suppress(TimeoutError):
            while publisher.receive(0.5):
                acked += 1
        assert 15 <= acked <= 25
        for _ in range(30):
            # By turns: what waits for one of them takes the room of the other.
            assert len(first.payloads(1) + second.payloads(1)) == 2
        for _ in range(60 - acked):
            publisher.expect(mqtt5.PubAckPacket)


def test_a_client_that_is_its_own_slow_subscriber_goes_on(make: Callable[..., Server]) -> None:
    server = make("--max-queued-messages", 10, "--receive-maximum", 100)
    with server.connect(receive_max=5) as client:
        client.subscribe("i/#")
        for payload in numbers(100, size=10_000):
            client.post("i/x", payload)
        assert len(client.payloads(100)) == 100
        for _ in range(100):
            client.expect(mqtt5.PubAckPacket)


def test_a_group_takes_over_what_an_ended_session_left(server: Server) -> None:
    leaving = server.connect(client_id="leaving", session_expiry_interval=3600)
    staying = server.connect(client_id="staying", session_expiry_interval=3600, receive_max=100)
    for member in (leaving, staying):
        member.subscribe("$share/g/i/#")
    with staying, leaving, server.connect() as publisher:
        publisher.publish_all("i/x", numbers(100))
        mine = {message.payload for message in leaving.messages(20)}
        mine |= {message.payload for message in staying.messages(50)}
        leaving.silent()
        leaving.abort()
        assert staying.silent()
        server.connect(client_id="leaving", clean_start=True).abort()
        mine |= {message.payload for message in staying.messages(30)}
        assert mine == set(numbers(100))


def test_a_group_queues_for_a_member_that_will_return(server: Server) -> None:
    with server.connect(**KEPT) as first:
        first.subscribe("$share/g/i/#")
    with server.connect() as publisher:
        publisher.publish_all("i/x", numbers(100))
    with server.connect(**KEPT) as again:
        assert again.payloads(100) == numbers(100)


def test_a_session_expires(server: Server) -> None:
    with server.connect(client_id="brief", session_expiry_interval=1) as brief:
        brief.subscribe("i/#")

    def absent() -> bool:
        with server.connect() as other:
            return other.publish("i/x", b"x") == mqtt5.PubAckReasonCode.NO_MATCHING_SUBSCRIBERS

    wait_for(absent)
    assert [event["messages"] for event in server.events("a session expired")] != []


def test_another_users_session_cannot_be_taken(server: Server) -> None:
    with server.connect(**KEPT) as owner, server.connect("agent", **KEPT) as thief:
        assert thief.connack.reason_code == mqtt5.ConnAckReasonCode.CLIENT_ID_NOT_VALID
        assert owner.silent()


def test_an_oversized_packet_is_refused_from_its_first_bytes(make: Callable[..., Server]) -> None:
    server = make("--max-packet-bytes", 100_000)
    with server.connect() as client:
        assert client.connack.max_packet_size == 100_000
        client.connection.sendall(b"\x30\xff\xff\xff\x7f")
        last = client.drain()
    assert isinstance(last, mqtt5.DisconnectPacket)
    assert last.reason_code == Reason.PACKET_TOO_LARGE
    assert raw(server, b"\x10\xff\xff\xff\x7f") == b"\x20\x03\x00\x95\x00"


def raw(server: Server, data: bytes) -> bytes:
    """Everything that the broker answers to bytes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as connection:
        connection.sendall(data)
        answer = b""
        with contextlib.suppress(ConnectionError):
            while more := connection.recv(1000):
                answer += more
    return answer


def test_older_protocols_are_refused_in_their_own_words(server: Server) -> None:
    assert raw(server, b"\x10\x0c\0\4MQTT\4\2\0\x3c\0\0") == b"\x20\x02\x00\x01"
    assert raw(server, b"\x10\x0e\0\6MQIsdp\3\2\0\x3c\0\0") == b"\x20\x02\x00\x01"
    assert raw(server, b"\x10\x0d\0\4MQTT\6\2\0\x3c\0\0\0") == b"\x20\x03\x00\x84\x00"
    assert raw(server, b"GET / HTTP/1.1\r\n\r\n") == b""


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        ({"qos": mqtt5.QoS.EXACTLY_ONCE, "packet_id": 1}, Reason.QOS_NOT_SUPPORTED),
        ({"topic_alias": 1}, Reason.TOPIC_ALIAS_INVALID),
    ],
)
def test_what_was_not_announced_is_refused(
    server: Server, packet: dict[str, Any], reason: Reason
) -> None:
    with server.connect() as client:
        assert client.connack.max_qos == mqtt5.QoS.AT_LEAST_ONCE
        assert client.connack.topic_alias_max == 0
        client.send(mqtt5.PublishPacket("i/x", b"x", **packet))
        last = client.drain()
    assert isinstance(last, mqtt5.DisconnectPacket)
    assert last.reason_code == reason


def test_the_brokers_own_window_is_kept(make: Callable[..., Server]) -> None:
    server = make("--max-queued-messages", 10, "--receive-maximum", 20)
    with server.connect(receive_max=1) as slow, server.connect() as greedy:
        assert greedy.connack.receive_max == 20
        slow.subscribe("i/#")
        for payload in numbers(40):
            greedy.post("i/x", payload)
        last = greedy.drain()
    assert isinstance(last, mqtt5.DisconnectPacket)
    assert last.reason_code == Reason.RECEIVE_MAX_EXCEEDED


def test_connections_over_the_limit_are_closed(make: Callable[..., Server]) -> None:
    server = make("--max-connections", 2)
    with server.connect(), server.connect() as second:
        with pytest.raises(Closed):
            server.connect()
        second.close()
        wait_for(lambda: not refused(server))


def refused(server: Server) -> bool:
    try:
        server.connect().abort()
    except Closed:
        return True
    return False


def test_a_reload_admits_disconnects_and_withdraws(server: Server) -> None:
    bridge, agent = server.connect(), server.connect("agent")
    agent.subscribe("i/T/a/A/#")
    (server.directory / "passwords").write_text(
        "".join(
            line
            for line in (server.directory / "passwords").read_text().splitlines(keepends=True)
            if not line.startswith("agent:")
        )
    )
    server.credentials.add(
        {"new": User("p", ("read i/#",)), "bridge": User("bridge-password", ("write i/#",))}
    )
    bridge.subscribe("i/#")
    server.reload()
    last = agent.drain()
    assert isinstance(last, mqtt5.DisconnectPacket)
    assert last.reason_code == Reason.NOT_AUTHORIZED
    with Wire(server.port, "new", "p") as new, bridge:
        new.subscribe("i/#")
        bridge.publish("i/x", b"x")
        assert new.payloads(1) == [b"x"]
        assert bridge.silent()
    with server.connect("agent") as gone:
        assert gone.connack.reason_code == mqtt5.ConnAckReasonCode.BAD_USER_NAME_OR_PASSWORD


def test_a_broken_file_keeps_the_old_credentials(server: Server) -> None:
    with server.connect() as bridge:
        (server.directory / "passwords").write_text("nonsense\n")
        server.reload()
        (event,) = wait_for(lambda: server.events("credentials not reloaded"))
        assert event["level"] == "error"
        assert "line 1" in event["error"]
        assert bridge.silent()
        server.connect("agent").abort()


def test_stopping_says_so_to_the_clients(server: Server) -> None:
    with server.connect() as client:
        assert server.end(signal.SIGINT) == 0
        last = client.drain()
    assert isinstance(last, mqtt5.DisconnectPacket)
    assert last.reason_code == Reason.SERVER_SHUTTING_DOWN


def run_in_vain(command: list[str], directory: Path) -> str:
    ended = subprocess.run(command, cwd=directory, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 2
    assert ended.stderr.count("\n") == 1
    return ended.stderr


def test_what_cannot_be_used_is_one_sentence(server: Server, tmp_path: Path) -> None:
    assert "cannot listen on 127.0.0.1" in run_in_vain(server.command(server.port), tmp_path)
    assert "in use by another broker" in run_in_vain(server.command(), tmp_path)
    server.end()
    (tmp_path / "acl").unlink()
    assert "cannot read the ACL file acl" in run_in_vain(server.command(), tmp_path)
    command = [*server.command(), "--port", "66000"]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20)
    assert ended.returncode == 2
    assert "'66000' is not a whole number from 0 to 65535" in ended.stderr


@pytest.mark.skipif(not hasattr(resource, "prlimit"), reason="needs prlimit")
def test_a_full_disk_holds_back_and_recovers(server: Server) -> None:
    assert server.process is not None
    with server.connect(**KEPT) as subscriber, server.connect() as publisher:
        subscriber.subscribe("i/#")
        size = (server.directory / "journal").stat().st_size
        hard = resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE)[1]
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (size + 5000, hard))
        for payload in numbers(20, size=1000):
            publisher.post("i/x", payload)
        wait_for(lambda: server.events("cannot write the journal"))
        assert len(subscriber.payloads(20)) == 20
        resource.prlimit(server.process.pid, resource.RLIMIT_FSIZE, (hard, hard))
        for _ in range(20):
            publisher.expect(mqtt5.PubAckPacket)
