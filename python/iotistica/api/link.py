"""The MQTT side of a process: one session after another, until told to stop."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any, Protocol

from prometheus_client import Counter, Gauge

from iotistica import keys, log, mqtt, tasks
from iotistica.backoff import Backoff
from iotistica.settings import Settings

_log = log.get(__name__)


class Link:
    """Keeps a session open. `error` is why there is none now."""

    def __init__(self, settings: Settings, name: str, *, connected: Gauge, again: Counter) -> None:
        """Raises `ConfigError`. `connected` and `again` are told of sessions."""
        self._client = settings.mqtt_client
        self._connected, self._again = connected, again
        self._sessions = 0
        self._backoff = Backoff(first_s=0.1, most_s=10.0)
        self.options = session_options(settings, name)
        self.error: str | None = "the broker is not connected yet"

    async def keep(
        self, stop: asyncio.Event, serve: Callable[[mqtt.Session], Awaitable[None]]
    ) -> None:
        """Open a session and `serve` it, again and again, until `stop`."""
        while not stop.is_set():
            try:
                async with mqtt.connect(self.options, client=self._client) as session:
                    await serve(session)
            except (mqtt.Disconnected, mqtt.Refused) as error:
                self.error = str(error)
                pause_s = self._backoff.next_s()
                _log.warning("no MQTT session", error=str(error), pause_s=round(pause_s, 2))
                await _sleep_unless(stop, pause_s)
            finally:
                self._connected.set(0)

    def opened(self, session: mqtt.Session) -> None:
        """The session has its subscriptions."""
        self.error = None
        self._backoff.reset()
        self._connected.set(1)
        if self._sessions:
            self._again.inc()
        self._sessions += 1
        _log.info("MQTT session open", client=self.options.client_id, resumed=session.resumed)


class Receiver(Protocol):
    """What is done with the messages of one session."""

    async def run(self) -> None:
        """Take messages until the session is lost. Raises `Disconnected`."""

    async def finish(self, grace_s: float) -> None:
        """Finish what was received, for so long at the most."""

    async def cancel(self) -> None:
        """Give up what is not finished; the broker still has it."""


async def serve(
    receiver: Receiver,
    *besides: Coroutine[Any, Any, None],
    opened: Callable[[], Awaitable[None]],
    stop: asyncio.Event,
    grace_s: float,
) -> None:
    """Run a receiver, and what else lives with its session, until either ends or `stop`.

    `opened` subscribes while messages are already moved: a resumed session brings as many as the
    window takes, and the broker's answer to a subscription may stand behind them.
    """
    work = [asyncio.create_task(one) for one in (receiver.run(), *besides)]
    stopping = asyncio.create_task(stop.wait())
    try:
        await opened()
        await asyncio.wait((*work, stopping), return_when=asyncio.FIRST_COMPLETED)
        for task in work:
            if task.done():
                task.result()
            task.cancel()
        await receiver.finish(grace_s)
    finally:
        await tasks.end((*work, stopping))
        await receiver.cancel()


async def run_together(main: Coroutine[Any, Any, None], *chores: Coroutine[Any, Any, None]) -> None:
    """Run chores beside `main` until it ends.

    A chore that a defect ends must end the process, which is then started again.
    """
    keeping = asyncio.create_task(main)
    running = {keeping, *(asyncio.create_task(chore) for chore in chores)}
    try:
        while not keeping.done():
            done, running = await asyncio.wait(running, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
    finally:
        await tasks.end(running)


def session_options(settings: Settings, name: str) -> mqtt.Options:
    """How process `name` connects. Raises `ConfigError`.

    The client id is fixed, so that a restarted process resumes the session of its predecessor.
    """
    prefix = settings.mqtt_client_id or f"{keys.SHARED_GROUP}-{socket.gethostname()}"
    password = settings.mqtt_password
    return mqtt.parse_url(
        settings.require("mqtt_url"),
        client_id=f"{prefix}-{name}",
        username=settings.mqtt_username,
        password=password.get_secret_value() if password is not None else None,
        clean_start=False,
        session_expiry_s=settings.mqtt_session_expiry_s,
        receive_maximum=settings.mqtt_receive_maximum,
        max_in_flight_messages=settings.mqtt_receive_maximum,
        max_in_flight_bytes=settings.bridge_in_flight_bytes,
    )


async def _sleep_unless(stop: asyncio.Event, seconds: float) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(stop.wait(), seconds)
