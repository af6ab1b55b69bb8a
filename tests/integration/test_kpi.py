"""gold/kpi on real tables: a day of a site with one cluster, its month and year, made twice."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pytest
import structlog

from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.energy.aggregate import group_parts, group_sums
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.carbon import INSTRUMENT, KPI, MARKET_YEAR
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL, METER
from pipelines import gold as carbon
from pipelines import kpi
from pipelines.stage import StageContext
from tests.integration.laying import lay

DAY = date(2025, 6, 3)
DAYS = Days.of(DAY)
HOURS = [datetime(2025, 6, 3, tzinfo=UTC) + timedelta(hours=n) for n in range(24)]


def put(lake: Lake, table: Table, rows: list[dict[str, Any]]) -> None:
    lay(lake, table, rows, DAYS if table.partition else None)


def site(lake: Lake) -> None:
    """100 kWh IT an hour at PDU outputs, 98 by sensors, 130 facility; half the nodes at 20 degC, half at 30."""
    same = {"site_id": "s", "date": DAY, "status": "provisional"}
    bases = {"facility_basis": "measured", "pue_basis": "measured", "energy_basis": "measured"}
    meter = {"site_id": "s", "carrier": "electricity", "sign": 1, "valid_from": HOURS[0]}
    put(lake, METER, [
        {**meter, "meter_id": "pdu", "point": "pdu_out"}, {**meter, "meter_id": "ch", "point": "chiller"},
    ])  # fmt: skip
    put(lake, FACILITY_INTERVAL, [
        {**same, "meter_id": name, "point": "x", "interval_start": hour, "interval_s": 3600, "energy_kwh": kwh,
         "observed_s": 3600.0}
        for hour in HOURS for name, kwh in (("pdu", 100.0), ("ch", 20.0))
    ])  # fmt: skip
    put(lake, SITE_HOUR, [
        {**same, **bases, "hour_start": hour, "it_energy_kwh": 100.0, "it_energy_measured_kwh": 98.0,
         "facility_energy_kwh": 130.0, "utility_kwh": 110.0, "pv_kwh": 20.0}
        for hour in HOURS
    ])  # fmt: skip
    cluster = {
        **same, **bases, "cluster_id": "c", "node_count": 2, "idle_basis": "none", "it_energy_kwh": 98.0,
        "facility_energy_kwh": 130.0, "grid_import_kwh": 110.0, "emissions_location_kgco2e": 44.0,
        "emissions_basis": "measured", "water_l": 90.0,
    }  # fmt: skip
    used = {"server_observed_h": 1.0, "server_busy_h": 0.4, "gpu_observed_h": 8.0, "gpu_busy_h": 5.6}
    put(lake, CLUSTER_HOUR, [{**cluster, **used, "hour_start": hour} for hour in HOURS])
    put(lake, CLUSTER_DAY, [{**cluster, "grid_import_kwh": 110.0 * 24}])
    put(lake, NODE_HOUR, [
        {**same, "cluster_id": "c", "node_id": node, "hour_start": hour, "energy_basis": "measured",
         "expected_s": 3600.0, "observed_s": 3600.0, "inlet_temp_c": inlet, "gpu_count": gpus,
         "cpu_utilisation_ratio": 0.4, "gpu_utilisation_ratio": 0.7 if gpus else None, "power_mean_w": 500.0}
        for hour in HOURS for node, inlet, gpus in (("n1", 20.0, 0), ("n2", 30.0, 8))
    ])  # fmt: skip
    put(lake, INSTRUMENT, [
        {"site_id": "s", "instrument_id": "go-1", "instrument_type": "certificate", "zone_id": "ZZ",
         "volume_kwh": 264.0, "vintage_year": 2025, "instrument_intensity_gco2e_per_kwh": 0.0,
         "technology": "wind", "retirement_id": "R1", "valid_from": HOURS[0]},
    ])  # fmt: skip


def settings(lake: Lake) -> Settings:
    return Settings.model_validate(
        {
            "site": {"site_id": "s"},
            "lake": {"root": lake.root.uri},
            "fleet": {"inventory": "nodes.csv"},
            "sources": [{"name": "bmc", "format": "ipmitool", "path": "logs/*"}],
            "grid": {"zone": "ZZ", "intensity": "grid/*.csv"},
            # The year's consumption is the day's: the certificate covers a tenth of it.
            "carbon": {"annual_consumption_kwh": 2640},
        }
    )


def test_a_day_its_month_and_its_year(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    site(lake)
    context = StageContext(lake, settings(lake), DAYS, "run", structlog.get_logger())
    carbon.market_year(context)
    first = kpi.run(context)
    rows = lake.read(KPI).to_dicts()
    of = {(row["period"], row["boundary"], row["kpi"]): row for row in rows}
    expected = {
        "pue2": 1.3, "pue3": 130 / 98, "dcie": 100 / 130, "cue": 0.44, "wue": 0.9, "ref": (0.1 * 110 + 20) / 130,
        "cfe_own": 20 / 130, "iteusv": 0.4, "gpu_utilisation": 0.7, "energy_per_node_hour": 65.0,
        "inlet_recommended_share": 0.5, "inlet_a1_share": 1.0, "rci_hi": 1 - 3 / (2 * 5), "rci_lo": 1.0,
    }  # fmt: skip
    assert {name: of["day", "site", name]["kpi_value"] for name in expected} == pytest.approx(expected)
    assert of["day", "site/cooling", "ppue"]["kpi_value"] == pytest.approx(1.2)
    assert of["day", "c", "cue"]["kpi_value"] == pytest.approx(44 / 98)
    assert of["day", "site", "pue3"]["kpi_basis"] == "partial", "network and storage have no meter"
    assert (of["day", "site", "pue1"]["kpi_value"], of["day", "site", "wue_source"]["kpi_value"]) == (
        None,
        None,
    )
    assert of["month", "site", "pue2"]["date"] == date(2025, 6, 1)
    year = of["year", "site", "pue2"]
    assert (year["kpi_value"], year["is_interim"], year["last_date"]) == (pytest.approx(1.3), True, DAY)
    (balance,) = lake.read(MARKET_YEAR).to_dicts()
    assert (balance["matched_kwh"], balance["balance_kwh"]) == (264.0, 0.0)
    again = kpi.run(context)
    assert not carbon.market_year(context).changed
    assert [one.changed for one in first.written] == [True]
    assert [one.changed for one in again.written] == [False]


def lay_nodes(lake: Lake, rows: list[dict[str, Any]]) -> pl.DataFrame:
    """Hours of the nodes of cluster c, and what gold makes of them by the hour of the cluster; returns the latter."""
    same = {
        "site_id": "s", "date": DAY, "status": "provisional", "cluster_id": "c", "energy_basis": "measured",
        "idle_basis": "none", "expected_s": 3600.0,
    }  # fmt: skip
    put(lake, NODE_HOUR, [same | row for row in rows])
    by = ("date", "hour_start", "site_id", "cluster_id")
    sums = group_sums(group_parts(lake.read(NODE_HOUR), by), by, 0.9)
    bases = dict.fromkeys(("facility_basis", "pue_basis", "emissions_basis"), "none") | {
        "status": "provisional"
    }
    put(lake, CLUSTER_HOUR, [
        {name: row[name] for name in CLUSTER_HOUR.columns if name in row} | bases for row in sums.to_dicts()
    ])  # fmt: skip
    return sums


def test_iteusv_is_that_of_the_cluster_hours_and_weighs_servers_by_what_was_seen(tmp_path: Path) -> None:
    """A server whose power nobody knows is on where it works; half an hour seen weighs half."""
    lake = Lake(tmp_path / "lake")
    site(lake)
    sums = lay_nodes(lake, [
        {"node_id": node, "hour_start": hour, "observed_s": seen_s, "gpu_count": 0, "cpu_utilisation_ratio": busy,
         "power_mean_w": power_w}
        for hour in HOURS
        for node, busy, seen_s, power_w in (
            ("whole", 0.9, 3600.0, 500.0), ("half", 0.3, 1800.0, 500.0), ("unmetered", 0.6, 0.0, None),
            ("off", 0.0, 3600.0, 0.0), ("off or idle", 0.0, 0.0, None),
        )
    ])  # fmt: skip
    expected = (0.9 + 0.3 / 2 + 0.6) / 2.5
    assert sums["cpu_utilisation_ratio"].to_list() == pytest.approx([expected] * 24)
    found = judge(lake)
    for boundary in ("c", "site"):
        assert found[boundary, "iteusv"]["kpi_value"] == pytest.approx(expected)
        assert found[boundary, "iteusv"]["denominator"] == pytest.approx(24 * 2.5)


def judge(lake: Lake) -> dict[tuple[str, str], dict[str, Any]]:
    kpi.run(StageContext(lake, settings(lake), DAYS, "run", structlog.get_logger()))
    return {(row["boundary"], row["kpi"]): row for row in lake.read(KPI).to_dicts() if row["period"] == "day"}


def test_hours_in_which_no_node_tells_are_not_known(tmp_path: Path) -> None:
    """Half a day without utilisation and inlets is half a day known, not a whole one with nothing in scope."""
    lake = Lake(tmp_path / "lake")
    site(lake)
    lay_nodes(lake, [
        {"node_id": "n", "hour_start": hour, "observed_s": 3600.0, "gpu_count": None, "power_mean_w": 500.0,
         "cpu_utilisation_ratio": told, "inlet_temp_c": told and 20.0}
        for hour, told in zip(HOURS, [0.4] * 12 + [None] * 12, strict=True)
    ])  # fmt: skip
    found = judge(lake)
    for name in ("iteusv", "inlet_a1_share", "rci_hi"):
        row = found["c", name]
        assert (row["kpi_value"], row["coverage_ratio"]) == (None, 0.5), name
        assert row["kpi_reason"] == "only 12 of 24 hours are known"


def test_a_node_whose_gpus_nobody_counted_is_no_server_where_one_speaks(tmp_path: Path) -> None:
    lake = Lake(tmp_path / "lake")
    site(lake)
    lay_nodes(lake, [
        {"node_id": node, "hour_start": hour, "observed_s": 3600.0, "gpu_count": None, "power_mean_w": power_w,
         "cpu_utilisation_ratio": 0.4, "gpu_energy_kwh": gpu_kwh}
        for hour in HOURS for node, power_w, gpu_kwh in (("cpu", 500.0, None), ("gpu", 900.0, 0.3))
    ])  # fmt: skip
    assert judge(lake)["c", "iteusv"]["denominator"] == 24.0


def with_generator(lake: Lake, generator_kwh: float | None, scope1_kg: float | None) -> None:
    """The site with a listed generator and export meter that read nothing."""
    site(lake)
    meters = lake.read(METER).to_dicts()
    put(
        lake,
        METER,
        [*meters, *({**meters[0], "meter_id": name, "point": name} for name in ("generator", "export"))],
    )
    sites, clusters = lake.read(SITE_HOUR).to_dicts(), lake.read(CLUSTER_HOUR).to_dicts()
    put(lake, SITE_HOUR, [{**row, "generator_kwh": generator_kwh} for row in sites])
    put(lake, CLUSTER_HOUR, [{**row, "emissions_scope1_kgco2e": scope1_kg} for row in clusters])


@pytest.mark.parametrize(
    ("generator_kwh", "scope1_kg", "emitted_kg"),
    [(0.0, None, 44.0), (10.0, 8.0, 52.0), (10.0, None, None), (None, None, None)],
    ids=["stood still", "known", "fuel unknown", "silent"],
)
def test_a_generator_of_unknown_emissions_leaves_cue_unknown(
    tmp_path: Path, generator_kwh: float | None, scope1_kg: float | None, emitted_kg: float | None
) -> None:
    lake = Lake(tmp_path / "lake")
    with_generator(lake, generator_kwh, scope1_kg)
    found = judge(lake)
    for boundary, it_kwh in (("site", 100.0), ("c", 98.0)):
        row = found[boundary, "cue"]
        expected = None if emitted_kg is None else pytest.approx(emitted_kg / it_kwh)
        assert row["kpi_value"] == expected
        assert (row["kpi_basis"] == "none") == (emitted_kg is None)
    # What of the photovoltaics was exported is not known either.
    assert found["site", "cfe_own"]["kpi_value"] is None


@pytest.mark.parametrize(
    ("carrier", "scope1_kg", "cue"),
    [("gas", None, None), ("gas", 6.0, 0.5), ("cooling", 6.0, None), ("heat", 6.0, None)],
)
def test_what_enters_beside_electricity_owes_its_emissions(
    tmp_path: Path, carrier: str, scope1_kg: float | None, cue: float | None
) -> None:
    """Facility energy holds 10 kWh of another carrier; carbon-free energy is judged by the other 120."""
    lake = Lake(tmp_path / "lake")
    site(lake)
    meters = lake.read(METER).to_dicts()
    put(lake, METER, [*meters, {**meters[0], "meter_id": "other", "point": "utility", "carrier": carrier}])
    put(lake, SITE_HOUR, [{**row, "carrier_energy_kwh": 10.0} for row in lake.read(SITE_HOUR).to_dicts()])
    clusters = lake.read(CLUSTER_HOUR).to_dicts()
    put(lake, CLUSTER_HOUR, [{**row, "emissions_scope1_kgco2e": scope1_kg} for row in clusters])
    found = judge(lake)
    assert found["site", "cue"]["kpi_value"] == (None if cue is None else pytest.approx(cue))
    assert found["site", "pue2"]["kpi_value"] == pytest.approx(1.3)
    assert found["site", "cfe_own"]["kpi_value"] == pytest.approx(20 / 120)
    assert (found["site/cooling", "ppue"]["kpi_value"] is None) == (carrier == "cooling")


def test_a_year_without_known_grid_energy_has_no_renewable_share(tmp_path: Path) -> None:
    """Nothing matched of nothing is no finding that nothing is renewable."""
    lake = Lake(tmp_path / "lake")
    site(lake)
    put(lake, SITE_HOUR, [{**row, "pv_kwh": None} for row in lake.read(SITE_HOUR).to_dicts()])
    put(lake, MARKET_YEAR, [
        {"site_id": "s", "reporting_year": 2025, "instrument_id": "go-1", "instrument_type": "certificate",
         "volume_kwh": 264.0, "consumption_kwh": 0.0, "matched_kwh": 0.0, "status": "provisional"},
    ])  # fmt: skip
    row = judge(lake)["site", "ref"]
    assert (row["kpi_value"], row["kpi_basis"]) == (None, "none")


def test_a_market_year_of_which_nothing_is_known_matches_nothing(tmp_path: Path) -> None:
    """Neither grid energy nor an expectation: no volume is matched with 0 kWh."""
    lake = Lake(tmp_path / "lake")
    site(lake)
    put(lake, CLUSTER_DAY, [{**row, "grid_import_kwh": None} for row in lake.read(CLUSTER_DAY).to_dicts()])
    given = settings(lake)
    for expected_kwh, rows in ((None, 0), (2640.0, 1)):
        carbon_settings = given.carbon.model_copy(update={"annual_consumption_kwh": expected_kwh})
        known = given.model_copy(update={"carbon": carbon_settings})
        carbon.market_year(StageContext(lake, known, DAYS, "run", structlog.get_logger()))
        assert lake.read(MARKET_YEAR).height == rows
