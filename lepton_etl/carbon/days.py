"""Hours of clusters -> the day: emissions, market-based, embodied and water are sums over hours."""

from __future__ import annotations

from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.carbon.emissions import energy_error_ratio
from lepton_etl.columns import Transform, exact_sum
from lepton_etl.fields import GRAMS_PER_KILOGRAM

_DAY: Final = ("date", "site_id", "cluster_id")


def emission_days(coverage_min_ratio: float) -> Transform:
    """gold/cluster_hour -> emissions of each cluster's day: the sum over hours, never a day's mean intensity.

    Published over the hours with an intensity while the energy of the others is at most 1 - limit of the
    whole (`partial`), and only where the day's facility energy is published. Intensity of the day = emissions
    / grid energy. Interval: the error of sensors adds linearly over the hours, that of the intensity too (one
    factor), and both meet in quadrature; adding hours in quadrature would make a bias vanish.
    Source: docs/methodology.md, Emissions; JCGM 100:2008 (GUM) 5.2.
    """
    facility, grid_kwh = F.col("facility_energy_kwh"), F.col("grid_import_kwh")
    emissions = F.col("emissions_location_kgco2e")
    total, missing = exact_sum(grid_kwh), exact_sum(F.col("emissions_missing_kwh"))
    upstream = F.col("emissions_upstream_kgco2e")
    known_hours = F.count("facility_energy_kwh") >= coverage_min_ratio * F.count(F.lit(1))
    enough = known_hours & (F.count(emissions) > 0) & (missing <= (1 - coverage_min_ratio) * total)
    upstream_kwh = exact_sum(F.when(upstream.isNotNull(), grid_kwh))
    enough_upstream = enough & (upstream_kwh >= coverage_min_ratio * total)
    has_estimate = F.count_if(F.col("emissions_basis") == "estimated") > 0
    basis = (
        F.when(~enough, "none")
        .when(missing > 0, "partial")
        .when(has_estimate, "estimated")
        .otherwise("measured")
    )
    grams = exact_sum(emissions) * GRAMS_PER_KILOGRAM
    energy = exact_sum(F.when(emissions.isNotNull(), grid_kwh))

    def transform(cluster_hours: DataFrame) -> DataFrame:
        return (
            cluster_hours.withColumns(_halves(cluster_hours))
            .groupBy(*_DAY)
            .agg(
                F.when(known_hours, exact_sum(grid_kwh)).alias("grid_import_kwh"),
                F.when(enough, exact_sum(emissions)).alias("emissions_location_kgco2e"),
                F.when(enough_upstream, exact_sum(upstream)).alias("emissions_upstream_kgco2e"),
                missing.alias("emissions_missing_kwh"),
                F.when(enough, F.try_divide(grams, energy)).alias("carbon_intensity_gco2e_per_kwh"),
                basis.alias("emissions_basis"),
                _enough_hours("emissions_scope1_kgco2e", facility, coverage_min_ratio),
                *_interval_of_day(enough, emissions),
                *_with_basis("emissions_market_kgco2e", "market_basis", _market_basis(), coverage_min_ratio),
                *_with_basis("embodied_kgco2e", "embodied_basis", _one_basis("embodied_basis", "mixed"), 1.0),
                *_with_basis(
                    "water_l", "water_basis", _one_basis("water_basis", "partial"), coverage_min_ratio
                ),
            )
        )

    return transform


def with_emission_days(days_of_emissions: DataFrame) -> Transform:
    """Join a day's emissions to the rows of its clusters."""

    def transform(clusters: DataFrame) -> DataFrame:
        return clusters.join(days_of_emissions, list(_DAY), how="left")

    return transform


def _halves(hours: DataFrame) -> dict[str, Column]:
    """Half-widths of each hour by the two errors; the intensity's is what the hour's interval has beyond energy's."""
    emissions = F.col("emissions_location_kgco2e")
    by_energy = emissions * energy_error_ratio(hours)
    whole = F.col("emissions_location_upper_kgco2e") - emissions
    rest = F.sqrt(F.greatest(whole**2 - by_energy**2, F.lit(0.0)))
    return {"_by_energy": by_energy, "_by_intensity": F.when(whole.isNotNull() & by_energy.isNotNull(), rest)}


def _interval_of_day(enough: Column, emissions: Column) -> tuple[Column, Column]:
    by_energy, by_intensity = exact_sum(F.col("_by_energy")), exact_sum(F.col("_by_intensity"))
    # An hour with emissions and without an interval leaves the day without one.
    is_whole = enough & (F.count("_by_intensity") == F.count(emissions))
    half, total = F.sqrt(by_energy**2 + by_intensity**2), exact_sum(emissions)
    return (
        F.when(is_whole, F.greatest(total - half, F.lit(0.0))).alias("emissions_location_lower_kgco2e"),
        F.when(is_whole, total + half).alias("emissions_location_upper_kgco2e"),
    )


def _enough_hours(name: str, whole: Column, least: float) -> Column:
    """The sum over hours, null where fewer than `least` of the hours that have `whole` know it."""
    known = F.count(name) >= least * F.count(whole)
    return F.when(known & (F.count(name) > 0), exact_sum(F.col(name))).alias(name)


def _with_basis(name: str, basis_name: str, basis: Column, least: float) -> tuple[Column, Column]:
    known = (F.count(name) > 0) & (F.count(name) >= least * F.count(F.lit(1)))
    return (
        F.when(known, exact_sum(F.col(name))).alias(name),
        F.when(known, basis).otherwise("none").alias(basis_name),
    )


def _one_basis(name: str, otherwise: str) -> Column:
    known = F.collect_set(F.when(F.col(name) != "none", F.col(name)))
    return F.when(F.size(known) == 1, F.get(known, F.lit(0))).otherwise(otherwise)


def _market_basis() -> Column:
    # One hour by a grid average makes the day one: the flag must not be diluted.
    has_fallback = F.count_if(F.col("market_basis") == "residual_mix_missing") > 0
    return F.when(has_fallback, "residual_mix_missing").otherwise(_one_basis("market_basis", "mixed"))
