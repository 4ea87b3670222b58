"""Every error that iotistica raises on purpose."""

from __future__ import annotations


class IotisticaError(Exception):
    """Base of all errors that a caller may want to catch."""


class ConfigError(IotisticaError):
    """A setting is missing or wrong; the message names it, its value and the rule.

    Commands print the message as one sentence and exit with 2.
    """


class StoreUnavailable(IotisticaError):
    """PostgreSQL, Redis or the broker cannot be reached now; the same call may pass later."""


class DatabaseUnavailable(StoreUnavailable):
    """PostgreSQL cannot be reached now."""


class Denied(IotisticaError):
    """The caller is not who it claims to be."""


class Forbidden(IotisticaError):
    """The caller is known and may not do this."""


class NotFound(IotisticaError):
    """No such thing within the caller's tenant."""


class BadRequest(IotisticaError):
    """A parameter is wrong; the message names the parameter, its value and what is allowed."""


class NotAcceptable(IotisticaError):
    """No kind of answer is one that the caller accepts; the message lists those there are."""


class NotInstalled(IotisticaError):
    """A part that is optional is not installed; the message says how to install it."""


class TooLarge(IotisticaError):
    """What was sent is over a limit; the message names the limit."""


class Conflict(IotisticaError):
    """Something stands against it: a name is taken, a state does not allow it."""


class PreconditionFailed(IotisticaError):
    """Somebody else changed it since the caller looked (RFC 9110 section 15.5.13)."""


class TooMany(IotisticaError):
    """A rate limit is reached."""

    def __init__(self, message: str, *, after_s: int) -> None:
        super().__init__(message)
        self.after_s = after_s
        """When to try again."""


class TooSlow(IotisticaError):
    """A query took longer than it may; the message names the limit and what would be quicker."""


class Busy(IotisticaError):
    """As much is under way as may be at a time; the same call may pass later."""


class StartFailed(IotisticaError):
    """A server of ours ended or never became ready; the message has its last words and its log."""
