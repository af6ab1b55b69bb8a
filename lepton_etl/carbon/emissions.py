"""Hours of clusters -> the day: emissions, market-based, embodied and water are sums over hours.

- Grid intensity of one zone, one row an hour.
- Operational emissions: grid energy of an hour times the intensity of that hour, summed over days.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.schema.columns import Transform, exact_sum
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM
from lepton_etl.uncertainty import Z


def hourly_intensity(zone_id: str | None, flow: str) -> Transform:
    """silver/grid_hour -> the hour's direct intensity, what the life cycle adds upstream, and `estimated`.

    Average signal and one flow only; a marginal or another mix never mixes in. Upstream is life cycle minus
    direct; where that is negative the two do not belong together and it is null. No zone: no rows.
    Source: GHG Protocol Scope 2 Guidance (2015), location-based method (average, combustion only).
    """
    is_direct = F.col("intensity_basis") == "direct"

    def transform(grid_hours: DataFrame) -> DataFrame:
        of_zone = grid_hours.where(
            (F.col("zone_id") == F.lit(zone_id)) & (F.col("signal") == "average") & (F.col("flow") == flow)
        )
        hours = of_zone.groupBy("hour_start").agg(
            _only(is_direct).alias("carbon_intensity_gco2e_per_kwh"),
            _only(F.col("intensity_basis") == "lifecycle").alias("lifecycle"),
            F.max(F.when(is_direct, F.col("estimated"))).alias("estimated"),
        )
        upstream = F.col("lifecycle") - F.col("carbon_intensity_gco2e_per_kwh")
        return hours.select(
            "hour_start",
            "carbon_intensity_gco2e_per_kwh",
            F.when(upstream >= 0, upstream).alias("upstream_gco2e_per_kwh"),
            "estimated",
        )

    return transform


def with_intensity(intensity_hours: DataFrame) -> Transform:
    """Add the hour's direct average intensity; null where the grid file has no such hour."""
    direct = intensity_hours.select("hour_start", "carbon_intensity_gco2e_per_kwh")

    def transform(hours: DataFrame) -> DataFrame:
        return hours.join(direct, ["hour_start"], how="left")

    return transform


def _only(chosen: Column) -> Column:
    # One row a kind: the key of silver/grid_hour.
    return F.max(F.when(chosen, F.col("carbon_intensity_gco2e_per_kwh")))


_HOUR: Final = ("site_id", "hour_start")
_MODELLED: Final = ("assumed", "modelled")
# Two-sided 90 % of a normal error.
# What later transforms fill in; a site without their inputs keeps the unknown with its basis.
_LATER: Final = ("emissions_market_kgco2e", "embodied_kgco2e", "water_l")
_LATER_BASES: Final = ("market_basis", "embodied_basis", "water_basis")


@dataclass(frozen=True, slots=True)
class GeneratorFactor:
    """Direct emissions of a generator's fuel, by the litre burnt and by the kWh delivered."""

    kgco2e_per_l: float
    kgco2e_per_kwh: float


@dataclass(frozen=True, slots=True)
class IntensityError:
    """One relative standard deviation of the grid's intensity, the same error in every hour of a zone.

    `estimated_ratio` is that of hours which the publisher marked as estimated.
    """

    measured_ratio: float
    estimated_ratio: float


def source_ratios(site_hours: DataFrame, generators: GeneratorFactor | None = None) -> DataFrame:
    """gold/site_hour -> what of each hour's facility energy came from the grid, and what generators emitted by it.

    `grid_import_ratio` = utility / facility: above 1 while a battery is charged or energy is exported, below 1
    with own generation. Nothing is netted: exported energy takes no emissions away. Where facility energy is not
    metered (assumed or modelled), all of it is taken from the grid. Without the column utility_kwh only that case
    is known. `scope1_kgco2e_per_kwh` is by metered fuel (`fuel_l`) where the frame has it, else by generator_kwh.
    Source: GHG Protocol Scope 2 Guidance (2015), 5.6: purchased energy, gross.
    """
    facility = F.col("facility_energy_kwh")

    def known(name: str) -> Column:
        return F.col(name) if name in site_hours.columns else F.lit(None).cast("double")

    # A site whose own energy is unknown may have clusters that an assumed PUE still speaks for.
    bases = [
        F.col(name).isin(*_MODELLED) for name in ("facility_basis", "pue_basis") if name in site_hours.columns
    ]
    from_grid = F.when(reduce(or_, bases), F.lit(1.0)).otherwise(F.try_divide(known("utility_kwh"), facility))
    scope1 = F.lit(None).cast("double")
    if generators is not None:
        scope1 = F.coalesce(
            known("fuel_l") * generators.kgco2e_per_l, known("generator_kwh") * generators.kgco2e_per_kwh
        )
    return site_hours.select(
        *_HOUR,
        from_grid.alias("grid_import_ratio"),
        F.try_divide(scope1, facility).alias("scope1_kgco2e_per_kwh"),
    )


def with_location_emissions(
    intensity_hours: DataFrame,
    sources: DataFrame | None = None,
    error: IntensityError | None = None,
) -> Transform:
    """Add location-based, upstream and generator emissions to hours of clusters with `facility_energy_kwh`.

    Location-based = grid import x direct average intensity; `sources` (of source_ratios) says what is import,
    without it all is. Generators are Scope 1, own photovoltaics emits nothing here. An hour without an intensity
    keeps null emissions and is counted in `emissions_missing_kwh`. Interval: E x CI -/+ the two errors, of energy
    and of intensity, in quadrature; null without `error` or without an interval of the energy. Market-based,
    embodied and water figures stay null: nothing here knows them.
    Source: GHG Protocol Scope 2 Guidance (2015), location-based method; JCGM 100:2008 (GUM) 5.1.2.
    """
    facility, intensity = F.col("facility_energy_kwh"), F.col("carbon_intensity_gco2e_per_kwh")
    grid_kwh = F.col("grid_import_kwh")
    kilograms = grid_kwh * intensity / GRAMS_PER_KILOGRAM
    is_estimated = F.coalesce("estimated", F.lit(False)) | F.col("facility_basis").isin(*_MODELLED)
    basis = F.when(kilograms.isNull(), "none").when(is_estimated, "estimated").otherwise("measured")

    def transform(cluster_hours: DataFrame) -> DataFrame:
        rows = cluster_hours.join(intensity_hours, ["hour_start"], how="left")
        if sources is None:
            whole = {"grid_import_ratio": F.lit(1.0), "scope1_kgco2e_per_kwh": F.lit(None).cast("double")}
            placed = rows.withColumns(whole)
        else:
            placed = rows.join(sources, list(_HOUR), how="left")
        return (
            placed.withColumn("grid_import_kwh", facility * F.col("grid_import_ratio"))
            .withColumns(
                {
                    "emissions_location_kgco2e": kilograms,
                    "emissions_upstream_kgco2e": grid_kwh
                    * F.col("upstream_gco2e_per_kwh")
                    / GRAMS_PER_KILOGRAM,
                    # An hour that has no grid energy misses nothing that could be named in kWh.
                    "emissions_missing_kwh": F.when(intensity.isNull(), grid_kwh).otherwise(grid_kwh * 0.0),
                    "emissions_basis": basis,
                    "emissions_scope1_kgco2e": facility * F.col("scope1_kgco2e_per_kwh"),
                }
            )
            .withColumns(_interval(energy_error_ratio(rows), _intensity_ratio(error)))
            .withColumns({name: F.lit(None).cast("double") for name in _LATER})
            .withColumns({name: F.lit("none") for name in _LATER_BASES})
            .drop("upstream_gco2e_per_kwh", "estimated", "grid_import_ratio", "scope1_kgco2e_per_kwh")
        )

    return transform


def energy_error_ratio(rows: DataFrame) -> Column:
    """Half the 90 % interval of the row's energy over the energy.

    That of the facility energy where the frame has one, else of the IT energy, whose share decides a cluster's.
    """
    it = F.try_divide(F.col("it_energy_upper_kwh") - F.col("it_energy_kwh"), F.col("it_energy_kwh"))
    if "facility_energy_upper_kwh" not in rows.columns:
        return it
    whole = F.col("facility_energy_kwh")
    return F.coalesce(F.try_divide(F.col("facility_energy_upper_kwh") - whole, whole), it)


def _intensity_ratio(error: IntensityError | None) -> Column:
    if error is None:
        return F.lit(None).cast("double")
    is_estimated = F.coalesce("estimated", F.lit(False))
    return Z * F.when(is_estimated, F.lit(error.estimated_ratio)).otherwise(F.lit(error.measured_ratio))


def _interval(energy_ratio: Column, intensity_ratio: Column) -> dict[str, Column]:
    kilograms = F.col("emissions_location_kgco2e")
    return _around(kilograms, kilograms * F.sqrt(energy_ratio**2 + intensity_ratio**2))


def _around(kilograms: Column, half_width: Column) -> dict[str, Column]:
    lower = kilograms - half_width
    return {
        # greatest() passes over nulls: an unknown lower end would become 0.
        "emissions_location_lower_kgco2e": F.when(lower.isNotNull(), F.greatest(lower, F.lit(0.0))),
        "emissions_location_upper_kgco2e": kilograms + half_width,
    }


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
