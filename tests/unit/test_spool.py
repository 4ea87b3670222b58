"""The disk spool: files by value, damage of every kind, bounds, and who owns what."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from iotistica.spool import Batch, Damage, Kind, Spool, SpoolFull, inventory, segment

batches = st.builds(
    Batch,
    name=st.text(min_size=1, max_size=12),
    tenant=st.sampled_from(["73eddd385ce8", "self-hosted"]),
    kind=st.sampled_from(Kind),
    entries=st.lists(
        st.tuples(st.binary(max_size=20), st.lists(st.binary(max_size=200), max_size=6)), max_size=4
    ),
    messages=st.integers(0, 1000),
    again=st.booleans(),
    counts=st.dictionaries(st.text(max_size=10), st.integers(-5, 2**40), max_size=3),
)


def encoded(*these: Batch) -> bytes:
    return segment.encode([(batch, batch.encode()) for batch in these])


def batch(name: str = "b", *, size: int = 10, tenant: str = "t") -> Batch:
    return Batch(
        name=name,
        tenant=tenant,
        kind=Kind.LIVE,
        entries=[(b"1-0", [b"1-0 topic", bytes(size)])],
        messages=1,
    )


@given(st.lists(batches, max_size=4))
def test_a_segment_gives_back_what_was_put(these: list[Batch]) -> None:
    assert segment.decode(encoded(*these)) == (these, None)


@given(st.lists(batches, min_size=1, max_size=3), st.data())
def test_no_damage_raises_or_goes_unseen(these: list[Batch], data: st.DataObject) -> None:
    whole = encoded(*these)
    at = data.draw(st.integers(0, len(whole) - 5))
    damaged = bytearray(whole)
    damaged[at] ^= data.draw(st.integers(1, 255))
    found, damage = segment.decode(bytes(damaged))
    assert damage is not None
    assert all(one in these for one in found)


@given(st.lists(batches, min_size=1, max_size=3), st.data())
def test_a_torn_file_keeps_its_whole_batches(these: list[Batch], data: st.DataObject) -> None:
    whole = encoded(*these)
    # The last four bytes serve the inventory alone.
    cut = data.draw(st.integers(0, len(whole) - 5))
    found, damage = segment.decode(whole[:cut])
    assert damage is not None
    assert found == these[: len(found)]


@given(st.binary(max_size=200))
def test_any_bytes_are_damage(noise: bytes) -> None:
    found, damage = segment.decode(noise)
    assert found == []
    assert damage is not None
    found, damage = segment.decode(segment.MAGIC + noise)
    assert damage is not None


def test_a_flipped_bit_costs_its_batch_alone() -> None:
    these = [batch("a"), batch("b", size=100), batch("c")]
    whole = bytearray(encoded(*these))
    whole[whole.index(bytes(100)) + 50] ^= 1
    found, damage = segment.decode(bytes(whole))
    assert [one.name for one in found] == ["a", "c"]
    assert damage == Damage(damage.offset if damage else 0, "the checksum does not match")


async def test_what_is_put_is_on_disk_and_comes_back_in_order(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=1 << 20)
    for number in range(3):
        await spool.put(batch(f"b{number}"))
    spool.close()
    spool = Spool(tmp_path, max_bytes=1 << 20)
    names = []
    for name in spool.names():
        found, damage = await spool.read(name)
        assert damage is None
        names += [one.name for one in found]
        await spool.remove(name)
    assert names == ["b0", "b1", "b2"]
    assert (spool.bytes, spool.segments) == (0, 0)
    assert [path.name for path in spool.directory.iterdir()] == ["lock"]


async def test_batches_put_at_once_share_a_sync(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=1 << 20)
    await asyncio.gather(*(spool.put(batch(str(number))) for number in range(50)))
    assert spool.segments <= 2


async def test_a_full_spool_refuses_and_keeps_what_it_has(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=2000)
    await spool.put(batch(size=1000))
    with pytest.raises(SpoolFull, match="its bound is 2000"):
        await spool.put(batch(size=1000))
    assert spool.error is not None
    assert spool.segments == 1
    [name] = spool.names()
    await spool.remove(name)
    await spool.put(batch(size=1000))
    assert spool.error is None


async def test_small_batches_still_fit_where_a_large_one_does_not(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=2000)
    results = await asyncio.gather(
        spool.put(batch(size=5)), spool.put(batch(size=5000)), return_exceptions=True
    )
    assert results[0] is None
    assert isinstance(results[1], SpoolFull)


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EIO])
async def test_a_disk_that_takes_nothing_is_a_full_spool(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    spool = Spool(tmp_path, max_bytes=1 << 20)

    def refuse(_: int) -> None:
        raise OSError(number, os.strerror(number))

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", refuse)
        with pytest.raises(SpoolFull, match=os.strerror(number)):
            await spool.put(batch())
    assert [path.name for path in spool.directory.iterdir()] == ["lock"]
    await spool.put(batch())
    assert spool.segments == 1


async def test_a_directory_that_cannot_be_made_is_said_and_tried_again(tmp_path: Path) -> None:
    root = tmp_path / "file"
    root.write_text("in the way")
    spool = Spool(root, max_bytes=1 << 20)
    assert spool.error is not None
    with pytest.raises(SpoolFull, match="cannot be"):
        await spool.put(batch())
    root.unlink()
    await spool.put(batch())
    assert spool.error is None


async def test_a_damaged_segment_is_put_aside(tmp_path: Path) -> None:
    spool = Spool(tmp_path, max_bytes=1 << 20)
    await spool.put(batch())
    [name] = spool.names()
    path = spool.directory / name
    path.write_bytes(path.read_bytes()[:-20])
    _, damage = await spool.read(name)
    assert damage is not None
    await spool.quarantine(name, damage)
    assert (spool.segments, spool.quarantined, spool.bytes) == (0, 1, 0)
    assert (spool.directory / "quarantine" / name).exists()
    spool.close()
    assert Spool(tmp_path, max_bytes=1).quarantined == 1


async def test_what_was_not_finished_is_forgotten(tmp_path: Path) -> None:
    (tmp_path / "0").mkdir()
    (tmp_path / "0" / "00000000000000000001-1.segment.tmp").write_bytes(b"half")
    spool = Spool(tmp_path, max_bytes=1 << 20)
    assert spool.segments == 0
    assert [path.name for path in spool.directory.iterdir()] == ["lock"]


async def test_two_processes_never_share_a_place_and_leftovers_are_adopted(tmp_path: Path) -> None:
    first, second = Spool(tmp_path, max_bytes=1 << 20), Spool(tmp_path, max_bytes=1 << 20)
    assert first.directory != second.directory
    await second.put(batch("left"))
    assert await first.adopt() == 0
    second.close()
    assert await first.adopt() == 1
    [name] = first.names()
    found, _ = await first.read(name)
    assert [one.name for one in found] == ["left"]


async def test_a_directory_that_is_gone_stops_nobody(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool", max_bytes=1 << 20)
    await spool.put(batch())
    shutil.rmtree(tmp_path / "spool")
    assert await spool.adopt() == 0
    assert spool.error is not None
    root = tmp_path / "file"
    root.write_text("in the way")
    assert await Spool(root / "spool", max_bytes=1 << 20).adopt() == 0


def test_a_killed_process_leaves_its_place_to_the_next(tmp_path: Path) -> None:
    program = (
        "import sys, os, pathlib, signal\n"
        "from iotistica.spool import Spool\n"
        "spool = Spool(pathlib.Path(sys.argv[1]), max_bytes=1000)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    assert Spool(tmp_path, max_bytes=1000).directory == tmp_path / "0"


async def test_the_inventory_counts_by_trailers(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "ingestion", max_bytes=1 << 20)
    await spool.put(batch(tenant="a"), batch(tenant="b"))
    await spool.put(batch(tenant="a"))
    [holding] = inventory.holdings(tmp_path)
    assert (holding.service, holding.directory) == ("ingestion", spool.directory)
    assert dict(holding.messages) == {"a": 2, "b": 1}
    assert (holding.bytes, holding.unreadable) == (spool.bytes, 0)
    for path in inventory.segments(tmp_path):
        path.write_bytes(path.read_bytes()[:-1])
    [holding] = inventory.holdings(tmp_path)
    assert holding.unreadable == holding.segments
    assert holding.messages == {}


@given(data=st.binary(max_size=60))
def test_the_inventory_survives_any_file(data: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.mktemp("any") / "file"
    path.write_bytes(data)
    assert segment.summary(path) is None
