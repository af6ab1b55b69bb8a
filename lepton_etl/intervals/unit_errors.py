"""Which readings speak another unit than their source says: kW as W, degF as degC, 0..1 as percent, kWh as J.

A reading is held against what is physically possible (inventory, ASHRAE) and against what its sensor usually says
(`usual_values.with_usual`, else the rest of its own day). Only what no honest device can say is refused: a supply in
standby, a node switched off and an idle GPU are far from their usual values too. Input is sorted by `channel` and
time, without repeats.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from lepton_etl.intervals.channels import runs_of
from lepton_etl.intervals.integrate import RATED_LIMIT_RATIO, Bools, Floats, Ints
from lepton_etl.intervals.plausibility import FLOOR_OF_RATED, FULL_SCALE_W, no_places, rated_power

KW_AS_W: Final = "scale_kw_as_w"
MW_AS_W: Final = "scale_mw_as_w"
DEGF_AS_DEGC: Final = "scale_degf_as_degc"
RATIO_AS_PERCENT: Final = "scale_ratio_as_percent"
ENERGY_UNIT: Final = "scale_energy_unit"
CHANGED: Final = "scale_changed"

THOUSAND: Final = 1000.0
# Real servers switched off still draw 5 to 10 W by their supplies (Harvard: PSU AC In 5 W, Sys Power 10 W).
STANDBY_W: Final = 5.0
# Of the same sensor a thousandfold value is within this factor of the usual one: idle to full load is some 4.
LOAD_RATIO: Final = 4.0
# Nearer to the usual value than this no unit is mistaken; between, the neighbours in time decide.
NORMAL_RATIO: Final = 20.0
FLOOR_OF_IDLE: Final = 0.5
# Below it a sensor shows a device at rest, and a thousandfold rise may be an honest start.
AWAKE_W: Final = 10.0

# ASHRAE's widest class A4 allows 45 degC at the inlet. 15 to 35 degC, the ordinary, are 59 to 95 degF.
INLET_MAX_C: Final = 45.0
INLET_AS_DEGF: Final = (59.0, 95.0)
# Weather and set points move an inlet less than this from one day to the next.
INLET_DRIFT_C: Final = 10.0
# Air below 5 degC is no supply air; degC read as degF is (degC - 32) / 1.8, -10 to 5 for all that is ordinary.
INLET_COLD_C: Final = 5.0
# Chips throttle at 85 to 105 degC and switch off below 125: none spends half a day above 110.
DIE_MAX_C: Final = 110.0
DIE_DRIFT_C: Final = 25.0
DIES: Final = ("cpu_temperature", "gpu_temperature")

# 0..1 read as percent ends at 0.01. Honest idle days end there too, but of few values: 7 at most on three years of
# real hourly GPU utilisation, while a busy sensor shows dozens.
RATIO_AS_PERCENT_MAX: Final = 0.0101
BUSY_RATIO: Final = 0.5
RATIO_MIN_TOP: Final = 0.005
RATIO_MIN_DISTINCT: Final = 16

# kJ, Wh, kWh and MJ as J, and the other way round mJ and uJ as J.
ENERGY_FACTORS: Final = (1e3, 3600.0, 1e6, 3.6e6)
# No device that counts its energy draws less: a rate below is another unit.
LEAST_RATE_W: Final = 1.0


_IS_COUNTER: Final = pl.col("quantity").str.ends_with("_energy") & (pl.col("statistic") == "counter")
_IS_POWER: Final = pl.col("quantity").str.ends_with("_power")
_IS_INLET: Final = pl.col("quantity") == "inlet_temperature"
_IS_DIE: Final = pl.col("quantity").is_in(DIES)
_IS_RATIO: Final = pl.col("quantity").str.ends_with("_utilisation")


def wrong_units(readings: pl.DataFrame, sensors: pl.DataFrame) -> pl.DataFrame:
    """Return the readings in a wrong unit: `place` in `readings`, `flag`.

    `readings` have channel, time_us and value, by channel and time, without repeats; `sensors` a line for each channel
    in the order of its number, each with a reading: `quantity`, `statistic`, `device_id`, `usual`, ratings and
    `idle_power_w`. The rules look at the few channels that hold a reading which they might refuse, so nearly every
    sensor's day costs its extremes. Without a rating, a history and a step within the day nothing is judged.
    """
    suspects = _suspects(readings, sensors)
    if not suspects.any():
        return no_places()
    facts = sensors.select(
        "channel", "quantity", "statistic", "device_id", "usual", "rated_power_w", "gpu_rated_power_w", "idle_power_w"
    )  # fmt: skip
    judged = (
        readings.select("channel", "time_us", "value")
        .with_row_index("place")
        .filter(suspects[readings["channel"].to_numpy()])
        .join(facts, on="channel", how="left", maintain_order="left")
    )
    return judged.select(pl.col("place").cast(pl.Int64), flags_of(judged).alias("flag")).drop_nulls()


def _suspects(readings: pl.DataFrame, sensors: pl.DataFrame) -> Bools:
    """By channel whether a rule might refuse one of its readings: some that none refuses, and all that one does."""
    channel, value = readings["channel"].to_numpy(), readings["value"].to_numpy()
    starts = runs_of(channel)
    lowest, highest = np.fmin.reduceat(value, starts), np.fmax.reduceat(value, starts)
    kind = sensors.select(
        is_counter=_IS_COUNTER, is_power=_IS_POWER, is_inlet=_IS_INLET, is_die=_IS_DIE, is_ratio=_IS_RATIO,
        usual=pl.col("usual").fill_null(float("nan")),
        limit=(rated_power() * RATED_LIMIT_RATIO).fill_null(float("nan")),
    )  # fmt: skip
    of = {name: kind[name].to_numpy() for name in kind.columns}
    usual, limit = of["usual"], of["limit"]
    suspects = of["is_power"] & (
        (highest >= AWAKE_W * THOUSAND / LOAD_RATIO)
        | (highest >= usual * THOUSAND / LOAD_RATIO)
        | (highest > limit)
    )
    tiny = (value > 0) & (value < STANDBY_W)
    if tiny.any():
        rows = np.flatnonzero(tiny)
        rows = rows[value[rows] % 1 != 0]
        suspects[channel[rows[of["is_power"][channel[rows]]]]] = True
    cold = (lowest <= INLET_COLD_C) & ~(usual < INLET_COLD_C + INLET_DRIFT_C)
    suspects |= of["is_inlet"] & ((highest >= INLET_AS_DEGF[0]) | cold)
    suspects |= of["is_die"] & (highest > DIE_MAX_C)
    busy_low = (highest >= RATIO_MIN_TOP) & (highest <= RATIO_AS_PERCENT_MAX) & (usual >= BUSY_RATIO)
    suspects |= of["is_ratio"] & busy_low
    if of["is_counter"].any():
        suspects |= of["is_counter"] & _odd_rates(readings, starts, usual, limit)
    return np.asarray(suspects, dtype=np.bool_)


def _odd_rates(readings: pl.DataFrame, starts: Ints, usual: Floats, limit: Floats) -> Bools:
    """By channel whether its mean rate, less its steepest step, is far from what `counter_flag` lets pass."""
    value, time_us = readings["value"].to_numpy(), readings["time_us"].to_numpy()
    rise = np.diff(value, prepend=value[:1])
    rise[starts] = 0.0
    risen = np.where(rise > 0, rise, 0.0)
    ends = np.r_[starts[1:], len(value)] - 1
    seconds = (time_us[ends] - time_us[starts]) / 1e6
    rate = np.divide(
        np.add.reduceat(risen, starts) - np.maximum.reduceat(risen, starts), seconds,
        out=np.zeros(len(starts)), where=seconds > 0,
    )  # fmt: skip
    # The rule sums in another order: near its limits it decides.
    tiny = (rate > 0) & (rate < LEAST_RATE_W * 1.001)
    return np.asarray(tiny | (rate > limit * 0.999) | (rate > usual * ENERGY_FACTORS[0] / LOAD_RATIO * 0.999))


def flags_of(readings: pl.DataFrame) -> pl.Series:
    """What is wrong with each reading's unit, else null, by the rule of its quantity."""
    groups = (
        (_IS_POWER, power_flag),
        (_IS_INLET, inlet_flag),
        (_IS_DIE, die_flag),
        (_IS_RATIO, ratio_flag),
        (_IS_COUNTER, counter_flag),
    )
    numbered = readings.with_row_index("row")
    found = [
        group.select("row", flag(group).alias("scale")).drop_nulls()
        for where, flag in groups
        if not (group := numbered.filter(where)).is_empty()
    ]
    if not any(part.height for part in found):
        return pl.Series("scale", [None] * readings.height, dtype=pl.String)
    return numbered.join(pl.concat(found), on="row", how="left", maintain_order="left")["scale"]


def power_flag(readings: pl.DataFrame) -> pl.Series:
    """KW_AS_W, MW_AS_W (by rating) or CHANGED (by history or the day's other scale) of powers in W.

    kW is certain only below STANDBY_W and with decimals: a supply in standby reads 1 or 4 W, 0.412 is no power.
    """
    value = pl.col("value")
    none = pl.Series([None] * readings.height, dtype=pl.String)
    tiny = value.is_between(0, STANDBY_W, closed="none") & (value % 1 != 0)
    huge = value.is_finite() & (
        (value > pl.col("usual") * THOUSAND / LOAD_RATIO)
        | (value > rated_power() * RATED_LIMIT_RATIO)
        | (value > AWAKE_W * THOUSAND / LOAD_RATIO)
    )
    if not readings.select((tiny | huge).any()).item():
        return none
    # Each step stands before the next one names it twice: an expression is computed wherever it is named.
    known = readings.with_columns(
        limit=rated_power() * RATED_LIMIT_RATIO,
        floor=pl.max_horizontal(rated_power() * FLOOR_OF_RATED, pl.when(_is_total()).then(_idle_floor())),
        usual=pl.coalesce("usual", _other_scale_of_the_day()),
        full_scale=(pl.col("quantity") == "chassis_input_power") & (value == FULL_SCALE_W),
        tiny=tiny,
    )
    usual, limit, floor = pl.col("usual"), pl.col("limit"), pl.col("floor")
    step = value / usual
    is_thousandfold = (usual >= AWAKE_W) & step.is_between(THOUSAND / LOAD_RATIO, THOUSAND * LOAD_RATIO)
    is_thousandth = step.is_between(1 / (THOUSAND * LOAD_RATIO), LOAD_RATIO / THOUSAND)
    sure = (
        pl.when(pl.col("full_scale") | ~value.is_finite()).then(None)
        .when(pl.col("tiny") & (value * THOUSAND).is_between(floor, limit)).then(pl.lit(KW_AS_W))
        .when((value > limit) & (value / THOUSAND).is_between(floor, limit)).then(pl.lit(MW_AS_W))
        .when((pl.col("tiny") & is_thousandth) | is_thousandfold).then(pl.lit(CHANGED))
    )  # fmt: skip
    # kW of a busy or a round value (5.2, 1.0) stands between readings that are sure.
    is_normal = value >= pl.coalesce(usual, rated_power() / 2) / NORMAL_RATIO
    sured = known.with_columns(sure=sure)
    if not sured["sure"].count():
        return none
    said = pl.coalesce("sure", pl.when(is_normal).then(pl.lit("")))
    near = sured.with_columns(said=said).with_columns(
        before=pl.col("said").forward_fill().over("channel"),
        after=pl.col("said").backward_fill().over("channel"),
    )
    first, last = pl.coalesce("before", "after"), pl.coalesce("after", "before")
    doubtful = (value > 0) & pl.col("said").is_null() & (first == last) & (first != "")
    return near.select(
        pl.coalesce("sure", pl.when(doubtful & ~pl.col("full_scale")).then(first)).alias("scale")
    ).to_series()


def inlet_flag(readings: pl.DataFrame) -> pl.Series:
    """DEGF_AS_DEGC of a sensor that is all day in the range of degF, CHANGED of a jump by 1.8 x + 32 or back.

    Air that really warms up passes through the temperatures between; a unit does not.
    """
    value = pl.col("value").fill_nan(None)
    low, high = INLET_AS_DEGF
    all_day = (value.median().is_between(low, high) & (value.min() > INLET_MAX_C)).over("channel")
    usual = pl.coalesce("usual", value.filter(value <= INLET_MAX_C).median().over("channel"))
    rises = value.is_between(INLET_MAX_C, low, closed="none").any().over("channel")
    falls = value.is_between(INLET_COLD_C, INLET_COLD_C + 7, closed="none").any().over("channel")
    jump_up = value.is_between(low, high) & _near((value - 32) / 1.8, usual, INLET_DRIFT_C) & ~rises
    jump_down = (
        (value <= INLET_COLD_C)
        & (usual >= INLET_COLD_C + INLET_DRIFT_C)
        & _near(value * 1.8 + 32, usual, INLET_DRIFT_C)
        & ~falls
    )
    return _flags(readings, (all_day, DEGF_AS_DEGC), (jump_up | jump_down, CHANGED))


def die_flag(readings: pl.DataFrame) -> pl.Series:
    """DEGF_AS_DEGC of a chip above what chips survive for half a day, CHANGED of single such readings."""
    value = pl.col("value").fill_nan(None)
    all_day = (value.median() > DIE_MAX_C).over("channel")
    jump = (value > DIE_MAX_C) & _near((value - 32) / 1.8, pl.col("usual"), DIE_DRIFT_C)
    return _flags(readings, (all_day, DEGF_AS_DEGC), (jump, CHANGED))


def ratio_flag(readings: pl.DataFrame) -> pl.Series:
    """RATIO_AS_PERCENT of a sensor that was busy in the week before and now shows many values, all below 1 %.

    The opposite, percent read as a ratio, is above 1 and rejected by the decoder (out_of_bounds).
    """
    value = pl.col("value").fill_nan(None)
    is_low = value.max().is_between(RATIO_MIN_TOP, RATIO_AS_PERCENT_MAX)
    is_varied = value.filter(value > 0).n_unique() >= RATIO_MIN_DISTINCT
    return _flags(
        readings, ((is_low & is_varied).over("channel") & (pl.col("usual") >= BUSY_RATIO), RATIO_AS_PERCENT)
    )


def counter_flag(readings: pl.DataFrame) -> pl.Series:
    """ENERGY_UNIT (by rating) or CHANGED (by history) of counters in J whose mean rate of the day is impossible.

    The rate leaves out the steepest step, which a change of unit within the day or a repaired counter makes.
    """
    rise = (pl.col("value").fill_nan(None).diff()).over("channel")
    risen = pl.when(rise > 0).then(rise)
    seconds = (pl.col("time_us").max() - pl.col("time_us").min()) / 1e6
    rate = ((risen.sum() - risen.max()) / seconds).over("channel")
    limit = rated_power() * RATED_LIMIT_RATIO
    floor, usual = rated_power() * FLOOR_OF_RATED, pl.col("usual")
    is_tiny = (rate > 0) & (rate < LEAST_RATE_W)
    by_rating = pl.any_horizontal(
        *(is_tiny & (rate * factor).is_between(floor, limit) for factor in ENERGY_FACTORS),
        *((rate > limit) & (rate / factor).is_between(floor, limit) for factor in ENERGY_FACTORS),
    )
    step = rate / usual
    by_history = (usual >= AWAKE_W) & pl.any_horizontal(
        *(is_tiny & (step * factor).is_between(1 / LOAD_RATIO, LOAD_RATIO) for factor in ENERGY_FACTORS),
        *((step / factor).is_between(1 / LOAD_RATIO, LOAD_RATIO) for factor in ENERGY_FACTORS),
    )
    return _flags(readings, (by_rating, ENERGY_UNIT), (by_history, CHANGED))


def _other_scale_of_the_day() -> pl.Expr:
    """What a power sensor says in the believable one of two scales that it spoke on one day, else null.

    Of values a hundredfold apart the low ones are in W where they are above AWAKE_W, else the high ones are.
    """
    value = pl.col("value").fill_nan(None)
    is_low = value <= value.max() / 100
    low = value.filter((value > 0) & is_low).median()
    high = value.filter(~is_low).median()
    return (
        pl.when(low >= AWAKE_W).then(low).when(low.is_not_null()).then(high).otherwise(None).over("channel")
    )


def _is_total() -> pl.Expr:
    totals = ("outlet_power", "node_input_power", "node_power")
    return pl.col("quantity").is_in(totals) & (pl.col("device_id") == "node")


def _idle_floor() -> pl.Expr:
    return pl.col("idle_power_w") * FLOOR_OF_IDLE


def _near(value: pl.Expr, other: pl.Expr, distance: float) -> pl.Expr:
    return (value - other).abs() <= distance


def _flags(readings: pl.DataFrame, *rules: tuple[pl.Expr, str]) -> pl.Series:
    """The flag of the first rule that holds, null where none does; the unknown does not hold."""
    flags = [pl.when(holds).then(pl.lit(name)) for holds, name in rules]
    return readings.select(
        pl.when(pl.col("value").is_finite()).then(pl.coalesce(*flags)).alias("scale")
    ).to_series()
