"""Large buffers leave the process when they are freed."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys, threading
from pathlib import Path
from iotistica.allocator import return_large_buffers

def resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096

def hold() -> None:
    barrier.wait()
    large = [b"x" * (6 << 20) for _ in range(3)]
    small.append(bytes(1000))
    del large
    barrier.wait()

if sys.argv[1] == "told":
    assert return_large_buffers()
small = []
barrier = threading.Barrier(4)
before = resident()
for _ in range(3):
    threads = [threading.Thread(target=hold) for _ in range(4)]
    for one in threads:
        one.start()
    for one in threads:
        one.join()
print((resident() - before) >> 20)
"""


def grown_mib(how: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, how], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_buffers_that_are_freed_leave_nothing_behind() -> None:
    assert grown_mib("told") < 6
