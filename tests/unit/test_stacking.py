"""Weights of a stack: shares, in any unit, no worse than the best member, and near equal where they are pulled."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.stacking import Floats, stacking_weights


@st.composite
def tables(draw: st.DrawFn) -> tuple[Floats, Floats]:
    """Truth, and predictions of two to five members of unlike quality and bias."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, members = draw(st.integers(20, 120)), draw(st.integers(2, 5))
    true = rng.gamma(2.0, 0.1, count)
    noise = rng.normal(0, 1, (count, members)) * rng.uniform(0, 0.2, members) + rng.normal(0, 0.05, members)
    return true, true[:, None] + noise


@settings(deadline=None)
@given(tables(), st.floats(0, 1))
def test_weights_are_shares(table: tuple[Floats, Floats], shrinkage: float) -> None:
    weights = stacking_weights(*table, shrinkage=shrinkage)
    assert (weights >= 0).all()
    assert weights.sum() == pytest.approx(1, abs=1e-12)


@settings(deadline=None)
@given(tables(), st.floats(1e-6, 1e6))
def test_weights_do_not_know_the_unit(table: tuple[Floats, Floats], unit: float) -> None:
    true, predicted = table
    assert stacking_weights(true * unit, predicted * unit) == pytest.approx(
        stacking_weights(true, predicted), abs=1e-9
    )


@settings(deadline=None)
@given(tables())
def test_a_stack_is_no_worse_than_any_member_on_the_rows_it_learnt(table: tuple[Floats, Floats]) -> None:
    true, predicted = table
    stacked = predicted @ stacking_weights(true, predicted)
    least = ((predicted - true[:, None]) ** 2).sum(axis=0).min()
    assert ((stacked - true) ** 2).sum() <= least * (1 + 1e-6)


def test_an_exact_member_takes_all_and_a_strong_pull_gives_equal_weights() -> None:
    true = np.linspace(1, 2, 50)
    predicted = np.column_stack([true, true + np.sin(np.arange(50))])
    assert stacking_weights(true, predicted) == pytest.approx([1, 0], abs=1e-5)
    assert stacking_weights(true, predicted, shrinkage=1e4) == pytest.approx([0.5, 0.5], abs=1e-3)
    assert stacking_weights(true, np.column_stack([true, true])).sum() == pytest.approx(1)


def test_rows_weigh_as_told() -> None:
    true = np.zeros(2)
    predicted = np.array([[0.0, 1.0], [1.0, 0.0]])
    assert stacking_weights(true, predicted, np.array([1.0, 1e9])) == pytest.approx([0, 1], abs=1e-6)
