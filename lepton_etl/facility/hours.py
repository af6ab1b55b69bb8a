"""Hours of a site as the model sees them: IT energy, cooling, management, losses, heat and wet bulb in arrays."""

from __future__ import annotations

from dataclasses import dataclass, fields
from datetime import date
from typing import Final, Self

import numpy as np
import polars as pl
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Bools = NDArray[np.bool_]

# Accounts of the ledger that the model is fitted on, and the basis that makes them readings.
PARTS: Final = ("cooling", "management", "conversion_loss")
READ: Final = ("measured", "derived")
HOURS_PER_WEEK: Final = 168
_EPOCH: Final = date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class PlantHours:
    """Hours of one site in time order, one element an hour, kWh unless named otherwise; unknown is NaN.

    `hour` counts hours since 1970 UTC. `overhead_kwh` is cooling + management: their sub-meters' sum, or, where
    the site has none, all that the boundary meters show above IT (then with the conversion losses in it).
    """

    hour: Ints
    it_kwh: Floats
    wet_bulb_c: Floats
    cooling_kwh: Floats
    management_kwh: Floats
    overhead_kwh: Floats
    loss_kwh: Floats
    heat_kwh: Floats

    def __len__(self) -> int:
        return len(self.hour)

    @property
    def day(self) -> Ints:
        """Days since 1970 UTC."""
        return self.hour // 24

    @property
    def is_sub_metered(self) -> bool:
        """Whether cooling and management are metered apart."""
        return bool(np.isfinite(self.cooling_kwh).any() and np.isfinite(self.management_kwh).any())

    @property
    def usable(self) -> Bools:
        """Hours from which the overhead can be learnt: IT, wet bulb and overhead known, IT above zero."""
        known = np.isfinite(self.it_kwh) & np.isfinite(self.wet_bulb_c) & np.isfinite(self.overhead_kwh)
        if self.is_sub_metered:
            known &= np.isfinite(self.cooling_kwh)
        return np.asarray(known & (np.nan_to_num(self.it_kwh) > 0), dtype=np.bool_)

    def at(self, chosen: Bools) -> Self:
        """The hours where `chosen` is true."""
        return type(self)(*(getattr(self, field.name)[chosen] for field in fields(self)))

    def a_week_before(self) -> Floats:
        """Overhead of the same hour a week before, kWh; NaN where that hour is not among these."""
        found = dict(zip(self.hour.tolist(), self.overhead_kwh.tolist(), strict=True))
        return np.array([found.get(hour - HOURS_PER_WEEK, np.nan) for hour in self.hour.tolist()])


def day_of(day: int) -> date:
    """The UTC date of a day counted since 1970."""
    return date.fromordinal(_EPOCH.toordinal() + day)


def plant_hours(site_hours: pl.DataFrame, ledger: pl.DataFrame, heat: pl.DataFrame) -> dict[str, PlantHours]:
    """Rows of gold/site_hour and gold/energy_ledger, hours of heat meters -> the hours of each site.

    Of the ledger only accounts by meters are taken: a model must not learn from a model. `heat` has
    site_id, hour_start, point, energy_kwh (null: not known); heat that leaves the site (`export`) or enters it
    (`utility`) was not removed by the cooling. IT energy is that of gold/site_hour.
    """
    measured = ledger.filter((pl.col("side") == "account") & pl.col("account_basis").is_in(READ))
    parts = measured.group_by("site_id", "hour_start").agg(
        pl.col("account_kwh").filter(pl.col("ledger_account") == part).first().alias(part) for part in PARTS
    )
    heats = (
        heat.filter(~pl.col("point").fill_null("").is_in(("export", "utility")))
        .sort("site_id", "hour_start", "energy_kwh")
        .group_by("site_id", "hour_start", maintain_order=True)
        .agg(pl.when(pl.col("energy_kwh").null_count() == 0).then(pl.col("energy_kwh").sum()).alias("heat"))
    )
    above_it = pl.col("facility_metered_kwh") - pl.col("it_energy_kwh")
    hours = (
        site_hours.join(parts, on=["site_id", "hour_start"], how="left")
        .join(heats, on=["site_id", "hour_start"], how="left")
        .with_columns(above_it.alias("above_it"))
        .sort("site_id", "hour_start")
    )
    return {
        str(site_id): _site(of_site) for (site_id,), of_site in hours.group_by("site_id", maintain_order=True)
    }


def _site(hours: pl.DataFrame) -> PlantHours:
    both = hours["cooling"] + hours["management"]
    has_parts = both.is_not_null().any()
    micros = hours["hour_start"].dt.epoch("us").to_numpy()
    return PlantHours(
        hour=np.asarray(micros // 3_600_000_000, dtype=np.int64),
        it_kwh=_floats(hours["it_energy_kwh"]),
        wet_bulb_c=_floats(hours["outdoor_wet_bulb_temp_c"]),
        cooling_kwh=_floats(hours["cooling"]),
        management_kwh=_floats(hours["management"]),
        # A site without sub-meters learns one overhead from the boundary; one with them never mixes the two.
        overhead_kwh=_floats(both if has_parts else hours["above_it"]),
        loss_kwh=_floats(hours["conversion_loss"]),
        heat_kwh=_floats(hours["heat"]),
    )


def _floats(column: pl.Series) -> Floats:
    return np.asarray(column.cast(pl.Float64).fill_null(np.nan).to_numpy(), dtype=np.float64)
