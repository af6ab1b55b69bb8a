"""The ends of the interval that a stored model gives, how they were found, and what an odd input does to them."""

from __future__ import annotations

import numpy as np
import pandas as pd
import polars as pl
import pytest
import skops.io

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.features import FEATURES, TARGET, described, feature_names
from lepton_etl.models.fit import LEARNED, Trained, order_rows, train
from lepton_etl.models.interval import Doubt, doubt, limits, mean_of, with_interval
from lepton_etl.models.metrics import Values
from lepton_etl.models.registry import with_limits
from lepton_etl.models.scoring import predictions
from lepton_etl.models.select import held_blocks, select
from lepton_etl.models.stored import OUTPUTS, VerifiedModel, Version, _refuse_unknown_types, build

NAMES = list(feature_names("node"))


def _said(trained: Trained, rows: pd.DataFrame) -> Values:
    return np.asarray(trained.pipeline.predict(rows[NAMES]))


def test_a_stored_model_says_mean_and_ends(trained: Trained, hours: pd.DataFrame) -> None:
    data = skops.io.dumps(trained.pipeline)
    _refuse_unknown_types(data, "here")
    said = np.asarray(build(data).predict(hours[NAMES]))
    np.testing.assert_array_equal(said[:, 0], trained.mean.predict(hours[NAMES]))
    expected = trained.doubt.ends(said[:, 0], hours["hardware_class"])
    # The hours are within what was learnt but for a few at the edge of it.
    np.testing.assert_allclose(said[:, 1:], np.column_stack(expected), rtol=1e-9)
    measured = hours[TARGET].to_numpy()
    assert 0.7 < np.mean((said[:, 1] <= measured) & (measured <= said[:, 2])) < 0.98


@pytest.mark.parametrize(("load", "least"), [(50.0, 1.0), (-1.0, 0.8)])
def test_an_input_far_outside_widens_the_interval(
    trained: Trained, hours: pd.DataFrame, load: float, least: float
) -> None:
    rows = hours.head(20)
    usual, odd = _said(trained, rows), _said(trained, rows.assign(cpu_utilisation_ratio=load))
    highest = rows["hardware_class"].map(hours.groupby("hardware_class")[TARGET].max()).to_numpy()
    assert (usual[:, 2] - usual[:, 1] < 0.1 * highest).all()
    assert (odd[:, 2] - odd[:, 1] > least * 0.9 * highest).all()
    assert (odd[:, 1] <= odd[:, 0]).all() and (odd[:, 0] <= odd[:, 2]).all() and (odd >= 0).all()


def test_integers_and_missing_values_are_taken(trained: Trained, hours: pd.DataFrame) -> None:
    rows = hours[NAMES].head(4).assign(cpu_utilisation_ratio=1.0, rated_power_w=300.0, inlet_temp_c=np.nan)
    whole = rows.assign(cpu_utilisation_ratio=1, rated_power_w=300, inlet_temp_c=None, gpu_count=0)
    np.testing.assert_array_equal(_said(trained, whole), _said(trained, rows.assign(gpu_count=0.0)))
    assert np.isfinite(_said(trained, whole.assign(hardware_class=None))).all()


def test_a_class_has_ends_of_its_own_where_it_has_hours_enough() -> None:
    random = np.random.default_rng(5)
    classes = pd.Series(["calm"] * 2000 + ["wild"] * 2000 + ["rare"] * 20)
    sigma = classes.map({"calm": 0.01, "wild": 0.2, "rare": 0.05}).to_numpy()
    predicted = np.ones(len(classes))
    found = doubt(1 + random.normal(0, sigma), predicted, classes)
    assert set(found.of_class) == {"calm", "wild"}
    assert found.of_class["calm"] == pytest.approx((1 - 0.0164, 1 + 0.0164), abs=0.002)
    assert found.of_class["wild"] == pytest.approx((1 - 0.33, 1 + 0.33), abs=0.03)
    later = 1 + random.normal(0, sigma)
    lower, upper = found.ends(predicted, classes)
    inside = (lower <= later) & (later <= upper)
    assert inside[:2000].mean() == pytest.approx(0.9, abs=0.02)
    assert inside[2000:4000].mean() == pytest.approx(0.9, abs=0.02)


def test_of_too_few_hours_the_ends_are_unknown(trained: Trained, hours: pd.DataFrame) -> None:
    nothing = doubt(np.ones(10), np.ones(10), pd.Series(["old"] * 10))
    assert np.isnan(nothing.every).all() and nothing.of_class == {}
    said = with_interval(trained.mean, hours, NAMES, nothing, {}).predict(hours[NAMES].head(3))
    assert np.isfinite(said[:, 0]).all() and np.isnan(said[:, 1:]).all()


def test_a_constant_input_may_move_by_a_tenth_of_the_least_range(hours: pd.DataFrame) -> None:
    within = limits(
        hours.assign(inlet_temp_c=22.0), ["inlet_temp_c", "cpu_utilisation_ratio", "memory_utilisation_ratio"]
    )
    assert within["inlet_temp_c"] == (21.5, 22.5)
    assert within["cpu_utilisation_ratio"] == pytest.approx((-0.1, 1.1), abs=0.01)
    assert "memory_utilisation_ratio" not in within


def test_the_newest_block_tells_the_error_and_chooses_nothing(
    hours: pd.DataFrame, settings: ModelSettings
) -> None:
    block = held_blocks(hours, 5)
    newest = block == block.max()
    spoiled = hours.assign(**{TARGET: np.where(newest, 5.0, hours[TARGET])})
    plain, other = select(hours, settings), select(spoiled, settings)
    assert (other.choice, list(other.held_kwh)) == (plain.choice, list(plain.held_kwh))
    assert set(plain.held_kwh.index) == set(hours.index[newest])
    assert not set(plain.index) & set(plain.held_kwh.index)
    one_day = order_rows(hours[hours["hour_start"].dt.day == 1])
    assert 0 < len(select(one_day, settings).held_kwh) < len(one_day)


def test_a_plain_rival_that_wins_has_ends_of_its_own_errors(
    hours: pd.DataFrame, settings: ModelSettings
) -> None:
    load, random = hours["cpu_utilisation_ratio"], np.random.default_rng(2)
    noisy = 1 + random.normal(0, 0.05, len(hours))
    rows = hours.assign(**{TARGET: hours["rated_power_w"] * load * noisy / 1000})
    few = order_rows(rows[rows["hour_start"].dt.day <= 3])
    trained = train(few, settings.model_copy(update={"min_rows": 50}))
    assert trained.winner != LEARNED
    assert trained.doubt.every == pytest.approx((1 - 0.08, 1 + 0.08), abs=0.03)


def test_any_other_estimator_is_its_own_mean(trained: Trained) -> None:
    assert mean_of(trained.mean) is trained.mean
    assert isinstance(trained.doubt, Doubt)


def test_gold_prediction_has_the_ends_and_names_inputs_far_outside(
    trained: Trained, hours: pd.DataFrame
) -> None:
    columns = with_limits(described(FEATURES["node"]), trained.within)
    model = VerifiedModel(trained.pipeline, columns, Version("m", "1", "r"), skops.io.dumps(trained.pipeline))
    loads = [0.5, 50.0, -1.0, None]
    few = hours.head(4).assign(cpu_utilisation_ratio=loads, inlet_temp_c=[20.5, 60.0, 20.5, 20.5])
    rows = predictions(pl.from_pandas(few.assign(observed_s=3600.0)), model, 0.9)
    assert rows["outside_inputs"].to_list() == [
        [], ["inlet_temp_c", "cpu_utilisation_ratio"], ["cpu_utilisation_ratio"], [],
    ]  # fmt: skip
    np.testing.assert_allclose(rows.select(OUTPUTS).to_numpy(), trained.pipeline.predict(few[NAMES]))
    before = VerifiedModel(
        trained.mean, described(FEATURES["node"]), Version("m", "1", "r"), skops.io.dumps(trained.mean)
    )
    old = predictions(pl.from_pandas(few.assign(observed_s=3600.0)), before, 0.9)
    assert old.select(*OUTPUTS[1:], "outside_inputs").null_count().row(0) == (4, 4, 4)
