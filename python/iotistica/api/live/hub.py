"""Who in this process listens to which channel of Redis."""

from __future__ import annotations

from typing import Any, Protocol

import orjson

from iotistica import log
from iotistica.streams.subscriptions import Subscriptions

_log = log.get(__name__)
_occasional = log.Occasional(_log)


class Listener(Protocol):
    """Is told what happens on channels that it joined. None of this may wait."""

    def heard(self, source: str, document: dict[str, Any]) -> None:
        """Something was published."""

    def live(self, source: str) -> None:
        """From now on nothing is missed; before, something may have been."""

    def lost(self) -> None:
        """Until `live` is called, something may be missed."""


class Hub:
    """One connection to Redis for all listeners; a channel is followed while anybody has joined."""

    def __init__(self, url: str) -> None:
        """Opens nothing. Raises `ConfigError`."""
        self._listeners: dict[str, set[Listener]] = {}
        self._subscriptions = Subscriptions(
            url, on_message=self._heard, on_live=self._live, on_lost=self._lost
        )

    @property
    def connected(self) -> bool:
        """Whether there is a connection to Redis."""
        return self._subscriptions.connected

    async def run(self) -> None:
        """Until cancelled."""
        await self._subscriptions.run()

    def join(self, source: str, listener: Listener) -> None:
        """Listen to a channel; `live` says when that has begun, at once where it is followed."""
        self._listeners.setdefault(source, set()).add(listener)
        self._subscriptions.want(source)
        if self._subscriptions.is_live(source):
            listener.live(source)

    def leave(self, source: str, listener: Listener) -> None:
        """Listen to it no more."""
        listeners = self._listeners.get(source)
        if listeners is None:
            return
        listeners.discard(listener)
        if not listeners:
            del self._listeners[source]
            self._subscriptions.leave(source)

    def _heard(self, source: str, payload: bytes) -> None:
        listeners = self._listeners.get(source)
        if not listeners:
            return
        try:
            document = orjson.loads(payload)
        except orjson.JSONDecodeError as error:
            _occasional.warning("a live value is no JSON", channel=source, error=str(error))
            return
        if not isinstance(document, dict):
            return
        for listener in tuple(listeners):
            try:
                listener.heard(source, document)
            except Exception:
                # A defect that one value meets must not end the values of all others.
                _log.exception("a live value met a defect", channel=source)

    def _live(self, source: str) -> None:
        for listener in tuple(self._listeners.get(source, ())):
            listener.live(source)

    def _lost(self) -> None:
        everyone = {one for listeners in self._listeners.values() for one in listeners}
        for listener in everyone:
            listener.lost()
