from __future__ import annotations

import numpy as np
import pandas as pd

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.fit import order_rows, table_sha256, train, training_key, why_not
from lepton_etl.models.metrics import overall


def test_the_model_beats_the_class_mean_on_later_days(hours: pd.DataFrame, settings: ModelSettings) -> None:
    trained = train(hours, settings)
    forest, mean = overall(trained.errors, "model"), overall(trained.errors, "class_mean")
    assert forest.cv_rmse_ratio is not None
    assert mean.cv_rmse_ratio is not None
    assert forest.cv_rmse_ratio < 0.08 < mean.cv_rmse_ratio
    assert trained.verdict.promoted
    assert trained.train_rows == 4 * (8 * 24 - 1)
    assert trained.test_rows == 4 * 2 * 24
    assert trained.cpu_s > 0


def test_training_twice_gives_the_same_model(hours: pd.DataFrame, settings: ModelSettings) -> None:
    first, second = train(hours, settings), train(hours, settings)
    assert first.errors == second.errors
    assert first.table_sha256 == second.table_sha256


def test_champion_is_measured_on_the_same_rows(hours: pd.DataFrame, settings: ModelSettings) -> None:
    perfect = train(hours, settings, lambda rows: hours["energy_kwh"].to_numpy()[-len(rows) :])
    assert overall(perfect.errors, "champion").mae_kwh == 0
    assert "worse than the champion" in perfect.verdict.reason


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
