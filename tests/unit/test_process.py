"""Child: nothing is left behind, and what fails says why."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from iotistica.embedded.process import Child, Command, identity, stale_pid, stop_stale
from iotistica.errors import StartFailed


def command(directory: Path, *argv: str, name: str = "server") -> Command:
    return Command(
        name=name,
        argv=argv,
        log=directory / "log",
        pid_file=directory / "pid",
        cwd=directory,
    )


def python(directory: Path, code: str) -> Command:
    return command(directory, sys.executable, "-c", textwrap.dedent(code))


async def when(condition: object, timeout_s: float = 10.0) -> None:
    """Wait until a function of no arguments is true."""
    assert callable(condition)
    async with asyncio.timeout(timeout_s):
        while not condition():
            await asyncio.sleep(0.01)


async def test_a_child_is_started_when_it_is_ready_and_stops_when_asked(tmp_path: Path) -> None:
    child = Child(python(tmp_path, "open('up', 'w').close(); import signal; signal.pause()"))

    async def ready() -> bool:
        return (tmp_path / "up").exists()

    await child.start(ready)
    assert child.running
    assert (tmp_path / "pid").read_text().split()[0] == str(child.pid)
    assert await child.stop() == -signal.SIGTERM
    assert not child.running
    assert child.returncode == -signal.SIGTERM
    assert not (tmp_path / "pid").exists()


async def test_a_child_that_ignores_the_request_is_killed_after_its_grace(tmp_path: Path) -> None:
    child = Child(
        python(
            tmp_path,
            """
            import signal
            signal.signal(signal.SIGTERM, signal.SIG_IGN)
            open("up", "w").close()
            while True: signal.pause()
            """,
        )
    )
    await child.start()
    await when((tmp_path / "up").exists)
    assert await child.stop(grace_s=0.1) == -signal.SIGKILL


async def test_a_child_that_ends_before_it_is_ready_gives_its_last_words(tmp_path: Path) -> None:
    child = Child(python(tmp_path, "import sys; print('no luck'); sys.exit(3)"))

    async def never() -> bool:
        return False

    with pytest.raises(StartFailed) as failure:
        await child.start(never)
    assert str(failure.value) == (
        f'server ended with exit status 3, its last words were "no luck"; see {tmp_path / "log"}'
    )


async def test_what_an_earlier_start_said_is_not_repeated(tmp_path: Path) -> None:
    (tmp_path / "log").write_text("long ago\n")
    with pytest.raises(StartFailed) as failure:
        await Child(command(tmp_path, "false")).run()
    assert str(failure.value) == f"server ended with exit status 1; see {tmp_path / 'log'}"


async def test_a_child_that_never_gets_ready_does_not_stay(tmp_path: Path) -> None:
    child = Child(command(tmp_path, "sleep", "60"))

    async def never() -> bool:
        return False

    with pytest.raises(StartFailed, match=r"server was not ready within 0\.1 s"):
        await child.start(never, timeout_s=0.1)
    assert child.returncode == -signal.SIGKILL


async def test_a_missing_program_is_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(StartFailed, match=r"server cannot be run: .*No such file.*nothing-here"):
        await Child(command(tmp_path, "nothing-here")).start()


async def test_a_program_that_fails_is_an_error(tmp_path: Path) -> None:
    await Child(command(tmp_path, "true")).run()
    with pytest.raises(StartFailed, match="server ended with exit status 1"):
        await Child(command(tmp_path, "false")).run()
    with pytest.raises(StartFailed, match=r"server took more than 0\.1 s"):
        await Child(command(tmp_path, "sleep", "60")).run(timeout_s=0.1)


async def test_a_child_outlives_the_loop_that_started_it(tmp_path: Path) -> None:
    child = Child(command(tmp_path, "sleep", "60"))
    await asyncio.to_thread(asyncio.run, child.start())
    assert child.running
    assert await child.stop() == -signal.SIGTERM


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux tells children of a parent's end")
async def test_a_child_ends_when_its_parent_is_killed(tmp_path: Path) -> None:
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(
                f"""
                import asyncio, os, signal
                from pathlib import Path
                from iotistica.embedded.process import Child, Command
                here = Path({str(tmp_path)!r})
                child = Child(Command("sleep", ["sleep", "60"], here / "log", here / "pid", here))
                asyncio.run(child.start())
                os.kill(os.getpid(), signal.SIGKILL)
                """
            ),
        ]
    )
    assert parent.wait(30) == -signal.SIGKILL
    pid = int((tmp_path / "pid").read_text().split()[0])
    await when(lambda: identity(pid) is None)


async def test_what_an_earlier_start_left_is_stopped_by_the_next(tmp_path: Path) -> None:
    left = subprocess.Popen(["sleep", "60"])
    (tmp_path / "pid").write_text(f"{left.pid}\n{identity(left.pid)}\n")
    child = Child(command(tmp_path, "sleep", "60"))
    await child.start()
    assert left.wait(1) == -signal.SIGTERM
    assert child.running
    await child.stop()


async def test_a_stranger_with_a_recycled_pid_is_left_alone(tmp_path: Path) -> None:
    stranger = subprocess.Popen(["sleep", "60"])
    pid_file = tmp_path / "pid"
    for written in (f"{stranger.pid}\nanother identity\n", f"{stranger.pid}\n", "no number\n", ""):
        pid_file.write_text(written)
        assert stale_pid(pid_file) is None
        await stop_stale(pid_file)
    assert stranger.poll() is None
    stranger.kill()
    stranger.wait()


async def test_a_stale_process_that_does_not_listen_is_killed(tmp_path: Path) -> None:
    code = "import signal; signal.signal(15, signal.SIG_IGN); open('up', 'w'); signal.pause()"
    left = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    await when((tmp_path / "up").exists)
    (tmp_path / "pid").write_text(f"{left.pid}\n{identity(left.pid)}\n")
    before = time.monotonic()
    await stop_stale(tmp_path / "pid", grace_s=0.2)
    assert time.monotonic() - before < 5
    assert left.wait(1) == -signal.SIGKILL


async def test_interrupting_the_terminal_does_not_reach_a_child(tmp_path: Path) -> None:
    child = Child(command(tmp_path, "sleep", "60"))
    await child.start()
    assert child.pid is not None
    assert os.getpgid(child.pid) == child.pid != os.getpgrp()
    await child.stop()
