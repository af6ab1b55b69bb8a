"""Jobs of history under other policies: what each would have emitted and cost, in parallel over sites and policies."""

from __future__ import annotations

import csv
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import isnan, nan
from typing import Any, Final

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql import types as T
from rich.console import Console
from rich.table import Table

from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.errors import NoInputError
from lepton_etl.lake import tables as plain
from lepton_etl.lake.spark import SparkLake
from lepton_etl.recommend.replay import POLICIES, HistoryRules, job_rows, replay_site, totals_row
from lepton_etl.schema.diagnosis import FORECAST
from lepton_etl.schema.fleet import GRID_HOUR, NODE
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_RUN, RUN_KEY
from lepton_etl.schema.ledger import SITE_COST
from pipelines.forecast import of_zone

# Beside the policy that was asked for stand the rule that does nothing and the bound that knows all.
BESIDE: Final = ("run_at_once", "clairvoyant")
# A job that finds no room may start so much later than it may wait.
ROOM_H: Final = 24
_WIDTH: Final = 140
_HEADINGS: Final = (
    "site", "policy", "jobs", "kWh", "kgCO2e", "saved", "of hindsight", "money", "delay h", "late", "moved",
)  # fmt: skip
_JOBS: Final = T.StructType(
    [
        *(T.StructField(name, T.StringType()) for name in ("site_id", "cluster_id", "job_id")),
        T.StructField("submit_time", T.TimestampType()), T.StructField("restart", T.IntegerType()),
        T.StructField("start_time", T.TimestampType()), T.StructField("end_time", T.TimestampType()),
        T.StructField("node_count", T.DoubleType()), T.StructField("gpu_count", T.IntegerType()),
        T.StructField("energy_kwh", T.DoubleType()), T.StructField("energy_basis", T.StringType()),
    ]
)  # fmt: skip
_TOTALS: Final = (
    "site_id string, policy string, jobs_completed long, energy_kwh double, emissions_kgco2e double, "
    "energy_cost double, delay_h double, deadlines_missed long, jobs_moved long"
)


@dataclass(frozen=True)
class Replayed:
    """Totals by site and policy, what they rest on, and what was left out."""

    rows: list[dict[str, Any]]
    basis: str
    notes: tuple[str, ...] = field(default=())


def run(
    lake: SparkLake, settings: Settings, policies: Sequence[str], days: Days, flexibility_h: float
) -> Replayed:
    """Run the policies over the jobs that were submitted on the days; each may start so many hours later.

    Raises NoInputError where no job of the days has an energy, or no intensity is known.
    """
    rules = HistoryRules(flexibility_h=flexibility_h)
    jobs = _jobs(lake, days).persist()
    try:
        counts = {row["site_id"]: row["count"] for row in jobs.groupBy("site_id").count().collect()}
        if not counts:
            raise NoInputError(
                f"no job of {days} has an energy and an end",
                where="gold/job_energy",
                remedy="choose other days",
            )
        intensity, basis = _intensity(lake, settings, days, rules)
        known, left_out = _within(jobs, intensity, flexibility_h)
        price, no_price = _price(lake, days, rules)
        without = (*left_out, *no_price)
        forecast = _forecast(lake, settings, days)
        wanted = [one for one in dict.fromkeys((BESIDE[0], *policies, BESIDE[1])) if one in POLICIES]
        if price is None and "cheapest_window" in wanted:
            wanted.remove("cheapest_window")
            without = (*without, "cheapest_window needs prices: left out")
        capacity = {
            row["site_id"]: row["nodes"]
            for row in lake.read_few(NODE)
            .groupBy("site_id")
            .agg(F.count_distinct("node_id").alias("nodes"))
            .collect()
        }
        names = lake.spark.createDataFrame([(one,) for one in wanted], "policy string")
        kernel = _kernel(capacity, intensity, price, forecast, days, rules)
        # Every site and policy is a group of its own: as many tasks as there are.
        found = (
            known.crossJoin(F.broadcast(names))
            .groupBy("site_id", "policy")
            .applyInArrow(kernel, schema=_TOTALS)
        )
        rows = sorted(found.toArrow().to_pylist(), key=lambda r: (r["site_id"], wanted.index(r["policy"])))
    finally:
        jobs.unpersist()
    return Replayed(rows, basis, without)


def show(done: Replayed, *, as_csv: bool) -> None:
    """The table on the terminal, or CSV; shares are of the saving that hindsight would have brought."""
    if as_csv:
        writer = csv.DictWriter(sys.stdout, list(done.rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(done.rows)
        return
    table = Table(title=f"Jobs of history under other policies; {done.basis}", title_justify="left")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in ("site", "policy") else "right")
    by_site = {
        row["site_id"]: [one for one in done.rows if one["site_id"] == row["site_id"]] for row in done.rows
    }
    for site_id, rows in by_site.items():
        once, best = (
            next(row["emissions_kgco2e"] for row in rows if row["policy"] == name) for name in BESIDE
        )
        for row in rows:
            saved = once - row["emissions_kgco2e"]
            share = saved / (once - best) if once > best else nan
            table.add_row(
                site_id, row["policy"], f"{row['jobs_completed']:,}", f"{row['energy_kwh']:,.1f}",
                _number(row["emissions_kgco2e"], ",.2f"), _number(saved / once if once > 0 else nan, ".1%"),
                _number(share, ".0%"), _number(row["energy_cost"], ",.2f"),
                f"{row['delay_h']:.1f}", f"{row['deadlines_missed']:,}", f"{row['jobs_moved']:,}",
            )  # fmt: skip
    console = Console(width=max(Console().width, _WIDTH))
    console.print(table)
    for note in (*done.notes, "shifting moves energy and saves none: kWh are equal by construction"):
        console.print(f"note: {note}")


def _number(value: float, form: str) -> str:
    """A figure, or a dash for the unknown."""
    return "-" if isnan(value) else format(value, form)


def _jobs(lake: SparkLake, days: Days) -> DataFrame:
    """One row a run that was submitted on the days and has ended; its days may reach beyond them."""
    wide = Days(days.start, days.end + timedelta(days=7))
    energy = lake.read_frame(JOB_ENERGY, wide).select(
        *RUN_KEY, "facility_energy_kwh", "it_energy_kwh", "node_held_h"
    )
    runs = lake.read_frame(JOB_RUN, wide).select(
        *RUN_KEY, "start_time", "end_time", "node_count", "gpu_count"
    )
    begins, ends = days.from_time, days.until_time
    both = energy.withColumn("_energy", F.lit(True)).unionByName(
        runs.withColumn("_energy", F.lit(False)), allowMissingColumns=True
    )

    def of_site(table: pa.Table) -> pa.Table:
        rows = pl.DataFrame(table)
        energy, runs = rows.filter(pl.col("_energy")), rows.filter(~pl.col("_energy"))
        held = energy.group_by(RUN_KEY).agg(pl.col("node_held_h").sum())
        hours = (pl.col("end_time") - pl.col("start_time")).dt.total_seconds() / 3600
        # Jobs share nodes: what a run holds is nodes by reserved share.
        share = pl.when(hours > 0).then(pl.col("node_held_h") / hours).otherwise(0.0)
        made = (
            job_rows(energy, runs).join(held, on=RUN_KEY, how="left").with_columns(share.alias("node_count"))
        )
        return made.select(_JOBS.names).to_arrow().cast(_arrow(_JOBS))

    inside = (F.col("submit_time") >= F.lit(begins)) & (F.col("submit_time") < F.lit(ends))
    return both.where(inside).groupBy("site_id").applyInArrow(of_site, schema=_JOBS)


def _within(
    jobs: DataFrame, intensity: pl.DataFrame, flexibility_h: float
) -> tuple[DataFrame, tuple[str, ...]]:
    """Jobs whose whole window has an intensity, and how many have not: they cannot be compared."""
    end = intensity["hour_start"].max()
    assert isinstance(end, datetime)
    seconds = F.unix_timestamp("end_time") - F.unix_timestamp("start_time") + F.unix_timestamp("submit_time")
    inside = seconds + (flexibility_h + ROOM_H) * 3600 <= end.timestamp() + 3600
    left_out = jobs.where(~inside).count()
    note = f"{left_out:,} jobs left out: their window reaches beyond the known intensities, {end:%Y-%m-%d %H:%M} UTC"
    return jobs.where(inside), ((note,) if left_out else ())


def _kernel(
    capacity: dict[str, int], intensity: pl.DataFrame, price: pl.DataFrame | None, forecast: pl.DataFrame | None,
    days: Days, rules: HistoryRules,
) -> Callable[[pa.Table], pa.Table]:  # fmt: skip
    begins, ends = days.from_time, days.until_time

    def replay(table: pa.Table) -> pa.Table:
        jobs = pl.DataFrame(table)
        site_id, policy = jobs["site_id"][0], jobs["policy"][0]
        totals = replay_site(
            jobs.drop("policy"), max(capacity.get(site_id, 0), *(int(one) + 1 for one in jobs["node_count"])),
            intensity, None if price is None else price.filter(pl.col("site_id") == site_id), policy, begins, ends,
            rules, forecast,
        )  # fmt: skip
        return pa.Table.from_pylist([totals_row(site_id, totals)])

    return replay


def _intensity(
    lake: SparkLake, settings: Settings, days: Days, rules: HistoryRules
) -> tuple[pl.DataFrame, str]:
    """Location-based hourly intensity of the site's zone, with the hours before that rules look back on."""
    grid = settings.grid
    if grid is None:
        raise NoInputError("no grid zone is stated", where="grid", remedy="state one in the settings")
    rows = of_zone(pl.DataFrame(plain.read(lake.root, GRID_HOUR, _around(days, rules))), grid)
    if not rows.height:
        raise NoInputError(f"no intensity of {grid.zone}", where="silver/grid_hour", remedy="load its hours")
    return (
        rows.select("hour_start", "carbon_intensity_gco2e_per_kwh").unique("hour_start").sort("hour_start"),
        f"location-based: {grid.zone}, average, direct, {grid.flow}",
    )


def _price(lake: SparkLake, days: Days, rules: HistoryRules) -> tuple[pl.DataFrame | None, tuple[str, ...]]:
    rows = pl.DataFrame(plain.read(lake.root, SITE_COST, _around(days, rules))).drop_nulls("energy_price")
    if not rows.height:
        return None, ("no tariff: money is not told",)
    return rows.select("site_id", "hour_start", pl.col("energy_price").alias("price")), ()


def _forecast(lake: SparkLake, settings: Settings, days: Days) -> pl.DataFrame | None:
    assert settings.grid is not None
    rows = pl.DataFrame(plain.read(lake.root, FORECAST, days)).filter(pl.col("zone_id") == settings.grid.zone)
    return rows.select("origin_time", "hour_start", "carbon_intensity_gco2e_per_kwh") if rows.height else None


def _around(days: Days, rules: HistoryRules) -> Days:
    back = timedelta(days=rules.history_h // 24 + 1)
    return Days(days.start - back, days.end + timedelta(days=14))


def _arrow(schema: T.StructType) -> pa.Schema:
    kinds = {
        "string": pa.string(), "timestamp": pa.timestamp("us", "UTC"), "integer": pa.int32(), "double": pa.float64(),
    }  # fmt: skip
    return pa.schema([(field.name, kinds[field.dataType.typeName()]) for field in schema.fields])
