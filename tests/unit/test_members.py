"""The memory of which agent belongs to which tenant."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pytest

from iotistica.api import members as module
from iotistica.api.members import Members

ONE, TWO = (f"00000000-0000-4000-8000-00000000000{n}" for n in "12")


class Table:
    """Agents and their tenants, and what was asked."""

    def __init__(self) -> None:
        self.tenants: dict[str, str] = {}
        self.asked: list[set[str]] = []
        self.now = 0.0

    async def load(self, agents: Sequence[str]) -> Mapping[str, str]:
        self.asked.append(set(agents))
        return {agent: self.tenants[agent] for agent in agents if agent in self.tenants}

    def members(self) -> Members:
        return Members(self.load, clock=lambda: self.now)


async def test_each_agent_is_asked_for_once_a_minute() -> None:
    table = Table()
    table.tenants = {ONE: "t", TWO: "u"}
    members = table.members()
    assert await members.look_up([ONE, ONE, TWO]) == {ONE: "t", TWO: "u"}
    table.now = 59
    assert await members.look_up([ONE]) == {ONE: "t"}
    assert table.asked == [{ONE, TWO}]
    table.tenants[ONE] = "moved"
    table.now = 61
    assert await members.look_up([ONE]) == {ONE: "moved"}


async def test_an_agent_that_was_not_there_is_asked_for_soon_again() -> None:
    table = Table()
    members = table.members()
    assert await members.look_up([ONE]) == {}
    table.tenants[ONE] = "t"
    table.now = 1
    assert await members.look_up([ONE]) == {}
    table.now = 3
    assert await members.look_up([ONE]) == {ONE: "t"}


async def test_what_is_no_uuid_is_nobodys_and_asks_nobody() -> None:
    table = Table()
    assert await table.members().look_up(["+", "", "agent"]) == {}
    assert table.asked == []


async def test_a_full_memory_forgets_nothing_of_what_is_asked_now(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "_MOST", 1)
    table = Table()
    table.tenants = {ONE: "t", TWO: "u"}
    members = table.members()
    await members.look_up([ONE])
    assert await members.look_up([ONE, TWO]) == {ONE: "t", TWO: "u"}
