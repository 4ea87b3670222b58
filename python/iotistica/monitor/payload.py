"""What a payload is, by its first bytes, and payloads written as text. Pure.

The rules are those of the decoder (reference section 2); `iotistica decode` and the tool for single
payloads ask the decoder itself.
"""

from __future__ import annotations

import base64
import binascii
import re
import zlib

from iotistica.errors import BadRequest

_DEFLATED = re.compile(rb"\x78[\x01\x5e\x9c\xda]", re.DOTALL)
_HEX = re.compile(r"(?:0x)?((?:[0-9a-fA-F]{2}\s?)+)")
_SPACE = re.compile(r"\s+")


def kind(payload: bytes) -> str:
    """`json`, `msgpack`, `text`, `binary` or `empty`; `deflate+…` where that is within."""
    if _DEFLATED.match(payload):
        try:
            # One byte is all that is asked for, so no payload is too large for this.
            return f"deflate+{_plain(zlib.decompressobj().decompress(payload[:1024], 1))}"
        except zlib.error:
            return "binary"
    return _plain(payload)


def _plain(payload: bytes) -> str:
    if not payload:
        return "empty"
    first = payload[0]
    if 0x80 <= first <= 0x9F or 0xDC <= first <= 0xDF:
        return "msgpack"
    start = payload[:64].lstrip()[:1]
    if start in (b"{", b"["):
        return "json"
    return "text" if payload[:64].isascii() and payload[:64].decode().isprintable() else "binary"


def written(text: str, encoding: str) -> bytes:
    """Bytes of `base64` (either alphabet), `hex` or `text`; `auto` is hex, else base64.

    Raises `BadRequest`.
    """
    match encoding:
        case "text":
            return text.encode()
        case "hex":
            return _hex(text)
        case "base64":
            return _base64(text)
        case _:
            return _hex(text) if _HEX.fullmatch(text.strip()) else _base64(text)


def _hex(text: str) -> bytes:
    match = _HEX.fullmatch(text.strip())
    if match is None:
        raise BadRequest(f"field payload is {text[:32]!r}; pairs of hex digits are expected")
    return bytes.fromhex(match[1])


def _base64(text: str) -> bytes:
    plain = _SPACE.sub("", text).translate(str.maketrans("-_", "+/")).rstrip("=")
    try:
        return base64.b64decode(plain + "=" * (-len(plain) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise BadRequest(f"field payload is {text[:32]!r}; base64 is expected") from None
