"""Turn readings of a site's meters into intervals, hours and what the site drew from the grid.

Electricity meters give silver/facility_interval, water and fuel meters silver/volume_interval. From the
intervals come the hours that KPIs need: IT by point, cooling, heat removed and reused; and the import of a
bucket (an hour, a quarter) by the utility meters. An import is known where every meter was observed for the
coverage limit's share of the bucket; it is the sum of what was measured, never divided by coverage.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from math import sqrt
from typing import Final
from zoneinfo import ZoneInfo

import polars as pl
import pyarrow as pa

from lepton_etl.intervals.channels import (
    DAY_US,
    READING_COLUMNS,
    Channels,
    by_channel,
    integrate_channels,
    resolve_repeats,
)
from lepton_etl.intervals.integrate import MICROSECONDS
from lepton_etl.intervals.node_day import CONFLICT, PARTIAL, IntervalPolicy
from lepton_etl.intervals.sensor_classes import SAMPLED, class_of_meter, meter_gain_ratio, of_class
from lepton_etl.intervals.source_choice import ROW, choose_power
from lepton_etl.schema.carbon import VOLUME_INTERVAL
from lepton_etl.schema.common import COOLING_POINTS
from lepton_etl.schema.declare import JOULES_PER_KWH, SECONDS_PER_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL
from lepton_etl.schema.types import arrow_schema
from lepton_etl.uncertainty import UNSTATED_CLASS_PCT, UNSTATED_PDU_PCT, Z_EVEN, Z

METER_QUANTITIES: Final = ("facility_power", "facility_energy", "heat_power", "heat_energy")
# The columns that say how a meter speaks; they travel with its readings, whose node_id is the meter_id.
METER_COLUMNS: Final = ("point", "kind", "multiplier", "class_pct", "counter_max_kwh", "meter_peak_power_w")


def with_meter(readings: pl.DataFrame, meters: pl.DataFrame) -> pl.DataFrame:
    """Readings of bronze that a listed meter took while its row held, each with METER_COLUMNS, as those of `node_id`.

    A stamp at a window's end is moved to its start.
    """
    known = meters.select(
        pl.col("meter_id").alias("device_id"), pl.col("point").alias("meter_point"), *METER_COLUMNS[1:], "label",
        "valid_from", "valid_to",
    )  # fmt: skip
    window = pl.duration(microseconds=(pl.col("window_s") * MICROSECONDS).round().cast(pl.Int64))
    time = pl.when(pl.col("label") == "end").then(pl.col("reading_time") - window).otherwise("reading_time")
    moved = readings.drop("point").join(known, on="device_id", how="inner").with_columns(
        reading_time=time, node_id=pl.col("device_id"), point=pl.col("meter_point")
    )  # fmt: skip
    return moved.filter(_holds())


def _holds() -> pl.Expr:
    time, until = pl.col("reading_time"), pl.col("valid_to")
    return (time >= pl.col("valid_from")) & (until.is_null() | (time < until))


def facility_intervals(readings: pa.Table, policy: IntervalPolicy) -> pa.Table:
    """The rows of silver/facility_interval of the days in `readings`, sorted by key.

    `readings` has READING_COLUMNS and METER_COLUMNS; times are starts of windows (a meter labelled `end` is
    shifted before). Logged values are multiplied by the transformer ratio they still lack; the sign stays
    with the meter. The energies of an interval meter are spread evenly over their window. A meter whose class nobody
    states has no gain error: it is not known.
    """
    said = heard_meters(readings, policy)
    if said is None:
        return arrow_schema(FACILITY_INTERVAL).empty_table()
    flags = _flags(said.power, said.channels, said.conflicts, policy)
    return _meters_table(said.power.join(flags, on=ROW, how="left"), policy)


@dataclass(frozen=True)
class HeardMeters:
    """What meters say: the readings as they are integrated, W or J, and the channel that speaks for each row."""

    readings: pl.DataFrame
    channels: Channels
    power: pl.DataFrame
    conflicts: pl.DataFrame


def heard_meters(readings: pa.Table, policy: IntervalPolicy) -> HeardMeters | None:
    """Return what lies behind the rows of `facility_intervals`; None where no reading can be used."""
    frame = pl.DataFrame(readings.select([*READING_COLUMNS, *METER_COLUMNS]))
    if frame.is_empty():
        return None
    is_energy = pl.col("quantity").str.ends_with("_energy")
    spread = is_energy & pl.col("statistic").is_in(("mean", "instant")) & (pl.col("window_s") > 0)
    prepared = frame.with_columns(
        pl.lit("meter").alias("device_id"),
        pl.lit(1, pl.Int32).alias("multiplicity"),
        (pl.col("meter_peak_power_w") * pl.col("multiplier")).alias("peak_w"),
        (
            pl.coalesce(pl.col("counter_max_kwh") * JOULES_PER_KWH, "counter_max_j") * pl.col("multiplier")
        ).alias("counter_max_j"),
        pl.when(spread).then(pl.lit("mean")).otherwise("statistic").alias("statistic"),
        (
            pl.col("value") * pl.col("multiplier") / pl.when(spread).then(pl.col("window_s")).otherwise(1.0)
        ).alias("value"),
        # An energy without its window says nothing about when it was used.
        pl.when(is_energy & (pl.col("statistic") != "counter") & ~spread)
        .then(True)
        .otherwise(False)
        .alias("windowless"),
    )
    usable = prepared.filter(~pl.col("windowless")).drop("windowless")
    if usable.is_empty():
        return None
    sensors, ordered = by_channel(usable.to_arrow())
    winners, conflicts = resolve_repeats(ordered, policy.interval_us)
    known = sensors.with_columns(pl.lit(None, pl.Float64).alias("supply_resolution"))
    channels = integrate_channels(winners, known, policy.interval_us)
    ways = (
        winners.join(
            sensors.select("channel", "day", "node_id"), on="channel", how="left", maintain_order="left"
        )
        .select("day", "node_id", "point", "kind", "class_pct")
        .unique(["day", "node_id"], keep="first", maintain_order=True)
    )
    candidates = _ranked(channels.sensors.join(ways, on=["day", "node_id"], how="left"))
    power = choose_power(channels.values, candidates).with_columns(class_of_meter().alias("sensor_class"))
    return HeardMeters(winners, channels, power, conflicts)


def _ranked(sensors: pl.DataFrame) -> pl.DataFrame:
    """Which channel speaks first: the declared kind, then counters, then means, then instants."""
    kind = (
        pl.when(pl.col("statistic") == "counter")
        .then(pl.lit("counter"))
        .when(pl.col("quantity").str.ends_with("_energy"))
        .then(pl.lit("interval"))
        .otherwise(pl.lit("power"))
    )
    order = pl.col("statistic").replace_strict({"counter": 0, "mean": 1, "instant": 2}, default=None)
    return sensors.filter(order.is_not_null()).with_columns(
        (order + pl.when(kind == pl.col("kind")).then(0).otherwise(3)).alias("rank"),
        pl.when(kind == "interval")
        .then(pl.lit("interval_meter"))
        .otherwise(pl.lit("meter"))
        .alias("energy_source"),
    )


def _flags(
    power: pl.DataFrame, channels: Channels, conflicts: pl.DataFrame, policy: IntervalPolicy
) -> pl.DataFrame:
    owners = channels.sensors.select("channel", "day", "node_id", "device_id")
    short = power.filter(pl.col("observed_s") < policy.interval_s - 1e-6)
    found = [
        channels.marks.join(owners, on="channel", how="left").select(*ROW, "flag"),
        conflicts.join(owners, on="channel", how="left").select(*ROW, pl.lit(CONFLICT).alias("flag")),
        short.select(*ROW, pl.lit(PARTIAL).alias("flag")),
    ]
    return pl.concat(found).group_by(ROW).agg(pl.col("flag").unique().sort().alias("flags"))


def _meters_table(rows: pl.DataFrame, policy: IntervalPolicy) -> pa.Table:
    # By multiplication, for the reason that intervals.py gives.
    energy = pl.col("integral") * (1 / JOULES_PER_KWH)
    rounding = pl.col("resolution") * (1 / sqrt(12) / JOULES_PER_KWH)
    seconds = pl.when(pl.col("statistic") == "counter").then(1.0).otherwise("observed_s")
    unseen = 1 - of_class(policy.classes, SAMPLED)
    frame = (
        rows.filter(pl.col("interval_us") // DAY_US == pl.col("day"))
        .select(
            pl.lit(policy.site_id).alias("site_id"),
            pl.col("node_id").alias("meter_id"),
            "point",
            pl.from_epoch("interval_us", "us").dt.replace_time_zone("UTC").alias("interval_start"),
            pl.from_epoch("day", "d").alias("date"),
            pl.lit(policy.interval_us // MICROSECONDS).alias("interval_s"),
            energy.alias("energy_kwh"),
            (pl.col("integral") / pl.col("observed_s")).alias("power_mean_w"),
            "observed_s",
            "energy_source",
            pl.col("flags").fill_null(pl.lit([], dtype=pl.List(pl.String))),
            "sensor_class",
            (energy * meter_gain_ratio(policy.classes)).alias("gain_sigma_kwh"),
            (rounding * seconds).alias("resolution_sigma_kwh"),
            ((pl.col("sampling") * unseen).sqrt() * (1 / JOULES_PER_KWH)).alias("sampling_sigma_kwh"),
        )
        .sort("meter_id", "interval_start")
    )
    return frame.to_arrow().select(list(FACILITY_INTERVAL.columns)).cast(arrow_schema(FACILITY_INTERVAL))


VOLUME_QUANTITIES: Final = ("water_volume", "fuel_volume")
VOLUME_COLUMNS: Final = (
    "meter_id", "carrier", "multiplier", "statistic", "time_us", "window_s", "value", "file_id", "source_position",
)  # fmt: skip
# A register read once an hour is usual; between two readings further apart nobody knows when the water ran.
MAX_STEP_S: Final = 4 * 3600.0


def volume_readings(readings: pl.DataFrame, meters: pl.DataFrame) -> pl.DataFrame:
    """Readings of bronze that a listed water or fuel meter took while its row held, as VOLUME_COLUMNS."""
    known = meters.filter(pl.col("carrier").is_in(("water", "fuel"))).select(
        "meter_id", "carrier", "multiplier", "label", "valid_from", "valid_to"
    )
    window_us = (pl.col("window_s") * MICROSECONDS).cast(pl.Int64)
    shift_us = pl.when(pl.col("label") == "end").then(window_us).otherwise(0)
    return (
        readings.join(known, left_on="device_id", right_on="meter_id", how="inner", coalesce=False)
        .filter(_holds())
        .with_columns((pl.col("reading_time").dt.epoch("us") - shift_us).alias("time_us"))
        .select(list(VOLUME_COLUMNS))
    )


def volume_intervals(
    readings: pa.Table, site_id: str, interval_s: int, from_us: int, until_us: int
) -> pa.Table:
    """The rows of silver/volume_interval with interval_start in [from_us, until_us), sorted by key.

    `readings` has VOLUME_COLUMNS; the litres of their volume_steps are spread evenly over the step.
    """
    segments = volume_steps(pl.DataFrame(readings.select(list(VOLUME_COLUMNS))))
    step = interval_s * MICROSECONDS
    pieces = segments.with_columns(
        pl.int_ranges(pl.col("start_us") // step * step, pl.col("end_us"), step, dtype=pl.Int64).alias(
            "interval_us"
        )
    ).explode("interval_us", empty_as_null=False)
    overlap = pl.min_horizontal("end_us", pl.col("interval_us") + step) - pl.max_horizontal(
        "start_us", "interval_us"
    )
    sums = (
        pieces.filter(pl.col("interval_us").is_between(from_us, until_us, closed="left"))
        .with_columns(overlap.alias("overlap_us"))
        .with_columns(
            (pl.col("litres") * pl.col("overlap_us") / (pl.col("end_us") - pl.col("start_us"))).alias(
                "litres"
            )
        )
        .sort("meter_id", "interval_us", "start_us")
        .group_by("meter_id", "carrier", "interval_us", maintain_order=True)
        .agg(pl.col("litres").sum(), pl.col("overlap_us").sum())
    )
    return _table(sums, site_id, interval_s)


def volume_steps(readings: pl.DataFrame) -> pl.DataFrame:
    """Return what ran between two instants by VOLUME_COLUMNS: meter_id, carrier, start_us, end_us, litres.

    A register (`counter`) gives the difference of consecutive readings; where it falls, and over steps beyond
    MAX_STEP_S, there is no step. Other readings are the volume of their window; without a window they say nothing. Of
    repeats the lowest file_id, then position wins.
    """
    winners = readings.sort("meter_id", "time_us", "file_id", "source_position").unique(
        ["meter_id", "time_us", "statistic"], keep="first", maintain_order=True
    )
    return pl.concat([_register_steps(winners), _windows(winners)])


def _register_steps(rows: pl.DataFrame) -> pl.DataFrame:
    same = pl.col("meter_id") == pl.col("meter_id").shift()
    litres = (pl.col("value") - pl.col("value").shift()) * pl.col("multiplier").fill_null(1.0)
    start = pl.col("time_us").shift()
    steps = rows.filter(pl.col("statistic") == "counter").sort("meter_id", "time_us")
    return (
        steps.select("meter_id", "carrier", start.alias("start_us"), pl.col("time_us").alias("end_us"),
                     litres.alias("litres"), same.alias("same"))
        .filter("same", pl.col("litres") >= 0, pl.col("end_us") - pl.col("start_us") <= MAX_STEP_S * MICROSECONDS)
        .drop("same")
    )  # fmt: skip


def _windows(rows: pl.DataFrame) -> pl.DataFrame:
    length_us = (pl.col("window_s") * MICROSECONDS).cast(pl.Int64)
    return rows.filter((pl.col("statistic") != "counter") & (pl.col("window_s") > 0)).select(
        "meter_id",
        "carrier",
        pl.col("time_us").alias("start_us"),
        (pl.col("time_us") + length_us).alias("end_us"),
        (pl.col("value") * pl.col("multiplier").fill_null(1.0)).alias("litres"),
    )


def _table(sums: pl.DataFrame, site_id: str, interval_s: int) -> pa.Table:
    start = pl.from_epoch("interval_us", "us").dt.replace_time_zone("UTC")
    rows = sums.select(
        pl.lit(site_id).alias("site_id"),
        "meter_id",
        "carrier",
        start.alias("interval_start"),
        start.dt.date().alias("date"),
        pl.lit(interval_s).alias("interval_s"),
        pl.col("litres").alias("volume_l"),
        # Windows that overlap count once in time.
        pl.min_horizontal(pl.col("overlap_us"), interval_s * MICROSECONDS)
        .truediv(MICROSECONDS)
        .alias("observed_s"),
    ).sort("meter_id", "interval_start")
    return rows.to_arrow().select(list(VOLUME_INTERVAL.columns)).cast(arrow_schema(VOLUME_INTERVAL))


REUSE: Final = "reuse"
_HOUR: Final = ("site_id", "hour_start")


def meter_totals(intervals: pl.DataFrame, meters: pl.DataFrame, least_coverage_ratio: float) -> pl.DataFrame:
    """silver/facility_interval and silver/meter -> it_ups_kwh, it_pdu_kwh, cooling_kwh, heat_removed_kwh,
    heat_reused_kwh by site_id and hour_start; null where the site has no such meter or one of them is silent.

    A meter below another of the same point and carrier is counted in its parent. Heat whose meter serves `reuse` is
    what leaves at the hand-off (ISO/IEC 30134-6), any other heat meter what cooling removes (ISO/IEC 30134-7), but for
    one at the point `utility`: that is heat bought.
    """
    listed = meters.with_columns(pl.col("carrier").fill_null("electricity"))
    parents = listed.select("site_id", pl.col("meter_id").alias("parent_id"), "point", "carrier").unique()
    top = listed.join(parents, on=["site_id", "parent_id", "point", "carrier"], how="anti").unique(
        ["site_id", "meter_id"]
    )
    # Sorted: a sum of doubles changes with the order of its rows, and with it the table.
    sums = (
        intervals.sort("site_id", "meter_id", "interval_start")
        .group_by(
            "site_id",
            "meter_id",
            pl.col("interval_start").dt.truncate("1h").alias("hour_start"),
            maintain_order=True,
        )
        .agg(pl.col("energy_kwh").sum(), pl.col("observed_s").sum())
    )
    is_known = pl.col("observed_s") >= least_coverage_ratio * SECONDS_PER_HOUR
    hours = intervals.select(
        "site_id", pl.col("interval_start").dt.truncate("1h").alias("hour_start")
    ).unique()
    each = (
        hours.join(top.select("site_id", "meter_id", "point", "carrier", "serves"), on="site_id", how="inner")
        .join(sums, on=["site_id", "meter_id", "hour_start"], how="left")
        .with_columns(pl.when(is_known).then("energy_kwh").alias("energy_kwh"))
    )
    is_heat, reuses = pl.col("carrier") == "heat", pl.col("serves").fill_null("") == REUSE
    electric = pl.col("carrier") == "electricity"
    return (
        each.sort(*_HOUR, "meter_id")
        .group_by(*_HOUR, maintain_order=True)
        .agg(
            _whole(electric & (pl.col("point") == "ups_out"), "it_ups_kwh"),
            _whole(electric & (pl.col("point") == "pdu_out"), "it_pdu_kwh"),
            _whole(electric & _at(COOLING_POINTS), "cooling_kwh"),
            _whole(
                is_heat & ~reuses & (pl.col("point") != UTILITY).fill_null(value=True), "heat_removed_kwh"
            ),
            _whole(is_heat & reuses, "heat_reused_kwh"),
        )
    )


def _at(points: Iterable[str]) -> pl.Expr:
    return pl.col("point").is_in(list(points))


def _whole(chosen: pl.Expr, name: str) -> pl.Expr:
    """The sum over the chosen meters; null where there is none or one is silent."""
    energy = pl.col("energy_kwh").filter(chosen)
    return pl.when((energy.len() > 0) & (energy.null_count() == 0)).then(energy.sum()).alias(name)


HOUR_S: Final = 3600
QUARTER_S: Final = 900
UTILITY: Final = "utility"
_UTC_US: Final = pl.Datetime("us", "UTC")


def class_pct() -> pl.Expr:
    """The accuracy class of a row's meter, percent of the reading; of an unstated one the widest."""
    unstated = pl.when(pl.col("point") == "pdu_out").then(UNSTATED_PDU_PCT).otherwise(UNSTATED_CLASS_PCT)
    return pl.col("class_pct").fill_null(unstated)


def class_sigma_ratio() -> pl.Expr:
    """One standard deviation of a row's meter by its class: any gain within the class is as likely as another.

    Source: JCGM 100:2008 (GUM) 4.3.7, uniform distribution of half width `class_pct` percent.
    """
    return class_pct() * (0.01 / sqrt(3))


def class_half(sigma: pl.Expr, meters: pl.Expr) -> pl.Expr:
    """Half the 90 % interval of a sum of meters by the sigma of their classes: one errs evenly, several normally."""
    return sigma * pl.when(meters == 1).then(Z_EVEN).otherwise(Z)


def import_meters(meters: pa.Table) -> pl.DataFrame:
    """The electricity meters at the utility that no other utility meter has counted: meter_id, valid_from, valid_to."""
    frame = pl.DataFrame(meters).filter(
        (pl.col("point") == UTILITY) & (pl.col("carrier").fill_null("electricity") == "electricity")
    )
    below = pl.col("parent_id").fill_null("").is_in(frame["meter_id"].unique().to_list())
    return frame.filter(~below).select(
        "site_id",
        "meter_id",
        pl.col("valid_from").cast(_UTC_US),
        pl.col("valid_to").cast(_UTC_US),
    )


def import_intervals(meters: pa.Table, intervals: pa.Table) -> pl.DataFrame:
    """Intervals of the import meters: site_id, meter_id, start, interval_s, energy_kwh, observed_s."""
    return (
        pl.DataFrame(intervals)
        .join(import_meters(meters).select("site_id", "meter_id").unique(), on=["site_id", "meter_id"])
        .select(
            "site_id",
            "meter_id",
            pl.col("interval_start").cast(_UTC_US).alias("start"),
            "interval_s",
            "energy_kwh",
            "observed_s",
        )
    )


def bucket_imports(
    meters: pl.DataFrame, intervals: pl.DataFrame, starts: Sequence[datetime], bucket_s: int, limit: float
) -> pl.DataFrame:
    """The import of each bucket: `start`, `import_kwh`, `power_w` (mean over what was observed); null where unknown.

    `starts` are instants that are `bucket_s` apart; `meters` is what `import_meters` gives of one site. A bucket in
    which no meter is valid is unknown.
    """
    grid = pl.DataFrame({"start": pl.Series(starts, dtype=_UTC_US)}).sort("start")
    expected = grid.join(meters, how="cross").filter(
        (pl.col("start") >= pl.col("valid_from"))
        & (pl.col("valid_to").is_null() | (pl.col("start") < pl.col("valid_to")))
    )
    sums = (
        in_buckets(intervals, grid, bucket_s)
        .sort("meter_id", "start")
        .group_by("meter_id", "bucket", maintain_order=True)
        .agg(pl.col("energy_kwh").sum(), pl.col("observed_s").sum())
    )
    observed = pl.col("observed_s")
    is_known = (observed >= limit * bucket_s).fill_null(value=False)
    found = (
        expected.join(sums, left_on=["meter_id", "start"], right_on=["meter_id", "bucket"], how="left")
        .sort("start", "meter_id")
        .group_by("start", maintain_order=True)
        .agg(
            is_known.all().alias("known"),
            pl.col("energy_kwh").sum().alias("import_kwh"),
            (pl.col("energy_kwh") * 3.6e6 / observed).sum().alias("power_w"),
        )
    )
    return (
        grid.join(found, on="start", how="left")
        .sort("start")
        .select(
            "start",
            *(pl.when("known").then(name).alias(name) for name in ("import_kwh", "power_w")),
        )
    )


def in_buckets(intervals: pl.DataFrame, grid: pl.DataFrame, bucket_s: int) -> pl.DataFrame:
    """Intervals with the `bucket` that their start lies in; those outside every bucket are left out."""
    return (
        intervals.sort("start")
        .join_asof(grid.select("start", bucket="start").sort("start"), on="start", strategy="backward")
        .filter(pl.col("start") < pl.col("bucket") + timedelta(seconds=bucket_s))
    )


def bucket_starts(start: datetime, end: datetime, bucket_s: int) -> list[datetime]:
    """The starts of whole buckets from `start` up to, not including, `end`."""
    count = int((end - start).total_seconds() // bucket_s)
    return [start + timedelta(seconds=bucket_s * number) for number in range(count)]


def local_bounds(first: date, last: date, zone: str) -> tuple[datetime, datetime]:
    """The instants (UTC) at which the local days begin and have ended."""
    at, day = ZoneInfo(zone), timedelta(days=1)
    bounds = (datetime.combine(first, time(), at), datetime.combine(last + day, time(), at))
    return bounds[0].astimezone(UTC), bounds[1].astimezone(UTC)
