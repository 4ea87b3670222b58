"""A version of a target state, and the bytes that an agent gets of it (reference section 5.3)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import msgspec

from iotistica.instants import iso

Json = Any
"""What JSON can say: None, bool, int, float, str, list, dict."""

_encode = msgspec.json.Encoder(order="deterministic").encode


@dataclass(frozen=True, slots=True)
class Content:
    """What a target state says."""

    apps: Mapping[str, Json]
    """By their ids."""
    config: Mapping[str, Json]


EMPTY = Content({}, {})


@dataclass(frozen=True, slots=True)
class Served:
    """An answer to a poll, made when somebody wrote it."""

    version: int
    etag: str
    body: bytes


def etag_of(version: int, content: Content) -> str:
    """Opaque to everybody; of the form of the reference's: 40 hex digits."""
    whole = _encode([version, content.apps, content.config])
    return hashlib.blake2b(whole, digest_size=20).hexdigest()


def head(agent: UUID | str) -> bytes:
    """The part of a body that differs between agents of one default: all before `tail`."""
    return b'{"%s":' % str(agent).encode()


def tail(content: Content, *, version: int, deployed_at: datetime | None) -> bytes:
    """The rest of a body."""
    shown = {
        "apps": content.apps,
        "config": content.config,
        "version": version,
        "needs_deployment": False,
        "last_deployed_at": None if deployed_at is None else iso(deployed_at),
    }
    return _encode(shown) + b"}"


NOTHING_TAIL = b'{"apps":{},"config":{}}}'
"""Where neither the agent nor its tenant has a target state (reference section 5.3)."""
NOTHING_ETAG = etag_of(0, EMPTY)


def serve(
    agent: UUID | str, content: Content, *, etag: str, version: int, deployed_at: datetime
) -> Served:
    """The answer to polls of an agent."""
    body = head(agent) + tail(content, version=version, deployed_at=deployed_at)
    return Served(version, etag, body)
