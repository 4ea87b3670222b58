"""Dead letters that hold a dictionary or a delta."""

from __future__ import annotations

import uuid

import orjson

from iotistica._native import Topic, Undecodable, decode
from iotistica.dictionaries import Gap, read_delta, read_dictionary
from iotistica.dictionaries.library import Library, News
from iotistica.dictionaries.shelf import Arrival
from iotistica.errors import BadRequest
from iotistica.limits import limits_of
from iotistica.redrive.proof import Fault, Proof, still_bad, whole_message
from iotistica.settings import Settings
from iotistica.store.agents import AgentStore
from iotistica.streams import Letter

_STAGE = "control"
_DELTA = {"dictionary": False, "dictionary/delta": True}


def is_one(topic: Topic | None) -> bool:
    """Whether letters of this topic hold a dictionary or a delta."""
    return topic is not None and topic.kind == "meta" and topic.rest in _DELTA


class DictionaryLetters:
    """Takes them as if they came now, but never in the place of a newer dictionary."""

    def __init__(
        self, settings: Settings, agents: AgentStore, library: Library, *, dry_run: bool
    ) -> None:
        self._limits = limits_of(settings)
        self._agents = agents
        self._library = library
        self._dry_run = dry_run

    async def keep(self, letter: Letter, topic: Topic) -> Proof:
        """What became, or would become, of a letter. Raises `StoreUnavailable`."""
        fault = await self._fault(letter, topic)
        if fault is not None:
            return still_bad(letter, fault)
        counts = whole_message(topic.agent)
        return Proof(id=letter.id, tenant=letter.tenant, agent=topic.agent, counts=counts)

    async def _fault(self, letter: Letter, topic: Topic) -> Fault | None:
        is_delta = _DELTA[topic.rest]
        try:
            document = orjson.loads(decode(letter.dead.data, self._limits))
            (read_delta if is_delta else read_dictionary)(document)
        except (BadRequest, Undecodable) as error:
            return Fault(stage=_STAGE, reason="invalid_dictionary", detail=str(error))
        if not await self._is_member(topic.agent, letter.tenant):
            detail = f"agent {topic.agent} is not one of tenant {letter.tenant!r}"
            return Fault(stage="topic", reason="unknown_agent", detail=detail)
        if self._dry_run:
            return None
        news = News(
            tenant=letter.tenant,
            agent=topic.agent,
            document=document,
            is_delta=is_delta,
            arrival=Arrival.LATE,
        )
        [problem] = await self._library.keep([news])
        if problem is None:
            return None
        reason = "dictionary_gap" if isinstance(problem, Gap) else "invalid_dictionary"
        return Fault(stage=_STAGE, reason=reason, detail=str(problem))

    async def _is_member(self, agent: str, tenant: str) -> bool:
        try:
            uuids = [str(uuid.UUID(agent))]
        except ValueError:
            return False
        return uuids == await self._agents.agents_of(tenant, uuids)
