"""Attribution: intervals, imputed node-hours and what jobs held -> energy of jobs and tenants.

`frames` comes before anything of gold is written, for the ledger needs the split; `write` comes after it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.storagelevel import StorageLevel

from lepton_etl.attribution.energy import job_energy, tenant_day
from lepton_etl.attribution.facts import Roll, roll
from lepton_etl.attribution.measured import IMPUTED
from lepton_etl.attribution.node_days import (
    HOLDING_COLUMNS,
    INTERVAL_COLUMNS,
    JOB_HOUR_COLUMNS,
    NODE_SPLIT_COLUMNS,
    SCHEMA,
    node_days,
)
from lepton_etl.lake.store import Written
from lepton_etl.lake.tables import INTERVAL, NODE
from lepton_etl.lake.tables.jobs import JOB_ENERGY, JOB_NODE, JOB_RUN, TENANT_DAY
from pipelines.life import with_status
from pipelines.stage import StageContext


@dataclass(frozen=True)
class Frames:
    """The split of a run's node-hours, computed once and held until `release`.

    `job_hours`: one row a job, node and hour (JOB_HOUR_COLUMNS). `node_split`: one row a node-hour of clusters with
    accounting (NODE_SPLIT_COLUMNS); jobs + idle = measured + imputed energy of the node.
    """

    rows: DataFrame

    @property
    def job_hours(self) -> DataFrame:
        return self.rows.where(F.col("job_id").isNotNull()).select(*JOB_HOUR_COLUMNS)

    @property
    def node_split(self) -> DataFrame:
        return self.rows.where(F.col("job_id").isNull()).select(*NODE_SPLIT_COLUMNS)

    def release(self) -> None:
        self.rows.unpersist()


def frames(context: StageContext, node_hours: DataFrame) -> Frames | None:
    """Split the node-hours of clusters that have accounting; None where none has any.

    `node_hours` has the columns of gold/node_hour; its imputed energy is split by what was held while it was unseen.
    A cluster has accounting when any run of the last `attribution.longest_run_d` days stood on it.
    """
    lake, days = context.lake, context.days
    clusters = _accounted(context)
    if not clusters:
        return None
    names = ("cluster_id", "node_id", "date")
    listed = F.col("cluster_id").isin(*clusters)
    unknown = [F.lit(None).cast("double").alias(name) for name in INTERVAL_COLUMNS if name.endswith("_ratio")]
    imputed = node_hours.where(listed & (F.col("it_energy_imputed_kwh") > 0)).select(
        *names, F.lit(IMPUTED).alias("device_id"), F.col("hour_start").alias("interval_start"),
        F.lit(3600).alias("interval_s"), F.col("it_energy_imputed_kwh").alias("energy_kwh"),
        F.col("imputed_s").alias("observed_s"), *unknown,
    )  # fmt: skip
    measured = lake.read(INTERVAL, days).where(listed).select(*INTERVAL_COLUMNS)
    held = lake.read(JOB_NODE, days).where(listed).select(*HOLDING_COLUMNS)
    idle_activity = context.settings.attribution.idle_gpu_utilisation_ratio
    rows = (
        measured.unionByName(imputed)
        .groupBy(*names)
        .cogroup(held.groupBy(*names))
        .applyInArrow(_split_of(roll(lake.rows(NODE)), idle_activity), schema=_spark_schema(context))
    )
    return Frames(rows.persist(StorageLevel.MEMORY_AND_DISK))


def write(
    context: StageContext,
    found: Frames | None,
    node_hours: DataFrame,
    cluster_hours: DataFrame,
    cluster_costs: DataFrame | None = None,
) -> list[Written]:
    """gold/job_energy and gold/tenant_day of the days; nothing without accounting.

    `node_hours` must have `embodied_kgco2e`; `cluster_hours` are rows of gold/cluster_hour, `cluster_costs` of
    gold/cluster_cost.
    """
    if found is None:
        return []
    lake, days, limit = context.lake, context.days, context.settings.energy.coverage_min_ratio
    runs = lake.read_few(JOB_RUN, days)
    jobs = lake.local(
        found.job_hours.transform(job_energy(cluster_hours, node_hours, runs, cluster_costs, limit))
    )
    tenants = jobs.transform(tenant_day(limit))
    return [
        lake.replace_few(JOB_ENERGY, days, with_status(context, JOB_ENERGY, jobs), allow_empty=True),
        lake.replace_few(TENANT_DAY, days, with_status(context, TENANT_DAY, tenants), allow_empty=True),
    ]


def _accounted(context: StageContext) -> list[str]:
    """Clusters of which a run is known within the longest run before the days."""
    if not context.lake.exists(JOB_RUN):
        return []
    days, longest = context.days, context.settings.attribution.longest_run_d
    first = F.date_sub(F.lit(days.start), round(longest))
    rows = context.lake.read(JOB_RUN).where(F.col("date").between(first, F.lit(days.end)))
    return sorted(row["cluster_id"] for row in rows.select("cluster_id").distinct().collect())


def _split_of(nodes: Roll, idle_activity: float) -> Callable[[pa.Table, pa.Table], pa.Table]:
    def kernel(intervals: pa.Table, held: pa.Table) -> pa.Table:
        return node_days(intervals, held, nodes, idle_activity)

    return kernel


def _spark_schema(context: StageContext) -> str:
    """SCHEMA in Spark's words."""
    return str(context.lake.spark.createDataFrame(SCHEMA.empty_table()).schema.simpleString())
