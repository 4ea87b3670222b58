"""What one client has subscribed to: one channel, and how far it has been shown."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import orjson

from iotistica.api.live.channels import Channel, Subject
from iotistica.api.live.views import Document, moment_of
from iotistica.instants import iso

MOST_SERVICES = 64
_MOST_HELD = 16


class Subscription:
    """One channel of one client."""

    def __init__(self, channel: Channel, subject: Subject) -> None:
        self.channel = channel
        self.source = channel.source(subject)
        self.services: set[str] | None = None
        """Of the lines that are wanted; None is all."""
        self.unconfirmed: Callable[[], None] | None = None
        """Says that it is subscribed to, once."""
        self.has_begun = False
        """Whether it was followed once, so that a second beginning is the end of a gap."""
        self.has_missed = False
        """Whether more was published while the store was read than was kept: read it again."""
        self._subject = subject
        self._view = channel.view() if channel.view is not None else None
        self._held: list[Document] | None = None
        self._shown: tuple[str, str | None] = ("", None)

    @property
    def is_value(self) -> bool:
        """Whether only its newest state counts."""
        return self._view is not None

    def confirm(self) -> None:
        """Say that it is subscribed to, unless that was said."""
        say, self.unconfirmed = self.unconfirmed, None
        if say is not None:
            say()

    def hold(self) -> None:
        """Keep what is published until `restore`, which is older."""
        self._held, self.has_missed = [], False

    def restore(self, stored: Any) -> bool:
        """Begin anew with what is stored, None where nothing is, then take in what was published
        meanwhile; whether there is something to show."""
        held, self._held = self._held or [], None
        has_news = self._view is not None and stored is not None
        if self._view is not None and stored is not None:
            self._view.restore(stored)
            self._shown = (iso(datetime.now(UTC)), None)
        for document in held:
            has_news |= self.take(document)
        return has_news

    def take(self, document: Document) -> bool:
        """Take in a value; whether there is something to show now."""
        if self._held is not None:
            if len(self._held) < _MOST_HELD:
                self._held.append(document)
            else:
                self.has_missed = True
            return False
        if self._view is None or not self._view.take(document):
            return False
        self._shown = (moment_of(document, datetime.now(UTC)), "redis")
        return True

    def render(self) -> bytes:
        """The message with the newest state of a value."""
        at, source = self._shown
        content = self._view.content() if self._view is not None else None
        return self._message(content, at, source)

    def event(self, document: Document) -> bytes | None:
        """The message of an event; None for what this client does not want."""
        data = None if self.channel.event is None else self.channel.event(document)
        if self.services is not None and data is not None:
            data = {"logs": [line for line in data["logs"] or () if self._wants(line)]}
            if not data["logs"]:
                return None
        return None if data is None else self._message(data, _at(document), "redis")

    def narrow(self, service: str | None) -> None:
        """Want the lines of this service too, or of all."""
        if service is None:
            self.services = None
        elif self.services is not None:
            self.services.add(service)

    def _wants(self, line: Any) -> bool:
        return isinstance(line, Mapping) and line.get("service_name") in (self.services or ())

    def _message(self, data: Any, at: str, source: str | None) -> bytes:
        message = {"type": self.channel.name, **about(self._subject), "data": data, "timestamp": at}
        return orjson.dumps(message if source is None else {**message, "source": source})


def about(subject: Subject) -> dict[str, str]:
    """The member that says which agent a message is about."""
    return {} if subject.agent is None else {"deviceUuid": str(subject.agent)}


def _at(document: Document) -> str:
    return moment_of(document, datetime.now(UTC))
