from __future__ import annotations

import re
from dataclasses import replace

import pytest

from lepton_etl.models.gate import judge
from lepton_etl.models.metrics import Errors
from lepton_etl.models.settings import GateSettings

GOOD = Errors(rows=100, mape_ratio=0.1, wape_ratio=0.1, cv_rmse_ratio=0.10, nmbe_ratio=0.01, mae_kwh=0.01)
MEAN = replace(GOOD, cv_rmse_ratio=0.40)
GATES = GateSettings()


def test_a_good_first_model_is_promoted() -> None:
    verdict = judge(GOOD, MEAN, None, GATES)
    assert verdict.promoted
    assert verdict.reason == ""


@pytest.mark.parametrize(
    ("candidate", "reason"),
    [
        (replace(GOOD, cv_rmse_ratio=0.31), "CV\\(RMSE\\) 31.0% above 30%"),
        (replace(GOOD, nmbe_ratio=-0.11), "NMBE -11.0% outside 10%"),
        (replace(GOOD, rows=23), "23 test rows, 24 needed"),
        (replace(GOOD, cv_rmse_ratio=None, nmbe_ratio=None), "no energy"),
    ],
)
def test_each_limit_refuses(candidate: Errors, reason: str) -> None:
    verdict = judge(candidate, MEAN, None, GATES)
    assert not verdict.promoted
    assert re.search(reason, verdict.reason)


def test_a_model_no_better_than_the_class_mean_is_refused() -> None:
    verdict = judge(replace(GOOD, cv_rmse_ratio=0.2), replace(MEAN, cv_rmse_ratio=0.2), None, GATES)
    assert "no better than the class mean" in verdict.reason


@pytest.mark.parametrize(("cv", "promoted"), [(0.1019, True), (0.1021, False)])
def test_two_percent_worse_than_the_champion_is_the_limit(cv: float, promoted: bool) -> None:
    assert judge(replace(GOOD, cv_rmse_ratio=cv), MEAN, GOOD, GATES).promoted is promoted


def test_all_reasons_are_given() -> None:
    verdict = judge(replace(GOOD, cv_rmse_ratio=0.5, nmbe_ratio=0.2), MEAN, GOOD, GATES)
    assert len(verdict.reasons) == 4
