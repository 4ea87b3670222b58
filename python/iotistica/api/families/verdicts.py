"""Why a message can never pass, before its family sees it and where the family fails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import orjson

from iotistica import log
from iotistica._native import Limits, Undecodable, decode
from iotistica.api.families.family import Incoming, Refusal
from iotistica.errors import TooLarge
from iotistica.store.pool import is_refusal

_log = log.get(__name__)


def unknown_agent(message: Incoming) -> Refusal:
    """Its agent is not one of its tenant."""
    error = f"agent {message.agent[:64]!r} is not one of tenant {message.tenant!r}"
    return Refusal(message, "unknown_agent", error)


def decoded(payloads: Sequence[bytes], limits: Limits, most_bytes: int) -> list[Any]:
    """JSON values; an error in the place of a payload that has none."""
    values: list[Any] = []
    for payload in payloads:
        if (size := len(payload)) > most_bytes:
            rule = f"payload has {size} bytes; at most {most_bytes} are allowed"
            values.append(TooLarge(rule))
            continue
        try:
            values.append(orjson.loads(decode(payload, limits)))
        except Undecodable as error:
            values.append(error)
    return values


def unreadable(message: Incoming) -> Refusal | None:
    """Its value is an error that `decoded` gave."""
    if isinstance(message.value, TooLarge):
        return Refusal(message, "too_large", str(message.value))
    if isinstance(message.value, Undecodable):
        return Refusal(message, "undecodable", str(message.value))
    return None


def blamed(message: Incoming, error: Exception) -> Refusal:
    """Its family failed with this: PostgreSQL refuses it, or it met a defect of ours."""
    if is_refusal(error):
        text = f"PostgreSQL refuses the message: {error}"
        return Refusal(message, "refused_by_database", text)
    _log.error("a message met a defect", exc_info=error, topic=message.topic)
    return Refusal(message, "defect", f"a defect of ours met it: {error!r}"[:500])
