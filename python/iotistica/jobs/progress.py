"""What an agent's update does to its part of a job (reference section 1.4). Pure."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Literal, TypeAlias, get_args

import orjson

from iotistica.store.documents import holds_nul, without_nul

Status: TypeAlias = Literal[
    "QUEUED", "IN_PROGRESS", "SUCCEEDED", "FAILED", "TIMED_OUT", "REJECTED", "CANCELED"
]
STATUSES = frozenset(get_args(Status))
TERMINAL = STATUSES - {"QUEUED", "IN_PROGRESS"}
RETRIED = frozenset({"FAILED", "TIMED_OUT"})
"""Ends after which an agent may try again; one that refuses will refuse again."""

MAX_RETRY_DELAY_S = 86_400
_REMEMBERED = 8
"""Updates that are known when they come again."""

_MAX_REASON = 2000
_MAX_INT = 2**31 - 1

EVENTS: Mapping[str, str] = {
    "QUEUED": "job.queued",
    "IN_PROGRESS": "job.progress",
    "SUCCEEDED": "job.completed",
    "FAILED": "job.failed",
    "TIMED_OUT": "job.timeout",
    "REJECTED": "job.rejected",
    "CANCELED": "job.cancelled",
}
"""Names of what happened, as the reference spells them; the first progress is `job.started`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Update:
    """What an agent says. None is not given, and leaves what is there."""

    status: Status
    reason: str | None = None
    stdout: str | None = None
    stderr: str | None = None
    exit_code: int | None = None
    executed_steps: Any = None
    failed_step: str | None = None
    details: Any = None
    expected_version: int | None = None
    execution_number: int | None = None
    token: str | None = None
    """With it the update is known however often it comes."""
    digest: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Where one agent stands with one job."""

    id: int
    tenant: str
    agent: str
    job: str
    job_name: str
    status: str
    version: int
    attempt: int
    retries_left: int
    max_retries: int
    retry_delay_s: int
    timeout_minutes: int
    available_at: datetime
    queued_at: datetime
    started_at: datetime | None = None
    timeout_at: datetime | None = None
    completed_at: datetime | None = None
    latest: tuple[str, ...] = ()
    notice: str | None = None
    written: Mapping[str, Any] = field(default_factory=dict)
    """Reason, output and the like that were given, by column."""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why an update has no effect; codes as in AWS IoT Jobs, whose protocol this is."""

    code: Literal["InvalidStateTransition", "VersionMismatch", "ResourceNotFound"]
    message: str


def advance(part: Part, update: Update, now: datetime) -> Part | Rejection | None:
    """What becomes of a part; None where the update had its effect before."""
    if update.digest in part.latest[-1:] or (update.token and update.digest in part.latest):
        return None
    if part.available_at > now:
        return Rejection("ResourceNotFound", f"job {part.job} is not this agent's yet")
    if part.status in TERMINAL:
        return Rejection(
            "InvalidStateTransition", f"status is {part.status}, which is final: {update.status}"
        )
    if update.execution_number not in (None, part.attempt):
        what = f"executionNumber is {update.execution_number}; it must be {part.attempt}"
        return Rejection("VersionMismatch", what)
    if update.expected_version not in (None, part.version):
        what = f"expectedVersion is {update.expected_version}; it must be {part.version}"
        return Rejection("VersionMismatch", what)
    if update.status == "QUEUED" and part.status != "QUEUED":
        return Rejection("InvalidStateTransition", f"status is {part.status}, not to be QUEUED")
    said = replace(
        part,
        version=part.version + 1,
        latest=(*part.latest, update.digest)[-_REMEMBERED:],
        written={**part.written, **_given(update)},
        notice=None,
    )
    return _moved(said, update.status, now)


def _moved(part: Part, status: str, now: datetime) -> Part:
    if status in TERMINAL:
        started_at = part.started_at or now
        if status in RETRIED and part.retries_left > 0:
            return retried(part, now)
        return replace(
            part, status=status, started_at=started_at, completed_at=now, timeout_at=None
        )
    if status == "IN_PROGRESS" and part.started_at is None:
        timeout_at = now + timedelta(minutes=part.timeout_minutes)
        return replace(part, status=status, started_at=now, timeout_at=timeout_at)
    return replace(part, status=status)


def retried(part: Part, now: datetime) -> Part:
    """The next attempt, after a pause that doubles each time."""
    delay_s = part.retry_delay_s * 2.0 ** (part.max_retries - part.retries_left)
    return replace(
        part,
        status="QUEUED",
        attempt=part.attempt + 1,
        retries_left=part.retries_left - 1,
        available_at=now + timedelta(seconds=min(delay_s, MAX_RETRY_DELAY_S)),
        started_at=None,
        timeout_at=None,
        notice="queued",
    )


def event_of(before: Part, status: str) -> str:
    """Name of what an update says."""
    if status == "IN_PROGRESS" and before.started_at is None:
        return "job.started"
    return EVENTS[status]


def _given(update: Update) -> dict[str, Any]:
    columns = {
        "reason": update.reason,
        "stdout": update.stdout,
        "stderr": update.stderr,
        "exit_code": update.exit_code,
        "executed_steps": update.executed_steps,
        "failed_step": update.failed_step,
        "status_details": update.details,
    }
    return {name: value for name, value in columns.items() if value is not None}


# What agents send


def read(value: Any, payload: bytes, *, most_bytes: int) -> Update:
    """The update of a message. Raises `ValueError` naming field, value and rule."""
    if not isinstance(value, dict):
        raise ValueError(f"the update is a {type(value).__name__}; it must be an object")
    status = value.get("status")
    if not isinstance(status, str) or status not in STATUSES:
        rule = f"it must be one of {', '.join(sorted(STATUSES))}"
        raise ValueError(f"field status is {str(status)[:64]!r}; {rule}")
    details = value.get("statusDetails")
    if details is not None and not isinstance(details, dict):
        raise ValueError(f"field statusDetails is a {type(details).__name__}; not an object")
    token = value.get("clientToken")
    return make(
        status,  # type: ignore[arg-type]
        details or {},
        digest=digest_of(payload),
        most_bytes=most_bytes,
        expected_version=_number(value, "expectedVersion"),
        execution_number=_number(value, "executionNumber"),
        token=None if token is None else text(str(token), 256),
    )


def make(
    status: Status, said: Mapping[str, Any], *, digest: str, most_bytes: int, **known: Any
) -> Update:
    """An update of what an agent said about itself, its texts cut to `most_bytes`."""

    def output(name: str) -> str | None:
        value = said.get(name)
        return None if value is None else tail(str(value), most_bytes)

    exit_code = said.get("exit_code", said.get("exitCode"))
    reason, failed_step = said.get("reason"), said.get("failed_step", said.get("failedStep"))
    steps = said.get("executed_steps", said.get("executedSteps"))
    others = {name: one for name, one in said.items() if name not in ("stdout", "stderr")}
    return Update(
        status=status,
        reason=None if reason is None else text(str(reason), _MAX_REASON),
        stdout=output("stdout"),
        stderr=output("stderr"),
        exit_code=exit_code if is_integer(exit_code) else None,
        executed_steps=None if steps is None else bounded(steps, most_bytes),
        failed_step=None if failed_step is None else text(str(failed_step), _MAX_REASON),
        details=bounded(others, most_bytes) if others else None,
        digest=digest,
        **known,
    )


def digest_of(payload: bytes) -> str:
    """What a message is known by when it comes again."""
    return hashlib.blake2b(payload, digest_size=8).hexdigest()


def is_integer(value: Any) -> bool:
    """Whether a column of type integer holds it."""
    return isinstance(value, int) and not isinstance(value, bool) and -_MAX_INT <= value <= _MAX_INT


def text(value: str, most: int) -> str:
    """As PostgreSQL takes it: without NUL, and not longer than `most` characters."""
    clean = value.replace("\0", "\ufffd")
    return clean if len(clean) <= most else clean[: most - 1] + "…"


def tail(value: str, most_bytes: int) -> str:
    """The end of an output, which is where the errors are, marked where something was cut."""
    raw = value.replace("\0", "\ufffd").encode()
    if len(raw) <= most_bytes:
        return raw.decode()
    kept = raw[len(raw) - most_bytes :].decode(errors="ignore")
    return f"[{len(raw) - len(kept.encode())} bytes cut]\n{kept}"


def bounded(value: Any, most_bytes: int) -> Any:
    """A JSON value as it is, or a note where it is too large or nothing that jsonb holds."""
    try:
        raw = orjson.dumps(value)
    except TypeError as error:  # a number beyond 64 bits
        return {"cut": str(error)}
    if len(raw) > most_bytes:
        return {"cut": f"{len(raw)} bytes; at most {most_bytes} are kept"}
    text = raw.decode()
    return orjson.loads(without_nul(text, "\\ufffd")) if holds_nul(text) else value


def _number(value: Mapping[str, Any], name: str) -> int | None:
    found = value.get(name)
    if found is None:
        return None
    if isinstance(found, str) and found.isascii() and found.isdigit():
        found = int(found[:10])
    if not is_integer(found):
        raise ValueError(f"field {name} is {str(found)[:64]!r}; it must be a whole number")
    return int(found)
