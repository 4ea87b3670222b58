"""Payloads as people write them down: raw bytes, hex or base64."""

from __future__ import annotations

import base64
import enum
import re
import sys
from pathlib import Path

from iotistica.errors import ConfigError

_HEX = re.compile(rb"\s*(?:0x)?[0-9a-fA-F\s:,]+")
_BASE64 = re.compile(rb"[A-Za-z0-9+/_\-\s]+={0,2}\s*")


class Input(enum.StrEnum):
    """How the payload is written down."""

    AUTO = "auto"
    RAW = "raw"
    HEX = "hex"
    BASE64 = "base64"


def read(file: str, form: Input) -> bytes:
    """Payload of a file, or of standard input for `-`. Raises `ConfigError`."""
    try:
        data = sys.stdin.buffer.read() if file == "-" else Path(file).read_bytes()
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}") from None
    return unwrap(data, form)


def unwrap(data: bytes, form: Input) -> bytes:
    """The payload that `data` writes down. Raises `ConfigError` if it is not of that form."""
    try:
        match form:
            case Input.RAW:
                return data
            case Input.HEX:
                return bytes.fromhex(re.sub(rb"^\s*0x|[\s:,]", b"", data).decode("ascii"))
            case Input.BASE64:
                text = b"".join(data.split()).rstrip(b"=").translate(bytes.maketrans(b"-_", b"+/"))
                return base64.b64decode(text + b"=" * (-len(text) % 4), validate=True)
            case Input.AUTO:
                return _guess(data)
    except ValueError:
        raise ConfigError(f"the input is not {form}") from None


def _guess(data: bytes) -> bytes:
    """Hex and base64 are told from a payload by what they decode to."""
    for form, pattern in ((Input.HEX, _HEX), (Input.BASE64, _BASE64)):
        if pattern.fullmatch(data):
            try:
                payload = unwrap(data, form)
            except ConfigError:
                continue
            if _looks_like_telemetry(payload):
                return payload
    return data


def _looks_like_telemetry(payload: bytes) -> bool:
    """Deflated, a MessagePack map or array, or a JSON object or array."""
    if payload[:2] in (b"\x78\x01", b"\x78\x5e", b"\x78\x9c", b"\x78\xda"):
        return True
    first = payload[0] if payload else 0
    return first in b"{[" or 0x80 <= first <= 0x9F or 0xDC <= first <= 0xDF
