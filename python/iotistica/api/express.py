"""Answers from memory, given before a request reaches the event loop.

Robyn calls a plain function in its own thread three times as cheaply as it schedules a coroutine,
but such a function holds up every other request while it waits. So it may only look and answer;
what it cannot answer goes on to the table of routes, as every other request does.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, runtime_checkable

from iotistica.api.http import Reply

Header = Callable[[str], str | None]
"""Value of a header of the request, by its name in lower case."""


@runtime_checkable
class Express(Protocol):
    """A short cut for the GET requests of one route."""

    @property
    def path(self) -> str:
        """The route, as in the table: `/api/v1/device/:uuid/state`."""

    def answer(self, path: str, header: Header) -> Reply | None:
        """An answer that needs no waiting; None leaves the request to the table.

        Called in a thread of the web server's, at the same time as handlers run.
        """


@runtime_checkable
class Running(Protocol):
    """A part that does something between requests too."""

    async def run(self) -> None:
        """Until cancelled."""
