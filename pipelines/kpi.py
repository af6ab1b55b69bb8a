"""KPIs: gold of the days -> gold/kpi of the days, and of the months and years that hold them."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from lepton_etl.carbon.market import RENEWABLE
from lepton_etl.carbon.used_factors import site_factors
from lepton_etl.days import Days
from lepton_etl.energy.exact_sums import exact_sum, over
from lepton_etl.energy.node_hours import expected_hours
from lepton_etl.facility.fit import normalised_pue
from lepton_etl.facility.meter_hours import meter_totals
from lepton_etl.facility.stored_fit import fit_of
from lepton_etl.indicators.carbon_free import read_cfe_hours
from lepton_etl.indicators.figures import (
    PERIODS,
    SITE,
    Row,
    Totals,
    added,
    beyond_grid,
    cluster_totals,
    day_kpis,
    period_start,
    roll_up,
    site_totals,
)
from lepton_etl.indicators.inlet_envelopes import inlet_sums
from lepton_etl.lake.tables import Written
from lepton_etl.schema.carbon import INSTRUMENT, KPI, MARKET_YEAR
from lepton_etl.schema.declare import SECONDS_PER_HOUR
from lepton_etl.schema.energy import CLUSTER_HOUR, NODE_HOUR, SITE_HOUR
from lepton_etl.schema.facility import FACILITY_FIT
from lepton_etl.schema.fleet import FACILITY_INTERVAL, METER
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_RUN
from lepton_etl.schema.types import arrow_schema
from pipelines.publish import with_status
from pipelines.stage import StageContext, StageResult

_HOUR: Final = ["site_id", "hour_start"]
_CLUSTER_HOUR: Final = ["site_id", "cluster_id", "hour_start"]
Hour = tuple[str, datetime]


def run(context: StageContext) -> StageResult:
    """Make the KPIs of the context's days and roll up the months and years that hold them."""
    least = context.settings.energy.coverage_min_ratio
    fresh = [
        row for hours in _totals(context) for row in day_kpis(hours, least, context.settings.kpi.ashrae_class)
    ]
    written = write_kpis(context, fresh, least)
    return StageResult(len(fresh), written.rows, (written,))


def write_kpis(context: StageContext, day_rows: list[dict[str, Any]], least: float) -> Written:
    """Put the days' rows in place of theirs, and months and years made anew from all days; the rest stays."""
    return context.lake.swapped([KPI], lambda: _write(context, day_rows, least))


def _write(context: StageContext, day_rows: list[dict[str, Any]], least: float) -> Written:
    days, lake = context.days, context.lake
    first, last = period_start("year", days.start), period_start("year", days.end).replace(month=12, day=31)
    present = lake.read(KPI, Days(first, last)).to_dicts()
    all_days = [row for row in present if row["period"] == "day" and row["date"] not in days] + day_rows
    starts = {(period, period_start(period, day)) for period in PERIODS for day in days}
    rolled = [row for period, start in starts for row in roll_up(all_days, period, start, least)]
    kept = [row for row in present if row["period"] != "day" and (row["period"], row["date"]) not in starts]
    span = Days(first, days.end)
    rows = [row for row in [*all_days, *kept, *rolled] if row["date"] in span]
    frame = pl.DataFrame(pa.Table.from_pylist(rows, schema=arrow_schema(KPI)))
    return lake.replace(KPI, span, with_status(context, KPI, frame, span), allow_empty=True)


def _totals(context: StageContext) -> list[list[Totals]]:
    """The hours of each boundary's day, in order: the site's, then its clusters'."""
    sites, clusters = _site_rows(context), _cluster_rows(context)
    of_nodes, held = _node_sums(context), _jobs(context)
    hours: dict[tuple[str, str, date], list[Totals]] = defaultdict(list)
    by_site: dict[Hour, list[Row]] = defaultdict(list)
    for row in clusters:
        by_site[row["site_id"], row["hour_start"]].append(row)
    renewable, water = _renewable_ratios(context), _grid_water(context)
    reference, path = _reference_energies(context), context.settings.kpi.cfe_hours
    cfe = read_cfe_hours(path) if path else {}
    for row in sites:
        inside = by_site[row["site_id"], row["hour_start"]]
        keys = [(one["site_id"], one["cluster_id"], one["hour_start"]) for one in inside]
        one = site_totals(
            row,
            inside,
            added(of_nodes.get(key, {}) for key in keys),
            added(held.get(key, {}) for key in keys),
            renewable_ratio=renewable.get(row["date"].year),
            grid_water_l_per_kwh=water.get(row["date"]),
            certificates_sold=context.settings.kpi.onsite_certificates_sold,
            cfe=cfe.get(row["hour_start"]),
            reference_kwh=reference.get((row["site_id"], row["date"])),
        )
        hours[row["site_id"], SITE, one.date].append(one)
    beyond = {(row["site_id"], row["hour_start"]): beyond_grid(row) for row in sites}
    for row in clusters:
        key = (row["site_id"], row["cluster_id"], row["hour_start"])
        hours[row["site_id"], row["cluster_id"], row["date"]].append(
            cluster_totals(row, of_nodes.get(key, {}), held.get(key, {}), beyond[key[0], key[2]])
        )
    return [hours[key] for key in sorted(hours)]


def _site_rows(context: StageContext) -> list[dict[str, Any]]:
    least = context.settings.energy.coverage_min_ratio
    lake, days = context.lake, context.days
    meters = lake.read(METER)
    totals = meter_totals(lake.read(FACILITY_INTERVAL, days), meters, least)
    listed = expected_hours(meters, days).group_by(_HOUR).agg(
        pl.concat([pl.col("point"), pl.col("carrier"), pl.concat_str("carrier", "point", separator="@")])
        .drop_nulls()
        .unique()
        .alias("listed")
    )  # fmt: skip
    rows = lake.read(SITE_HOUR, days).join(totals, on=_HOUR, how="left").join(listed, on=_HOUR, how="left")
    return rows.with_columns(pl.col("listed").fill_null([])).sort(_HOUR).to_dicts()


def _cluster_rows(context: StageContext) -> list[dict[str, Any]]:
    return context.lake.read(CLUSTER_HOUR, context.days).sort(_CLUSTER_HOUR).to_dicts()


def _node_sums(context: StageContext) -> dict[tuple[str, str, datetime], dict[str, float | None]]:
    """Node-hours in service and inlet hours of each cluster-hour; null where no node tells."""
    hours = over(pl.col("expected_s"), SECONDS_PER_HOUR)
    columns = {"node_h": exact_sum(hours)} | inlet_sums(pl.col("inlet_temp_c"), hours)
    nodes = context.lake.read(NODE_HOUR, context.days, columns=[*_CLUSTER_HOUR, "expected_s", "inlet_temp_c"])
    found = nodes.group_by(_CLUSTER_HOUR).agg(**columns).to_dicts()
    return {(r["site_id"], r["cluster_id"], r["hour_start"]): {n: r[n] for n in columns} for r in found}


def _jobs(context: StageContext) -> dict[tuple[str, str, datetime], dict[str, float | None]]:
    """Runs completed in each hour, and held GPU-hours, a day's spread evenly; empty without accounting."""
    ordered = context.lake.read(JOB_ENERGY, context.days).sort("job_id", "submit_time", "restart")
    held = ordered.group_by("site_id", "cluster_id", "date", maintain_order=True).agg(
        over(exact_sum(pl.col("gpu_held_h")), 24.0)
    )
    runs = context.lake.read(JOB_RUN, context.days).filter(
        pl.col("outcome") == "completed", pl.col("end_time").dt.date() == pl.col("date")
    )
    counts = runs.group_by(
        "site_id", "cluster_id", pl.col("end_time").dt.truncate("1h").alias("hour_start")
    ).len("jobs")
    done = {(r["site_id"], r["cluster_id"], r["hour_start"]): float(r["jobs"]) for r in counts.to_dicts()}
    found: dict[tuple[str, str, datetime], dict[str, float | None]] = {}
    for row in held.to_dicts():
        midnight = Days.of(row["date"]).from_time
        for hour in (midnight + timedelta(hours=n) for n in range(24)):
            key = (row["site_id"], row["cluster_id"], hour)
            # Of a cluster-day with accounting, an hour in which no run completed has none.
            found[key] = {"gpu_held_h": row["gpu_held_h"], "jobs": done.get(key, 0.0)}
    return found


def _renewable_ratios(context: StageContext) -> dict[int, float]:
    """The share of each year's grid energy that retired renewable instruments cover.

    No year without a register, nor one whose grid energy is not known or nothing: a share of it is then not known.
    """
    technology = {row["instrument_id"]: row["technology"] for row in context.lake.read(INSTRUMENT).to_dicts()}
    found: dict[int, float] = {}
    for row in context.lake.read(MARKET_YEAR).filter(pl.col("consumption_kwh") > 0).to_dicts():
        is_renewable = technology.get(row["instrument_id"]) in RENEWABLE
        share = row["matched_kwh"] / row["consumption_kwh"]
        year = row["reporting_year"]
        found[year] = found.get(year, 0.0) + (share if is_renewable else 0.0)
    return found


def _grid_water(context: StageContext) -> dict[date, float]:
    """Litres that the grid's power plants consume for a kWh, of days for which the zone has a row."""
    grid, factors = context.settings.grid, site_factors(context.settings.carbon)
    if grid is None:
        return {}
    found = {day: factors.find("electricity_water", valid_on=day, zone_id=grid.zone) for day in context.days}
    return {day: factor.to("L/kWh") for day, factor in found.items() if factor}


def _reference_energies(context: StageContext) -> dict[tuple[str, date], tuple[float, float]]:
    """Facility and IT energy of the reference hours by each day's accepted facility model; no site without one."""
    kpi = context.settings.kpi
    weather, load = (
        np.ravel(grid) for grid in np.meshgrid(kpi.reference_wet_bulb_c, kpi.reference_load_ratio)
    )
    found = {}
    for row in context.lake.read(FACILITY_FIT, context.days).to_dicts():
        fit, _ = fit_of(row)
        pue = normalised_pue(fit, weather, load)
        if pue is not None:
            it_kwh = float(load.sum()) * fit.mean_it_kwh
            found[row["site_id"], row["date"]] = (pue * it_kwh, it_kwh)
    return found
