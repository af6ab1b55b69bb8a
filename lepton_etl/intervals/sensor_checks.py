"""Hold a node's power sources against each other and choose which of them is believed.

A node may be seen by its outlets, its supplies, its BMC, and from inside by CPU, DRAM and GPU together, which
can only be less than the whole. They are never added: the best of them is believed, the others check it. A
source that stands still while another moves, or speaks on another scale, is not believed where another
speaks. Two series of one day are compared by ratio, offset, lag, and where one stands still; the figures go
to silver/sensor_check.

Arrays are NumPy, one element an interval of the day, NaN where the source was silent.
Source: docs/definitions.md section 2 (order of the sources).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.intervals.channels import DAY_US
from lepton_etl.intervals.integrate import MICROSECONDS, Bools, Floats
from lepton_etl.intervals.plausibility import within_rating
from lepton_etl.intervals.source_choice import FLAGGED, ROW, choose_power, power_by_source
from lepton_etl.schema.common import ENERGY_SOURCES
from lepton_etl.schema.fleet import SENSOR_CHECK

# An hour of intervals of 300 s: below it nothing is said.
LEAST_SAMPLES: Final = 12
# What moves by less than this share of its median, or by less than 20 W, may leave another sensor's last digit alone.
MOVES_RATIO: Final = 0.25
MOVES_W: Final = 20.0
LAST_DIGITS: Final = 1e-9
CLEAR_CORRELATION: Final = 0.8
CLEARER_BY: Final = 0.1


@dataclass(frozen=True, slots=True)
class Pair:
    """A source `x` against another `y`: what was measured.

    ratio: median of x / y; spread: its interquartile range over it. offset_w: median of x - y. lag: by how many
    intervals x moves later, None where too little moves. still: where x stands still while y moves.
    """

    samples: int
    ratio: float
    spread: float
    offset_w: float
    lag: int | None
    still: Bools


def pair_of(x: Floats, y: Floats, longest_lag: int) -> Pair | None:
    """`x` against `y`, lags of up to `longest_lag` intervals tried; None where too few intervals know both."""
    common = np.isfinite(x) & np.isfinite(y) & (y > 0)
    samples = int(common.sum())
    if samples < LEAST_SAMPLES:
        return None
    ratios = x[common] / y[common]
    low, ratio, high = np.quantile(ratios, (0.25, 0.5, 0.75))
    return Pair(
        samples,
        float(ratio),
        float((high - low) / ratio) if ratio > 0 else float("inf"),
        float(np.median(x[common] - y[common])),
        best_lag(x, y, longest_lag),
        stands_still(x, y),
    )


def stands_still(x: Floats, y: Floats) -> Bools:
    """Where `x` shows one value for at least LEAST_SAMPLES intervals in which `y` moves."""
    still = np.zeros(len(x), dtype=np.bool_)
    # Means of one value differ in the last digit with the seconds that they are over.
    same = np.abs(np.diff(x)) <= LAST_DIGITS * np.abs(x[1:])
    changes = np.flatnonzero(np.r_[True, ~same, True])
    for start, end in pairwise(changes.tolist()):
        if end - start >= LEAST_SAMPLES and _moves(y[start:end]):
            still[start:end] = True
    return still


def _moves(y: Floats) -> bool:
    known = y[np.isfinite(y)]
    if len(known) < LEAST_SAMPLES:
        return False
    # Single readings do not make a movement.
    low, middle, high = np.quantile(known, (0.1, 0.5, 0.9))
    return bool(high - low > max(MOVES_W, MOVES_RATIO * middle))


def best_lag(x: Floats, y: Floats, longest: int) -> int | None:
    """By how many intervals `x` moves later than `y`: where their correlation is highest; None where that is not clear.

    A lag other than 0 needs a correlation above CLEAR_CORRELATION that is CLEARER_BY above that of no lag.
    """
    if not (_moves(x) and _moves(y)):
        return None
    now = _correlation(x, y, 0)
    # Nothing is clearer than 1: two clocks that agree, as nearly all do, need no further lag.
    if now >= 1 - CLEARER_BY:
        return 0
    lags = range(-longest, longest + 1)
    correlations = np.asarray([_correlation(x, y, lag) for lag in lags])
    best = int(np.argmax(correlations))
    if correlations[best] < CLEAR_CORRELATION:
        return None
    return lags[best] if correlations[best] - now > CLEARER_BY else 0


def _correlation(x: Floats, y: Floats, lag: int) -> float:
    """Pearson's correlation of x[i + lag] and y[i] over the intervals that both know; -1 where too few do."""
    late, early = (x[lag:], y[: len(y) - lag]) if lag >= 0 else (x[:lag], y[-lag:])
    common = np.isfinite(late) & np.isfinite(early)
    if common.sum() < 2 * LEAST_SAMPLES:
        return -1.0
    a, b = late[common] - late[common].mean(), early[common] - early[common].mean()
    size = float(np.sqrt((a @ a) * (b @ b)))
    return float(a @ b) / size if size > 0 else -1.0


COMPONENTS: Final = "components"
AGREES, BIAS, STUCK, SCALE, CLOCK_SKEW = "agrees", "bias", "stuck", "scale", "clock_skew"

SERIES_COLUMNS: Final = pl.Schema(
    {
        "day": pl.Int64,
        "node_id": pl.String,
        "source": pl.String,
        "interval_us": pl.Int64,
        "power_w": pl.Float64,
    }
)
CHECK_COLUMNS: Final = pl.Schema(
    {
        "day": pl.Int64,
        "node_id": pl.String,
        "check_source": pl.String,
        "against_source": pl.String,
        "samples": pl.Int64,
        "median_ratio": pl.Float64,
        "offset_w": pl.Float64,
        "lag_s": pl.Float64,
        "sensor_verdict": pl.String,
    }
)
SUSPECT_COLUMNS: Final = pl.Schema(
    {
        "day": pl.Int64,
        "node_id": pl.String,
        "energy_source": pl.String,
        "interval_us": pl.Int64,
        "flag": pl.String,
    }
)

# Outside two standard deviations of both gains together two sensors of one power differ.
SIGMAS: Final = 2.0
# Powers of ten, joule as watt-hour: an honest sensor is not within 5 % of them all day.
UNIT_FACTORS: Final = (1e-6, 1e-3, 1e-2, 0.1, 1 / 3.6, 3.6, 10.0, 100.0, 1e3, 1e6)
UNIT_TOLERANCE: Final = 0.05
# Supplies left out or counted twice. Real sensors of one box differ up to fourfold, so these need proof: the ratio
# stays while the power moves.
COUNT_FACTORS: Final = (1 / 4, 1 / 3, 1 / 2, 2 / 3, 3 / 4, 4 / 3, 3 / 2, 2.0, 3.0, 4.0)
COUNT_TOLERANCE: Final = 0.02
STEADY_SPREAD: Final = 0.05
# An hour each way: a clock set to another zone or to summer time.
LONGEST_LAG_S: Final = 3600


@dataclass(frozen=True, slots=True)
class Comparison:
    """checks: CHECK_COLUMNS, a row for each pair; suspects: SUSPECT_COLUMNS, where a source is not believed."""

    checks: pl.DataFrame
    suspects: pl.DataFrame


def compare_sources(
    series: pl.DataFrame,
    gains: Mapping[str, float],
    rated_w: Mapping[tuple[int, str], float],
    interval_us: int,
) -> Comparison:
    """Hold the sources of every node and day in `series` (SERIES_COLUMNS) against each other.

    `gains`: one sigma of the relative gain error by source; `rated_w`: by day and node, where it is known. Work grows
    with the readings: each pair is walked a fixed number of times.
    """
    checks: list[tuple[object, ...]] = []
    suspects: list[tuple[object, ...]] = []
    for day, node_id, names, power in _node_days(series, interval_us):
        pairs = _pairs(names, power, interval_us)
        verdicts = _verdicts(names, power, pairs, gains, rated_w.get((day, node_id), float("nan")))
        for (x, y), pair in pairs.items():
            lag_s = None if pair.lag is None else pair.lag * interval_us / MICROSECONDS
            measured = (pair.samples, pair.ratio, pair.offset_w, lag_s)
            checks.append((day, node_id, names[x], names[y], *measured, verdicts[x]))
            if verdicts[x] in (STUCK, SCALE):
                where = pair.still if verdicts[x] == STUCK else np.isfinite(power[x])
                times = day * DAY_US + np.flatnonzero(where) * interval_us
                suspects += [
                    (day, node_id, names[x], int(time), f"{verdicts[x]}_{names[x]}") for time in times
                ]
    return Comparison(
        pl.DataFrame(checks, schema=CHECK_COLUMNS, orient="row"),
        pl.DataFrame(suspects, schema=SUSPECT_COLUMNS, orient="row"),
    )


def _node_days(series: pl.DataFrame, interval_us: int) -> Iterator[tuple[int, str, list[str], Floats]]:
    """Day, node, its sources with enough readings, best first, and their powers as sources x intervals."""
    place = {source: order for order, source in enumerate((*ENERGY_SOURCES, COMPONENTS))}
    ordered = (
        series.filter(pl.col("interval_us") // DAY_US == pl.col("day"))
        .filter(pl.len().over("day", "node_id", "source") >= LEAST_SAMPLES)
        .filter(pl.col("source").n_unique().over("day", "node_id") > 1)
        .with_columns(pl.col("source").replace_strict(place, return_dtype=pl.Int64).alias("place"))
        .sort("day", "node_id", "place", "interval_us")
    )
    lines = ordered.select(
        "day", "node_id", "source", pl.struct("day", "node_id").rle_id().alias("whose")
    ).with_columns(pl.struct("whose", "source").rle_id().alias("line"))  # fmt: skip
    slot = (ordered["interval_us"].to_numpy() % DAY_US) // interval_us
    line, power_w = lines["line"].to_numpy().astype(np.int64), ordered["power_w"].to_numpy()
    power = np.full((int(line[-1]) + 1 if len(line) else 0, DAY_US // interval_us), np.nan)
    power[line, slot] = power_w
    found = lines.unique("line", keep="first", maintain_order=True).group_by("whose", maintain_order=True).agg(
        pl.col("day", "node_id").first(), pl.col("source"), pl.col("line").first()
    )  # fmt: skip
    for day, node_id, names, first in found.select("day", "node_id", "source", "line").iter_rows():
        yield day, node_id, names, power[first : first + len(names)]


def _pairs(names: list[str], power: Floats, interval_us: int) -> dict[tuple[int, int], Pair]:
    """Each source against the best one, and the best against the next."""
    both = [(other, 0) for other in range(1, len(names))] + [(0, 1)]
    found = {
        (x, y): pair_of(power[x], power[y], LONGEST_LAG_S * MICROSECONDS // interval_us) for x, y in both
    }
    return {key: pair for key, pair in found.items() if pair is not None}


def _verdicts(
    names: list[str],
    power: Floats,
    pairs: Mapping[tuple[int, int], Pair],
    gains: Mapping[str, float],
    rated_w: float,
) -> dict[int, str]:
    """One verdict a source. The best source is at fault only where others show it."""
    found = {x: _against_best(names[x], names[0], pair, gains) for (x, _), pair in pairs.items() if x}
    totals = [x for x in found if names[x] != COMPONENTS]
    if (0, 1) in pairs:
        found[0] = STUCK if pairs[0, 1].still.any() else AGREES
    for x in totals:
        if found[x] == SCALE and _best_is_wrong(x, names, power, gains, rated_w):
            found[x], found[0] = AGREES, SCALE
    alone = len(totals) > 1 and all(found[x] == BIAS for x in totals)
    if alone and found.get(0) == AGREES and _agree(power[totals[0]], power[totals[1]], names, totals, gains):
        found[0] = BIAS
    return found


def _against_best(name: str, best: str, pair: Pair, gains: Mapping[str, float]) -> str:
    allowed = SIGMAS * float(np.hypot(gains.get(name, np.nan), gains.get(best, np.nan)))
    if name == COMPONENTS:
        # The parts may be any share of the whole, but no more than it.
        return BIAS if pair.ratio > 1 + allowed else CLOCK_SKEW if pair.lag else AGREES
    if pair.still.any():
        return STUCK
    if _is_scale(pair):
        return SCALE
    if pair.lag:
        return CLOCK_SKEW
    return BIAS if abs(pair.ratio - 1) > allowed else AGREES


def _is_scale(pair: Pair) -> bool:
    near_unit = any(abs(pair.ratio / factor - 1) <= UNIT_TOLERANCE for factor in UNIT_FACTORS)
    near_count = any(abs(pair.ratio / factor - 1) <= COUNT_TOLERANCE for factor in COUNT_FACTORS)
    if not (near_unit or near_count) or pair.spread > STEADY_SPREAD:
        return False
    # Far from 1 no offset explains the ratio; near it only a ratio that stays while the power moves is a factor.
    return not 0.05 < pair.ratio < 20 or pair.lag is not None


def _best_is_wrong(
    x: int, names: list[str], power: Floats, gains: Mapping[str, float], rated_w: float
) -> bool:
    """Whether the best source, not `x`, speaks on another scale: by the rating, by a third source, by the parts."""
    best, other = float(np.nanmedian(power[0])), float(np.nanmedian(power[x]))
    fits = within_rating(best, rated_w), within_rating(other, rated_w)
    if None not in fits and fits[0] != fits[1]:
        return bool(fits[1])
    for z, name in enumerate(names):
        if name == COMPONENTS and np.nanmedian(power[z]) > best and np.nanmedian(power[z]) < other:
            return True
        if z not in (0, x) and name != COMPONENTS and _agree(power[z], power[x], names, [z, x], gains):
            return True
    return False


def _agree(a: Floats, b: Floats, names: list[str], which: list[int], gains: Mapping[str, float]) -> bool:
    pair = pair_of(a, b, 0)
    one, other = (gains.get(names[place], np.nan) for place in which[:2])
    return pair is not None and abs(pair.ratio - 1) <= SIGMAS * float(np.hypot(one, other))


# The device under which the sources of a node stand that were not chosen.
OTHER_SOURCE: Final = "node."
SOURCE_CHANGED: Final = "source_changed"
# An interval counts for the check if its source saw at least half of it.
LEAST_COVER: Final = 0.5
_PARTS: Final = r"^(cpu|dram|gpu)"


@dataclass(frozen=True, slots=True)
class Arbitration:
    """What the sources of the nodes say, held against each other.

    chosen: as choose_power; others: the sources not chosen, at device `node.<source>`; doubts: ROW, flag; checks:
    CHECK_COLUMNS.
    """

    chosen: pl.DataFrame
    others: pl.DataFrame
    doubts: pl.DataFrame
    checks: pl.DataFrame


def arbitrate(
    values: pl.DataFrame,
    candidates: pl.DataFrame,
    gains: Mapping[str, float],
    inventory: pl.DataFrame,
    interval_us: int,
) -> Arbitration:
    """The power of every row, without the sources of nodes that others prove wrong. `inventory` has ROSTER_COLUMNS.

    Source: docs/definitions.md section 2 (order of the sources); docs/methodology.md, "Sensors and their errors".
    """
    first = choose_power(values, candidates)
    by_source = power_by_source(values, candidates)
    parts = first.filter(pl.col("device_id").str.contains(_PARTS))
    no_doubts = pl.DataFrame(schema=FLAGGED)
    if parts.is_empty() and by_source.select(ROW).is_unique().all():
        return Arbitration(first, by_source.clear(), no_doubts, pl.DataFrame(schema=CHECK_COLUMNS))
    mean = pl.col("integral") / pl.col("observed_s") * pl.col("multiplicity")
    told = pl.concat([by_source, parts]).with_columns(mean.alias("power_w"))
    found = compare_sources(_series(told, interval_us), gains, _rated_w(told, inventory), interval_us)
    chosen = choose_power(values, candidates, found.suspects) if found.suspects.height else first
    at_node = chosen.filter(pl.col("device_id") == "node").select(*ROW, "energy_source")
    others = by_source.join(at_node, on=[*ROW, "energy_source"], how="anti").with_columns(
        (OTHER_SOURCE + pl.col("energy_source")).alias("device_id")
    )
    before = first.select(*ROW, pl.col("energy_source").alias("before"))
    moved = at_node.join(before, on=ROW, how="inner").filter(pl.col("before") != pl.col("energy_source"))
    doubts = [moved.select(*ROW, pl.lit(SOURCE_CHANGED).alias("flag")), *_flags(found, at_node)]
    return Arbitration(chosen, others, pl.concat([no_doubts, *doubts]), found.checks)


def _flags(found: Comparison, at_node: pl.DataFrame) -> list[pl.DataFrame]:
    """The verdicts as flags of the node's rows: of the whole day, or of the intervals that are suspect."""
    of_day = found.checks.filter(pl.col("sensor_verdict").is_in((BIAS, CLOCK_SKEW))).select(
        "day", "node_id", (pl.col("sensor_verdict") + "_" + pl.col("check_source")).alias("flag")
    )
    of_interval = found.suspects.select("day", "node_id", "interval_us", "flag")
    return [
        at_node.join(of_day, on=["day", "node_id"], how="inner").select(*ROW, "flag"),
        at_node.join(of_interval, on=["day", "node_id", "interval_us"], how="inner").select(*ROW, "flag"),
    ]


def _series(told: pl.DataFrame, interval_us: int) -> pl.DataFrame:
    """SERIES_COLUMNS of rows with ROW, energy_source, power_w, observed_s; a node's parts summed where all speak."""
    seen = told.filter(pl.col("observed_s") >= LEAST_COVER * interval_us / MICROSECONDS)
    stem = pl.col("device_id").str.extract(_PARTS)
    single = pl.col("device_id") != stem
    whose = ["day", "node_id", "interval_us"]
    parts = (
        seen.filter(stem.is_not_null())
        # A figure that the boards share is the same energy once more.
        .filter(single | ~single.any().over("day", "node_id", stem))
        .sort(*whose, "device_id")
        .group_by(whose, maintain_order=True).agg(pl.col("power_w").sum(), pl.len().alias("present"))
        .filter(pl.col("present") == pl.col("present").max().over("day", "node_id"))
        .with_columns(pl.lit(COMPONENTS).alias("source"))
    )  # fmt: skip
    totals = seen.filter(stem.is_null()).rename({"energy_source": "source"})
    columns = list(SERIES_COLUMNS)
    return pl.concat([totals.select(columns), parts.select(columns)])


def _rated_w(told: pl.DataFrame, inventory: pl.DataFrame) -> dict[tuple[int, str], float]:
    """Rated power by day and node where the inventory states one."""
    rated = (
        told.select("day", "node_id").unique()
        .join(inventory.drop_nulls("rated_power_w"), on="node_id", how="inner")
        .filter(pl.col("day").is_between("from_day", "until_day"))
    )  # fmt: skip
    return {
        (day, node): watts for day, node, watts in rated.select("day", "node_id", "rated_power_w").iter_rows()
    }


def check_rows(checks: pl.DataFrame, site_id: str) -> pl.DataFrame:
    """CHECK_COLUMNS -> rows of silver/sensor_check, sorted by key."""
    return (
        checks.with_columns(pl.lit(site_id).alias("site_id"), pl.from_epoch("day", "d").alias("date"))
        .select(list(SENSOR_CHECK.columns))
        .sort(list(SENSOR_CHECK.key))
    )
