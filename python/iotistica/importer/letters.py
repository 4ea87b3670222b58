"""Dead letters of lines that cannot be imported, each written once however often one tries."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime

import orjson

from iotistica.importer.refusal import Refused
from iotistica.streams import DeadLetter, Filter, Streams

_AT_ONCE = 500


class Postbox:
    """Writes letters to the dead letters of one tenant, and what is done to its ledger."""

    def __init__(self, tenant: str, streams: Streams) -> None:
        self._tenant = tenant
        self._streams = streams
        self._known: set[str] = set()

    async def look(self) -> None:
        """See which letters an earlier run has written. Raises `StoreUnavailable`."""
        async for page in self._streams.letters.pages(self._tenant, Filter()):
            self._known |= {str(letter.dead.original_id) for letter in page.letters}

    async def put(self, refused: Sequence[Refused], counts: Mapping[str, int]) -> int:
        """Write and count; how many letters are new. Raises `StoreUnavailable`."""
        letters = [
            letter for letter in map(_letter, refused) if letter.original_id not in self._known
        ]
        for at in range(0, max(len(letters), 1), _AT_ONCE):
            some = letters[at : at + _AT_ONCE]
            if some or counts:
                await self._streams.dead_letter(self._tenant, some, counts)
            counts = {}
        return len(letters)


def _letter(one: Refused) -> DeadLetter:
    """As telemetry would have written it; what is no message cannot be replayed."""
    refusal, message, reject = one.refusal, one.message, one.reject
    now = datetime.now(UTC)
    cells = (
        {} if one.line is None else dict(zip(one.line.layout.header, one.line.cells, strict=True))
    )
    return DeadLetter(
        data=message.payload if message else orjson.dumps(_printable(cells), default=str),
        topic=message.header.partition(b" ")[2] if message else b"",
        original_id=f"{refusal.file}:{refusal.line}:{refusal.column or ''}",
        error=str(refusal),
        reason=refusal.reason,
        stage=reject.stage if reject else "commit" if message else "import",
        agent=(reject.agent or "") if reject else "",
        readings=1,
        failed_at=now,
        received_ms=int(now.timestamp() * 1000),
    )


def _printable(cells: Mapping[str, object]) -> dict[str, object]:
    def clean(text: object) -> object:
        return text.encode(errors="replace").decode() if isinstance(text, str) else text

    return {str(clean(name)): clean(cell) for name, cell in cells.items()}
