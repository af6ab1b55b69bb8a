"""What a champion that has become bad leads to: drift is named, and the alias goes back to a version that is good."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.drift import drift_since, is_young
from lepton_etl.models.features import FEATURES, TARGET, feature_names
from lepton_etl.models.fit import Incumbent, Trained, train
from lepton_etl.models.promotion import Verdict
from lepton_etl.models.registry import Registry, back_to_better
from lepton_etl.models.stored import FORWARD_ERROR_TAG, VerifiedModel, Version

NAME = "energy"


@pytest.fixture
def store(tmp_path: Path) -> Registry:
    return Registry(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))


def _register(store: Registry, trained: Trained, settings: ModelSettings) -> Version:
    until = trained.test_until.isoformat()
    tags = {"test_until": until, "fitted_until": until, FORWARD_ERROR_TAG: "0.02"}
    return store.register(NAME, trained, FEATURES[settings.device], {}, tags)


@pytest.fixture(scope="module")
def pair(hours: pd.DataFrame, plain: Trained, lines: ModelSettings) -> tuple[Trained, Trained]:
    """A model of the fleet as it is, and one of a fleet that draws twice as much."""
    assert plain.verdict.promoted
    return plain, train(hours.assign(**{TARGET: 2 * hours[TARGET]}), lines)


@pytest.fixture
def bad_champion(store: Registry, pair: tuple[Trained, Trained], lines: ModelSettings) -> VerifiedModel:
    """Version 1 learnt the fleet as it is, version 2 one that draws twice as much: both were promoted in their time."""
    good, other = pair
    _register(store, good, lines)
    _register(store, replace(other, verdict=Verdict(True)), lines)
    return store.verified_model(NAME)


@pytest.fixture(scope="module")
def tonight(hours: pd.DataFrame, lines: ModelSettings, pair: tuple[Trained, Trained]) -> Trained:
    """A refused challenger of tonight, with the errors of the bad champion, of days ago, beside its own."""
    bad, names = pair[1].pipeline, list(feature_names(lines.device))
    champion = Incumbent(lambda rows: np.asarray(bad.predict(rows[names])), pair[1].cut_time)
    return train(hours, lines, champion).refused("for this test")


def test_the_alias_goes_back_to_the_version_that_is_still_good(
    store: Registry,
    bad_champion: VerifiedModel,
    tonight: Trained,
    hours: pd.DataFrame,
    lines: ModelSettings,
) -> None:
    assert bad_champion.version.version == "2"
    newest = hours[hours["hour_start"] >= tonight.cut_time]
    (note,) = back_to_better(store, bad_champion, newest, tonight, lines.gates)
    assert note.startswith("rolled back to version 1: CV(RMSE)")
    now = store.champion(NAME)
    assert now is not None and now.version == "1"
    left = store.version(NAME, "2")
    assert left is not None and left.tags["promotion"] == "rolled back"


def test_a_promoted_challenger_or_a_back_fill_rolls_nothing_back(
    store: Registry,
    bad_champion: VerifiedModel,
    tonight: Trained,
    hours: pd.DataFrame,
    lines: ModelSettings,
) -> None:
    newest = hours[hours["hour_start"] >= tonight.cut_time]
    promoted = replace(tonight, verdict=Verdict(True))
    old = replace(tonight, test_until=tonight.test_until - timedelta(days=1))
    for one in (promoted, old):
        assert back_to_better(store, bad_champion, newest, one, lines.gates) == ()
    assert back_to_better(store, bad_champion, newest.tail(23), tonight, lines.gates) == ()
    present = store.champion(NAME)
    assert present is not None and present.version == "2"


def test_a_version_that_cannot_be_trusted_is_named_and_no_way_back(
    store: Registry,
    bad_champion: VerifiedModel,
    tonight: Trained,
    hours: pd.DataFrame,
    lines: ModelSettings,
    tmp_path: Path,
) -> None:
    for model in (tmp_path / "artifacts").rglob("model.skops"):
        model.write_bytes(model.read_bytes() + b"x")
    newest = hours[hours["hour_start"] >= tonight.cut_time]
    named, end = back_to_better(store, bad_champion, newest, tonight, lines.gates)
    assert named.startswith("version 1 not considered") and end.endswith("no earlier version does better")


def test_drift_is_told_of_the_hours_after_the_champions_test(
    bad_champion: VerifiedModel, hours: pd.DataFrame
) -> None:
    tested = pd.Timestamp(bad_champion.version.tags["test_until"])
    later = hours.assign(
        hour_start=hours["hour_start"] + (tested - hours["hour_start"].min() + pd.Timedelta("1h"))
    )
    warm = later.assign(inlet_temp_c=later["inlet_temp_c"] + 10)
    found = drift_since(bad_champion, pd.concat([hours, warm], ignore_index=True), "node")
    assert [one.what for one in found] == ["error", "inlet_temp_c"]
    assert drift_since(bad_champion, hours, "node") == []


def test_a_champion_is_young_for_days_and_never_in_a_back_fill(
    bad_champion: VerifiedModel, hours: pd.DataFrame
) -> None:
    tested = pd.Timestamp(bad_champion.version.tags["test_until"]).date()
    assert is_young(bad_champion, hours, tested + timedelta(days=6), 7)
    assert not is_young(bad_champion, hours, tested + timedelta(days=7), 7)
    assert not is_young(bad_champion, hours, tested - timedelta(days=1), 7)


def test_a_champion_is_not_young_where_much_is_new(bad_champion: VerifiedModel, hours: pd.DataFrame) -> None:
    tested = pd.Timestamp(bad_champion.version.tags["test_until"])
    later = hours.head(len(hours) // 5).assign(hour_start=tested + pd.Timedelta("1h"))
    tomorrow = tested.date() + timedelta(days=1)
    assert is_young(bad_champion, pd.concat([hours, later.head(len(hours) // 20)]), tomorrow, 7)
    assert not is_young(bad_champion, pd.concat([hours, later]), tomorrow, 7)
