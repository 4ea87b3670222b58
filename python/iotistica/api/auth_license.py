"""The licence of a deployment: an RS256 JWT that its maker signed (reference section 6.4)."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import jwt

from iotistica.allowance import Allowance
from iotistica.errors import ConfigError
from iotistica.settings import Settings

_ALGORITHM = "RS256"
_NAMES = "IOTISTICA_LICENSE_KEY"


@dataclass(frozen=True, slots=True, kw_only=True)
class License:
    """What it says."""

    plan: str
    customer: str
    customer_name: str
    features: Mapping[str, Any]
    limits: Mapping[str, Any]
    subscription: Mapping[str, Any]
    allowance: Allowance
    """Active agents of each tenant, and when it expires."""


def read(settings: Settings) -> License | None:
    """The licence that is configured; None is community mode, without limits.

    An expired one is read, too: it only keeps new agents out. Raises `ConfigError` for one that is
    not signed by the key of its maker, or says nothing that we understand.
    """
    if settings.license_key is None:
        return None
    token = settings.license_key.get_secret_value()
    try:
        claims = jwt.decode(
            token,
            _public_key(settings),
            algorithms=[_ALGORITHM],
            # Looked at where it counts: for new agents.
            options={"verify_exp": False, "verify_iat": False, "verify_aud": False},
        )
    except (jwt.InvalidTokenError, jwt.InvalidKeyError, ValueError, TypeError) as error:
        raise ConfigError(
            f"{_NAMES} is not a licence that LICENSE_PUBLIC_KEY verifies: {error}"
        ) from None
    return _license(claims)


def _public_key(settings: Settings) -> str:
    if settings.license_public_key_path is not None:
        path = settings.license_public_key_path
        try:
            return path.read_text()
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"LICENSE_PUBLIC_KEY_PATH {path} cannot be read: {error}") from None
    if settings.license_public_key is None:
        raise ConfigError(
            f"{_NAMES} is set, and neither LICENSE_PUBLIC_KEY nor LICENSE_PUBLIC_KEY_PATH is"
        )
    # As it stands in files of settings: on one line.
    return settings.license_public_key.replace("\\n", "\n")


def _license(claims: Mapping[str, Any]) -> License:
    features = _object(claims, "features")
    return License(
        plan=str(claims.get("plan") or "unknown"),
        customer=str(claims.get("tenantId") or claims.get("customerId") or ""),
        customer_name=str(claims.get("customerName") or ""),
        features=features,
        limits=_object(claims, "limits"),
        subscription=_object(claims, "subscription"),
        allowance=Allowance(most_agents=_most(features), until=_until(claims)),
    )


def _object(claims: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    value = claims.get(name, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{_NAMES}: the claim {name} must be an object")
    return value


def _most(features: Mapping[str, Any]) -> int | None:
    most = features.get("maxDevices")
    if most is None:
        return None
    if isinstance(most, bool) or not isinstance(most, int) or most < 0:
        raise ConfigError(f"{_NAMES}: features.maxDevices is {most!r}; it must be a whole number")
    return most


def _until(claims: Mapping[str, Any]) -> datetime | None:
    """The earlier of both forms of the expiry, `exp` and the reference's own `expiresAt`."""
    given = [claims[name] for name in ("exp", "expiresAt") if claims.get(name) is not None]
    try:
        return min((datetime.fromtimestamp(float(at), UTC) for at in given), default=None)
    except (ValueError, TypeError, OverflowError, OSError):
        raise ConfigError(f"{_NAMES}: exp and expiresAt must be seconds since 1970") from None
