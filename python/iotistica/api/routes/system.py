"""`/`, `/health`, `/ready`, `/metrics`: the Cloud API about itself and its processes."""

from __future__ import annotations

from iotistica import __doc__ as about
from iotistica import _native, ops
from iotistica.api.http import Reply, json_reply
from iotistica.api.models import system as models
from iotistica.api.peers import Peers
from iotistica.api.route import route


class System:
    """Handlers of the unauthenticated routes."""

    def __init__(self, probe: ops.Probe, peers: Peers) -> None:
        self._probe = probe
        self._peers = peers

    @route("GET", "/", public=True, limit="none", reply=models.About)
    async def root(self) -> Reply:
        """What this is (reference section 5)."""
        return json_reply(
            {
                "status": "ok",
                "service": "Iotistica API",
                "version": _native.__version__,
                "apiVersion": "v1",
                "apiBase": "/api/v1",
                "documentation": "/api/docs",
                "description": about,
            }
        )

    @route("GET", "/health", public=True, limit="none", reply=models.Health)
    async def health(self) -> Reply:
        """Whether this process lives."""
        status, body = self._probe.health()
        return json_reply(body, status)

    @route("GET", "/ready", public=True, limit="none", reply=models.Readiness)
    async def ready(self) -> Reply:
        """Whether all processes of the service do their work, with the reasons why not."""
        reasons = [*self._probe.readiness()[1]["reasons"], *await self._peers.reasons()]
        return json_reply(
            {"ready": not reasons, "reasons": reasons}, status=503 if reasons else 200
        )

    @route("GET", "/metrics", public=True, limit="none", reply=str, gives="text/plain")
    async def metrics(self) -> Reply:
        """Metrics of all processes of the service, each sample with its process."""
        return Reply(200, await self._peers.metrics(), {"content-type": ops.METRICS_TYPE})
