"""Weights of the forecast's members: the better one and the newest rows weigh most."""

from __future__ import annotations

import numpy as np
import pytest

from lepton_etl.forecast.grid_intensity import fusion_weights


def test_the_better_member_weighs_more_and_recent_rows_count_most() -> None:
    rng = np.random.default_rng(1)
    truth = rng.normal(100, 10, 400)
    early = np.arange(400) < 200
    a = truth + np.where(early, rng.normal(0, 1, 400), rng.normal(0, 20, 400))
    b = truth + np.where(early, rng.normal(0, 20, 400), rng.normal(0, 1, 400))
    age = np.arange(400, 0, -1.0)
    weights = fusion_weights(np.stack([a, b]), truth, age, 40.0)
    assert weights[1] > 0.8
    assert weights.sum() == pytest.approx(1.0)


def test_few_rows_weigh_members_alike() -> None:
    assert fusion_weights(np.ones((4, 10)), np.ones(10), np.ones(10), 1.0).tolist() == [0.25] * 4
