"""The gate of the table: rate limits by class of route, address and caller (reference 5)."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from functools import lru_cache

from iotistica import metrics
from iotistica.api.http import Request
from iotistica.api.limiter import Limiter
from iotistica.api.principal import Principal
from iotistica.api.route import Route
from iotistica.errors import TooMany
from iotistica.settings import Settings

_MOST_ADDRESSES = 10_000
_IPV6_BITS = 64
"""A network of this size is one customer, who may use every address of it."""


class Limits:
    """Counts an address until its caller is known, and then the caller instead.

    So agents behind one address do not take each other's requests away, while somebody who tries
    keys or passwords is counted for each.
    """

    def __init__(self, limiter: Limiter, settings: Settings) -> None:
        self._limiter = limiter
        self._most: Mapping[str, int] = {
            "global": settings.rate_limit_global,
            "auth": settings.rate_limit_auth,
            "device-data": settings.rate_limit_device_data,
            "admin": settings.rate_limit_admin,
        }

    async def admit(self, request: Request, route: Route, caller: Principal | None) -> None:
        """Count a request. Raises `TooMany`."""
        limit = route.limit
        most = self._most.get(limit)
        if most is None:
            return
        address = "ip:" + network(request.address)
        try:
            if caller is None:
                await self._limiter.take(limit, address, most)
            elif limit != "auth":
                self._limiter.give_back(limit, address)
                await self._limiter.take(limit, f"{caller.kind}:{caller.id}", most)
        except TooMany:
            metrics.HTTP_LIMITED.labels(limit).inc()
            raise


@lru_cache(maxsize=_MOST_ADDRESSES)
def network(address: str) -> str:
    """The address, or of IPv6 its network."""
    try:
        known = ipaddress.ip_address(address)
    except ValueError:
        return address[:64]
    if known.version == 4:
        return str(known)
    if known.ipv4_mapped is not None:
        return str(known.ipv4_mapped)
    return str(ipaddress.ip_network((known, _IPV6_BITS), strict=False))
