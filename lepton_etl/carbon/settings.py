"""Settings of factors, instruments, Scope 1 and embodied carbon."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class CarbonSettings(BaseModel):
    """Where the factors and registers stand, and which market the site buys in."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    factors: Path | None = Field(
        default=None, description="Folder of factor tables; default: the ones shipped in conf/factors."
    )
    instruments: Path | None = Field(
        default=None, description="CSV of certificates, contracts and supplier tariffs."
    )
    scope1: Path | None = Field(default=None, description="CSV of fuel burnt and refrigerant lost.")
    market_zone: str | None = Field(
        default=None,
        min_length=1,
        description="Market boundary of instruments and the residual mix; default: grid.zone.",
    )
    average_zone: str | None = Field(
        default=None,
        min_length=1,
        description="Zone of conf/factors/grid_average.csv that unmatched energy takes where there is no residual "
        "mix; null: the hour's location-based intensity.",
    )
    annual_consumption_kwh: float | None = Field(
        default=None,
        gt=0,
        description="Grid energy expected in a calendar year, which annual volumes are spread over until the year "
        "is closed; null: extrapolated from the year to date.",
    )
    gwp_set: Literal["AR5", "AR6"] = Field(default="AR6", description="Set of global warming potentials.")
    generator_fuel: Literal["diesel"] | None = Field(
        default=None, description="Fuel of the site's generators; null: their emissions are unknown."
    )
