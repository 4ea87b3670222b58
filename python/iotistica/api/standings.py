"""What users may do now: as the database has it, remembered for a while by every process."""

from __future__ import annotations

from iotistica.api.auth import Verified
from iotistica.api.principal import Principal, permissions_of
from iotistica.api.remembered import Remembered
from iotistica.errors import Denied
from iotistica.store.users import User, UserStore


class Standings:
    """A token says who somebody was when it was issued; this says who they are."""

    def __init__(self, store: UserStore, *, lifetime_s: float) -> None:
        self._store = store
        self._known: Remembered[tuple[str, int], User] = Remembered(
            self._load, lifetime_s=lifetime_s
        )

    async def principal(self, token: Verified) -> Principal:
        """The holder of a token, with the role of today. Raises `Denied`, `StoreUnavailable`.

        An id that is no number is none of our users' (`auth.issue_token`): such a token counts as
        it stands until it expires.
        """
        claimed = token.principal
        if not is_number(claimed.id):
            return claimed
        user = await self._known.get((claimed.tenant, int(claimed.id)))
        if user is None or not user.is_active:
            raise Denied("the user is not active")
        # The mark itself and no time of day: clocks of two machines never agree.
        if token.mark != mark_of(user):
            raise Denied("the token was issued before the user was changed")
        return principal_of(user)

    def drop(self, user: int) -> None:
        """Forget a user who was changed."""
        self._known.drop(lambda key, _: key[1] == user)

    def drop_tenant(self, tenant: str) -> None:
        """Forget the users of a tenant, one of whose roles was changed."""
        self._known.drop(lambda key, _: key[0] == tenant)

    def clear(self) -> None:
        """Forget all of them."""
        self._known.drop(lambda *_: True)

    async def _load(self, key: tuple[str, int]) -> User | None:
        return await self._store.find(*key)


def is_number(identifier: str) -> bool:
    """Whether this is the id of a user of ours, which PostgreSQL can hold."""
    return identifier.isascii() and identifier.isdecimal() and len(identifier) < 19


def mark_of(user: User) -> int:
    """Changes when the tokens of a user must end; each token carries it."""
    return int(user.tokens_valid_from.timestamp() * 1_000_000)


def principal_of(user: User) -> Principal:
    """A user as a caller."""
    return Principal(
        kind="user",
        tenant=user.tenant,
        id=str(user.id),
        name=user.username,
        email=user.email,
        role=user.role,
        permissions=permissions_of(user.role, user.custom_permissions),
        must_change_password=user.must_change_password,
    )
