"""Fields of emissions, instruments, embodied carbon, water and KPIs."""

from __future__ import annotations

from typing import Final

from lepton_etl.fields.declare import BOOLEAN, DATE, DOUBLE, INT, Field, energy, kilograms, text

MARKET_BASIS: Final = (
    "certificate", "contract", "supplier", "residual_mix", "mixed", "residual_mix_missing", "none",
)  # fmt: skip
TECHNOLOGIES: Final = ("wind", "solar", "hydro", "geothermal", "biomass", "nuclear", "other")
KPI_PERIODS: Final = ("day", "month", "year")

FIELDS: Final[tuple[Field, ...]] = (
    # Emissions
    energy("grid_import_kwh", "Energy drawn from the grid: the utility meters' share; nothing is netted."),
    kilograms("emissions_location_lower_kgco2e", "Lower end of the 90 % interval by energy and intensity."),
    kilograms("emissions_location_upper_kgco2e", "Upper end of the 90 % interval by energy and intensity."),
    kilograms("emissions_scope1_kgco2e", "Fuel burnt in the site's generators; not part of Scope 2."),
    text(
        "market_basis",
        "What the market-based figure rests on; residual_mix_missing: unmatched energy took a grid average.",
        MARKET_BASIS,
    ),
    text("embodied_basis", "Where embodied carbon comes from.", ("inventory", "archetype", "mixed", "none")),
    text("water_basis", "Where the water figure comes from.", ("measured", "partial", "none")),
    # Instruments
    text("instrument_id", "Certificate, contract or supplier tariff."),
    text("instrument_type", "Rank of the instrument.", ("certificate", "contract", "supplier")),
    energy("volume_kwh", "Volume of the instrument; null of a supplier: all that is left."),
    Field("vintage_year", INT, None, "Calendar year of generation.", ge=2000, le=2100),
    Field(
        "instrument_intensity_gco2e_per_kwh",
        DOUBLE,
        "gram_co2e / kilowatt_hour",
        "Emission factor that the instrument conveys.",
        ge=0.0,
        le=2_000.0,
    ),
    text("technology", "How the matched energy was made; null does not count as renewable.", TECHNOLOGIES),
    text("retirement_id", "Registry's number of the cancellation; null: not retired, so not claimable."),
    Field("reporting_year", INT, None, "Calendar year of the market-based balance.", ge=2000, le=2100),
    energy("consumption_kwh", "Grid energy of the reporting year that instruments can match."),
    energy("matched_kwh", "Consumption that the instrument covers."),
    energy("balance_kwh", "Volume that covers nothing; it is not carried over."),
    text("instrument_reason", "Why the instrument matches nothing, null where it does."),
    # Scope 1
    text("scope1_id", "Record of fuel or refrigerant."),
    text("scope1_kind", "Fuel burnt or refrigerant lost.", ("fuel", "refrigerant")),
    text("substance", "Fuel or refrigerant as the factor tables name it."),
    Field("fuel_l", DOUBLE, "liter", "Fuel burnt.", ge=0.0, le=1e9),
    Field("leak_kg", DOUBLE, "kilogram", "Refrigerant lost.", ge=0.0, le=1e6),
    text("gwp_set", "Set of global warming potentials.", ("AR5", "AR6")),
    Field(
        "volume_l", DOUBLE, "liter", "Volume through the meter over the observed seconds.", ge=0.0, le=1e12
    ),
    # KPIs
    text("period", "Calendar period, UTC.", KPI_PERIODS),
    text("boundary", "What the figure is about: `site`, a cluster, or a named part of the site."),
    text("kpi", "Name of the KPI, see docs/methodology.md."),
    Field("kpi_value", DOUBLE, None, "Value in kpi_unit; null where the basis is none.", ge=-1e12, le=1e12),
    text("kpi_unit", "Unit of the value."),
    text("kpi_basis", "What the value rests on.", ("measured", "partial", "modelled", "assumed", "none")),
    text("kpi_reason", "Why there is no value, or what limits it."),
    text("edition", "Standard and edition that defines the KPI."),
    Field("is_interim", BOOLEAN, None, "Less than a full calendar year of data."),
    Field("numerator", DOUBLE, None, "Numerator, summed over the known days.", ge=-1e15, le=1e15),
    text("numerator_unit", "Unit of the numerator."),
    Field("denominator", DOUBLE, None, "Denominator, summed over the known days.", ge=-1e15, le=1e15),
    text("denominator_unit", "Unit of the denominator."),
    Field("last_date", DATE, None, "Last UTC day of data in the period."),
)
