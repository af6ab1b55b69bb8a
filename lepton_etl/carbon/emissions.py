"""Operational emissions: grid energy of an hour times the intensity of that hour, summed over days."""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import or_
from typing import Final

from pyspark.sql import Column, DataFrame
from pyspark.sql import functions as F

from lepton_etl.columns import Transform
from lepton_etl.confidence import Z
from lepton_etl.fields import GRAMS_PER_KILOGRAM

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
