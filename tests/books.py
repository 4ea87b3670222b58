"""What the loss ledger says of a tenant, whichever process wrote it."""

from __future__ import annotations

from iotistica.streams import Streams


async def counts(redis_url: str, tenant: str) -> dict[str, dict[str, int]]:
    """Counters by agent."""
    streams = Streams(redis_url)
    try:
        return await streams.ledger.counts(tenant)
    finally:
        await streams.close()
