"""Profiles fill in what nobody set; what is set wins; contradictions stop the start."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from iotistica.errors import ConfigError
from iotistica.profiles import PROFILES, Profile
from iotistica.settings import EXPRESS_WORKERS, Settings


def load(monkeypatch: pytest.MonkeyPatch, **environment: str) -> Settings:
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    return Settings.load()


@pytest.mark.parametrize("name", get_args(Profile))
def test_every_profile_sets_what_it_says(monkeypatch: pytest.MonkeyPatch, name: Profile) -> None:
    settings = load(monkeypatch, INGESTION_PROFILE=name)
    assert settings.ingestion_profile == name
    for field, value in PROFILES[name].items():
        assert getattr(settings, field) == value


@pytest.mark.parametrize("name", get_args(Profile))
def test_the_values_of_every_profile_are_valid_and_agree(name: Profile) -> None:
    settings = Settings(**PROFILES[name])
    assert (
        settings.autoscale_min_workers
        <= settings.ingestion_workers
        <= settings.autoscale_max_workers
    )
    assert settings.autoscale_lag_scale_up_ms < settings.autoscale_lag_critical_ms
    # All workers at once are no reason to read less.
    busy_pct = (
        100 * (settings.autoscale_max_workers + EXPRESS_WORKERS) / settings.database_pool_size
    )
    assert busy_pct < settings.database_saturation_high_pct


def test_the_environment_wins_over_the_profile(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = load(
        monkeypatch,
        IOTISTICA_INGESTION_PROFILE="streaming",
        IOTISTICA_BATCH_READINGS="77",
        DB_POOL_SIZE="20",
    )
    assert (settings.batch_readings, settings.database_pool_size) == (77, 20)
    assert settings.read_max_entries == PROFILES["streaming"]["read_max_entries"]


def test_an_unknown_profile_stops_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"(?i)INGESTION_PROFILE: Input should be 'batch'"):
        load(monkeypatch, INGESTION_PROFILE="turbo")


@pytest.mark.parametrize(
    ("given", "bounds"),
    [
        ({"WORKER_COUNT": "1"}, (1, 1, 4)),
        ({"WORKER_COUNT": "9"}, (2, 9, 9)),
        ({"AUTOSCALE_MAX_WORKERS": "1"}, (1, 1, 1)),
        ({"AUTOSCALE_MIN_WORKERS": "6"}, (6, 6, 6)),
        ({"AUTOSCALE_MIN_WORKERS": "1"}, (1, 2, 4)),
    ],
)
def test_what_is_set_moves_what_is_not(
    monkeypatch: pytest.MonkeyPatch, given: dict[str, str], bounds: tuple[int, int, int]
) -> None:
    settings = load(monkeypatch, **given)
    assert bounds == (
        settings.autoscale_min_workers,
        settings.ingestion_workers,
        settings.autoscale_max_workers,
    )


def test_more_workers_get_more_connections_unless_their_number_is_set(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert load(monkeypatch, WORKER_COUNT="9").database_pool_size == 14
    assert load(monkeypatch, WORKER_COUNT="9", DB_POOL_SIZE="3").database_pool_size == 3


def test_bounds_that_contradict_each_other_stop_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"AUTOSCALE_MIN_WORKERS is 5, WORKER_COUNT .*must not"):
        load(monkeypatch, AUTOSCALE_MIN_WORKERS="5", AUTOSCALE_MAX_WORKERS="3")


def test_the_page_has_the_values_of_the_profiles() -> None:
    page = (Path(__file__).parents[2] / "docs" / "ingestion.md").read_text()
    names = get_args(Profile)
    found: dict[str, list[float]] = {}
    for line in page.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 2 + len(names) and cells[0].strip("`") in Settings.model_fields:
            values = [float(cell.replace(",", "")) for cell in cells[2:]]
            found[cells[0].strip("`")] = values
    fields = sorted({field for profile in PROFILES.values() for field in profile})
    assert sorted(found) == fields
    for field in fields:
        settings = [Settings(**PROFILES[name]) for name in names]
        assert found[field] == [getattr(one, field) for one in settings]
