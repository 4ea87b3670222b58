"""Structured logs: one JSON object a line on standard error (level, time, msg, context)."""

from __future__ import annotations

import logging
import sys
import time
from typing import Any

import orjson
import structlog

_LEVELS = {"debug": 10, "info": 20, "warning": 30, "error": 40}


def _render(_logger: Any, _name: str, event: structlog.typing.EventDict) -> str:
    line = {"level": event.pop("level"), "time": event.pop("timestamp"), "msg": event.pop("event")}
    return orjson.dumps({**line, **event}, default=str).decode()


def configure(level: str, **context: Any) -> None:
    """Send the logs of this process, our own and the libraries', to standard error.

    `context` (service, process) stands in every line.
    """
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        wrapper_class=structlog.make_filtering_bound_logger(_LEVELS[level]),
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _render],
        )
    )
    logging.basicConfig(level=_LEVELS[level], handlers=[handler], force=True)
    structlog.contextvars.bind_contextvars(**context)


def get(name: str) -> structlog.stdlib.BoundLogger:
    """Logger of one module."""
    logger: structlog.stdlib.BoundLogger = structlog.get_logger(name)
    return logger


class Occasional:
    """Warns at most once in `interval_s` of each kind of event, with the count of those unsaid."""

    def __init__(self, logger: structlog.stdlib.BoundLogger, interval_s: float = 10.0) -> None:
        self._logger = logger
        self._interval_s = interval_s
        self._next: dict[str, float] = {}
        self._unsaid: dict[str, int] = {}

    def warning(self, event: str, **context: Any) -> None:
        """Say it, or count it. `event` is the kind: a fixed sentence."""
        now = time.monotonic()
        if now < self._next.get(event, 0.0):
            self._unsaid[event] = self._unsaid.get(event, 0) + 1
            return
        self._next[event] = now + self._interval_s
        self._logger.warning(event, **context, unsaid=self._unsaid.pop(event, 0))
