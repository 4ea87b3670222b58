"""What the door does with requests that are well: every promise of docs/front-door.md."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import os
import signal
import ssl
import subprocess
import zlib
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import pytest_asyncio
from tests.integration import door_web
from tests.integration.door_rig import Rig, parse, request, running, stop, talk

pytestmark = pytest.mark.asyncio(loop_scope="module")


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def rig() -> AsyncIterator[Rig]:
    async with running(cors_origins="https://app.example,https://b.example") as rig:
        yield rig


# Requests


async def test_a_request_reaches_the_handler_as_it_was_meant(rig: Rig) -> None:
    await rig.seen()
    await rig.get("/a%20b/%2F?x=1&x=%20", "Authorization: Bearer t", "X-Own: 1", method="PUT")
    [seen] = await rig.seen()
    assert (seen["method"], seen["path"]) == ("PUT", "/a%20b/%2F")
    assert seen["query"] == {"x": ["1", "%20"]}
    headers = seen["headers"]
    assert (headers["authorization"], headers["x-own"], headers["host"]) == ("Bearer t", "1", "x")
    assert "connection" not in headers


async def test_hop_by_hop_fields_stay_here(rig: Rig) -> None:
    await rig.seen()
    fields = ("Connection: X-Own, close", "X-Own: 1", "TE: trailers", "Keep-Alive: timeout=5")
    await rig.get(
        "/a", *fields, "Proxy-Authorization: Basic x", "Trailer: a", "Proxy-Connection: x"
    )
    [seen] = await rig.seen()
    names = {"x-own", "te", "keep-alive", "proxy-authorization", "trailer", "proxy-connection"}
    assert not names & set(seen["headers"])


async def test_the_url_of_the_target_is_the_host(rig: Rig) -> None:
    await rig.seen()
    await rig.get("http://other.example:8080/a?b=c")
    [seen] = await rig.seen()
    assert (seen["path"], seen["headers"]["host"]) == ("/a", "other.example:8080")


async def test_chunks_become_a_length(rig: Rig) -> None:
    sent = request("/a", "Transfer-Encoding: chunked", method="POST")
    sent += b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nTrailer: t\r\n\r\n"
    answers, _ = await talk(rig.port, [sent])
    assert answers[0].json["sha256"] == hashlib.sha256(b"abcde").hexdigest()
    headers = answers[0].json["headers"]
    assert headers["content-length"] == "5"
    assert not {"transfer-encoding", "trailer"} & set(headers)


@pytest.mark.parametrize(
    ("name", "encode"),
    [("gzip", gzip.compress), ("X-GZIP", gzip.compress), ("deflate", zlib.compress)],
)
async def test_encoded_bodies_arrive_plain(rig: Rig, name: str, encode: object) -> None:
    assert callable(encode)
    plain = b"temperature " * 4000
    fields = (f"Content-Encoding: {name}", "Content-Type: text/plain")
    sent = request("/a", *fields, method="POST", body=encode(plain))
    answers, _ = await talk(rig.port, [sent])
    record = answers[0].json
    assert record["sha256"] == hashlib.sha256(plain).hexdigest()
    assert record["headers"]["content-length"] == str(len(plain))
    assert "content-encoding" not in record["headers"]


async def test_brotli_bodies_arrive_plain(rig: Rig) -> None:
    body = b"\x0b\x05\x80hello world\x03"
    sent = request("/a", "Content-Encoding: br", method="POST", body=body)
    answers, _ = await talk(rig.port, [sent])
    assert answers[0].json["sha256"] == hashlib.sha256(b"hello world").hexdigest()


async def test_a_body_of_exactly_the_limit_passes(rig: Rig) -> None:
    body = os.urandom(64 * 1024)
    answers, _ = await talk(rig.port, [request("/a", method="POST", body=body)])
    assert answers[0].json["sha256"] == hashlib.sha256(body).hexdigest()


async def test_continue_is_said_before_the_body(rig: Rig) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    fields = "Expect: 100-continue\r\nContent-Length: 3\r\nConnection: close\r\n\r\n"
    writer.write(f"POST /a HTTP/1.1\r\nHost: x\r\n{fields}".encode())
    assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
    writer.write(b"abc")
    answers, _ = parse(await reader.read(-1))
    writer.close()
    assert answers[0].json["bytes"] == 3
    assert "expect" not in answers[0].json["headers"]


async def test_head_options_and_unknown_paths_are_the_web_processs_business(rig: Rig) -> None:
    await rig.seen()
    for method in ("HEAD", "OPTIONS", "DELETE", "PATCH"):
        sent = request("/a", method=method)
        answers, rest = await talk(rig.port, [sent], to_head=method == "HEAD")
        assert (answers[0].status, rest) == (200, b"")
        assert (await rig.seen())[0]["method"] == method


async def test_a_question_about_the_whole_server_is_answered(rig: Rig) -> None:
    await rig.seen()
    assert (await rig.get("*", method="OPTIONS")).status == 204
    assert await rig.seen() == []


# Who is who


async def test_a_client_cannot_say_where_it_comes_from(rig: Rig) -> None:
    await rig.seen()
    false = ("X-Forwarded-For: 6.6.6.6", "X-Real-IP: 6.6.6.6", "Forwarded: for=6.6.6.6")
    await rig.get("/a", *false, "X-Forwarded-Proto: https", "X-Forwarded-Host: evil")
    [seen] = await rig.seen()
    headers = seen["headers"]
    assert headers["x-forwarded-for"] == headers["x-real-ip"] == "127.0.0.1"
    assert (headers["x-forwarded-proto"], headers["x-forwarded-host"]) == ("http", "x")
    assert "forwarded" not in headers


async def test_request_ids_are_kept_or_made(rig: Rig) -> None:
    answer = await rig.get("/a", "X-Request-ID: mine-1")
    assert answer.headers["x-request-id"] == "mine-1"
    assert answer.json["headers"]["x-request-id"] == "mine-1"
    first, second = await rig.get("/a"), await rig.get("/a", "X-Request-ID: two words")
    made = [answer.headers["x-request-id"] for answer in (first, second)]
    assert made[0] != made[1]
    assert all(len(one) == 16 for one in made)
    assert first.json["headers"]["x-request-id"] == made[0]


async def test_a_trusted_proxy_says_who_the_client_is() -> None:
    limits = {"door_address_requests_per_s": 0.001, "door_address_burst_requests": 2.0}
    async with running(door_trusted_proxies="127.0.0.0/8, ::1", **limits) as rig:
        fields = ("X-Forwarded-For: 6.6.6.6, 9.9.9.9", "X-Forwarded-Proto: https")
        answer = await rig.get("/a", *fields)
        headers = answer.json["headers"]
        assert headers["x-forwarded-for"] == "6.6.6.6, 9.9.9.9, 127.0.0.1"
        assert (headers["x-real-ip"], headers["x-forwarded-proto"]) == ("9.9.9.9", "https")
        # The limit is the client's, not the proxy's.
        assert (await rig.get("/a", *fields)).status == 200
        limited = await rig.get("/a", *fields)
        assert (limited.status, limited.headers["retry-after"]) == (429, "1")
        assert limited.json["error"] == "Too many requests"
        assert (await rig.get("/a", "X-Forwarded-For: 9.9.9.8")).status == 200
        assert (await rig.metrics())['refused_total{reason="request_rate"}'] == 1


# Answers


async def test_answers_get_what_they_lack_and_lose_who_made_them(rig: Rig) -> None:
    headers = (await rig.get("/a")).headers
    assert headers["x-content-type-options"] == "nosniff"
    assert headers["x-frame-options"] == "DENY"
    assert headers["referrer-policy"] == "no-referrer"
    assert "strict-transport-security" not in headers
    assert "server" not in headers


async def test_long_text_is_compressed_for_those_who_want_it(rig: Rig) -> None:
    plain = await rig.get("/long")
    assert plain.body == door_web.LONG
    assert (plain.headers["etag"], plain.headers["content-length"]) == ('"abc"', "72000")
    assert "Accept-Encoding" in plain.headers["vary"]
    packed = await rig.get("/long", "Accept-Encoding: br, gzip")
    assert gzip.decompress(packed.body) == door_web.LONG
    assert len(packed.body) < 5000
    assert (packed.headers["content-encoding"], packed.headers["etag"]) == ("gzip", 'W/"abc"')
    assert "Accept-Encoding" in packed.headers["vary"]
    refused = await rig.get("/long", "Accept-Encoding: gzip;q=0")
    assert refused.body == door_web.LONG
    short = await rig.get("/a", "Accept-Encoding: gzip")
    assert "content-encoding" not in short.headers


async def test_an_old_client_gets_a_length_or_a_close(rig: Rig) -> None:
    old = b"GET /long HTTP/1.0\r\nAccept-Encoding: gzip\r\n\r\n"
    answers, _ = await talk(rig.port, [old])
    assert answers[0].body == door_web.LONG
    answers, _ = await talk(rig.port, [b"GET /stream HTTP/1.0\r\n\r\n"])
    assert answers[0].body.count(b"\n") == 3
    assert "transfer-encoding" not in answers[0].headers


async def test_a_304_has_no_body(rig: Rig) -> None:
    answers, rest = await talk(rig.port, [request("/cached", "Accept-Encoding: gzip")])
    assert (answers[0].status, answers[0].headers["etag"], rest) == (304, '"abc"', b"")


async def test_a_stream_is_passed_on_as_it_comes(rig: Rig) -> None:
    for fields in ((), ("Accept-Encoding: gzip",)):
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(request("/stream", *fields))
        loop = asyncio.get_running_loop()
        await reader.readuntil(b"\r\n\r\n")
        arrived = []
        unpack = zlib.decompressobj(wbits=31)
        text = b""
        while text.count(b"\n") < 3:
            size = int((await reader.readuntil(b"\r\n")).strip(), 16)
            piece = (await reader.readexactly(size + 2))[:-2]
            text += unpack.decompress(piece) if fields else piece
            arrived.append(loop.time())
        writer.close()
        assert arrived[-1] - arrived[0] > 0.2


async def test_events_come_at_once_and_end_when_the_client_goes(rig: Rig) -> None:
    before = (await rig.web_state())["events"].count("events ended")
    reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
    writer.write(request("/events", "Accept-Encoding: gzip", "Accept: text/event-stream"))
    head = await reader.readuntil(b"\r\n\r\n")
    assert b"text/event-stream" in head
    assert b"gzip" not in head
    assert b"event 0" in await reader.readuntil(b"event 0")
    writer.transport.abort()
    async with asyncio.timeout(5):
        while (await rig.web_state())["events"].count("events ended") == before:
            await asyncio.sleep(0.02)


async def test_a_websocket_passes_both_ways(rig: Rig) -> None:
    async with (
        aiohttp.ClientSession() as client,
        client.ws_connect(f"http://127.0.0.1:{rig.port}/echo") as websocket,
    ):
        for text in ("one", "x" * 100_000, "three"):
            await websocket.send_str(text)
            assert (await websocket.receive(5)).data == text
        assert (await rig.metrics())["tunnels"] == 1
    async with asyncio.timeout(5):
        while (await rig.metrics())["tunnels"]:
            await asyncio.sleep(0.02)


async def test_a_websocket_that_no_handler_takes_ends_in_time(rig: Rig) -> None:
    # Robyn waits for more of such a request, for ever.
    fields = ("Upgrade: websocket", "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==")
    lines = ("GET /nowhere HTTP/1.1", "Host: x", "Connection: Upgrade, close", *fields)
    answers, _ = await talk(rig.port, ["\r\n".join(lines).encode() + b"\r\n\r\n"])
    assert answers[0].status == 504


async def test_a_client_that_closed_its_side_gets_its_answer(rig: Rig) -> None:
    answers, _ = await talk(rig.port, [request("/slow?s=0.2")], end=True)
    assert answers[0].status == 200


async def test_a_handler_that_takes_too_long_is_a_504(rig: Rig) -> None:
    answer = await rig.get("/slow?s=4")
    assert (answer.status, answer.json["error"]) == (504, "Gateway timeout")


# CORS


async def test_origins_on_the_list_may_read(rig: Rig) -> None:
    await rig.seen()
    asked = ("Access-Control-Request-Method: PUT", "Access-Control-Request-Headers: if-match")
    preflight = await rig.get("/a", "Origin: https://b.example", *asked, method="OPTIONS")
    assert preflight.status == 204
    assert preflight.headers["access-control-allow-origin"] == "https://b.example"
    assert preflight.headers["access-control-allow-headers"] == "if-match"
    assert "PUT" in preflight.headers["access-control-allow-methods"]
    assert preflight.headers["vary"] == "Origin"
    assert await rig.seen() == []
    answer = await rig.get("/a", "Origin: https://b.example")
    assert answer.headers["access-control-allow-origin"] == "https://b.example"
    assert answer.headers["access-control-allow-credentials"] == "true"
    error = await rig.get("/a", "Origin: https://b.example", "Content-Encoding: zstd")
    assert error.status == 415


async def test_other_origins_may_not(rig: Rig) -> None:
    asked = ("Origin: https://evil.example", "Access-Control-Request-Method: PUT")
    preflight = await rig.get("/a", *asked, method="OPTIONS")
    assert (preflight.status, preflight.json["error"]) == (403, "Forbidden")
    answer = await rig.get("/a", "Origin: https://evil.example")
    assert "access-control-allow-origin" not in answer.headers
    assert "Origin" in answer.headers["vary"]


# Limits


async def test_connections_of_one_address_are_bounded() -> None:
    async with running(door_address_connections=3) as rig:
        writers = [(await asyncio.open_connection("127.0.0.1", rig.port))[1] for _ in range(3)]
        async with asyncio.timeout(5):
            while (await rig.metrics())["connections"] < 3:
                await asyncio.sleep(0.01)
        answers, _ = await talk(rig.port, [request("/a")])
        assert answers[0].status == 429
        writers[0].close()
        async with asyncio.timeout(5):
            while (await rig.metrics())["connections"] > 2:
                await asyncio.sleep(0.01)
        assert (await rig.get("/a")).status == 200
        for writer in writers:
            writer.close()


async def test_connections_are_bounded() -> None:
    async with running(door_connections=2) as rig:
        writers = [(await asyncio.open_connection("127.0.0.1", rig.port))[1] for _ in range(2)]
        async with asyncio.timeout(5):
            while (await rig.metrics())["connections"] < 2:
                await asyncio.sleep(0.01)
        answers, _ = await talk(rig.port, [request("/a")])
        assert (answers[0].status, answers[0].headers["retry-after"]) == (503, "1")
        for writer in writers:
            writer.close()


async def test_bodies_together_are_bounded() -> None:
    room = 1024 * 1024
    async with running(door_bodies_bytes=room, door_body_bytes=room, door_body_idle_s=5.0) as rig:
        head = b"POST /a HTTP/1.1\r\nHost: x\r\nContent-Length: 600000\r\n\r\n"
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(head + b"a" * 500_000)
        async with asyncio.timeout(5):
            while (await rig.metrics())["body_bytes"] < 500_000:
                await asyncio.sleep(0.01)
        answers, _ = await talk(rig.port, [head + b"a" * 600_000])
        assert (answers[0].status, answers[0].json["error"]) == (503, "Service unavailable")
        writer.close()
        async with asyncio.timeout(5):
            while (await rig.metrics())["body_bytes"]:
                await asyncio.sleep(0.01)
        sent = request("/a", method="POST", body=b"a" * 500_000)
        answers, _ = await talk(rig.port, [sent])
        assert answers[0].json["bytes"] == 500_000


async def test_a_client_that_takes_no_answer_is_given_up() -> None:
    async with running(door_write_s=0.3) as rig:
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port, limit=1)
        keep = b"GET /long HTTP/1.1\r\nHost: x\r\n\r\n"
        writer.write(keep * 200)
        async with asyncio.timeout(10):
            while (await rig.metrics())["accepted_total"] < 1:
                await asyncio.sleep(0.01)
            while (await rig.metrics())["connections"]:
                await asyncio.sleep(0.02)
        writer.transport.abort()


# Web processes that die


async def test_requests_go_to_the_processes_that_answer() -> None:
    async with running(webs=2) as rig:
        for _ in range(4):
            await rig.get("/a")
        assert [len(await rig.seen(number)) for number in (0, 1)] == [2, 2]
        stop(rig.webs[0], signal.SIGKILL)
        statuses = [(await rig.get("/a")).status for _ in range(20)]
        assert statuses == [200] * 20
        assert len(await rig.seen(1)) == 20
        stop(rig.webs[1], signal.SIGKILL)
        answer = await rig.get("/a")
        assert (answer.status, answer.headers["retry-after"]) == (503, "1")
        assert set(answer.json) == {"error", "message"}
        rig.webs[0] = rig.start_web(0)
        async with asyncio.timeout(20):
            while (await rig.get("/a")).status != 200:
                await asyncio.sleep(0.02)


async def test_what_may_be_repeated_is_tried_once_more() -> None:
    async with running(webs=2) as rig:
        # The handler of /die ends its process: the GET ends both, one after the other.
        answer = await rig.get("/die")
        assert answer.status == 502
        assert [web.wait(5) for web in rig.webs] == [1, 1]
        metrics = await rig.metrics()
        assert metrics["upstream_retries_total"] == 1


async def test_what_may_not_be_repeated_is_not() -> None:
    async with running(webs=2) as rig:
        answers, _ = await talk(rig.port, [request("/die", method="POST", body=b"a")])
        assert (answers[0].status, answers[0].json["error"]) == (502, "Bad gateway")
        async with asyncio.timeout(5):
            while [web.poll() for web in rig.webs].count(None) == 2:
                await asyncio.sleep(0.01)
        assert sorted(str(web.poll()) for web in rig.webs) == ["1", "None"]


async def test_a_stream_that_breaks_is_cut_not_ended(rig: Rig) -> None:
    async with running() as rig:
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(request("/events"))
        await reader.readuntil(b"event 0")
        stop(rig.webs[0], signal.SIGKILL)
        rest = await reader.read(-1)
        writer.close()
        assert not rest.endswith(b"0\r\n\r\n")


# Stopping


async def test_stopping_finishes_what_is_in_flight() -> None:
    async with running() as rig:
        assert rig.door is not None
        idle_reader, idle = await asyncio.open_connection("127.0.0.1", rig.port)
        idle.write(b"GET /a HTTP/1.1\r\nHost: x\r\n\r\n")
        await idle_reader.readuntil(b"}")
        events_reader, events = await asyncio.open_connection("127.0.0.1", rig.port)
        events.write(request("/events"))
        await events_reader.readuntil(b"event 0")
        reader, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(b"GET /slow?s=0.5 HTTP/1.1\r\nHost: x\r\n\r\n")
        async with asyncio.timeout(5):
            while not any(one["path"] == "/slow" for one in await rig.seen()):
                await asyncio.sleep(0.01)
        rig.door.send_signal(signal.SIGTERM)
        answers, _ = parse(await reader.read(-1))
        assert answers[0].status == 200
        assert await events_reader.read(-1) is not None
        assert b"" in (await idle_reader.read(-1))
        assert await asyncio.to_thread(rig.door.wait, 2) == 0
        for one in (idle, events, writer):
            one.close()


async def test_stopping_does_not_wait_for_ever() -> None:
    async with running(stop_grace_s=0.3) as rig:
        assert rig.door is not None
        _, writer = await asyncio.open_connection("127.0.0.1", rig.port)
        writer.write(request("/slow?s=1.9"))
        async with asyncio.timeout(5):
            while not await rig.seen():
                await asyncio.sleep(0.01)
        rig.door.send_signal(signal.SIGTERM)
        assert await asyncio.to_thread(rig.door.wait, 1.5) == 0
        writer.close()


# Threads, TLS


async def test_several_threads_are_one_door() -> None:
    async with running(door_threads=3, door_answer_s=20.0) as rig:
        async with aiohttp.ClientSession() as client:

            async def ask(number: int) -> int:
                async with client.get(f"http://127.0.0.1:{rig.port}/{number}") as reply:
                    return reply.status

            statuses = await asyncio.gather(*(ask(number) for number in range(200)))
        assert statuses == [200] * 200
        assert (await rig.metrics())['requests_total{class="2xx"}'] == 200


def make_certificate(directory: Path, name: str) -> tuple[Path, Path]:
    certificate, key = directory / "cert.pem", directory / "key.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += [
        "-nodes",
        "-days",
        "2",
        "-subj",
        f"/CN={name}",
        "-addext",
        f"subjectAltName=DNS:{name}",
    ]
    command += ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key


async def test_tls_is_spoken_and_certificates_are_read_again(tmp_path: Path) -> None:
    certificate, key = make_certificate(tmp_path, "one.example")
    files = {"door_tls_certificate_file": certificate, "door_tls_key_file": key}
    async with running(**files) as rig:
        assert rig.door is not None

        async def get(name: str, **options: ssl.TLSVersion) -> list[bytes]:
            context = ssl.create_default_context(cafile=str(certificate))
            for option, value in options.items():
                setattr(context, option, value)
            reader, writer = await asyncio.open_connection(
                "127.0.0.1", rig.port, ssl=context, server_hostname=name
            )
            writer.write(request("/long", "Accept-Encoding: gzip"))
            try:
                return (await reader.read(-1)).split(b"\r\n\r\n", 1)
            finally:
                writer.close()

        head, _ = await get("one.example")
        assert head.startswith(b"HTTP/1.1 200")
        assert b"Strict-Transport-Security: max-age=31536000" in head
        assert (await rig.seen())[0]["headers"]["x-forwarded-proto"] == "https"
        await get("one.example", maximum_version=ssl.TLSVersion.TLSv1_2)
        answers, rest = await talk(rig.port, [request("/a")])
        assert answers == []
        assert b"HTTP" not in rest
        make_certificate(tmp_path, "two.example")
        rig.door.send_signal(signal.SIGHUP)
        async with asyncio.timeout(5):
            while True:
                try:
                    await get("two.example")
                    break
                except ssl.SSLError:
                    await asyncio.sleep(0.02)
        certificate.write_text("rubbish")
        rig.door.send_signal(signal.SIGHUP)
        assert rig.door.poll() is None


async def test_an_unreadable_certificate_stops_the_start(tmp_path: Path) -> None:
    rubbish = tmp_path / "cert.pem"
    rubbish.write_text("rubbish")
    files = {"door_tls_certificate_file": rubbish, "door_tls_key_file": rubbish}
    async with running() as rig:
        rig.settings = rig.settings.model_copy(update=files)
        second = rig.start_door()
        assert await asyncio.to_thread(second.wait, 10) == 2
        assert second.stdin is not None
        second.stdin.close()
