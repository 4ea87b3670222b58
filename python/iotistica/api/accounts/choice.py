"""Which `Accounts` the settings mean."""

from __future__ import annotations

from iotistica import mqtt
from iotistica.api.accounts import Account, Accounts, Elsewhere
from iotistica.api.accounts.asking import Asking
from iotistica.api.accounts.dynsec import SERVICE_RULES, DynamicSecurity
from iotistica.api.accounts.files import Files
from iotistica.api.agent_digests import AgentDigests
from iotistica.api.link import session_options
from iotistica.credentials import Credentials
from iotistica.errors import ConfigError
from iotistica.settings import Settings
from iotistica.streams.channels import Channels


def accounts(settings: Settings, channels: Channels) -> Accounts:
    """Those of `mqtt_accounts`. Raises `ConfigError`."""
    check(settings)
    match settings.mqtt_accounts:
        case "files":
            return _files(settings)
        case "dynsec":
            return _dynamic_security(settings)
        case "callbacks":
            return Asking(channels)
        case _:
            return Elsewhere()


def check(settings: Settings) -> None:
    """Raise `ConfigError` for settings that lack something, or contradict each other."""
    match settings.mqtt_accounts:
        case "files":
            _files(settings)
        case "dynsec":
            _dynamic_security(settings)
        case "callbacks" if settings.mqtt_callback_token is None:
            raise ConfigError("MQTT_ACCOUNTS is callbacks; then MQTT_CALLBACK_TOKEN must be set")


def _files(settings: Settings) -> Files:
    passwords, acl = settings.mqtt_password_file, settings.mqtt_acl_file
    if passwords is None or acl is None:
        raise ConfigError(
            "MQTT_ACCOUNTS is files; then MQTT_PASSWORD_FILE and MQTT_ACL_FILE must be set"
        )
    return Files(
        Credentials(passwords, acl),
        pid_file=settings.mqtt_pid_file,
        mqtt_url=settings.require("mqtt_url"),
    )


def _dynamic_security(settings: Settings) -> DynamicSecurity:
    if settings.mqtt_admin_url is None:
        raise ConfigError("MQTT_ACCOUNTS is dynsec; then MQTT_ADMIN_URL must be set")
    admin = mqtt.parse_url(settings.mqtt_admin_url.get_secret_value(), client_id="")
    own = session_options(settings, "accounts")
    for name, options in (("MQTT_ADMIN_URL", admin), ("MQTT_URL", own)):
        if not options.username or not options.password:
            raise ConfigError(f"MQTT_ACCOUNTS is dynsec; then {name} must name user and password")
    if own.username == admin.username:
        raise ConfigError(
            f"MQTT_URL and MQTT_ADMIN_URL both name the user {own.username!r}; the administrator "
            "of the plugin may do nothing else, and iotistica must not be one"
        )
    username, password = own.username or "", own.password or ""
    version = AgentDigests(settings).of("mqtt-service", f"{username}:{password}")
    return DynamicSecurity(admin, Account(username, password, SERVICE_RULES, version))
