"""Score device-hours with the bytes of a verified model: what a task does, without MLflow and without Spark."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np
import pandas as pd
import polars as pl

from lepton_etl.models.features import KEYS, TARGET
from lepton_etl.models.recalibration import Recalibration, corrections
from lepton_etl.models.rivals import LOADS
from lepton_etl.models.stored import OUTPUTS, VerifiedModel, build, intervals
from lepton_etl.schema.declare import SECONDS_PER_HOUR


def predictions(hours: pl.DataFrame, model: VerifiedModel, coverage_min_ratio: float) -> pl.DataFrame:
    """Return KEYS, date, measured and predicted energy with its interval, load and model of hours.

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


def recalibrated(rows: pl.DataFrame) -> pl.Series:
    """Return `recalibrated_kwh` of rows of gold/prediction: corrected by the device's residuals of earlier days.

    The rows are those of whole devices, days to score and days before; residuals count at like load. Null without a
    known load.
    """
    hours = rows.select("site_id", "node_id", "device_id", "hour_start", "date", "load_ratio").to_pandas()
    hours["hour_start"] = pd.to_datetime(hours["hour_start"], utc=True)
    predicted = rows["predicted_kwh"].to_numpy()
    residual = (rows["energy_kwh"] - rows["predicted_kwh"]).cast(pl.Float64).fill_null(np.nan).to_numpy()
    known = rows["load_ratio"].is_not_null().to_numpy()
    residual = np.where(known, residual, np.nan)
    corrected = np.maximum(predicted + corrections(hours, residual, ["load_ratio"], Recalibration()), 0.0)
    return pl.Series("recalibrated_kwh", np.where(known, corrected, np.nan)).fill_nan(None)


@lru_cache(maxsize=2)
def _built(data: bytes) -> Any:
    return build(data)
