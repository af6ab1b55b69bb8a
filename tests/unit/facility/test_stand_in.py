"""What stands in for missing meters: only where it may, always marked, and near the truth of the building."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.config.sections import FacilityModelSettings
from lepton_etl.facility.fit import FacilityFit, StageLoss, fit_facility, fit_stage_loss
from lepton_etl.facility.hours import PlantHours
from lepton_etl.facility.modelled_meters import (
    PART_HOURS,
    default_stages,
    modelled_overhead,
    modelled_stages,
    stage_sums,
    usual_loads,
    with_modelled_overhead,
)
from lepton_etl.schema.declare import end_names
from tests.unit.facility.plant import simulated

SITE = "here"
UTC_TIME = pl.Datetime("us", "UTC")


def frame(hours: PlantHours, bought: float = 0.0) -> pl.DataFrame:
    """The hours as rows of gold/site_hour without a utility meter; `bought` of other carriers a kWh of IT energy."""
    starts = [datetime(1970, 1, 1, tzinfo=UTC) + timedelta(hours=hour) for hour in hours.hour.tolist()]
    return pl.DataFrame(
        {
            "site_id": [SITE] * len(hours), "hour_start": starts, "it_energy_kwh": hours.it_kwh,
            "outdoor_wet_bulb_temp_c": hours.wet_bulb_c, "facility_energy_kwh": [None] * len(hours),
            "facility_basis": ["none"] * len(hours), "pue_ratio": [None] * len(hours),
            "pue_basis": ["none"] * len(hours), "it_energy_upper_kwh": hours.it_kwh * 1.02,
            "carrier_energy_kwh": hours.it_kwh * bought,
        },
        schema_overrides={"hour_start": UTC_TIME, "facility_energy_kwh": pl.Float64, "pue_ratio": pl.Float64},
    ).with_columns(pl.lit(None, pl.Float64).alias(name) for name in end_names("facility_energy_kwh"))  # fmt: skip


@pytest.fixture(scope="module")
def plant() -> PlantHours:
    return simulated(40)


@pytest.fixture(scope="module")
def later(plant: PlantHours) -> PlantHours:
    return plant.at(plant.day >= plant.day[0] + 38)


@pytest.fixture(scope="module")
def fit(plant: PlantHours) -> FacilityFit:
    return fit_facility(SITE, plant.at(plant.day < plant.day[0] + 38), FacilityModelSettings())


def test_cooling_and_management_of_later_hours_are_near_the_truth(
    fit: FacilityFit, later: PlantHours
) -> None:
    parts = modelled_overhead(frame(later), {SITE: fit})
    assert parts.schema == PART_HOURS
    cooling = parts.filter(pl.col("part") == "cooling")
    assert cooling.height == len(later)
    error = abs(cooling["energy_kwh"].sum() / later.cooling_kwh.sum() - 1)
    assert error < 0.15
    assert cooling["sigma_kwh"].min() > 0
    management = parts.filter(pl.col("part") == "management")
    assert management["energy_kwh"].sum() == pytest.approx(later.management_kwh.sum(), rel=0.01)


def test_a_modelled_pue_is_marked_and_near_the_true_one(fit: FacilityFit, later: PlantHours) -> None:
    filled = with_modelled_overhead(frame(later), {SITE: fit})
    assert set(filled["pue_basis"]) == set(filled["facility_basis"]) == {"modelled"}
    true_kwh = later.it_kwh + later.overhead_kwh + later.loss_kwh
    assert filled["facility_energy_kwh"].sum() == pytest.approx(true_kwh.sum(), rel=0.015)
    assert (filled["pue_ratio"] - filled["facility_energy_kwh"] / filled["it_energy_kwh"]).abs().max() < 1e-12
    low, high = filled["overhead_modelled_lower_kwh"], filled["overhead_modelled_upper_kwh"]
    assert ((low <= filled["overhead_modelled_kwh"]) & (filled["overhead_modelled_kwh"] <= high)).all()
    half = filled["facility_energy_upper_kwh"] - filled["facility_energy_kwh"]
    assert half.to_list() == pytest.approx(np.hypot(0.02 * later.it_kwh, (high - low).to_numpy() / 2))


def test_what_other_carriers_brought_is_in_no_fit_and_has_no_error(
    fit: FacilityFit, later: PlantHours
) -> None:
    without, with_it = (with_modelled_overhead(frame(later, bought), {SITE: fit}) for bought in (0.0, 0.3))
    more_kwh = with_it["facility_energy_kwh"] - without["facility_energy_kwh"]
    assert more_kwh.to_list() == pytest.approx(0.3 * later.it_kwh)
    assert with_it["facility_energy_upper_kwh"].null_count() == len(later)


def test_measured_hours_and_unknown_drivers_are_left_as_they_are(fit: FacilityFit, later: PlantHours) -> None:
    rows = frame(later).with_row_index("at")
    rows = rows.with_columns(
        pl.when(pl.col("at") == 0).then(9.0).otherwise("facility_energy_kwh").alias("facility_energy_kwh"),
        pl.when(pl.col("at") != 1).then("it_energy_kwh").alias("it_energy_kwh"),
        pl.when(pl.col("at") != 2).then("outdoor_wet_bulb_temp_c").alias("outdoor_wet_bulb_temp_c"),
    ).drop("at")
    filled = with_modelled_overhead(rows, {SITE: fit})
    assert filled["facility_energy_kwh"][:3].to_list() == [9.0, None, None]
    assert filled["pue_basis"][:4].to_list() == ["none", "none", "none", "modelled"]
    assert filled["overhead_modelled_kwh"][:3].null_count() == 3


def test_without_an_accepted_fit_or_a_loss_curve_nothing_is_put_in(
    fit: FacilityFit, later: PlantHours
) -> None:
    refused = replace(fit, refused=("bad",))
    for fits in ({}, {SITE: refused}, {"elsewhere": fit}, {SITE: replace(fit, loss=None)}):
        filled = with_modelled_overhead(frame(later), fits)
        assert filled["facility_energy_kwh"].null_count() == len(later)
        assert set(filled["pue_basis"]) == {"none"}
    assert modelled_overhead(frame(later), {SITE: refused}).is_empty()


def test_one_overhead_from_a_total_fills_the_site_but_no_account() -> None:
    hours = simulated(30, sub_metered=False)
    fit = fit_facility(SITE, hours, FacilityModelSettings())
    assert modelled_overhead(frame(hours), {SITE: fit}).is_empty()
    filled = with_modelled_overhead(frame(hours), {SITE: fit})
    true_kwh = (hours.it_kwh + hours.overhead_kwh).sum()
    assert filled["facility_energy_kwh"].sum() == pytest.approx(true_kwh, rel=0.02)


@given(
    a=st.floats(0, 20), b=st.floats(0, 0.1), c=st.floats(0, 1e-4), output=st.floats(0, 2000),
)  # fmt: skip
def test_a_stage_loses_the_same_told_from_either_side(a: float, b: float, c: float, output: float) -> None:
    curve = StageLoss(a, b, c, 0.0, 100)
    loss = curve.from_output(np.array([output]))[0]
    assert curve.from_input(np.array([output + loss]))[0] == pytest.approx(loss, rel=1e-6, abs=1e-9)
    assert 0 <= curve.from_input(np.array([output]))[0] <= output + 1e-12


def test_the_curve_of_a_stage_is_found_on_earlier_hours(plant: PlantHours) -> None:
    curve = fit_stage_loss(plant.it_kwh + plant.loss_kwh, plant.it_kwh)
    assert curve is not None
    assert curve.error_kwh < 0.02 * plant.loss_kwh.mean()
    unknown = np.full(len(plant), np.nan)
    assert fit_stage_loss(unknown, plant.it_kwh) is None
    assert fit_stage_loss(plant.it_kwh, plant.it_kwh + 1) is None, "gives more than it takes"
    assert fit_stage_loss(plant.it_kwh[:20] * 1.1, plant.it_kwh[:20]) is None, "too few hours"


def test_a_stage_of_which_one_side_is_known_has_a_modelled_loss() -> None:
    start = datetime(2025, 6, 3, tzinfo=UTC)
    rows = [
        # hour 0: both sides of the UPS, a PDU feed silent; hour 1: its input alone; hour 2: its output alone
        (0, "ups-in", "ups_in", None, 110.0), (0, "ups-out", "ups_out", None, 100.0),
        (0, "a", "pdu_out", None, 50.0), (0, "b", "pdu_out", None, None),
        (1, "ups-in", "ups_in", None, 110.0), (1, "ups-out", "ups_out", None, None),
        (2, "ups-in", "ups_in", None, None), (2, "ups-out", "ups_out", None, 100.0),
        (2, "utility", "utility", 1.0, 150.0), (2, "export", "export", -1.0, 20.0),
    ]  # fmt: skip
    meters = pl.DataFrame(
        [(SITE, start + timedelta(hours=hour), *rest) for hour, *rest in rows],
        schema={"site_id": pl.String, "hour_start": UTC_TIME, "meter_id": pl.String, "point": pl.String,
                "direction": pl.Float64, "energy_kwh": pl.Float64},
        orient="row",
    )  # fmt: skip
    tenth = StageLoss(0.0, 0.1, 0.0, 0.5, 100)
    parts = modelled_stages(stage_sums(meters), {SITE: {"ups": tenth, "pdu": tenth, "transformer": tenth}})
    found = {(row["hour_start"].hour, row["part"]): row["energy_kwh"] for row in parts.iter_rows(named=True)}
    assert found == {
        (0, "ups"): pytest.approx(10.0),
        (0, "pdu"): pytest.approx(100 / 11),
        (1, "ups"): pytest.approx(10.0),
        (2, "ups"): pytest.approx(10.0),
        (2, "pdu"): pytest.approx(100 / 11),
        (2, "transformer"): pytest.approx(130 / 11),
    }
    assert set(parts["sigma_kwh"]) == {0.5}


def one_hour(**energies: float | None) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Sums at the points of one hour, and its nodes (`nodes`)."""
    hour = {"site_id": [SITE], "hour_start": pl.Series([datetime(2025, 6, 3, tzinfo=UTC)], dtype=UTC_TIME)}
    nodes = pl.DataFrame(hour | {"energy_kwh": pl.Series([energies.pop("nodes", None)], dtype=pl.Float64)})
    points = ("boundary", "transformer_out", "ups_in", "ups_out", "pdu_out")
    sums = {point: pl.Series([energies.get(point)], dtype=pl.Float64) for point in points}
    return pl.DataFrame(hour | sums), nodes


def test_what_nobody_knows_of_a_loss_is_the_range_of_its_class() -> None:
    sums, nodes = one_hour(boundary=100.0, nodes=50.0)
    found = {row["part"]: row for row in default_stages(sums, nodes, ("transformer", "pdu")).to_dicts()}
    assert found["transformer"]["energy_kwh"] == pytest.approx(1.75)
    assert found["transformer"]["sigma_kwh"] == pytest.approx(1.25 / 3**0.5)
    assert found["transformer"]["most_kwh"] == pytest.approx(3.0 + 2.0)
    assert found["pdu"]["energy_kwh"] == pytest.approx(50 / 0.9825 - 50)
    assert (found["ups"]["energy_kwh"], found["ups"]["sigma_kwh"]) == (0.0, 0.0), "not a part of the site"
    assert default_stages(*one_hour(), ("transformer", "ups", "pdu")).is_empty(), "no load is known"


def test_a_load_that_the_others_contradict_is_theirs() -> None:
    sums, nodes = one_hour(ups_in=200.0, ups_out=92.0, pdu_out=90.0, nodes=91.0)
    usual = usual_loads(sums, nodes)
    assert usual["ups_in"][0] == pytest.approx(100.0, rel=0.02)
    assert usual["ups_out"][0] == 92.0
    right, nodes = one_hour(ups_in=104.0, ups_out=92.0, pdu_out=90.0, nodes=91.0)
    assert usual_loads(right, nodes)["ups_in"][0] == 104.0
    two, nodes = one_hour(ups_in=200.0, ups_out=92.0)
    assert usual_loads(two, nodes)["ups_in"][0] == 200.0, "nobody says which of two is wrong"
