from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import skops.io

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.candidates import CANDIDATES, Inputs, inputs_of
from lepton_etl.models.features import TARGET, feature_names
from lepton_etl.models.fusion import Choice, assemble, fitted
from lepton_etl.models.rivals import fitted_rivals
from lepton_etl.models.select import candidates

NAMES = list(CANDIDATES)
MONOTONE = [name for name, one in CANDIDATES.items() if one.monotone]
# What skops does not trust by itself: compiled parts of fitted scikit-learn and SciPy models. No partial, no lambda
# and nothing of this package may be among them.
COMPILED = {
    "numpy.dtype",
    "scipy._lib.array_api_compat.numpy._aliases.asarray",
    "scipy.interpolate._bsplines.BSpline",
    "sklearn.ensemble._hist_gradient_boosting.predictor.TreePredictor",
    "sklearn.metrics._dist_metrics.EuclideanDistance64",
    "sklearn.neighbors._kd_tree.KDTree",
    "sklearn.tree._tree.Tree",
    "sklearn.utils._bunch.Bunch",
}


@pytest.fixture(scope="module")
def inputs(hours: pd.DataFrame) -> Inputs:
    return inputs_of(list(feature_names("node")), hours)


def test_inputs_are_what_the_table_knows(inputs: Inputs) -> None:
    assert "gpu_utilisation_ratio" not in inputs.numbers
    assert inputs.categories == ("hardware_class",)
    assert inputs.load == ("cpu_utilisation_ratio", "cpu_utilisation_min_ratio", "cpu_utilisation_max_ratio")


@pytest.mark.parametrize("name", NAMES)
def test_every_candidate_learns_the_small_fleet(hours: pd.DataFrame, inputs: Inputs, name: str) -> None:
    early = hours[hours["hour_start"].dt.day <= 8]
    late = hours[hours["hour_start"].dt.day > 8]
    predicted = fitted(CANDIDATES[name], inputs, early).predict(late[inputs.names])
    spread = float(np.std(late[TARGET]))
    assert np.sqrt(np.mean((late[TARGET] - predicted) ** 2)) < 0.35 * spread


@pytest.mark.parametrize("name", NAMES)
def test_unknown_numbers_and_unseen_classes_are_predicted(
    hours: pd.DataFrame, inputs: Inputs, name: str
) -> None:
    blind = hours.tail(5).assign(inlet_temp_c=np.nan, hardware_class="never seen")
    assert np.isfinite(fitted(CANDIDATES[name], inputs, hours).predict(blind[inputs.names])).all()


@pytest.mark.parametrize("name", MONOTONE)
@pytest.mark.parametrize("falling", [False, True])
def test_more_load_never_predicts_less(hours: pd.DataFrame, name: str, falling: bool) -> None:
    """Even where the data say the contrary (a curve that falls at the power limit)."""
    rows = hours.assign(**{TARGET: hours[TARGET].max() - hours[TARGET]}) if falling else hours
    rows = rows[rows[TARGET] > 0]
    inputs = inputs_of(list(feature_names("node")), rows)
    model = fitted(CANDIDATES[name], inputs, rows)
    some = rows.sample(20, random_state=5)
    for column in inputs.load:
        curve = [model.predict(some.assign(**{column: x})[inputs.names]) for x in np.linspace(0, 1, 21)]
        assert (np.diff(np.array(curve), axis=0) >= -1e-12).all()


def test_newer_hours_teach_more(hours: pd.DataFrame) -> None:
    """A level that moved in the last two of ten days is followed by what forgets, and averaged by what does not."""
    moved = hours["hour_start"] >= hours["hour_start"].max() - pd.Timedelta(days=2)
    rows = hours.assign(**{TARGET: hours[TARGET] * np.where(moved, 1.2, 1.0)})
    inputs = inputs_of(list(feature_names("node")), rows)
    named = ("linear", "boosting_gentle", "boosting", "forest")

    def levels(half_life_days: float | None) -> dict[str, float]:
        settings = ModelSettings(trees=10, candidates=named, half_life_days=half_life_days)
        models = {one.name: fitted(one, inputs, rows) for one in candidates(settings)}
        models |= {f"rival {name}": one for name, one in fitted_rivals(inputs, rows, half_life_days).items()}
        table = rows[inputs.names][moved]
        return {name: float(model.predict(table).mean()) for name, model in models.items()}

    forgets, remembers = levels(2.0), levels(None)
    level = float(hours[TARGET][moved].mean())
    # The two days are half of all weight, 1 - 2^-1, in place of a fifth.
    assert all(forgets[name] > remembers[name] + 0.03 * level for name in forgets if "rated" not in name)
    assert forgets["rival rated_x_load"] == remembers["rival rated_x_load"]


def test_the_same_seed_gives_the_same_model(hours: pd.DataFrame, inputs: Inputs) -> None:
    for name in ("extra_trees", "boosting"):
        first, second = (
            fitted(CANDIDATES[name], inputs, hours).predict(hours[inputs.names]) for _ in range(2)
        )
        np.testing.assert_array_equal(first, second)


@pytest.mark.parametrize("name", NAMES)
def test_stored_with_skops_it_predicts_the_same(hours: pd.DataFrame, inputs: Inputs, name: str) -> None:
    model = fitted(CANDIDATES[name], inputs, hours)
    _same_after_skops(model, hours[inputs.names])


def test_a_fusion_is_stored_with_skops(hours: pd.DataFrame, inputs: Inputs) -> None:
    models = {name: fitted(CANDIDATES[name], inputs, hours) for name in ("gam", "boosting", "extra_trees")}
    choice = Choice("fusion", {"gam": 0.2, "boosting": 0.5, "extra_trees": 0.3})
    _same_after_skops(assemble(choice, models, hours, inputs), hours[inputs.names])


def _same_after_skops(model: object, rows: pd.DataFrame) -> None:
    data = skops.io.dumps(model)
    untrusted = skops.io.get_untrusted_types(data=data)
    assert set(untrusted) <= COMPILED, untrusted
    loaded = skops.io.loads(data, trusted=untrusted)
    np.testing.assert_array_equal(loaded.predict(rows), model.predict(rows))  # type: ignore[attr-defined]
