"""Settings of live values: a part of `Settings`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings

_MIB = 1024 * 1024


class LiveSettings(BaseSettings):
    """What one web process allows those who listen by WebSocket."""

    live_sockets: Annotated[int, Field(ge=1, le=100_000)] = 2000
    # Of one tenant, so that none takes all of them
    live_sockets_per_tenant: Annotated[int, Field(ge=1, le=100_000)] = 500
    live_message_bytes: Annotated[int, Field(ge=1024, le=16 * _MIB)] = 1 * _MIB
    live_messages_per_minute: Annotated[int, Field(ge=1)] = 1000
    # What waits for a client that reads slowly, before it is closed
    live_queue_bytes: Annotated[int, Field(ge=1024)] = 1 * _MIB
    live_write_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    live_ping_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    # How often it is asked whether a caller still may listen
    live_recheck_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
