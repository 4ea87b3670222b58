"""The command of the long run."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

import orjson
from tests.faults.injections import FAULTS
from tests.faults.run import Deck

ROOT = Path(__file__).parents[2]


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.faults.run", *arguments],
        capture_output=True,
        text=True,
        timeout=90,
        cwd=ROOT,
        check=False,
        env=os.environ,
    )


def test_a_run_prints_a_table_and_a_line_of_json() -> None:
    ended = run("--duration", "1", "--only", "nothing", "--ingestions", "1", "--json")
    assert ended.returncode == 0, ended.stderr
    document = orjson.loads(ended.stdout.splitlines()[-1])
    assert (document["well"], document["lost"], document["doubled"]) == (True, 0, 0)
    assert document["sent"] == document["stored"] > 1000
    (row,) = document["faults"]
    assert (row["fault"], row["injected"]) == ("nothing", 1)
    assert "recovery p50" in ended.stdout


def test_an_unknown_fault_is_one_sentence() -> None:
    ended = run("--only", "kill everybody")
    assert ended.returncode == 2
    assert "--only: kill everybody is not one of --list" in ended.stderr


def test_every_fault_says_what_happens() -> None:
    listed = run("--list").stdout.splitlines()
    assert len(listed) == len(FAULTS)
    assert all(len(line.partition(": ")[2]) > 10 for line in listed)


def test_a_deck_deals_every_fault_before_it_repeats_one() -> None:
    faults = list(FAULTS.values())
    deck = Deck(faults, random.Random(1))
    dealt = [deck.deal(kills=False).name for _ in faults]
    assert sorted(dealt) == sorted(FAULTS)
    assert all(deck.deal(kills=True).kills for _ in range(50))
