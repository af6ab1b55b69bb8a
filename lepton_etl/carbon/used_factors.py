"""Which factors a site's figures take, how old they are on a day, and which are missing."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date
from typing import Final

import polars as pl

from lepton_etl.carbon.embodied import PARTS, SERVER
from lepton_etl.config.sections import CarbonSettings
from lepton_etl.registers.factors import Factor, FactorSet, load_factors
from lepton_etl.registers.instruments import GASES

# What only gold/kpi takes; every other figure stands in gold/cluster_hour too.
GRID_WATER: Final = "grid water"
_OF_SENSORS: Final = {"sensor_classes": "energy intervals", "node_power": "modelled power"}


@dataclass(frozen=True, slots=True)
class FactorUse:
    """One factor that a figure takes on a day; `factor` None: there is no row of any year."""

    figure: str
    table: str
    keys: tuple[tuple[str, str], ...]
    factor: Factor | None


def site_factors(carbon: CarbonSettings) -> FactorSet:
    """The factors that a site's settings name, its own before those of the folder; see load_factors."""
    return load_factors(carbon.factors, carbon.own_factors)


def used_factors(
    factors: FactorSet, carbon: CarbonSettings, grid_zone: str | None, day: date
) -> list[FactorUse]:
    """Every factor that a site of these settings takes for a day; `grid_zone` is the zone of its intensity."""
    found = []
    for figure, table, keys in _asked(factors, carbon, grid_zone, day):
        factor = factors.find(table, valid_on=day, **keys) if table in factors.tables else None
        found.append(FactorUse(figure, table, tuple(keys.items()), factor))
    return found


def _asked(
    factors: FactorSet, carbon: CarbonSettings, grid_zone: str | None, day: date
) -> Iterator[tuple[str, str, dict[str, str]]]:
    for flag in ("false", "true"):
        yield "location-based interval", "grid_intensity_uncertainty", {"estimated": flag}
    market = carbon.market_zone or grid_zone
    if market is not None:
        yield "market-based", "residual_mix", {"zone_id": market}
        residual = factors.find("residual_mix", valid_on=day, zone_id=market)
        if residual is None and carbon.average_zone:
            average = {"zone_id": carbon.average_zone, "intensity_basis": "direct"}
            yield "market-based", "grid_average", average
    if carbon.generator_fuel is not None:
        for gas in GASES:
            yield "Scope 1", "fuel", {"fuel": carbon.generator_fuel, "gas": gas}
            yield "Scope 1", "gwp", {"gwp_set": carbon.gwp_set, "substance": gas}
        yield "Scope 1", "generator", {"fuel": carbon.generator_fuel}
    for figure in ("upstream", "embodied_inventory", "embodied_archetype"):
        yield "intervals", "figure_uncertainty", {"figure": figure}
    for part in PARTS:
        yield "embodied", "embodied", {"part": part}
    yield "embodied", "lifetime", {"part": SERVER}
    if grid_zone is not None:
        yield GRID_WATER, "electricity_water", {"zone_id": grid_zone}
    for name, figure in _OF_SENSORS.items():
        table = factors.tables.get(name)
        for key in table.rows if table else ():
            yield figure, name, dict(zip(table.keys if table else (), key, strict=True))


def factor_columns(uses: Iterable[FactorUse]) -> tuple[pl.Expr, pl.Expr]:
    """`factor_age_years`, the largest age (null: no factor at all), and `factor_flags`: aged and missing tables."""
    listed = [use for use in uses if use.figure != GRID_WATER]
    ages = [use.factor.age_years for use in listed if use.factor]
    flags = {
        f"{'aged' if use.factor else 'missing'}:{use.table}"
        for use in listed
        if use.factor is None or use.factor.age_years
    }
    return (
        pl.lit(max(ages, default=None), pl.Int32).alias("factor_age_years"),
        pl.lit(sorted(flags), pl.List(pl.String)).alias("factor_flags"),
    )
