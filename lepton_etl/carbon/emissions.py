"""Operational emissions: facility energy of an hour times the intensity of that hour, summed over days."""

from __future__ import annotations

from typing import Final

from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.columns import Transform, exact_sum
from lepton_etl.fields import GRAMS_PER_KILOGRAM

_DAY: Final = ("date", "site_id", "cluster_id")
_MODELLED: Final = ("assumed", "modelled")
_UNKNOWN: Final = ("emissions_market_kgco2e", "embodied_kgco2e", "water_l")


def with_location_emissions(intensity_hours: DataFrame) -> Transform:
    """Add location-based and upstream emissions to hours of clusters that have `facility_energy_kwh`.

    An hour without an intensity keeps null emissions and is counted in `emissions_missing_kwh`. Market-based,
    embodied and water figures stay null: nothing here knows them.
    Source: GHG Protocol Scope 2 Guidance (2015), location-based method.
    """
    facility, intensity = F.col("facility_energy_kwh"), F.col("carbon_intensity_gco2e_per_kwh")
    kilograms = facility * intensity / GRAMS_PER_KILOGRAM
    is_estimated = F.coalesce("estimated", F.lit(False)) | F.col("facility_basis").isin(*_MODELLED)
    basis = F.when(kilograms.isNull(), "none").when(is_estimated, "estimated").otherwise("measured")
    # An hour that has no facility energy misses nothing that could be named in kWh.
    missing_kwh = F.when(intensity.isNull(), facility).otherwise(facility * 0.0)

    def transform(cluster_hours: DataFrame) -> DataFrame:
        return (
            cluster_hours.join(intensity_hours, ["hour_start"], how="left")
            .withColumns(
                {
                    "emissions_location_kgco2e": kilograms,
                    "emissions_upstream_kgco2e": facility
                    * F.col("upstream_gco2e_per_kwh")
                    / GRAMS_PER_KILOGRAM,
                    "emissions_missing_kwh": missing_kwh,
                    "emissions_basis": basis,
                }
            )
            .withColumns({name: F.lit(None) for name in _UNKNOWN})
            .drop("upstream_gco2e_per_kwh", "estimated")
        )

    return transform


def emission_days(coverage_min_ratio: float) -> Transform:
    """gold/cluster_hour -> emissions of each cluster's day: the sum over hours, never a day's mean intensity.

    Published over the hours with an intensity while the energy of the others is at most 1 - limit of the
    whole (`partial`), and only where the day's facility energy is published. Intensity of the day = emissions
    / energy.
    """
    facility, emissions = F.col("facility_energy_kwh"), F.col("emissions_location_kgco2e")
    total, missing = exact_sum(facility), exact_sum(F.col("emissions_missing_kwh"))
    upstream, with_upstream = (
        F.col("emissions_upstream_kgco2e"),
        F.col("emissions_upstream_kgco2e").isNotNull(),
    )
    known_hours = F.count("facility_energy_kwh") >= coverage_min_ratio * F.count(F.lit(1))
    enough = known_hours & (F.count(emissions) > 0) & (missing <= (1 - coverage_min_ratio) * total)
    upstream_kwh = exact_sum(F.when(with_upstream, facility))
    enough_upstream = enough & (upstream_kwh >= coverage_min_ratio * total)
    has_estimate = F.count_if(F.col("emissions_basis") == "estimated") > 0
    basis = (
        F.when(~enough, "none")
        .when(missing > 0, "partial")
        .when(has_estimate, "estimated")
        .otherwise("measured")
    )
    grams = exact_sum(emissions) * GRAMS_PER_KILOGRAM
    energy = exact_sum(F.when(emissions.isNotNull(), facility))

    def transform(cluster_hours: DataFrame) -> DataFrame:
        return cluster_hours.groupBy(*_DAY).agg(
            F.when(enough, exact_sum(emissions)).alias("emissions_location_kgco2e"),
            F.when(enough_upstream, exact_sum(upstream)).alias("emissions_upstream_kgco2e"),
            missing.alias("emissions_missing_kwh"),
            F.when(enough, F.try_divide(grams, energy)).alias("carbon_intensity_gco2e_per_kwh"),
            basis.alias("emissions_basis"),
        )

    return transform


def with_emission_days(days_of_emissions: DataFrame) -> Transform:
    """Join a day's emissions to the rows of its clusters."""

    def transform(clusters: DataFrame) -> DataFrame:
        joined = clusters.join(days_of_emissions, list(_DAY), how="left")
        return joined.withColumns({name: F.lit(None) for name in _UNKNOWN})

    return transform
