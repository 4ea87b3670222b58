"""Brokers by REST, and tests of them against real ones."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import orjson
import pytest
from tests import people
from tests.conftest import BRIDGE, TestBroker
from tests.rest import Rest

from iotistica.api.broker_trials import BrokerTrials
from iotistica.api.models.brokers import Attempt
from iotistica.errors import BadRequest, TooMany
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.store.pool import Pool
from iotistica.streams import Streams
from iotistica.streams.outbox import outgoing

HOST = {"name": "main", "host": "mqtt.example.com", "port": 8883, "protocol": "mqtts"}


async def made(rest: Rest, **more: Any) -> dict[str, Any]:
    answer = await rest.ask("POST", "/api/v1/brokers", {**HOST, **more})
    assert answer.status == 201, answer.body
    data: dict[str, Any] = answer.body["data"]
    return data


async def test_a_broker_is_made_shown_changed_and_removed(rest: Rest) -> None:
    made_one = await made(rest, extra_config={"region": "eu"})
    assert made_one["use_tls"] is True
    assert (made_one["client_id_prefix"], made_one["keep_alive"]) == ("Iotistic", 60)
    path = f"/api/v1/brokers/{made_one['id']}"
    assert (await rest.ask("GET", path)).body["data"] == made_one
    changed = await rest.ask("PUT", path, {"port": 1883, "username": "u"})
    assert changed.status == 200
    assert changed.body["data"]["port"] == 1883
    assert changed.body["data"]["extra_config"] == {"region": "eu"}
    listed = (await rest.ask("GET", "/api/v1/brokers")).body
    assert (listed["success"], listed["count"]) == (True, 1)
    assert listed["data"] == [changed.body["data"]]
    assert (await rest.ask("DELETE", path)).status == 200
    assert (await rest.ask("GET", path)).status == 404
    [change] = await people.journal(rest, "broker.changed")
    assert (change["before"], change["after"]) == (
        {"port": 8883, "username": None},
        {"port": 1883, "username": "u"},
    )


async def test_roles_and_brokers(rest: Rest) -> None:
    assert (await rest.ask("GET", "/api/v1/brokers", role="operator")).status == 403
    assert (await rest.ask("GET", "/api/v1/brokers", role="manager")).status == 200
    assert (await rest.ask("POST", "/api/v1/brokers", HOST, role="manager")).status == 403
    number = (await made(rest))["id"]
    path = f"/api/v1/brokers/{number}/test"
    assert (await rest.ask("POST", path, {}, role="manager")).status == 403


async def test_one_broker_is_the_default(rest: Rest) -> None:
    first = await made(rest, is_default=True)
    second = await made(rest, name="second", is_default=True)
    listed = (await rest.ask("GET", "/api/v1/brokers")).body["data"]
    assert [(one["id"], one["is_default"]) for one in listed] == [
        (second["id"], True),
        (first["id"], False),
    ]
    await rest.ask("PUT", f"/api/v1/brokers/{first['id']}", {"is_default": True})
    listed = (await rest.ask("GET", "/api/v1/brokers")).body["data"]
    assert [one["is_default"] for one in listed] == [True, False]
    assert listed[0]["id"] == first["id"]


async def test_operators_at_the_same_time_leave_one_default(rest: Rest) -> None:
    await asyncio.gather(*(made(rest, name=f"b{n}", is_default=True) for n in range(8)))
    listed = (await rest.ask("GET", "/api/v1/brokers")).body["data"]
    assert sum(one["is_default"] for one in listed) == 1
    assert len(listed) == 8


async def test_names_of_brokers_are_taken_once(rest: Rest) -> None:
    await made(rest)
    other = await made(rest, name="other")
    assert (await rest.ask("POST", "/api/v1/brokers", HOST)).status == 409
    path = f"/api/v1/brokers/{other['id']}"
    assert (await rest.ask("PUT", path, {"name": "main"})).status == 409


@pytest.mark.parametrize(
    "wrong",
    [
        {"password": "secret"},
        {"client_key": "-----BEGIN PRIVATE KEY-----"},
        {"port": 0},
        {"host": "a b"},
        {"host": ""},
        {"protocol": "http"},
        {"ca_cert": "no certificate"},
        {"ca_cert": "ê"},
        {"extra_config": {"a": "x" * 5000}},
        {"extra_config": {"a": 2**70}},
    ],
)
async def test_what_no_broker_has_is_refused(rest: Rest, wrong: dict[str, Any]) -> None:
    # Python's own: orjson writes no number so large.
    body = json.dumps({**HOST, **wrong}).encode()
    assert (await rest.ask("POST", "/api/v1/brokers", body)).status == 400
    assert (await rest.ask("GET", "/api/v1/brokers")).body["count"] == 0


async def test_an_agent_is_told_a_broker_by_its_number(
    rest: Rest, pool: Pool, streams: Streams
) -> None:
    agent, other = str(uuid.uuid4()), str(uuid.uuid4())
    await AgentStore(pool).add_agents(rest.tenant, [(agent, "pump"), (other, "fan")])
    broker = await made(rest, username="u", ca_cert=None)
    told = await rest.ask("PUT", f"/api/v1/agents/{agent}/broker", {"brokerId": broker["id"]})
    assert told.status == 200
    [(_, fields)] = await streams.outbox.read("test", count=10)
    sent = orjson.loads(outgoing(fields).payload)
    assert sent["state"]["mqtt"]["broker"] == {
        "protocol": "mqtts",
        "host": "mqtt.example.com",
        "port": 8883,
        "username": "u",
        "useTls": True,
        "verifyCertificate": True,
        "clientIdPrefix": "Iotistic",
        "keepAlive": 60,
        "cleanSession": True,
        "reconnectPeriod": 1000,
        "connectTimeout": 30000,
    }
    summary = (await rest.ask("GET", "/api/v1/brokers/summary")).body
    assert [(one["name"], one["agents"], one["agents_online"]) for one in summary["data"]] == [
        ("main", 1, 0)
    ]
    path = f"/api/v1/brokers/{broker['id']}"
    assert (await rest.ask("DELETE", path)).status == 409
    elsewhere = {"host": "192.0.2.1", "port": 1883}
    assert (await rest.ask("PUT", f"/api/v1/agents/{agent}/broker", elsewhere)).status == 200
    assert (await rest.ask("DELETE", path)).status == 200
    assert (await rest.ask("PUT", f"/api/v1/agents/{agent}/broker", {})).status == 400
    unknown = {"brokerId": broker["id"]}
    assert (await rest.ask("PUT", f"/api/v1/agents/{other}/broker", unknown)).status == 404


# Tests of brokers


def trials(**settings: Any) -> BrokerTrials:
    given = {"broker_private_addresses": True, "broker_test_timeout_s": 2.0, **settings}
    return BrokerTrials(Settings(**given))


def at(host: str, port: int, **more: Any) -> dict[str, Any]:
    plain = {
        "protocol": "mqtt",
        "use_tls": False,
        "username": None,
        "ca_cert": None,
        "verify_certificate": True,
    }
    return {**plain, "host": host, "port": port, **more}


async def test_a_test_connects_to_a_broker(broker: TestBroker) -> None:
    place = at("127.0.0.1", broker.server.port)
    right = Attempt(username=BRIDGE, password=broker.passwords[BRIDGE])
    found = await trials().run(place, right)
    assert (found.connected, found.reason_code, found.reason) == (True, 0, "Success")
    assert found.address == "127.0.0.1"
    assert 0 < found.seconds < 2
    wrong = await trials().run(place, Attempt(username=BRIDGE, password="wrong"))
    assert wrong.connected is False
    assert wrong.reason_code in (0x86, 0x87)
    assert wrong.reason in ("Bad User Name or Password", "Not authorized")
    nobody = await trials().run(place, Attempt())
    assert nobody.reason_code in (0x86, 0x87)


async def test_a_test_reaches_a_broker_through_the_api(
    rest: Rest, broker: TestBroker, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = await made(rest, host="127.0.0.1", port=broker.server.port, protocol="mqtt")
    path = f"/api/v1/brokers/{one['id']}"
    refused = await rest.ask("POST", f"{path}/test", {})
    assert refused.status == 400
    assert "no public address" in refused.body["message"]
    assert (await rest.ask("GET", path)).body["data"]["last_connected_at"] is None
    monkeypatch.setattr("iotistica.api.broker_trials.is_public", lambda address: True)
    account = {"username": BRIDGE, "password": broker.passwords[BRIDGE]}
    tested = await rest.ask("POST", f"{path}/test", account)
    assert tested.status == 200
    assert (tested.body["success"], tested.body["data"]["reason_code"]) == (True, 0)
    shown = (await rest.ask("GET", path)).body
    assert shown["data"]["last_connected_at"] is not None
    assert broker.passwords[BRIDGE] not in str(shown)


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "localhost", "10.0.0.1", "169.254.169.254", "::1", "::ffff:127.0.0.1", "0.0.0.0"],
)
async def test_a_test_reaches_nothing_that_only_this_server_reaches(host: str) -> None:
    called = trials(broker_private_addresses=False)
    with pytest.raises(BadRequest, match="no public address"):
        await called.run(at(host, 1883), Attempt())


async def test_the_platforms_own_broker_may_be_tested(unused_tcp_port: int) -> None:
    url = f"mqtt://user@127.0.0.1:{unused_tcp_port}"
    called = trials(broker_private_addresses=False, mqtt_url=url)
    found = await called.run(at("127.0.0.1", unused_tcp_port), Attempt())
    assert found.connected is False
    assert found.reason_code is None
    with pytest.raises(BadRequest, match="no public address"):
        await called.run(at("127.0.0.1", unused_tcp_port + 1), Attempt())


async def test_a_name_that_is_unknown_is_said_to_be(rest: Rest) -> None:
    found = await trials().run(at("broker.invalid", 1883), Attempt())
    assert found.connected is False
    assert found.address is None


@asynccontextmanager
async def server(answer: bytes, context: ssl.SSLContext | None = None) -> AsyncIterator[int]:
    """Something that answers so to whoever connects, and keeps the connection."""
    open_ones: list[asyncio.StreamWriter] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        open_ones.append(writer)
        writer.write(answer)

    running = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=context)
    yield running.sockets[0].getsockname()[1]
    for writer in open_ones:
        writer.transport.abort()
    running.close()
    await running.wait_closed()


@pytest.mark.parametrize(
    ("answer", "reason", "code"),
    [
        (b"\x20\x03\x00\x8a\x00", "Banned", 0x8A),
        (b"\x20\x02\x00\x01", "Unacceptable protocol version", 1),
        (b"\x20\x03\x00\xf0\x00", "reason code 0xF0", 0xF0),
        (b"SSH-2.0-x\r\n" + b"x" * 200, "the answer is no CONNACK; is it a broker?", None),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n" + b"x" * 200, "the answer is no CONNACK", None),
        (b"\x20\xff\xff\xff\xff\x7f", "the answer is no CONNACK", None),
        (b"", "no answer within 0.3 s", None),
    ],
)
async def test_whatever_answers_is_told(answer: bytes, reason: str, code: int | None) -> None:
    async with server(answer) as port:
        found = await trials(broker_test_timeout_s=0.3).run(at("127.0.0.1", port), Attempt())
    assert found.connected is False
    assert found.reason.startswith(reason)
    assert found.reason_code == code


async def test_few_tests_run_at_once() -> None:
    called = trials(broker_test_timeout_s=0.5)
    async with server(b"") as port:
        running = [asyncio.create_task(called.run(at("127.0.0.1", port), Attempt()))] + [
            asyncio.create_task(called.run(at("127.0.0.1", port), Attempt())) for _ in range(4)
        ]
        results = await asyncio.gather(*running, return_exceptions=True)
    assert sum(isinstance(one, TooMany) for one in results) == 1
    assert not (await called.run(at("127.0.0.1", port), Attempt())).connected


def certificate(directory: Path) -> Path:
    """A key and a certificate for `localhost`, in one file."""
    key, made_one, both = (directory / name for name in ("key.pem", "cert.pem", "both.pem"))
    subprocess.run(
        [
            *("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"),
            *("-nodes", "-days", "2", "-subj", "/CN=localhost"),
            *(
                "-addext",
                "subjectAltName=DNS:localhost",
                "-keyout",
                str(key),
                "-out",
                str(made_one),
            ),
        ],
        check=True,
        capture_output=True,
    )
    both.write_text(key.read_text() + made_one.read_text())
    return both


async def test_certificates_are_verified_against_the_name(tmp_path: Path) -> None:
    both = certificate(tmp_path)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(both)
    pem = (tmp_path / "cert.pem").read_text()
    async with server(b"\x20\x03\x00\x00\x00", context) as port:
        tls = at("localhost", port, protocol="mqtts", use_tls=True)
        unknown = await trials().run(tls, Attempt())
        known = await trials().run({**tls, "ca_cert": pem}, Attempt())
        other = await trials().run({**tls, "ca_cert": pem, "host": "127.0.0.1"}, Attempt())
        anyhow = await trials().run({**tls, "verify_certificate": False}, Attempt())
    assert (unknown.connected, unknown.reason_code) == (False, None)
    assert unknown.reason.startswith("TLS failed: ")
    assert known.connected is True
    assert known.tls == "TLSv1.3"
    assert other.reason.startswith("TLS failed: ")
    assert anyhow.connected is True


async def test_web_sockets_are_not_tested() -> None:
    with pytest.raises(BadRequest, match="mqtt and mqtts can be tested"):
        await trials().run(at("127.0.0.1", 80, protocol="ws"), Attempt())
