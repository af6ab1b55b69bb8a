"""Report: the gold, bronze and run tables of the days -> one HTML page that needs no network."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.days import Days
from lepton_etl.lake.nights import PublishedLake
from lepton_etl.lake.node_parts import NodePart, node_parts, rows_of
from lepton_etl.lake.runs import code_version, stage_runs
from lepton_etl.lake.tables import Lake
from lepton_etl.models.footprint import DEFAULT_CORE_POWER_W, tree_cpu_s
from lepton_etl.recommend.lifecycle import EXPIRED, REJECTED
from lepton_etl.report import data as d
from lepton_etl.report import data as gather
from lepton_etl.report.model import model_summary
from lepton_etl.report.superseded import HEAD_BYTES, changed_days, days_of, folder_of, marked
from lepton_etl.report.unknown import Surroundings
from lepton_etl.schema.carbon import KPI
from lepton_etl.schema.diagnosis import ANOMALY, STATE
from lepton_etl.schema.energy import CLUSTER_DAY, CLUSTER_HOUR, MODEL_SHIFT, NODE_HOUR, PREDICTION, SITE_HOUR
from lepton_etl.schema.fleet import INTERVAL, METER
from lepton_etl.schema.jobs import TENANT_DAY
from lepton_etl.schema.ledger import ENERGY_LEDGER, METER_CHECK
from lepton_etl.schema.logs import FILE, REJECT
from lepton_etl.schema.recommend import RECOMMENDATION, SAVING, TENANT_BURDEN
from pipelines.gate import docs_folder
from pipelines.stage import StageContext, StageResult, worthy

# What one scatter holds: dense enough to see the shape, small enough for a browser.
MOST_POINTS: Final = 1500
# Nodes named beside a state.
MOST_NODES: Final = 8
_POINT_KEY: Final = ("node_id", "device_id", "hour_start")
_NODE_HOUR: Final = (
    "site_id", "cluster_id", "node_id", "hardware_class", "hour_start", "power_mean_w", "gpu_count",
    "gpu_utilisation_ratio", "cpu_utilisation_ratio", "inlet_temp_c", "observed_s", "expected_s",
)  # fmt: skip


# A page is of other days than it shows where one of these has changed since.
_SHOWN: Final = (
    SITE_HOUR, CLUSTER_DAY, CLUSTER_HOUR, NODE_HOUR, ENERGY_LEDGER, METER_CHECK, TENANT_DAY, PREDICTION, MODEL_SHIFT,
    STATE, ANOMALY,
)  # fmt: skip


def run(context: StageContext) -> StageResult:
    """Write `<report.folder>/<day or range>/index.html`, and anew the pages of other days that the run made anew.

    A re-run overwrites them.
    """
    pages = [context.days, *_days_made_anew(context)]
    data = [_write(replace(context, days=days)) for days in pages]
    notes = [f"report: {page_path(context.settings.report.folder, context.days)}"]
    if data[0].cluster_day.num_rows == 0:
        notes.append(
            f"{CLUSTER_DAY.name} holds no row of {context.days}: the page shows files and stages only"
        )
    if len(pages) > 1:
        notes.append(f"pages made anew: {', '.join(map(str, pages[1:]))}")
    rows = sum(one.cluster_day.num_rows + one.cluster_hour.num_rows for one in data)
    return StageResult(rows_in=rows, notes=tuple(notes))


def _write(context: StageContext) -> d.ReportData:
    """Write the page of the context's days and return what it shows."""
    page = page_path(context.settings.report.folder, context.days)
    # The page shows a night that is whole, also while another run makes the days anew.
    published = PublishedLake(context.lake, context.days)
    data = read(replace(context, lake=published), page.parent)
    page.parent.mkdir(parents=True, exist_ok=True)
    # Altair, which the page draws with, is no matter of the tasks that import this module.
    from lepton_etl.report.page import render

    _put(page, render(replace(data, made_of=published.digests(context.days, _SHOWN))))
    return data


def _put(page: Path, text: str) -> None:
    """Write a page; a reader sees the old one or the new one, never half of one."""
    fresh = page.with_suffix(".html.new")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(page)


def _days_made_anew(context: StageContext) -> list[Days]:
    """Other days than the context's that this run published and whose pages show what was before."""
    runs = stage_runs(context.lake)
    published = runs.filter(
        pc.and_(pc.equal(runs["run_id"], context.run_id), pc.equal(runs["stage"], "publish"))
    )
    spans = [Days.of(row["date_from"], row["date_until"]) for row in published.to_pylist()]
    stale = (
        days for span in spans for days in stale_pages(context.lake, context.settings.report.folder, span)
    )
    return sorted(
        {days for days in stale if days.count == 1 and days.start not in context.days},
        key=lambda one: one.start,
    )


def stale_pages(lake: Lake, folder: Path, days: Days) -> dict[Days, list[date]]:
    """Pages that show some of these days otherwise than it is published, with those days."""
    published = PublishedLake(lake, days).digests(days, _SHOWN)
    found = {}
    for place in sorted(folder.iterdir()) if folder.is_dir() else ():
        shown, page = days_of(place.name), place / "index.html"
        if shown is None or shown.end < days.start or days.end < shown.start or not page.is_file():
            continue
        with page.open("rb") as file:
            head = file.read(HEAD_BYTES).decode(errors="ignore")
        changed = changed_days(head, {day: of for day, of in published.items() if day in shown})
        if changed:
            found[shown] = changed
    return found


def mark_superseded(lake: Lake, folder: Path, days: Days, run_id: str) -> list[Days]:
    """Mark the pages that show some of these days otherwise than it is published; return the days of those pages.

    The page of a range leads to those of its days. Nothing is made anew here: that is for the report stage.
    """
    stale = stale_pages(lake, folder, days)
    for shown, changed in stale.items():
        page = page_path(folder, shown)
        own = [day for day in changed if shown.count > 1 and page_path(folder, Days.of(day)).is_file()]
        _put(page, marked(page.read_text(encoding="utf-8"), changed, run_id, lake.now(), own))
    return list(stale)


def page_path(folder: Path, days: Days) -> Path:
    """`<folder>/2025-06-03/index.html`, or `<folder>/2025-06-03_2025-06-05/index.html`."""
    return folder / folder_of(days) / "index.html"


def read(context: StageContext, folder: Path) -> d.ReportData:
    """Everything the page shows; `folder` is the page's, for relative links."""
    lake, days, settings = context.lake, context.days, context.settings
    hours = d.bucket_hours(days)
    files = gather.files_of(_files(lake, days), days)
    node_hours = lake.read(NODE_HOUR, days, columns=_NODE_HOUR)
    site_hours = lake.read(SITE_HOUR, days).sort("site_id", "hour_start")
    stages = stages_of(stage_runs(lake), context.run_id, days)
    return d.ReportData(
        run=d.RunInfo(
            settings.site.site_id, settings.site.timezone, days, context.run_id, code_version(),
            datetime.now(UTC),
        ),
        cluster_day=collected(lake.read(CLUSTER_DAY, days), d.CLUSTER_DAY_SCHEMA),
        cluster_hour=collected(lake.read(CLUSTER_HOUR, days), d.CLUSTER_HOUR_SCHEMA),
        site_hour=collected(site_hours, d.SITE_HOUR_SCHEMA),
        kpi=lake.read(KPI, days, where=pc.field("period") == "day").to_arrow(),
        around=Surroundings(
            gather.equipment(node_hours), _facility_hours(site_hours), "water" in lake.read(METER)["carrier"]
        ),
        bucket_hours=hours,
        ledger=lake.read(ENERGY_LEDGER, days).to_arrow(),
        meter_check=lake.read(METER_CHECK, days, where=pc.field("check_period") == "day").to_arrow(),
        tenants=lake.read(TENANT_DAY, days).to_arrow(),
        points=points(context, node_hours),
        coverage=coverage(node_hours, open_intervals(context), hours),
        files=collected(gather.file_counts(files), d.FILE_SCHEMA),
        discarded=collected(gather.discarded(files), d.DISCARDED_SCHEMA),
        rejects=collected(gather.reject_counts(_rejects(lake, files), files), d.REJECT_SCHEMA),
        ignored=collected(gather.ignored_sensors(files), d.IGNORED_SCHEMA),
        gate=gate(stages, docs_folder(settings.quality.docs, days), folder),
        stages=stages.select(d.STAGE_SCHEMA.names),
        model=model_summary(settings.mlflow, settings.model, message_of(stages, "train")),
        predictions=predictions(lake, days),
        states=states(context),
        anomalies=anomalies(lake, days),
        shifts=shifts(lake, days),
        recommendations=recommendations(lake, days),
        savings=lake.read(SAVING, Days.of(days.end)).to_arrow(),
        burdens=lake.read(TENANT_BURDEN, Days.of(days.end)).to_arrow(),
        footprint=d.OwnFootprint(tree_cpu_s(), DEFAULT_CORE_POWER_W),
        credits=tuple(sorted({s.credit for s in settings.sources if s.credit})),
    )  # fmt: skip


def _facility_hours(site_hours: pl.DataFrame) -> dict[tuple[str, date], int]:
    """Hours of each (site, day) with facility energy."""
    counts = site_hours.group_by("site_id", "date").agg(pl.col("facility_energy_kwh").count())
    return {(site, day): hours for site, day, hours in counts.iter_rows()}


def _files(lake: Lake, days: Days) -> pl.DataFrame:
    """Rows of bronze/file that may belong to the days: the log's statistics leave the others unread."""
    first, last = pc.field("first_reading_time"), pc.field("last_reading_time")
    touches = (first < pa.scalar(days.until_time)) & (last >= pa.scalar(days.from_time))
    return lake.read(FILE, where=touches | pc.is_null(first))


def _rejects(lake: Lake, files: pl.DataFrame) -> pl.DataFrame:
    """The rejects of these files."""
    with_rejects = files.filter(pl.col("rejects") > 0)["file_id"].to_arrow().cast(pa.string())
    return lake.read(REJECT, where=pc.is_in(pc.field("file_id"), with_rejects))


def collected(rows: pl.DataFrame, schema: pa.Schema) -> pa.Table:
    """The columns and types of the schema."""
    return rows.select(schema.names).to_arrow().cast(schema)


def points(context: StageContext, node_hours: pl.DataFrame) -> d.Sample:
    """Node-hours and GPU-hours for the scatters, at most MOST_POINTS of each."""
    nodes = _sample(gather.node_points(node_hours), d.POINT_SCHEMA)
    classes = node_hours.group_by("site_id", "node_id").agg(pl.col("hardware_class").max())
    parts = node_parts(context.lake, INTERVAL, context.days)
    found = worthy(context.engine, rows_of(parts)).map(_GpuPoints(classes), parts)
    gpus = (
        _sample(pl.concat([rows for rows, _ in found]), d.POINT_SCHEMA) if found else d.Sample(nodes.rows[:0])
    )
    return d.Sample(pa.concat_tables([nodes.rows, gpus.rows]), nodes.total + sum(total for _, total in found))


@dataclass(frozen=True)
class _GpuPoints:
    """What a task does: a sample of the GPU-hours of its nodes, and how many there are."""

    classes: pl.DataFrame

    def __call__(self, part: NodePart) -> tuple[pl.DataFrame, int]:
        rows = gather.gpu_points(part.read(gather.GPU_POINT_COLUMNS), self.classes)
        return gather.lowest_hashes(rows, MOST_POINTS, *_POINT_KEY), rows.height


def predictions(lake: Lake, days: Days) -> d.Sample:
    """Scored device-hours of the days, at most MOST_POINTS; nothing where no model has scored yet."""
    known = lake.read(PREDICTION, days, columns=d.PREDICTION_SCHEMA.names)
    return _sample(known.drop_nulls(["energy_kwh", "predicted_kwh"]), d.PREDICTION_SCHEMA)


def states(context: StageContext) -> pa.Table:
    """Intervals by state, the most frequent first, each with the nodes that were in it longest."""
    parts = node_parts(context.lake, STATE, context.days, by_day=False)
    found = worthy(context.engine, rows_of(parts)).map(_state_counts, parts)
    if not any(part.height for part in found):
        return d.STATE_COUNT_SCHEMA.empty_table()
    longest = pl.struct("intervals", "node_id").sort(descending=True).head(MOST_NODES).struct.field("node_id")
    rows = (
        pl.concat(found)
        .group_by("performance_state")
        .agg(pl.col("intervals").sum(), pl.col("devices").sum(), longest.str.join(", ").alias("nodes"))
        .sort(["intervals", "performance_state"], descending=[True, False])
    )
    return collected(rows, d.STATE_COUNT_SCHEMA)


def _state_counts(part: NodePart) -> pl.DataFrame:
    """What a task does: intervals and devices of its nodes by state."""
    rows = part.read(["performance_state", "node_id", "device_id"])
    return rows.group_by("performance_state", "node_id").agg(
        pl.len().alias("intervals"), pl.col("device_id").n_unique().alias("devices")
    )


def anomalies(lake: Lake, days: Days) -> pa.Table:
    """Episodes that began on the days, the largest amount of energy first."""
    rows = lake.read(ANOMALY, days).to_arrow()
    order = pc.sort_indices(pc.abs(rows["excess_kwh"]), sort_keys=[("", "descending")])
    return rows.take(order)


def shifts(lake: Lake, days: Days) -> pa.Table:
    """Devices that have left what their model says by the last day, the latest found first."""
    rows = lake.read(MODEL_SHIFT, Days.of(days.end)).filter(pl.col("shift_kind").is_not_null())
    return rows.sort("shift_found", "node_id", "device_id", descending=[True, False, False]).to_arrow()


def recommendations(lake: Lake, days: Days) -> pa.Table:
    """What stands after the last day, the largest promise first."""
    rows = lake.read(RECOMMENDATION, Days.of(days.end)).to_arrow()
    kept = rows.filter(pc.invert(pc.is_in(rows["recommendation_state"], pa.array([EXPIRED, REJECTED]))))
    return kept.sort_by([("expected_saving_kwh", "descending"), ("recommendation_id", "ascending")])


def _sample(rows: pl.DataFrame, schema: pa.Schema) -> d.Sample:
    chosen = rows.select(schema.names)
    return d.Sample(collected(gather.lowest_hashes(chosen, MOST_POINTS, *_POINT_KEY), schema), rows.height)


def open_intervals(context: StageContext) -> pl.DataFrame:
    """Intervals of nodes at the ends of the days, beside a day that was not delivered: the time to it is open."""
    lake, days = context.lake, context.days
    columns = ["node_id", "interval_start", "interval_s", "observed_s"]
    of_nodes = pc.field("counts_in_total") & (pc.field("device_id") == "node")
    start, before, after = (
        pl.col("interval_start"),
        days.start - timedelta(days=1),
        days.end + timedelta(days=1),
    )
    ends = ((days.start, before, start.min()), (days.end, after, start.max()))
    gap = timedelta(seconds=context.settings.energy.max_gap_s)
    return pl.concat(
        lake.read(INTERVAL, Days.of(day), columns=columns, where=of_nodes).filter(
            start == edge, pl.lit(value=not _is_delivered(lake, Days.of(beside), gap))
        )
        for day, beside, edge in ends
    )


def _is_delivered(lake: Lake, day: Days, gap: timedelta) -> bool:
    """Whether a file has readings of the day; some before or after its midnights are those of another day's file."""
    reaches = [
        ("first_reading_time", "<", day.until_time - gap),
        ("last_reading_time", ">=", day.from_time + gap),
    ]
    return not lake.read(FILE, columns=["path"], only=reaches).is_empty()


def coverage(
    node_hours: pl.DataFrame, undelivered: pl.DataFrame, hours: int, worst_nodes: int = 60
) -> d.Coverage:
    """Coverage over time of the nodes with the least of it; `undelivered` are open_intervals."""
    nodes = gather.node_coverage(node_hours, undelivered)
    opened = nodes.filter(gather.is_open())
    return d.Coverage(
        collected(gather.coverage_cells(node_hours, nodes.head(worst_nodes), hours), d.COVERAGE_SCHEMA),
        nodes_total=nodes.height,
        nodes_complete=nodes.filter(gather.is_complete()).height,
        nodes_open=opened.height,
        open_s=max(opened["open_s"], default=0.0),
        bucket_hours=hours,
        worst_nodes=worst_nodes,
    )


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
