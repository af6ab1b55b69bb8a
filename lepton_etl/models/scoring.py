"""Score device-hours with the bytes of a verified model: what a task does, without MLflow and without Spark."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date
from functools import lru_cache
from typing import Any, Final

import numpy as np
import pandas as pd
import polars as pl

from lepton_etl.models.explain import slopes
from lepton_etl.models.features import KEYS, TARGET
from lepton_etl.models.nightly_interval import night_ends
from lepton_etl.models.recalibration import Recalibration, corrections
from lepton_etl.models.rivals import LOADS
from lepton_etl.models.shift import in_force, shifts
from lepton_etl.models.stored import OUTPUTS, FittedModel, VerifiedModel, build, intervals
from lepton_etl.schema.declare import SECONDS_PER_HOUR

_DEVICE: Final = ("site_id", "cluster_id", "node_id", "device_id")
# Beside the load, what says whether two hours of a device are alike.
_ALIKE: Final = ("inlet_temp_c", "device_temp_c", "memory_utilisation_ratio")
# Of the days before, what a night learns from: residuals, and how often its intervals were missed.
HISTORY: Final = (
    *_DEVICE, "hour_start", "date", "energy_kwh", "predicted_kwh", "load_ratio", "model_name", "model_version",
    "recalibrated_kwh", "recalibrated_lower_kwh", "recalibrated_upper_kwh", *_ALIKE,
)  # fmt: skip


def predictions(hours: pl.DataFrame, model: VerifiedModel, coverage_min_ratio: float) -> pl.DataFrame:
    """Return KEYS, date, measured and predicted energy with its interval, load, temperature, memory and model of hours.

    An hour below the coverage limit is predicted, but its measured energy stays null: too little was seen.
    The model's bytes were checked on the driver; each worker builds it once.
    """
    is_covered = pl.col("observed_s") >= coverage_min_ratio * SECONDS_PER_HOUR
    loads = [pl.col(name) for name in LOADS if name in hours.columns]
    rows = hours.select(*model.feature_names).to_pandas()
    predicted = intervals(_built(model.data), model.columns, rows) if hours.height else np.empty((0, 3))
    return hours.select(
        *KEYS,
        "date",
        pl.when(is_covered).then(TARGET).alias(TARGET),
        # A straight line of a plain model goes below nothing at low loads; a device does not.
        *(
            pl.Series(name, np.maximum(predicted[:, at], 0.0)).fill_nan(None)
            for at, name in enumerate(OUTPUTS)
        ),
        _far_outside(model.columns).alias("outside_inputs"),
        pl.coalesce(*loads, pl.lit(None, pl.Float64)).alias("load_ratio"),
        *(pl.col(name) if name in hours.columns else pl.lit(None, pl.Float64).alias(name) for name in _ALIKE),
        pl.lit(model.version.name).alias("model_name"),
        pl.lit(model.version.version).alias("model_version"),
    )


def _far_outside(columns: tuple[dict[str, Any], ...]) -> pl.Expr:
    """Return the names of a row's inputs that lie far outside of what the model learnt, in the order of the columns."""
    known = [
        pl.when(pl.col(column["name"]).is_between(column["lowest"], column["highest"]).not_())
        .then(pl.lit(column["name"]))
        for column in columns
        if "lowest" in column
    ]  # fmt: skip
    empty = pl.lit(None, pl.List(pl.String))
    return pl.concat_list(known).list.drop_nulls() if known else empty


def recalibrated(rows: pl.DataFrame, first: date) -> pl.Series:
    """Return `recalibrated_kwh` of rows of gold/prediction from `first` on: corrected by the residuals of earlier days.

    The rows are those of whole devices, days to score and days before; residuals count at like load, temperature and
    memory in use. Null without a known load.
    """
    columns = ["load_ratio", *_ALIKE]
    hours = rows.select("site_id", "node_id", "device_id", "hour_start", "date", *columns).to_pandas()
    hours["hour_start"] = pd.to_datetime(hours["hour_start"], utc=True)
    predicted = rows["predicted_kwh"].to_numpy()
    residual = (rows["energy_kwh"] - rows["predicted_kwh"]).cast(pl.Float64).fill_null(np.nan).to_numpy()
    known = rows["load_ratio"].is_not_null().to_numpy()
    residual = np.where(known, residual, np.nan)
    corrected = np.maximum(predicted + corrections(hours, residual, columns, Recalibration(), first), 0.0)
    return pl.Series("recalibrated_kwh", np.where(known, corrected, np.nan)).fill_nan(None)


def night(
    scored: pl.DataFrame, history: pl.DataFrame, known: pl.DataFrame
) -> tuple[pl.DataFrame, pl.DataFrame]:
    """Return what a night makes of predictions (`predictions`): rows of gold/prediction, and those of gold/model_shift.

    The days before correct them and say how wide their interval is; what they missed tells whether a device has
    shifted. `history` are columns HISTORY of gold/prediction, `known` rows of gold/model_shift of the days before.
    """
    first: date = scored.select(pl.col("date").min()).item()
    # In one time zone and unit, whichever engine wrote the history.
    same = scored.cast({name: history.schema[name] for name in HISTORY if name in scored.columns})
    whole = pl.concat([history, same], how="diagonal").sort(*_DEVICE, "hour_start")
    is_new = pl.col("date") >= first
    corrected = pl.when(is_new).then(recalibrated(whole, first)).otherwise("recalibrated_kwh")
    whole = whole.with_columns(corrected.alias("recalibrated_kwh"))
    rows = _with_night_interval(whole, first).filter(is_new)
    tested = shifts(rows, known)
    since = in_force(rows, pl.concat([known, tested.select(known.columns)], how="vertical_relaxed"))
    return _widened(rows.with_columns(since)), tested


def _with_night_interval(rows: pl.DataFrame, first: date) -> pl.DataFrame:
    """Add the ends of the recalibrated prediction from the day `first` on."""
    points = (*OUTPUTS, "recalibrated_kwh")
    ends = ("recalibrated_lower_kwh", "recalibrated_upper_kwh")
    numbers = pl.col("load_ratio", "energy_kwh", *points, *ends).cast(pl.Float64)
    hours = rows.select("site_id", "node_id", "device_id", "hour_start", "date", numbers).to_pandas()
    hours["hour_start"] = pd.to_datetime(hours["hour_start"], utc=True)
    made = night_ends(hours, first)
    return rows.with_columns(pl.Series(end, made[:, at]).fill_nan(None) for at, end in enumerate(ends))


def _widened(rows: pl.DataFrame) -> pl.DataFrame:
    """Return predictions whose interval holds the recalibrated one too where a shift is in force (`shift_since`)."""
    return rows.with_columns(
        pl.when(pl.col("shift_since").is_null())
        .then(f"predicted_{end}_kwh")
        .otherwise(outer(f"predicted_{end}_kwh", f"recalibrated_{end}_kwh"))
        .alias(f"predicted_{end}_kwh")
        for end, outer in (("lower", pl.min_horizontal), ("upper", pl.max_horizontal))
    )


# Slope of the dictionary -> the input of the model that it is the slope of, and which term of the chain rule it has.
_SLOPES: Final = {
    "rated_power_kwh_per_w": ("rated_power_w", "power_term_kwh"),
    "inlet_temp_kwh_per_k": ("inlet_temp_c", "temp_term_kwh"),
    "cpu_load_slope_kwh": ("cpu_utilisation_ratio", "load_term_kwh"),
    "gpu_load_slope_kwh": ("gpu_utilisation_ratio", "load_term_kwh"),
    "memory_load_slope_kwh": ("memory_utilisation_ratio", "load_term_kwh"),
}
_TERMS: Final = ("power_term_kwh", "temp_term_kwh", "load_term_kwh")


def sensitivities(hours: pl.DataFrame, model: VerifiedModel) -> pl.DataFrame:
    """Return KEYS, the slopes of the model's energy at each device-hour, model_name and model_version.

    T is the inlet's: a model of die temperature has no dE/dT. What the model does not take, or the hour does not
    know, has no slope.
    """
    fitted = FittedModel(_built(model.data), model.columns)
    found = slopes(fitted, hours.select(*model.feature_names).to_pandas()) if hours.height else {}
    return hours.select(
        *KEYS,
        *(
            pl.Series(name, found[of], pl.Float64, nan_to_null=True) if of in found
            else pl.lit(None, pl.Float64).alias(name)
            for name, (of, _) in _SLOPES.items()
        ),
        pl.lit(model.version.name).alias("model_name"),
        pl.lit(model.version.version).alias("model_version"),
    )  # fmt: skip


def with_chain_rule(rows: pl.DataFrame, hours: pl.DataFrame) -> pl.DataFrame:
    """Add the terms of dE/dt = dE/dP dP/dt + dE/dT dT/dt + dE/dL dL/dt since the hour before, kWh, to `sensitivities`.

    `hours` are device-hours, those of `rows` and of the hour before them. L is every load that has a slope. A term is
    null where it has no slope, or an input an hour before is not known; their sum, `chain_rule_kwh`, where a term is.
    `sensitivity_basis` is `model` where P, T and L all have a slope, else `partial`.
    """
    names = {name: of for name, (of, _) in _SLOPES.items() if of in hours.columns}
    now = hours.select(*KEYS, *names.values())
    hour_before = pl.col("hour_start") + pl.duration(hours=1)
    before = hours.select(*KEYS[:-1], hour_before, *(pl.col(of).alias(f"_{of}") for of in names.values()))
    unknown = pl.lit(None, pl.Float64)
    moved = {
        name: pl.col(name) * (pl.col(of) - pl.col(f"_{of}")) if name in names else unknown
        for name, (of, _) in _SLOPES.items()
    }
    whole = pl.all_horizontal(_has_slope(of_term) for of_term in _TERMS)
    return (
        rows.join(now, on=KEYS, how="left")
        .join(before, on=KEYS, how="left")
        .with_columns(
            *(
                pl.when(_has_slope(of_term) & ~_lacks(of_term, moved))
                .then(pl.sum_horizontal(moved[name] for name in _slopes_of(of_term)))
                .alias(of_term)
                for of_term in _TERMS
            ),
            pl.when(whole).then(pl.lit("model")).otherwise(pl.lit("partial")).alias("sensitivity_basis"),
        )
        .with_columns(pl.sum_horizontal(*_TERMS, ignore_nulls=False).alias("chain_rule_kwh"))
        .drop(*names.values(), *(f"_{of}" for of in names.values()))
    )


def _slopes_of(of_term: str) -> list[str]:
    return [name for name, (_, term) in _SLOPES.items() if term == of_term]


def _has_slope(of_term: str) -> pl.Expr:
    return pl.any_horizontal(pl.col(name).is_not_null() for name in _slopes_of(of_term))


def _lacks(of_term: str, moved: Mapping[str, pl.Expr]) -> pl.Expr:
    """Whether an input with a slope has no change: an hour before it was not known."""
    return pl.any_horizontal(
        pl.col(name).is_not_null() & moved[name].is_null() for name in _slopes_of(of_term)
    )


@lru_cache(maxsize=2)
def _built(data: bytes) -> Any:
    return build(data)
