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
from lepton_etl.report.figures import Headline, headlines
from lepton_etl.report.unknown import Equipment, Surroundings, unknowns
from lepton_etl.schema.energy import CLUSTER_DAY
from tests.pages import text_of

START = datetime(2025, 6, 3, tzinfo=UTC)
TWO_DAYS = Days.of(date(2025, 6, 3), date(2025, 6, 4))


def day(offset: int, it_kwh: float | None, facility_kwh: float | None, kg: float | None) -> dict[str, object]:
    blank = dict.fromkeys((*figures.SUMMED, "coverage_ratio", "node_second_coverage_ratio"))
    return blank | {
        "it_energy_lower_kwh": None, "it_energy_upper_kwh": None, "carbon_intensity_gco2e_per_kwh": None,
        "date": date(2025, 6, 3) + timedelta(days=offset), "site_id": "s", "cluster_id": "c", "node_count": 2,
        "cpu_utilisation_ratio": None, "gpu_utilisation_ratio": None, "peak_power_w": None,
        "inlet_temp_p99_c": None, "it_energy_kwh": it_kwh, "facility_energy_kwh": facility_kwh,
        "emissions_location_kgco2e": kg, "emissions_missing_kwh": 0.0 if kg is not None else None,
        "grid_import_kwh": facility_kwh, "it_energy_modelled_kwh": None, "it_energy_imputed_kwh": None,
        "pue_ratio": facility_kwh / it_kwh if it_kwh and facility_kwh else None, "pue_category": 3,
        "energy_basis": "measured", "idle_basis": "none", "facility_basis": "partial", "pue_basis": "partial",
        "emissions_basis": "measured", "status": "closed",
    }  # fmt: skip


def test_pue_and_intensity_of_a_range_are_ratios_of_sums() -> None:
    rows = [day(0, 100.0, 200.0, 20.0), day(1, 300.0, 330.0, 66.0), day(2, 1000.0, None, None)]
    (total,) = figures.over_range(rows, Days.of(date(2025, 6, 3), date(2025, 6, 5)))
    assert total["pue_ratio"] == pytest.approx(530 / 400)
    assert total["carbon_intensity_gco2e_per_kwh"] == pytest.approx(86_000 / 530)
    assert total["it_energy_kwh"] == 1400.0
    emitted = ("emissions_location_kgco2e", "emissions_missing_kwh")
    assert total["partial"] == dict.fromkeys((*emitted, "facility_energy_kwh", "grid_import_kwh"), (2, 3))


def test_a_day_without_a_row_is_unknown() -> None:
    rows = figures.completed([day(0, 100.0, 200.0, 20.0)], TWO_DAYS)
    (total,) = figures.over_range(rows, TWO_DAYS)
    assert total["it_energy_kwh"] == 100.0
    assert total["partial"]["it_energy_kwh"] == (1, 2)


def test_an_interval_stands_only_where_all_of_the_energy_has_one() -> None:
    rows = [day(0, 100.0, None, None), day(1, 50.0, None, None), day(2, None, None, None)]
    for row, low, high in zip(rows, (92.0, 46.0, None), (108.0, 54.0, None), strict=True):
        row |= {"it_energy_lower_kwh": low, "it_energy_upper_kwh": high}
    assert figures.interval(rows) == (138.0, 162.0)
    metered_only = rows[1] | {"it_energy_lower_kwh": None, "it_energy_upper_kwh": None}
    assert figures.interval([rows[0], metered_only]) == (None, None)


def test_a_total_of_unknowns_is_unknown() -> None:
    (total,) = figures.over_range([day(0, None, None, None), day(1, None, None, None)], TWO_DAYS)
    assert total["it_energy_kwh"] is None
    assert total["pue_ratio"] is None
    assert total["coverage_ratio"] is None


def cluster(name: str, nodes: int, **known: object) -> dict[str, object]:
    """A row of gold/cluster_day of which only what is given is known."""
    blank = dict.fromkeys(CLUSTER_DAY.columns)
    bases = {column: "none" for column in CLUSTER_DAY.columns if column.endswith("_basis")}
    return (
        blank
        | bases
        | {"date": date(2025, 6, 3), "site_id": "s", "cluster_id": name, "node_count": nodes}
        | known
    )


def reasons(row: dict[str, object], around: Surroundings) -> dict[str, str]:
    return {item.column: item.reason.name for item in unknowns([row], around)}


def test_a_meters_pseudo_cluster_lacks_nothing_that_only_nodes_have() -> None:
    shared = cluster(
        "_shared", 0, it_energy_kwh=15.0, facility_energy_kwh=19.0, pue_ratio=1.2, grid_import_kwh=19.0
    )
    found = reasons(shared, Surroundings())
    assert set(found) == {
        "carbon_intensity_gco2e_per_kwh", "emissions_location_kgco2e", "emissions_upstream_kgco2e",
        "emissions_market_kgco2e", "water_l",
    }  # fmt: skip


def test_a_reason_is_one_that_the_row_and_its_cluster_bear_out() -> None:
    servers = Surroundings(
        {("s", "c"): Equipment(servers=4, cpu_hours=0, inlet_hours=96)}, {}, has_water_meter=True
    )
    partly = cluster("c", 4, energy_basis="insufficient", coverage_ratio=0.4, it_energy_measured_kwh=3.0)
    found = reasons(partly, servers)
    assert found["it_energy_kwh"] == "insufficient" and found["it_energy_imputed_kwh"] == "not_filled"
    assert found["idle_energy_kwh"] == "idle_untold" and found["cpu_utilisation_ratio"] == "cpu_unread"
    assert found["facility_energy_kwh"] == "it_unknown" and found["pue_ratio"] == "facility_unknown"
    assert found["water_l"] == "water_unshared" and found["inlet_temp_p99_c"] == "inlet_off"
    assert not {"gpu_energy_kwh", "gpu_utilisation_ratio"} & set(found)
    complete = partly | {"coverage_ratio": 1.0, "it_energy_kwh": 9.0}
    assert "it_energy_imputed_kwh" not in reasons(complete, servers)
    assert reasons(complete, servers)["facility_energy_kwh"] == "site_unknown"
    known = Surroundings(servers.equipment, {("s", date(2025, 6, 3)): 24})
    assert reasons(complete, known)["facility_energy_kwh"] == "overhead_unknown"
    gpus = Surroundings({("s", "c"): Equipment(gpu_nodes=4)})
    assert reasons(partly, gpus)["gpu_energy_kwh"] == "boards_unread"
    assert "cpu_utilisation_ratio" not in reasons(partly, gpus)


def test_unknowns_of_one_reason_stand_in_one_line_with_its_clusters() -> None:
    rows = [cluster("a", 2), cluster("b", 2), cluster("c", 2, it_energy_kwh=1.0)]
    (line,) = (item for item in unknowns(rows, Surroundings()) if item.column == "it_energy_kwh")
    assert (line.missing, line.clusters, line.basis, line.reason.name) == (2, ("a", "b"), "none", "no_power")


def hour(offset: int, value: float | None) -> dict[str, object]:
    return {"cluster_id": "c", "hour_start": START + timedelta(hours=offset), "value": value}


def test_a_bucket_is_the_mean_of_its_known_hours() -> None:
    rows = [hour(0, 1.0), hour(1, None), hour(2, 3.0), hour(3, None), hour(4, None), hour(5, None)]
    found = bucketed(rows, "value", 3)
    assert found == {("c", START): 2.0, ("c", START + timedelta(hours=3)): None}


def test_intensity_leaves_out_energy_without_an_intensity() -> None:
    row = {"cluster_id": "c", "hour_start": START, "emissions_location_kgco2e": 10.0,
           "grid_import_kwh": 40.0}  # fmt: skip
    missing = row | {"hour_start": START, "emissions_location_kgco2e": None, "grid_import_kwh": 10.0}
    assert site_intensity([row, missing], 1) == {("site", START): 250.0}


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


def site_hour(hour: int, it_kwh: float | None = 10.0, **more: object) -> dict[str, object]:
    names = ("it_energy_measured_kwh", "it_energy_modelled_kwh", "it_energy_imputed_kwh", "it_energy_lower_kwh",
             "it_energy_upper_kwh", "it_metered_kwh")  # fmt: skip
    return dict.fromkeys(names) | {
        "hour_start": START + timedelta(hours=hour), "date": date(2025, 6, 3), "node_count": 8, "coverage_ratio": 1.0,
        "it_energy_kwh": it_kwh, "energy_basis": "measured", "facility_energy_kwh": 13.0, "facility_basis": "measured",
        "grid_import_kwh": 13.0, "emissions_location_kgco2e": 2.6, "emissions_missing_kwh": 0.0,
        "emissions_basis": "measured", **more,
    }  # fmt: skip


def tiles(hours: list[dict[str, object]], clusters: list[dict[str, object]]) -> dict[str, Headline]:
    found = headlines(hours, [], clusters, Days.of(date(2025, 6, 3)))
    return {tile.name: Headline(tile.name, text_of(tile.value), text_of(tile.note)) for tile in found}  # type: ignore[arg-type]


def test_figures_of_a_site_need_no_sensor_in_every_node() -> None:
    """A node without a power sensor leaves its cluster unknown, and neither the utility meter nor the intensity."""
    blind = day(0, None, None, None)
    found = tiles([site_hour(hour) for hour in range(24)], [blind])
    assert found["Facility energy"].value == "312.0\u202fkWh"
    assert found["Emissions, location-based"].value == "62.40\u202fkg\u00a0CO₂e"
    assert found["Carbon intensity"].value == "200\u202fg/kWh"
    assert found["IT energy"].value == "240.0\u202fkWh"


def test_a_sum_of_hours_of_which_some_are_unknown_is_the_least_it_can_be() -> None:
    found = tiles([site_hour(hour, None if hour == 3 else 10.0) for hour in range(24)], [])
    assert found["IT energy"].value == "≥\u00a0230.0\u202fkWh"
    assert "known in 23 of 24 hours" in found["IT energy"].note
    # An hour without a row is no less unknown.
    assert "known in 20 of 24 hours" in tiles([site_hour(h) for h in range(20)], [])["Facility energy"].note


def test_idle_energy_is_a_share_of_all_it_energy() -> None:
    """That outside clusters (`_shared`), of which nobody says idle, is in the sum that it is a share of."""
    clusters = [day(0, 200.0, None, None) | {"idle_energy_kwh": 15.0, "idle_basis": "jobs"},
                day(0, 40.0, None, None) | {"cluster_id": "_shared", "node_count": 0}]  # fmt: skip
    hours = [site_hour(hour) for hour in range(24)]
    assert tiles(hours, clusters)["Idle energy"].note.startswith("6.2\u202f% of all IT energy; basis: jobs")
    unknown = [*clusters, day(0, 10.0, None, None) | {"cluster_id": "d"}]
    note = tiles(hours, unknown)["Idle energy"]
    assert note.value.startswith("≥") and note.note.startswith("≥\u00a06.2")
    assert "known in 1 of 2 cluster-days with nodes" in note.note
    hours[5]["it_energy_kwh"] = None
    assert "of all IT energy" not in tiles(hours, clusters)["Idle energy"].note


def test_the_tile_of_the_it_energy_tells_meters_from_sensors_and_what_is_modelled() -> None:
    ends = {"it_energy_measured_kwh": 9.0, "it_energy_lower_kwh": 8.8, "it_energy_upper_kwh": 9.2}
    sensed = tiles([site_hour(h, 9.0, **ends, it_energy_modelled_kwh=4.5) for h in range(24)], [])[
        "IT energy"
    ]
    assert (
        "90 %: 211.2\u202fkWh to 220.8\u202fkWh" in sensed.note
        and "; 50.0\u202f% of it modelled" in sensed.note
    )
    ends |= {"it_energy_lower_kwh": 9.9, "it_energy_upper_kwh": 10.1}
    metered = tiles([site_hour(h, **ends, it_metered_kwh=10.0) for h in range(24)], [])["IT energy"]
    assert metered.value == "240.0\u202fkWh"
    assert (
        "at meters (90 %: 237.6\u202fkWh to 242.4\u202fkWh); nodes by sensors 216.0\u202fkWh" in metered.note
        and "modelled" not in metered.note
    )
