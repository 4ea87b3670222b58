"""What an operator may call a user of the broker, and which topics such a user may be given."""

from __future__ import annotations

import re

from iotistica._native import encode_agent, encode_tenant
from iotistica.errors import BadRequest
from iotistica.topic_filters import fault

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_AGENTS = "agent_"


def username_of(tenant: str, name: str) -> str:
    """`{tenant}.{name}`; a name that has the tenant already stays. Raises `BadRequest`.

    A broker knows one list of names. With the tenant in each, none is taken by a stranger, and
    nobody learns by trying which names strangers have.
    """
    own = name.removeprefix(f"{tenant}.")
    if own.startswith(_AGENTS):
        raise BadRequest(f"field username is {name[:64]!r}: names in {_AGENTS} are those of agents")
    if _NAME.fullmatch(own) is None:
        raise BadRequest(
            f"field username is {name[:64]!r}: it must begin with a letter or digit and have at "
            "most 64 letters, digits, - and _"
        )
    return f"{tenant}.{own}"


def filter_of(tenant: str, topic: str) -> str:
    """A topic filter that lies within the tenant, as brokers see it. Raises `BadRequest`.

    The tenant's id and the UUID of an agent may stand in it as they are (reference section 1.1).
    """
    broken = fault(topic)
    if broken is not None:
        raise BadRequest(f"field topic is {topic[:64]!r}: {broken} (MQTT 5.0 section 4.7)")
    levels = topic.split("/")
    encoded = encode_tenant(tenant)
    # The first two levels are compared as they are: no wildcard is equal, nor $SYS or $share.
    if len(levels) < 3 or levels[0] != "i" or levels[1] not in (tenant, encoded):
        raise BadRequest(
            f"field topic is {topic[:64]!r}: it must lie within the tenant, below i/{encoded}/"
        )
    levels[1] = encoded
    if levels[2] == "a" and len(levels) > 3:
        levels[3] = encode_agent(levels[3])
    return "/".join(levels)
