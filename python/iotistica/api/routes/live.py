"""`/ws` for whoever asks it as plain HTTP; upgrades are served by `api.live`."""

from __future__ import annotations

from iotistica.api.http import Reply, error_reply
from iotistica.api.models.live import LiveQuery
from iotistica.api.route import route


class Live:
    """Handler of what should have been an upgrade."""

    @route("GET", "/ws", needs="device:read", status=101, errors=(400, 404, 426))
    async def socket(self, query: LiveQuery) -> Reply:
        """Live values of an agent or of the tenant, by WebSocket (docs/live.md).

        Channels are subscribed to by messages. A request without an upgrade is answered 426.
        """
        return error_reply(426, "Upgrade required", "/ws speaks WebSocket (RFC 6455) only")
