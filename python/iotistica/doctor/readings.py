"""Checks of the table of readings: its policies or partitions, and its rollups."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from iotistica.doctor.finding import Finding, ok, problem, warning
from iotistica.doctor.place import Place
from iotistica.store.pool import Connection, Row
from iotistica.store.upkeep import Policy, policies

_PROFILE = """
SELECT to_regclass('readings') IS NOT NULL AS is_there,
       to_regclass('rollup_marks') IS NOT NULL AS is_plain
"""
_JOBS = """
SELECT j.job_id, j.proc_name AS kind, j.scheduled,
       coalesce(a.view_name, j.hypertable_name)::text AS relation,
       s.last_run_status AS status, s.total_runs AS runs, s.total_failures AS failures,
       s.job_status, s.next_start, extract(epoch FROM j.schedule_interval)::float AS period_s
FROM timescaledb_information.jobs AS j
LEFT JOIN timescaledb_information.continuous_aggregates AS a
       ON a.materialization_hypertable_schema = j.hypertable_schema
      AND a.materialization_hypertable_name = j.hypertable_name
LEFT JOIN timescaledb_information.job_stats AS s ON s.job_id = j.job_id
WHERE j.hypertable_name IS NOT NULL ORDER BY j.job_id
"""
# A policy of compression is called columnstore by newer releases.
_NEEDED = (
    ("readings", ("policy_compression", "policy_columnstore"), "compression"),
    ("readings", ("policy_retention",), "retention"),
    ("readings_1m", ("policy_refresh_continuous_aggregate",), "refresh"),
    ("readings_1h", ("policy_refresh_continuous_aggregate",), "refresh"),
    ("readings_daily", ("policy_refresh_continuous_aggregate",), "refresh"),
)
_TOMORROW = """
SELECT (SELECT count(*) FROM pg_inherits WHERE inhparent = 'readings'::regclass) AS partitions,
       EXISTS (
           SELECT FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
           WHERE i.inhparent = 'readings'::regclass AND c.relname = $1
       ) AS has_it
"""
_MARKS = """
SELECT count(DISTINCT (m.hour, m.agent_uuid)) AS waiting,
       (SELECT min(hour) FROM rollup_marks) AS oldest,
       (SELECT closed_before FROM rollup_state) AS closed_before
FROM rollup_marks AS m WHERE m.hour < (SELECT closed_before FROM rollup_state)
"""


async def check_policies(connection: Connection, place: Place) -> list[Finding]:
    """With TimescaleDB: every policy is there, scheduled, succeeds, and follows the settings."""
    if await _profile(connection) != "timescale":
        return []
    jobs = await connection.fetch(_JOBS)
    found = []
    for relation, kinds, name in _NEEDED:
        job = next((j for j in jobs if j["relation"] == relation and j["kind"] in kinds), None)
        if job is None:
            text = f"{relation} has no policy of {name}"
            advice = "add it again, as migrations 0002 and 0031 do"
            found.append(problem("policies", text, advice))
        else:
            found += _state_of(job, f"the {name} of {relation}")
    wanted = await policies(connection, place.settings)
    found += [_differs(policy) for policy in wanted if not policy.is_right]
    return found or [ok("policies", f"all {len(_NEEDED)} are there, and none has failed")]


def _state_of(job: Row, name: str) -> list[Finding]:
    if not job["scheduled"]:
        advice = f"run `SELECT alter_job({job['job_id']}, scheduled => true)`"
        return [problem("policies", f"{name} is switched off", advice)]
    if job["status"] == "Failed":
        text = f"{name} failed when it last ran, {job['failures']} times of {job['runs']}"
        advice = f"see timescaledb_information.job_errors for job {job['job_id']}"
        return [problem("policies", text, advice)]
    return []


def _differs(policy: Policy) -> Finding:
    """How far it reaches is a matter of settings, which the control process carries over."""
    has = "is missing" if policy.days is None else f"says {policy.days} days"
    text = (
        f"the {policy.kind} of {policy.relation} {has}, the settings want {policy.wanted_days} days"
    )
    advice = "the control process of the Cloud API sets it once an hour; see that it runs"
    return warning("policies", text, advice)


async def check_rollups(
    connection: Connection,
    _place: Place,
    *,
    most_hours: int = 5000,
    late: timedelta = timedelta(hours=2),
    now: datetime | None = None,
) -> list[Finding]:
    """Rollups are made soon: answers stay right without, but get slow."""
    now = now or datetime.now(UTC)
    match await _profile(connection):
        case "plain":
            [marks] = await connection.fetch(_MARKS)
            return [_marked(marks, most_hours, now - late)]
        case "timescale":
            return _refreshed(await connection.fetch(_JOBS), now)
    return []


def _marked(marks: Row, most_hours: int, before: datetime) -> Finding:
    oldest, waiting = marks["oldest"], marks["waiting"]
    advice = "see that the control process of the Cloud API runs, and what it logs"
    if oldest is not None and oldest < before and marks["closed_before"] < before:
        text = f"nobody has refreshed since {marks['closed_before']:%Y-%m-%d %H:%M} UTC"
        if marks["closed_before"].year < 2000:
            text = f"nobody has ever refreshed; readings wait from {oldest:%Y-%m-%d %H:%M} UTC on"
        return problem("rollups", text, advice)
    if waiting > most_hours:
        text = f"{waiting:,} hours of agents wait to be made"
        return warning("rollups", text, f"late data does that for a while; else {advice}")
    return ok("rollups", f"{waiting:,} hours of agents wait to be made")


def _refreshed(jobs: list[Row], now: datetime) -> list[Finding]:
    found = []
    for job in jobs:
        if job["kind"] != "policy_refresh_continuous_aggregate" or job["next_start"] is None:
            continue
        if isinstance(job["next_start"], datetime) and job["job_status"] != "Running":
            start = job["next_start"]
            if start.year > 1 and now - start > timedelta(seconds=600 + job["period_s"]):
                text = f"{job['relation']} should have been refreshed at {start:%Y-%m-%d %H:%M} UTC"
                advice = (
                    "raise timescaledb.max_background_workers and max_worker_processes, or see "
                    "whether `SELECT _timescaledb_functions.start_background_workers()` helps"
                )
                found.append(problem("rollups", text, advice))
    return found or [ok("rollups", "refreshed as scheduled")]


async def check_partitions(
    connection: Connection, _place: Place, *, now: datetime | None = None
) -> list[Finding]:
    """With plain PostgreSQL: the partition of tomorrow is there."""
    if await _profile(connection) != "plain":
        return []
    tomorrow = (now or datetime.now(UTC)) + timedelta(days=1)
    [row] = await connection.fetch(_TOMORROW, f"readings_{tomorrow:%Y%m%d}")
    if row["has_it"]:
        return [ok("partitions", f"{row['partitions']:,}, tomorrow's is there")]
    if not row["partitions"]:
        return [ok("partitions", "none, as there are no readings")]
    text = f"tomorrow's, readings_{tomorrow:%Y%m%d}, is not there; its first reading must make it"
    advice = "see that the control process of the Cloud API runs, and what it logs"
    return [warning("partitions", text, advice)]


async def _profile(connection: Connection) -> str | None:
    """None where there is no table of readings."""
    [row] = await connection.fetch(_PROFILE)
    if not row["is_there"]:
        return None
    return "plain" if row["is_plain"] else "timescale"
