"""Advice from held devices and performance states, and what kWh are worth."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.config.sections import OptimizeSettings
from lepton_etl.intervals.sensor_classes import sensor_classes
from lepton_etl.recommend.advice import Advice, SiteRates, Subject, state_advice, valued
from lepton_etl.recommend.idle_jobs import BOARD_GAIN_SIGMA_RATIO, COLUMNS, zombie_advice
from lepton_etl.registers.factors import load_factors
from lepton_etl.uncertainty import Estimate

DAY = date(2025, 6, 3)
MIDNIGHT = datetime(2025, 6, 3, tzinfo=UTC)


def held(job: str, utilisation: list[float | None]) -> list[dict[str, Any]]:
    return [
        {
            "site_id": "s", "cluster_id": "c", "job_id": job, "tenant_id": "physics", "energy_kwh": 0.2,
            "hour_start": MIDNIGHT + timedelta(hours=hour), "utilisation_ratio": value, "node_ids": ["n1"],
        }
        for hour, value in enumerate(utilisation)
    ]  # fmt: skip


def test_a_job_whose_boards_did_nothing_is_named_with_a_day_of_what_it_wastes() -> None:
    rows = [
        *held("sleeps", [0.9] * 18 + [0.0] * 6), *held("works", [0.5] * 24), *held("woke", [0.0] * 23 + [0.4]),
        *held("unknown", [0.0] * 23 + [None]),
    ]  # fmt: skip
    frame = pl.DataFrame(rows, infer_schema_length=None).select(COLUMNS)
    (advice,) = zombie_advice(frame, DAY, OptimizeSettings())
    assert advice.subject.job_id == "sleeps" and "of physics" in advice.advice
    assert advice.saving_kwh is not None and advice.saving_kwh.value == pytest.approx(24 * 0.2)
    assert advice.saving_kwh.lower == pytest.approx((1 - 1.6449 * 0.0289) * 24 * 0.2, rel=1e-4)


def test_too_short_a_pause_or_an_unknown_energy_accuses_no_job() -> None:
    rows = [*held("pauses", [0.9] * 22 + [0.0] * 2), *held("unread", [0.0] * 24)]
    rows[-1]["energy_kwh"] = None
    frame = pl.DataFrame(rows, infer_schema_length=None).select(COLUMNS)
    assert zombie_advice(frame, DAY, OptimizeSettings()) == []
    assert len(zombie_advice(frame, DAY, OptimizeSettings(zombie_h=2))) == 1


def test_a_board_errs_as_its_sensor_class_does() -> None:
    assert sensor_classes(load_factors(), DAY)["gpu_board"].gain_sigma_ratio == BOARD_GAIN_SIGMA_RATIO


def test_states_that_came_and_went_ask_for_nothing() -> None:
    row = {
        "site_id": "s", "cluster_id": "c", "node_id": "n1", "device_id": "gpu0", "hours": 2.0,
        "performance_state": "thermally_throttled", "adjustment": "fan_or_inlet", "adjustment_reason": "cool it",
    }  # fmt: skip
    short, idle = row | {"hours": 0.5}, row | {"adjustment": "release"}
    (advice,) = state_advice([row, short, idle], DAY)
    assert advice.action == "fan_or_inlet" and advice.saving_kwh is None
    assert "thermally throttled for 2.0 h" in advice.advice


def row(kwh: Estimate | None) -> dict[str, Any]:
    return Advice(Subject("s"), "cooling", "a", "b", MIDNIGHT, MIDNIGHT, None, kwh, "c").row()


def test_kwh_are_worth_emissions_by_location_and_money_in_one_currency() -> None:
    rates = SiteRates(Estimate(400, 300, 500), Estimate(0.2, 0.1, 0.3), "EUR")
    found = valued(row(Estimate(10, 8, 12)), rates)
    assert (found["expected_saving_kgco2e"], found["expected_saving_lower_kgco2e"]) == (
        4.0,
        pytest.approx(2.4),
    )
    assert (found["expected_saving_cost"], found["currency"], found["carbon_method"]) == (
        2.0,
        "EUR",
        "location",
    )
    unknown = valued(row(Estimate(10, 8, 12)), SiteRates())
    assert unknown["expected_saving_kgco2e"] is None and unknown["carbon_method"] == "none"
    assert valued(row(None), rates)["expected_saving_cost"] is None


@given(*[st.floats(-100, 100)] * 6)
def test_a_product_holds_what_its_ends_can_make(
    a: float, b: float, c: float, d: float, e: float, f: float
) -> None:
    first, second = (Estimate(sorted(x)[1], sorted(x)[0], sorted(x)[2]) for x in ((a, b, c), (d, e, f)))
    made = first.by(second)
    for x in (first.lower, first.value, first.upper):
        for y in (second.lower, second.value, second.upper):
            assert made.lower - 1e-9 <= x * y <= made.upper + 1e-9
