"""One service of ours as a process: `iotistica api` or `iotistica ingestion`."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import aiohttp
import orjson
from prometheus_client.parser import text_string_to_metric_families

from iotistica.embedded.process import Child, Command

STOP_S = 10.0
"""A service that is told to stop has gone within this time (goal R9)."""
_TIMEOUT = aiohttp.ClientTimeout(total=2.0)


class Program:
    """A service on a port of its own; started again on the same one."""

    def __init__(
        self, name: str, service: str, directory: Path, port: int, environment: Mapping[str, str]
    ) -> None:
        self.name, self.service = name, service
        self.url = f"http://127.0.0.1:{port}"
        self.log = directory / "logs" / f"{name}.log"
        self.child = Child(
            Command(
                name=name,
                argv=[sys.executable, "-m", "iotistica", service],
                log=self.log,
                pid_file=directory / f"{name}.pid",
                cwd=directory,
                env={f"IOTISTICA_{service.upper()}_PORT": str(port), **environment},
            )
        )

    async def start(self, timeout_s: float = 60.0) -> None:
        """Start, and wait until it says that it is ready. Raises `StartFailed`."""
        await self.child.start(self.is_ready, timeout_s)

    async def start_spoolless(self, timeout_s: float = 60.0) -> None:
        """Start, and wait until nothing but its spool is amiss. Raises `StartFailed`."""
        await self.child.start(self._lacks_a_spool_at_most, timeout_s)

    async def stop(self) -> int | None:
        """Ask it to end; its exit status, negative where it had to be killed."""
        return await self.child.stop(STOP_S)

    async def is_ready(self) -> bool:
        """Whether `/ready` says so."""
        return (await self.get("/ready"))[0] == 200

    async def _lacks_a_spool_at_most(self) -> bool:
        reasons = await self.reasons()
        return all("spool" in reason for reason in reasons) if reasons else await self.is_ready()

    async def reasons(self) -> list[str]:
        """Why it is not ready; empty where it is, or does not answer."""
        status, body = await self.get("/ready")
        if status != 503:
            return []
        # The front door's own answer, while no web process does, is an error with a message.
        found = orjson.loads(body)
        return list(found.get("reasons", [found.get("message", "")]))

    async def metric(self, name: str) -> float:
        """Sum of a metric over its labels; 0 where nobody answers."""
        status, body = await self.get("/metrics")
        samples = (
            sample.value
            for family in text_string_to_metric_families(body if status == 200 else "")
            for sample in family.samples
            if sample.name == name
        )
        return sum(samples)

    async def get(self, path: str) -> tuple[int, str]:
        """Status and body of a request; status 0 where nobody answers."""
        try:
            async with (
                aiohttp.ClientSession(timeout=_TIMEOUT) as session,
                session.get(self.url + path) as response,
            ):
                return response.status, await response.text()
        except (OSError, TimeoutError, aiohttp.ClientError):
            return 0, ""
