"""Where the API is and with what credential: given, in the environment, or of a data directory."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

from iotistica.api import auth
from iotistica.embedded.directory import STATE, DataDirectory, default_directory
from iotistica.errors import ConfigError
from iotistica.settings import Settings

TOKEN, KEY = "IOTISTICA_API_TOKEN", "IOTISTICA_API_KEY"

_LOCAL = "http://127.0.0.1:3002"
_KEY_PREFIX = "iotapi_"
_CREDENTIAL = re.compile(r"[\x21-\x7e]{1,8192}")
_TOKEN_S = 3600.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Access:
    """An API and one credential for it, never shown."""

    url: str
    token: str | None = field(default=None, repr=False)
    api_key: str | None = field(default=None, repr=False)


def find(api: str | None, token_file: Path | None, data_dir: Path | None) -> Access:
    """Raises `ConfigError`."""
    if api is not None and data_dir is not None:
        raise ConfigError(
            "--api and --data-dir (or IOTISTICA_API_URL and IOTISTICA_DATA_DIR) exclude each other"
        )
    credential = _credential(token_file)
    if data_dir is not None:
        return _of_directory(data_dir, credential)
    if credential is not None:
        return _access(api or _LOCAL, credential)
    # A token of a local platform is for that platform only.
    if api is None and (default_directory() / STATE).exists():
        return _of_directory(default_directory(), None)
    raise ConfigError(f"there is no credential: set {TOKEN} or {KEY}, or give --token-file")


def _credential(file: Path | None) -> str | None:
    """The one that is given. Raises `ConfigError`, which never shows it."""
    given = {name: value for name in (TOKEN, KEY) if (value := os.environ.get(name))}
    if file is not None:
        try:
            given = {str(file): file.read_text(encoding="utf-8").partition("\n")[0]}
        except (OSError, UnicodeDecodeError) as error:
            why = getattr(error, "strerror", None) or "it is not text"
            raise ConfigError(f"--token-file {file} cannot be read: {why}") from None
    if len(given) > 1:
        raise ConfigError(f"{TOKEN} and {KEY} are both set; one of them is enough")
    for name, value in given.items():
        credential = value.strip()
        if not _CREDENTIAL.fullmatch(credential):
            raise ConfigError(f"{name} holds no token and no service key")
        if name == KEY and not credential.startswith(_KEY_PREFIX):
            raise ConfigError(f"{KEY} holds no service key, which begins with {_KEY_PREFIX}")
        return credential
    return None


def _access(url: str, credential: str) -> Access:
    """Raises `ConfigError` for what is no URL of an API."""
    try:
        parts = urlsplit(url)
        is_fine = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        is_fine = False
    # What stands before an @ may be a password, and this is shown.
    shown = re.sub(r"//[^/]*@", "//…@", url)
    if not is_fine or "@" in parts.netloc or parts.query or parts.fragment:
        raise ConfigError(f"--api is {shown!r}; allowed is a URL such as https://iot.example.com")
    if credential.startswith(_KEY_PREFIX):
        return Access(url=url, api_key=credential)
    return Access(url=url, token=credential)


def _of_directory(directory: Path, credential: str | None) -> Access:
    """The platform that `iotistica up` runs there. Raises `ConfigError`."""
    state = DataDirectory(directory).state()
    url, tenant = state.get("api"), state.get("tenant")
    if not isinstance(url, str) or not isinstance(tenant, str):
        raise ConfigError(f"no stack runs in {directory}; start `iotistica up` first")
    return _access(url, credential or _token(directory, tenant))


def _token(directory: Path, tenant: str) -> str:
    """As `iotistica up` signs them: whoever may read the secret may do everything."""
    settings = Settings.load()
    if settings.jwt_secret is None and settings.jwt_secret_file is None:
        file = directory / "secrets" / "jwt"
        settings = settings.model_copy(update={"jwt_secret_file": file})
    return auth.issue_token(auth.secret(settings), tenant=tenant, expires_s=_TOKEN_S)
