"""`/`, `/health`, `/ready`, `/metrics`: the Cloud API about itself and its processes."""

from __future__ import annotations

from iotistica import __doc__ as about
from iotistica import _native, ops
from iotistica.api.http import Reply, Request, Route, json_reply
from iotistica.api.peers import Peers


class System:
    """Handlers of the unauthenticated routes."""

    def __init__(self, probe: ops.Probe, peers: Peers) -> None:
        self._probe = probe
        self._peers = peers

    def routes(self) -> list[Route]:
        """What this part of the API answers."""
        return [
            Route("GET", "/", self.root),
            Route("GET", "/health", self.health),
            Route("GET", "/ready", self.ready),
            Route("GET", "/metrics", self.metrics),
        ]

    async def root(self, _request: Request) -> Reply:
        """What this is (reference section 5)."""
        return json_reply(
            {
                "status": "ok",
                "service": "Iotistica API",
                "version": _native.__version__,
                "apiVersion": "v1",
                "apiBase": "/api/v1",
                "documentation": None,
                "description": about,
            }
        )

    async def health(self, _request: Request) -> Reply:
        """Whether this process lives."""
        status, body = self._probe.health()
        return json_reply(body, status)

    async def ready(self, _request: Request) -> Reply:
        """Whether all processes of the service do their work, with the reasons why not."""
        reasons = [*self._probe.readiness()[1]["reasons"], *await self._peers.reasons()]
        return json_reply(
            {"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200
        )

    async def metrics(self, _request: Request) -> Reply:
        """Metrics of all processes of the service, each sample with its process."""
        return Reply(200, await self._peers.metrics(), {"content-type": ops.METRICS_TYPE})
