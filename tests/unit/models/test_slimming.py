"""Smaller variants of a chosen model: what they are made from, and which of them wins."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import skops.io
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.candidates import CANDIDATES, Candidate, forest
from lepton_etl.models.footprint import ComputeCost
from lepton_etl.models.fusion import Choice
from lepton_etl.models.promotion import response_drops
from lepton_etl.models.quantised import quantised
from lepton_etl.models.select import (
    AS_CHOSEN,
    SPARSE,
    STUDENTS,
    Variant,
    day_blocks,
    family,
    inputs,
    select,
    size_bytes,
    slim,
    smallest,
    with_sensor_noise,
)
from lepton_etl.models.stored import build

FOREST = {"forest": Candidate("forest", "", forest(8, 5))}


def _variant(name: str, cv: float, size: int) -> Variant:
    return Variant(name, cv, size, 0.0, ComputeCost())


@given(st.lists(st.tuples(st.floats(0.01, 1), st.integers(1, 10**9)), max_size=6), st.floats(0, 0.2))
def test_the_smallest_within_the_tolerance_wins(others: list[tuple[float, int]], tolerance: float) -> None:
    chosen = _variant(AS_CHOSEN, 0.1, 1000)
    variants = [chosen, *(_variant(str(i), cv, size) for i, (cv, size) in enumerate(others))]
    won = next(one for one in variants if one.name == smallest(variants, tolerance))
    assert won.cv_rmse_ratio <= 0.1 * (1 + tolerance) and won.size_bytes <= chosen.size_bytes
    assert not any(
        one.size_bytes < won.size_bytes and one.cv_rmse_ratio <= 0.1 * (1 + tolerance) for one in variants
    )


def test_variants_of_a_forest_are_smaller_and_a_prefix_is_its_first_trees(
    hours: pd.DataFrame, settings: ModelSettings
) -> None:
    what = inputs(settings, hours)
    refused: dict[str, str] = {}
    found = family(hours, Choice("forest", {"forest": 1.0}), FOREST, what, refused=refused)
    assert {*found, *refused} == {
        AS_CHOSEN, "a half of its trees", "a quarter of its trees", "pruned to a half", "pruned to an eighth",
        "leaves in 256 steps", "leaves in 64 steps", SPARSE, *STUDENTS
    }  # fmt: skip
    whole = found[AS_CHOSEN][0]
    half = found["a half of its trees"][0]
    encoded = whole.named_steps["encode"].transform(hours[what.names])
    by_hand = np.mean([tree.predict(encoded) for tree in whole.named_steps["model"].estimators_[:4]], axis=0)
    assert half.predict(hours[what.names]) == pytest.approx(by_hand, rel=1e-12)
    assert len(whole.named_steps["model"].estimators_) == 8
    sizes = {name: size_bytes(model) for name, (model, _) in found.items()}
    assert sizes["a quarter of its trees"] < sizes["a half of its trees"] < sizes[AS_CHOSEN]
    assert sizes["pruned to an eighth"] < sizes["pruned to a half"] < sizes[AS_CHOSEN]


@pytest.mark.parametrize("name", ["forest", "boosting"])
def test_leaves_on_a_grid_say_nearly_the_same_with_fewer_nodes(
    name: str, hours: pd.DataFrame, settings: ModelSettings
) -> None:
    what = inputs(settings, hours)
    found = family(hours, Choice(name, {name: 1.0}), CANDIDATES, what)
    whole, span = found[AS_CHOSEN][0].predict(hours[what.names]), float(np.ptp(hours["energy_kwh"]))
    sizes = {
        size: size_bytes(found[size][0]) for size in (AS_CHOSEN, "leaves in 256 steps", "leaves in 64 steps")
    }
    assert sizes["leaves in 64 steps"] < sizes["leaves in 256 steps"] <= sizes[AS_CHOSEN]
    for steps in (256, 64):
        rounded = build(skops.io.dumps(found[f"leaves in {steps} steps"][0])).predict(hours[what.names])
        off = np.abs(rounded - whole)
        # Of a forest half a step at most; of boosting the trees' roundings add up as chance does.
        assert 0 < off.max() <= (0.5 if name == "forest" else 4.0) * span / steps
    model = found["leaves in 64 steps"][0].named_steps["model"]
    if name == "boosting":
        assert response_drops(
            lambda rows: found["leaves in 64 steps"][0].predict(rows[what.names]), hours, what.names
        ) == []  # fmt: skip
    else:
        assert all((tree.tree_.children_left < tree.tree_.node_count).all() for tree in model.estimators_)
    assert quantised(model, 0.0) is None and quantised(object(), 1.0) is None


def test_sparse_inputs_are_tried_where_a_model_takes_them_and_never_taken_for_a_flag(
    hours: pd.DataFrame, settings: ModelSettings
) -> None:
    known = hours.dropna(axis=1)
    what = inputs(settings, known.reindex(columns=hours.columns))
    refused: dict[str, str] = {}
    family(hours, Choice("boosting", {"boosting": 1.0}), CANDIDATES, what, refused=refused)
    assert refused[SPARSE] == "its encoder has one column a class: nothing is sparse"
    forest_of = family(hours, Choice("forest", {"forest": 1.0}), FOREST, what, refused=refused)
    assert (
        forest_of[SPARSE][0].predict(hours[what.names]) == forest_of[AS_CHOSEN][0].predict(hours[what.names])
    ).all()
    assert smallest([_variant(AS_CHOSEN, 0.1, 1000), _variant(SPARSE, 0.1, 999)], 0.01) == AS_CHOSEN


def test_variants_of_boosting_have_fewer_iterations_and_stay_monotone(
    hours: pd.DataFrame, settings: ModelSettings
) -> None:
    what = inputs(settings, hours)
    found = family(hours, Choice("boosting", {"boosting": 1.0}), CANDIDATES, what)
    counts = {
        name: getattr(model.named_steps["model"], "n_iter_", None) for name, (model, _) in found.items()
    }
    assert (counts[AS_CHOSEN], counts["a half of its iterations"], counts["a quarter of its iterations"]) == (
        100,
        50,
        25,
    )
    for name in ("a quarter of its iterations", "student: one monotone tree", "student: small boosting"):
        model = found[name][0]
        assert (
            response_drops(lambda rows, model=model: model.predict(rows[what.names]), hours, what.names) == []
        )


def test_a_fusion_has_students_that_learn_its_answers(hours: pd.DataFrame, settings: ModelSettings) -> None:
    what = inputs(settings, hours)
    found = family(hours, Choice("fusion", {"linear": 0.5, "boosting": 0.5}), CANDIDATES, what)
    assert set(found) == {AS_CHOSEN, *STUDENTS}
    answers = found[AS_CHOSEN][0].predict(hours[what.names])
    student = found["student: small boosting"][0].predict(hours[what.names])
    assert np.sqrt(np.mean((student / answers - 1) ** 2)) < 0.05


def test_only_what_is_asked_for_is_fitted(hours: pd.DataFrame, settings: ModelSettings) -> None:
    one = family(
        hours, Choice("forest", {"forest": 1.0}), FOREST, inputs(settings, hours), "pruned to a half"
    )
    assert set(one) == {AS_CHOSEN, "pruned to a half"}


def test_slimming_predicts_every_block_from_those_before(
    hours: pd.DataFrame, settings: ModelSettings
) -> None:
    block = day_blocks(hours, 3)
    what = inputs(settings, hours)
    found = slim(hours, block, Choice("forest", {"forest": 1.0}), FOREST, what, 0.05)
    assert sorted(found.predicted_kwh.index) == list(hours.index[block > 0])
    # The energies of the last block are no teacher of its own predictions.
    changed = hours.assign(energy_kwh=hours["energy_kwh"].where(block < 2, 5.0))
    again = slim(changed, block, Choice("forest", {"forest": 1.0}), FOREST, what, 1e9)
    same = family(hours[block < 2], Choice("forest", {"forest": 1.0}), FOREST, what, again.chosen)[
        again.chosen
    ][0]
    last = hours[block == 2]
    assert again.predicted_kwh.loc[last.index].to_numpy() == pytest.approx(same.predict(last[what.names]))


def test_the_choice_is_replaced_by_the_variant_that_won(hours: pd.DataFrame) -> None:
    lenient = ModelSettings(
        trees=10, min_rows=100, candidates=("forest", "boosting"), small_model_tolerance_ratio=0.2
    )
    found = select(hours, lenient)
    assert found.slimmed is not None and found.slimmed.chosen != AS_CHOSEN
    assert found.name == f"{found.choice.name}, {found.slimmed.chosen}"
    by_name = {one.name: one for one in found.slimmed.variants}
    # On fewer rows than are stored now: the order of sizes stays.
    assert by_name[found.slimmed.chosen].size_bytes <= by_name[AS_CHOSEN].size_bytes
    assert len(found.predicted_kwh) == len(found.index) == len(found.measured_kwh)
    plain = select(hours, lenient.model_copy(update={"slim": False}))
    assert plain.slimmed is None and size_bytes(found.estimator) < size_bytes(plain.estimator)


def test_noise_moves_sensors_and_not_the_inventory(hours: pd.DataFrame) -> None:
    names = ["rated_power_w", "inlet_temp_c", "cpu_utilisation_ratio", "gpu_utilisation_ratio"]
    noisy = with_sensor_noise(hours, names, 1)
    assert (noisy["rated_power_w"] == hours["rated_power_w"]).all()
    assert (noisy["inlet_temp_c"] - hours["inlet_temp_c"]).std() == pytest.approx(0.5, rel=0.1)
    assert noisy["cpu_utilisation_ratio"].between(0, 1).all() and noisy["gpu_utilisation_ratio"].isna().all()
    assert (noisy["energy_kwh"] == hours["energy_kwh"]).all()
    pd.testing.assert_frame_equal(noisy, with_sensor_noise(hours, names, 1))
