"""Sums, ratios of sums, buckets and written figures."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta

import pytest

from lepton_etl.days import Days
from lepton_etl.report import charts, figures
from lepton_etl.report import figures as text
from lepton_etl.report.charts import bucketed, drawings, site_intensity
from lepton_etl.report.data import ReportData, bucket_hours
from lepton_etl.report.figures import headlines

START = datetime(2025, 6, 3, tzinfo=UTC)


def day(offset: int, it_kwh: float | None, facility_kwh: float | None, kg: float | None) -> dict[str, object]:
    blank = dict.fromkeys((*figures.SUMMED, "coverage_ratio", "node_second_coverage_ratio"))
    return blank | {
        "it_energy_lower_kwh": None, "it_energy_upper_kwh": None, "carbon_intensity_gco2e_per_kwh": None,
        "date": date(2025, 6, 3) + timedelta(days=offset), "site_id": "s", "cluster_id": "c", "node_count": 2,
        "cpu_utilisation_ratio": None, "gpu_utilisation_ratio": None, "peak_power_w": None,
        "inlet_temp_p99_c": None, "it_energy_kwh": it_kwh, "facility_energy_kwh": facility_kwh,
        "emissions_location_kgco2e": kg, "emissions_missing_kwh": 0.0 if kg is not None else None,
        "pue_ratio": facility_kwh / it_kwh if it_kwh and facility_kwh else None, "pue_category": 3,
        "energy_basis": "measured", "idle_basis": "none", "facility_basis": "partial", "pue_basis": "partial",
        "emissions_basis": "measured", "status": "closed",
    }  # fmt: skip


def test_pue_and_intensity_of_a_range_are_ratios_of_sums() -> None:
    rows = [day(0, 100.0, 200.0, 20.0), day(1, 300.0, 330.0, 66.0), day(2, 1000.0, None, None)]
    (total,) = figures.over_range(rows)
    assert total["pue_ratio"] == pytest.approx(530 / 400)
    assert total["carbon_intensity_gco2e_per_kwh"] == pytest.approx(86_000 / 530)
    assert total["it_energy_kwh"] == 1400.0
    assert total["partial"] == {
        "facility_energy_kwh": "2 of 3 days", "emissions_location_kgco2e": "2 of 3 days",
        "emissions_missing_kwh": "2 of 3 days",
    }  # fmt: skip


def test_a_day_without_a_row_is_unknown() -> None:
    rows = figures.completed([day(0, 100.0, 200.0, 20.0)], Days.of(date(2025, 6, 3), date(2025, 6, 4)))
    (total,) = figures.over_range(rows)
    assert total["it_energy_kwh"] == 100.0
    assert total["partial"]["it_energy_kwh"] == "1 of 2 days"
    assert headlines(rows)[0].value == "≥\u00a0100.0\u202fkWh"


def test_an_interval_stands_only_where_all_of_the_energy_has_one() -> None:
    rows = [day(0, 100.0, None, None), day(1, 50.0, None, None), day(2, None, None, None)]
    for row, low, high in zip(rows, (92.0, 46.0, None), (108.0, 54.0, None), strict=True):
        row |= {"it_energy_lower_kwh": low, "it_energy_upper_kwh": high}
    assert figures.interval(rows) == (138.0, 162.0)
    metered_only = rows[1] | {"it_energy_lower_kwh": None, "it_energy_upper_kwh": None}
    assert figures.interval([rows[0], metered_only]) == (None, None)


def test_a_total_of_unknowns_is_unknown() -> None:
    (total,) = figures.over_range([day(0, None, None, None), day(1, None, None, None)])
    assert total["it_energy_kwh"] is None
    assert total["pue_ratio"] is None
    assert total["coverage_ratio"] is None


def test_unknowns_name_the_basis_and_count() -> None:
    rows = [day(0, 100.0, None, None), day(1, 100.0, 130.0, None)]
    for row in rows:
        row |= dict.fromkeys(("it_energy_imputed_kwh", "emissions_market_kgco2e", "water_l"))
        row |= {"carbon_intensity_gco2e_per_kwh": None}
    found = {item.column: item for item in figures.unknowns(rows)}
    assert "it_energy_kwh" not in found
    assert (found["facility_energy_kwh"].missing, found["facility_energy_kwh"].rows) == (1, 2)
    assert found["facility_energy_kwh"].basis == "partial"


def hour(offset: int, value: float | None) -> dict[str, object]:
    return {"cluster_id": "c", "hour_start": START + timedelta(hours=offset), "value": value}


def test_a_bucket_is_the_mean_of_its_known_hours() -> None:
    rows = [hour(0, 1.0), hour(1, None), hour(2, 3.0), hour(3, None), hour(4, None), hour(5, None)]
    found = bucketed(rows, "value", 3)
    assert found == {("c", START): 2.0, ("c", START + timedelta(hours=3)): None}


def test_intensity_leaves_out_energy_without_an_intensity() -> None:
    row = {"cluster_id": "c", "hour_start": START, "emissions_location_kgco2e": 10.0,
           "facility_energy_kwh": 50.0, "emissions_missing_kwh": 10.0}  # fmt: skip
    assert site_intensity([row], 1) == {("site", START): 250.0}


@pytest.mark.parametrize(("days", "hours"), [(1, 1), (8, 1), (9, 3), (40, 6), (200, 24), (1100, 168)])
def test_buckets_keep_a_chart_readable(days: int, hours: int) -> None:
    span = Days.of(date(2022, 8, 1), date(2022, 8, 1) + timedelta(days=days - 1))
    assert bucket_hours(span) == hours


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (text.energy(None), "–"),
        (text.energy(0.0), "0\u202fkWh"),
        (text.energy(9_999.4), "9,999\u202fkWh"),
        (text.energy(12_826.6), "12.83\u202fMWh"),
        (text.energy(2.5e6), "2.500\u202fGWh"),
        (text.energy(0.01234), "0.01234\u202fkWh"),
        (text.percent(0.99996), "99.9\u202f%"),
        (text.percent(1.0), "100.0\u202f%"),
        (text.percent(None), "–"),
        (text.percent(-0.0004), "0.0\u202f%"),
        (text.percent(-0.004), "-0.4\u202f%"),
        (text.mass(1234.0), "1.234\u202ft\u00a0CO₂e"),
        (text.power(641_328.0), "641.3\u202fkW"),
        (text.number(0), "0"),
        (text.number(None), "–"),
    ],
)
def test_figures_are_written_with_unit_and_digits(written: str, expected: str) -> None:
    assert written == expected


def test_a_day_of_the_site_is_told_on_its_own_clock() -> None:
    days = Days.of(date(2025, 11, 2))
    assert text.local_span(days, "America/New_York") == (
        "2025-11-01 20:00 to 2025-11-02 19:00, America/New_York"
    )
    assert text.local_dates(days, "Asia/Kolkata") == (date(2025, 11, 2), date(2025, 11, 3))


@pytest.mark.parametrize(
    ("ratio", "name"),
    [
        (None, None),
        (0.0, "none"),
        (0.2, "below 50 %"),
        (0.5, "50 to 90 %"),
        (0.9, "90 to 100 %"),
        (1.0, "complete"),
    ],
)
def test_coverage_classes(ratio: float | None, name: str | None) -> None:
    assert charts.coverage_class(ratio) == name


def test_unknown_hours_are_gaps_in_the_line(made_up_report: Callable[..., ReportData]) -> None:
    spec = drawings(made_up_report(1))["energy"].spec
    assert spec is not None
    unknown = [row for row in spec["datasets"]["rows"] if row["series"] == "ml" and row["value"] is None]
    assert [row["time"][11:13] for row in unknown] == ["04", "05", "06"]


def test_a_line_does_not_cross_hours_without_a_row(made_up_report: Callable[..., ReportData]) -> None:
    full = made_up_report(1)
    kept = [i for i, t in enumerate(full.cluster_hour["hour_start"].to_pylist()) if t.hour != 9 or i % 3]
    spec = drawings(made_up_report(1, cluster_hour=full.cluster_hour.take(kept)))["energy"].spec
    assert spec is not None
    gaps = [r["time"][11:13] for r in spec["datasets"]["rows"] if r["series"] == "hpc" and r["value"] is None]
    assert gaps == ["09"]


def test_a_site_of_gpu_boards_only_shows_their_energy(made_up_report: Callable[..., ReportData]) -> None:
    full = made_up_report(1)
    rows = [
        dict.fromkeys(full.cluster_hour.schema.names)
        | {"cluster_id": "gpu", "hour_start": START + timedelta(hours=h), "gpu_energy_kwh": 0.4}
        for h in range(24)
    ]
    hours = full.cluster_hour.schema.empty_table().from_pylist(rows, schema=full.cluster_hour.schema)
    drawing = drawings(made_up_report(1, cluster_hour=hours))["energy"]
    assert drawing.title == "GPU board energy by cluster, kWh per hour"
    assert drawing.spec is not None


def test_the_tile_of_the_energy_says_how_much_of_it_is_modelled() -> None:
    rows = [day(0, 100.0, None, None), day(1, 300.0, None, None) | {"it_energy_modelled_kwh": 100.0}]
    assert headlines(rows)[0].note.endswith("; 25.0\u202f% of it modelled")
    assert "modelled" not in headlines(rows[:1])[0].note
