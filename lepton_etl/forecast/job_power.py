"""Expect of a run, before it starts, the mean power of earlier runs with such a request: no model of the registry.

Power of a run over all its nodes, W, predicted as a rate of each requested unit (GPU, else core) times the units: a
user's rate where the user has runs, pulled towards that of the partition, and that towards that of all with the same
kind of unit. Nothing of the run itself but its request is looked at. Sources: Efron and Morris, JASA 70 (1975),
shrinkage; Romano, Patterson and Candes, NeurIPS 32 (2019), conformal intervals.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.uncertainty import conformal_ends

# Nothing is fitted and nothing registered: the name says so.
MODEL_NAME: Final = "mean-of-runs-by-request"
MODEL_VERSION: Final = "1"
HALF_LIFE_DAYS: Final = 30.0
# Runs by which a rate of few runs is pulled to the wider group's.
PULL_RUNS: Final = 3.0
MIN_CALIBRATION: Final = 30
# The newest share of the history is predicted from the older part, to give the intervals.
CALIBRATION_SHARE: Final = 0.3
_BUCKET: Final = 2.0


@dataclass(frozen=True, slots=True)
class Rates:
    """Log watts a unit of users on a partition and size, of partitions, of kinds of unit; with the runs behind each."""

    user: pl.DataFrame
    partition: pl.DataFrame
    hardware: pl.DataFrame


def predict_jobs(requests: pl.DataFrame, history: pl.DataFrame, at: datetime) -> pl.DataFrame:
    """Return `requests` with predicted_power_w, its lower and upper end, and prediction_basis; same rows, same order.

    `history` are runs with their measured mean power, W over all nodes; only those that ended by `at` count. With no
    run of the same kind of unit all three figures are null and the basis is `none`.
    """
    known = _units(history.filter((pl.col("end_time") <= at) & (pl.col("mean_power_w") > 0))).sort("end_time")
    rows = _units(requests).with_row_index("_row")
    if not known.height:
        return _unknown(rows)
    cut = int(known.height * (1 - CALIBRATION_SHARE))
    ends = _ends(known, cut)
    predicted = _apply(rows, _rates(known, at)).join(ends, on="prediction_basis", how="left").sort("_row")
    power = pl.col("_log").exp() * pl.col("_units")
    return predicted.with_columns(
        power.alias("predicted_power_w"),
        (power * pl.col("_low").exp()).alias("predicted_power_lower_w"),
        (power * pl.col("_high").exp()).alias("predicted_power_upper_w"),
        pl.lit(MODEL_NAME).alias("model_name"),
        pl.lit(MODEL_VERSION).alias("model_version"),
    ).select(*requests.columns, *_ADDED)


_ADDED: Final = (
    "predicted_power_w", "predicted_power_lower_w", "predicted_power_upper_w", "prediction_basis", "model_name",
    "model_version",
)  # fmt: skip


def _units(frame: pl.DataFrame) -> pl.DataFrame:
    """Return units requested, their kind, and how many as a power of two; a request of neither has no units."""
    gpus, cores = pl.col("gpu_count").fill_null(0), pl.col("cpu_count").fill_null(0)
    return frame.with_columns(
        pl.when(gpus > 0).then(gpus).when(cores > 0).then(cores).cast(pl.Float64).alias("_units"),
        pl.when(gpus > 0).then(pl.lit("gpu")).when(cores > 0).then(pl.lit("core")).alias("_kind"),
    ).with_columns(pl.col("_units").log(_BUCKET).round().alias("_size"))


def _rates(known: pl.DataFrame, at: datetime) -> Rates:
    age_days = (pl.lit(at) - pl.col("end_time")).dt.total_seconds() / 86_400.0
    rows = known.with_columns(
        (pl.col("mean_power_w") / pl.col("_units")).log().alias("_rate"),
        (0.5 ** (age_days / HALF_LIFE_DAYS)).alias("_weight"),
    ).filter(pl.col("_rate").is_finite())

    def by(*keys: str) -> pl.DataFrame:
        mean = (pl.col("_rate") * pl.col("_weight")).sum() / pl.col("_weight").sum()
        return rows.group_by(*keys, maintain_order=True).agg(
            mean.alias("_mean"), pl.col("_weight").sum().alias("_n")
        )

    return Rates(
        by("user_name", "partition", "_kind", "_size").filter(pl.col("user_name").is_not_null()),
        by("partition", "_kind", "_size"),
        by("_kind"),
    )


def _apply(rows: pl.DataFrame, rates: Rates) -> pl.DataFrame:
    """Return `_log`, the log rate, and `prediction_basis`, the narrowest group that had a run."""

    def joined(left: pl.DataFrame, right: pl.DataFrame, keys: list[str], name: str) -> pl.DataFrame:
        named = right.rename({"_mean": f"_{name}", "_n": f"_{name}_n"})
        return left.join(named, on=keys, how="left", nulls_equal=True, maintain_order="left")

    out = joined(rows, rates.user, ["user_name", "partition", "_kind", "_size"], "user")
    out = joined(out, rates.partition, ["partition", "_kind", "_size"], "partition")
    out = joined(out, rates.hardware, ["_kind"], "hardware")

    def pulled(own: str, wider: pl.Expr) -> pl.Expr:
        weight = pl.col(f"_{own}_n") / (pl.col(f"_{own}_n") + PULL_RUNS)
        return (
            pl.when(pl.col(f"_{own}").is_null())
            .then(wider)
            .otherwise(weight * pl.col(f"_{own}") + (1 - weight) * wider)
        )

    partition = pulled("partition", pl.col("_hardware"))
    return out.with_columns(
        pulled("user", partition).alias("_log"),
        pl.when(pl.col("_user").is_not_null()).then(pl.lit("user"))
        .when(pl.col("_partition").is_not_null()).then(pl.lit("partition"))
        .when(pl.col("_hardware").is_not_null()).then(pl.lit("hardware"))
        .otherwise(pl.lit("none")).alias("prediction_basis"),
    )  # fmt: skip


def _ends(known: pl.DataFrame, cut: int) -> pl.DataFrame:
    """Log ends of the interval by basis, from the newest runs predicted by the older; all bases where one has few."""
    older, newer = known[:cut], known[cut:]
    found: list[dict[str, object]] = []
    if older.height and newer.height:
        # A run is judged by what had ended before it was submitted only as far as the older part goes.
        predicted = _apply(newer, _rates(older, older["end_time"].max()))  # type: ignore[arg-type]
        miss = predicted.with_columns(
            ((pl.col("mean_power_w") / pl.col("_units")).log() - pl.col("_log")).alias("_miss")
        )
        every = miss["_miss"].drop_nulls().to_numpy()
        for basis in ("user", "partition", "hardware"):
            own = miss.filter(pl.col("prediction_basis") == basis)["_miss"].drop_nulls().to_numpy()
            low, high = conformal_ends(
                own if len(own) >= MIN_CALIBRATION else every, least_count=MIN_CALIBRATION
            )
            if np.isfinite(low):
                found.append({"prediction_basis": basis, "_low": low, "_high": high})
    schema = {"prediction_basis": pl.String, "_low": pl.Float64, "_high": pl.Float64}
    return pl.DataFrame(found, schema=schema)


def _unknown(rows: pl.DataFrame) -> pl.DataFrame:
    nothing = [pl.lit(None, pl.Float64).alias(name) for name in _ADDED[:3]]
    kept = [name for name in rows.columns if not name.startswith("_")]
    return rows.select(
        *kept, *nothing, pl.lit("none").alias("prediction_basis"), pl.lit(MODEL_NAME).alias("model_name"),
        pl.lit(MODEL_VERSION).alias("model_version"),
    )  # fmt: skip
