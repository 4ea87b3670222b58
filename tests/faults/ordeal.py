"""A million hostile payloads through `encode_batch`, in this process, among good neighbors."""

from __future__ import annotations

import os
import resource
import sys
import time
from argparse import ArgumentParser
from collections import Counter
from dataclasses import dataclass, field, fields
from pathlib import Path

import orjson
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from tests.faults.hostile import READINGS, Hostile

from iotistica._native import Batch, Context, encode_batch, format_topic

TENANT = "73eddd385ce8"
HOSTILE_AGENT = "0e6f3c1e-5b52-4a0e-8e0e-9d6a9b1f7c01"
GOOD_AGENT = "0e6f3c1e-5b52-4a0e-8e0e-9d6a9b1f7c02"
NOW_MS = 1_795_454_000_000
_HOSTILE_PER_BATCH = 240
_GOOD_EVERY = 4
MAX_GROWTH_MIB = 96
"""A batch may hold that much at its worst: one inflate buffer, one arena, the payloads."""
MAX_BATCH_S = 5.0


@dataclass(slots=True)
class Findings:
    """What became of the payloads. All counts but the last three are of messages."""

    hostile: int = 0
    rejected: int = 0
    in_part: int = 0
    """Of those: some of their readings were good, and stored."""
    stored: int = 0
    """What a mutation left valid."""
    empty: int = 0
    """Decoded, and without a reading."""
    undecided: int = 0
    good: int = 0
    good_suffered: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    kinds: Counter[str] = field(default_factory=Counter)
    slowest_batch_s: float = 0.0
    first_mib: float = 0.0
    peak_mib: float = 0.0

    @property
    def well(self) -> bool:
        """Whether every promise was kept."""
        return (
            self.undecided == self.good_suffered == 0
            and self.peak_mib - self.first_mib <= MAX_GROWTH_MIB
            and self.slowest_batch_s <= MAX_BATCH_S
        )


class Ordeal:
    """Feeds batches; `findings` grows."""

    def __init__(self, seed: str) -> None:
        self._hostile = Hostile(seed, HOSTILE_AGENT, now_us=NOW_MS * 1000)
        self._good = Hostile(f"good/{seed}", GOOD_AGENT, now_us=NOW_MS * 1000)
        self._context = Context(TENANT)
        self._context.add_agents([HOSTILE_AGENT, GOOD_AGENT])
        for agent, maker in ((HOSTILE_AGENT, self._hostile), (GOOD_AGENT, self._good)):
            self._context.put_dictionary(agent, 1, maker.dictionary)
        self._topics = {
            agent: format_topic(TENANT, agent, "endpoints/modbus").encode()
            for agent in (HOSTILE_AGENT, GOOD_AGENT)
        }
        self.findings = Findings()

    def batch(self, hostile: int = _HOSTILE_PER_BATCH) -> None:
        """Encode one batch of so many hostile payloads, every fifth message a good one."""
        entry: list[bytes] = []
        good: set[int] = set()

        def add(agent: str, payload: bytes) -> None:
            header = b"%d-%d %b" % (NOW_MS, len(entry) // 2, self._topics[agent])
            entry.extend((header, payload))

        for number in range(hostile):
            kind, payload = self._hostile.make()
            self.findings.kinds[kind] += 1
            add(HOSTILE_AGENT, payload)
            if number % _GOOD_EVERY == 0:
                good.add(len(entry) // 2)
                add(GOOD_AGENT, self._good.good(number))
        began = time.perf_counter()
        batch = encode_batch([(b"1-0", entry)], self._context, now_ms=NOW_MS, final=True)
        took_s = time.perf_counter() - began
        self.findings.slowest_batch_s = max(self.findings.slowest_batch_s, took_s)
        self._judge(batch, len(entry) // 2, good)

    def _judge(self, batch: Batch, messages: int, good: set[int]) -> None:
        found = self.findings
        rejected = {reject.message for reject in batch.rejects}
        found.reasons.update(reject.reason for reject in batch.rejects)
        outcomes = {outcome.message: outcome for outcome in batch.outcomes}
        for message in range(messages):
            outcome = outcomes.get(message)
            if message in good:
                found.good += 1
                found.good_suffered += outcome is None or outcome.rows != READINGS
                continue
            found.hostile += 1
            if outcome is None or (outcome.rejected and message not in rejected):
                found.undecided += 1
            elif message in rejected:
                found.rejected += 1
                found.in_part += bool(outcome.rows)
            elif outcome.rows or outcome.duplicates or outcome.dropped:
                found.stored += 1
            else:
                found.empty += 1
        now_mib = _resident_mib()
        found.first_mib = found.first_mib or now_mib
        found.peak_mib = max(found.peak_mib, now_mib)


def fate(payload: bytes, agent: str) -> str | None:
    """Why a message of an agent without a dictionary is rejected now; None where it is taken."""
    context = Context(TENANT)
    context.add_agents([agent])
    topic = format_topic(TENANT, agent, "endpoints/modbus")
    now_ms = time.time_ns() // 1_000_000
    entry = (b"1-0", [f"{now_ms}-0 {topic}".encode(), payload])
    rejects = encode_batch([entry], context, now_ms=now_ms, final=True).rejects
    return rejects[0].reason if rejects else None


def _resident_mib() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 2**20


def run(count: int, seed: str, console: Console) -> Findings:
    """Feed at least `count` payloads."""
    ordeal = Ordeal(seed)
    # Bombs once, so that what the allocator keeps is not taken for a leak.
    ordeal.batch()
    ordeal.findings.first_mib = 0.0
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("hostile payloads", total=count)
        while ordeal.findings.hostile < count:
            ordeal.batch()
            progress.update(task, completed=ordeal.findings.hostile)
    return ordeal.findings


def main(description: str) -> int:
    """The command of `tests.faults.hostile`."""
    parser = ArgumentParser(prog="python -m tests.faults.hostile", description=description)
    parser.add_argument("--count", type=int, default=1_000_000, help="payloads (default 1000000)")
    parser.add_argument("--seed", default="1", help="the same seed, the same payloads")
    parser.add_argument("--json", action="store_true", help="one JSON object on the last line")
    options = parser.parse_args()
    began = time.monotonic()
    findings = run(options.count, options.seed, Console(stderr=True))
    seconds = time.monotonic() - began
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    console = Console(width=None if sys.stdout.isatty() else 100)
    console.print(_table("kind", findings.kinds), _table("reason", findings.reasons))
    console.print(
        f"{findings.hostile:,} hostile payloads in {seconds:.0f} s: {findings.rejected:,} rejected "
        f"({findings.in_part:,} of them in part), {findings.stored:,} stored, "
        f"{findings.empty:,} without a reading, {findings.undecided:,} undecided; "
        f"{findings.good:,} good neighbors, {findings.good_suffered:,} of them suffered; slowest "
        f"batch {findings.slowest_batch_s * 1000:.0f} ms; memory {findings.first_mib:.0f} MiB "
        f"after the first batch, at most {findings.peak_mib:.0f} MiB between batches, "
        f"{peak_mib:.0f} MiB ever",
        highlight=False,
    )
    if options.json:
        line = {one.name: getattr(findings, one.name) for one in fields(findings)}
        line |= {"peak_rss_mib": peak_mib, "seconds": seconds, "well": findings.well}
        sys.stdout.write(orjson.dumps(line).decode() + "\n")
    return 0 if findings.well else 1


def _table(name: str, counts: Counter[str]) -> Table:
    table = Table(name, "messages" if name == "kind" else "rejects")
    table.columns[1].justify = "right"
    for what, count in counts.most_common():
        table.add_row(what, f"{count:,}")
    return table
