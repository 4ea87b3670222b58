"""What heavy queries take from ingestion: S2 while they run, beside S2 alone.

The query is the heaviest that the API answers: exact percentiles of as many raw readings as one
question may look at. It is asked again as soon as it is answered, by `--askers` at a time, through
the store that the API uses, in a process of its own, as the API is.
"""

from __future__ import annotations

import argparse
import asyncio
import multiprocessing
import statistics
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from datetime import datetime, timedelta
from multiprocessing.connection import Connection
from uuid import UUID

import uvloop

import store
from harness import arguments, report
from iotistica.settings import Settings
from iotistica.store.metric_queries import Bounds, MetricQueries, Question
from iotistica.store.pool import open_pool
from iotistica.store.query_slots import QuerySlots


async def ask(
    told: Connection,
    database: str,
    agents: list[UUID],
    start: datetime,
    end: datetime,
    demote_after_s: float,
) -> None:
    """Answer whether to ask or to rest, and say how long each answer took."""
    pool = await open_pool(Settings.load(database_url=database), application_name="asker")
    # The count of an hour is estimated with what ingestion writes meanwhile.
    most = Bounds(readings=10 * Bounds().readings)
    queries = MetricQueries(QuerySlots(pool, demote_after_s=demote_after_s), most)
    question = Question(
        metric=store.METRICS[0],
        agents=agents,
        aggregator="avg",
        step=None,
        function=None,
        filters=(),
        percentiles=(50, 95, 99),
    )
    loop, asking = asyncio.get_running_loop(), False
    while True:
        if told.poll() or not asking:
            message = await loop.run_in_executor(None, told.recv)
            if message is None:
                await pool.close()
                return
            asking = message
            continue
        began = time.perf_counter()
        await queries.answer(store.TENANT, [question], start=start, end=end)
        told.send(time.perf_counter() - began)


def asker(told: Connection, *arguments: object) -> None:
    """Entry point of the process."""
    uvloop.run(ask(told, *arguments))  # type: ignore[arg-type]


class Askers:
    """Processes that ask, or rest."""

    def __init__(self, count: int, *arguments: object) -> None:
        self._pipes = []
        self._processes = []
        self.seconds: list[float] = []
        for _ in range(count):
            ours, theirs = multiprocessing.Pipe()
            process = multiprocessing.Process(target=asker, args=(theirs, *arguments), daemon=True)
            process.start()
            self._processes.append(process)
            self._pipes.append(ours)

    @contextmanager
    def asking(self) -> Iterator[None]:
        """Let them ask meanwhile."""
        self._tell(True)
        for pipe in self._pipes:  # all of them are at it
            self.seconds.append(pipe.recv())
        yield
        self._tell(False)
        for pipe in self._pipes:
            while pipe.poll(1):
                self.seconds.append(pipe.recv())

    def end(self) -> None:
        """Stop them, after what they have asked for."""
        self._tell(None)
        for process in self._processes:
            process.join()

    def _tell(self, what: bool | None) -> None:
        for pipe in self._pipes:
            pipe.send(what)


async def run(options: argparse.Namespace) -> None:
    """Interleaved runs of ingestion alone and beside queries."""
    async with store.servers(options) as (database, redis), AsyncExitStack() as stack:
        bench = await store.prepare(database, options)
        service = await stack.enter_async_context(store.Service.run(database, redis))
        per_series = options.rows // (options.agents * len(store.METRICS))
        asked = [UUID(agent) for agent in bench.agents[: Bounds().readings // per_series]]
        start = await bench.connection.fetchval("SELECT min(time) FROM readings")
        end = start + timedelta(milliseconds=per_series - 1)
        askers = Askers(options.askers, database, asked, start, end, options.demote_after_s)
        usage = store.Usage(bench.connection)
        await bench.ingestion(usage, service)  # it learns the fleet and its pace
        runs, baselines = [], []
        for _ in range(options.runs):
            baselines.append(await bench.ingestion(usage, service))
            with askers.asking():
                runs.append(await bench.ingestion(usage, service))
            print(f"{runs[-1]:10,.0f} readings/s; alone {baselines[-1]:10,.0f}", flush=True)
        askers.end()
        await bench.connection.close()
    report(
        bench="beside",
        runs=runs,
        baselines=baselines,
        unit="rows/s",
        as_json=options.json,
        askers=options.askers,
        answers=len(askers.seconds),
        query_s=round(statistics.median(askers.seconds), 2),
        readings_of_query=len(asked) * per_series,
    )


def main() -> None:
    """Parse the arguments and run."""
    parser = arguments(__doc__ or "")
    parser.add_argument("--rows", type=int, default=10_000_000, help="rows in the table before")
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--messages", type=int, default=24_000, help="of 60 readings, in a run")
    parser.add_argument("--entry-messages", type=int, default=50, help="messages to an entry")
    parser.add_argument("--askers", type=int, default=1, help="queries at a time")
    parser.add_argument(
        "--demote-after-s",
        type=float,
        default=Settings.model_fields["query_demote_after_s"].default,
        help="IOTISTICA_QUERY_DEMOTE_AFTER_S; 0: never",
    )
    parser.add_argument("--database-url", help="server to use instead of a private one")
    uvloop.run(run(parser.parse_args()))


if __name__ == "__main__":
    main()
