"""Score device-hours on executors with the bytes of a verified model."""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final, cast

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F
from pyspark.sql.pandas.functions import arrow_udf

from lepton_etl.models.features import KEYS, TARGET
from lepton_etl.models.recalibration import Recalibration, corrections
from lepton_etl.models.stored import VerifiedModel, build, predict
from lepton_etl.schema.columns import Transform
from lepton_etl.schema.declare import SECONDS_PER_HOUR

_PREDICTED: Final = "predicted_kwh"
# Of a device with both the accelerator is what its energy follows.
_LOADS: Final = ("gpu_utilisation_ratio", "cpu_utilisation_ratio")
_KEPT: Final = (*KEYS, "date", TARGET)


def with_prediction(model: VerifiedModel, coverage_min_ratio: float) -> Transform:
    """Turn device-hours into KEYS, date, measured `energy_kwh`, `predicted_kwh`, load_ratio, model name and version.

    An hour below the coverage limit is predicted, but its measured energy stays null: too little was seen.
    The model's bytes were checked on the driver; Spark carries them, each Python worker builds it once.
    """
    names = model.feature_names
    columns = model.columns

    def transform(hours: DataFrame) -> DataFrame:
        carried = hours.sparkSession.sparkContext.broadcast(model.data)
        covered = F.col("observed_s") >= coverage_min_ratio * SECONDS_PER_HOUR
        loads = [F.col(name) for name in _LOADS if name in hours.columns]
        inputs = hours.withColumns(
            {
                TARGET: F.when(covered, F.col(TARGET)),
                "load_ratio": F.coalesce(*loads, F.lit(None).cast("double")),
            }
        )

        # Only the features cross to Python and one number a row comes back; keys stay in the JVM.
        def score(batches: Iterator[tuple[pa.Array, ...]]) -> Iterator[pa.Array]:
            pipeline = _built(carried.value)
            for arrays in batches:
                rows = pa.Table.from_arrays(list(arrays), list(names)).to_pandas()
                yield pa.array(predict(pipeline, columns, rows), pa.float64())

        of_rows = cast(Any, arrow_udf)(score, "double")
        return inputs.select(
            *_KEPT,
            of_rows(*names).alias(_PREDICTED),
            "load_ratio",
            F.lit(model.version.name).alias("model_name"),
            F.lit(model.version.version).alias("model_version"),
        )

    return transform


def recalibrated(rows: pl.DataFrame) -> pl.Series:
    """Return `recalibrated_kwh` of rows of gold/prediction, by the device's residuals of earlier days at like load.

    The rows are those of whole devices, days to score and days before. Null without a known load.
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
