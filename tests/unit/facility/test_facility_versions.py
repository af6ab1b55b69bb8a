"""Which fits of a facility become a version of the registry."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Any

import pytest

from lepton_etl.models.stored import FORWARD_ERROR_TAG, Version
from pipelines.train import errs_as_then

THEN = date(2025, 6, 1)
CHAMPION = Version(
    "facility-overhead-fra", "3", "run",
    {"fitted_until": THEN.isoformat(), "chosen": "grid", FORWARD_ERROR_TAG: "0.100000"},
)  # fmt: skip
LATER = {
    "fitted_until": THEN + timedelta(days=3), "fit_kind": "grid", "fit_hours": 90 * 24, "accepted": True,
    "cv_rmse_ratio": 0.14,
}  # fmt: skip


def test_a_fit_that_says_the_same_needs_no_version() -> None:
    assert errs_as_then(CHAMPION, LATER, 7)


@pytest.mark.parametrize(
    "other",
    [
        {"fitted_until": THEN + timedelta(days=7)},
        {"fitted_until": THEN - timedelta(days=1)},
        {"fit_kind": "linear"},
        {"accepted": False},
        {"cv_rmse_ratio": 0.16},
        {"fit_hours": 20 * 24},
    ],
    ids=["a week later", "back-fill", "another form", "refused", "errs more", "young site"],
)
def test_what_differs_is_registered(other: dict[str, Any]) -> None:
    assert not errs_as_then(CHAMPION, LATER | other, 7)


def test_a_champion_without_its_figures_is_replaced() -> None:
    assert not errs_as_then(Version("facility-overhead-fra", "3", "run", {}), LATER, 7)
