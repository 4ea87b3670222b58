"""Entries of the log stream, and the lines in them (reference sections 3 and 4.5). Pure."""

from __future__ import annotations

import base64
import binascii
import gzip
import hashlib
import zlib
from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import brotli
import orjson

from iotistica.api.families.moments import epoch_ms, id_ms, moment
from iotistica.errors import BadRequest, TooLarge
from iotistica.store.logs import Line

ENCODINGS = ("identity", "gzip", "deflate", "br")
MOST_INFLATED_BYTES = 64 << 20
_LINES = ("application/x-ndjson", "application/ndjson", "text/plain")
_MOST_NAME = 255
_MOST_MESSAGE = 64 * 1024
_LEVEL_BYTES = 32
_KEPT = {
    *("serviceName", "source", "timestamp", "message", "level"),
    *("isSystem", "isStderr", "isStdErr", "meta", "context"),
    *("containerName", "stream", "msgId"),
}


def entry(
    *,
    agent: str,
    batch: str,
    body: bytes,
    encoding: str = "identity",
    content_type: str = "application/json",
    source: str = "",
    received_ms: int,
) -> list[str | bytes | int]:
    """Fields of a stream entry, as the reference writes them; and when it was received."""
    return [
        *("compressed", "1", "deviceUuid", agent, "batchId", batch, "encoding", encoding),
        *("contentType", content_type, "payload_b64", base64.b64encode(body)),
        *("payloadSize", len(body), "source", source, "receivedMs", received_ms),
    ]


def lines_of(fields: Sequence[bytes], entry_ms: int, *, oldest_ms: int) -> list[Line]:
    """The lines of an entry. Raises `BadRequest`, `TooLarge`.

    A line without a time has that in its `msgId`, else that of its reception. The latter has also
    one that claims to be older than `oldest_ms` or from tomorrow: its clock is wrong, and `meta`
    keeps what it said.
    """
    named = dict(zip(fields[::2], fields[1::2], strict=False))
    agent = named.get(b"deviceUuid", b"").decode(errors="replace").lower()
    received_ms = int(named.get(b"receivedMs", b"") or entry_ms)
    try:
        body = base64.b64decode(named[b"payload_b64"], validate=True)
    except (KeyError, binascii.Error) as error:
        raise BadRequest(f"the entry has no payload in base64: {error}") from None
    encoding = named.get(b"encoding", b"identity").decode(errors="replace")
    content_type = named.get(b"contentType", b"").decode(errors="replace")
    documents = parse(inflate(body, encoding), content_type)
    limits = (oldest_ms, received_ms + 86_400_000)
    found = [_line(agent, one, received_ms, limits) for one in documents]
    return _numbered(line for line in found if line is not None)


def inflate(body: bytes, encoding: str, most_bytes: int = MOST_INFLATED_BYTES) -> bytes:
    """The body as it was before `Content-Encoding`. Raises `BadRequest`, `TooLarge`."""
    try:
        match encoding.strip().lower():
            case "" | "identity":
                inflated = body
            case "gzip" | "x-gzip":
                inflated = _bounded(zlib.decompressobj(16 + zlib.MAX_WBITS), body, most_bytes)
            case "deflate":
                inflated = _deflated(body, most_bytes)
            case "br":
                reader = brotli.Decompressor()
                inflated = reader.process(body, output_buffer_limit=most_bytes + 1)
                if len(inflated) <= most_bytes and not reader.is_finished():
                    raise BadRequest("the body is not complete")
            case other:
                allowed = ", ".join(ENCODINGS)
                rule = f"Content-Encoding {other[:32]!r} is not known; allowed: {allowed}"
                raise BadRequest(rule)
    except (zlib.error, gzip.BadGzipFile, brotli.error) as error:
        raise BadRequest(f"the body is not what its Content-Encoding says: {error}") from None
    if len(inflated) > most_bytes:
        raise TooLarge(f"the body inflates to more than {most_bytes} bytes")
    return inflated


def parse(body: bytes, content_type: str) -> list[Any]:
    """JSON documents: one a line, an array of them, or a single one. Raises `BadRequest`."""
    if content_type.partition(";")[0].strip().lower() in _LINES:
        found = []
        for number, line in enumerate(body.split(b"\n"), 1):
            if line.strip():
                found.append(_json(line, f"line {number}"))
        return found
    value = _json(body, "the body")
    if isinstance(value, dict) and isinstance(value.get("logs"), list):
        value = value["logs"]
    return value if isinstance(value, list) else [value]


def _json(text: bytes, what: str) -> Any:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise BadRequest(f"{what} is not JSON: {error}") from None


def _deflated(body: bytes, most_bytes: int) -> bytes:
    """Deflate is zlib's form by its definition, and bare in the wild (RFC 9110 section 8.4.1.2)."""
    try:
        return _bounded(zlib.decompressobj(), body, most_bytes)
    except zlib.error:
        return _bounded(zlib.decompressobj(-zlib.MAX_WBITS), body, most_bytes)


def _bounded(reader: Any, body: bytes, most_bytes: int) -> bytes:
    inflated: bytes = reader.decompress(body, most_bytes + 1)
    if len(inflated) <= most_bytes and not reader.eof:
        raise BadRequest("the body is not complete")
    return inflated


def _line(agent: str, value: Any, received_ms: int, limits: tuple[int, int]) -> Line | None:
    """A line; None for one without a message."""
    if isinstance(value, str):
        value = {"message": value}
    if not isinstance(value, dict):
        raise BadRequest(f"a line is a {type(value).__name__}; an object or a string is expected")
    message = value.get("message")
    if message is None or message == "":
        return None
    text = message if isinstance(message, str) else orjson.dumps(message).decode()
    meta = {**_mapping(value.get("context")), **_mapping(value.get("meta"))}
    meta |= {name: value[name] for name in value if name not in _KEPT}
    stamp_ms = epoch_ms(value.get("timestamp"))
    # The time of reception is another one when the broker sends a message again.
    made_ms = id_ms(value) if stamp_ms is None else stamp_ms
    if made_ms is None or not limits[0] <= made_ms <= limits[1]:
        if stamp_ms is not None:
            meta["timestamp"] = value["timestamp"]
        made_ms = received_ms
    is_stderr = _flag(value, "isStderr", "isStdErr") or value.get("stream") == "stderr"
    return Line(
        agent=agent,
        time=moment(made_ms),
        service=_clean(_service(value))[:_MOST_NAME],
        level=_clean(str(value.get("level") or "info")).lower()[:_LEVEL_BYTES],
        message=_clean(text)[:_MOST_MESSAGE],
        is_stderr=is_stderr,
        is_system=_flag(value, "isSystem"),
        meta=meta,
    )


def _service(value: dict[str, Any]) -> str:
    source = value.get("source")
    named = source.get("name") if isinstance(source, dict) else source
    return str(value.get("serviceName") or value.get("containerName") or named or "")


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _flag(value: dict[str, Any], *names: str) -> bool:
    return any(value.get(name) is True for name in names)


def _clean(text: str) -> str:
    """Without NUL, which PostgreSQL cannot hold."""
    return text.replace("\0", "")


def _numbered(lines: Iterable[Line]) -> list[Line]:
    """With digests that tell equal lines of one entry apart."""
    seen: Counter[tuple[datetime, bytes]] = Counter()
    found = []
    for line in lines:
        text = f"{line.service}\0{line.level}\0{line.is_stderr}\0{line.message}".encode()
        seen[line.time, text] += 1
        digest = hashlib.blake2b(text + b"\0%d" % seen[line.time, text], digest_size=8).digest()
        found.append(line.numbered(int.from_bytes(digest, signed=True)))
    return found
