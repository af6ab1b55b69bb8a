"""gold/recommendation that is applied, and the energy since -> gold/saving: what each has brought, from logs alone."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import timedelta
from typing import Any

import polars as pl
import pyarrow as pa
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.lake import plain
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.store import Written
from lepton_etl.lake.tables import CLUSTER_DAY, NODE_HOUR, SITE_HOUR
from lepton_etl.lake.tables.advice import SAVING
from lepton_etl.lake.tables.jobs import TENANT_DAY
from lepton_etl.optimize.grading import DAILY, saving_rows
from lepton_etl.optimize.lifecycle import APPLIED
from pipelines.levers import capped_work
from pipelines.stage import StageContext

Row = Mapping[str, Any]


def grade(context: StageContext, standing: Sequence[Row]) -> tuple[Written | None, tuple[str, ...]]:
    """Grade what was applied before the run's last day; None where nothing was."""
    lake, day = context.lake, context.days.end
    applied = [
        row for row in standing
        if row["recommendation_state"] == APPLIED and row["state_time"].date() < day
    ]  # fmt: skip
    if not applied and not lake.exists(SAVING):
        return None, ()
    daily = _daily(context, applied)
    rows = saving_rows(applied, daily, day, context.settings.optimize.baseline_days)
    table = pa.Table.from_pylist(rows, schema=arrow_schema(SAVING))
    written = lake.replace_few(SAVING, Days.of(day), lake.spark.createDataFrame(table), allow_empty=True)
    proven = [row for row in rows if row["proven"]]
    saved = sum(row["realised_saving_kwh"] for row in proven)
    told = f"{len(proven)} of {len(rows)} applied recommendations have a proven saving, {saved:,.0f} kWh together"
    return written, (told,) if rows else ()


def _daily(context: StageContext, applied: Sequence[Row]) -> dict[str, pl.DataFrame]:
    """Daily energy, work and weather of what each row changed, by recommendation_id."""
    if not applied:
        return {}
    day = context.days.end
    first = min(row["state_time"].date() for row in applied)
    days = Days(first - timedelta(days=context.settings.optimize.baseline_days), day)
    found: dict[str, pl.DataFrame] = {}
    site = _site_days(context, days)
    weather = site.select("site_id", "date", "weather_c")
    clusters, nodes = _cluster_days(context, days, weather), _node_days(context, days, applied)
    caps = capped_work(context, days) if any(row["lever"] == "power_cap" for row in applied) else None
    for row in applied:
        name, whose = row["recommendation_id"], pl.col("site_id") == row["site_id"]
        if row["lever"] == "power_cap" and caps is not None:
            own = caps.filter(whose, pl.col("job_class") == row["job_class"]).with_columns(
                weather_c=pl.lit(None)
            )
        elif row["lever"] == "cooling":
            own = site.filter(whose)
        elif row["node_id"] is not None:
            own = nodes.filter(whose, pl.col("node_id") == row["node_id"])
        elif row["cluster_id"] is not None:
            own = clusters.filter(whose, pl.col("cluster_id") == row["cluster_id"])
        else:
            continue
        found[name] = own.select(pl.col(column).cast(kind) for column, kind in DAILY.items())
    return found


def _site_days(context: StageContext, days: Days) -> pl.DataFrame:
    """Facility energy of whole days by site; work is the IT energy that the cooling serves."""
    hours = pl.DataFrame(plain.read(context.lake.root, SITE_HOUR, days))
    return _whole_days(
        hours.group_by("site_id", "date").agg(
            pl.col("facility_energy_kwh").drop_nulls().sum().alias("energy_kwh"),
            pl.col("it_energy_kwh").drop_nulls().sum().alias("work"),
            pl.col("outdoor_wet_bulb_temp_c").mean().alias("weather_c"),
            (pl.col("facility_energy_kwh").is_not_null() & pl.col("it_energy_kwh").is_not_null())
            .sum()
            .alias("_hours"),
        )
    )


def _cluster_days(context: StageContext, days: Days, weather: pl.DataFrame) -> pl.DataFrame:
    """IT energy of clusters; work is node-hours held by jobs."""
    root = context.lake.root
    energy = pl.DataFrame(plain.read(root, CLUSTER_DAY, days)).select(
        "site_id", "cluster_id", "date", pl.col("it_energy_kwh").alias("energy_kwh")
    )
    held = (
        pl.DataFrame(plain.read(root, TENANT_DAY, days))
        .group_by("site_id", "cluster_id", "date")
        .agg(pl.col("node_held_h").sum().alias("work"))
    )
    return energy.join(held, on=["site_id", "cluster_id", "date"], how="left").join(
        weather, on=["site_id", "date"], how="left"
    )


def _node_days(context: StageContext, days: Days, applied: Sequence[Row]) -> pl.DataFrame:
    """IT energy of the nodes that were changed; work is utilisation-hours, of GPUs where the node has any."""
    names = sorted({row["node_id"] for row in applied if row["node_id"] is not None})
    load = F.coalesce("gpu_utilisation_ratio", "cpu_utilisation_ratio")
    rows = (
        context.lake.read(NODE_HOUR, days)
        .where(F.col("node_id").isin(names) & F.col("it_energy_kwh").isNotNull() & load.isNotNull())
        .groupBy("site_id", "node_id", "date")
        .agg(
            F.sum("it_energy_kwh").alias("energy_kwh"), F.sum(load).alias("work"),
            F.avg("inlet_temp_c").alias("weather_c"), F.count("*").alias("_hours"),
        )
    )  # fmt: skip
    return _whole_days(pl.DataFrame(rows.toArrow()))


def _whole_days(rows: pl.DataFrame) -> pl.DataFrame:
    """A day of which an hour is missing is coverage, not energy."""
    return rows.filter(pl.col("_hours") == 24).drop("_hours")
