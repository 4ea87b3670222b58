"""All settings, read once from the environment into one frozen object.

Names are `IOTISTICA_…` with the field's name in capitals, except the three server URLs and
the reference platform's own names, which are accepted as aliases. `IOTISTICA_ENV_FILE` names a file
of `NAME=value` lines that stand in for what the environment does not say.
"""

from __future__ import annotations

import os
from collections.abc import Set
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

from pydantic import AliasChoices, Field, SecretStr, ValidationError
from pydantic_settings import SettingsConfigDict

from iotistica.agent_settings import AgentSettings
from iotistica.breaker import Breaker
from iotistica.errors import ConfigError
from iotistica.identity_settings import IdentitySettings
from iotistica.live_settings import LiveSettings
from iotistica.monitor_settings import MonitorSettings
from iotistica.profiles import PROFILES, Profile
from iotistica.query_settings import QuerySettings
from iotistica.quotas import Quota
from iotistica.retention_settings import RetentionSettings
from iotistica.setting_names import names as _names

MIB = 1024 * 1024
EXPRESS_WORKERS = 2
"""Batches under way beside those of `ingestion_workers`: small ones of tenants that wait."""


def _autoscale(rule: str) -> AliasChoices:
    return _names(f"autoscale_{rule}", f"AUTOSCALE_{rule.upper()}")


class Settings(
    IdentitySettings,
    AgentSettings,
    MonitorSettings,
    LiveSettings,
    QuerySettings,
    RetentionSettings,
):
    """Settings of every iotistica process.

    `Settings.load()` is the door: it turns a wrong value into a `ConfigError` of one sentence.
    """

    model_config = SettingsConfigDict(
        env_prefix="IOTISTICA_",
        frozen=True,
        extra="ignore",
        populate_by_name=True,
        hide_input_in_errors=True,
    )

    # Servers
    database_url: Annotated[
        str | None, Field(validation_alias=AliasChoices("DATABASE_URL", "database_url"))
    ] = None
    redis_url: Annotated[
        str | None, Field(validation_alias=AliasChoices("REDIS_URL", "redis_url"))
    ] = None
    mqtt_url: Annotated[
        str | None, Field(validation_alias=AliasChoices("MQTT_URL", "MQTT_BROKER_URL", "mqtt_url"))
    ] = None
    mqtt_username: Annotated[
        str | None, Field(validation_alias=_names("mqtt_username", "MQTT_USERNAME"))
    ] = None
    mqtt_password: Annotated[
        SecretStr | None, Field(validation_alias=_names("mqtt_password", "MQTT_PASSWORD"))
    ] = None

    # The reference's parts of two of these URLs (reference section 4.5)
    db_host: Annotated[str | None, Field(validation_alias=AliasChoices("DB_HOST", "db_host"))] = (
        None
    )
    db_port: Annotated[int, Field(validation_alias=AliasChoices("DB_PORT", "db_port"))] = 5432
    db_name: Annotated[str, Field(validation_alias=AliasChoices("DB_NAME", "db_name"))] = "iotistic"
    db_user: Annotated[str | None, Field(validation_alias=AliasChoices("DB_USER", "db_user"))] = (
        None
    )
    db_password: Annotated[
        SecretStr | None, Field(validation_alias=AliasChoices("DB_PASSWORD", "db_password"))
    ] = None
    redis_host: Annotated[
        str | None, Field(validation_alias=AliasChoices("REDIS_HOST", "redis_host"))
    ] = None
    redis_port: Annotated[int, Field(validation_alias=AliasChoices("REDIS_PORT", "redis_port"))] = (
        6379
    )
    redis_username: Annotated[
        str | None, Field(validation_alias=AliasChoices("REDIS_USERNAME", "redis_username"))
    ] = None
    redis_password: Annotated[
        SecretStr | None, Field(validation_alias=AliasChoices("REDIS_PASSWORD", "redis_password"))
    ] = None

    # The reference's bounds of the spools, in MiB (reference section 4.3)
    ingestion_spool_max_size_mb: Annotated[
        int | None,
        Field(
            ge=1,
            validation_alias=AliasChoices(
                "INGESTION_SPOOL_MAX_SIZE_MB", "ingestion_spool_max_size_mb"
            ),
        ),
    ] = None
    disk_spool_max_size_mb: Annotated[
        int | None,
        Field(
            ge=1,
            validation_alias=AliasChoices("DISK_SPOOL_MAX_SIZE_MB", "disk_spool_max_size_mb"),
        ),
    ] = None

    # Cloud API
    api_host: str = "127.0.0.1"
    api_port: Annotated[
        int, Field(ge=0, le=65535, validation_alias=_names("api_port", "API_PORT"))
    ] = 3002
    jwt_secret: Annotated[
        SecretStr | None, Field(validation_alias=_names("jwt_secret", "JWT_SECRET"))
    ] = None
    jwt_secret_file: Annotated[
        Path | None, Field(validation_alias=_names("jwt_secret_file", "JWT_SECRET_FILE"))
    ] = None
    bridge_processes: Annotated[int, Field(ge=1, le=64)] = 1
    web_processes: Annotated[int, Field(ge=1, le=64)] = 1
    control_processes: Annotated[int, Field(ge=1, le=64)] = 1
    # Messages that wait for agents in Redis; what would be more is refused to whoever sends it.
    outbox_max_messages: Annotated[int, Field(ge=1)] = 100_000

    # Silence from which on an agent counts as offline, and how often somebody looks.
    agent_offline_after_s: Annotated[float, Field(ge=1)] = 300.0
    presence_check_s: Annotated[float, Field(gt=0, le=60)] = 30.0
    # Entries of container logs that wait for the table, of each tenant; more are refused.
    log_stream_max_entries: Annotated[int, Field(ge=1)] = 500_000
    log_retention_days: Annotated[int, Field(ge=1, le=3650)] = 30
    event_retention_days: Annotated[int, Field(ge=1)] = 365
    # Entries of the journal of changes
    audit_retention_days: Annotated[int, Field(ge=1, le=36_500)] = 730
    # Sessions, invitations and former keys of agents that are over; attempts to register
    access_retention_days: Annotated[int, Field(ge=1, le=36_500)] = 90

    stop_grace_s: Annotated[float, Field(ge=0, le=60)] = 8.0

    # Front door (docs/front-door.md)
    door_threads: Annotated[int, Field(ge=1, le=64)] = 1
    door_tls_certificate_file: Path | None = None
    door_tls_key_file: Path | None = None
    # Comma-separated addresses and networks whose X-Forwarded-For is believed.
    door_trusted_proxies: str = ""
    # Comma-separated origins, or `*`.
    cors_origins: Annotated[str, Field(validation_alias=_names("cors_origins", "CORS_ORIGINS"))] = (
        ""
    )
    door_target_bytes: Annotated[int, Field(ge=256, le=64 * 1024)] = 8 * 1024
    door_head_bytes: Annotated[int, Field(ge=512, le=64 * 1024)] = 16 * 1024
    # Robyn refuses heads of more than 96 fields, and the door adds seven.
    door_head_fields: Annotated[int, Field(ge=8, le=88)] = 80
    door_body_bytes: Annotated[int, Field(ge=1024)] = 16 * MIB
    door_bodies_bytes: Annotated[int, Field(ge=1 * MIB)] = 256 * MIB
    door_connections: Annotated[int, Field(ge=1)] = 10_000
    # Of one address; whole fleets may be behind one. 0 is no limit.
    door_address_connections: Annotated[int, Field(ge=0)] = 2000
    door_address_requests_per_s: Annotated[float, Field(ge=0)] = 500.0
    door_address_burst_requests: Annotated[float, Field(ge=1)] = 2000.0
    door_head_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    door_idle_s: Annotated[float, Field(gt=0, le=3600)] = 75.0
    door_body_idle_s: Annotated[float, Field(gt=0, le=3600)] = 10.0
    door_body_s: Annotated[float, Field(gt=0, le=86_400)] = 300.0
    door_write_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    door_answer_s: Annotated[float, Field(gt=0, le=3600)] = 60.0
    door_stream_idle_s: Annotated[float, Field(gt=0, le=86_400)] = 3600.0

    # Bridge: MQTT to Redis
    mqtt_client: Annotated[str, Field(pattern="^(auto|aiomqtt3|aiomqtt2)$")] = "auto"
    mqtt_client_id: Annotated[
        str | None, Field(validation_alias=_names("mqtt_client_id", "MQTT_CLIENT_ID"))
    ] = None
    # A bridge that is away longer loses what the broker kept for it: as long as brokers allow.
    mqtt_session_expiry_s: Annotated[int, Field(ge=0)] = 7 * 86_400
    mqtt_receive_maximum: Annotated[int, Field(ge=1, le=65535)] = 2000
    bridge_in_flight_bytes: Annotated[int, Field(ge=1 * MIB)] = 64 * MIB
    tenant_refresh_s: Annotated[float, Field(ge=0)] = 1.0
    batch_max_messages: Annotated[int, Field(ge=1, le=10_000)] = 400
    batch_max_bytes: Annotated[int, Field(ge=1024)] = 1 * MIB
    batch_max_delay_ms: Annotated[float, Field(ge=0, le=1000)] = 5.0
    key_compaction: Annotated[
        bool, Field(validation_alias=_names("key_compaction", "USE_KEY_COMPACTION_POC"))
    ] = True

    # Ingestion: Redis to PostgreSQL
    ingestion_host: str = "127.0.0.1"
    ingestion_port: Annotated[int, Field(ge=0, le=65535)] = 3003
    ingestion_profile: Annotated[
        Profile, Field(validation_alias=_names("ingestion_profile", "INGESTION_PROFILE"))
    ] = "balanced"
    # Batches under way at once: how many at the start, and between which bounds lag moves it.
    ingestion_workers: Annotated[
        int, Field(ge=1, le=64, validation_alias=_names("ingestion_workers", "WORKER_COUNT"))
    ] = 2
    autoscale_min_workers: Annotated[
        int, Field(ge=1, le=64, validation_alias=_autoscale("min_workers"))
    ] = 2
    autoscale_max_workers: Annotated[
        int, Field(ge=1, le=64, validation_alias=_autoscale("max_workers"))
    ] = 4
    autoscale_lag_target_ms: Annotated[
        float, Field(gt=0, validation_alias=_autoscale("lag_target_ms"))
    ] = 5_000
    autoscale_lag_scale_up_ms: Annotated[
        float, Field(gt=0, validation_alias=_autoscale("lag_scale_up_ms"))
    ] = 2_000
    autoscale_lag_critical_ms: Annotated[
        float, Field(gt=0, validation_alias=_autoscale("lag_critical_ms"))
    ] = 10_000
    autoscale_scale_down_stable_checks: Annotated[
        int, Field(ge=1, validation_alias=_autoscale("scale_down_stable_checks"))
    ] = 6
    autoscale_cooldown_ms: Annotated[
        float, Field(ge=0, validation_alias=_autoscale("cooldown_ms"))
    ] = 3_000
    autoscale_db_block_pct: Annotated[
        float, Field(gt=0, le=100, validation_alias=_autoscale("db_block_pct"))
    ] = 80
    # A batch: about so many readings, at most so many stream entries (of up to 400 messages each).
    batch_readings: Annotated[int, Field(ge=1, le=1_000_000)] = 50_000
    read_max_entries: Annotated[
        int, Field(ge=1, le=100_000, validation_alias=_names("read_max_entries", "BATCH_SIZE"))
    ] = 200
    # What late data gets of the work while live data waits.
    backfill_share: Annotated[float, Field(ge=0, le=0.5)] = 0.1
    claim_idle_ms: Annotated[int, Field(ge=0)] = 60_000
    database_pool_size: Annotated[
        int, Field(ge=1, le=100, validation_alias=_names("database_pool_size", "DB_POOL_SIZE"))
    ] = 8
    # From these marks on ingestion reads less: connections in use, the time of one commit.
    database_saturation_high_pct: Annotated[
        float,
        Field(
            gt=0,
            le=100,
            validation_alias=_names(
                "database_saturation_high_pct", "DB_SATURATION_HIGH_WATERMARK_PCT"
            ),
        ),
    ] = 80
    database_backpressure_sleep_ms: Annotated[
        float,
        Field(
            ge=0,
            le=60_000,
            validation_alias=_names("database_backpressure_sleep_ms", "DB_BACKPRESSURE_SLEEP_MS"),
        ),
    ] = 250
    database_commit_high_ms: Annotated[float, Field(gt=0)] = 5_000
    database_connect_timeout_s: Annotated[float, Field(gt=0)] = 5.0
    database_statement_timeout_s: Annotated[float, Field(gt=0)] = 10.0
    database_pgbouncer: bool = False
    ledger_snapshot_s: Annotated[float, Field(ge=0.1, le=3600)] = 10.0
    # Messages of an unknown dictionary wait so long, and so many of a tenant; 0: not at all.
    parked_max_s: Annotated[float, Field(ge=0, le=86_400)] = 60.0
    parked_max_messages: Annotated[int, Field(ge=0)] = 10_000
    parked_max_bytes: Annotated[int, Field(ge=0)] = 64 * MIB
    # Of an agent: messages written with an older one may still be on their way.
    dictionary_versions: Annotated[int, Field(ge=1, le=1000)] = 8
    # An agent is asked for its dictionary no more often than that.
    dictionary_resync_s: Annotated[float, Field(ge=0.001)] = 300.0
    # Nothing is trimmed at the bound: an alarm says from 80 % on that letters are too many.
    dlq_max_entries: Annotated[
        int, Field(ge=1, validation_alias=_names("dlq_max_entries", "REDIS_DLQ_MAXLEN"))
    ] = 100_000
    dlq_share_alarm: Annotated[float, Field(gt=0, le=1)] = 0.5
    max_insert_attempts: Annotated[
        int, Field(ge=1, le=100, validation_alias=_names("max_insert_attempts", "MAX_RETRIES"))
    ] = 3
    # Messages all of whose readings are older go to the backfill stream; 0 never.
    backfill_after_s: Annotated[float, Field(ge=0)] = 900.0

    # What holds data while a server is away (both services)
    breaker_failures: Annotated[int, Field(ge=1, le=1000)] = 5
    breaker_probe_s: Annotated[float, Field(gt=0, le=3600)] = 30.0
    breaker_successes: Annotated[int, Field(ge=1, le=1000)] = 3
    spool_dir: Annotated[
        Path | None,
        Field(validation_alias=_names("spool_dir", "INGESTION_SPOOL_PATH", "DISK_SPOOL_PATH")),
    ] = None
    spool_max_bytes: Annotated[int, Field(ge=1 * MIB)] = 2048 * MIB
    api_spool_max_bytes: Annotated[int, Field(ge=1 * MIB)] = 1024 * MIB
    # From these marks on the bridge writes to disk instead of Redis.
    redis_memory_high_pct: Annotated[
        float,
        Field(
            gt=0,
            le=100,
            validation_alias=_names("redis_memory_high_pct", "REDIS_MEMORY_HIGH_WATERMARK_PCT"),
        ),
    ] = 75.0
    stream_high_entries: Annotated[int, Field(ge=1)] = 50_000

    # What each tenant may send that has no quota of its own; None is no limit
    quota_messages_per_s: Annotated[float | None, Field(gt=0)] = None
    quota_readings_per_s: Annotated[float | None, Field(gt=0)] = None
    quota_bytes_per_s: Annotated[float | None, Field(gt=0)] = None

    # Control path: one target state, and how agents ask for it
    target_max_bytes: Annotated[int, Field(ge=1024)] = 1 * MIB
    target_max_depth: Annotated[int, Field(ge=4, le=200)] = 32
    target_max_apps: Annotated[int, Field(ge=1)] = 200
    target_history_versions: Annotated[int, Field(ge=2)] = 500
    target_cache_agents: Annotated[int, Field(ge=1)] = 200_000
    # Told to agents and counted; from so many polls a minute on, an agent is refused.
    poll_min_interval_s: Annotated[float, Field(ge=0, le=86_400)] = 10.0
    poll_max_per_minute: Annotated[int, Field(ge=1)] = 1000
    update_command_secret: Annotated[
        SecretStr | None,
        Field(validation_alias=_names("update_command_secret", "UPDATE_COMMAND_SECRET")),
    ] = None

    # Limits of one message (defended in Rust)
    max_message_bytes: Annotated[int, Field(ge=64)] = 1 * MIB
    max_inflated_bytes: Annotated[int, Field(ge=64)] = 8 * MIB
    max_depth: Annotated[int, Field(ge=1, le=100)] = 32
    max_elements: Annotated[int, Field(ge=1)] = 200_000
    max_text_bytes: Annotated[int, Field(ge=1, le=2000)] = 512
    max_extra_bytes: Annotated[int, Field(ge=2)] = 8192
    max_future_s: Annotated[int, Field(ge=0)] = 86_400
    # Anomaly events, incidents, alerts that are resolved, deliveries of webhooks
    alert_retention_days: Annotated[int, Field(ge=1, le=36_500)] = 90
    # What webhooks are signed with; the JWT secret where it is not set
    webhook_key: SecretStr | None = None
    webhook_private_addresses: bool = False
    webhook_timeout_s: Annotated[float, Field(gt=0, le=60)] = 10.0
    webhook_max_attempts: Annotated[int, Field(ge=1, le=100)] = 12
    webhook_first_delay_s: Annotated[float, Field(gt=0, le=3600)] = 10.0

    # Jobs: what is kept of an agent's output, of each stream
    job_output_max_bytes: Annotated[int, Field(ge=64, le=16 * MIB)] = 64 * 1024
    job_check_s: Annotated[float, Field(gt=0, le=60)] = 1.0
    job_retention_days: Annotated[int, Field(ge=1)] = 90

    # Embedded servers of `iotistica up`
    broker: Annotated[str, Field(pattern="^(auto|mosquitto|builtin)$")] = "auto"
    postgres_bin: Path | None = None
    redis_bin: Path | None = None

    # Logs
    log_level: Annotated[
        str,
        Field(
            pattern="^(debug|info|warning|error)$",
            validation_alias=_names("log_level", "LOG_LEVEL"),
        ),
    ] = "info"

    @classmethod
    def load(cls, **overrides: Any) -> Settings:
        """Read the environment; explicit `overrides` win. Raises `ConfigError`."""
        file = os.environ.get("IOTISTICA_ENV_FILE")
        if file is not None and not Path(file).is_file():
            raise ConfigError(f"IOTISTICA_ENV_FILE is {file}; there is no such file")
        try:
            return cls(**{"_env_file": file, **overrides})._with_profile()._composed()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            name = ".".join(str(part) for part in first["loc"]) or "settings"
            raise ConfigError(f"setting {name}: {first['msg']}") from None

    def _with_profile(self) -> Settings:
        """Fill in what the profile says and nobody set. Raises `ConfigError`."""
        explicit = self.model_fields_set
        profile = PROFILES[self.ingestion_profile]
        values = {name: value for name, value in profile.items() if name not in explicit}
        filled = self.model_copy(update=values)
        return filled.model_copy(update=filled._with_room(explicit))

    def _with_room(self, explicit: Set[str]) -> dict[str, int]:
        """Numbers of workers and connections: what is set moves what is not.

        So WORKER_COUNT=1 alone means one worker at the start, and at least. Raises `ConfigError`.
        """
        first, pool = self.ingestion_workers, self.database_pool_size
        least, most = self.autoscale_min_workers, self.autoscale_max_workers
        if "autoscale_max_workers" not in explicit:
            most = max(most, least, first if "ingestion_workers" in explicit else 0)
        if "autoscale_min_workers" not in explicit:
            least = min(least, most, first)
        if "ingestion_workers" not in explicit:
            first = max(least, min(first, most))
        if not least <= first <= most:
            raise ConfigError(
                f"AUTOSCALE_MIN_WORKERS is {least}, WORKER_COUNT {first}, AUTOSCALE_MAX_WORKERS "
                f"{most}; they must not fall"
            )
        if "database_pool_size" not in explicit:
            # All workers at once are no reason to read less.
            busy = 100 * (most + EXPRESS_WORKERS) / self.database_saturation_high_pct
            pool = min(max(pool, int(busy) + 1), 100)
        return {
            "ingestion_workers": first,
            "autoscale_min_workers": least,
            "autoscale_max_workers": most,
            "database_pool_size": pool,
        }

    def _composed(self) -> Settings:
        """Compose what the reference gives in parts or in other units."""
        urls: dict[str, Any] = {}
        if self.database_url is None and self.db_host is not None:
            who = _credentials(self.db_user, self.db_password)
            urls["database_url"] = f"postgresql://{who}{self.db_host}:{self.db_port}/{self.db_name}"
        if self.redis_url is None and self.redis_host is not None:
            who = _credentials(self.redis_username or "", self.redis_password)
            urls["redis_url"] = f"redis://{who}{self.redis_host}:{self.redis_port}/0"
        urls |= self.key_set_urls()
        for field, mib in (
            ("spool_max_bytes", self.ingestion_spool_max_size_mb),
            ("api_spool_max_bytes", self.disk_spool_max_size_mb),
        ):
            if mib is not None and field not in self.model_fields_set:
                urls[field] = mib * MIB
        return self.model_copy(update=urls)

    def spool_root(self, service: str) -> Path:
        """Where the processes of a service keep their spools."""
        state = Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state")
        return (self.spool_dir or state / "iotistica" / "spool") / service

    def quota(self) -> Quota:
        """The quota of a tenant that has none of its own."""
        return Quota(
            messages_per_s=self.quota_messages_per_s,
            readings_per_s=self.quota_readings_per_s,
            bytes_per_s=self.quota_bytes_per_s,
            stored_readings=self.quota_stored_readings,
        )

    def breaker(self) -> Breaker:
        """A breaker as configured."""
        return Breaker(
            failures=self.breaker_failures,
            probe_s=self.breaker_probe_s,
            successes=self.breaker_successes,
        )

    def require(self, field: str) -> str:
        """Value of a setting that this process cannot work without. Raises `ConfigError`."""
        value = getattr(self, field)
        if value is None:
            raise ConfigError(f"{field.upper()} is not set; iotistica needs it to start")
        return str(value)


def _credentials(user: str | None, password: SecretStr | None) -> str:
    """`user:password@` with the parts percent-encoded, or as much of it as there is."""
    if password is not None:
        return f"{quote(user or '', safe='')}:{quote(password.get_secret_value(), safe='')}@"
    return f"{quote(user, safe='')}@" if user else ""


def url_with_credentials(scheme: str, user: str, password: str, address: str) -> str:
    """Build `scheme://user:password@address` with the parts percent-encoded."""
    return f"{scheme}://{_credentials(user, SecretStr(password))}{address}"
