"""Accounting: jobs as delivered, and the power of nodes -> runs, what they held, and what nodes were doing.

The last part of silver. A lake without any job keeps these tables empty: idle is then told by utilisation.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta

import pyarrow as pa
from pyspark.sql import functions as F

from lepton_etl.attribution.facts import Roll, roll
from lepton_etl.attribution.holdings import job_nodes
from lepton_etl.attribution.runs import job_runs, run_table
from lepton_etl.attribution.states import node_states
from lepton_etl.lake.schema import arrow_schema, spark_schema
from lepton_etl.lake.store import Written
from lepton_etl.lake.tables import INTERVAL, JOB, NODE, Table
from lepton_etl.lake.tables.jobs import JOB_NODE, JOB_RUN, NODE_STATE
from pipelines.stage import StageContext


def run(context: StageContext) -> list[Written]:
    """Make silver/job_run, silver/job_node and silver/node_state of the context's days."""
    lake = context.lake
    if not lake.exists(JOB):
        return []
    nodes = lake.rows(NODE)
    runs = job_runs(_jobs(context), nodes, context.settings.site.site_id, context.days)
    held = job_nodes(runs, nodes)
    return [
        _written(context, JOB_RUN, run_table(runs)),
        _written(context, JOB_NODE, held),
        node_state(context, roll(nodes)),
    ]


def _written(context: StageContext, table: Table, rows: pa.Table) -> Written:
    frame = context.lake.spark.createDataFrame(rows, spark_schema(table))
    return context.lake.replace_few(table, context.days, frame, allow_empty=True)


def node_state(context: StageContext, nodes: Roll) -> Written:
    """Intervals and holdings -> silver/node_state, by node and day."""
    lake, days = context.lake, context.days
    names = ("cluster_id", "node_id", "date")
    own = lake.read(INTERVAL, days).where(F.col("device_id") == "node").select(
        *names, "device_id", "interval_start", "interval_s", "power_mean_w"
    )  # fmt: skip
    held = lake.read(JOB_NODE, days).select(*names, "from_time", "to_time")
    rows = (
        own.groupBy(*names)
        .cogroup(held.groupBy(*names))
        .applyInArrow(_states_of(nodes), schema=spark_schema(NODE_STATE))
    )
    return lake.replace(NODE_STATE, days, rows, allow_empty=True)


def _jobs(context: StageContext) -> pa.Table:
    """Jobs that may have held something on the days; one without an end until the longest run is over.

    A run that was seen going on and that had ended before the days comes with its end: without it, it would go on.
    """
    days = context.days
    longest = timedelta(days=context.settings.attribution.longest_run_d)
    start, end = F.col("start_time"), F.col("end_time")
    recent, over = start > F.lit(days.from_time - longest), end <= F.lit(days.from_time)
    touches = (start < F.lit(days.until_time)) & ((end > F.lit(days.from_time)) | (end.isNull() & recent))
    jobs = context.lake.read(JOB)
    held = jobs.where(touches)
    seen_running = F.broadcast(held.where(end.isNull()).select("job_id").distinct())
    ended = jobs.where(over & recent).join(seen_running, "job_id", how="left_semi")
    return held.unionByName(ended).toArrow()


def _states_of(nodes: Roll) -> Callable[[pa.Table, pa.Table], pa.Table]:
    def kernel(own: pa.Table, held: pa.Table) -> pa.Table:
        first = (own if own.num_rows else held).slice(0, 1).to_pylist()[0]
        facts = nodes.of(first["node_id"], first["date"], first["cluster_id"])
        if facts is None:
            return arrow_schema(NODE_STATE).empty_table()
        return node_states(own, held, facts)

    return kernel
