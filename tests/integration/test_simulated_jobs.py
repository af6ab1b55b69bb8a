"""Jobs of simulated sites against the simulator's truth, through the real decoders and kernels, without Spark."""

from __future__ import annotations

import gzip
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import polars as pl
import pyarrow as pa
import pytest

from lepton_etl.attribution.node_energy import roll
from lepton_etl.attribution.node_split import split_nodes
from lepton_etl.attribution.runs import job_nodes, job_runs
from lepton_etl.days import Days
from lepton_etl.ingest.decoded import Origin
from lepton_etl.intervals.channels import DAY_US, READING_COLUMNS
from lepton_etl.intervals.node_day import intervals
from lepton_etl.intervals.readings import roster
from lepton_etl.intervals.source_choice import INTERVAL_QUANTITIES
from lepton_etl.intervals.usual_values import HISTORY_COLUMNS
from lepton_etl.registers.inventory import read_nodes
from lepton_etl.schema.energy import NODE_HOUR
from lepton_etl.schema.types import arrow_schema
from lepton_etl.simulator.plan import ClusterPlan, Fault, FleetPlan
from lepton_etl.simulator.simulate import simulate
from tests.decoding import decode, settings_of
from tests.unit.attribution.accounting import bronze
from tests.unit.intervals.readings import POLICY

MARGIN_US = 330_000_000
RUN = ["job_id", "restart"]
CLASSES = ("cpu-2s", "gpu-400", "gpu-mig")


@dataclass(frozen=True)
class Split:
    """What the kernels say of a site, and the folder of its truth."""

    out: Path
    job_hours: pl.DataFrame
    node_hours: pl.DataFrame

    def jobs(self) -> pl.DataFrame:
        """Truth and figure of each run: energy_kwh, found_kwh, hours."""
        truth = pl.read_parquet(self.out / "truth/job.parquet").with_columns(pl.col("restart").cast(pl.Int32))
        found = self.job_hours.group_by(RUN).agg(
            (pl.col("dynamic_kwh") + pl.col("static_kwh")).sum().alias("found_kwh"),
            pl.col("imputed_kwh").sum(),
        )
        hours = (pl.col("end_time") - pl.col("start_time")).dt.total_seconds() / 3600
        joined = truth.join(found, on=RUN, how="full", suffix="_found")
        assert joined.null_count().select("energy_kwh", "found_kwh").row(0) == (0, 0)
        return joined.with_columns(hours.alias("hours"))


def split_of(plan: FleetPlan, out: Path) -> Split:
    simulate(plan, out, processes=2)
    days = Days(plan.dates[0], plan.dates[-1])
    nodes = read_nodes(out / "inventory.csv", plan.site_id)
    jobs = [
        bronze(path.read_text(), format_, file_id=path.name)
        for format_, stem in (("slurm", "sacct"), ("scontrol", "scontrol"))
        for path in sorted(out.glob(f"landing/slurm/{stem}-*.txt"))
    ]
    held = job_nodes(job_runs(pa.concat_tables(jobs), nodes, plan.site_id, days), nodes)
    known, listed = roll(nodes), roster(nodes)
    nothing = pl.DataFrame(arrow_schema(NODE_HOUR).empty_table())
    tables = []
    for cluster in plan.clusters:
        for node_id in cluster.node_ids():
            rows = intervals(
                readings(out, node_id, days), HISTORY_COLUMNS.to_frame().to_arrow(), listed, POLICY
            )
            own = held.filter(pa.compute.equal(held["node_id"], node_id))
            tables.append(split_nodes(pl.DataFrame(rows), nothing, pl.DataFrame(own), known, 0.01))
    jobs, split = (pl.concat(parts) for parts in zip(*tables, strict=True))
    return Split(out, jobs, split)


def whole_text(path: Path) -> bytes | None:
    """The text of a log; None of one that was cut short, which is discarded whole."""
    try:
        return gzip.decompress(path.read_bytes())
    except EOFError:
        return None


def readings(out: Path, node_id: str, days: Days) -> pa.Table:
    """All readings of one node as the kernels take them: near midnight once for each day."""
    found = []
    for format_, folder in (("ipmitool", "ipmi"), ("prometheus", "prom")):
        for path in sorted(out.glob(f"landing/{folder}/{node_id}-*.gz")):
            text = whole_text(path)
            if text is None:
                continue
            found.append(
                decode(
                    text, Origin("s", format_, path.name, node_id, "UTC"), settings_of({"format": format_})
                ).readings
            )
    frame = pl.DataFrame(pa.concat_tables(found)).filter(pl.col("quantity").is_in(INTERVAL_QUANTITIES))
    time_us = pl.col("reading_time").dt.epoch("us")
    first, last = ((day - date(1970, 1, 1)).days for day in (days.start, days.end))
    touched = [((time_us + shift) // DAY_US).clip(first, last) for shift in (-MARGIN_US, MARGIN_US - 1)]
    return (
        frame.with_columns(
            time_us.alias("time_us"), pl.concat_list(*touched).list.unique().alias("day"),
            max_gap_s=pl.lit(330.0), counter_max_j=pl.lit(None, pl.Float64), spot_samples=pl.lit(None, pl.Int32),
            file_rank=pl.lit(1, pl.Int64),
        )
        .explode("day").select(list(READING_COLUMNS)).cast(READING_COLUMNS).to_arrow()
    )  # fmt: skip


def plan_of(days: int, nodes: int, **more: object) -> FleetPlan:
    clusters = tuple(
        ClusterPlan(cluster_id=f"c{number:02d}", nodes=nodes, hardware_class=name)
        for number, name in enumerate(CLASSES, start=1)
    )
    return FleetPlan.model_validate(
        {"seed": 17, "clusters": clusters, "first_date": date(2025, 6, 3), "days": days} | more
    )


@pytest.fixture(scope="module")
def clean(tmp_path_factory: pytest.TempPathFactory) -> Split:
    return split_of(plan_of(days=2, nodes=2), tmp_path_factory.mktemp("jobs") / "fleet")


def judge(jobs: pl.DataFrame) -> None:
    """Jobs over an hour within 2 % for 95 % of them, tenants within 1 %."""
    long = jobs.filter(pl.col("hours") > 1.0)
    error = (long["found_kwh"] / long["energy_kwh"] - 1).abs()
    assert (error < 0.02).mean() >= 0.95
    tenants = jobs.group_by("tenant_id").agg(pl.col("found_kwh", "energy_kwh").sum())
    assert (tenants["found_kwh"] / tenants["energy_kwh"] - 1).abs().max() < 0.01


def judge_nodes(split: Split) -> None:
    """All the energy of the nodes is there, but for the unseen minutes at the plan's edges."""
    truth_kwh = pl.read_parquet(split.out / "truth/node_interval.parquet")["energy_kwh"].sum()
    found_kwh = split.node_hours.select(pl.col("jobs_energy_kwh") + pl.col("idle_energy_kwh")).sum().item()
    assert found_kwh == pytest.approx(truth_kwh, rel=2e-3)


def test_jobs_and_tenants_are_near_the_truth(clean: Split) -> None:
    judge_nodes(clean)
    jobs = clean.jobs()
    # Of a run that goes on past the plan nobody knows the CPU time yet: its day is made again when it has ended.
    ended = jobs.filter(pl.col("end_time") <= datetime(2025, 6, 5, tzinfo=UTC))
    assert 50 < ended.height < jobs.height
    judge(ended)


def test_hours_of_a_node_hold_each_joule_once(clean: Split) -> None:
    sums = clean.job_hours.group_by("node_id", "hour_start").agg(
        (pl.col("dynamic_kwh") + pl.col("static_kwh")).sum().alias("sum_kwh"),
        pl.col("reserved_share_ratio").sum().alias("share"),
        pl.col("gpu_held_h").sum().alias("gpus"),
    )
    both = clean.node_hours.join(sums, on=["node_id", "hour_start"], how="left").fill_null(0.0)
    assert (both["sum_kwh"] - both["jobs_energy_kwh"]).abs().max() < 1e-12
    assert both["share"].max() <= 1 + 1e-9
    assert both["gpus"].max() <= 4 + 1e-9
    assert both["idle_energy_kwh"].min() >= 0


def test_faults_make_nothing_negative_and_nothing_double(tmp_path: Path) -> None:
    faults = (Fault.GAPS, Fault.DUPLICATES, Fault.BAD_LINES, Fault.COUNTER_RESETS, Fault.TRUNCATED_GZIP)
    split = split_of(plan_of(days=1, nodes=2, faults=faults, fault_share=0.3), tmp_path / "fleet")
    numbers = split.job_hours.select(pl.selectors.float())
    assert min(numbers.min().row(0)) >= 0
    assert split.node_hours.select(pl.min_horizontal("jobs_energy_kwh", "idle_energy_kwh")).min().item() >= 0
    # The power of a node whose BMC log was cut short is modelled: all that its jobs get is an estimate, and says so.
    lost = {path.name[:8] for path in split.out.glob("landing/ipmi/*.gz") if whole_text(path) is None}
    estimated = pl.col("imputed_kwh") > 0
    guessed = split.job_hours.filter(estimated)
    assert set(guessed["node_id"]) == lost != set()
    assert (guessed["dynamic_kwh"] + guessed["static_kwh"] - guessed["imputed_kwh"]).abs().max() < 1e-12
    jobs = split.jobs().filter(~estimated)
    assert (jobs["found_kwh"] <= jobs["energy_kwh"] * 1.05 + 0.01).all()
    truth = pl.read_parquet(split.out / "truth/node_interval.parquet")
    by_node = truth.group_by("node_id").agg(pl.col("energy_kwh").sum())
    found = split.node_hours.group_by("node_id").agg(
        (pl.col("jobs_energy_kwh") + pl.col("idle_energy_kwh")).sum()
    )
    both = by_node.join(found, on="node_id").filter(~pl.col("node_id").is_in(lost))
    assert (both["jobs_energy_kwh"] <= both["energy_kwh"] * 1.005).all()


@pytest.mark.slow
def test_thirty_days_with_some_hundred_jobs(tmp_path: Path) -> None:
    split = split_of(plan_of(days=30, nodes=1, off_share=0.03), tmp_path / "fleet")
    assert split.jobs().height >= 400
    judge_nodes(split)
    judge(split.jobs())


def test_a_later_word_changes_only_the_days_that_a_run_touches() -> None:
    header = "JobIDRaw|Cluster|Account|State|Submit|Start|End|NNodes|AllocCPUS|NodeList|Restarts\n"
    first = "7|c01|t|RUNNING|2025-06-01T00:00:00|2025-06-02T12:00:00|Unknown|1|4|n1|0\n"
    last = "7|c01|t|COMPLETED|2025-06-01T00:00:00|2025-06-02T12:00:00|2025-06-03T06:00:00|1|4|n1|0\n"
    nodes = pa.table({
        "site_id": ["s"], "cluster_id": ["c01"], "node_id": ["n1"], "gpu_count": pa.array([0], pa.int32()),
        "valid_from": pa.array([datetime(2024, 1, 1, tzinfo=UTC)], pa.timestamp("us", "UTC")),
    })  # fmt: skip
    four_days = Days(date(2025, 6, 1), date(2025, 6, 4))

    def held(*texts: str) -> dict[date, timedelta]:
        deliveries = [bronze(header + text, ingest_hour=hour) for hour, text in enumerate(texts, start=1)]
        rows = job_nodes(job_runs(pa.concat_tables(deliveries), nodes, "s", four_days), nodes).to_pylist()
        return {row["date"]: row["to_time"] - row["from_time"] for row in rows}

    before, after = held(first), held(first, last)
    assert set(before) == {date(2025, 6, 2), date(2025, 6, 3), date(2025, 6, 4)}
    assert set(after) == {date(2025, 6, 2), date(2025, 6, 3)}
    assert before[date(2025, 6, 2)] == after[date(2025, 6, 2)] == timedelta(hours=12)
    assert after[date(2025, 6, 3)] == timedelta(hours=6)
