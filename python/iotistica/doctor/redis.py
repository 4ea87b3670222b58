"""Checks of Redis: it must refuse rather than forget, and what it has accepted must survive."""

from __future__ import annotations

from iotistica.doctor.finding import Finding, not_checked, ok, problem, warning
from iotistica.doctor.place import Place
from iotistica.keys import Feed
from iotistica.store.inspection import inspected
from iotistica.streams import Streams
from iotistica.streams.inspection import Inspection

OLDEST_MAJOR = 7
_MIB = 1 << 20
_TENANTS = "SELECT id FROM tenants ORDER BY id LIMIT $1"
_MOST_TENANTS = 500


async def check_version(redis: Inspection, _place: Place) -> list[Finding]:
    """It is new enough, and takes writes."""
    server = await redis.info("server")
    name = "Valkey" if "valkey_version" in server else "Redis"
    version = str(server.get("valkey_version") or server.get("redis_version"))
    # Valkey states the version of Redis that it is compatible with.
    major = str(server.get("redis_version")).partition(".")[0]
    if not major.isdecimal() or int(major) < OLDEST_MAJOR:
        text = f"{name} {version}; {OLDEST_MAJOR} or newer is required"
        return [problem("version", text, "upgrade it")]
    if (await redis.info("replication")).get("role") != "master":
        text = f"{name} {version} is a replica, which takes no writes"
        return [problem("version", text, "let REDIS_URL name the primary")]
    return [ok("version", f"{name} {version}")]


async def check_memory_policy(redis: Inspection, _place: Place) -> list[Finding]:
    """A full Redis refuses; it evicts nothing."""
    policy = (await redis.info("memory")).get("maxmemory_policy")
    if policy == "noeviction":
        return [ok("memory policy", "noeviction")]
    text = f"maxmemory-policy is {policy}: a full Redis throws accepted messages away"
    return [problem("memory policy", text, "run `CONFIG SET maxmemory-policy noeviction`")]


async def check_memory(redis: Inspection, place: Place) -> list[Finding]:
    """There is a limit, and room below it."""
    memory = await redis.info("memory")
    used, limit = memory["used_memory"], memory.get("maxmemory", 0)
    if not limit:
        text = "maxmemory is not set: the kernel ends a Redis that takes all there is"
        return [warning("memory", text, "set maxmemory to half of the machine's memory")]
    text = f"{used / _MIB:,.0f} of {limit / _MIB:,.0f} MiB are used"
    high = place.settings.redis_memory_high_pct
    if 100 * used < high * limit:
        return [ok("memory", text)]
    advice = "see that ingestion runs, or raise maxmemory"
    return [warning("memory", f"{text}; from {high:g} % on messages go to disk", advice)]


async def check_persistence(redis: Inspection, _place: Place) -> list[Finding]:
    """What was accepted is on disk."""
    state = await redis.info("persistence")
    if not state.get("aof_enabled"):
        text = "appendonly is off: messages that were accepted are gone with a crash"
        advice = "run `CONFIG SET appendonly yes`, and write it into redis.conf"
        return [problem("persistence", text, advice)]
    if (status := state.get("aof_last_write_status")) != "ok":
        text = f"the last write to the append-only file ended with {status}"
        return [problem("persistence", text, "see the log of Redis; the disk may be full")]
    match await redis.setting("appendfsync"):
        case None:
            return [not_checked("persistence", "appendonly is on; CONFIG GET is not allowed")]
        case "no":
            text = "appendfsync is no: a power cut loses what the kernel had not written"
            advice = "run `CONFIG SET appendfsync always`, or everysec"
            return [problem("persistence", text, advice)]
        case "everysec":
            text = "appendfsync is everysec: a power cut loses a second of accepted messages"
            advice = "run `CONFIG SET appendfsync always` if none may be lost (docs/durability.md)"
            return [warning("persistence", text, advice)]
        case fsync:
            return [ok("persistence", f"appendonly is on, appendfsync {fsync}")]


async def check_streams(_redis: Inspection, place: Place) -> list[Finding]:
    """Ingestion keeps up with every tenant, and dead letters are few."""
    settings = place.settings
    if settings.database_url is None:
        return [not_checked("streams", "DATABASE_URL is not set, so tenants are not known")]
    async with inspected(settings.database_url) as connection:
        tenants = [row["id"] for row in await connection.fetch(_TENANTS, _MOST_TENANTS)]
    streams, found, letters, unread = Streams.of(settings), [], 0, 0
    try:
        for tenant in tenants:
            for feed in Feed:
                depth = await streams.depth(tenant, feed)
                unread += depth.lag
                if depth.entries >= settings.stream_high_entries:
                    text = (
                        f"the {feed.name.lower()} stream of {tenant} has {depth.entries:,} entries"
                    )
                    advice = "see that ingestion runs and keeps up (docs/ingestion.md)"
                    found.append(warning("streams", text, advice))
        counts = await streams.dead_letter_counts(tenants)
        letters = sum(counts.values())
        for tenant, count in counts.items():
            if count >= 0.8 * settings.dlq_max_entries:
                text = f"{tenant} has {count:,} dead letters"
                advice = f"run `iotistica dlq list --tenant {tenant}` (docs/dead-letters.md)"
                found.append(warning("dead letters", text, advice))
    finally:
        await streams.close()
    text = f"{unread:,} entries of {len(tenants):,} tenants are unread, {letters:,} dead letters"
    return found or [ok("streams", text)]
