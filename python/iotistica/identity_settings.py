"""Settings of users, tokens and limits: a part of `Settings`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import AliasChoices, Field, SecretStr
from pydantic_settings import BaseSettings

from iotistica.setting_names import names as _names

_SPAN = r"^[1-9]\d{0,6}[smhdw]$"
_SPAN_S = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 7 * 86_400}


class IdentitySettings(BaseSettings):
    """Who may use the API, and how often."""

    # Spans as the reference writes them (reference section 6.1)
    jwt_access_token_expiry: Annotated[
        str,
        Field(
            pattern=_SPAN,
            validation_alias=_names("jwt_access_token_expiry", "JWT_ACCESS_TOKEN_EXPIRY"),
        ),
    ] = "15m"  # noqa: S105
    jwt_refresh_token_expiry: Annotated[
        str,
        Field(
            pattern=_SPAN,
            validation_alias=_names("jwt_refresh_token_expiry", "JWT_REFRESH_TOKEN_EXPIRY"),
        ),
    ] = "7d"  # noqa: S105
    # How long the same client may show the token that it has just had rotated.
    refresh_grace_s: Annotated[float, Field(ge=0, le=60)] = 10.0
    # For so long a process goes by what it knows of a user or a key.
    user_cache_s: Annotated[float, Field(ge=0, le=300)] = 10.0
    api_key_cache_s: Annotated[float, Field(ge=0, le=300)] = 30.0
    secret_digest_pepper: Annotated[
        SecretStr | None,
        Field(validation_alias=_names("secret_digest_pepper", "SECRET_DIGEST_PEPPER")),
    ] = None
    initial_admin_bootstrap_token: Annotated[
        SecretStr | None,
        Field(
            min_length=16,
            validation_alias=_names(
                "initial_admin_bootstrap_token", "INITIAL_ADMIN_BOOTSTRAP_TOKEN"
            ),
        ),
    ] = None
    # The tenant that anybody may register with, as a viewer; without it an invitation is needed.
    registration_tenant: str | None = None
    invite_expiry_s: Annotated[int, Field(ge=60)] = 7 * 86_400
    # Argon2id of passwords (OWASP's second choice: 19 MiB, two passes)
    password_memory_kib: Annotated[int, Field(ge=8, le=1024 * 1024)] = 19 * 1024
    password_passes: Annotated[int, Field(ge=1, le=100)] = 2
    password_lanes: Annotated[int, Field(ge=1, le=16)] = 1

    # Tokens of an identity provider: RS256 by its key set; AUTH0_… as in the reference
    jwks_url: Annotated[str | None, Field(validation_alias=_names("jwks_url", "JWKS_URL"))] = None
    jwks_file: Annotated[Path | None, Field(validation_alias=_names("jwks_file", "JWKS_FILE"))] = (
        None
    )
    jwks_issuer: Annotated[
        str | None, Field(validation_alias=_names("jwks_issuer", "JWKS_ISSUER", "AUTH0_ISSUER"))
    ] = None
    jwks_audience: Annotated[
        str | None,
        Field(validation_alias=_names("jwks_audience", "JWKS_AUDIENCE", "AUTH0_AUDIENCE")),
    ] = None
    jwks_tenant_claim: Annotated[
        str, Field(validation_alias=_names("jwks_tenant_claim", "JWKS_TENANT_CLAIM"))
    ] = "tenantId"
    jwks_role_claim: Annotated[
        str, Field(validation_alias=_names("jwks_role_claim", "JWKS_ROLE_CLAIM"))
    ] = "role"
    jwks_cache_s: Annotated[
        float, Field(ge=1, validation_alias=_names("jwks_cache_s", "JWKS_CACHE_TTL"))
    ] = 3600
    jwks_refetch_floor_s: Annotated[float, Field(ge=0)] = 30.0
    auth0_enabled: Annotated[
        bool, Field(validation_alias=AliasChoices("AUTH0_ENABLED", "auth0_enabled"))
    ] = False
    auth0_domain: Annotated[
        str | None, Field(validation_alias=AliasChoices("AUTH0_DOMAIN", "auth0_domain"))
    ] = None

    # The licence of the deployment (reference section 6.4); without one there are no limits
    license_key: Annotated[
        SecretStr | None, Field(validation_alias=_names("license_key", "IOTISTIC_LICENSE_KEY"))
    ] = None
    license_public_key: Annotated[
        str | None, Field(validation_alias=_names("license_public_key", "LICENSE_PUBLIC_KEY"))
    ] = None
    license_public_key_path: Annotated[
        Path | None,
        Field(validation_alias=_names("license_public_key_path", "LICENSE_PUBLIC_KEY_PATH")),
    ] = None

    # Requests a minute (reference section 5); the processes are those of the whole deployment
    rate_limits: bool = True
    rate_limit_global: Annotated[int, Field(ge=1)] = 300
    rate_limit_auth: Annotated[int, Field(ge=1)] = 10
    rate_limit_device_data: Annotated[int, Field(ge=1)] = 1000
    rate_limit_admin: Annotated[int, Field(ge=1)] = 100
    rate_limit_processes: Annotated[int | None, Field(ge=1, le=10_000)] = None

    @property
    def access_token_s(self) -> int:
        """How long an access token is valid."""
        return _seconds(self.jwt_access_token_expiry)

    @property
    def refresh_token_s(self) -> int:
        """How long a refresh token is valid."""
        return _seconds(self.jwt_refresh_token_expiry)

    def key_set_urls(self) -> dict[str, str]:
        """What AUTH0_DOMAIN says of the key set, where nothing else does."""
        if self.auth0_domain is None or not self.auth0_enabled:
            return {}
        told = {
            "jwks_url": f"https://{self.auth0_domain}/.well-known/jwks.json",
            "jwks_issuer": f"https://{self.auth0_domain}/",
        }
        return {name: url for name, url in told.items() if getattr(self, name) is None}


def _seconds(span: str) -> int:
    return int(span[:-1]) * _SPAN_S[span[-1]]
