"""Connections between parts that are refused, cut, stalled, slow, or lose their replies."""

from __future__ import annotations

import asyncio

from tests.faults.injections.processes import Inject
from tests.faults.rig import LINKS
from tests.faults.scene import Scene

MANNERS = ("refused", "cut", "stalled", "slow", "mute")
LINK_FAULTS = tuple((link, manner) for link in LINKS for manner in MANNERS)
_SLOW_S = 0.2


def disturb(link: str, manner: str) -> Inject:
    async def inject(scene: Scene) -> None:
        """One link is bad in one manner, and well again."""
        proxy = scene.rig.links[link]
        before = proxy.disturbed
        try:
            match manner:
                case "refused":
                    await proxy.refuse()
                case "stalled":
                    proxy.stall()
                case "slow":
                    proxy.slow(_SLOW_S)
                case "mute":
                    proxy.mute()
                case "cut":
                    for _ in range(5):
                        proxy.cut()
                        await asyncio.sleep(scene.rng.uniform(0.05, 0.5))
            await scene.hold(1.5, 8.0)
        finally:
            await proxy.resume()
        # The API asks PostgreSQL only for tenants that it does not know, and there is none.
        if proxy.disturbed == before and link != "api-postgres":
            scene.wrong.append(f"nobody noticed that {link} was {manner}")

    return inject
