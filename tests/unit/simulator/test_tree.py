"""The tree on disk: same plan, same bytes; files decode without a loss; the truth closes; settings load."""

from __future__ import annotations

import csv
import gzip
import hashlib
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from lepton_etl.config import settings
from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.registers.inventory import read_meters, read_nodes
from lepton_etl.simulator.plan import ClusterPlan, Fault, FleetPlan, LocalSource
from lepton_etl.simulator.simulate import simulate
from lepton_etl.simulator.truth import ACCOUNTS, SOURCES
from tests.decoding import decode

PLAN_DAYS = 2


def digests(out: Path) -> dict[str, str]:
    """SHA-256 of every file below `out`."""
    files = [path for path in out.rglob("*") if path.is_file()]
    return {str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def decoded(out: Path, pattern: str) -> dict[str, Decoded]:
    """Every landed file of a pattern through the decoder of its source."""
    config = settings.load(out / "config.yaml")
    found = {}
    for source in config.all_sources:
        if source.path.endswith(pattern):
            for path in sorted(out.glob(f"landing/{pattern}")):
                data = path.read_bytes()
                text = gzip.decompress(data) if path.suffix == ".gz" else data
                node_id = path.name.split("-2025")[0] if path.suffix == ".gz" else None
                origin = Origin(config.site.site_id, source.name, path.name, node_id, "UTC")
                found[path.name] = decode(text, origin, source)
                found[path.name].check()
    return found


def test_equal_plans_give_equal_bytes_with_any_number_of_processes(clean: Path, tmp_path: Path) -> None:
    plan = FleetPlan.model_validate_json((clean / "plan.json").read_text())
    simulate(plan, tmp_path / "again", processes=2)
    assert digests(tmp_path / "again") == digests(clean)


def test_a_longer_plan_writes_the_same_first_days(clean: Path, tmp_path: Path) -> None:
    plan = FleetPlan.model_validate_json((clean / "plan.json").read_text())
    simulate(plan.model_copy(update={"days": 1}), tmp_path / "short")
    long, short = digests(clean), digests(tmp_path / "short")
    logs = [name for name in short if name.startswith("landing/")]
    assert len(logs) == 6 + 3 + 5 + 2
    assert [name for name in logs if long[name] != short[name]] == []


def test_another_seed_gives_other_logs(clean: Path, tmp_path: Path) -> None:
    plan = FleetPlan.model_validate_json((clean / "plan.json").read_text())
    other = plan.model_copy(update={"seed": 99, "days": 1, "clusters": plan.clusters[:1]})
    simulate(other, tmp_path / "other")
    before, after = digests(clean), digests(tmp_path / "other")
    logs = [name for name in after if name.startswith("landing/")]
    assert logs
    assert not [name for name in logs if before[name] == after[name]]


def test_settings_load_and_name_every_source(clean: Path) -> None:
    config = settings.load(clean / "config.yaml")
    assert [source.name for source in config.all_sources] == [
        "bmc", "gpu", "meters", "heat", "water", "weather", "jobs", "holdings", "grid",
    ]  # fmt: skip
    for source in config.all_sources:
        assert list(clean.glob(str(Path(source.path).relative_to(clean)))), source.path
    assert config.fleet.inventory == clean / "inventory.csv"
    assert read_nodes(config.fleet.inventory, config.site.site_id).num_rows == 6
    assert config.facility.meters is not None
    assert read_meters(config.facility.meters, config.site.site_id).num_rows == 15
    assert config.facility.transformer is not None
    assert config.facility.transformer.load_loss_ratio == 0.011


@pytest.mark.parametrize(
    "pattern",
    [
        "ipmi/*.txt.gz",
        "prom/*.prom.gz",
        "meters/*.csv",
        "heat/*.csv",
        "water/*.csv",
        "weather/*.csv",
        "grid/*.csv",
    ],
)
def test_clean_files_decode_without_rejects_or_repeats(clean: Path, pattern: str) -> None:
    files = decoded(clean, pattern)
    assert files
    for name, result in files.items():
        assert (result.rejects.num_rows, result.duplicates) == (0, 0), name
        assert result.readings.num_rows > 0, name


def test_snapshots_look_like_the_real_tool(clean: Path) -> None:
    text = gzip.decompress((clean / "landing/ipmi/c01n0001-2025-06-03.txt.gz").read_bytes()).decode()
    first = text.splitlines()[: text.splitlines().index("Drive 0                  | 0x00              | ok")]
    assert first[0].startswith("Timestamp: 2025-06-03 00:00:")
    assert first[0].endswith(" UTC")
    assert first[1] == "Host Power               | 0x00              | ok"
    assert "Sys Utilization          | no reading        | ns" in first
    assert text.count("Timestamp: ") == 1440


def test_meters_read_the_true_accounts(clean: Path) -> None:
    account = (
        pl.read_parquet(clean / "truth/account.parquet").group_by("account").agg(pl.col("energy_kwh").sum())
    )
    true_kwh = dict(account.iter_rows())
    meters = pl.concat([pl.read_csv(path) for path in sorted(clean.glob("landing/meters/*.csv"))])
    read = meters.group_by("meter_id").agg(pl.len(), (pl.col("power_kw").sum() * 300 / 3600).alias("kwh"))
    kwh = {row["meter_id"]: row["kwh"] for row in read.iter_rows(named=True)}
    assert set(read["len"]) == {PLAN_DAYS * 288}
    assert kwh["utility-1"] == pytest.approx(true_kwh["utility"], rel=1e-4)
    assert kwh["house-1"] == pytest.approx(true_kwh["management"], rel=1e-3)
    cooling = kwh["chiller-1"] + kwh["crah-1"] + kwh["pump-1"] + kwh["tower-1"]
    assert cooling == pytest.approx(true_kwh["cooling"], rel=1e-3)
    nodes_kwh = true_kwh["jobs"] + true_kwh["idle"]
    assert kwh["pdu-a"] + kwh["pdu-b"] == pytest.approx(nodes_kwh, rel=1e-4)
    assert min(kwh["pdu-a"], kwh["pdu-b"]) > 0
    assert kwh["pdu-net"] == pytest.approx(true_kwh["data_transfer"], rel=1e-3)
    assert kwh["pdu-sto"] == pytest.approx(true_kwh["it_overhead"], rel=1e-3)
    it_kwh = nodes_kwh + true_kwh["data_transfer"] + true_kwh["it_overhead"]
    assert it_kwh < kwh["ups-1-out"] < kwh["ups-1-in"] < kwh["lv-1"] < kwh["utility-1"]
    losses = (kwh["utility-1"] - kwh["lv-1"]) + (kwh["ups-1-in"] - kwh["ups-1-out"])
    losses += kwh["ups-1-out"] - sum(kwh[feed] for feed in ("pdu-a", "pdu-b", "pdu-net", "pdu-sto"))
    assert losses == pytest.approx(true_kwh["conversion_loss"], rel=2e-3)


def test_accounts_close_by_the_hour(clean: Path) -> None:
    wide = pl.read_parquet(clean / "truth/account.parquet").pivot(
        on="account", index="hour_start", values="energy_kwh"
    )
    assert wide.height == PLAN_DAYS * 24
    for row in wide.iter_rows(named=True):
        assert sum(row[name] for name in ACCOUNTS) == pytest.approx(row["utility"], rel=1e-9)
        assert sum(row[name] * sign for name, sign in SOURCES.items()) == pytest.approx(row["utility"])
        assert min(row[name] for name in ACCOUNTS) >= 0


def test_a_site_with_sources_of_its_own_balances_in_every_hour(tmp_path: Path) -> None:
    plan = FleetPlan(
        seed=5, clusters=(ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s"),),
        first_date=date(2025, 6, 3), local_sources=tuple(LocalSource),
    )  # fmt: skip
    simulate(plan, tmp_path)
    hours = pl.read_parquet(tmp_path / "truth/account.parquet").pivot(
        on="account", index="hour_start", values="energy_kwh"
    )
    supplied = sum(hours[name] * sign for name, sign in SOURCES.items())
    used = sum(hours[name] for name in ACCOUNTS)
    assert (supplied - used).abs().max() < 1e-9
    assert all(hours[name].max() > 0 for name in SOURCES)
    assert all(hours[name].min() >= 0 for name in SOURCES)
    config = settings.load(tmp_path / "config.yaml")
    assert config.facility.meters is not None
    points = set(read_meters(config.facility.meters, "simsite")["point"].to_pylist())
    assert set(SOURCES) <= points
    plant = pl.read_parquet(tmp_path / "truth/plant_hour.parquet")
    for source, column in (("water", "water_l"), ("fuel", "fuel_l")):
        register = pl.read_csv(tmp_path / f"landing/{source}/{source}-2025-06-03.csv")["register_l"]
        # The last window has no reading behind it.
        used_l = plant[column].sum() - plant[column][-1]
        assert used_l - 0.002 <= register[-1] - register[0] <= plant[column].sum() + 0.002


def test_meter_errors_are_constant_and_within_the_class(clean: Path, tmp_path: Path) -> None:
    plan = FleetPlan.model_validate_json((clean / "plan.json").read_text())
    simulate(plan.model_copy(update={"meter_class_error": True, "days": 1}), tmp_path / "out")
    name = "landing/meters/meters-2025-06-03.csv"
    both = pl.read_csv(clean / name).join(
        pl.read_csv(tmp_path / "out" / name), on=["time", "meter_id"], how="inner", suffix="_read"
    )
    totals = both.group_by("meter_id").agg(pl.col("power_kw", "power_kw_read").sum())
    gains = dict(totals.select("meter_id", pl.col("power_kw_read") / pl.col("power_kw") - 1).iter_rows())
    with (clean / "meters.csv").open() as stream:
        classes = {row["meter_id"]: float(row["class_pct"]) / 100 for row in csv.DictReader(stream)}
    assert all(abs(gain) <= classes[meter] * 1.01 for meter, gain in gains.items())
    assert len({round(gain, 5) for gain in gains.values()}) == len(gains)
    assert max(abs(gain) / classes[meter] for meter, gain in gains.items()) > 0.5


def test_a_dropped_feed_is_missing_from_one_day_and_recorded(clean: Path, tmp_path: Path) -> None:
    plan = FleetPlan.model_validate_json((clean / "plan.json").read_text())
    simulate(plan.model_copy(update={"faults": (Fault.FEED_DROPPED,)}), tmp_path / "out")
    (record,) = pl.read_parquet(tmp_path / "out/truth/fault.parquet").iter_rows(named=True)
    assert (record["kind"], record["node_id"], record["count"]) == ("feed_dropped", "pdu-a", 288)
    changed = {name for name, digest in digests(tmp_path / "out").items() if digests(clean)[name] != digest}
    assert changed == {record["file"], "plan.json", "truth/fault.parquet"}
    assert "pdu-a" not in (tmp_path / "out" / record["file"]).read_text()


def test_jobs_and_idle_are_the_nodes_energy(clean: Path) -> None:
    nodes = pl.read_parquet(clean / "truth/node_interval.parquet")
    jobs = pl.read_parquet(clean / "truth/job.parquet")
    account = dict(
        pl.read_parquet(clean / "truth/account.parquet")
        .group_by("account")
        .agg(pl.col("energy_kwh").sum())
        .iter_rows()
    )
    assert account["jobs"] + account["idle"] == pytest.approx(nodes["energy_kwh"].sum(), rel=1e-9)
    assert jobs["energy_kwh"].sum() == pytest.approx(account["jobs"], rel=1e-9)
    assert (jobs["dynamic_energy_kwh"] + jobs["static_energy_kwh"] - jobs["energy_kwh"]).abs().max() < 1e-12


def test_states_cover_every_node_without_holes(clean: Path) -> None:
    states = pl.read_parquet(clean / "truth/node_state.parquet")
    start = datetime(2025, 6, 3, tzinfo=UTC)
    assert "off" in states["state"]
    for _, spans in states.sort("from_time").group_by("node_id"):
        assert spans["from_time"][0] == start
        assert spans["to_time"][-1] == start + timedelta(days=PLAN_DAYS)
        assert spans["from_time"][1:].to_list() == spans["to_time"][:-1].to_list()


def test_inventory_and_meters_have_the_agreed_columns(clean: Path) -> None:
    with (clean / "inventory.csv").open() as stream:
        nodes = list(csv.DictReader(stream))
    assert [node["gpu_count"] for node in nodes] == ["0", "0", "0", "4", "4", "2"]
    assert all(float(node["idle_power_w"]) < float(node["rated_power_w"]) for node in nodes)
    with (clean / "meters.csv").open() as stream:
        meters = {row["meter_id"]: row for row in csv.DictReader(stream)}
    assert {row["point"] for row in meters.values()} == {
        "utility", "transformer_out", "ups_in", "ups_out", "pdu_out", "chiller", "crah", "pump", "tower", "other",
    }  # fmt: skip
    roots = {"utility-1", "heat-1", "water-1"}
    assert all((row["parent_id"] in meters) != (name in roots) for name, row in meters.items())


def test_the_grid_header_is_the_publishers(clean: Path) -> None:
    raw = (clean / "landing/grid/grid-2025-06-03.csv").read_bytes()
    header = raw.split(b"\r\n")[0].decode()
    assert header.split(",")[4:6] == [
        "Carbon Intensity gCO\u2082eq/kWh (direct)",
        "Carbon Intensity gCO\u2082eq/kWh (LCA)",
    ]
    assert raw.count(b"\r\n") == 25
