"""The newest origin of a zone as rows of gold/forecast."""

from __future__ import annotations

from datetime import datetime
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.forecast.members import profile
from lepton_etl.forecast.replay import ForecastPolicy, replay
from lepton_etl.forecast.series import HORIZONS, Floats, zone_series

MODEL_NAME: Final = "grid-intensity-fusion"
MODEL_VERSION: Final = "1"


def forecast_rows(
    hours: pl.DataFrame, zone_id: str, origin: datetime, policy: ForecastPolicy | None = None
) -> pl.DataFrame:
    """Rows of gold/forecast for one zone and origin, from its silver/grid_hour of one basis, signal and flow.

    Hours stamped at or after the origin are not looked at. With too little history the 7-day
    profile stands alone, without an interval, and `forecast_basis` says so.
    """
    past = hours.filter(pl.col("hour_start") < origin)
    rows = {
        "date": [origin.date()] * HORIZONS, "zone_id": [zone_id] * HORIZONS, "origin_time": [origin] * HORIZONS,
        "horizon_h": list(range(1, HORIZONS + 1)), "model_name": [MODEL_NAME] * HORIZONS,
        "model_version": [MODEL_VERSION] * HORIZONS,
    }  # fmt: skip
    value: list[float | None] = [None] * HORIZONS
    lower, upper, basis = value, value, "none"
    if past.height:
        series = zone_series(past, until=origin)
        end = len(series.known)
        try:
            done = replay(series, end, policy)
            value, lower, upper = (_known(one[-1]) for one in (done.fused, done.lower, done.upper))
            basis = "fusion"
        except ValueError:
            value, basis = _known(profile(series, np.array([end]))[0]), "profile"
        if all(one is None for one in value):
            basis = "none"
    return pl.DataFrame(rows).with_columns(
        (pl.col("origin_time") + pl.duration(hours=pl.col("horizon_h") - 1)).alias("hour_start"),
        pl.Series("carbon_intensity_gco2e_per_kwh", value, dtype=pl.Float64),
        pl.Series("intensity_lower_gco2e_per_kwh", lower, dtype=pl.Float64),
        pl.Series("intensity_upper_gco2e_per_kwh", upper, dtype=pl.Float64),
        pl.lit(basis).alias("forecast_basis"),
    )


def _known(values: Floats) -> list[float | None]:
    return [float(one) if np.isfinite(one) else None for one in values]
