"""One device's hours on a gapless grid: measured and expected energy, load, and what is normal between them."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]

# Load bins: idle, part and full load each have errors of their own.
LOAD_EDGES: Final = (0.10, 0.50)
MIN_BIN_HOURS: Final = 24
_MAD_TO_SIGMA: Final = 1.4826
# A model that is right to less than this is not told from the sensor's rounding.
_SPREAD_FLOOR: Final = 0.005


@dataclass(frozen=True, slots=True)
class DeviceHours:
    """Hours from `first_hour` on, shape (n,): kWh measured and expected, load 0..1; NaN where unknown."""

    site_id: str
    cluster_id: str
    rack_id: str | None
    node_id: str
    device_id: str
    first_hour: datetime
    measured_kwh: Floats
    expected_kwh: Floats
    load_ratio: Floats

    @property
    def log_ratio(self) -> Floats:
        """log(measured / expected); NaN where either is unknown or not above 0."""
        usable = (self.measured_kwh > 0) & (self.expected_kwh > 0)
        ratio = np.divide(
            self.measured_kwh, self.expected_kwh, out=np.full(len(usable), np.nan), where=usable
        )
        return np.asarray(np.log(ratio))

    def hour(self, position: int) -> datetime:
        return self.first_hour + timedelta(hours=position)

    def part(self, start: int, end: int) -> DeviceHours:
        """Hours start..end-1 as hours of their own."""
        cut = slice(start, end)
        return DeviceHours(
            self.site_id, self.cluster_id, self.rack_id, self.node_id, self.device_id, self.hour(start),
            self.measured_kwh[cut], self.expected_kwh[cut], self.load_ratio[cut],
        )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Normal:
    """Median and spread of a device's log ratio in each load bin, over hours that had ended before."""

    median: Floats  # (bins,)
    spread: Floats  # (bins,)

    def deviation(self, hours: DeviceHours) -> tuple[Floats, Floats]:
        """Log ratio less the bin's median, and the weight of each hour, 1 / spread^2; NaN and 0 where unknown."""
        at = bins(hours.load_ratio)
        value = hours.log_ratio - self.median[at]
        weight = np.where(np.isfinite(value), 1.0 / self.spread[at] ** 2, 0.0)
        return value, weight


def bins(load_ratio: Floats) -> NDArray[np.int64]:
    """Load bin of each hour; unknown load stands with part load."""
    known = np.nan_to_num(load_ratio, nan=sum(LOAD_EDGES) / 2)
    return np.asarray(np.digitize(known, LOAD_EDGES), dtype=np.int64)


def normal(history: DeviceHours, half_life_h: float = 30 * 24.0) -> Normal:
    """What has been normal, recent hours weighing most; a bin of few hours takes the figures of all."""
    value, at = history.log_ratio, bins(history.load_ratio)
    age = np.arange(len(value), 0, -1.0)
    weight = np.where(np.isfinite(value), 0.5 ** (age / half_life_h), 0.0)
    median, spread = np.zeros(len(LOAD_EDGES) + 1), np.full(len(LOAD_EDGES) + 1, _SPREAD_FLOOR)
    for number in range(len(median)):
        inside = (at == number) & (weight > 0)
        if inside.sum() < MIN_BIN_HOURS:
            inside = weight > 0
        if not inside.any():
            continue
        median[number] = weighted_median(value[inside], weight[inside])
        off = np.abs(value[inside] - median[number])
        spread[number] = max(_MAD_TO_SIGMA * weighted_median(off, weight[inside]), _SPREAD_FLOOR)
    return Normal(median, spread)


def weighted_median(values: Floats, weights: Floats) -> float:
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(reached, reached[-1] / 2)])


def devices(hours: pl.DataFrame) -> list[DeviceHours]:
    """Each device of a frame (site_id, cluster_id, rack_id, node_id, device_id, hour_start, energy_kwh, expected_kwh,
    load_ratio), all on the grid of the frame's hours.

    Raises ValueError where a device has an hour twice.
    """
    if not hours.height:
        return []
    first: datetime = hours.select(pl.col("hour_start").min()).item()
    offsets = (pl.col("hour_start") - first).dt.total_hours()
    length = int(hours.select(offsets.max()).item()) + 1
    key = ["site_id", "cluster_id", "rack_id", "node_id", "device_id"]
    found = []
    for name, rows in (
        hours.with_columns(offsets.alias("_at")).sort(*key, "_at").group_by(key, maintain_order=True)
    ):
        at = rows["_at"].to_numpy()
        if len(np.unique(at)) != len(at):
            raise ValueError(f"node {name[3]} device {name[4]} has an hour twice")
        columns = []
        for column in ("energy_kwh", "expected_kwh", "load_ratio"):
            values = np.full(length, np.nan)
            values[at] = rows[column].cast(pl.Float64).fill_null(np.nan).to_numpy()
            columns.append(values)
        site, cluster, rack, node, device = name
        rack_id = None if rack is None else str(rack)
        found.append(DeviceHours(str(site), str(cluster), rack_id, str(node), str(device), first, *columns))
    return found
