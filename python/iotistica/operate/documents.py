"""JSON documents that operators hand in."""

from __future__ import annotations

from typing import TypeVar

import msgspec

from iotistica.errors import ConfigError
from iotistica.written import Input
from iotistica.written import read as read_bytes

T = TypeVar("T")


def read(file: str, kind: type[T]) -> T:
    """The document of a file, or of standard input for `-`. Raises `ConfigError`."""
    data = read_bytes(file, Input.RAW)
    try:
        return msgspec.json.decode(data, type=kind)
    except msgspec.DecodeError as error:
        raise ConfigError(f"{file}: {error}") from None
