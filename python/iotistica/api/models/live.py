"""Models of the request that opens a WebSocket."""

from __future__ import annotations

from typing import Literal
from uuid import UUID

import msgspec


class LiveQuery(msgspec.Struct, frozen=True, rename="camel"):
    """What the socket is about, and who asks where no header can say so."""

    device_uuid: UUID | None = None
    type: Literal["global"] | None = None
    token: str | None = None
