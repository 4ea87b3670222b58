"""A web process of real Robyn for the tests of the door: it tells what reached it."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import AsyncIterator
from typing import Any

import orjson
from robyn import Headers, Response, Robyn, SSEMessage, SSEResponse, StreamingResponse
from robyn.argument_parser import Config
from robyn.ws import WebSocketDisconnect

SEEN: list[dict[str, Any]] = []
EVENTS: list[str] = []
METHODS = ("GET", "POST", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS")
LONG = b'{"reading": 21.5}\n' * 4000


def _json(body: Any, status: int = 200, **headers: str) -> Response:
    fields = {"content-type": "application/json", "server": "robyn", **headers}
    return Response(
        status_code=status, headers=Headers(fields), description=orjson.dumps(body, default=str)
    )


async def answer(request: Any) -> Response:
    path = request.url.path
    if path == "/seen":
        found, SEEN[:] = list(SEEN), []
        return _json({"seen": found, "events": EVENTS, "pid": os.getpid()})
    body = request.body.encode() if isinstance(request.body, str) else bytes(request.body)
    record = {
        "method": request.method,
        "path": path,
        "query": request.query_params.to_dict(),
        "headers": request.headers.to_dict(),
        "bytes": len(body),
        "sha256": hashlib.sha256(body).hexdigest(),
    }
    SEEN.append(record)
    if path == "/die":
        os._exit(1)
    if path == "/slow":
        await asyncio.sleep(float(request.query_params.get("s", "0.3")))
    if path == "/long":
        headers = {"content-type": "application/json", "etag": '"abc"'}
        return Response(status_code=200, headers=Headers(headers), description=LONG)
    if path == "/cached":
        return Response(status_code=304, headers=Headers({"etag": '"abc"'}), description=b"")
    return _json(record)


async def stream(request: Any) -> StreamingResponse:
    async def lines() -> AsyncIterator[str]:
        for number in range(3):
            yield f'{{"line": {number}, "text": "{"x" * 2000}"}}\n'
            await asyncio.sleep(0.15)

    return StreamingResponse(
        lines(),
        headers=Headers({"content-type": "application/x-ndjson"}),
        media_type="application/x-ndjson",
    )


async def events(request: Any) -> Any:
    async def messages() -> AsyncIterator[str]:
        try:
            for number in range(1000):
                yield SSEMessage(f"event {number}")
                await asyncio.sleep(0.05)
        finally:
            EVENTS.append("events ended")

    return SSEResponse(messages())


def main() -> None:
    port, sys.argv = int(sys.argv[1]), sys.argv[:1]
    config = Config()
    config.disable_openapi = True
    config.log_level = "ERROR"
    app = Robyn(os.devnull, config=config)
    app.get("/stream")(stream)
    app.get("/events")(events)

    @app.websocket("/echo")
    async def echo(websocket: Any) -> None:
        try:
            while True:
                await websocket.send_text(await websocket.receive_text())
        except WebSocketDisconnect:
            return

    for method in METHODS:
        for path in ("/", "/*path"):
            app.add_route(method, path, answer)
    app.start(host="127.0.0.1", port=port, _check_port=False)


if __name__ == "__main__":
    main()
