"""Report: the gold, bronze and run tables of the days -> one HTML page that needs no network."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.lake import tables as plain
from lepton_etl.lake.runs import code_version, stage_runs
from lepton_etl.lake.spark import SparkLake
from lepton_etl.models.footprint import DEFAULT_CORE_POWER_W, tree_cpu_s
from lepton_etl.recommend.lifecycle import EXPIRED, REJECTED
from lepton_etl.report import data as d
from lepton_etl.report import data as gather
from lepton_etl.report.model import model_summary
from lepton_etl.report.page import render
from lepton_etl.schema.diagnosis import ANOMALY, STATE
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR, PREDICTION
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.jobs import TENANT_DAY
from lepton_etl.schema.ledger import ENERGY_LEDGER
from lepton_etl.schema.logs import FILE, REJECT
from lepton_etl.schema.recommend import RECOMMENDATION, SAVING
from pipelines.gate import docs_folder
from pipelines.stage import StageContext, StageResult

# What one scatter holds: dense enough to see the shape, small enough for a browser.
MOST_POINTS: Final = 1500
# Nodes named beside a state.
MOST_NODES: Final = 8


def run(context: StageContext) -> StageResult:
    """Write `<report.folder>/<day or range>/index.html`; a re-run overwrites it."""
    page = page_path(context.settings.report.folder, context.days)
    data = read(context, page.parent)
    page.parent.mkdir(parents=True, exist_ok=True)
    fresh = page.with_suffix(".html.new")
    fresh.write_text(render(data), encoding="utf-8")
    # A reader sees the old page or the new one, never half of one.
    fresh.replace(page)
    notes = [f"report: {page}"]
    if data.cluster_day.num_rows == 0:
        notes.append(
            f"{CLUSTER_DAY.name} holds no row of {context.days}: the page shows files and stages only"
        )
    return StageResult(rows_in=data.cluster_day.num_rows + data.cluster_hour.num_rows, notes=tuple(notes))


def page_path(folder: Path, days: Days) -> Path:
    """`<folder>/2025-06-03/index.html`, or `<folder>/2025-06-03_2025-06-05/index.html`."""
    name = str(days.start) if days.count == 1 else f"{days.start}_{days.end}"
    return folder / name / "index.html"


def read(context: StageContext, folder: Path) -> d.ReportData:
    """Everything the page shows; `folder` is the page's, for relative links."""
    lake, days, settings = context.lake, context.days, context.settings
    hours = d.bucket_hours(days)
    files = lake.read_frame(FILE).transform(gather.files_of(days)).persist()
    try:
        stages = stages_of(stage_runs(lake), context.run_id, days)
        return d.ReportData(
            run=d.RunInfo(
                settings.site.site_id, settings.site.timezone, days, context.run_id, code_version(),
                datetime.now(UTC),
            ),
            cluster_day=collected(lake.read_frame(CLUSTER_DAY, days), d.CLUSTER_DAY_SCHEMA),
            cluster_hour=collected(lake.read_frame(CLUSTER_HOUR, days), d.CLUSTER_HOUR_SCHEMA),
            bucket_hours=hours,
            ledger=plain.read(lake.root, ENERGY_LEDGER, days),
            tenants=plain.read(lake.root, TENANT_DAY, days),
            points=points(lake, days),
            coverage=coverage(lake.read_frame(NODE_HOUR, days), hours),
            files=collected(files.transform(gather.file_counts), d.FILE_SCHEMA),
            discarded=collected(files.transform(gather.discarded), d.DISCARDED_SCHEMA),
            rejects=collected(lake.read_frame(REJECT).transform(gather.reject_counts(files)), d.REJECT_SCHEMA),
            ignored=collected(files.transform(gather.ignored_sensors), d.IGNORED_SCHEMA),
            gate=gate(stages, docs_folder(settings.quality.docs, days), folder),
            stages=stages.select(d.STAGE_SCHEMA.names),
            model=model_summary(settings.mlflow, settings.model, message_of(stages, "train")),
            predictions=predictions(lake, days),
            states=states(lake, days),
            anomalies=anomalies(lake, days),
            recommendations=recommendations(lake, days),
            savings=plain.read(lake.root, SAVING, Days.of(days.end)),
            footprint=d.OwnFootprint(tree_cpu_s(), DEFAULT_CORE_POWER_W),
            credits=tuple(sorted({s.credit for s in settings.sources if s.credit})),
        )  # fmt: skip
    finally:
        files.unpersist()


def collected(rows: DataFrame, schema: pa.Schema) -> pa.Table:
    """A small frame on the driver, in the columns and types of the schema."""
    return rows.select(*schema.names).toArrow().cast(schema)


def points(lake: SparkLake, days: Days) -> d.Sample:
    """Node-hours and GPU-hours for the scatters, at most MOST_POINTS of each."""
    node_hours = lake.read_frame(NODE_HOUR, days)
    frames = (
        node_hours.transform(gather.node_points),
        lake.read_frame(INTERVAL, days).transform(gather.gpu_points(node_hours)),
    )
    samples = [_sample(frame, d.POINT_SCHEMA, "node_id", "device_id", "hour_start") for frame in frames]
    return d.Sample(pa.concat_tables([s.rows for s in samples]), sum(s.total for s in samples))


def predictions(lake: SparkLake, days: Days) -> d.Sample:
    """Scored device-hours of the days, at most MOST_POINTS; nothing where no model has scored yet."""
    if not lake.exists(PREDICTION):
        return d.Sample(d.PREDICTION_SCHEMA.empty_table())
    known = lake.read_frame(PREDICTION, days).dropna(subset=["energy_kwh", "predicted_kwh"])
    return _sample(known, d.PREDICTION_SCHEMA, "node_id", "device_id", "hour_start")


def states(lake: SparkLake, days: Days) -> pa.Table:
    """Intervals by state, the most frequent first, each with the nodes that were in it longest."""
    if not lake.exists(STATE):
        return d.STATE_COUNT_SCHEMA.empty_table()
    by_node = lake.read_frame(STATE, days).groupBy("performance_state", "node_id").agg(
        F.count("*").alias("intervals"), F.count_distinct("device_id").alias("devices")
    )  # fmt: skip
    longest = F.slice(
        F.reverse(F.array_sort(F.collect_list(F.struct("intervals", "node_id")))), 1, MOST_NODES
    )
    rows = by_node.groupBy("performance_state").agg(
        F.sum("intervals").alias("intervals"),
        F.sum("devices").alias("devices"),
        F.array_join(F.transform(longest, lambda one: one["node_id"]), ", ").alias("nodes"),
    )
    return collected(rows.orderBy(F.desc("intervals")), d.STATE_COUNT_SCHEMA)


def anomalies(lake: SparkLake, days: Days) -> pa.Table:
    """Episodes that began on the days, the largest amount of energy first."""
    rows = plain.read(lake.root, ANOMALY, days)
    order = pc.sort_indices(pc.abs(rows["excess_kwh"]), sort_keys=[("", "descending")])
    return rows.take(order)


def recommendations(lake: SparkLake, days: Days) -> pa.Table:
    """What stands after the last day, the largest promise first."""
    rows = plain.read(lake.root, RECOMMENDATION, Days.of(days.end))
    kept = rows.filter(pc.invert(pc.is_in(rows["recommendation_state"], pa.array([EXPIRED, REJECTED]))))
    return kept.sort_by([("expected_saving_kwh", "descending"), ("recommendation_id", "ascending")])


def _sample(frame: DataFrame, schema: pa.Schema, *key: str) -> d.Sample:
    kept = frame.select(*schema.names).persist()
    try:
        return d.Sample(
            collected(kept.transform(gather.lowest_hashes(MOST_POINTS, *key)), schema), kept.count()
        )
    finally:
        kept.unpersist()


def coverage(node_hours: DataFrame, hours: int, worst_nodes: int = 60) -> d.Coverage:
    """Coverage over time of the nodes with the least of it."""
    nodes = node_hours.transform(gather.node_coverage).persist()
    try:
        cells = node_hours.transform(gather.coverage_cells(nodes.limit(worst_nodes), hours))
        return d.Coverage(
            collected(cells, d.COVERAGE_SCHEMA),
            nodes_total=nodes.count(),
            nodes_complete=nodes.where(nodes["coverage_ratio"] >= gather.COMPLETE_RATIO).count(),
            bucket_hours=hours,
            worst_nodes=worst_nodes,
        )
    finally:
        nodes.unpersist()


def stages_of(records: pa.Table, run_id: str, days: Days) -> pa.Table:
    """The stages of this run before the report; one it left out is taken from the newest run of the same days."""
    same_days = pc.and_(pc.equal(records["date_from"], days.start), pc.equal(records["date_until"], days.end))
    ours = pc.or_(pc.equal(records["run_id"], run_id), same_days)
    rows = records.filter(pc.and_(ours, pc.not_equal(records["stage"], "report")))
    newest: dict[str, dict[str, object]] = {}
    for row in sorted(rows.to_pylist(), key=lambda r: (r["run_id"] == run_id, r["start_time"])):
        newest[row["stage"]] = row
    ordered = sorted(newest.values(), key=lambda r: str(r["start_time"]))
    return pa.Table.from_pylist(ordered, schema=records.schema)


def message_of(stages: pa.Table, stage: str) -> str:
    """What a stage told the operator, "" where it did not run."""
    found = stages.filter(pc.equal(stages["stage"], stage))["message"].to_pylist()
    return str(found[0] or "") if found else ""


def gate(stages: pa.Table, docs: Path, folder: Path) -> d.Gate:
    """The gate's warnings from the run record, and the way from the page to its Data Docs."""
    ran = "gate" in stages["stage"].to_pylist()
    warnings = tuple(re.split(r"(?:^|\n|; )warning: ", message_of(stages, "gate"))[1:])
    front = docs / "index.html"
    link = Path(os.path.relpath(front, folder)).as_posix() if front.is_file() else None
    return d.Gate(warnings, link, ran)
