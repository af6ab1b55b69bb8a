"""KPIs against published figures and a set worked out by hand."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from lepton_etl.facility.meter_hours import meter_totals
from lepton_etl.indicators.definitions import DEFINITIONS
from lepton_etl.indicators.figures import Totals, day_kpis, roll_up
from lepton_etl.indicators.inlet_envelopes import ALLOWABLE, InletHours

DAY = date(2025, 6, 3)
# By hand: 1,000 kWh IT at PDU outputs, 1,030 at UPS outputs, 980 by sensors; 1,300 kWh facility of which 200 cooling
# and 50 of gas.
HOUR = Totals(
    DAY, "s", it_kwh={1: 1030.0, 2: 1000.0, 3: 980.0}, facility_kwh=1300.0, cooling_kwh=200.0,
    electric_kwh=1250.0,    heat_removed_kwh=1100.0, heat_reused_kwh=130.0, grid_import_kwh=1200.0, renewable_kwh=400.0,
    own_cfe_kwh=100.0, cfe_kwh=650.0,
    water_l=1800.0, grid_water_l_per_kwh=2.0, emissions_kgco2e=480.0, cpu_busy_h=30.0, cpu_h=100.0, gpu_busy_h=60.0,
    gpu_h=80.0, node_h=120.0, gpu_held_h=65.0, jobs=13.0, reference_facility_kwh=500.0,
    reference_it_kwh=400.0,
)  # fmt: skip
BY_HAND = {
    "pue1": 1300 / 1030, "pue2": 1.3, "pue3": 1300 / 980, "ppue": 1.2, "dcie": 1000 / 1300, "cue": 0.48, "wue": 1.8,
    "wue_source": 1.8 + 2.4, "ref": 400 / 1300, "erf": 0.1, "ere": 1.17, "cer": 5.5, "cfe_own": 0.08, "cfe": 0.52,
    "iteusv": 0.3, "gpu_utilisation": 0.75, "energy_per_job": 100.0, "carbon_per_job": 480 / 13,
    "energy_per_gpu_hour": 20.0, "carbon_per_gpu_hour": 480 / 65, "energy_per_node_hour": 1300 / 120,
    "carbon_per_node_hour": 4.0, "pue_normalised": 1.25,
}  # fmt: skip


def values(*hours: Totals, least: float = 0.9) -> dict[str, Any]:
    return {row["kpi"]: row["kpi_value"] for row in day_kpis(hours, least)}


@pytest.mark.parametrize("kpi", BY_HAND)
def test_a_set_worked_out_by_hand(kpi: str) -> None:
    assert values(HOUR)[kpi] == pytest.approx(BY_HAND[kpi])


def test_identities_between_kpis_hold() -> None:
    found = values(HOUR)
    assert found["pue1"] <= found["pue2"] <= found["pue3"]
    assert found["ere"] == pytest.approx((1 - found["erf"]) * found["pue2"])
    assert found["dcie"] == pytest.approx(1 / found["pue2"])
    # CUE = carbon intensity of the facility's energy x PUE.
    assert found["cue"] == pytest.approx(480 / 1300 * found["pue2"])


@pytest.mark.parametrize(
    ("compute", "accessory", "total", "pue"),
    [
        (11.168, 0.6011, 11.7691, 1.053823), (11.464, 0.6429, 12.1069, 1.056080),
        (11.043, 0.6097, 11.6527, 1.055211),
    ],
)  # fmt: skip
def test_frontier_2023(compute: float, accessory: float, total: float, pue: float) -> None:
    """Sun et al., Scientific Data 11:1077: MW over an hour."""
    hour = Totals(DAY, "frontier", it_kwh={2: compute * 1000}, facility_kwh=(compute + accessory) * 1000)
    assert hour.facility_kwh == pytest.approx(total * 1000)
    assert values(hour)["pue2"] == pytest.approx(pue, abs=5e-7)


def test_esif_totals() -> None:
    """NREL/TP-2C00-72196, 2016-09 to 2017-08: PUE 1.034, ERE 0.929, WUE 0.70 L/kWh."""
    it, facility = 7_776e3, 8_037.5e3
    reused = facility - 0.929 * it
    year = Totals(
        DAY, "esif", it_kwh={2: it}, facility_kwh=facility, heat_reused_kwh=reused, water_l=0.70 * it
    )
    found = values(year)
    assert found["pue2"] == pytest.approx(1.034, abs=5e-4)
    assert found["ere"] == pytest.approx(0.929, abs=5e-4)
    assert found["wue"] == pytest.approx(0.70)
    assert found["erf"] == pytest.approx(1 - 0.929 / 1.0336, abs=5e-4)


def test_water_is_not_multiplied_by_pue() -> None:
    """mlco2/codecarbon: WUE x (energy x PUE). Twice the overhead changes PUE and leaves WUE."""
    double = replace(HOUR, facility_kwh=2600.0)
    assert values(double)["wue"] == values(HOUR)["wue"] == 1.8
    assert values(double)["pue2"] == 2 * 1.3


def test_renewables_end_at_consumption() -> None:
    assert values(replace(HOUR, renewable_kwh=5000.0))["ref"] == 1.0


def test_a_figure_that_contradicts_its_definition_is_none_with_a_reason() -> None:
    rows = {row["kpi"]: row for row in day_kpis([replace(HOUR, facility_kwh=900.0)], 0.9)}
    assert rows["pue2"]["kpi_value"] is None
    assert rows["pue2"]["kpi_basis"] == "none"
    assert rows["pue2"]["kpi_reason"] == "0.9 contradicts the definition"
    assert rows["dcie"]["kpi_value"] is None


def test_the_unknown_is_null_with_its_reason_and_nothing_else_suffers() -> None:
    rows = {row["kpi"]: row for row in day_kpis([replace(HOUR, water_l=None)], 0.9)}
    assert (rows["wue"]["kpi_value"], rows["wue"]["kpi_basis"]) == (None, "none")
    assert rows["wue"]["kpi_reason"] == "the inputs are not known"
    assert rows["pue2"]["kpi_value"] == pytest.approx(1.3)


def test_a_day_is_a_ratio_of_sums_over_hours_in_which_both_are_known() -> None:
    busy, idle = (
        Totals(DAY, "s", it_kwh={2: 900.0}, facility_kwh=990.0),
        Totals(DAY, "s", it_kwh={2: 100.0}, facility_kwh=200.0),
    )
    assert values(busy, idle)["pue2"] == pytest.approx(1.19)
    silent = Totals(DAY, "s", it_kwh={2: 100.0}, facility_kwh=None)
    assert values(busy, idle, silent, least=0.6)["pue2"] == pytest.approx(1.19)
    (row,) = (r for r in day_kpis([busy, idle, silent], 0.9) if r["kpi"] == "pue2")
    assert (row["kpi_value"], row["numerator"]) == (None, None)
    assert row["kpi_reason"] == "only 2 of 3 hours are known"


def test_bases_travel_and_mix_to_partial() -> None:
    assumed = replace(HOUR, bases={"facility_kwh": "assumed"})
    (row,) = (r for r in day_kpis([assumed], 0.9) if r["kpi"] == "pue2")
    assert row["kpi_basis"] == "assumed"
    (row,) = (r for r in day_kpis([assumed, HOUR], 0.9) if r["kpi"] == "pue2")
    assert row["kpi_basis"] == "partial"


def test_a_cluster_has_no_pue_of_its_own() -> None:
    found = values(replace(HOUR, boundary="gpu"))
    assert "pue2" not in found
    assert found["cue"] == pytest.approx(0.48)


def test_ashrae_shares_and_rack_cooling_index() -> None:
    inlet = InletHours(
        100.0, {"recommended": 80.0, "A1": 95.0, "A2": 99.0, "A3": 100.0, "A4": 100.0}, 25.0, 6.0
    )
    found = values(replace(HOUR, inlet=inlet))
    assert found["inlet_recommended_share"] == 0.8
    assert found["inlet_a1_share"] == 0.95
    assert found["rci_hi"] == pytest.approx(1 - 25 / (100 * (32 - 27)))
    assert found["rci_lo"] == pytest.approx(1 - 6 / (100 * (18 - 15)))
    assert [(one.low_c, one.high_c) for one in ALLOWABLE.values()] == [(15, 32), (10, 35), (5, 40), (5, 45)]


def rows_of(days: int, first: date = date(2025, 1, 1)) -> list[dict[str, Any]]:
    rows = []
    for n in range(days):
        it = 100.0 + n
        hour = Totals(first + timedelta(days=n), "s", it_kwh={2: it}, facility_kwh=1.2 * it + 10)
        rows += day_kpis([hour], 0.9)
    return rows


def test_a_year_is_interim_until_its_last_day() -> None:
    (part,) = (r for r in roll_up(rows_of(364), "year", date(2025, 1, 1), 0.9) if r["kpi"] == "pue2")
    (whole,) = (r for r in roll_up(rows_of(365), "year", date(2025, 1, 1), 0.9) if r["kpi"] == "pue2")
    assert (part["is_interim"], whole["is_interim"]) == (True, False)
    it = sum(100 + n for n in range(365))
    assert whole["kpi_value"] == pytest.approx((1.2 * it + 3650) / it)
    assert whole["pue_category"] == 2
    assert whole["last_date"] == date(2025, 12, 31)


def test_a_lake_that_begins_within_the_year_has_interim_figures() -> None:
    rows = rows_of(30, date(2025, 12, 2))
    (row,) = (r for r in roll_up(rows, "year", date(2025, 1, 1), 0.9) if r["kpi"] == "pue2")
    assert row["kpi_value"] == pytest.approx((1.2 * sum(range(100, 130)) + 300) / sum(range(100, 130)))
    assert (row["is_interim"], row["coverage_ratio"]) == (True, 1.0)


def test_a_month_leaves_other_months_out_and_is_null_below_the_coverage() -> None:
    rows = rows_of(59)
    (february,) = (r for r in roll_up(rows, "month", date(2025, 2, 1), 0.9) if r["kpi"] == "pue2")
    assert february["denominator"] == sum(100 + n for n in range(31, 59))
    holes = [row for row in rows if row["date"].day % 2]
    (thin,) = (r for r in roll_up(holes, "month", date(2025, 1, 1), 0.97) if r["kpi"] == "pue2")
    assert thin["coverage_ratio"] == pytest.approx(16 / 31)
    assert (thin["kpi_value"], thin["kpi_reason"]) == (None, "only 16 of 31 days are known")


def test_every_kpi_names_its_edition_and_units() -> None:
    for one in DEFINITIONS.values():
        assert one.edition
        assert one.unit
        assert one.numerator_unit
        assert one.denominator_unit


def test_meters_by_point() -> None:
    start = datetime(2025, 6, 3, tzinfo=UTC)
    meters = pl.DataFrame(
        [
            ("ups", None, "ups_out", "it", "electricity"), ("pdu1", "ups", "pdu_out", "it", "electricity"),
            ("pdu1a", "pdu1", "pdu_out", "it", "electricity"), ("pdu2", "ups", "pdu_out", "it", None),
            ("ch", None, "chiller", "site", "electricity"), ("tw", None, "tower", "site", "electricity"),
            ("loop", None, "chiller", "site", "heat"), ("town", None, "other", "reuse", "heat"),
        ],
        schema=["meter_id", "parent_id", "point", "serves", "carrier"], orient="row",
    ).with_columns(pl.lit("s").alias("site_id"))  # fmt: skip
    kwh = {"ups": 103, "pdu1": 60, "pdu1a": 30, "pdu2": 40, "ch": 20, "tw": 5, "loop": 120, "town": 11}
    intervals = pl.DataFrame(
        [("s", name, start, float(value), 3600.0 if name != "tw" else 1000.0) for name, value in kwh.items()],
        schema=["site_id", "meter_id", "interval_start", "energy_kwh", "observed_s"],
        orient="row",
    )
    (row,) = meter_totals(intervals, meters, 0.9).to_dicts()
    assert (row["it_ups_kwh"], row["it_pdu_kwh"]) == (103, 100), "a feed of a feed is counted once"
    assert (row["heat_removed_kwh"], row["heat_reused_kwh"]) == (120, 11)
    assert row["cooling_kwh"] is None, "the tower's meter was silent"
