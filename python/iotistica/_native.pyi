"""The Rust side, as Python sees it. `tests/unit/test_stub.py` proves this file true."""

from collections.abc import Sequence
from typing import final

from iotistica.api.door import DoorConfig
from iotistica.embedded.builtin_broker import BrokerConfig

__all__ = [
    "KEY_COLUMNS",
    "LATEST_COLUMNS",
    "READINGS_COLUMNS",
    "Accepted",
    "Batch",
    "Context",
    "CopyBuffer",
    "InvalidTopic",
    "Limits",
    "Marks",
    "Outcome",
    "Reject",
    "Tally",
    "Topic",
    "Undecodable",
    "Waiting",
    "__version__",
    "decode",
    "decode_agent",
    "decode_tenant",
    "encode_agent",
    "encode_batch",
    "encode_tenant",
    "explain",
    "format_topic",
    "lttb",
    "parse_topic",
    "serve_broker",
    "serve_door",
]

__version__: str

KEY_COLUMNS: tuple[str, ...]
"""The primary key of `readings`: columns of `Batch.heads`, in order."""
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

    @property
    def tenant(self) -> str: ...
    @property
    def raw_tenant(self) -> str:
        """The tenant as it stands in the topic: a literal id of eight characters looks encoded."""
    @property
    def agent(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def rest(self) -> str: ...

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
        max_message_bytes: int | None = None,
        max_inflated_bytes: int | None = None,
        max_depth: int | None = None,
        max_elements: int | None = None,
        max_text_bytes: int | None = None,
        max_extra_bytes: int | None = None,
        retention_days: int | None = None,
        max_future_s: int | None = None,
        max_batch_rows: int | None = None,
    ) -> Limits: ...

@final
class Context:
    """What decoding the messages of one tenant needs to know. Safe to share between threads."""

    def __new__(
        cls, tenant: str, limits: Limits | None = None, *, key_compaction: bool = True
    ) -> Context: ...
    @property
    def tenant(self) -> str: ...
    def add_agents(self, agents: Sequence[str]) -> None:
        """Register agents (UUIDs) that belong to the tenant. Raises `ValueError`."""
    def remove_agents(self, agents: Sequence[str]) -> None:
        """Forget agents and their dictionaries; their messages wait again."""
    def put_dictionary(self, agent: str, version: int, dictionary: bytes) -> None:
        """Learn a key-compaction dictionary of an agent, as JSON; it takes the place of one of the
        same version and hash, and the two last ones are kept.

        Either the message `meta/dictionary`, or the parts that Redis holds, as
        `{"fields": {"0": name}, "hash": …, "enums": …, "metrics": …, "agents": …, "devices": …}`.
        Raises `ValueError`.
        """
    def forget_dictionaries(self, agents: Sequence[str]) -> None:
        """Forget all dictionaries of these agents; their compacted messages wait again."""

@final
class CopyBuffer:
    """A complete binary COPY stream (PGCOPY). Supports the read-only buffer protocol."""

    @property
    def rows(self) -> int: ...
    def arrays(self) -> tuple[str, ...]:
        """The same as array literals, one for each column; times are microseconds since 1970."""
    def agents(self) -> dict[str, int]:
        """Rows of each agent."""
    def __len__(self) -> int:
        """Bytes, header and trailer included."""
    def __buffer__(self, flags: int, /) -> memoryview: ...

@final
class Reject:
    """A message, or those of its readings that broke the same rule: they can never pass.

    Several may name the same message, one for each rule.
    """

    @property
    def entry(self) -> int:
        """Index into the `entries` given."""
    @property
    def message(self) -> int:
        """Index of the message within its entry."""
    @property
    def agent(self) -> str | None: ...
    @property
    def topic(self) -> str | None:
        """MQTT topic; `None` for an entry in the reference's form."""
    @property
    def payload(self) -> bytes:
        """The original bytes."""
    @property
    def stage(self) -> str:
        """One of entry, topic, inflate, decode, expand, normalize."""
    @property
    def reason(self) -> str:
        """Short fixed name of the rule, fit for a metric label."""
    @property
    def detail(self) -> str:
        """One sentence that names field, value and rule; never the payload."""
    @property
    def readings(self) -> int:
        """Readings lost with it; 0 where the message could not be decoded that far."""

@final
class Waiting:
    """A message to encode again, alone, in another call."""

    @property
    def entry(self) -> int: ...
    @property
    def message(self) -> int | None:
        """Index of the message: fields `2 * message` and `2 * message + 1` of the entry.

        `None`: the whole entry, which is in the reference's form.
        """
    @property
    def needs(self) -> str:
        """What is missing.

        `agent`: whether `agent` is one of the tenant's. `dictionary`: that of `agent`, of
        `version`, and of `hash` where the message tells it. `room`: nothing, the batch was full;
        may also come with `final`. `backfill`: a turn when nothing newer waits, as all readings
        are older than `divert_before_ms`.
        """
    @property
    def agent(self) -> str | None: ...
    @property
    def version(self) -> int: ...
    @property
    def hash(self) -> str | None: ...

@final
class Outcome:
    """What became of one message."""

    @property
    def entry(self) -> int: ...
    @property
    def message(self) -> int: ...
    @property
    def agent(self) -> str | None: ...
    @property
    def rows(self) -> int: ...
    @property
    def duplicates(self) -> int: ...
    @property
    def collisions(self) -> int: ...
    @property
    def dropped(self) -> int: ...
    @property
    def rejected(self) -> int: ...

@final
class Tally:
    """What became of the messages of one agent in one entry.

    `readings = rows + duplicates + collisions + dropped + rejected`
    """

    @property
    def entry(self) -> int: ...
    @property
    def agent(self) -> str:
        """UUID; empty where it cannot be told."""
    @property
    def messages(self) -> int: ...
    @property
    def readings(self) -> int: ...
    @property
    def rows(self) -> int: ...
    @property
    def duplicates(self) -> int:
        """Replaced by a later reading of the same device."""
    @property
    def collisions(self) -> int:
        """Replaced by a reading of another device."""
    @property
    def dropped(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def reasons(self) -> list[tuple[str, bool, int]]:
        """Broken rules: its name, whether whole messages (else readings) are counted, how many."""
    @property
    def numbers(self) -> list[tuple[int, int]]:
        """Numbers that the agent gave its messages (`msgId`), as ranges: first and last."""

@final
class Batch:
    """Result of `encode_batch`: everything a worker needs, no object per reading.

    Lists are made anew whenever they are asked for.
    """

    @property
    def copy(self) -> CopyBuffer:
        """Rows for `readings`, sorted by primary key, without duplicates."""
    @property
    def latest(self) -> CopyBuffer:
        """Newest row of each series (agent, device name, metric)."""
    def heads(self) -> CopyBuffer:
        """Key of the first row of each message that has rows, in the order of the rows."""
    def split(self, found: Sequence[int]) -> tuple[CopyBuffer, CopyBuffer]:
        """`copy` without the messages whose heads were found, and these alone."""
    @property
    def days(self) -> list[int]:
        """Days (since 1970-01-01, UTC) that the rows touch, ascending."""
    def unmarked(self, marks: Marks, closed_before: int) -> tuple[list[str], list[int]]:
        """Agents, and hours since 1970, to be marked before the rows are committed.

        Hours before `closed_before` always must, others where `marks` does not know them.
        """
    def marked(self, marks: Marks) -> None:
        """Remember the hours that the rows touch, once their marks are committed."""
    @property
    def messages(self) -> int:
        """Messages decided; waiting ones are not among them."""
    @property
    def readings(self) -> int:
        """Readings seen: `rows + duplicates + dropped + rejected`."""
    @property
    def rows(self) -> int: ...
    @property
    def duplicates(self) -> int:
        """Readings that a later one of the same key in this batch replaced."""
    @property
    def collisions(self) -> int:
        """Those of the duplicates whose device differs from that of the row kept."""
    @property
    def dropped(self) -> int: ...
    @property
    def rejected(self) -> int: ...
    @property
    def unknown_fields(self) -> int:
        """Fields of compacted messages that their dictionary does not know; left out."""
    @property
    def rejects(self) -> list[Reject]: ...
    @property
    def waiting(self) -> list[Waiting]: ...
    @property
    def tallies(self) -> list[Tally]:
        """The decided messages, summed over each agent of each entry."""
    @property
    def outcomes(self) -> list[Outcome]:
        """One for every message decided."""
    @property
    def oldest_received_ms(self) -> int:
        """Earliest reception of a message in the batch, epoch milliseconds; 0 if unknown."""

@final
class Accepted:
    """Numbers of accepted messages by agent, for the loss ledger."""

    def __new__(cls, *entries: list[bytes]) -> Accepted:
        """Count the messages of stream entries, each `[header, payload, …]`."""
    def add(self, others: Accepted) -> None:
        """Count what the others counted."""
    def __len__(self) -> int:
        """Fields of the ledger."""
    def agents(self) -> list[str]:
        """UUIDs of those that can be told."""
    def pack(self) -> bytes:
        """`[field, number, …]` of the ledger as one array of MessagePack."""

@final
class Marks:
    """What a process has marked for the rollups: hours of agents that got rows."""

    def __new__(cls) -> Marks: ...

def encode_batch(
    entries: Sequence[tuple[bytes, Sequence[bytes]]],
    context: Context,
    *,
    now_ms: int,
    final: bool = False,
    divert_before_ms: int | None = None,
) -> Batch:
    """Decode, normalize, deduplicate, sort and encode stream entries, with the GIL released.

    An entry is `(id, [field, value, field, value, …])` as Redis gives it. A message of ours is
    the field `"{received_ms}-{sequence} {MQTT topic}"` with the payload as value, any number to
    an entry; the reference's entry forms (`data`, `compressed=1 …`) are read as well.

    With `final`, what would wait (an unknown agent, a missing dictionary) is rejected instead.
    Messages of ours whose readings are all older than `divert_before_ms` come back as waiting.
    Never raises for what stands in a message.
    """

def decode(payload: bytes, limits: Limits | None = None) -> bytes:
    """Sniff, inflate and decode a payload into canonical JSON. Raises `Undecodable`."""

def explain(topic: str | None, payload: bytes, context: Context, *, now_ms: int) -> bytes:
    """JSON report of what each stage makes of a payload: sniffed as, inflated bytes, decoded
    value, expanded value, rows, rejects. For `iotistica decode`."""

def lttb(times: Sequence[float], values: Sequence[float | None], points: int) -> list[int]:
    """Indices of at most `points` points that look most like all: largest triangle three buckets.

    Times ascend. What has no value, or none that is finite, is never among them. The GIL is
    released.
    """

def serve_broker(config: BrokerConfig) -> None:
    """Run the MQTT 5 broker until SIGTERM or SIGINT; SIGHUP reloads the credentials.

    To be called from the main thread of a process of its own. Raises `OSError` with one
    sentence when the port, the data directory or a credentials file cannot be used.
    """

def serve_door(config: DoorConfig) -> None:
    """Run the front door until SIGTERM or SIGINT; SIGHUP reads the TLS certificate again.

    To be called from the main thread of a process of its own. Raises `ValueError` for a proxy or
    an upstream that is no address, `OSError` with one sentence when the sockets or the
    certificate cannot be used.
    """
