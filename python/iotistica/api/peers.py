"""The other processes of the service, asked over their operations listeners."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping

import aiohttp
import orjson

from iotistica import metrics

_TIMEOUT = aiohttp.ClientTimeout(total=2.0)


class Peers:
    """Asks all of them at once; one that does not answer is a fact, not an error."""

    def __init__(self, name: str, urls: Mapping[str, str]) -> None:
        self._name = name
        self._urls = dict(urls)
        self._client = aiohttp.ClientSession(timeout=_TIMEOUT)

    async def close(self) -> None:
        """Close the connections."""
        await self._client.close()

    async def reasons(self) -> list[str]:
        """Why a peer cannot do its work now, each with the name of the process."""
        found = []
        for name, body in (await self._ask("/ready")).items():
            if body is None:
                found.append(f"{name}: the process does not answer")
            else:
                found += [f"{name}: {reason}" for reason in orjson.loads(body)["reasons"]]
        return found

    async def metrics(self) -> bytes:
        """One valid exposition of this process and all peers."""
        bodies = await self._ask("/metrics")
        for name, body in bodies.items():
            metrics.PROCESS_UP.labels(name).set(body is not None)
        parts = {name: body for name, body in bodies.items() if body is not None}
        return metrics.merge({self._name: metrics.render(), **parts})

    async def _ask(self, path: str) -> dict[str, bytes | None]:
        bodies = await asyncio.gather(*(self._get(url + path) for url in self._urls.values()))
        return dict(zip(self._urls, bodies, strict=True))

    async def _get(self, url: str) -> bytes | None:
        try:
            async with self._client.get(url) as reply:
                return await reply.read()
        except (aiohttp.ClientError, OSError, TimeoutError):
            return None
