from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.errors import ModelError
from lepton_etl.models.candidates import CANDIDATES, inputs_of
from lepton_etl.models.features import TARGET, feature_names
from lepton_etl.models.fusion import (
    FUSION,
    assemble,
    choose,
    fitted,
    forward_block,
    prequential,
    stack,
)
from lepton_etl.models.metrics import Values, errors


@st.composite
def tables(draw: st.DrawFn) -> tuple[Values, pd.DataFrame, Values]:
    """Measured energy, predictions of two to five members of unlike quality and bias, and the block of each row."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, members = draw(st.integers(20, 120)), draw(st.integers(2, 5))
    measured = rng.gamma(2.0, 0.1, count)
    noise = rng.normal(0, 1, (count, members)) * rng.uniform(0, 0.2, members) + rng.normal(0, 0.05, members)
    predicted = pd.DataFrame(measured[:, None] + noise, columns=[f"m{i}" for i in range(members)])
    return measured, predicted, np.sort(rng.integers(0, draw(st.integers(2, 6)), count))


@settings(deadline=None)
@given(tables())
def test_what_is_chosen_is_never_worse_than_the_best_member_on_validation(
    table: tuple[Values, pd.DataFrame, Values],
) -> None:
    measured, predicted, block = table
    choice = choose(measured, predicted, block)
    best = min(choice.cv_rmse_ratio[name] for name in predicted.columns)
    assert choice.cv_rmse_ratio[choice.name] <= best
    assert sum(choice.weights.values()) == pytest.approx(1)
    assert all(share > 0 for share in choice.weights.values())


def test_a_member_that_cannot_be_beaten_is_champion() -> None:
    rng = np.random.default_rng(1)
    measured = rng.gamma(2, 0.1, 300)
    predicted = pd.DataFrame({"exact": measured, "poor": measured + rng.normal(0, 0.1, 300)})
    choice = choose(measured, predicted, np.repeat(np.arange(3), 100))
    assert (choice.name, choice.weights) == ("exact", {"exact": 1.0})


def test_members_with_unlike_errors_are_fused() -> None:
    rng = np.random.default_rng(2)
    measured = rng.gamma(2, 0.1, 900)
    predicted = pd.DataFrame({name: measured + rng.normal(0, 0.05, 900) for name in "abc"})
    choice = choose(measured, predicted, np.repeat(np.arange(3), 300))
    assert choice.name == FUSION
    assert choice.cv_rmse_ratio[FUSION] < 0.7 * min(choice.cv_rmse_ratio[name] for name in "abc")


def test_small_member_within_tolerance_is_preferred() -> None:
    rng = np.random.default_rng(3)
    measured = rng.gamma(2, 0.1, 600)
    noise = rng.normal(0, 0.05, 600)
    predicted = pd.DataFrame({"large": measured + noise, "small": measured + 1.005 * noise})
    block = np.repeat(np.arange(2), 300)
    assert choose(measured, predicted, block).name == "large"
    assert choose(measured, predicted, block, 0.01, ("small", "large")).name == "small"


@settings(deadline=None)
@given(tables(), st.integers(0, 2**32 - 1))
def test_a_block_is_fused_without_itself_or_later_ones(
    table: tuple[Values, pd.DataFrame, Values], seed: int
) -> None:
    measured, predicted, block = table
    now = np.unique(block)[-1]
    changed = measured.copy()
    changed[block == now] = np.random.default_rng(seed).gamma(2, 5, int((block == now).sum()))
    np.testing.assert_array_equal(
        prequential(measured, predicted, block), prequential(changed, predicted, block)
    )


def test_forward_block_learns_from_earlier_blocks_only(hours: pd.DataFrame) -> None:
    inputs = inputs_of(list(feature_names("node")), hours)
    block = hours["hour_start"].dt.day.to_numpy()
    changed = hours.copy()
    later = block >= 6
    changed.loc[later, TARGET] = changed.loc[later, TARGET].sample(frac=1, random_state=1).to_numpy() * 3
    members = [CANDIDATES["linear"], CANDIDATES["boosting"]]
    first = forward_block(hours, block, 6, inputs, members).predicted
    pd.testing.assert_frame_equal(first, forward_block(changed, block, 6, inputs, members).predicted)
    found = errors(hours.loc[first.index, TARGET].to_numpy(), first["linear"].to_numpy()).cv_rmse_ratio
    assert found is not None
    assert found < 0.2


def test_assembled_fusion_is_the_weighted_mean_of_its_members(hours: pd.DataFrame) -> None:
    inputs = inputs_of(list(feature_names("node")), hours)
    models = {name: fitted(CANDIDATES[name], inputs, hours) for name in ("linear", "boosting_gentle")}
    members = pd.DataFrame({name: model.predict(hours[inputs.names]) for name, model in models.items()})
    rng = np.random.default_rng(4)
    measured = members.mean(axis=1).to_numpy() + rng.normal(0, 1e-4, len(hours))
    choice = choose(measured, members, hours["hour_start"].dt.day.to_numpy())
    assert choice.name == FUSION
    fusion = assemble(choice, models, hours, inputs)
    np.testing.assert_allclose(fusion.predict(hours[inputs.names]), choice.predict(members), rtol=1e-12)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ModelError, match="no finite rows"):
        stack(np.zeros(0), np.zeros((0, 2)), np.zeros(0))
