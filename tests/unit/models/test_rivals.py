"""Plain models face the learned one on the forward test, and the one that wins is what is registered."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import skops.io

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.candidates import inputs_of
from lepton_etl.models.cards import cards
from lepton_etl.models.features import FEATURES, TARGET, feature_names
from lepton_etl.models.fit import LEARNED, MODEL, Trained, order_rows, train
from lepton_etl.models.metrics import overall
from lepton_etl.models.registry import Registry
from lepton_etl.models.rivals import LINEAR, PIECEWISE_LINEAR, RATED_X_LOAD, RIVALS, fitted_rivals, preferred
from lepton_etl.models.stored import _refuse_unknown_types

NAMES = list(feature_names("node"))


def _as_rated(hours: pd.DataFrame, of_load: object = lambda load: load) -> pd.DataFrame:
    """The fleet as if it drew rated power times a curve of its load, and nothing else."""
    load = hours["cpu_utilisation_ratio"]
    return hours.assign(
        **{TARGET: hours["rated_power_w"] * of_load(load) / 1000, "cpu_utilisation_max_ratio": load}  # type: ignore[operator]
    )


@pytest.mark.parametrize(
    ("rated_w", "inlet_c", "load", "kwh"), [(1000.0, 40.0, 0.8, 0.8), (900.0, 35.0, 0.7, 0.63)]
)
@pytest.mark.parametrize("of_gpu", [False, True])
def test_rated_power_times_load_gives_the_worked_points(
    hours: pd.DataFrame, rated_w: float, inlet_c: float, load: float, kwh: float, of_gpu: bool
) -> None:
    known = hours.assign(gpu_utilisation_ratio=np.where(hours.index % 2, 0.5, np.nan))
    rivals = fitted_rivals(inputs_of(NAMES, known), known)
    other = {"gpu_utilisation_ratio": load, "cpu_utilisation_ratio": 0.1} if of_gpu else {
        "gpu_utilisation_ratio": np.nan, "cpu_utilisation_ratio": load
    }  # fmt: skip
    row = known[NAMES].head(1).assign(rated_power_w=rated_w, inlet_temp_c=inlet_c, **other)
    assert rivals[RATED_X_LOAD].predict(row) == pytest.approx([kwh], rel=1e-12)


def test_bends_follow_a_curve_that_a_line_misses(hours: pd.DataFrame) -> None:
    rows = _as_rated(hours, lambda load: np.minimum(load, 0.5)).assign(rated_power_w=500.0)
    rows = rows.assign(**{TARGET: np.minimum(rows["cpu_utilisation_ratio"], 0.5)})
    rivals = fitted_rivals(inputs_of(NAMES, rows), rows)
    line, bent = (
        float(np.abs(rivals[name].predict(rows[NAMES]) - rows[TARGET]).max())
        for name in (LINEAR, PIECEWISE_LINEAR)
    )
    assert bent < 1e-6 < 0.05 < line


def test_the_smallest_within_the_tolerance_is_preferred() -> None:
    cv = {RATED_X_LOAD: 0.2, LINEAR: 0.101, PIECEWISE_LINEAR: 0.1, LEARNED: None}
    assert preferred(cv, 0.02) == LINEAR
    assert preferred(cv, 0.001) == PIECEWISE_LINEAR
    assert preferred({LINEAR: None, LEARNED: None}, 0.01) == LEARNED


@pytest.mark.parametrize("days", [2, 10])
def test_where_a_plain_rival_wins_it_is_what_is_registered(
    hours: pd.DataFrame, settings: ModelSettings, registry: Registry, days: int
) -> None:
    few = order_rows(_as_rated(hours)[hours["hour_start"].dt.day <= days])
    trained = train(few, settings.model_copy(update={"min_rows": 50}))
    assert trained.winner == trained.name == RATED_X_LOAD
    assert trained.verdict.promoted
    assert overall(trained.errors, MODEL).cv_rmse_ratio == pytest.approx(0.0, abs=1e-9)
    # With days to validate on, what is learned may be the same line; with few it is a forest, and worse.
    assert (overall(trained.errors, LEARNED).cv_rmse_ratio or 0.0) > (0.001 if days == 2 else 0.0)
    _refuse_unknown_types(skops.io.dumps(trained.pipeline), "here")
    card = cards(trained, settings, {}).texts["model_card.md"]
    assert "| **rated_x_load** | 0.00% |" in card and "| learned |" in card
    name = f"plain-{days}"
    version = registry.register(name, trained, FEATURES["node"], {}, {"training_key": "k"})
    said = registry._connected().get_model_version(name, version.version).description
    assert (
        said.startswith("rated_x_load, fitted on all hours until 2025-06-")
        and "model 0.0%, " in said
        and "learned" in said
    )
    model = registry.verified_model(name)
    np.testing.assert_allclose(model.predict(few), few[TARGET], rtol=1e-9)


def test_a_learned_model_that_beats_them_is_registered(trained: Trained) -> None:
    assert trained.winner == LEARNED and trained.name == trained.composed.recipe.name
    ours = overall(trained.errors, MODEL).cv_rmse_ratio
    assert ours is not None
    for rival in RIVALS:
        assert ours < (overall(trained.errors, rival).cv_rmse_ratio or 0.0)


def test_the_best_rival_alone_stands_beside_the_model_by_node(trained: Trained) -> None:
    rows = trained.errors
    of_node = {row.model for row in rows if row.node_id == "a1"}
    rivals = [(overall(rows, name).cv_rmse_ratio, name) for name in RIVALS]
    assert of_node == {MODEL, min(rivals)[1]}
