"""What a device did in the hours before: load and temperature of former hours as features, never its power.

A board that holds a context draws three times the power of a free one at the same utilisation of zero; whether
it was used in the last hours tells. A heat sink and a room remember for hours. Every column is made from the
utilisation and temperature of the **same or former** hours of the same device, looked up by time and not by row,
so that a gap stays unknown. Nothing here is made from power: docs/definitions.md section 8; measured energy of former
days enters in `recalibration.py` alone.
"""

from __future__ import annotations

from typing import Final

import numpy as np
import pandas as pd

from lepton_etl.models.features import Feature

_HOUR: Final = pd.Timedelta(hours=1)
_LAGS: Final = (1, 2)
_ACTIVE_HOURS: Final = (6, 24, 168)
# A month without any use is as good as never: the trees need an end of the scale.
_IDLE_MAX_HOURS: Final = 720.0
_DEVICE: Final = ("site_id", "node_id", "device_id")


def memory_features(names: list[str]) -> tuple[Feature, ...]:
    """The features that `with_memory` adds to a table that has these base features, in its order."""
    found: list[Feature] = []
    for column in _loads(names):
        stem = column.removesuffix("_ratio")
        found += [
            Feature(f"{stem}_lag{lag}h_ratio", "dimensionless", f"{stem}, {lag} h before.", (column,))
            for lag in _LAGS
        ]
        found.append(
            Feature(f"{stem}_24h_ratio", "dimensionless", f"{stem}, mean of the 24 h before.", (column,))
        )
        if f"{stem}_max_ratio" in names and not stem.startswith("memory"):
            peak = (f"{stem}_max_ratio",)
            found += [
                Feature(
                    f"{stem}_active_{hours}h_ratio",
                    "dimensionless",
                    f"Share of the {hours} h before with any use ({stem}).",
                    peak,
                )
                for hours in _ACTIVE_HOURS
            ]
            found.append(
                Feature(
                    f"{stem}_idle_hours",
                    "hour",
                    f"Hours of no use before this ({stem}), at most a month.",
                    peak,
                )
            )
    for column in _temperatures(names):
        stem = column.removesuffix("_c")
        found += [
            Feature(f"{stem}_lag{lag}h_c", "degree_Celsius", f"{stem}, {lag} h before.", (column,))
            for lag in _LAGS
        ]
        found += [
            Feature(f"{stem}_24h_min_c", "degree_Celsius", f"{stem}, coolest of the 24 h before.", (column,)),
            Feature(
                f"{stem}_168h_min_c", "degree_Celsius", f"{stem}, coolest of the week before.", (column,)
            ),
            Feature(f"{stem}_24h_max_c", "degree_Celsius", f"{stem}, warmest of the 24 h before.", (column,)),
            Feature(
                f"{stem}_excess_k", "delta_degree_Celsius", f"{stem} above the coolest of 24 h.", (column,)
            ),
        ]
    return tuple(found)


def with_memory(hours: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    """`hours` (unique by device and `hour_start`) with the columns of `memory_features(names)`.

    Row order and index stay. A former hour that is missing gives NaN in its lag and is left out of the windows.
    """
    added = [feature.name for feature in memory_features(names)]
    pieces = [
        _of_device(rows, names)[added] for _, rows in hours.groupby(list(_DEVICE), sort=False, dropna=False)
    ]
    return hours.join(pd.concat(pieces)) if pieces else hours.assign(**dict.fromkeys(added, np.nan))


def _loads(names: list[str]) -> list[str]:
    return [n for n in names if n.endswith("_utilisation_ratio")]


def _temperatures(names: list[str]) -> list[str]:
    return [n for n in names if n in ("inlet_temp_c", "device_temp_c")]


def _of_device(rows: pd.DataFrame, names: list[str]) -> pd.DataFrame:
    stamps = pd.DatetimeIndex(rows["hour_start"])
    grid = pd.date_range(stamps.min(), stamps.max(), freq=_HOUR)
    # The first of two rows of an hour: the autumn hour of a local clock comes twice.
    by_time = rows.set_index("hour_start")[names]
    full = by_time[~by_time.index.duplicated()].reindex(grid)
    found: dict[str, pd.Series[float]] = {}
    for column in _loads(names):
        stem = column.removesuffix("_ratio")
        found |= {f"{stem}_lag{lag}h_ratio": full[column].shift(lag) for lag in _LAGS}
        found[f"{stem}_24h_ratio"] = full[column].shift(1).rolling(24, min_periods=1).mean()
        if f"{stem}_max_ratio" in names and not stem.startswith("memory"):
            found |= _activity(stem, full[f"{stem}_max_ratio"])
    for column in _temperatures(names):
        stem, before = column.removesuffix("_c"), full[column].shift(1)
        found |= {f"{stem}_lag{lag}h_c": full[column].shift(lag) for lag in _LAGS}
        coolest = before.rolling(24, min_periods=1).min()
        found[f"{stem}_24h_min_c"] = coolest
        found[f"{stem}_168h_min_c"] = before.rolling(168, min_periods=1).min()
        found[f"{stem}_24h_max_c"] = before.rolling(24, min_periods=1).max()
        found[f"{stem}_excess_k"] = full[column] - coolest
    table = pd.DataFrame(found, index=grid).reindex(stamps)
    return table.set_index(rows.index)


def _activity(stem: str, peak: pd.Series[float]) -> dict[str, pd.Series[float]]:
    active = (peak > 0).astype(float).where(peak.notna()).shift(1)
    number = pd.Series(np.arange(len(peak), dtype=np.float64), index=peak.index)
    since = (number - number.where(active > 0).ffill()).clip(upper=_IDLE_MAX_HOURS)
    shares = {
        f"{stem}_active_{hours}h_ratio": active.rolling(hours, min_periods=1).mean()
        for hours in _ACTIVE_HOURS
    }
    return shares | {f"{stem}_idle_hours": since}
