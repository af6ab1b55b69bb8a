"""The whole night on simulated fleets, held against the truth that the simulator keeps beside its logs."""

from __future__ import annotations

import gzip
import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import pytest
from deltalake import DeltaTable as DeltaLog
from pyspark.sql import SparkSession

from lepton_etl.config.settings import LakeSettings, Settings, load
from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.lake.compare import compare_lakes
from lepton_etl.lake.lease import Lease
from lepton_etl.lake.tables import Lake
from lepton_etl.models.registry import Registry
from lepton_etl.schema.declare import Table
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL, INTERVAL
from lepton_etl.schema.ledger import ENERGY_LEDGER, METER_CHECK, METER_CHECK_LAST
from lepton_etl.schema.logs import FILE, READING, REJECT
from lepton_etl.schema.tables import TABLES
from lepton_etl.simulator.plan import ClusterPlan, Fault, FleetPlan
from lepton_etl.simulator.simulate import simulate
from pipelines.engine import InlineEngine, LocalEngine, SparkEngine
from pipelines.nightly import Night, run_night
from tests.conftest import PROJECT
from tests.nights import without

DAY = date(2025, 6, 3)
ONE_DAY = Days.of(DAY)
TWO_DAYS = Days(DAY, date(2025, 6, 4))
# A feed without readings opens the ledger, which stops the night: that has a test of its own.
LOG_FAULTS = tuple(fault for fault in Fault if fault is not Fault.FEED_DROPPED)
RELATIVE_ERROR_CLEAN = 0.002
RELATIVE_ERROR_COVERED = 0.01


@dataclass(frozen=True)
class Site:
    """A simulated site with its folder, its settings and the lake that the night made."""

    folder: Path
    settings: Settings
    lake: Lake
    night: Night

    def table(self, table: Table) -> pl.DataFrame:
        return pl.from_arrow(DeltaLog(self.lake.path(table)).to_pyarrow_table())  # type: ignore[return-value]

    def truth(self, name: str) -> pl.DataFrame:
        return pl.read_parquet(self.folder / "truth" / f"{name}.parquet")

    def versions(self, layers: tuple[str, ...] = ("bronze", "silver", "gold")) -> dict[str, int | None]:
        return {name: self.lake.version(t) for name, t in TABLES.items() if name.split("/")[0] in layers}


def make_site(
    folder: Path,
    *,
    faults: tuple[Fault, ...] = (),
    resolution_w: int = 1,
    days: Days = ONE_DAY,
) -> Site:
    plan = FleetPlan(
        seed=7,
        first_date=DAY,
        days=days.count,
        clusters=(
            ClusterPlan(cluster_id="c01", nodes=3, hardware_class="cpu-2s"),
            ClusterPlan(cluster_id="c02", nodes=3, hardware_class="gpu-400"),
        ),
        faults=faults,
        resolution_w=resolution_w,
    )
    simulate(plan, folder)
    with (folder / "config.yaml").open("a", encoding="utf-8") as config:
        # A learnt model, whatever it is: which one is chosen is tested in tests/unit/models.
        config.write("model: {trees: 10, slim: false, candidates: [linear, forest]}\n")
    settings = load(folder / "config.yaml")
    night = Night("none")
    for stage in [None] if days == TWO_DAYS else ["bronze", "silver", "gold"]:
        night = run_night(InlineEngine(), settings, days, stage)
        assert night.exit_code == Exit.DONE, night.message
    return Site(folder, settings, Lake(settings.lake.root), night)


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A clean fleet of 1 W sensors after one whole run over two days, the least that trains forward in time."""
    return make_site(tmp_path_factory.mktemp("clean"), days=TWO_DAYS)


@pytest.fixture(scope="module")
def coarse(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A clean fleet of 10 W sensors."""
    return make_site(tmp_path_factory.mktemp("coarse"), resolution_w=10)


@pytest.fixture(scope="module")
def faulty(tmp_path_factory: pytest.TempPathFactory) -> Site:
    """A fleet with every fault of nodes' logs that this release can inject."""
    return make_site(tmp_path_factory.mktemp("faulty"), faults=LOG_FAULTS)


def true_energy_kwh(site: Site) -> dict[str, float]:
    sums = site.truth("node_interval").group_by("cluster_id").agg(pl.col("energy_kwh").sum())
    return dict(sums.iter_rows())


def test_cluster_energy_of_a_clean_fleet_equals_the_truth(clean: Site) -> None:
    truth = true_energy_kwh(clean)
    days = clean.table(CLUSTER_DAY).filter(pl.col("cluster_id") != "_shared")
    assert days.height == 4
    assert set(days["energy_basis"]) == {"measured"}
    for cluster, energy_kwh in days.group_by("cluster_id").agg(pl.col("it_energy_kwh").sum()).iter_rows():
        assert energy_kwh == pytest.approx(truth[cluster], rel=RELATIVE_ERROR_CLEAN)


def test_clusters_and_shared_it_sum_to_the_utility_meter(clean: Site) -> None:
    day = clean.table(CLUSTER_DAY)
    utility = clean.truth("account").filter(pl.col("account") == "utility")["energy_kwh"].sum()
    assert day["facility_energy_kwh"].sum() == pytest.approx(utility, rel=1e-3)
    assert set(day["pue_basis"]) == {"measured"} and set(day["pue_category"]) == {2}
    assert day["pue_ratio"].min() > 1.0
    assert day["emissions_location_kgco2e"].null_count() == 0


@pytest.mark.slow
def test_with_coarse_sensors_the_truth_lies_in_the_stated_interval(coarse: Site) -> None:
    truth = true_energy_kwh(coarse)
    for row in coarse.table(CLUSTER_DAY).filter(pl.col("cluster_id") != "_shared").iter_rows(named=True):
        assert row["it_energy_lower_kwh"] <= truth[row["cluster_id"]] <= row["it_energy_upper_kwh"]
        assert row["it_energy_lower_kwh"] < row["it_energy_upper_kwh"]


def test_with_faults_energy_is_right_over_the_covered_time(faulty: Site) -> None:
    covered = (
        faulty.table(INTERVAL)
        .filter((pl.col("device_id") == "node") & (pl.col("observed_s") >= pl.col("interval_s") - 1e-6))
        .select("node_id", "cluster_id", "interval_start", measured="energy_kwh")
    )
    both = covered.join(
        faulty.truth("node_interval").drop("cluster_id"), on=["node_id", "interval_start"], how="left"
    )
    assert both["energy_kwh"].null_count() == 0
    for row in both.group_by("cluster_id").agg(pl.sum("measured", "energy_kwh")).iter_rows(named=True):
        assert row["measured"] == pytest.approx(row["energy_kwh"], rel=RELATIVE_ERROR_COVERED)


def test_each_injected_fault_is_found(faulty: Site) -> None:
    injected = faulty.truth("fault")
    assert set(injected["kind"]) == {fault.value for fault in LOG_FAULTS}
    files = faulty.table(FILE)
    rejects = faulty.table(REJECT)
    hours = faulty.table(NODE_HOUR)
    intervals = faulty.table(INTERVAL)
    for fault in injected.iter_rows(named=True):
        name = Path(fault["file"]).name
        file = files.filter(pl.col("path").str.ends_with(name)).row(0, named=True)
        of_node = pl.col("node_id") == fault["node_id"]
        within = (pl.col("interval_start") < fault["to_time"]) & (
            pl.col("interval_start") + pl.duration(seconds=pl.col("interval_s")) > fault["from_time"]
        )
        if fault["kind"] == "truncated_gzip":
            assert (file["state"], file["reason"]) == ("discarded", "truncated_gzip")
            assert rejects.filter(pl.col("path").str.ends_with(name))["reason"].to_list() == [
                "truncated_gzip"
            ]
        elif file["state"] == "discarded":
            continue
        elif fault["kind"] == "duplicates":
            assert file["duplicates"] > 0
        elif fault["kind"] == "bad_lines":
            assert file["rejects"] > 0
        elif fault["kind"] == "gaps" and "ipmi" in fault["file"]:
            gap = hours.filter(
                of_node & (pl.col("hour_start") >= fault["from_time"].replace(minute=0, second=0))
            )
            assert gap["coverage_ratio"].min() < 0.9
        elif fault["kind"] == "counter_resets":
            flags = intervals.filter(of_node & within & pl.col("device_id").str.starts_with("gpu"))["flags"]
            assert "counter_reset" in flags.explode().to_list()
    assert intervals["energy_kwh"].min() >= 0


def test_every_record_is_accounted_for(faulty: Site) -> None:
    files = faulty.table(FILE)
    parts = files.select(pl.sum_horizontal("readings", "jobs", "rejects", "duplicates", "ignored"))
    assert parts.to_series().to_list() == files["records"].to_list()
    assert files["readings"].sum() == faulty.table(READING).height
    assert files["rejects"].sum() == faulty.table(REJECT).height


def test_the_same_night_again_commits_nothing_and_registers_nothing(clean: Site) -> None:
    registry = Registry(clean.settings.mlflow.tracking_uri)
    before, models = clean.versions(), [v.version for v in registry.versions(clean.settings.model.name)]
    assert models
    # The gate commits nothing the first time either.
    with without("gate"):
        again = run_night(InlineEngine(), clean.settings, TWO_DAYS)
    assert again.exit_code == Exit.DONE, again.message
    assert clean.versions() == before
    assert [v.version for v in registry.versions(clean.settings.model.name)] == models


@pytest.mark.slow
def test_a_bad_gzip_is_named_and_the_rest_is_loaded(clean: Site) -> None:
    landing = clean.folder / "landing" / "ipmi"
    bad = landing / "c01n0009-2025-06-03.txt.gz"
    bad.write_bytes(next(landing.glob("c01n0001-*")).read_bytes()[:-100])
    good = landing / "c01n0008-2025-06-03.txt.gz"
    # An hour of another node's log: a whole day of a node that no meter sees would not close the ledger.
    text = gzip.decompress(next(landing.glob("c01n0001-*")).read_bytes())
    good.write_bytes(gzip.compress(text[: text.rindex(b"\nTimestamp", 0, len(text) // 24)]))
    night = run_night(InlineEngine(), clean.settings, ONE_DAY)
    assert night.exit_code == Exit.DONE, night.message
    assert any(f"file discarded: {bad}" in note for note in night.notes)
    states = dict(clean.table(FILE).select("path", "state").iter_rows())
    assert (states[str(bad)], states[str(good)]) == ("discarded", "loaded")
    page = next(clean.settings.report.folder.rglob("index.html")).read_text(encoding="utf-8")
    assert bad.name in page


def test_a_run_that_finds_the_lease_held_says_by_whom(clean: Site) -> None:
    with Lease(clean.lake, "bronze", "another-run"):
        night = run_night(InlineEngine(), clean.settings, ONE_DAY)
    assert night.exit_code == Exit.LOCKED
    assert "held by run another-run" in night.message


def test_a_failed_gate_keeps_silver_and_leaves_gold_untouched(clean: Site, tmp_path: Path) -> None:
    rules = shutil.copytree(PROJECT / "conf" / "expectations", tmp_path / "expectations")
    (rules / "silver_interval.yaml").write_text(
        "table: silver/interval\nrequired: true\nrules:\n"
        "  - {name: impossible, severity: fail, says: energy is below zero, column: energy_kwh, "
        "every_row: energy_kwh < 0}\n"
    )
    quality = clean.settings.quality.model_copy(update={"expectations": rules, "docs": tmp_path / "docs"})
    before = clean.versions(("silver", "gold"))
    night = run_night(InlineEngine(), clean.settings.model_copy(update={"quality": quality}), ONE_DAY, "gate")
    assert night.exit_code == Exit.QUALITY_GATE
    assert "impossible" in night.message and str(tmp_path / "docs") in night.message
    assert clean.versions(("silver", "gold")) == before


@pytest.mark.slow
def test_with_mlflow_down_the_figures_are_published(clean: Site) -> None:
    mlflow = clean.settings.mlflow.model_copy(update={"tracking_uri": "http://127.0.0.1:9"})
    night = run_night(InlineEngine(), clean.settings.model_copy(update={"mlflow": mlflow}), TWO_DAYS)
    assert night.exit_code == Exit.PUBLISHED_THEN_FAILED
    assert "published, but" in night.message
    states = {stage.stage: stage.state for stage in night.stages}
    assert (states["gold"], states["train"]) == ("done", "failed")


def test_a_day_without_input_leaves_the_other_days_untouched(clean: Site) -> None:
    before = clean.versions(("silver", "gold"))
    night = run_night(InlineEngine(), clean.settings, Days.of(date(2025, 7, 1)))
    assert night.exit_code == Exit.NO_INPUT
    assert "no reading of 2025-07-01" in night.message
    assert clean.versions(("silver", "gold")) == before


@pytest.mark.spark
def test_spark_and_a_pool_make_the_same_tables(spark: SparkSession, clean: Site, tmp_path: Path) -> None:
    made = []
    # One process is a pool too.
    with LocalEngine(1) as pool:
        for name, engine in (("spark", SparkEngine.of(spark)), ("pool", pool)):
            root = tmp_path / name
            settings = clean.settings.model_copy(update={"lake": LakeSettings(root=root)})
            for stage in ("bronze", "silver", "gold"):
                night = run_night(engine, settings, ONE_DAY, stage)
                assert night.exit_code == Exit.DONE, night.message
            made.append(root)
    found = list(compare_lakes(*made))
    assert found and all(one.equal for one in found), [
        line for one in found if not one.equal for line in one.lines()
    ]


def test_the_meters_of_a_clean_site_agree(clean: Site) -> None:
    rows = clean.table(METER_CHECK)
    assert rows.filter(pl.col("meter_verdict").is_in(("culprit", "candidate"))).is_empty()
    agree = rows.filter((pl.col("check_period") == "day") & (pl.col("meter_verdict") == "agrees"))
    assert {"utility-1", "lv-1", "ups-1-in", "ups-1-out", "pdu-a", "chiller-1"} <= set(agree["meter_id"])
    balances = clean.table(ENERGY_LEDGER).filter(pl.col("side") == "balance")
    assert balances["balance_state"].to_list() == ["closed"] * 48


def test_a_utility_meter_that_reads_double_stops_the_night_by_name(clean: Site) -> None:
    """Its difference to the transformer's output is no loss; gold stays as it was."""
    rows = clean.lake.read(FACILITY_INTERVAL, ONE_DAY)
    is_utility = pl.col("meter_id") == "utility-1"
    twice = pl.when(is_utility).then(2 * pl.col("energy_kwh")).otherwise("energy_kwh").alias("energy_kwh")
    before = clean.versions(("gold",))
    clean.lake.replace(FACILITY_INTERVAL, ONE_DAY, rows.with_columns(twice))
    try:
        night = run_night(InlineEngine(), clean.settings, ONE_DAY, "gold")
    finally:
        clean.lake.replace(FACILITY_INTERVAL, ONE_DAY, rows)
    assert night.exit_code == Exit.QUALITY_GATE
    assert "likeliest utility-1" in night.message
    assert clean.versions(("gold",)) == before
    checked = clean.table(METER_CHECK_LAST).filter(
        (pl.col("check_period") == "day") & (pl.col("date") == DAY)
    )
    assert set(checked.filter(pl.col("meter_verdict") == "culprit")["meter_id"]) == {"utility-1"}
