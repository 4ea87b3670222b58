"""The Lua scripts of this package, which Redis runs whole or not at all."""

from __future__ import annotations

from importlib import resources


def script(name: str, *parts: str) -> str:
    """Text of `name.lua`, with the parts that it uses behind its line of flags."""
    flags, _, body = _read(name).partition("\n")
    return "\n".join((flags, *map(_read, parts), body))


def _read(name: str) -> str:
    return resources.files(__package__).joinpath(f"{name}.lua").read_text("utf-8")
