"""Names, aliases, files and mistakes of the settings."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from iotistica.errors import ConfigError
from iotistica.settings import Settings


@pytest.fixture(autouse=True)
def _bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith(
            ("IOTISTICA_", "DB_", "REDIS_", "MQTT_", "DATABASE_", "JWT_", "INGESTION_", "DISK_")
        ):
            monkeypatch.delenv(name)


def test_every_setting_has_a_default() -> None:
    settings = Settings.load()
    assert settings.api_port == 3002
    assert settings.ingestion_port == 3003
    assert settings.database_url is None


@pytest.mark.parametrize(
    ("name", "field", "given", "value"),
    [
        ("DATABASE_URL", "database_url", "postgresql://h/d", "postgresql://h/d"),
        ("MQTT_BROKER_URL", "mqtt_url", "mqtt://h", "mqtt://h"),
        ("IOTISTICA_API_PORT", "api_port", "4002", 4002),
        ("API_PORT", "api_port", "4002", 4002),
        ("WORKER_COUNT", "ingestion_workers", "5", 5),
        ("INGESTION_PROFILE", "ingestion_profile", "hp", "hp"),
        ("AUTOSCALE_MAX_WORKERS", "autoscale_max_workers", "9", 9),
        ("BATCH_SIZE", "read_max_entries", "30", 30),
        ("DB_BACKPRESSURE_SLEEP_MS", "database_backpressure_sleep_ms", "40", 40),
        ("IOTISTICA_MAX_DEPTH", "max_depth", "7", 7),
        ("USE_KEY_COMPACTION_POC", "key_compaction", "false", False),
        ("REDIS_DLQ_MAXLEN", "dlq_max_entries", "5", 5),
        ("LOG_LEVEL", "log_level", "debug", "debug"),
        ("MAX_RETRIES", "max_insert_attempts", "7", 7),
        ("INGESTION_SPOOL_PATH", "spool_dir", "/var/spool/x", Path("/var/spool/x")),
        ("INGESTION_SPOOL_MAX_SIZE_MB", "spool_max_bytes", "10", 10 << 20),
        ("DISK_SPOOL_MAX_SIZE_MB", "api_spool_max_bytes", "20", 20 << 20),
        ("REDIS_MEMORY_HIGH_WATERMARK_PCT", "redis_memory_high_pct", "80", 80.0),
    ],
)
def test_names_and_aliases(
    monkeypatch: pytest.MonkeyPatch, name: str, field: str, given: str, value: object
) -> None:
    monkeypatch.setenv(name, given)
    assert getattr(Settings.load(), field) == value


def test_the_parts_of_the_reference_make_urls(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {
        "DB_HOST": "db",
        "DB_USER": "ada",
        "DB_PASSWORD": "p@ss:/",
        "REDIS_HOST": "cache",
        "REDIS_PORT": "6380",
        "REDIS_PASSWORD": "x",
    }.items():
        monkeypatch.setenv(name, value)
    settings = Settings.load()
    assert settings.database_url == "postgresql://ada:p%40ss%3A%2F@db:5432/iotistic"
    assert settings.redis_url == "redis://:x@cache:6380/0"


def test_a_url_wins_over_its_parts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DB_HOST", "db")
    monkeypatch.setenv("DATABASE_URL", "postgresql://other/x")
    assert Settings.load().database_url == "postgresql://other/x"


def test_a_file_stands_in_for_the_environment(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    file = tmp_path / "settings.env"
    file.write_text("IOTISTICA_MAX_DEPTH=9\nREDIS_URL=redis://file\n")
    monkeypatch.setenv("IOTISTICA_ENV_FILE", str(file))
    monkeypatch.setenv("REDIS_URL", "redis://environment")
    settings = Settings.load()
    assert settings.max_depth == 9
    assert settings.redis_url == "redis://environment"


def test_a_file_that_is_missing_is_one_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IOTISTICA_ENV_FILE", "/nowhere/at.all")
    with pytest.raises(ConfigError, match=r"IOTISTICA_ENV_FILE is /nowhere/at\.all"):
        Settings.load()


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        ("IOTISTICA_MAX_DEPTH", "101", "MAX_DEPTH: Input should be less than or equal to 100"),
        ("API_PORT", "http", "PORT: Input should be a valid integer"),
        ("IOTISTICA_MQTT_CLIENT", "paho", "MQTT_CLIENT: String should match pattern"),
    ],
)
def test_a_wrong_value_is_one_sentence(
    monkeypatch: pytest.MonkeyPatch, name: str, value: str, sentence: str
) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(ConfigError, match=rf"(?i){sentence}") as caught:
        Settings.load()
    assert "\n" not in str(caught.value)


def test_what_is_missing_is_named() -> None:
    with pytest.raises(ConfigError, match="REDIS_URL is not set"):
        Settings.load().require("redis_url")


def test_secrets_stay_out_of_representations(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JWT_SECRET", "hunter2-hunter2")
    monkeypatch.setenv("DB_PASSWORD", "hunter2")
    assert "hunter2" not in repr(Settings.load())
