"""Tests of brokers that operators name: only addresses that anybody could reach, and ours.

The rule is that of webhooks (`webhooks.address`): whoever may name a broker makes this server
connect, so it must not reach what only this server reaches.
"""

from __future__ import annotations

import asyncio
import secrets
import socket
import ssl
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any
from urllib.parse import urlsplit

from iotistica.api.models.brokers import Attempt, Trial
from iotistica.errors import BadRequest, TooMany
from iotistica.mqtt import trial
from iotistica.settings import Settings
from iotistica.webhooks.address import is_public, literal

_AT_ONCE = 4
_PORTS = {"mqtt": 1883, "mqtts": 8883}


class BrokerTrials:
    """Connects to a broker once, for whoever asks."""

    def __init__(self, settings: Settings) -> None:
        self._timeout_s = settings.broker_test_timeout_s
        self._private = settings.broker_private_addresses
        self._own = {_place(settings.mqtt_url), _place(settings.mqtt_public_url)}
        self._running = 0
        # Of its own: a name server that does not answer holds a thread longer than we wait.
        self._resolver = ThreadPoolExecutor(_AT_ONCE, "resolve")

    async def run(self, broker: Mapping[str, Any], attempt: Attempt) -> Trial:
        """What came of it. Raises `BadRequest`, `TooMany`."""
        if broker["protocol"] not in _PORTS:
            raise BadRequest(f"protocol is {broker['protocol']!r}; mqtt and mqtts can be tested")
        if self._running >= _AT_ONCE:
            raise TooMany(f"{self._running} brokers are being tested; try again", after_s=1)
        self._running += 1
        try:
            return await self._connect(broker, attempt)
        finally:
            self._running -= 1

    async def _connect(self, broker: Mapping[str, Any], attempt: Attempt) -> Trial:
        try:
            async with asyncio.timeout(self._timeout_s):
                address = await self._address(broker["host"], broker["port"])
        except TimeoutError:
            return _failed(f"the name was not found within {self._timeout_s:g} s")
        except OSError as error:
            return _failed(error.strerror or str(error))
        target = trial.Target(
            address=address,
            port=broker["port"],
            host=broker["host"],
            tls=_tls(broker) if broker["use_tls"] else None,
            client_id=f"iotistica-test-{secrets.token_hex(4)}",
            username=attempt.username if attempt.username is not None else broker["username"],
            password=attempt.password,
        )
        result = await trial.attempt(target, timeout_s=self._timeout_s)
        return Trial(
            connected=result.connected,
            reason_code=result.code,
            reason=result.reason,
            address=address,
            tls=result.tls,
            seconds=result.seconds,
        )

    async def _address(self, host: str, port: int) -> str:
        """The first address of a host that is allowed. Raises `OSError`, `BadRequest`."""
        look_up = partial(socket.getaddrinfo, host, port, type=socket.SOCK_STREAM)
        found = await asyncio.get_running_loop().run_in_executor(self._resolver, look_up)
        addresses = [str(one[4][0]) for one in found]
        if self._private or (host, port) in self._own:
            return addresses[0]
        for address in addresses:
            known = literal(address.partition("%")[0])
            if known is not None and is_public(known):
                return address
        raise BadRequest(f"host is {host!r}, which has no public address")


def _place(url: str | None) -> tuple[str, int] | None:
    parts = urlsplit(url or "")
    if parts.hostname is None:
        return None
    return parts.hostname, parts.port or _PORTS.get(parts.scheme, 1883)


def _tls(broker: Mapping[str, Any]) -> ssl.SSLContext:
    context = ssl.create_default_context(cadata=broker["ca_cert"] or None)
    if not broker["verify_certificate"]:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _failed(reason: str) -> Trial:
    return Trial(
        connected=False, reason_code=None, reason=reason, address=None, tls=None, seconds=0.0
    )
