"""silver/grid_hour and the runs of jobs -> gold/forecast and gold/job_power: what is expected before it happens.

The forecast's origin is the end of the run's last day; a job's power is expected at the start of the day it began on,
from runs that had ended by then.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import Final

import polars as pl

from lepton_etl.config.settings import Grid
from lepton_etl.days import Days
from lepton_etl.forecast.grid_intensity import forecast_rows
from lepton_etl.forecast.job_power import predict_jobs
from lepton_etl.lake.location import Location
from lepton_etl.lake.tables import Lake, Written
from lepton_etl.schema.declare import JOULES_PER_KWH
from lepton_etl.schema.diagnosis import FORECAST, JOB_POWER
from lepton_etl.schema.fleet import GRID_HOUR
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_RUN, RUN_KEY
from lepton_etl.schema.types import arrow_rows
from pipelines.stage import Read, StageContext, StageResult

# Older hours tell little about the next four days, and the members learn anew on every origin.
GRID_HISTORY_DAYS: Final = 180
JOB_HISTORY_DAYS: Final = 90
REQUEST: Final = ("user_name", "partition", "gpu_count", "cpu_count", "memory_byte")


@dataclass(frozen=True)
class _Forecasting:
    """The forecast of a grid from an origin, by whoever can reach the lake: it learns anew, which takes seconds."""

    root: Location
    grid: Grid
    origin: datetime

    def __call__(self) -> Read[pl.DataFrame]:
        lake = Lake(self.root)
        last = self.origin.date() - timedelta(days=1)
        hours = lake.read(GRID_HOUR, Days(last - timedelta(days=GRID_HISTORY_DAYS), last))
        return Read(forecast_rows(of_zone(hours, self.grid), self.grid.zone, self.origin), lake.inputs)


def begin(context: StageContext) -> Callable[[], Read[pl.DataFrame]] | None:
    """Begin the grid's forecast aside, when the night's silver is judged; None where the site names no grid."""
    grid = context.settings.grid
    if grid is None:
        return None
    return context.engine.aside(_Forecasting(context.lake.root, grid, context.days.until_time))


def run(context: StageContext) -> StageResult:
    """Forecast the site's zone after the last day, and expect the power of the runs that began on the days."""
    written = [*_grid(context), *_jobs(context)]
    notes = [f"{one.table}: {one.rows:,} rows" for one in written] or ["no grid zone and no job is known"]
    return StageResult(rows_out=sum(one.rows for one in written), written=tuple(written), notes=tuple(notes))


def _grid(context: StageContext) -> list[Written]:
    lake = context.lake
    forecast = context.ahead.forecast or begin(context)
    if forecast is None:
        return []
    read = forecast()
    lake.inputs |= read.versions
    day = Days.of(context.days.until_time.date())
    return [lake.replace(FORECAST, day, arrow_rows(FORECAST, read.made), allow_empty=True)]


def of_zone(hours: pl.DataFrame, grid: Grid) -> pl.DataFrame:
    """The rows of silver/grid_hour that location-based emissions take: the site's zone and flow, average and direct."""
    return hours.filter(
        (pl.col("zone_id") == grid.zone) & (pl.col("flow") == grid.flow)
        & (pl.col("signal") == "average") & (pl.col("intensity_basis") == "direct")
    )  # fmt: skip


def _jobs(context: StageContext) -> list[Written]:
    lake, days = context.lake, context.days
    looked_at = Days(days.start - timedelta(days=JOB_HISTORY_DAYS), days.end)
    runs = lake.read(JOB_RUN, looked_at)
    if runs.is_empty():
        return []
    known = with_mean_power(runs, lake.read(JOB_ENERGY, looked_at))
    found = [_expected(own, day) for _, own in known.group_by("site_id", maintain_order=True) for day in days]
    rows = [one for one in found if one is not None]
    expected = pl.concat(rows) if rows else pl.DataFrame()
    return [lake.replace(JOB_POWER, days, arrow_rows(JOB_POWER, expected), allow_empty=True)]


def with_mean_power(runs: pl.DataFrame, energy: pl.DataFrame) -> pl.DataFrame:
    """Return one row a run: its request, its times, and the mean power over its nodes, W; null where gold lacks a day.

    `runs` are rows of silver/job_run, `energy` of gold/job_energy.
    """
    key = list(RUN_KEY)
    requests = runs.group_by(key).agg(
        pl.col("start_time").min(), pl.col("end_time").max(), *(pl.col(name).max() for name in REQUEST)
    )
    kwh = pl.col("it_energy_kwh")
    sums = energy.group_by(key).agg(
        pl.when(kwh.is_not_null().all()).then(kwh.sum()).alias("energy_kwh"),
        pl.col("date").min().alias("first_date"),
    )
    seconds = (pl.col("end_time").dt.epoch("s") - pl.col("start_time").dt.epoch("s")).cast(pl.Float64)
    # A run that began before the days looked at has part of its energy here.
    is_whole = pl.col("first_date") <= pl.col("start_time").dt.date()
    power_w = pl.col("energy_kwh") * JOULES_PER_KWH / seconds
    return (
        requests.join(sums, on=key, how="left", nulls_equal=True)
        .with_columns(pl.when(is_whole & (seconds != 0)).then(power_w).alias("mean_power_w"))
        .drop("energy_kwh", "first_date")
        .sort(key)
    )


def _expected(runs: pl.DataFrame, day: date) -> pl.DataFrame | None:
    """The expected power of a site's runs that began on the day; None where none did."""
    began = runs.filter(pl.col("start_time").dt.date() == day)
    if began.is_empty():
        return None
    ended = runs.filter(pl.col("end_time").is_not_null())
    return predict_jobs(began, ended, Days.of(day).from_time).with_columns(pl.lit(day).alias("date"))
