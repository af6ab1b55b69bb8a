"""silver/interval and gold/prediction -> gold/state and gold/anomaly: what state each device is in, and what is odd.

A node's intervals and a rack's device-hours are each judged where they lie, in one Arrow call of an executor.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Final

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.diagnosis.anomalies import anomaly_rows, devices
from lepton_etl.diagnosis.device_states import state_rows
from lepton_etl.diagnosis.minutes import DEVICES, INPUTS
from lepton_etl.lake.spark import SparkLake
from lepton_etl.lake.tables import Written
from lepton_etl.schema.diagnosis import ANOMALY, STATE
from lepton_etl.schema.energy import PREDICTION
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.types import arrow_rows, spark_schema
from pipelines.stage import StageContext, StageResult

# What a device usually draws and clocks at is learnt from so many days before.
STATE_HISTORY_DAYS: Final = 7
# Bounds are from the newest 90 days of the history; a level that a device idled at is remembered for longer.
ANOMALY_HISTORY_DAYS: Final = 120
_HOUR_INPUT: Final = (
    "site_id", "cluster_id", "node_id", "device_id", "date", "hour_start", "energy_kwh", "predicted_kwh", "load_ratio",
)  # fmt: skip
_SHOWN: Final = 3

Kernel = Callable[[pa.Table], pa.Table]


def run(context: StageContext) -> StageResult:
    """Judge the days of the run; a device without history has no anomaly, and a state as unsure as it is."""
    states = _states(context)
    anomalies = _anomalies(context)
    notes = (_note_of_states(context.lake, context.days), *_worst(context.lake, context.days))
    written = (states, anomalies)
    return StageResult(rows_out=sum(one.rows for one in written), written=written, notes=notes)


def _states(context: StageContext) -> Written:
    days = context.days
    looked_at = Days(days.start - timedelta(days=STATE_HISTORY_DAYS), days.end)
    rows = (
        context.lake.read_frame(INTERVAL, looked_at)
        .where(F.col("device_id").rlike(DEVICES))
        .select("site_id", "cluster_id", "node_id", "device_id", "date", "interval_start", *INPUTS)
        .groupBy("site_id", "node_id")
        .applyInArrow(_states_of(list(days)), schema=spark_schema(STATE))
    )
    return context.lake.replace_frame(STATE, days, rows, allow_empty=True)


def _states_of(days: list[date]) -> Kernel:
    def judge(table: pa.Table) -> pa.Table:
        rows = pl.DataFrame(table)
        found = []
        for day in days:
            first = day - timedelta(days=STATE_HISTORY_DAYS)
            today = rows.filter(pl.col("date") == day)
            found.append(state_rows(today, rows.filter(pl.col("date").is_between(first, day, closed="left"))))
        return arrow_rows(STATE, _together(found))

    return judge


def _anomalies(context: StageContext) -> Written:
    days = context.days
    looked_at = Days(days.start - timedelta(days=ANOMALY_HISTORY_DAYS), days.end)
    hours = context.lake.read_frame(PREDICTION, looked_at).where(
        F.col("model_name") == context.settings.model.name
    )
    racks = (
        context.lake.read_few(NODE)
        .where((F.col("valid_to").isNull()) | (F.col("valid_to") > F.lit(days.start)))
        .groupBy("site_id", "node_id")
        .agg(F.max_by("rack_id", "valid_from").alias("rack_id"))
    )
    of_racks = hours.select(*_HOUR_INPUT).join(F.broadcast(racks), ["site_id", "node_id"], how="left")
    # A node of no known rack has no peers: it is judged alone.
    whose = F.coalesce("rack_id", F.concat(F.lit("node "), F.col("node_id")))
    rows = (
        of_racks.withColumn("_peers", whose)
        .groupBy("site_id", "_peers")
        .applyInArrow(_anomalies_of(list(days), context.settings.model.device), schema=spark_schema(ANOMALY))
    )
    return context.lake.replace_frame(ANOMALY, days, rows, allow_empty=True)


def _anomalies_of(days: list[date], device: str) -> Kernel:
    def judge(table: pa.Table) -> pa.Table:
        rows = pl.DataFrame(table).drop("_peers")
        if device == "gpu":
            # A board's model knows its die temperature, which follows power: it would expect whatever a sensor says.
            rows = _with_expected_by_load(rows.drop("predicted_kwh"), days[0])
        else:
            rows = rows.rename({"predicted_kwh": "expected_kwh"})
        return arrow_rows(ANOMALY, _together([_of_day(rows, day) for day in days]))

    return judge


def _of_day(rows: pl.DataFrame, day: date) -> pl.DataFrame:
    """Rows of gold/anomaly of one day of a rack, from hours up to its end on one grid of hours."""
    hours = devices(rows.filter(pl.col("date") <= day))
    if not hours:
        return pl.DataFrame()
    length = len(hours[0].measured_kwh)
    midnight = (pl.Series([day]).cast(pl.Datetime("us")).dt.replace_time_zone("UTC")).item()
    start = round((midnight - hours[0].first_hour).total_seconds() / 3600)
    if not 0 < start < length:
        return pl.DataFrame()
    return anomaly_rows([one.part(0, start) for one in hours], [one.part(start, length) for one in hours])


def _with_expected_by_load(rows: pl.DataFrame, day: date) -> pl.DataFrame:
    """Add `expected_kwh` from load alone: an isotonic curve of each device over the days before, null without one.

    Source: Barlow et al. (1972), isotonic regression: more load never costs less.
    """
    from sklearn.isotonic import IsotonicRegression

    found = []
    for _, own in rows.group_by("node_id", "device_id", maintain_order=True):
        known = own.filter(pl.col("date") < day).drop_nulls(["energy_kwh", "load_ratio"])
        if known.height < 2:
            found.append(own.with_columns(pl.lit(None, pl.Float64).alias("expected_kwh")))
            continue
        curve = IsotonicRegression(out_of_bounds="clip").fit(known["load_ratio"], known["energy_kwh"])
        load = own["load_ratio"].fill_null(0.0).to_numpy()
        told = pl.Series("expected_kwh", curve.predict(load))
        found.append(
            own.with_columns(told).with_columns(
                pl.when(pl.col("load_ratio").is_not_null()).then("expected_kwh")
            )
        )
    return pl.concat(found)


def _together(frames: list[pl.DataFrame]) -> pl.DataFrame:
    """Days without rows have no columns."""
    filled = [frame for frame in frames if frame.height]
    return pl.concat(filled) if filled else pl.DataFrame()


def _note_of_states(lake: SparkLake, days: Days) -> str:
    counts = (
        lake.read_frame(STATE, days)
        .groupBy(F.coalesce("performance_state", F.lit("unknown")).alias("state"))
        .count()
        .orderBy(F.desc("count"), "state")
        .collect()
    )
    total = sum(row["count"] for row in counts)
    shares = ", ".join(f"{row['state']} {row['count'] / total:.1%}" for row in counts)
    return f"states of {total:,} device intervals: {shares}" if total else f"no device interval in {days}"


def _worst(lake: SparkLake, days: Days) -> list[str]:
    """The episodes that cost most, in words, and how many there are."""
    found: DataFrame = lake.read_few(ANOMALY, days)
    count = found.count()
    worst = found.orderBy(F.desc(F.abs("excess_kwh")), "anomaly_id").limit(_SHOWN).collect()
    return [f"{count:,} anomalies", *(row["explanation"] for row in worst)]
