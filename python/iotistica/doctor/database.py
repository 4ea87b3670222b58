"""Checks of PostgreSQL: its version, its settings, what holds it up."""

from __future__ import annotations

from iotistica.doctor.finding import Finding, Level, not_checked, ok, problem, warning
from iotistica.doctor.place import Place
from iotistica.store import timescale
from iotistica.store.migration_report import State, report_of
from iotistica.store.pool import Connection
from iotistica.store.timescale import Fitness

OLDEST_MAJOR = 15
_LEVELS = {
    Fitness.GOOD: Level.OK,
    Fitness.NOTABLE: Level.OK,
    Fitness.OUTDATED: Level.WARNING,
    Fitness.REFUSED: Level.PROBLEM,
}

_SERVER = """
SELECT current_setting('server_version') AS version,
       current_setting('server_version_num')::integer / 10000 AS major,
       pg_is_in_recovery() AS is_standby
"""
_SETTINGS = """
SELECT name, setting, CASE unit WHEN '8kB' THEN setting::bigint * 8192
                                WHEN 'kB' THEN setting::bigint * 1024 END AS bytes
FROM pg_settings
WHERE name IN ('synchronous_commit', 'fsync', 'full_page_writes', 'autovacuum', 'max_connections',
               'superuser_reserved_connections', 'shared_buffers', 'work_mem')
"""
_AGE = "SELECT max(age(datfrozenxid)) FROM pg_database"
_UNLOGGED = """
SELECT array_agg(relname::text ORDER BY relname) FROM pg_class
WHERE relpersistence = 'u' AND relkind = 'r' AND relnamespace = 'public'::regnamespace
"""
_DEAD = """
SELECT relname, n_live_tup AS live, n_dead_tup AS dead,
       greatest(last_autovacuum, last_vacuum) AS vacuumed
FROM pg_stat_user_tables
WHERE n_dead_tup > $1 AND n_dead_tup > $2::double precision * (n_live_tup + n_dead_tup)
ORDER BY n_dead_tup DESC LIMIT 5
"""
_BUSY = """
SELECT pid, coalesce(application_name, '') AS name, state,
       extract(epoch FROM clock_timestamp() - xact_start)::float AS open_s,
       extract(epoch FROM clock_timestamp() - state_change)::float AS since_s
FROM pg_stat_activity
WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL
  AND backend_type = 'client backend'
ORDER BY xact_start
"""
_PREPARED = """
SELECT gid, extract(epoch FROM clock_timestamp() - prepared)::float AS open_s
FROM pg_prepared_xacts WHERE database = current_database() ORDER BY prepared
"""
_HIDDEN = """
SELECT count(*) FROM pg_stat_activity
WHERE datname = current_database() AND query = '<insufficient privilege>'
"""
_SLOTS = """
SELECT slot_name, active, wal_status,
       pg_wal_lsn_diff(CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn()
                            ELSE pg_current_wal_lsn() END, restart_lsn)::bigint AS held
FROM pg_replication_slots ORDER BY slot_name
"""


async def check_server(connection: Connection, _place: Place) -> list[Finding]:
    """It answers, is new enough, and may be written to."""
    [server] = await connection.fetch(_SERVER)
    if server["major"] < OLDEST_MAJOR:
        text = f"PostgreSQL {server['version']}; {OLDEST_MAJOR} or newer is required"
        return [problem("version", text, f"upgrade it to {OLDEST_MAJOR} or newer")]
    if server["is_standby"]:
        text = f"PostgreSQL {server['version']} is a standby, which takes no writes"
        return [problem("version", text, "let DATABASE_URL name the primary")]
    return [ok("version", f"PostgreSQL {server['version']}")]


async def check_schema(connection: Connection, _place: Place) -> list[Finding]:
    """Every migration is applied, and unchanged."""
    report = await report_of(connection)
    names = {state: [e.name for e in report.entries if e.state is state] for state in State}
    found = []
    if missing := names[State.MISSING]:
        text = f"{len(missing)} migrations are missing, the first {missing[0]}"
        found.append(problem("schema", text, "run `iotistica migrate`"))
    if changed := names[State.CHANGED]:
        text = f"{changed[0]} was changed after it was applied"
        found.append(problem("schema", text, "restore the file of the release"))
    if unknown := names[State.UNKNOWN]:
        text = f"{unknown[-1]} is of a newer release"
        found.append(problem("schema", text, "run the newer release"))
    count = len(names[State.APPLIED])
    return found or [ok("schema", f"profile {report.profile}, all {count} migrations")]


async def check_timescale(connection: Connection, _place: Place) -> list[Finding]:
    """TimescaleDB, where readings are kept in it, is new enough."""
    report = await report_of(connection)
    if report.profile != "timescale":
        return []
    verdict = await timescale.verdict(connection)
    return [Finding(_LEVELS[verdict.fitness], "TimescaleDB", verdict.text, verdict.advice)]


async def check_settings(connection: Connection, place: Place) -> list[Finding]:
    """No setting loses data, or makes it slow."""
    rows = {row["name"]: row for row in await connection.fetch(_SETTINGS)}
    found = []
    for name, bad in (("synchronous_commit", "off"), ("fsync", "off"), ("full_page_writes", "off")):
        if rows[name]["setting"] == bad:
            text = f"{name} is off: a crash loses readings that were acknowledged"
            found.append(problem("settings", text, f"set {name} = on"))
    if rows["autovacuum"]["setting"] == "off":
        text = "autovacuum is off: tables grow, until PostgreSQL stops taking writes"
        found.append(problem("settings", text, "set autovacuum = on"))
    for name, least in (("shared_buffers", 128 << 20), ("work_mem", 4 << 20)):
        if (size := rows[name]["bytes"]) < least:
            text = f"{name} is {size / (1 << 20):g} MiB"
            found.append(warning("settings", text, f"set {name} to {least >> 20}MB at least"))
    found += _connections(
        int(rows["max_connections"]["setting"]),
        int(rows["superuser_reserved_connections"]["setting"]),
        place,
    )
    return found or [ok("settings", "none that loses data or makes it slow")]


def _connections(most: int, reserved: int, place: Place) -> list[Finding]:
    """Pools of one Cloud API and one Ingestion; how many more there are is not known here."""
    settings = place.settings
    wide = settings.web_processes + settings.control_processes + 1
    wanted = wide * settings.database_pool_size + settings.bridge_processes
    if wanted <= most - reserved:
        return []
    text = (
        f"max_connections is {most}, {reserved} of them reserved; one Cloud API and one Ingestion "
        f"may open {wanted}"
    )
    advice = "raise max_connections, or lower IOTISTICA_DATABASE_POOL_SIZE"
    return [warning("settings", text, advice)]


async def check_bloat(
    connection: Connection, _place: Place, *, rows: int = 50_000, share: float = 0.3
) -> list[Finding]:
    """Dead rows are removed: no table has so many of them, and such a share."""
    found = [
        warning(
            "bloat",
            f"table {one['relname']} has {one['dead']:,} dead rows beside {one['live']:,}, "
            + (
                f"vacuumed {one['vacuumed']:%Y-%m-%d %H:%M} UTC"
                if one["vacuumed"]
                else "never vacuumed"
            ),
            f"run `VACUUM {one['relname']}`; see that no long transaction holds it up",
        )
        for one in await connection.fetch(_DEAD, rows, share)
    ]
    return found or [ok("bloat", "no table has many dead rows")]


async def check_age(
    connection: Connection, _place: Place, *, high: int = 500_000_000, most: int = 1_500_000_000
) -> list[Finding]:
    """Transaction ids are far from used up."""
    age = await connection.fetchval(_AGE)
    text = f"the oldest transaction id is {age:,} old; at 2,147,483,647 writes stop"
    advice = "run `VACUUM (FREEZE)`, and find what holds autovacuum up"
    if age >= most:
        return [problem("transaction ids", text, advice)]
    if age >= high:
        return [warning("transaction ids", text, advice)]
    return [ok("transaction ids", f"the oldest is {age:,} old")]


async def check_transactions(
    connection: Connection, _place: Place, *, idle_s: float = 60.0, open_s: float = 1800.0
) -> list[Finding]:
    """No transaction stays open: it keeps dead rows from being removed."""
    found = []
    for one in await connection.fetch(_BUSY):
        who = f"process {one['pid']} ({one['name'] or 'no name'})"
        advice = f"end it with `SELECT pg_terminate_backend({one['pid']})`, and mend the client"
        if one["state"].startswith("idle in transaction") and one["since_s"] >= idle_s:
            text = f"{who} has been idle in a transaction for {one['since_s']:.0f} s"
            found.append(warning("transactions", text, advice))
        elif one["open_s"] >= open_s:
            text = f"a transaction of {who} has been open for {one['open_s']:.0f} s"
            found.append(warning("transactions", text, advice))
    for one in await connection.fetch(_PREPARED):
        if one["open_s"] >= idle_s:
            text = f"transaction {one['gid']!r} was prepared {one['open_s']:.0f} s ago"
            advice = f"run `ROLLBACK PREPARED '{one['gid']}'`, or commit it"
            found.append(warning("transactions", text, advice))
    if await connection.fetchval(_HIDDEN):
        why = "this user sees no transactions of others"
        found.append(not_checked("transactions", why, "grant it pg_read_all_stats"))
    return found or [ok("transactions", "none is open for long")]


async def check_slots(
    connection: Connection, _place: Place, *, most_bytes: int = 1 << 30
) -> list[Finding]:
    """No replication slot keeps the write-ahead log from being removed."""
    found = []
    for one in await connection.fetch(_SLOTS):
        name, held = one["slot_name"], one["held"] or 0
        advice = f"start its reader, or run `SELECT pg_drop_replication_slot('{name}')`"
        if one["wal_status"] in ("lost", "unreserved"):
            text = f"slot {name} is {one['wal_status']}: its reader cannot go on"
            found.append(problem("replication slots", text, advice))
        elif not one["active"] and held >= most_bytes:
            text = f"slot {name} has no reader and holds {held / (1 << 20):,.0f} MiB of the log"
            found.append(warning("replication slots", text, advice))
    return found or [ok("replication slots", "none holds the log")]


async def check_unlogged(connection: Connection, _place: Place) -> list[Finding]:
    """Every table survives a crash."""
    tables = await connection.fetchval(_UNLOGGED)
    if not tables:
        return [ok("unlogged tables", "there are none")]
    text = f"a crash empties {', '.join(tables[:5])}"
    return [problem("unlogged tables", text, f"run `ALTER TABLE {tables[0]} SET LOGGED`")]
