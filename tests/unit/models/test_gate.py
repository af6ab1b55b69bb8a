from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import pytest

from lepton_etl.config.sections import GateSettings
from lepton_etl.models.metrics import Errors
from lepton_etl.models.promotion import ForwardTest, ResponseDrop, Verdict, judge

GOOD = Errors(rows=100, mape_ratio=0.1, wape_ratio=0.1, cv_rmse_ratio=0.10, nmbe_ratio=0.01, mae_kwh=0.01)
MEAN = replace(GOOD, cv_rmse_ratio=0.40)
GATES = GateSettings()


def verdict_of(candidate: Errors, **more: Any) -> Verdict:
    """The verdict on a candidate that is good on its training hours and has shown nothing else against it."""
    shown: dict[str, Any] = {"on_training": candidate, "class_mean": MEAN} | more
    return judge(ForwardTest(candidate, **shown), GATES)


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (
            {"on_training": replace(GOOD, cv_rmse_ratio=0.10)},
            "overfitted: CV.* 10.0% on its training hours, 26.0% after",
        ),
        ({"worse_scopes": ("cluster_id c1: worse",)}, "cluster_id c1: worse"),
        (
            {"response_drops": (ResponseDrop("gpu_utilisation_ratio", 0.2, 0.6, 0.07),)},
            "7.0% less energy at gpu_utilisation_ratio 0.6",
        ),
    ],
)
def test_what_else_is_asked_refuses_too(more: dict[str, Any], reason: str) -> None:
    verdict = verdict_of(replace(GOOD, cv_rmse_ratio=0.26), **more)
    assert len(verdict.reasons) == 1 and re.search(reason, verdict.reason)


def test_a_good_first_model_is_promoted() -> None:
    verdict = verdict_of(GOOD)
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
    verdict = verdict_of(candidate)
    assert not verdict.promoted
    assert re.search(reason, verdict.reason)


def test_a_model_no_better_than_the_class_mean_is_refused() -> None:
    verdict = verdict_of(replace(GOOD, cv_rmse_ratio=0.2), class_mean=replace(MEAN, cv_rmse_ratio=0.2))
    assert "no better than the class mean" in verdict.reason


@pytest.mark.parametrize(("cv", "promoted"), [(0.1019, True), (0.1021, False)])
def test_two_percent_worse_than_the_champion_is_the_limit(cv: float, promoted: bool) -> None:
    met = (replace(GOOD, cv_rmse_ratio=cv), GOOD)
    assert verdict_of(GOOD, against_champion=met).promoted is promoted


@pytest.mark.parametrize(
    ("challenger", "champion", "reasons"),
    [
        # Neither keeps the bound of bias: the better one answers.
        (replace(GOOD, nmbe_ratio=-0.2), replace(GOOD, nmbe_ratio=-0.3), 0),
        (replace(GOOD, nmbe_ratio=-0.2), GOOD, 1),
    ],
)
def test_a_bound_that_the_champion_misses_too_keeps_it_not(
    challenger: Errors, champion: Errors, reasons: int
) -> None:
    assert len(verdict_of(challenger, against_champion=(challenger, champion)).reasons) == reasons
    worse = (replace(challenger, cv_rmse_ratio=0.2), champion)
    assert len(verdict_of(challenger, against_champion=worse).reasons) == 2


def test_a_difference_by_chance_keeps_no_champion() -> None:
    met = (replace(GOOD, cv_rmse_ratio=0.2), GOOD)
    assert not verdict_of(GOOD, against_champion=met).promoted
    assert verdict_of(GOOD, against_champion=met, beyond_chance=False).promoted


def test_too_few_hours_that_the_champion_has_not_learnt_refuse() -> None:
    met = (GOOD, replace(GOOD, rows=23, cv_rmse_ratio=0.5))
    assert verdict_of(GOOD, against_champion=met).reasons == (
        "23 hours that the champion has not learnt, 24 needed",
    )


def test_all_reasons_are_given() -> None:
    bad = replace(GOOD, cv_rmse_ratio=0.5, nmbe_ratio=0.2)
    verdict = verdict_of(bad, against_champion=(bad, GOOD))
    assert len(verdict.reasons) == 4
