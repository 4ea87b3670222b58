"""The dynamic-security plugin of Mosquitto: commands and answers over MQTT."""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import replace
from typing import Any, TypeAlias

import orjson

from iotistica import mqtt
from iotistica.errors import StoreUnavailable

_TOPIC = "$CONTROL/dynamic-security/v1"
_RESPONSES = f"{_TOPIC}/response"
_ANSWER_S = 30.0
# Commands of one message. The broker serves nobody else while it works on one, and for each that
# changes something it writes its whole file: 20 ms where that has 1000 accounts.
_QUESTIONS = 100
_CHANGES = 10

Command: TypeAlias = Mapping[str, Any]
Answer: TypeAlias = Mapping[str, Any]
"""`data` of a command that asks, `error` of one that failed."""


class Control:
    """An open session of the plugin's administrator."""

    def __init__(self, session: mqtt.Session) -> None:
        self._session = session

    async def ask(self, commands: Sequence[Command]) -> list[Answer]:
        """The answers to commands that change nothing. Raises `StoreUnavailable` without."""
        return await self._run(commands, _QUESTIONS)

    async def change(
        self, commands: Sequence[Command], *, fine: Collection[str] = ()
    ) -> list[Answer]:
        """The answers to others. Raises `StoreUnavailable` for errors that are not `fine`, too."""
        answers = await self._run(commands, _CHANGES)
        for command, answer in zip(commands, answers, strict=True):
            if (error := answer.get("error")) is not None and error not in fine:
                raise StoreUnavailable(f"the broker refused {command['command']}: {error}")
        return answers

    async def _run(self, commands: Sequence[Command], most: int) -> list[Answer]:
        answers: list[Answer] = []
        for first in range(0, len(commands), most):
            answers += await self._exchange(commands[first : first + most])
        return answers

    async def _exchange(self, commands: Sequence[Command]) -> list[Answer]:
        # Every administrator gets every answer: ours are known by these.
        ours = [secrets.token_hex(8) for _ in commands]
        tagged = [
            {**command, "correlationData": tag} for command, tag in zip(commands, ours, strict=True)
        ]
        found: dict[str, Answer] = {}
        try:
            async with asyncio.timeout(_ANSWER_S):
                await self._session.publish(_TOPIC, orjson.dumps({"commands": tagged}))
                while not found.keys() >= set(ours):
                    for message in await self._session.receive():
                        self._session.acknowledge([message])
                        found |= _answers(message.payload)
        except TimeoutError:
            raise StoreUnavailable(
                f"the broker did not answer on {_RESPONSES} within {_ANSWER_S:g} s; does it have "
                "the plugin, and this user the role of its administrator?"
            ) from None
        return [found[tag] for tag in ours]


@asynccontextmanager
async def control(options: mqtt.Options) -> AsyncIterator[Control]:
    """A session as the administrator of these options. Raises `StoreUnavailable`."""
    own = replace(options, client_id=f"iotistica-accounts-{secrets.token_hex(8)}", clean_start=True)
    try:
        async with mqtt.connect(own) as session:
            await session.subscribe(_RESPONSES)
            yield Control(session)
    except mqtt.Refused as error:
        raise StoreUnavailable(f"the broker refuses its administrator: {error}") from error


def _answers(payload: bytes) -> dict[str, Answer]:
    try:
        answers = orjson.loads(payload)["responses"]
        return {one["correlationData"]: one for one in answers if "correlationData" in one}
    except (orjson.JSONDecodeError, KeyError, TypeError) as error:
        raise StoreUnavailable(f"the broker's answer cannot be read: {error}") from None
