"""Uncovered seconds of a node-hour -> energy imputed once, from the node's own history, with its error.

Nothing here divides by coverage or writes zeros: an hour that history cannot speak for stays unknown.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lepton_etl.energy.node_hours import NODE_HOUR_KEY, read_energy
from lepton_etl.schema.declare import HOURS_PER_DAY, JOULES_PER_KWH, SECONDS_PER_HOUR
from lepton_etl.uncertainty import CONFIDENCE, Z, conformal_rank

Floats = NDArray[np.float64]

HISTORY_DAYS: Final = 7
# An hour of which half was seen says how the node ran; ten minutes of an hour say how the rest of it ran.
KNOWN_RATIO: Final = 0.5
OWN_MIN_S: Final = 600.0
# Farther than a day from any known hour nothing is said.
REACH_H: Final = 24
MIN_ERRORS: Final = 12
SHORTEST_GAP_S: Final = 1.0

MODEL: Final = "model"
HISTORY: Final = "history"
NONE: Final = "none"

HOURS: Final = pl.Schema(
    {
        "site_id": pl.String,
        "cluster_id": pl.String,
        "node_id": pl.String,
        "hour": pl.Int64,
        "wanted": pl.Boolean,
        "measured_kwh": pl.Float64,
        "observed_s": pl.Float64,
        "expected_s": pl.Float64,
    }
)
# What is read of gold/node_hour of the days before.
HISTORY_COLUMNS: Final = (
    *NODE_HOUR_KEY, "it_energy_measured_kwh", "it_energy_modelled_kwh", "observed_s", "expected_s",
)  # fmt: skip
_NODE: Final = ["site_id", "node_id"]
_KEY: Final = ("site_id", "cluster_id", "node_id", "hour")
_MODELLED: Final = pl.Schema(
    dict.fromkeys(NODE_HOUR_KEY[:3], pl.String())
    | {"hour_start": pl.Datetime("us", "UTC")}
    | dict.fromkeys(("model_kwh", "model_sigma_kwh"), pl.Float64())
)
_RESULT: Final = pl.Schema(
    {name: HOURS[name] for name in _KEY}
    | dict.fromkeys(("filled_kwh", "filled_sigma_kwh", "filled_s"), pl.Float64())
)


def fill_gaps(hours: pl.DataFrame) -> pl.DataFrame:
    """Return what history says of the uncovered seconds of the nodes' wanted hours.

    `hours` has the columns HOURS (hour: hours since 1970), one row a node, hour and cluster, with the HISTORY_DAYS
    before as far as they are known. A gap is filled by the mean power of its own hour where enough of it was seen, else
    by the straight line between the nearest known hours, or the nearest one where only one side is known. The
    error is the 90 % split-conformal quantile of what the same rule misses over the node's own known hours,
    as one standard deviation of a normal error. Fewer than MIN_ERRORS such misses, or no known hour within
    REACH_H: no row.
    Source: split-conformal quantile ceil((n + 1)(1 - alpha)) / n, Lei et al., JASA 113 (2018).
    """
    frame = hours.select(list(HOURS)).cast(HOURS).sort(*_NODE, "hour", "cluster_id")
    gap_s = frame["expected_s"] - frame["observed_s"]
    gaps = frame.with_columns(gap_s.alias("gap_s")).filter(
        pl.col("wanted") & (pl.col("gap_s") > SHORTEST_GAP_S)
    )
    if gaps.is_empty():
        return pl.DataFrame(schema=_RESULT)
    powers = _powers(frame)
    rows = [
        (*(gap[name] for name in _KEY), watts * seconds / JOULES_PER_KWH, sigma_w * seconds / JOULES_PER_KWH, seconds)
        for gap in gaps.iter_rows(named=True)
        for window_w, at in (_window(*powers[gap["site_id"], gap["node_id"]], gap["hour"]),)
        for watts, sigma_w in _estimate(window_w, at, _own_power_w(gap))
        for seconds in (gap["gap_s"],)
    ]  # fmt: skip
    return pl.DataFrame(rows, schema=_RESULT, orient="row")


def _powers(frame: pl.DataFrame) -> dict[tuple[str, str], tuple[Floats, int]]:
    """By node: mean power of every hour, W, NaN where too little of the hour was seen, and which hour is the first."""
    known = (pl.col("observed_s") > 0) & (pl.col("observed_s") >= KNOWN_RATIO * pl.col("expected_s"))
    power_w = pl.when(known).then(pl.col("measured_kwh") * JOULES_PER_KWH / pl.col("observed_s"))
    by_hour = (
        frame.group_by(*_NODE, "hour", maintain_order=True)
        .agg(pl.col("measured_kwh", "observed_s", "expected_s").sum())
        .select(*_NODE, "hour", power_w.fill_null(np.nan).alias("power_w"))
    )
    found = {}
    for site_id, node_id, hours, of_hours in by_hour.group_by(_NODE).agg("hour", "power_w").iter_rows():
        at = np.array(hours)
        power = np.full(at[-1] - at[0] + 1, np.nan)
        power[at - at[0]] = of_hours
        found[site_id, node_id] = (power, int(at[0]))
    return found


def _window(power_w: Floats, first: int, hour: int) -> tuple[Floats, int]:
    """The powers of the hour's own UTC day and the HISTORY_DAYS before, and the hour's place among them.

    Whatever range of days is computed at once, a day rests on the same hours.
    """
    midnight = hour // HOURS_PER_DAY * HOURS_PER_DAY
    start = max(midnight - HISTORY_DAYS * HOURS_PER_DAY, first)
    return power_w[start - first : midnight + HOURS_PER_DAY - first], hour - start


def _own_power_w(gap: dict[str, float]) -> float | None:
    if gap["observed_s"] < OWN_MIN_S or gap["measured_kwh"] is None:
        return None
    return gap["measured_kwh"] * JOULES_PER_KWH / gap["observed_s"]


def _estimate(power_w: Floats, at: int, own_w: float | None) -> list[tuple[float, float]]:
    """One pair (power, sigma), W, or none where history does not speak for the hour."""
    known = np.flatnonzero(np.isfinite(power_w))
    before, after = known[known < at], known[known > at]
    back = int(at - before[-1]) if len(before) and at - before[-1] <= REACH_H else None
    ahead = int(after[0] - at) if len(after) and after[0] - at <= REACH_H else None
    if own_w is not None:
        # The rest of an hour is no farther from its own mean than from the hour before.
        errors_w = _misses(power_w, 1, None)
        return [(own_w, _sigma_w(errors_w))] if len(errors_w) >= MIN_ERRORS else []
    if back is None and ahead is None:
        return []
    errors_w = _misses(power_w, back, ahead)
    if len(errors_w) < MIN_ERRORS:
        return []
    return [(float(_line(power_w, np.array([at]), back, ahead)[0]), _sigma_w(errors_w))]


def _line(power_w: Floats, at: NDArray[np.int64], back: int | None, ahead: int | None) -> Floats:
    """Power on the line from `back` hours before to `ahead` hours after, or of the one side that is given."""
    if back is None:
        assert ahead is not None
        return np.asarray(power_w[at + ahead])
    if ahead is None:
        return np.asarray(power_w[at - back])
    return np.asarray((power_w[at - back] * ahead + power_w[at + ahead] * back) / (back + ahead))


def _misses(power_w: Floats, back: int | None, ahead: int | None) -> Floats:
    """What the line between hours so far apart misses, over all hours of the node where it can be checked."""
    at = np.arange(back or 0, len(power_w) - (ahead or 0))
    missed_w = power_w[at] - _line(power_w, at, back, ahead)
    return np.abs(missed_w[np.isfinite(missed_w)])


def _sigma_w(errors_w: Floats) -> float:
    rank = min(conformal_rank(len(errors_w), CONFIDENCE), len(errors_w))
    return float(np.sort(errors_w)[rank - 1]) / Z


def with_imputed(
    measured: pl.DataFrame, history: pl.DataFrame, modelled: pl.DataFrame | None
) -> pl.DataFrame:
    """Add `filled_kwh`, `filled_sigma_kwh`, `filled_s` and `filled_by` to measured node-hours with gaps.

    `history` holds gold/node_hour of the HISTORY_DAYS before. `modelled` has the node-hour's key, `model_kwh` and
    `model_sigma_kwh` of the uncovered seconds: where a registered model says something, it goes before history.
    """
    now, before = _hours(measured, wanted=True), _hours(history, wanted=False)
    gapped = now.filter(pl.col("expected_s") - pl.col("observed_s") > SHORTEST_GAP_S)
    # Only hours of nodes that have a gap are looked at.
    rows = pl.concat([now, before]).join(gapped.select(_NODE).unique(), on=_NODE, how="semi")
    filled = fill_gaps(rows).with_columns(
        pl.from_epoch(pl.col("hour") * int(SECONDS_PER_HOUR))
        .cast(pl.Datetime("us"))
        .dt.replace_time_zone("UTC")
        .alias("hour_start"),
    )
    key = list(NODE_HOUR_KEY)
    spoken = pl.DataFrame(schema=_MODELLED) if modelled is None else modelled
    has_model, gap_s = pl.col("model_kwh").is_not_null(), pl.col("expected_s") - pl.col("observed_s")
    return (
        measured.join(filled.drop("hour"), on=key, how="left")
        .join(spoken, on=key, how="left")
        .with_columns(
            pl.coalesce("model_kwh", "filled_kwh").alias("filled_kwh"),
            pl.when(has_model).then("model_sigma_kwh").otherwise("filled_sigma_kwh").alias("filled_sigma_kwh"),
            pl.when(has_model).then(gap_s).otherwise("filled_s").alias("filled_s"),
            pl.when(has_model).then(pl.lit(MODEL))
            .when(pl.col("filled_kwh").is_not_null()).then(pl.lit(HISTORY))
            .otherwise(pl.lit(NONE)).alias("filled_by"),
        )
        .drop("model_kwh", "model_sigma_kwh")
    )  # fmt: skip


def _hours(rows: pl.DataFrame, *, wanted: bool) -> pl.DataFrame:
    hour = pl.col("hour_start").dt.epoch("s") // int(SECONDS_PER_HOUR)
    return rows.select(
        *_KEY[:3], hour.alias("hour"), pl.lit(wanted).alias("wanted"),
        read_energy().alias("measured_kwh"), "observed_s", "expected_s",
    ).cast(HOURS)  # fmt: skip
