"""Days of a chassis, or of a node without a chassis: readings -> rows of silver/interval."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Final

import numpy as np
import polars as pl
import pyarrow as pa

from lepton_etl.intervals.channels import (
    DAY_US,
    Channels,
    by_channel,
    integrate_channels,
    interval_of,
    resolve_repeats,
)
from lepton_etl.intervals.chassis import Spoken, chassis_once, summed_supplies, together
from lepton_etl.intervals.integrate import MICROSECONDS
from lepton_etl.intervals.known_off import SPANS, off_spans, with_known_off
from lepton_etl.intervals.modelled_power import FITTED_COLUMNS, NodeModel, with_modelled
from lepton_etl.intervals.plausibility import no_places, rated_power, with_refusals
from lepton_etl.intervals.readings import with_place
from lepton_etl.intervals.sensor_checks import (
    CHECK_COLUMNS,
    OTHER_SOURCE,
    SOURCE_CHANGED,
    Arbitration,
    arbitrate,
    check_rows,
)
from lepton_etl.intervals.sensor_classes import (
    SensorClasses,
    class_of_power,
    energy_and_sigmas,
    gains_of_sources,
)
from lepton_etl.intervals.source_choice import (
    COMPONENT_OF,
    ENVIRONMENT,
    ENVIRONMENT_COLUMNS,
    MEASURED_TOTALS,
    ROW,
    environment,
    lowest_and_highest,
    power_candidates,
)
from lepton_etl.intervals.undecided import decided
from lepton_etl.intervals.unit_errors import wrong_units
from lepton_etl.intervals.usual_values import (
    HISTORY_COLUMNS,
    SENSOR_DAY_COLUMNS,
    histories,
    sensor_days,
    with_usual,
)
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.types import arrow_schema

UNLISTED_CLUSTER: Final = "_unlisted"

CONFLICT: Final = "conflict"
PARTIAL: Final = "partial"
CROSS_CHECK: Final = "cross_check"
UNLISTED_NODE: Final = "unlisted_node"
NOTHING_SAID: Final = pl.DataFrame(schema=SPANS)


@dataclass(frozen=True, slots=True)
class IntervalPolicy:
    """What the settings and factors say.

    A sensor's gain error is the inventory's, else `sensor_gain_ratio` of the settings, else that of its class. `model`
    (with `fitted` by hardware class) stands in for nodes without a sensor of their own; without it they have no power.
    """

    site_id: str
    interval_s: int = 300
    sensor_gain_ratio: float | None = None
    classes: SensorClasses = field(default_factory=dict)
    model: NodeModel | None = None
    fitted: pl.DataFrame = field(default_factory=lambda: pl.DataFrame(schema=FITTED_COLUMNS))

    @property
    def interval_us(self) -> int:
        return self.interval_s * MICROSECONDS

    @property
    def gains(self) -> dict[str, float]:
        """One sigma of the relative gain error by power source of a node."""
        return gains_of_sources(self.classes, self.sensor_gain_ratio)


@dataclass(frozen=True)
class NodeDays:
    """What the readings of a bucket of nodes say.

    intervals: rows of silver/interval by key. checks: rows of silver/sensor_check by key. sensor_days:
    SENSOR_DAY_COLUMNS of every day in the readings.
    """

    intervals: pa.Table
    checks: pl.DataFrame
    sensor_days: pl.DataFrame


def node_days(
    readings: pa.Table,
    past: pl.DataFrame,
    inventory: pl.DataFrame,
    policy: IntervalPolicy,
    days: Collection[int] | None = None,
    spans: pl.DataFrame = NOTHING_SAID,
) -> NodeDays:
    """Return the rows of silver/interval of `days`, and the sensor-days of all days in `readings`.

    `readings` has READING_COLUMNS in any order, names as strings or as dictionaries, for each `day` those of the day
    and of a margin on both sides; all nodes of a chassis must be in one call, and any number of them may be. `past`
    has SENSOR_DAY_COLUMNS of the days before. `inventory` has ROSTER_COLUMNS. `days` are days since 1970, all in
    `readings` where it is not given. Each row comes from the readings of its own day and its sensors' past alone.
    `spans` (SPANS) are what schedulers and power commands say: a node that is off draws its standby power or nothing,
    unless something is read of it.
    """
    off = off_spans(spans)
    if not readings.num_rows:
        nothing, empty = pl.DataFrame(schema=CHECK_COLUMNS), arrow_schema(INTERVAL).empty_table()
        if days is not None and off.height:
            rows = with_known_off(pl.DataFrame(empty), off, inventory, policy, days)
            empty = rows.to_arrow().cast(empty.schema)
        return NodeDays(
            empty,
            check_rows(nothing, policy.site_id),
            pl.DataFrame(schema=SENSOR_DAY_COLUMNS),
        )
    sensors, ordered = by_channel(readings, lambda raw: _placed(raw, inventory))
    said = sensor_days(ordered, sensors)
    wanted = sensors["day"].unique().sort().to_list() if days is None else sorted(days)
    if days is not None:
        sensors, ordered = _of_days(sensors, ordered, wanted)
    history = histories(pl.concat([past, said]), wanted)
    rows, checks = _intervals(sensors, ordered, history, inventory, policy, off)
    if off.height:
        rows = with_known_off(pl.DataFrame(rows), off, inventory, policy, wanted).to_arrow().cast(rows.schema)
    return NodeDays(rows, check_rows(checks, policy.site_id), said)


def intervals(
    readings: pa.Table, history: pa.Table, inventory: pl.DataFrame, policy: IntervalPolicy
) -> pa.Table:
    """Return the rows of silver/interval as `node_days` does, of a `history` in HISTORY_COLUMNS by day."""
    if not readings.num_rows:
        return arrow_schema(INTERVAL).empty_table()
    sensors, ordered = by_channel(readings, lambda raw: _placed(raw, inventory))
    past = pl.DataFrame(history).cast(HISTORY_COLUMNS)
    return _intervals(sensors, ordered, past, inventory, policy, NOTHING_SAID)[0]


def _of_days(
    sensors: pl.DataFrame, ordered: pl.DataFrame, days: Collection[int]
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """The sensors and readings of some days, channels numbered anew."""
    kept = sensors["day"].is_in(list(days)).to_numpy()
    if kept.all():
        return sensors, ordered
    channel = ordered["channel"].to_numpy()
    number = np.cumsum(kept) - 1
    return (
        sensors.filter(kept).with_columns(channel=pl.int_range(pl.len(), dtype=pl.Int64)),
        ordered.with_columns(channel=pl.Series(number[channel])).filter(kept[channel]),
    )


@dataclass(frozen=True)
class Heard:
    """What the sensors of a bucket say, and which of them speaks for each row.

    `spoken` is every sensor with its readings, a refused one as NaN; `once` is the same with supplies summed and copies
    of a chassis taken once, whose channels `channels` and `found` number. `marks` are ROW and flag.
    """

    spoken: Spoken
    once: Spoken
    channels: Channels
    candidates: pl.DataFrame
    found: Arbitration
    lost: pl.DataFrame
    marks: pl.DataFrame


def heard(
    sensors: pl.DataFrame,
    ordered: pl.DataFrame,
    history: pl.DataFrame,
    inventory: pl.DataFrame,
    policy: IntervalPolicy,
    off: pl.DataFrame,
) -> Heard:
    """Judge the readings that `by_channel` gave, integrate them and choose who speaks for each row."""
    sensors = with_usual(sensors, history)
    winners, conflicts = resolve_repeats(ordered, policy.interval_us)
    judged, refused = with_refusals(winners, sensors, wrong_units(winners, sensors))
    spoken = Spoken(sensors, judged)
    supplies = summed_supplies(spoken, policy.model.supply_loss if policy.model else None, MEASURED_TOTALS)
    summed, refused_sums = with_refusals(supplies.readings, supplies.sensors, no_places())
    everything = together(spoken, Spoken(supplies.sensors, summed))
    refused = pl.concat([refused, refused_sums.with_columns(pl.col("channel") + sensors.height)])
    marks = _marks(refused, everything.sensors, policy.interval_us)
    once = chassis_once(everything)
    channels = integrate_channels(
        once.readings, once.sensors.with_columns(rated_power().alias("peak_w")), policy.interval_us
    )
    owners = channels.sensors.select("channel", "day", pl.col("owner_id").alias("node_id"), "device_id")
    marks = pl.concat([channels.marks.join(owners, on="channel", how="left").select(*ROW, "flag"), marks])
    owners = sensors.select("channel", "day", pl.col("owner_id").alias("node_id"), "device_id")
    lost = conflicts.join(owners, on="channel", how="left").group_by(ROW).agg(pl.col("conflicts").sum())
    candidates = power_candidates(channels.sensors)
    speaking = decided(channels.values, candidates, policy.gains, off, policy.interval_us)
    marks = pl.concat([marks, speaking.marks])
    found = arbitrate(speaking.values, speaking.candidates, policy.gains, inventory, policy.interval_us)
    if policy.model is not None:
        found = with_modelled(
            found, speaking.ambiguous, inventory, policy.model, policy.classes, policy.fitted
        )
    return Heard(spoken, once, channels, candidates, found, lost, marks)


def _intervals(
    sensors: pl.DataFrame,
    ordered: pl.DataFrame,
    history: pl.DataFrame,
    inventory: pl.DataFrame,
    policy: IntervalPolicy,
    off: pl.DataFrame,
) -> tuple[pa.Table, pl.DataFrame]:
    """The rows of silver/interval, and what the sources of the nodes say about one another (CHECK_COLUMNS)."""
    if not ordered.height:
        return arrow_schema(INTERVAL).empty_table(), pl.DataFrame(schema=CHECK_COLUMNS)
    said = heard(sensors, ordered, history, inventory, policy, off)
    rows = _rows(said, policy)
    of_day = rows.filter(pl.col("interval_us") // DAY_US == pl.col("day"))
    return _table(of_day.pipe(with_place, inventory).pipe(_with_energy, policy), policy), said.found.checks


def heard_on(
    readings: pa.Table,
    past: pl.DataFrame,
    inventory: pl.DataFrame,
    policy: IntervalPolicy,
    day: int,
    spans: pl.DataFrame,
) -> Heard | None:
    """Return what lies behind the rows that `node_days` makes of one day (since 1970); None without readings."""
    if not readings.num_rows:
        return None
    sensors, ordered = by_channel(readings, lambda raw: _placed(raw, inventory))
    history = histories(pl.concat([past, sensor_days(ordered, sensors)]), [day])
    sensors, ordered = _of_days(sensors, ordered, [day])
    return heard(sensors, ordered, history, inventory, policy, off_spans(spans)) if ordered.height else None


def _marks(refused: pl.DataFrame, sensors: pl.DataFrame, interval_us: int) -> pl.DataFrame:
    """ROW and flag of each refused reading; one of a device's temperature or utilisation speaks for its node too."""
    owners = sensors.select("channel", "day", pl.col("owner_id").alias("node_id"), "device_id", "quantity")
    found = refused.join(owners, on="channel", how="left").with_columns(interval_of("time_us", interval_us))
    at_node = found.filter(pl.col("quantity").is_in(ENVIRONMENT)).with_columns(device_id=pl.lit("node"))
    return pl.concat([found, at_node]).select(*ROW, "flag").unique()


def _placed(sensors: pl.DataFrame, inventory: pl.DataFrame) -> pl.DataFrame:
    """Components at their own device; beside each sensor what the inventory says of its node on the day."""
    component = pl.col("quantity").replace_strict(COMPONENT_OF, default=None, return_dtype=pl.String)
    facts = ("chassis_id", "rated_power_w", "idle_power_w", "gpu_rated_power_w", "psu_count")
    known = (
        sensors.select("node_id", "day").unique()
        .join(inventory.select("node_id", "from_day", "until_day", *facts), on="node_id", how="inner")
        .filter(pl.col("day").is_between("from_day", "until_day"))
        .select("node_id", "day", *facts)
    )  # fmt: skip
    is_chassis = pl.col("quantity").str.starts_with("chassis_")
    at_node = pl.col("device_id") == "node"
    return sensors.join(known, on=["node_id", "day"], how="left", maintain_order="left").with_columns(
        pl.when(is_chassis).then(pl.lit("chassis"))
        .when(at_node).then(pl.coalesce(component, "device_id")).otherwise("device_id").alias("device_id"),
        pl.when(is_chassis).then(pl.coalesce("chassis_id", "node_id")).otherwise("node_id").alias("owner_id"),
        pl.lit(None, pl.Float64).alias("supply_resolution"),
    )  # fmt: skip


def _rows(said: Heard, policy: IntervalPolicy) -> pl.DataFrame:
    """Power, environment, conflicts and flags, one line for each row that has any of them."""
    channels, found, conflicts, marks = said.channels, said.found, said.lost, said.marks
    chosen = found.chosen.with_columns(pl.lit(policy.interval_s).alias("interval_s"))
    if "model_sigma" not in chosen.columns:
        chosen = chosen.with_columns(pl.lit(None, pl.Float64).alias("model_sigma"))
    with_extremes = lowest_and_highest(channels.values, channels.sensors, chosen)
    power = pl.concat([with_extremes, found.others], how="diagonal").select(
        *ROW, "multiplicity", "integral", "observed_s", "power_min_w", "power_max_w", "resolution_s",
        "resolution", "energy_source", "sampling", "model_sigma", class_of_power().alias("sensor_class"),
        (pl.col("statistic") == "counter").alias("is_counter"),
    )  # fmt: skip
    around = environment(channels.values, channels.sensors)
    measured = [frame.select(ROW) for frame in (power, around)]
    # A refused reading leaves its trace even where nothing else was read. Other odd rows need a row to stand
    # at.
    shown = marks.join(
        said.candidates.select("day", "node_id", "device_id").unique(),
        on=["day", "node_id", "device_id"],
        how="semi",
    )
    keys = pl.concat([*measured, shown.select(ROW)]).unique()
    partial = power.filter(pl.col("observed_s") < policy.interval_s - 1e-6)
    flagged = (
        pl.concat([
            marks.select(*ROW, "flag"),
            conflicts.select(*ROW, pl.lit(CONFLICT).alias("flag")),
            _changes(power, policy),
            partial.select(*ROW, pl.lit(PARTIAL).alias("flag")),
            _cross_checks(power),
            found.doubts,
        ])
        .group_by(ROW).agg(pl.col("flag").unique().sort().alias("flags"))
    )  # fmt: skip
    return (
        keys.join(power, on=ROW, how="left")
        .join(around, on=ROW, how="left")
        .join(conflicts, on=ROW, how="left")
        .join(flagged, on=ROW, how="left")
    )


def _changes(power: pl.DataFrame, policy: IntervalPolicy) -> pl.DataFrame:
    """Node intervals whose source is another than that of the interval right before."""
    before = power.filter(pl.col("device_id") == "node").sort(ROW)
    follows = (pl.struct("day", "node_id") == pl.struct("day", "node_id").shift()) & (
        pl.col("interval_us") - pl.col("interval_us").shift() == policy.interval_us
    )
    changed = before.filter(follows & (pl.col("energy_source") != pl.col("energy_source").shift()))
    return changed.select(*ROW, pl.lit(SOURCE_CHANGED).alias("flag"))


def _cross_checks(power: pl.DataFrame) -> pl.DataFrame:
    """What is never added: the sources of a node that were not chosen, shared GPU figures beside single GPUs."""
    single = (
        power.filter(pl.col("device_id").str.contains(r"^gpu."))
        .select("day", "node_id", "interval_us")
        .unique()
    )
    shared = power.filter(pl.col("device_id") == "gpu").join(
        single, on=["day", "node_id", "interval_us"], how="semi"
    )
    others = power.filter(pl.col("device_id").str.starts_with(OTHER_SOURCE))
    return pl.concat([shared, others]).select(*ROW, pl.lit(CROSS_CHECK).alias("flag"))


def _with_energy(rows: pl.DataFrame, policy: IntervalPolicy) -> pl.DataFrame:
    """Energy and its errors, null where the power is only a check of another."""
    counted = ~pl.col("flags").list.contains(CROSS_CHECK).fill_null(False)
    figures = energy_and_sigmas(policy.classes, policy.sensor_gain_ratio)
    mean = pl.col("integral") / pl.col("observed_s")
    return rows.with_columns(
        mean.alias("power_mean_w"), *(pl.when(counted).then(figure) for figure in figures)
    )


def _table(rows: pl.DataFrame, policy: IntervalPolicy) -> pa.Table:
    """INTERVAL's columns, types and order (Spark takes columns by position), sorted by key."""
    no_flag = pl.lit([], dtype=pl.List(pl.String))
    flags = pl.col("flags").fill_null(no_flag)
    if rows["cluster_id"].null_count():
        unlisted = pl.when(pl.col("cluster_id").is_null()).then(pl.lit([UNLISTED_NODE])).otherwise(no_flag)
        flags = pl.concat_list(flags, unlisted).list.sort()
    frame = rows.select(
        pl.lit(policy.site_id).alias("site_id"),
        pl.coalesce("cluster_id", pl.lit(UNLISTED_CLUSTER)).alias("cluster_id"),
        "node_id",
        "device_id",
        pl.from_epoch("interval_us", "us").dt.replace_time_zone("UTC").alias("interval_start"),
        pl.from_epoch("day", "d").alias("date"),
        pl.lit(policy.interval_s).alias("interval_s"),
        (pl.col("device_id") == "node").alias("counts_in_total"),
        pl.col("multiplicity").fill_null(1),
        "energy_kwh",
        "power_min_w",
        "power_mean_w",
        "power_max_w",
        *ENVIRONMENT_COLUMNS,
        pl.col("observed_s").fill_null(0.0),
        "resolution_s",
        "energy_source",
        "gain_sigma_kwh",
        "resolution_sigma_kwh",
        pl.col("conflicts").fill_null(0),
        flags.alias("flags"),
        "sensor_class",
        "sampling_sigma_kwh",
    ).sort("cluster_id", "node_id", "device_id", "interval_start")
    return frame.to_arrow().select(list(INTERVAL.columns)).cast(arrow_schema(INTERVAL))
