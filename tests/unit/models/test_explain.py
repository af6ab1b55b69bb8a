"""Explanations add up, sensitivities are those of the function, and the surrogate sees what SHAP sees."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from sklearn.ensemble import VotingRegressor
from sklearn.pipeline import Pipeline

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.candidates import boosting, forest, linear
from lepton_etl.models.classes import Routes, routed
from lepton_etl.models.explain import (
    PERMUTATION_SHAP,
    ROUTED_TREE_SHAP,
    TREE_SHAP,
    Sensitivity,
    chain_rule,
    explain,
    in_words,
    sensitivities,
    surrogate_check,
)
from lepton_etl.models.export_onnx import export, run
from lepton_etl.models.features import FEATURES, feature_names
from lepton_etl.models.select import inputs
from lepton_etl.models.stored import FittedModel

SETTINGS = ModelSettings(name="x", device="gpu", trees=10)
NAMES = list(feature_names("gpu"))


COLUMNS = tuple({"name": f.name, "unit": f.unit, "category": f.category} for f in FEATURES["gpu"])


@pytest.fixture(scope="module")
def hours() -> pd.DataFrame:
    """Boards whose energy is 50 Wh + 200 Wh by load + 1 Wh a degC + 30 Wh where the class is a."""
    rng = np.random.default_rng(7)
    count = 1500
    rows = pd.DataFrame(
        {f.name: rng.uniform(0, 1, count) for f in FEATURES["gpu"] if f.name != "idle_power_w"}
    )
    rows["rated_power_w"] = np.nan
    rows["idle_power_w"] = np.nan
    rows["hardware_class"] = rng.choice(["a", "b"], count)
    rows["device_temp_c"] = rng.uniform(30, 70, count)
    rows["gpu_count"] = 2.0
    rows["energy_kwh"] = (
        0.05
        + 0.2 * rows["gpu_utilisation_ratio"]
        + 0.001 * rows["device_temp_c"]
        + 0.03 * (rows["hardware_class"] == "a")
    )
    return rows


def _fit(pipeline: Pipeline, hours: pd.DataFrame) -> FittedModel:
    pipeline.fit(hours[NAMES], hours["energy_kwh"].to_numpy())
    return FittedModel(pipeline, COLUMNS)


@pytest.fixture(scope="module")
def trees(hours: pd.DataFrame) -> FittedModel:
    return _fit(forest(10)(inputs(SETTINGS, hours)), hours)


@pytest.fixture(scope="module")
def line(hours: pd.DataFrame) -> FittedModel:
    return _fit(linear(inputs(SETTINGS, hours)), hours)


@pytest.mark.parametrize(("which", "method"), [("trees", TREE_SHAP), ("line", PERMUTATION_SHAP)])
def test_base_and_parts_are_the_prediction(
    which: str, method: str, hours: pd.DataFrame, request: pytest.FixtureRequest
) -> None:
    model: FittedModel = request.getfixturevalue(which)
    found = explain(model, hours[:4], hours[:100])
    assert found.method == method and found.parts_kwh.shape == (4, len(NAMES))
    assert found.base_kwh + found.parts_kwh.sum(axis=1) == pytest.approx(found.predicted_kwh, rel=1e-9)
    assert list(found.importance_kwh())[:2] == ["gpu_utilisation_ratio", "hardware_class"]


def test_a_mean_of_trees_is_explained_by_its_members(hours: pd.DataFrame) -> None:
    what = inputs(SETTINGS, hours)
    both = VotingRegressor([("one", forest(10)(what)), ("two", boosting()(what))], weights=[3, 1])
    model = _fit(both, hours)
    found = explain(model, hours[:3], hours[:50])
    assert found.method == TREE_SHAP
    assert found.base_kwh + found.parts_kwh.sum(axis=1) == pytest.approx(found.predicted_kwh, rel=1e-9)


def test_members_that_answer_for_classes_are_explained_each_by_its_own_trees(hours: pd.DataFrame) -> None:
    what = inputs(SETTINGS, hours)
    rated = hours.assign(rated_power_w=300.0, idle_power_w=60.0)
    # Over normalised power: what the pool says is a share of 240 W above 60.
    pooled = forest(10)(what).fit(rated[NAMES], (rated["energy_kwh"].to_numpy() - 0.06) / 0.24)
    own = boosting()(what).fit(rated[NAMES], rated["energy_kwh"].to_numpy())
    model = FittedModel(routed(Routes(pooled, True, {("a",): own}), rated, NAMES), COLUMNS)
    rows = rated[:40]
    found = explain(model, rows, rated[:50])
    assert found.method == ROUTED_TREE_SHAP
    assert found.base_kwh + found.parts_kwh.sum(axis=1) == pytest.approx(found.predicted_kwh, rel=1e-9)
    of_a = (rows["hardware_class"] == "a").to_numpy()
    assert 0 < of_a.sum() < len(rows)
    of_own = explain(FittedModel(own, COLUMNS), rows[of_a], rated[:50])
    assert found.parts_kwh[of_a] == pytest.approx(of_own.parts_kwh, rel=1e-9)
    of_pool = explain(FittedModel(pooled, COLUMNS), rows[~of_a], rated[:50])
    assert found.parts_kwh[~of_a] == pytest.approx(0.24 * of_pool.parts_kwh, rel=1e-9)
    # A member that is no tree leaves all to permutation.
    flat = FittedModel(routed(Routes(linear(what).fit(rated[NAMES], rated["energy_kwh"]), False, {("a",): own}),
                              rated, NAMES), COLUMNS)  # fmt: skip
    assert explain(flat, rows[~of_a][:2], rated[:50]).method == PERMUTATION_SHAP


def test_a_surrogate_agrees_only_where_something_was_compared(line: FittedModel, hours: pd.DataFrame) -> None:
    row = hours[:1]
    nothing = surrogate_check(line, row, np.zeros(len(NAMES)), hours[:100])
    assert nothing.agree == {} and nothing.agrees is None
    parts = explain(line, row, hours[:100]).parts_kwh[0]
    compared = surrogate_check(line, row, parts, hours[:100])
    assert compared.agree and compared.agrees is True


def test_sensitivities_are_the_slopes_of_the_function(line: FittedModel, hours: pd.DataFrame) -> None:
    found = {one.name: one for one in sensitivities(line, hours[:1])}
    assert found["gpu_utilisation_ratio"].kwh_per_unit == pytest.approx(0.2, rel=1e-6)
    assert found["device_temp_c"].kwh_per_unit == pytest.approx(0.001, rel=1e-6)
    # Unknown rated power has no neighbourhood, a count of boards and a class no slope.
    assert not {"rated_power_w", "gpu_count", "hardware_class"} & set(found)


def test_at_the_end_of_its_range_a_load_is_stepped_within_it(line: FittedModel, hours: pd.DataFrame) -> None:
    full = hours[:1].assign(gpu_utilisation_ratio=1.0, gpu_utilisation_max_ratio=1.0)
    found = {one.name: one for one in sensitivities(line, full)}
    assert found["gpu_utilisation_ratio"].kwh_per_unit == pytest.approx(0.2, rel=1e-6)


def test_the_chain_rule_sums_what_moves() -> None:
    inputs = [
        Sensitivity("gpu_utilisation_ratio", "dimensionless", 0.05, 0.2),
        Sensitivity("inlet_temp_c", "degree_Celsius", 2.0, 0.003),
    ]
    changes = {"gpu_utilisation_ratio": 0.5, "inlet_temp_c": -1.0}
    assert chain_rule(inputs, changes) == pytest.approx(0.1 - 0.003)
    assert chain_rule(inputs, {"gpu_utilisation_ratio": 0.5}) is None


def test_the_surrogate_agrees_with_shap_in_sign_and_can_disagree(
    line: FittedModel, hours: pd.DataFrame
) -> None:
    row = hours[:1].assign(gpu_utilisation_ratio=0.95, device_temp_c=65.0)
    parts = explain(line, row, hours[:100]).parts_kwh[0]
    check = surrogate_check(line, row, parts, hours)
    assert check.agrees and {"gpu_utilisation_ratio", "device_temp_c"} <= set(check.agree)
    assert check.r2 == pytest.approx(1.0, abs=1e-3)
    assert not surrogate_check(line, row, -parts, hours).agrees


def test_a_reading_in_words_names_its_largest_parts_with_units(
    trees: FittedModel, hours: pd.DataFrame
) -> None:
    row = hours[:1].assign(gpu_utilisation_ratio=0.95, hardware_class="a", device_temp_c=45.0)
    lines = in_words(explain(trees, row, hours[:50]), trees, row)
    assert lines[0].startswith("the model expects ") and lines[0].endswith("Wh is usual")
    assert any(line.startswith("gpu_utilisation_ratio = 0.95 adds ") for line in lines)
    assert any(line.startswith("device_temp_c = 45 degC takes away ") for line in lines)


def test_a_forest_leaves_for_onnx_and_predicts_the_same_there(
    trees: FittedModel, hours: pd.DataFrame
) -> None:
    found = export(trees, hours[:400])
    assert found.data is not None and found.rows == 400
    rows = (
        hours[400:500]
        .astype({n: np.float32 for n in NAMES if n != "hardware_class"})
        .astype({n: np.float64 for n in NAMES if n != "hardware_class"})
    )
    assert run(found.data, trees.columns, rows) == pytest.approx(trees.predict(rows), rel=1e-5)


def test_what_no_converter_takes_is_not_exportable_with_its_reason(hours: pd.DataFrame) -> None:
    found = export(_fit(boosting(max_iter=5)(inputs(SETTINGS, hours)), hours), hours[:100])
    assert found.data is None and found.reason.startswith("not exportable: ")
