from __future__ import annotations

from datetime import UTC, date, datetime

import numpy as np
import pandas as pd
import pytest

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.features import feature_names
from lepton_etl.models.fit import Incumbent, Trained, order_rows, table_sha256, train, training_key, why_not
from lepton_etl.models.metrics import overall


def test_the_model_beats_the_class_mean_on_later_days(trained: Trained) -> None:
    forest, mean = overall(trained.errors, "model"), overall(trained.errors, "class_mean")
    assert forest.cv_rmse_ratio is not None
    assert mean.cv_rmse_ratio is not None
    assert forest.cv_rmse_ratio < 0.08 < mean.cv_rmse_ratio
    assert trained.verdict.promoted
    assert trained.train_rows == 4 * (8 * 24 - 1)
    assert trained.test_rows == 4 * 2 * 24
    assert trained.cpu_s > 0


def test_training_twice_gives_the_same_model(
    trained: Trained, hours: pd.DataFrame, settings: ModelSettings
) -> None:
    again = train(hours, settings)
    assert again.errors == trained.errors
    assert again.table_sha256 == trained.table_sha256


def _perfect(hours: pd.DataFrame, fitted_until: str) -> Incumbent:
    until = datetime.fromisoformat(fitted_until).replace(tzinfo=UTC)
    return Incumbent(lambda rows: np.tile(hours[["energy_kwh"]].to_numpy()[-len(rows) :], 3), until)


def test_champion_and_challenger_meet_on_hours_that_neither_has_learnt(
    hours: pd.DataFrame, lines: ModelSettings
) -> None:
    """The champion learnt the first day of the test: the second is left, and the challenger may learn as much."""
    trained = train(hours, lines, _perfect(hours, "2025-06-09T23:00"))
    assert trained.met_from == datetime(2025, 6, 10, 1, tzinfo=UTC)
    ours, theirs = (overall(trained.errors, name) for name in ("challenger", "champion"))
    assert ours.rows == theirs.rows == 4 * 23
    assert theirs.mae_kwh == 0
    assert "worse than the champion" in trained.verdict.reason
    assert overall(trained.errors, "model").rows == trained.test_rows == 4 * 48
    before = hours[hours["hour_start"] < datetime(2025, 6, 10, tzinfo=UTC)]
    as_long = train(before, lines)
    met = hours[hours["hour_start"] >= trained.met_from]
    told = as_long.mean.predict(met[list(feature_names("node"))])
    assert as_long.name == trained.name
    assert ours.mae_kwh == pytest.approx(np.abs(met["energy_kwh"] - told).mean(), rel=1e-9)


def test_an_older_champion_is_met_on_the_whole_test(hours: pd.DataFrame, lines: ModelSettings) -> None:
    trained = train(hours, lines, _perfect(hours, "2025-06-01T23:00"))
    assert trained.met_from == trained.cut_time
    assert overall(trained.errors, "challenger") == overall(trained.errors, "model")
    assert overall(trained.errors, "champion").rows == trained.test_rows


def test_nothing_is_promoted_over_a_champion_that_has_learnt_all(
    hours: pd.DataFrame, lines: ModelSettings
) -> None:
    trained = train(hours, lines, _perfect(hours, "2025-06-10T23:00"))
    assert trained.verdict.reasons == ("0 hours that the champion has not learnt, 24 needed",)


def test_the_registered_model_has_learnt_the_test_days_too(
    hours: pd.DataFrame, settings: ModelSettings
) -> None:
    """Twice the energy on the test days: what was judged missed them by half, what is stored knows of them."""
    names, last = list(feature_names("node")), (hours["date"] >= date(2025, 6, 9)).to_numpy()
    trained = train(hours.assign(energy_kwh=hours["energy_kwh"] * np.where(last, 2, 1)), settings)
    judged = overall(trained.errors, "model").nmbe_ratio
    assert judged == pytest.approx(0.5, abs=0.02)
    told = np.asarray(trained.pipeline.predict(hours[names]))[:, 0]
    assert told.sum() / hours["energy_kwh"].sum() == pytest.approx(1.2, abs=0.03)


def test_hash_follows_content_and_not_order(hours: pd.DataFrame) -> None:
    expected = table_sha256(hours, "node")
    assert table_sha256(order_rows(hours.sample(frac=1, random_state=1)), "node") == expected
    nudged = hours.copy()
    nudged.loc[5, "energy_kwh"] = np.nextafter(nudged.loc[5, "energy_kwh"], 1.0)
    assert table_sha256(nudged, "node") != expected
    assert table_sha256(hours.iloc[1:], "node") != expected


def test_key_follows_settings_too(settings: ModelSettings) -> None:
    assert training_key("abc", settings) == training_key("abc", settings.model_copy())
    assert training_key("abc", settings) != training_key("abc", settings.model_copy(update={"trees": 11}))


def test_too_little_data_is_said(hours: pd.DataFrame, settings: ModelSettings) -> None:
    assert why_not(hours, settings) is None
    assert why_not(hours.head(50), settings) == "50 node hours with energy, 100 needed"
    one_day = pd.concat([hours.head(96)] * 2)
    assert why_not(one_day, settings) == "one day of data, a forward split needs two"


def test_an_unknown_temperature_is_predicted_without_a_default(
    hours: pd.DataFrame, settings: ModelSettings
) -> None:
    gappy = hours.copy()
    gappy.loc[gappy.index % 3 == 0, "inlet_temp_c"] = np.nan
    trained = train(gappy, settings)
    blind = gappy.tail(10)[list(trained.example.columns)].assign(inlet_temp_c=np.nan)
    assert np.isfinite(trained.pipeline.predict(blind)).all()
