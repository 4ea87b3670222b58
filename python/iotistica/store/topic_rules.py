"""Which broker accounts of a tenant may do what on a topic."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from uuid import UUID

from iotistica.store.pool import Pool, unavailable
from iotistica.topic_filters import covers

_ALL = 7
_MOST_ACCOUNTS = 1000

# Only rules whose part before the first wildcard fits: of a fleet's, those of one agent.
_RULES = """
SELECT u.username, u.agent_uuid, u.is_active, u.is_superuser,
       coalesce(array_agg(a.topic ORDER BY a.id) FILTER (WHERE a.id IS NOT NULL), '{}') AS topics,
       coalesce(array_agg(a.access ORDER BY a.id) FILTER (WHERE a.id IS NOT NULL), '{}')
           AS accesses
FROM mqtt_users AS u
LEFT JOIN mqtt_acls AS a
  ON a.username = u.username
 AND starts_with($2::text || '/', substring(a.topic FROM '^[^+#]*'))
WHERE u.tenant_id = $1 AND NOT u.deleted AND (a.id IS NOT NULL OR u.is_superuser)
GROUP BY u.id
ORDER BY u.username
LIMIT $3
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """An account that may do something on a topic."""

    username: str
    agent: UUID | None
    is_active: bool
    access: int
    """Bits: 1 read, 2 write, 4 subscribe (reference section 1.5)."""
    rules: Sequence[str]


class TopicRules:
    """Rights at the broker, by topic. Every method raises `StoreUnavailable`."""

    def __init__(self, pool: Pool) -> None:
        self._pool = pool

    async def of(self, tenant: str, topic: str) -> list[Account]:
        """Accounts of a tenant that may do anything on a topic, by name; at most 1000."""
        with unavailable("look up rights at the broker"):
            rows = await self._pool.fetch(_RULES, tenant, topic, _MOST_ACCOUNTS)
        accounts = []
        for row in rows:
            access, rules = (_ALL if row["is_superuser"] else 0), []
            for rule, bits in zip(row["topics"], row["accesses"], strict=True):
                if covers(rule, topic):
                    access |= bits
                    rules.append(rule)
            if access:
                accounts.append(
                    Account(
                        username=row["username"],
                        agent=row["agent_uuid"],
                        is_active=row["is_active"],
                        access=access,
                        rules=rules,
                    )
                )
        return accounts
