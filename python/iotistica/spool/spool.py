"""The spool of one process: a directory of segments, oldest first.

A batch is safe once `put` returns: its segment was written under a temporary name, synced, renamed,
and the directory synced. Nothing is ever deleted to make room; a full spool refuses.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from iotistica import log
from iotistica.errors import StoreUnavailable
from iotistica.spool import segment
from iotistica.spool.segment import Batch, Damage

SUFFIX = ".segment"
QUARANTINE = "quarantine"
_LOCK = "lock"
_TEMPORARY = ".tmp"
_MAX_PLACES = 1000
_SEGMENT_BYTES = 64 << 20

_LOG = log.get(__name__)


class SpoolFull(StoreUnavailable):
    """The spool takes no more: its bound is reached, or its disk does not take the bytes."""


@dataclass(frozen=True, slots=True)
class _Place:
    """A directory, and the lock that makes it ours."""

    directory: Path
    lock: int


@dataclass(frozen=True, slots=True)
class _Queued:
    """A batch that waits for the disk."""

    batch: Batch
    body: bytes
    done: asyncio.Future[None]


class Spool:
    """Segments of one process. Batches that are put while a segment is being written share the
    next one, so that a slow disk costs time and not throughput.

    It takes the first place under `root` that no running process has: so what a process that is
    gone has left finds a new owner. A disk that cannot be used is no reason not to start: `error`
    says so, and every `put` tries again.
    """

    def __init__(self, root: Path, *, max_bytes: int) -> None:
        self._root = root
        self._max_bytes = max_bytes
        self._segment_bytes = min(max_bytes, _SEGMENT_BYTES)
        self._place: _Place | None = None
        self._sizes: dict[str, int] = {}
        self._queue: list[_Queued] = []
        self._writing: asyncio.Task[None] | None = None
        self._last_ns = 0
        self.quarantined = 0
        """Damaged files that were put aside."""
        self.error: str | None = None
        """Why the last attempt to write failed."""
        with contextlib.suppress(SpoolFull):
            self._open()

    @property
    def bytes(self) -> int:
        """Bytes of all segments."""
        return sum(self._sizes.values())

    @property
    def segments(self) -> int:
        """Segments that wait."""
        return len(self._sizes)

    @property
    def pressure(self) -> float:
        """Share of its bound that is in use."""
        return self.bytes / self._max_bytes

    async def put(self, *batches: Batch) -> None:
        """Keep batches; on disk when it returns. Raises `SpoolFull`; then nothing was kept."""
        loop = asyncio.get_running_loop()
        queued = [_Queued(batch, batch.encode(), loop.create_future()) for batch in batches]
        self._queue += queued
        if self._writing is None or self._writing.done():
            self._writing = loop.create_task(self._write_queued())
        results = await asyncio.gather(*(one.done for one in queued), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    async def recheck(self) -> None:
        """After a failure, find out whether the disk takes bytes again, without any to keep."""
        if self.error is None or self._queue or self.bytes >= self._max_bytes:
            return
        try:
            path = self.directory / f"check{_TEMPORARY}"
            await asyncio.to_thread(write_durably, path, b"?")
            path.unlink()
        except (OSError, SpoolFull):
            return
        self.error = None

    def names(self) -> list[str]:
        """All segments, oldest first."""
        return sorted(self._sizes)

    async def read(self, name: str) -> tuple[list[Batch], Damage | None]:
        """Whole batches of a segment, and what is damaged. A file that cannot be read at all is
        damaged as a whole.
        """
        try:
            return await asyncio.to_thread(segment.read, self.directory / name)
        except OSError as error:
            return [], Damage(0, f"the file cannot be read: {error.strerror}")

    async def remove(self, name: str) -> None:
        """Forget a segment whose batches are done. Raises `StoreUnavailable`."""
        try:
            await asyncio.to_thread((self.directory / name).unlink, missing_ok=True)
        except OSError as error:
            self.error = f"segment {name} cannot be removed: {error.strerror}"
            raise StoreUnavailable(self.error) from None
        self._sizes.pop(name, None)

    async def done(self, name: str, damage: Damage | None) -> None:
        """Forget a segment whose whole batches are done; one that is damaged stays as evidence.

        Raises `StoreUnavailable`.
        """
        if damage is None:
            await self.remove(name)
        else:
            await self.quarantine(name, damage)

    async def quarantine(self, name: str, damage: Damage) -> None:
        """Put a damaged file aside, so that it blocks nobody. Raises `StoreUnavailable`."""
        _LOG.error("segment is damaged; it is put aside", segment=name, damage=str(damage))
        aside = self.directory / QUARANTINE
        try:
            aside.mkdir(mode=0o700, exist_ok=True)
            await asyncio.to_thread((self.directory / name).rename, aside / name)
        except FileNotFoundError:
            pass
        except OSError as error:
            self.error = f"segment {name} cannot be put aside: {error.strerror}"
            raise StoreUnavailable(self.error) from None
        self._sizes.pop(name, None)
        self.quarantined += 1

    async def adopt(self) -> int:
        """Take over what processes that run no more have left beside us; how many segments."""
        try:
            return await asyncio.to_thread(self._adopt)
        except SpoolFull:
            return 0  # `error` says why
        except OSError as error:
            self.error = f"the spools in {self._root} cannot be looked at: {error.strerror}"
            return 0

    def close(self) -> None:
        """Give the place up. What waits stays on disk."""
        if self._place is not None:
            os.close(self._place.lock)
            self._place = None

    @property
    def directory(self) -> Path:
        """Directory of this process's segments. Raises `SpoolFull` where none can be had."""
        return (self._place or self._open()).directory

    def _open(self) -> _Place:
        try:
            place = _take_place(self._root)
            aside = place.directory / QUARANTINE
            self.quarantined = len(list(aside.iterdir())) if aside.is_dir() else 0
            for path in place.directory.iterdir():
                if path.name.endswith(_TEMPORARY):
                    path.unlink()  # never acknowledged
                elif path.name.endswith(SUFFIX):
                    self._sizes[path.name] = path.stat().st_size
        except OSError as error:
            self.error = f"the spool in {self._root} cannot be used: {error.strerror}"
            raise SpoolFull(self.error) from None
        self._place = place
        return place

    def _adopt(self) -> int:
        adopted = 0
        for place in sorted(self._root.iterdir()):
            if place == self.directory or not any(place.glob(f"*{SUFFIX}")):
                continue
            lock = _try_lock(place)
            if lock is None:
                continue
            for path in place.glob(f"*{SUFFIX}"):
                size = path.stat().st_size
                path.rename(self.directory / path.name)
                self._sizes[path.name] = size
                adopted += 1
            os.close(lock)
        if adopted:
            _sync_directory(self.directory)
        return adopted

    async def _write_queued(self) -> None:
        while self._queue:
            taken = self._take()
            if taken:
                failure = await self._write(taken)
            else:
                taken, self._queue = self._queue, []
                failure = SpoolFull(
                    f"the spool in {self._root} holds {self.bytes} bytes; "
                    f"its bound is {self._max_bytes}"
                )
            self.error = None if failure is None else str(failure)
            for one in taken:
                if one.done.done():
                    continue
                if failure is None:
                    one.done.set_result(None)
                else:
                    one.done.set_exception(failure)

    def _take(self) -> list[_Queued]:
        """As much of the queue as one segment and the bound hold."""
        bound = self._max_bytes - self.bytes
        size, count = 0, 0
        for one in self._queue:
            size += len(one.body)
            # The first may exceed a segment's usual size, but not the bound.
            if size > bound or (count and size > self._segment_bytes):
                break
            count += 1
        taken, self._queue = self._queue[:count], self._queue[count:]
        return taken

    async def _write(self, taken: Sequence[_Queued]) -> SpoolFull | None:
        data = segment.encode([(one.batch, one.body) for one in taken])
        self._last_ns = max(time.time_ns(), self._last_ns + 1)
        name = f"{self._last_ns:020d}-{os.getpid()}{SUFFIX}"
        try:
            await asyncio.to_thread(write_durably, self.directory / name, data)
        except SpoolFull as error:
            return error
        except OSError as error:
            return SpoolFull(f"the spool in {self._root} cannot be written: {error.strerror}")
        self._sizes[name] = len(data)
        return None


def write_durably(path: Path, data: bytes) -> None:
    """The whole file or none, on disk when it returns. Raises `OSError`."""
    temporary = path.with_name(path.name + _TEMPORARY)
    try:
        with temporary.open("xb", buffering=0) as file:
            view = memoryview(data)
            while view:
                view = view[file.write(view) :]
            os.fsync(file.fileno())
        temporary.rename(path)
        _sync_directory(path.parent)
    except BaseException:
        for part in (temporary, path):
            with contextlib.suppress(OSError):
                part.unlink(missing_ok=True)
        raise


def _sync_directory(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _take_place(root: Path) -> _Place:
    for number in range(_MAX_PLACES):
        directory = root / str(number)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (lock := _try_lock(directory)) is not None:
            return _Place(directory, lock)
    raise OSError(errno.EBUSY, f"all {_MAX_PLACES} places are taken")


def _try_lock(place: Path) -> int | None:
    """Hold a place while this process lives; None where another one does. Raises `OSError`."""
    descriptor = os.open(place / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(descriptor)
        return None
    return descriptor
