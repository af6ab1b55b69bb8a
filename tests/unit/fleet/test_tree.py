"""The tree on disk: same plan, same bytes; files decode without a loss; the truth closes; settings load."""

from __future__ import annotations

import csv
import gzip
import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import polars as pl
import pytest

from lepton_etl import settings
from lepton_etl.fleet.plan import FleetPlan
from lepton_etl.fleet.simulate import simulate
from lepton_etl.fleet.truth import ACCOUNTS
from lepton_etl.inventory import read_meters, read_nodes
from lepton_etl.telemetry.decoded import Decoded, Origin
from lepton_etl.telemetry.formats import decode

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
    assert len(logs) == 6 + 3 + 3
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
    assert [source.name for source in config.all_sources] == ["bmc", "gpu", "meters", "weather", "grid"]
    for source in config.all_sources:
        assert list(clean.glob(str(Path(source.path).relative_to(clean)))), source.path
    assert config.fleet.inventory == clean / "inventory.csv"
    assert read_nodes(config.fleet.inventory, config.site.site_id).num_rows == 6
    assert config.facility.meters is not None
    assert read_meters(config.facility.meters, config.site.site_id).num_rows == 8


@pytest.mark.parametrize(
    "pattern", ["ipmi/*.txt.gz", "prom/*.prom.gz", "meters/*.csv", "weather/*.csv", "grid/*.csv"]
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
    it_kwh = true_kwh["jobs"] + true_kwh["idle"] + true_kwh["it_overhead"]
    assert it_kwh < kwh["ups-1-out"] < kwh["ups-1-in"] < kwh["utility-1"]


def test_accounts_close_by_the_hour(clean: Path) -> None:
    wide = pl.read_parquet(clean / "truth/account.parquet").pivot(
        on="account", index="hour_start", values="energy_kwh"
    )
    assert wide.height == PLAN_DAYS * 24
    for row in wide.iter_rows(named=True):
        assert sum(row[name] for name in ACCOUNTS) == pytest.approx(row["utility"], rel=1e-9)
        assert min(row[name] for name in ACCOUNTS) >= 0


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
        "utility", "ups_in", "ups_out", "chiller", "crah", "pump", "tower", "other",
    }  # fmt: skip
    assert all(row["parent_id"] in meters for row in meters.values() if row["point"] != "utility")


def test_the_grid_header_is_the_publishers(clean: Path) -> None:
    raw = (clean / "landing/grid/grid-2025-06-03.csv").read_bytes()
    header = raw.split(b"\r\n")[0].decode()
    assert header.split(",")[4:6] == [
        "Carbon Intensity gCO\u2082eq/kWh (direct)",
        "Carbon Intensity gCO\u2082eq/kWh (LCA)",
    ]
    assert raw.count(b"\r\n") == 25
