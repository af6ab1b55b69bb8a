"""What the power sources of one node say about one another over one day.

A node may be seen by its outlets, its supplies, its BMC, and from inside by CPU, DRAM and GPU together, which can only
be less than the whole. They are never added: the best of them is believed (definitions.md section 2), the others
check it. A source that stands still while another moves, or speaks on another scale, is not believed where another
speaks. Arrays are NumPy, one element an interval of the day, NaN where the source was silent.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.energy.integrate import MICROSECONDS, Floats
from lepton_etl.energy.plausible import within_rating
from lepton_etl.energy.roster import DAY_US
from lepton_etl.energy.sensor_pairs import LEAST_SAMPLES, Pair, pair_of
from lepton_etl.fields.words import ENERGY_SOURCES

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
    for (day, node_id), rows in ordered.group_by("day", "node_id", maintain_order=True):
        names = rows["source"].unique(maintain_order=True).to_list()
        power = np.full((len(names), DAY_US // interval_us), np.nan)
        line = rows["source"].replace_strict(names, range(len(names)), return_dtype=pl.Int64).to_numpy()
        power[line, (rows["interval_us"].to_numpy() % DAY_US) // interval_us] = rows["power_w"].to_numpy()
        yield int(str(day)), str(node_id), names, power


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
