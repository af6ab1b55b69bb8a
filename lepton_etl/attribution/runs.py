"""Accounting as delivered -> one row a run of a job and UTC day: the newest word on it, its outcome, its tenant."""

from __future__ import annotations

from typing import Final

import polars as pl
import pyarrow as pa

from lepton_etl.attribution.hostlist import HostlistError, expand
from lepton_etl.days import Days
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.tables.jobs import JOB_RUN

OUTCOMES: Final = {
    "COMPLETED": "completed",
    "FAILED": "failed",
    "NODE_FAIL": "failed",
    "BOOT_FAIL": "failed",
    "LAUNCH_FAILED": "failed",
    "OUT_OF_MEMORY": "failed",
    "CANCELLED": "cancelled",
    "PREEMPTED": "cancelled",
    "REVOKED": "cancelled",
    "TIMEOUT": "timeout",
    "DEADLINE": "timeout",
    "REQUEUED": "requeued",
    "REQUEUE": "requeued",
    "RUNNING": "running",
    "COMPLETING": "running",
    "SUSPENDED": "running",
    "STOPPED": "running",
    "CONFIGURING": "running",
    "RESIZING": "running",
    "SIGNALING": "running",
    "STAGE_OUT": "running",
}
WASTED_OUTCOMES: Final = ("failed", "cancelled", "timeout", "requeued")
OPEN_RUN: Final = "no_end"
_RUN: Final = ["cluster_name", "job_id", "submit_time", "restart"]
_NEWEST: Final = ("ingest_time", "file_id", "source_position")
DAY: Final = pl.duration(days=1)


def job_runs(jobs: pa.Table, nodes: pa.Table, site_id: str, days: Days) -> pl.DataFrame:
    """The rows of silver/job_run of these days, with `held`: what scheduler formats say of single nodes.

    `jobs` are bronze/job rows that may touch the days, `nodes` silver/node. Of several deliveries of one run the newest
    holds (one with an end before one without, then ingest_time, file_id and position), field by field: an accounting
    row that does not know the devices does not take back what scontrol knew. Without a count of restarts the runs of
    one submission are numbered by their start. Rows of a cluster and nodes that no inventory knows are left out.
    """
    rows = _frame(jobs).filter(
        (pl.col("record") != "step") & pl.col("start_time").is_not_null()
    ).with_columns(
        pl.coalesce("submit_time", "start_time").alias("submit_time"), _restart().alias("restart")
    )  # fmt: skip
    named = rows.with_columns(
        pl.coalesce("cluster_name", pl.lit("")).alias("cluster_name"),
        pl.col("node_list").map_elements(_first_node, return_dtype=pl.String).alias("first_node"),
    )
    ended = pl.col("end_time").is_not_null()
    # What was seen while the run went on does not take back its end, whichever came last.
    placed = named.pipe(_with_cluster, nodes).with_columns(ended.alias("ended")).sort("ended", *_NEWEST)
    newest = placed.group_by("cluster_id", *_RUN[1:], maintain_order=True).agg(
        pl.col("tenant_id", "user_name", "partition", "state").drop_nulls().last(),
        pl.col("start_time", "file_id").last(),
        pl.col("end_time").last(),
        *(_of_job(name) for name in ("node_count", "cpu_count", "gpu_count", "memory_byte", "node_list")),
        *(_of_job(name) for name in ("cpu_time_s", "consumed_energy_j")),
        pl.struct("node_list", "node_id", "cpu_count", "gpu_count", "memory_byte", "device_ids", "cpu_time_s")
        .filter(pl.col("record") == "allocation").alias("held"),
    )  # fmt: skip
    told = newest.with_columns(
        pl.col("state").replace_strict(OUTCOMES, default=None, return_dtype=pl.String).alias("outcome"),
        pl.lit(site_id).alias("site_id"),
    )
    running = pl.col("outcome") == "running"
    # A run that is said to have ended without saying when held nothing that could be counted.
    usable = told.filter(pl.col("outcome").is_not_null() & (running | pl.col("end_time").is_not_null()))
    # Where the accounting counts any job's GPUs, a job without a count has none.
    counts = (pl.col("gpu_count").max().over("cluster_id") > 0).fill_null(False)
    usable = usable.with_columns(
        pl.when(counts).then(pl.col("gpu_count").fill_null(0)).otherwise("gpu_count").alias("gpu_count")
    )
    positive = pl.col("end_time").is_null() | (pl.col("end_time") > pl.col("start_time"))
    return _each_day(usable.filter(positive), days)


def run_table(runs: pl.DataFrame) -> pa.Table:
    """The rows of silver/job_run in its schema, sorted by key."""
    flags = (
        pl.when(pl.col("end_time").is_null())
        .then(pl.lit([OPEN_RUN]))
        .otherwise(pl.lit([], dtype=pl.List(pl.String)))
    )
    shown = runs.with_columns(flags.alias("flags")).select(list(JOB_RUN.columns)).sort(list(JOB_RUN.key))
    return shown.to_arrow(compat_level=pl.CompatLevel.oldest()).cast(arrow_schema(JOB_RUN))


def _frame(jobs: pa.Table) -> pl.DataFrame:
    frame = pl.DataFrame(jobs)
    # Rows of an older release have no kind of record.
    told = pl.when(pl.col("step_id").is_null()).then(pl.lit("job")).otherwise(pl.lit("step"))
    return frame.with_columns(pl.coalesce("record", told).alias("record"), pl.col("job_state").alias("state"))


def _restart() -> pl.Expr:
    """The count that any row of the run gives, else the place of its start among those of one submission."""
    of_start = pl.col("restart").drop_nulls().last().over("job_id", "submit_time", "start_time")
    by_start = pl.col("start_time").rank("dense").over("cluster_name", "job_id", "submit_time") - 1
    return pl.coalesce("restart", of_start, by_start.cast(pl.Int32))


def _of_job(name: str) -> pl.Expr:
    """The newest word of the job's own rows, else of what it holds where that is one row (Kubernetes)."""
    known = pl.col(name).is_not_null()
    own = pl.col(name).filter(known & (pl.col("record") == "job")).last()
    return pl.coalesce(own, pl.col(name).filter(known).last()).alias(name)


def _first_node(node_list: str) -> str | None:
    try:
        names = expand(node_list)
    except HostlistError:
        return None
    return names[0] if names else None


def _with_cluster(rows: pl.DataFrame, nodes: pa.Table) -> pl.DataFrame:
    """Add cluster_id: the scheduler's name where the inventory has such a cluster, else that of the first node."""
    inventory = pl.DataFrame(nodes.select(["node_id", "cluster_id", "valid_from"]))
    places = (
        inventory.sort("valid_from").group_by("node_id", maintain_order=True).agg(pl.col("cluster_id").last())
        .rename({"node_id": "first_node", "cluster_id": "node_cluster"})
    )  # fmt: skip
    known = inventory.get_column("cluster_id").unique().to_list()
    joined = rows.join(places, on="first_node", how="left", maintain_order="left")
    own = pl.when(pl.col("cluster_name").is_in(known)).then(pl.col("cluster_name"))
    cluster = pl.coalesce(own, "node_cluster").alias("cluster_id")
    # Rows of one run that name no node (allocations do, some jobs do not) stand where its other rows do.
    of_run = pl.col("cluster_id").drop_nulls().first().over(_RUN)
    return joined.with_columns(cluster).with_columns(of_run).filter(pl.col("cluster_id").is_not_null())


def _each_day(runs: pl.DataFrame, days: Days) -> pl.DataFrame:
    """A row for each of the days that a run touches, with from_time and to_time clipped to it."""
    dates = pl.DataFrame({"date": list(days)}, schema={"date": pl.Date})
    midnight = pl.col("date").cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    spread = runs.join(dates, how="cross").with_columns(
        pl.max_horizontal("start_time", midnight).alias("from_time"),
        pl.min_horizontal(pl.coalesce("end_time", midnight + DAY), midnight + DAY).alias("to_time"),
    )
    return spread.filter(pl.col("from_time") < pl.col("to_time"))
