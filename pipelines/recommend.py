"""Make gold/recommendation of the lake after a night: what to change, what it promises and where it stands.

Each lever makes proposals for the day after from the lake's tables, and says why there are none. What is
judged by node or job is judged in tasks; only the proposals come to the driver. What was applied is graded
from logs alone (gold/saving).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.days import Days
from lepton_etl.facility.set_points import operating_hours
from lepton_etl.forecast.job_power import predict_jobs
from lepton_etl.lake.node_parts import NodePart, node_parts, rows_of
from lepton_etl.lake.tables import Lake, Written
from lepton_etl.recommend.advice import (
    LEFT_TO_OTHERS,
    Advice,
    SiteRates,
    Subject,
    next_day,
    state_advice,
    valued,
)
from lepton_etl.recommend.fair_share import Price, fair_caps
from lepton_etl.recommend.idle_jobs import COLUMNS as JOB_COLUMNS
from lepton_etl.recommend.idle_jobs import zombie_advice
from lepton_etl.recommend.idle_nodes import COLUMNS as NODE_COLUMNS
from lepton_etl.recommend.idle_nodes import node_advice
from lepton_etl.recommend.job_shift import HORIZON_H, Queue, shift_advice
from lepton_etl.recommend.lifecycle import APPLIED, EXPIRED, REJECTED, Decision, standing
from lepton_etl.recommend.power_caps import COLUMNS as CAP_COLUMNS
from lepton_etl.recommend.power_caps import cap_advice
from lepton_etl.recommend.savings import DAILY, saving_rows
from lepton_etl.schema.declare import SECONDS_PER_HOUR
from lepton_etl.schema.diagnosis import FORECAST, STATE
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import INTERVAL, NODE
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_NODE, JOB_RUN, TENANT_DAY
from lepton_etl.schema.ledger import SITE_COST
from lepton_etl.schema.logs import JOB
from lepton_etl.schema.recommend import DECISION, RECOMMENDATION, SAVING, TENANT_BURDEN
from lepton_etl.schema.types import arrow_schema
from lepton_etl.trust.fairness import delays, energy_burdens, slowdowns, tenant_burdens, waits
from lepton_etl.uncertainty import Estimate
from pipelines.forecast import JOB_HISTORY_DAYS, REQUEST, with_mean_power
from pipelines.ledger import fits_of
from pipelines.stage import StageContext, StageResult, worthy


def waiting_jobs(context: StageContext) -> Found:
    """Later starts for the pending jobs of the partitions that may wait."""
    settings = context.settings.optimize.shift
    if settings is None:
        return Found(notes=("no job is shifted: optimize.shift is not stated",))
    at = context.days.until_time
    pending = _pending(context, at, settings.partitions)
    if not pending.height:
        return Found(notes=("no job waits in the partitions that may",))
    known = Days(context.days.end - timedelta(days=JOB_HISTORY_DAYS), context.days.end)
    runs = context.lake.read(JOB_RUN, known).filter(pl.col("partition").is_in(settings.partitions))
    history = with_mean_power(runs, context.lake.read(JOB_ENERGY, known))
    told = predict_jobs(pending, history.filter(pl.col("end_time").is_not_null()), at)
    hours = (pl.col("end_time") - pl.col("start_time")).dt.total_seconds() / 3600
    ended = history.filter(pl.col("end_time") <= at).select("user_name", "partition", hours.alias("hours"))
    costs = context.lake.read(SITE_COST, Days.of(context.days.end))
    currencies = costs["currency"].drop_nulls().unique().to_list()
    queue = Queue(
        context.settings.site.site_id,
        context.settings.grid.zone if context.settings.grid else "",
        at,
        told,
        ended,
        _room(context),
        _hours_ahead(context, at, costs),
        _overhead_ratio(context),
        currencies[0] if len(currencies) == 1 else None,
    )
    limit = context.settings.optimize.tenant_share_max_ratio
    found, notes, price = shift_advice(queue, settings, limit)
    whose = pending.select("site_id", "job_id", "tenant_id")
    return Found([one.row() for one in found], notes, price, whose)


def _pending(context: StageContext, at: datetime, may_shift: tuple[str, ...]) -> pl.DataFrame:
    """Jobs whose newest record by the end of the day is that they wait, with the cluster as silver names it."""
    key = ["site_id", "cluster_name", "job_id", "submit_time"]
    submitted = pc.field("submit_time")
    may_wait = (
        pc.is_in(pc.field("partition"), pa.array(may_shift))
        & (submitted < pa.scalar(at))
        & (submitted >= pa.scalar(at - timedelta(days=JOB_HISTORY_DAYS)))
    )
    records = context.lake.read(JOB, where=may_wait).filter(pl.col("record").fill_null("job") == "job")
    newest = (
        records.sort("ingest_time", "source_position")
        .group_by(key)
        .agg(
            pl.col("job_state").last(),
            pl.col("start_time").max(),
            pl.coalesce("tenant_id", "account").drop_nulls().last().alias("tenant_id"),
            *(pl.col(name).max() for name in REQUEST),
        )
        .filter(pl.col("start_time").is_null() & (pl.col("job_state") == "PENDING"))
    )
    return (
        newest.rename({"cluster_name": "cluster_id"})
        .sort("submit_time", "job_id")
        .drop("job_state", "start_time")
    )


def _room(context: StageContext) -> pl.DataFrame:
    """Free GPUs and cores of each cluster, if what runs at the end of the day keeps what it holds."""
    today = Days.of(context.days.end)
    listed = (
        context.lake.read(NODE)
        .filter(pl.col("valid_to").is_null() | (pl.col("valid_to") > today.until_time))
        .group_by("cluster_id")
        .agg(_known_sum("gpu_count").alias("gpu"), _known_sum("core_count").alias("core"))
    )
    running = (
        context.lake.read(JOB_NODE, today)
        .filter(pl.col("to_time") >= today.until_time)
        .group_by("cluster_id")
        .agg(_known_sum("gpu_count").alias("gpu_held"), _known_sum("cpu_count").alias("core_held"))
    )
    rows = listed.join(running, on="cluster_id", how="left").sort("cluster_id")
    parts = [
        rows.select(
            "cluster_id",
            pl.lit(unit).alias("unit"),
            (pl.col(unit) - pl.col(f"{unit}_held").fill_null(0)).clip(0).cast(pl.Float64).alias("free"),
        ).drop_nulls("free")
        for unit in ("gpu", "core")
    ]
    return pl.concat(parts)


def _hours_ahead(context: StageContext, at: datetime, costs: pl.DataFrame) -> pl.DataFrame:
    """The newest forecast of the hours ahead; prices are those of the same hours of the day before."""
    rows = context.lake.read(FORECAST, Days.of(at.date()))
    zone = context.settings.grid.zone if context.settings.grid else None
    rows = rows.filter((pl.col("zone_id") == zone) & (pl.col("origin_time") == at)).select(
        "hour_start", "carbon_intensity_gco2e_per_kwh", "intensity_lower_gco2e_per_kwh",
        "intensity_upper_gco2e_per_kwh",
    )  # fmt: skip
    every = pl.DataFrame(
        {"hour_start": [at + timedelta(hours=hour) for hour in range(HORIZON_H)]}
    ).with_columns(pl.col("hour_start").cast(pl.Datetime("us", "UTC")))
    prices = costs.select(pl.col("hour_start").dt.hour().alias("_hour"), "energy_price").unique("_hour")
    return (
        every.join(rows, on="hour_start", how="left")
        .with_columns(pl.col("hour_start").dt.hour().alias("_hour"))
        .join(prices, on="_hour", how="left")
        .drop("_hour")
    )


def _overhead_ratio(context: StageContext) -> float:
    """kW of overhead a kW of IT over the day; 0 where no meter tells, so that nothing is promised of it."""
    rows = context.lake.read(SITE_HOUR, Days.of(context.days.end))
    known = rows.drop_nulls(["facility_energy_kwh", "it_energy_kwh"])
    facility_kwh, it_kwh = (
        float(known[name].to_numpy().sum()) for name in ("facility_energy_kwh", "it_energy_kwh")
    )
    return max(facility_kwh / it_kwh - 1, 0.0) if it_kwh > 0 else 0.0


Row = dict[str, Any]
# GPU utilisation from which a GPU works.
AT_WORK: Final = 0.5


@dataclass(frozen=True)
class Found:
    """The proposals of one lever and what it has to say; `price` of a limit on a tenant's share, `pending` jobs."""

    rows: list[Row] = field(default_factory=list)
    notes: tuple[str, ...] = ()
    price: Price | None = None
    pending: pl.DataFrame | None = None


def idle_nodes(context: StageContext) -> Found:
    """Nodes that may sleep and nodes that draw too much at rest, cluster by cluster."""
    settings, day = context.settings.optimize, context.days.end
    days = Days(day - timedelta(days=settings.history_days - 1), day)
    parts = node_parts(context.lake, NODE_HOUR, days, by_day=False)
    # A cluster is judged as a whole: its reserve is shared. Node-hours of a month are few columns and few rows.
    # A node that is off is not idle: what it draws then is no idle power.
    is_on = ~(pl.col("off_s") > 0).fill_null(value=False)
    read = [part.read([*NODE_COLUMNS, "off_s"]).filter(is_on).drop("off_s") for part in parts]
    hours = pl.concat(read) if read else pl.DataFrame()
    found = _by_cluster(hours, lambda rows: node_advice(rows, day, settings))
    notes = () if settings.power_down else ("no node may sleep: optimize.power_down is not stated",)
    return Found(found, notes)


def zombie_jobs(context: StageContext) -> Found:
    """Jobs that ran at the end of the day and whose boards did nothing."""
    settings, day = context.settings.optimize, context.days.end
    today = Days.of(day)
    boards = (
        context.lake.read(JOB_NODE, today)
        .filter((pl.col("to_time") >= today.until_time) & (pl.col("device_ids").list.len() > 0))
        .select(
            "site_id", "cluster_id", "node_id", "job_id", "tenant_id", "from_time", "to_time",
            pl.col("device_ids").alias("device_id"),
        )
        .explode("device_id")
    )  # fmt: skip
    if boards.is_empty():
        return Found()
    work = _HeldHours(boards)
    of_nodes = node_parts(context.lake, INTERVAL, today)
    parts = [one for one in worthy(context.engine, rows_of(of_nodes)).map(work, of_nodes) if one.height]
    if not parts:
        return Found()
    utilisation = pl.col("utilisation_ratio")
    hours = (
        pl.concat(parts)
        .group_by("site_id", "cluster_id", "job_id", "hour_start")
        .agg(
            pl.col("tenant_id").first(),
            pl.col("energy_kwh").sum(),
            # One board that worked, or of which nothing is known, clears the job.
            pl.when(utilisation.is_not_null().all()).then(utilisation.max()).alias("utilisation_ratio"),
            pl.col("node_ids").explode().unique().sort().alias("node_ids"),
        )
        .select(JOB_COLUMNS)
    )
    return Found(_by_cluster(hours, lambda rows: zombie_advice(rows, day, settings)))


@dataclass(frozen=True)
class _HeldHours:
    """What a task does: hours of the boards of its nodes that a job held, by job."""

    boards: pl.DataFrame

    def __call__(self, part: NodePart) -> pl.DataFrame:
        key = ["site_id", "cluster_id", "node_id", "device_id"]
        held_on = part.read([*key, "interval_start", "energy_kwh", "gpu_utilisation_ratio"])
        utilisation = pl.col("gpu_utilisation_ratio")
        return (
            self.boards.join(held_on, on=key, how="inner", nulls_equal=True)
            .filter(pl.col("interval_start").is_between("from_time", "to_time"))
            .sort(*key, "interval_start")
            .group_by(
                "site_id", "cluster_id", "job_id", pl.col("interval_start").dt.truncate("1h").alias("hour_start"),
                maintain_order=True,
            )
            .agg(
                pl.col("tenant_id").first(),
                pl.col("energy_kwh").sum(),
                pl.when(utilisation.is_not_null().all()).then(utilisation.max()).alias("utilisation_ratio"),
                pl.col("node_id").unique().sort().alias("node_ids"),
            )
        )  # fmt: skip


def device_states(context: StageContext) -> Found:
    """What the states of the day's devices ask for."""
    if not context.lake.exists(STATE):
        return Found()
    parts = _state_parts(context)
    rows = [row for found in worthy(context.engine, rows_of(parts)).map(_asked_for, parts) for row in found]
    hours = context.settings.energy.interval_s / SECONDS_PER_HOUR
    order = ("site_id", "cluster_id", "node_id", "device_id", "adjustment")
    counted = [row | {"hours": row.pop("intervals") * hours} for row in rows]
    counted.sort(key=lambda row: tuple(row[name] or "" for name in order))
    return Found([one.row() for one in state_advice(counted, context.days.end)])


def _state_parts(context: StageContext) -> list[NodePart]:
    return node_parts(context.lake, STATE, Days.of(context.days.end))


def _asked_for(part: NodePart) -> list[Row]:
    """What a task does: intervals of each device by state and adjustment, of those that this night acts on."""
    key = ["site_id", "cluster_id", "node_id", "device_id", "performance_state", "adjustment"]
    asked = part.read([*key, "adjustment_reason"]).filter(
        pl.col("adjustment").is_not_null() & ~pl.col("adjustment").is_in(LEFT_TO_OTHERS)
    )
    return asked.group_by(key).agg(pl.col("adjustment_reason").max(), pl.len().alias("intervals")).to_dicts()


def power_caps(context: StageContext) -> Found:
    """Caps for job classes whose GPUs were logged under more than one limit; days of history together."""
    settings, day = context.settings.optimize, context.days.end
    days = Days(day - timedelta(days=settings.history_days - 1), day)
    found = _at_work(context, days)
    if found is None:
        return Found(
            notes=("no cap is proposed: logged under one limit or none; cap some runs to learn from",)
        )
    newest = pl.when(pl.col("date") == day).then("energy_kwh").otherwise(0.0)
    seconds = pl.col("observed_s").sum()
    key = ("site_id", "hardware_class", "user_name", "job_class", "power_limit_w")
    rows = (
        found.group_by(key)
        .agg(
            (pl.col("power_ws").sum() / seconds).alias("power_w"),
            (pl.col("work").sum() / seconds).alias("work_rate"),
            (seconds / SECONDS_PER_HOUR).alias("hours"),
            newest.sum().alias("newest_kwh"),
        )
        .sort(key)
        .select(CAP_COLUMNS)
    )
    advice, notes = cap_advice(rows.to_pandas(), day, settings)
    price = None
    if settings.tenant_share_max_ratio is not None and advice:
        advice, price = fair_caps(advice, held_hours(context), settings.tenant_share_max_ratio)
        notes = (*notes, str(price))
    return Found([one.row() for one in advice], notes, price)


def held_hours(context: StageContext) -> pl.DataFrame:
    """GPU-hours that each tenant held on the last day, by job class as caps name it."""
    today, run = Days.of(context.days.end), ["site_id", "cluster_id", "job_id", "submit_time", "restart"]
    users = context.lake.read(JOB_RUN, today).select(*run, _JOB_CLASS.alias("job_class"))
    hours = (pl.col("to_time") - pl.col("from_time")).dt.total_seconds() / SECONDS_PER_HOUR
    return (
        context.lake.read(JOB_NODE, today)
        .filter(pl.col("gpu_count") > 0)
        .join(users, on=run, how="left", nulls_equal=True)
        .join(_newest_classes(context.lake), on=["site_id", "node_id"], how="left")
        .group_by(
            "site_id", "tenant_id",
            pl.concat_str("job_class", "hardware_class", separator=" on ").alias("job_class"),
        )
        .agg((hours * pl.col("gpu_count")).sum().alias("gpu_h"))
        .sort("site_id", "tenant_id", "job_class")
    )  # fmt: skip


_JOB_CLASS: Final = pl.concat_str("user_name", "partition", separator=" in ", ignore_nulls=True)


def _newest_classes(lake: Lake) -> pl.DataFrame:
    """The hardware class of each node by its newest row of the inventory."""
    rows = lake.read(NODE).sort("valid_from", nulls_last=False)
    return rows.group_by("site_id", "node_id").agg(pl.col("hardware_class").last())


def capped_work(context: StageContext, days: Days) -> pl.DataFrame:
    """Energy, kWh, and work, 1e9 clock cycles at full utilisation, of GPUs at work by day and job class."""
    found = _at_work(context, days, least_limits=0)
    if found is None:
        return pl.DataFrame(schema={"site_id": pl.String, "job_class": pl.String, "date": pl.Date,
                                    "energy_kwh": pl.Float64, "work": pl.Float64})  # fmt: skip
    return (
        found.with_columns(pl.concat_str("job_class", "hardware_class", separator=" on ").alias("job_class"))
        .group_by("site_id", "job_class", "date")
        .agg(pl.col("energy_kwh").sum(), (pl.col("work").sum() / 1e9).alias("work"))
    )


def _at_work(context: StageContext, days: Days, least_limits: int = 2) -> pl.DataFrame | None:
    """Sums of GPUs that worked for a job by day, class and limit; None where fewer limits were logged."""
    lake = context.lake
    parts = node_parts(lake, INTERVAL, days)
    engine = worthy(context.engine, rows_of(parts))
    if least_limits:
        # Before the joins that tell whose work it was: most sites log one limit, or none.
        logged = set().union(*engine.map(_limits_logged, parts))
        if len(logged) < least_limits:
            return None
    run = ["site_id", "cluster_id", "job_id", "submit_time", "restart"]
    users = lake.read(JOB_RUN, days).group_by(run).agg(pl.col("user_name").max(), pl.col("partition").max())
    holders = (
        lake.read(JOB_NODE, days)
        .select(*run, "node_id", "from_time", "to_time", "date", pl.col("device_ids").alias("device_id"))
        .explode("device_id")
        .join(users, on=run, how="inner", nulls_equal=True)
        .filter(pl.col("user_name").is_not_null())
    )
    found = [one for one in engine.map(_Work(holders, _newest_classes(lake)), parts) if one.height]
    return pl.concat(found) if found else None


def _limits_logged(part: NodePart) -> set[float]:
    """What a task does: the power limits, W, that its nodes' devices were logged under."""
    limited = part.read(["power_limit_w"], pl.col("power_limit_w") > 0)
    return set(limited["power_limit_w"].unique())


@dataclass(frozen=True)
class _Work:
    """What a task does: GPUs of its nodes that worked for a job -> sums by day, class and limit.

    Work is clock x utilisation x seconds; `power_ws` is power x seconds.
    """

    holders: pl.DataFrame
    classes: pl.DataFrame

    def __call__(self, part: NodePart) -> pl.DataFrame:
        key = ["site_id", "cluster_id", "node_id", "device_id", "date"]
        at_work = (
            pl.col("device_id").str.contains("^gpu[0-9]+$")
            & (pl.col("gpu_utilisation_ratio") >= AT_WORK)
            & (pl.col("power_limit_w") > 0)
            & (pl.col("clock_hz") > 0)
            & pl.col("power_mean_w").is_not_null()
        )
        rows = part.read(
            [*key, "interval_start", "observed_s", "energy_kwh", "power_limit_w", "power_mean_w", "clock_hz",
             "gpu_utilisation_ratio"],
            at_work,
        )  # fmt: skip
        inside = (pl.col("interval_start") >= pl.col("from_time")) & (
            pl.col("interval_start") < pl.col("to_time")
        )
        seconds = pl.col("observed_s")
        return (
            rows.join(self.holders, on=key, how="inner", nulls_equal=True)
            .filter(inside)
            .join(self.classes, on=["site_id", "node_id"], how="inner")
            .filter(pl.col("hardware_class").is_not_null())
            .with_columns(_JOB_CLASS.alias("job_class"))
            .group_by("site_id", "hardware_class", "user_name", "job_class", "power_limit_w", "date")
            .agg(
                seconds.sum(),
                pl.col("energy_kwh").sum(),
                (pl.col("power_mean_w") * seconds).sum().alias("power_ws"),
                (pl.col("clock_hz") * pl.col("gpu_utilisation_ratio") * seconds).sum().alias("work"),
            )
        )


def _known_sum(name: str) -> pl.Expr:
    """The sum of what is known; null where nothing is."""
    return pl.when(pl.col(name).is_not_null().any()).then(pl.col(name).sum())


def cooling(context: StageContext) -> Found:
    """Set points of the next day within the envelope and the ramp limits, if tomorrow's hours are like today's."""
    plant, day = context.settings.facility.operating, context.days.end
    if plant is None:
        return Found(notes=("no set point is proposed: facility.operating is not stated",))
    fits, _ = fits_of(context.lake, day)
    fit = fits.get(context.settings.site.site_id)
    if fit is None:
        return Found(notes=("no set point is proposed: the facility has no fit",))
    hours = context.lake.read(SITE_HOUR, Days.of(day)).sort("hour_start")
    it_kwh, wet_bulb_c = (
        hours[name].cast(pl.Float64).fill_null(float("nan")).to_numpy()
        for name in ("it_energy_kwh", "outdoor_wet_bulb_temp_c")
    )
    best = operating_hours(fit, plant, it_kwh, wet_bulb_c, deployable=True)
    if best.reason is not None:
        return Found(notes=(f"no set point is proposed: {best.reason}",))
    if not best.saving_kwh > 0:
        return Found(notes=("the present set point is the cheapest that the envelope allows",))
    free = operating_hours(fit, plant, it_kwh, wet_bulb_c, deployable=False)
    start, end = next_day(day)
    low_c, high_c = float(np.min(best.supply_temp_c)), float(np.max(best.supply_temp_c))
    advice = Advice(
        Subject(fit.site_id), "cooling", "set_supply_temperature",
        f"supply air of {low_c:.1f} to {high_c:.1f} degC instead of {plant.supply_temp_c:g}, flow "
        f"{float(np.min(best.flow_ratio)):.2f} to {float(np.max(best.flow_ratio)):.2f} of rated instead of "
        f"{plant.flow_ratio:g}",
        start, end, best.baseline_kwh,
        Estimate(best.saving_kwh, best.saving_lower_kwh, best.saving_upper_kwh),
        f"the site's fitted facility model at today's hours; without the envelope {free.saving_kwh:.1f} kWh",
        guard_rail=f"inlet air inside ASHRAE {plant.inlet_class}, at most 20 K an hour",
        parameters={
            "supply_temp_c": [round(float(one), 1) for one in best.supply_temp_c],
            "flow_ratio": [round(float(one), 3) for one in best.flow_ratio],
            "inlet_temp_max_c": round(float(np.max(best.inlet_temp_c)), 1),
        },
    )  # fmt: skip
    return Found([advice.row()], best.warnings)


def _by_cluster(rows: pl.DataFrame, judge: Callable[[pl.DataFrame], Sequence[Advice]]) -> list[Row]:
    """The proposals of each cluster, judged on its own rows."""
    if rows.is_empty():
        return []
    groups = rows.group_by("site_id", "cluster_id", maintain_order=True)
    return [one.row() for _, own in groups for one in judge(own)]


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
    written = lake.replace(SAVING, Days.of(day), table, allow_empty=True)
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
    hours = context.lake.read(SITE_HOUR, days)
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
    energy = context.lake.read(CLUSTER_DAY, days).select(
        "site_id", "cluster_id", "date", pl.col("it_energy_kwh").alias("energy_kwh")
    )
    held = (
        context.lake.read(TENANT_DAY, days)
        .group_by("site_id", "cluster_id", "date")
        .agg(pl.col("node_held_h").sum().alias("work"))
    )
    return energy.join(held, on=["site_id", "cluster_id", "date"], how="left").join(
        weather, on=["site_id", "date"], how="left"
    )


def _node_days(context: StageContext, days: Days, applied: Sequence[Row]) -> pl.DataFrame:
    """IT energy of the nodes that were changed; work is utilisation-hours, of GPUs where the node has any."""
    names = sorted({row["node_id"] for row in applied if row["node_id"] is not None})
    load = pl.coalesce("gpu_utilisation_ratio", "cpu_utilisation_ratio")
    of_nodes = context.lake.read(
        NODE_HOUR, days, where=pc.is_in(pc.field("node_id"), pa.array(names, pa.string()))
    )
    rows = (
        of_nodes.filter(pl.col("it_energy_kwh").is_not_null() & load.is_not_null())
        .group_by("site_id", "node_id", "date")
        .agg(
            pl.col("it_energy_kwh").sum().alias("energy_kwh"), load.sum().alias("work"),
            pl.col("inlet_temp_c").mean().alias("weather_c"), pl.len().alias("_hours"),
        )
    )  # fmt: skip
    return _whole_days(rows)


def _whole_days(rows: pl.DataFrame) -> pl.DataFrame:
    """A day of which an hour is missing is coverage, not energy."""
    return rows.filter(pl.col("_hours") == 24).drop("_hours")


LEVERS: Final[tuple[Callable[[StageContext], Found], ...]] = (
    idle_nodes, zombie_jobs, device_states, power_caps, cooling,
    waiting_jobs,
)  # fmt: skip
# Days that a kWh's emissions and price rest on.
WORTH_DAYS: Final = 28
_SHOWN: Final = 3


def run(context: StageContext) -> StageResult:
    """Recommend for the day after the run's last; earlier days of a range keep what was recommended on them."""
    day, lake = context.days.end, context.lake
    worth = _site_rates(lake, day)
    told = [lever(context) for lever in LEVERS]
    found = [valued(row, worth) for one in told for row in one.rows]
    notes = [note for one in told for note in one.notes]
    rows = standing(day, found, before(lake, day), decisions(lake))
    table = pa.Table.from_pylist(rows, schema=arrow_schema(RECOMMENDATION))
    written = lake.replace(RECOMMENDATION, Days.of(day), table, allow_empty=True)
    graded, brought = grade(context, rows)
    borne = burdens(context, rows, told)
    done = tuple(one for one in (written, graded, borne) if one is not None)
    return StageResult(
        rows_out=sum(one.rows for one in done), written=done, notes=(*_told(rows), *brought, *notes)
    )


def burdens(context: StageContext, advised: Sequence[Row], told: Sequence[Found]) -> Written | None:
    """gold/tenant_burden of the last day: measured ones, and what the proposals that stand would bring; None: none."""
    lake, day = context.lake, context.days.end
    today = Days.of(day)
    found = {**energy_burdens(lake.read(TENANT_DAY, today)), "wait": waits(lake.read(JOB_RUN, today), day)}
    for one in told:
        if one.pending is not None:
            found["delay"] = delays(advised, one.pending)
    if any(row["lever"] == "power_cap" for row in advised) or any(one.price for one in told):
        found["cap"] = slowdowns(advised, held_hours(context))
    rows = tenant_burdens(day, found, [one.price for one in told if one.price is not None])
    if not rows.num_rows and not lake.exists(TENANT_BURDEN):
        return None
    return lake.replace(TENANT_BURDEN, today, rows, allow_empty=True)


def before(lake: Lake, day: date) -> list[dict[str, Any]]:
    """The rows of the newest night before the day."""
    nights = [one for one in lake.partitions(RECOMMENDATION) if one < day.isoformat()]
    return lake.read(RECOMMENDATION, Days.of(date.fromisoformat(max(nights)))).to_dicts() if nights else []


def decisions(lake: Lake) -> list[Decision]:
    """All that people have decided."""
    return [
        Decision(row["recommendation_id"], row["decision"], row["decided_time"], row["effective_time"])
        for row in lake.read(DECISION).to_dicts()
    ]


def _site_rates(lake: Lake, day: date) -> SiteRates:
    """Mean and spread of the days' intensity and price at the site, by location."""
    days = Days(day - timedelta(days=WORTH_DAYS - 1), day)
    hours = lake.read(SITE_HOUR, days)
    costs = lake.read(SITE_COST, days)
    currencies = costs["currency"].drop_nulls().unique().to_list()
    price = _by_day(costs, "energy_price") if len(currencies) == 1 else None
    return SiteRates(
        _by_day(hours, "carbon_intensity_gco2e_per_kwh"), price, currencies[0] if price is not None else None
    )


def _by_day(rows: pl.DataFrame, name: str) -> Estimate | None:
    daily = rows.drop_nulls(name).group_by("date").agg(pl.col(name).mean())[name].to_numpy()
    if not len(daily):
        return None
    low, high = np.quantile(daily, [0.05, 0.95])
    middle = float(np.mean(daily))
    return Estimate(middle, min(float(low), middle), max(float(high), middle))


def _told(rows: list[dict[str, Any]]) -> list[str]:
    """How many stand, and the largest promises in words."""
    open_rows = [row for row in rows if row["recommendation_state"] not in (EXPIRED, REJECTED)]
    largest = sorted(
        open_rows, key=lambda row: (-(row["expected_saving_kwh"] or 0.0), row["recommendation_id"])
    )
    words = [
        f"{row['advice']} ({row['expected_saving_kwh']:.1f} kWh a day)"
        for row in largest[:_SHOWN]
        if row["expected_saving_kwh"]
    ]
    return [f"{len(open_rows):,} recommendations", *words]
