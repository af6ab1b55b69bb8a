"""Work out operational emissions: grid energy of an hour times the intensity of that hour, summed over days.

A day is the sum over its hours, never its energy times a mean intensity. Energy of hours without an intensity
is counted as missing, not as free of emissions.
Source: GHG Protocol Scope 2 Guidance (2015), location-based method.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import date
from functools import reduce
from operator import or_
from typing import Final

import polars as pl

from lepton_etl.energy.exact_sums import ends, exact_sum, over, quotient, whole_ends
from lepton_etl.registers.factors import FactorSet
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM, end_names
from lepton_etl.uncertainty import Z_EVEN, Z

_HOUR: Final = ["site_id", "hour_start"]
_DAY: Final = ["date", "site_id", "cluster_id"]
_MODELLED: Final = ("assumed", "modelled")
_SUMMED: Final = ("emissions_market_kgco2e", "embodied_kgco2e", "water_l")


def hourly_intensity(grid_hours: pl.DataFrame, zone_id: str | None, flow: str) -> pl.DataFrame:
    """silver/grid_hour -> the hour's direct intensity, what the life cycle adds upstream, and `estimated`.

    Average signal and one flow only; a marginal or another mix never mixes in. Upstream is life cycle minus
    direct; where that is negative the two do not belong together and it is null. No zone: no rows.
    Source: GHG Protocol Scope 2 Guidance (2015), location-based method (average, combustion only).
    """
    intensity, basis = pl.col("carbon_intensity_gco2e_per_kwh"), pl.col("intensity_basis")
    is_direct = basis == "direct"
    of_zone = grid_hours.filter(
        pl.col("zone_id") == pl.lit(zone_id, pl.String), pl.col("signal") == "average", pl.col("flow") == flow
    )
    # One row a kind: the key of silver/grid_hour.
    hours = of_zone.group_by("hour_start").agg(
        pl.when(is_direct).then(intensity).max().alias("carbon_intensity_gco2e_per_kwh"),
        pl.when(basis == "lifecycle").then(intensity).max().alias("lifecycle"),
        pl.when(is_direct).then("estimated").max().alias("estimated"),
    )
    upstream = pl.col("lifecycle") - intensity
    return hours.select(
        "hour_start",
        "carbon_intensity_gco2e_per_kwh",
        pl.when(upstream >= 0).then(upstream).alias("upstream_gco2e_per_kwh"),
        "estimated",
    )


@dataclass(frozen=True, slots=True)
class GeneratorFactor:
    """Direct emissions of a generator's fuel, by the litre burnt and by the kWh delivered; None: not known."""

    kgco2e_per_l: float | None
    kgco2e_per_kwh: float | None


@dataclass(frozen=True, slots=True)
class IntensityError:
    """One relative standard deviation of the grid's intensity, the same error in every hour of a zone.

    `estimated_ratio` is that of hours which the publisher marked as estimated, `upstream_ratio` (None: not known) that
    of what the life cycle adds.
    """

    measured_ratio: float
    estimated_ratio: float
    upstream_ratio: float | None = None

    def of_hour(self) -> pl.Expr:
        """Half the 90 % interval of the intensity of a row with `estimated`, relative."""
        is_estimated = pl.col("estimated").fill_null(value=False)
        return Z * pl.when(is_estimated).then(self.estimated_ratio).otherwise(self.measured_ratio)

    def of_upstream(self) -> pl.Expr:
        """The same of life cycle minus direct; an estimated hour has the error of both."""
        alone = Z_EVEN * pl.lit(self.upstream_ratio, pl.Float64)
        is_estimated = pl.col("estimated").fill_null(value=False)
        return (
            pl.when(is_estimated)
            .then((alone.pow(2) + (Z * self.estimated_ratio) ** 2).sqrt())
            .otherwise(alone)
        )


def intensity_error(factors: FactorSet, on: date) -> IntensityError | None:
    """Return the error of grid intensity that the factors state for a day; None where they state none."""
    measured, estimated = (
        factors.find("grid_intensity_uncertainty", valid_on=on, estimated=flag) for flag in ("false", "true")
    )
    table = "figure_uncertainty"
    upstream = factors.find(table, valid_on=on, figure="upstream") if table in factors.tables else None
    if not (measured and estimated):
        return None
    return IntensityError(measured.value, estimated.value, upstream.value if upstream else None)


def source_ratios(site_hours: pl.DataFrame, generators: GeneratorFactor | None = None) -> pl.DataFrame:
    """gold/site_hour -> what of each hour's facility energy came from the grid, and what generators emitted by it.

    `grid_import_ratio` = utility / facility: above 1 while a battery is charged or energy is exported, below 1
    with own generation. Nothing is netted: exported energy takes no emissions away. Where facility energy is not
    metered (assumed or modelled), all of it is taken from the grid. Without the column utility_kwh only that case
    is known. `scope1_kgco2e_per_kwh` is by metered fuel (`fuel_l`) where the frame has it, else by generator_kwh. Gas
    and fuel metered in kWh (`burnt_kwh`) have no factor: with any of them the hour's Scope 1 is not known.
    Source: GHG Protocol Scope 2 Guidance (2015), 5.6: purchased energy, gross.
    """
    facility = pl.col("facility_energy_kwh")

    def known(name: str) -> pl.Expr:
        return pl.col(name) if name in site_hours.columns else pl.lit(None, pl.Float64)

    # A site whose own energy is unknown may have clusters that an assumed PUE still speaks for.
    bases = [
        pl.col(name).is_in(_MODELLED)
        for name in ("facility_basis", "pue_basis")
        if name in site_hours.columns
    ]
    from_grid = pl.when(reduce(or_, bases)).then(1.0).otherwise(quotient(known("utility_kwh"), facility))
    scope1 = pl.lit(None, pl.Float64)
    if generators is not None:
        scope1 = pl.coalesce(
            known("fuel_l") * pl.lit(generators.kgco2e_per_l, pl.Float64),
            known("generator_kwh") * pl.lit(generators.kgco2e_per_kwh, pl.Float64),
        )
    scope1 = pl.when(known("burnt_kwh").fill_null(0.0) == 0).then(scope1)
    return site_hours.select(
        *_HOUR,
        from_grid.alias("grid_import_ratio"),
        quotient(scope1, facility).alias("scope1_kgco2e_per_kwh"),
    )


def location_emissions(
    cluster_hours: pl.DataFrame,
    intensity_hours: pl.DataFrame,
    sources: pl.DataFrame,
    error: IntensityError | None = None,
) -> pl.DataFrame:
    """Add location-based, upstream and generator emissions to hours of clusters with `facility_energy_kwh`.

    Location-based = grid import x direct average intensity; `sources` (of source_ratios) says what is import.
    Generators are Scope 1, own photovoltaics emits nothing here. An hour without an intensity keeps null emissions and
    is counted in `emissions_missing_kwh`. Interval: E x CI -/+ the two errors, of energy and of intensity (of upstream
    emissions: of what the life cycle adds), in quadrature; null without `error` or without an interval of the energy.
    Source: GHG Protocol Scope 2 Guidance (2015), location-based method; JCGM 100:2008 (GUM) 5.1.2.
    """
    facility, intensity = pl.col("facility_energy_kwh"), pl.col("carbon_intensity_gco2e_per_kwh")
    grid_kwh, emitted = pl.col("grid_import_kwh"), pl.col("emissions_location_kgco2e")
    is_estimated = pl.col("estimated").fill_null(value=False)
    basis = (
        pl.when(emitted.is_null()).then(pl.lit("none"))
        .when(is_estimated | pl.col("facility_basis").is_in(_MODELLED)).then(pl.lit("estimated"))
        .otherwise(pl.lit("measured"))
    )  # fmt: skip
    unknown = pl.lit(None, pl.Float64)
    half = emitted * _with_energy_error(error.of_hour() if error else unknown)
    upstream = pl.col("emissions_upstream_kgco2e")
    upstream_half = upstream * _with_energy_error(error.of_upstream() if error else unknown)
    return (
        cluster_hours.join(intensity_hours, on="hour_start", how="left")
        .join(sources, on=_HOUR, how="left")
        .with_columns((facility * pl.col("grid_import_ratio")).alias("grid_import_kwh"))
        .with_columns(
            (grid_kwh * intensity / GRAMS_PER_KILOGRAM).alias("emissions_location_kgco2e"),
            (over(grid_kwh * pl.col("upstream_gco2e_per_kwh"), GRAMS_PER_KILOGRAM)).alias("emissions_upstream_kgco2e"),
            # An hour that has no grid energy misses nothing that could be named in kWh.
            pl.when(intensity.is_null()).then(grid_kwh).otherwise(grid_kwh * 0.0).alias("emissions_missing_kwh"),
            (facility * pl.col("scope1_kgco2e_per_kwh")).alias("emissions_scope1_kgco2e"),
        )
        .with_columns(
            basis.alias("emissions_basis"),
            *ends("emissions_location_kgco2e", emitted, half),
            *ends("emissions_upstream_kgco2e", upstream, upstream_half),
        )
        .drop("upstream_gco2e_per_kwh", "grid_import_ratio", "scope1_kgco2e_per_kwh")
    )  # fmt: skip


def energy_error_ratio() -> pl.Expr:
    """Half the 90 % interval of the facility energy over the energy; the grid's part of it is a matter of meters."""
    energy = pl.col("facility_energy_kwh")
    return quotient(pl.col("facility_energy_upper_kwh") - energy, energy)


def _with_energy_error(factor_ratio: pl.Expr) -> pl.Expr:
    return (energy_error_ratio().pow(2) + factor_ratio.pow(2)).sqrt()


def emission_days(cluster_hours: pl.DataFrame, coverage_min_ratio: float) -> pl.DataFrame:
    """gold/cluster_hour -> emissions of each cluster's day: the sum over hours, never a day's mean intensity.

    Published over the hours with an intensity while the energy of the others is at most 1 - limit of the
    whole (`partial`), and only where the day's facility energy is published. Intensity of the day = emissions
    / grid energy. Interval: the error of sensors adds linearly over the hours, that of the intensity too (one
    factor), and both meet in quadrature; adding hours in quadrature would make a bias vanish. Market-based, upstream
    and embodied emissions and water are sums over hours, and so are their ends.
    Source: docs/methodology.md, Emissions; JCGM 100:2008 (GUM) 5.2.
    """
    limit, grid_kwh = coverage_min_ratio, pl.col("grid_import_kwh")
    emissions, upstream = pl.col("emissions_location_kgco2e"), pl.col("emissions_upstream_kgco2e")
    by_energy = emissions * energy_error_ratio()
    whole = pl.col("emissions_location_upper_kgco2e") - emissions
    # The intensity's half-width is what the hour's interval has beyond the energy's.
    by_intensity = (whole.pow(2) - by_energy.pow(2)).clip(lower_bound=0.0).sqrt()
    sums = (
        cluster_hours.with_columns(by_energy.alias("_by_energy"), by_intensity.alias("_by_intensity"))
        .group_by(_DAY)
        .agg(
            (pl.col("facility_energy_kwh").count() >= limit * pl.len()).alias("known_hours"),
            exact_sum(grid_kwh).alias("grid"),
            exact_sum(emissions).alias("emitted"),
            emissions.count().alias("emitting_hours"),
            exact_sum(upstream).alias("upstream"),
            exact_sum(pl.col("emissions_missing_kwh")).alias("emissions_missing_kwh"),
            exact_sum(pl.when(upstream.is_not_null()).then(grid_kwh)).alias("upstream_kwh"),
            exact_sum(pl.when(emissions.is_not_null()).then(grid_kwh)).alias("emitting_kwh"),
            (pl.col("emissions_basis") == "estimated").any().alias("has_estimate"),
            exact_sum(pl.col("_by_energy")).alias("by_energy"),
            exact_sum(pl.col("_by_intensity")).alias("by_intensity"),
            (pl.col("_by_intensity").count() == emissions.count()).alias("has_interval"),
            _enough_hours("emissions_scope1_kgco2e", limit),
            *whole_ends("emissions_upstream_kgco2e", pl.lit(value=True)),
            *_with_basis("emissions_market_kgco2e", "market_basis", _market_basis(), limit),
            *_with_basis("embodied_kgco2e", "embodied_basis", _one_basis("embodied_basis", "mixed"), 1.0),
            *_with_basis("water_l", "water_basis", _one_basis("water_basis", "partial"), limit),
            pl.col("factor_age_years", "factor_flags").first(),
        )
    )
    missing, total = pl.col("emissions_missing_kwh"), pl.col("grid")
    enough = pl.col("known_hours") & (pl.col("emitting_hours") > 0) & (missing <= (1 - limit) * total)
    has_upstream = enough & (pl.col("upstream_kwh") >= limit * total)
    basis = (
        pl.when(~enough.fill_null(value=False)).then(pl.lit("none"))
        .when(missing > 0).then(pl.lit("partial"))
        .when("has_estimate").then(pl.lit("estimated"))
        .otherwise(pl.lit("measured"))
    )  # fmt: skip
    emitted, is_whole = pl.col("emitted"), enough & pl.col("has_interval")
    half = (pl.col("by_energy").pow(2) + pl.col("by_intensity").pow(2)).sqrt()
    figures = {
        "grid_import_kwh": pl.when("known_hours").then(total),
        "emissions_location_kgco2e": pl.when(enough).then(emitted),
        "emissions_upstream_kgco2e": pl.when(has_upstream).then("upstream"),
        **{end: pl.when(has_upstream).then(end) for end in end_names("emissions_upstream_kgco2e")},
        "carbon_intensity_gco2e_per_kwh": pl.when(enough).then(
            quotient(emitted * GRAMS_PER_KILOGRAM, pl.col("emitting_kwh"))
        ),
        "emissions_basis": basis,
        "emissions_location_lower_kgco2e": pl.when(is_whole).then((emitted - half).clip(lower_bound=0.0)),
        "emissions_location_upper_kgco2e": pl.when(is_whole).then(emitted + half),
    }
    return sums.select(
        *_DAY, "emissions_missing_kwh", "emissions_scope1_kgco2e", "emissions_market_kgco2e", "market_basis",
        "embodied_kgco2e", "embodied_basis", "water_l", "water_basis", "factor_age_years", "factor_flags",
        *(end for name in _SUMMED for end in end_names(name)),
        *(value.alias(name) for name, value in figures.items()),
    )  # fmt: skip


def _enough_hours(name: str, least: float) -> pl.Expr:
    """The sum over hours, null where fewer than `least` of the hours with facility energy know it."""
    known = pl.col(name).count() >= least * pl.col("facility_energy_kwh").count()
    return pl.when(known).then(exact_sum(pl.col(name))).alias(name)


def _with_basis(name: str, basis_name: str, basis: pl.Expr, least: float) -> tuple[pl.Expr, ...]:
    known = (pl.col(name).count() > 0) & (pl.col(name).count() >= least * pl.len())
    return (
        pl.when(known).then(exact_sum(pl.col(name))).alias(name),
        pl.when(known).then(basis).otherwise(pl.lit("none")).alias(basis_name),
        *whole_ends(name, known),
    )


def _one_basis(name: str, otherwise: str) -> pl.Expr:
    known = pl.when(pl.col(name) != "none").then(name)
    return pl.when(known.drop_nulls().n_unique() == 1).then(known.max()).otherwise(pl.lit(otherwise))


def _market_basis() -> pl.Expr:
    # One hour by a grid average makes the day one: the flag must not be diluted.
    fallback = "residual_mix_missing"
    has_fallback = (pl.col("market_basis") == fallback).any()
    return pl.when(has_fallback).then(pl.lit(fallback)).otherwise(_one_basis("market_basis", "mixed"))
