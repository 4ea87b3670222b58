"""The operations listener over real HTTP."""

from __future__ import annotations

import socket

import aiohttp
import pytest
from multidict import CIMultiDictProxy

from iotistica import ops
from iotistica.errors import ConfigError


async def get(
    url: str, method: str = "GET", **headers: str
) -> tuple[int, dict, CIMultiDictProxy[str]]:
    async with (
        aiohttp.ClientSession() as client,
        client.request(method, url, headers=headers) as reply,
    ):
        is_json = reply.content_type == "application/json"
        body = await reply.json() if is_json else {"text": await reply.text()}
        return reply.status, body, reply.headers


async def test_health_has_the_body_of_the_reference() -> None:
    async with ops.serve(ops.Probe("iotistica-ingestion", details=lambda: {"lag": 3})) as url:
        status, body, _ = await get(f"{url}/health")
    assert status == 200
    assert body["status"] == "healthy"
    assert body["service"] == "iotistica-ingestion"
    assert body["lag"] == 3
    assert body["uptime"] >= 0
    assert body["timestamp"].endswith("+00:00")


async def test_ready_gives_the_reasons() -> None:
    reasons = ["PostgreSQL cannot be reached"]
    async with ops.serve(ops.Probe("x", ready=lambda: reasons)) as url:
        assert (await get(f"{url}/ready"))[:2] == (503, {"ready": False, "reasons": reasons})
        reasons.clear()
        assert (await get(f"{url}/ready"))[:2] == (200, {"ready": True, "reasons": []})


async def test_a_broken_process_is_neither_healthy_nor_ready() -> None:
    async with ops.serve(ops.Probe("x", broken=lambda: ["stuck"])) as url:
        status, body, _ = await get(f"{url}/health")
        assert (status, body["status"], body["reasons"]) == (503, "unhealthy", ["stuck"])
        assert (await get(f"{url}/ready"))[0] == 503


async def test_metrics_are_prometheus_text() -> None:
    async with ops.serve(ops.Probe("x")) as url:
        status, body, headers = await get(f"{url}/metrics")
    assert status == 200
    assert headers["Content-Type"] == "text/plain; version=0.0.4; charset=utf-8"
    assert "# TYPE iotistica_bridge_acknowledged_total counter" in body["text"]


async def test_unknown_paths_and_methods_are_answered_in_json() -> None:
    async with ops.serve(ops.Probe("x")) as url:
        assert (await get(f"{url}/nothing"))[:2] == (
            404,
            {"error": "Not found", "message": "Route GET /nothing not found"},
        )
        status, body, headers = await get(f"{url}/health", "POST")
        assert (status, body["error"], headers["Allow"]) == (405, "Method not allowed", "GET, HEAD")


async def test_a_request_id_is_echoed() -> None:
    async with ops.serve(ops.Probe("x")) as url:
        _, _, headers = await get(f"{url}/health", **{"x-request-id": "abc-1"})
        assert headers["x-request-id"] == "abc-1"
        _, _, headers = await get(f"{url}/health", **{"x-request-id": "a b"})
        assert "x-request-id" not in headers


async def test_a_taken_port_is_one_clear_sentence() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"cannot listen on 127.0.0.1:{port}: "):
            async with ops.serve(ops.Probe("x"), port=port):
                pass


async def test_a_listening_socket_can_be_handed_over() -> None:
    listener = socket.create_server(("127.0.0.1", 0))
    async with ops.serve(ops.Probe("x"), sock=listener) as url:
        assert url == f"http://127.0.0.1:{listener.getsockname()[1]}"
        assert (await get(f"{url}/health"))[0] == 200
