"""The Rust side, as Python sees it. `tests/unit/test_stub.py` proves this file true."""

from collections.abc import Sequence
from typing import final

__version__: str

READINGS_COLUMNS: tuple[str, ...]
"""Columns of `Batch.copy`, in order."""
LATEST_COLUMNS: tuple[str, ...]
"""Columns of `Batch.latest`, in order."""

class InvalidTopic(ValueError):
    """A topic or identifier is not of the form that reference section 1.1 describes."""

class Undecodable(ValueError):
    """A payload cannot be decoded; the message starts with the stage that failed."""

@final
class Topic:
    """A parsed topic `i/{T}/a/{A}/{kind}/{rest}`; identifiers are decoded."""

    tenant: str
    agent: str
    kind: str
    rest: str

def parse_topic(topic: str) -> Topic:
    """Parse and decode a topic. Raises `InvalidTopic`. The kind is lower-cased."""

def format_topic(tenant: str, agent: str, rest: str) -> str:
    """`i/{encoded tenant}/a/{encoded agent}/{rest}`."""

def encode_tenant(tenant: str) -> str:
    """12 hex digits to 8 base64url characters; anything else unchanged."""

def decode_tenant(encoded: str) -> str:
    """Inverse of `encode_tenant`; anything that is not 8 base64url characters unchanged."""

def encode_agent(agent: str) -> str:
    """UUID to 22 base64url characters; anything else unchanged."""

def decode_agent(encoded: str) -> str:
    """Inverse of `encode_agent`, lower case; anything that is not 22 characters unchanged."""

@final
class Limits:
    """What one message may be at the most; a message over a limit is rejected, never cut."""

    def __new__(
        cls,
        *,
        max_message_bytes: int = ...,
        max_inflated_bytes: int = ...,
        max_depth: int = ...,
        max_elements: int = ...,
        max_text_bytes: int = ...,
        max_extra_bytes: int = ...,
        retention_days: int = ...,
        max_future_s: int = ...,
    ) -> Limits: ...

@final
class Context:
    """What decoding the messages of one tenant needs to know. Safe to share between threads."""

    def __new__(cls, tenant: str, limits: Limits | None = None) -> Context: ...
    @property
    def tenant(self) -> str: ...
    def add_agents(self, agents: Sequence[str]) -> None:
        """Register agents (UUIDs) that belong to the tenant. Raises `ValueError`."""
    def remove_agents(self, agents: Sequence[str]) -> None:
        """Forget agents; their messages wait again."""
    def put_dictionary(self, agent: str, version: int, dictionary: bytes) -> None:
        """Set the key-compaction dictionary of an agent, as JSON.

        Either the message `meta/dictionary`, or the parts that Redis holds, as
        `{"fields": {"0": name}, "hash": …, "enums": …, "metrics": …, "agents": …, "devices": …}`.
        Raises `ValueError`.
        """

@final
class CopyBuffer:
    """A complete binary COPY stream (PGCOPY). Supports the read-only buffer protocol."""

    @property
    def rows(self) -> int: ...
    def __len__(self) -> int:
        """Bytes, header and trailer included."""
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Reject:
    """A message, or a part of its readings, that can never pass."""

    entry: int
    """Index into the `entries` given."""
    message: int
    """Index of the message within its entry."""
    stage: str
    """topic, inflate, decode, expand or normalize."""
    reason: str
    """Short fixed name of the rule, fit for a metric label."""
    detail: str
    """One sentence that names field, value and rule; never the payload."""
    readings: int
    """Readings lost with it; 0 where the message could not be decoded that far."""

@final
class Waiting:
    """A message that cannot be decided before something is known."""

    entry: int
    message: int
    agent: str
    needs: str
    """`agent`: is this UUID one of the tenant's? `dictionary`: its dictionary of `version`."""
    version: int

@final
class Outcome:
    """What became of one message."""

    entry: int
    message: int
    agent: str | None
    rows: int
    duplicates: int
    collisions: int
    dropped: int
    rejected: int

@final
class Batch:
    """Result of `encode_batch`: everything a worker needs, no object per reading."""

    copy: CopyBuffer
    """Rows for `readings`, sorted by primary key, without duplicates."""
    latest: CopyBuffer
    """Newest row of each series (agent, device, metric)."""
    days: list[int]
    """Days (since 1970-01-01, UTC) that the rows touch, ascending."""
    messages: int
    readings: int
    """Readings seen: rows + duplicates + dropped + rejected + those of waiting messages (0)."""
    duplicates: int
    collisions: int
    """Those of the duplicates whose device differs from the row that was kept."""
    dropped: int
    rejected: int
    rejects: list[Reject]
    waiting: list[Waiting]
    oldest_received_ms: int
    """Earliest reception of a message in the batch, epoch milliseconds; 0 if unknown."""
    @property
    def outcomes(self) -> list[Outcome]:
        """One for every message; made when asked for."""

def encode_batch(
    entries: Sequence[tuple[bytes, Sequence[bytes]]],
    context: Context,
    *,
    now_ms: int,
    final: bool = False,
) -> Batch:
    """Decode, normalize, deduplicate, sort and encode stream entries, with the GIL released.

    An entry is `(id, [field, value, field, value, …])` as Redis gives it. A message of ours is
    the field `"{received_ms}-{sequence} {MQTT topic}"` with the payload as value, any number to
    an entry; the reference's entry forms (`data`, `compressed=1 …`) are read as well.

    With `final`, what would wait (an unknown agent, a missing dictionary) is rejected instead.
    Never raises for what stands in a message.
    """

def decode(payload: bytes, limits: Limits | None = None) -> bytes:
    """Sniff, inflate and decode a payload into canonical JSON. Raises `Undecodable`."""

def explain(topic: str | None, payload: bytes, context: Context, *, now_ms: int) -> bytes:
    """JSON report of what each stage makes of a payload: sniffed as, inflated bytes, decoded
    value, expanded value, rows, rejects. For `iotistica decode`."""
