"""The night on one real day of 46 nodes, held against plain Python and laid-down counts."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable as DeltaLog

from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR
from lepton_etl.schema.fleet import INTERVAL, SENSOR_CHECK
from lepton_etl.schema.logs import FILE
from pipelines.engine import InlineEngine
from pipelines.nightly import run_night
from tests.conftest import PROJECT, real_data
from tests.real.independent_harvard import node_hours

HERE = Path(__file__).parent
DATA = real_data() / "harvard-ipmi-weather"
DAY = date(2025, 6, 3)
RELATIVE_ERROR = 0.001

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not DATA.is_dir(), reason=f"no real data at {DATA} (LEPTON_REAL_DATA)"),
]


def case_rows(name: str) -> list[dict[str, str]]:
    with (HERE / name).open(encoding="utf-8", newline="") as lines:
        return list(csv.DictReader(lines))


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lake]:
    """The lake after bronze, silver, gate and gold of the day, with the committed settings and inventory."""
    root = tmp_path_factory.mktemp("harvard")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LEPTON_REAL_DATA", str(real_data()))
        patch.setenv("LEPTON__LAKE__ROOT", str(root / "lake"))
        patch.setenv("LEPTON__QUALITY__DOCS", str(root / "quality"))
        settings = load(PROJECT / "conf" / "examples" / "harvard.yaml")
    for stage in ("bronze", "silver", "gate", "gold"):
        night = run_night(InlineEngine(), settings, Days.of(DAY), stage)
        assert night.exit_code == Exit.DONE, night.message
    yield Lake(settings.lake.root)


def table(lake: Lake, which: Table) -> pl.DataFrame:
    return pl.from_arrow(DeltaLog(lake.path(which)).to_pyarrow_table())  # type: ignore[return-value]


def test_node_energies_equal_plain_python(lake: Lake) -> None:
    hours = table(lake, NODE_HOUR).filter(pl.col("it_energy_measured_kwh").is_not_null())
    found = {
        (row["node_id"], row["hour_start"]): row["it_energy_measured_kwh"]
        for row in hours.iter_rows(named=True)
    }
    checked = 0
    for case in case_rows("harvard_energy.csv"):
        node = case["node_id"]
        supplies = tuple(name for name in case["supplies"].split("+") if name)
        totals = tuple(name for name in case["totals"].split("|") if name)
        expected = node_hours(DATA / "ipmi" / f"{node}-{DAY}.txt.gz", supplies, totals)
        # The laid-down day guards the plain computation itself.
        assert sum(expected.values()) == pytest.approx(float(case["energy_kwh"] or 0), abs=1e-6)
        assert len(expected) == int(case["hours"])
        assert {hour for n, hour in found if n == node} == {datetime.fromtimestamp(h, UTC) for h in expected}
        for hour, energy_kwh in expected.items():
            measured = found[node, datetime.fromtimestamp(hour, UTC)]
            assert measured == pytest.approx(energy_kwh, rel=RELATIVE_ERROR, abs=1e-9), (node, hour)
            checked += 1
    assert checked == len(found)


def test_nothing_all_day_is_not_energy(lake: Lake) -> None:
    """The BMC of one node says 0 W, and no second source says that it is off."""
    rows = table(lake, INTERVAL).filter(node_id="holygpu2c0923", device_id="node")
    assert rows.filter(pl.col("flags").list.contains("suspect_zero")).height > 0
    assert rows["energy_kwh"].null_count() == rows.height


def test_every_node_of_the_inventory_has_every_hour_and_silence_is_not_off(lake: Lake) -> None:
    hours = table(lake, NODE_HOUR)
    assert hours.height == 46 * 24
    silent = hours.filter(pl.col("node_id") == "holy2c092901")
    assert silent["it_energy_measured_kwh"].null_count() == 24
    assert set(silent["coverage_ratio"]) == {0.0}


def test_without_meter_and_grid_the_unknown_is_null_with_its_basis(lake: Lake) -> None:
    days = table(lake, CLUSTER_DAY)
    assert set(days["cluster_id"]) == {"holy", "holygpu", "lichtman"}
    for column in ("facility_energy_kwh", "pue_ratio", "pue_category", "emissions_location_kgco2e",
                   "emissions_upstream_kgco2e", "emissions_market_kgco2e", "carbon_intensity_gco2e_per_kwh",
                   "water_l"):  # fmt: skip
        assert days[column].null_count() == days.height, column
    for column in ("pue_basis", "facility_basis", "emissions_basis"):
        assert set(days[column]) == {"none"}, column


def test_records_are_accounted_for_in_every_file_with_the_laid_down_counts(lake: Lake) -> None:
    files = {Path(row["path"]).name: row for row in table(lake, FILE).iter_rows(named=True)}
    cases = [case for case in case_rows("decoder_counts.csv") if case["file"] in files]
    assert sum(case["file"].endswith("-2025-06-03.txt.gz") for case in cases) == 46
    for case in cases:
        row = files[case["file"]]
        assert row["records"] == row["readings"] + row["rejects"] + row["duplicates"] + row["ignored"]
        laid_down = {name: int(case[name]) for name in ("records", "readings", "rejects", "duplicates")}
        assert {name: row[name] for name in laid_down} == laid_down, case["file"]
        assert row["ignored"] == int(case["unmapped"]) + int(case["no_value"])


def test_a_chassis_of_four_nodes_is_counted_once(lake: Lake) -> None:
    chassis = table(lake, INTERVAL).filter(pl.col("device_id") == "chassis")
    of_four = chassis.filter(pl.col("node_id") == "holy8a241")
    assert of_four.height > 0 and not of_four["counts_in_total"].any()
    assert of_four["power_mean_w"].median() == pytest.approx(250.0)
    # One sample of 25,550 W (8-bit full scale) stands in the logs of holy8a251's nodes.
    assert chassis["power_max_w"].max() < 1_000.0


def test_a_real_chassis_draws_far_more_than_its_nodes(lake: Lake) -> None:
    rows = table(lake, INTERVAL)
    nodes = [f"holy8a2410{number}" for number in range(1, 5)]
    own = rows.filter(pl.col("node_id").is_in(nodes) & (pl.col("device_id") == "node"))
    box = rows.filter((pl.col("node_id") == "holy8a241") & (pl.col("device_id") == "chassis"))
    together = own.join(box.select("interval_start", box_kwh="energy_kwh"), on="interval_start")
    by_node = together.group_by("node_id").agg(pl.col("energy_kwh").sum()).sort("node_id")
    assert by_node["node_id"].to_list() == nodes
    box_kwh = together.unique("interval_start")["box_kwh"].sum()
    # 250 W of one enclosure, not of each of its four nodes of 20 W.
    assert box_kwh - by_node["energy_kwh"].sum() == pytest.approx(0.4447, abs=1e-4)


def test_supplies_bmc_and_parts_of_real_nodes_bear_one_another_out(lake: Lake) -> None:
    checks = table(lake, SENSOR_CHECK)
    assert set(checks["sensor_verdict"]) == {"agrees"}
    bmc = checks.filter((pl.col("check_source") == "bmc") & (pl.col("against_source") == "psu_input"))
    found = dict(zip(bmc["node_id"], bmc["median_ratio"].round(3), strict=True))
    assert found == {"holygpu2c0701": 1.0, "holygpu2c0702": 1.0, "lichtmandce03": 1.005}
    parts = checks.filter(pl.col("check_source") == "components")
    assert parts["median_ratio"].is_between(0.3, 0.8).all() and parts.height == 5
