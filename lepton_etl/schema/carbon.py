"""Fields and tables of carbon: certificates and contracts, Scope 1, water and fuel, KPIs."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.declare import (
    BOOLEAN,
    DATE,
    DOUBLE,
    INT,
    STRINGS,
    Field,
    Table,
    energy,
    kilograms,
    text,
)

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
    *(
        kilograms(f"{stem}_{end}_kgco2e", f"{name} end of the 90 % interval by {what}.")
        for stem, what in (
            ("emissions_market", "energy and the factors of what no instrument matches"),
            ("emissions_upstream", "energy and what fuels emit before they are burnt"),
            ("embodied", "the masses of inventory or archetype"),
        )
        for end, name in (("lower", "Lower"), ("upper", "Upper"))
    ),
    Field(
        "water_lower_l",
        DOUBLE,
        "liter",
        "Lower end of the 90 % interval by meters and shares.",
        ge=0.0,
        le=1e12,
    ),
    Field(
        "water_upper_l",
        DOUBLE,
        "liter",
        "Upper end of the 90 % interval by meters and shares.",
        ge=0.0,
        le=1e12,
    ),
    kilograms("emissions_scope1_kgco2e", "Fuel burnt in the site's generators; not part of Scope 2."),
    text(
        "market_basis",
        "What the market-based figure rests on; residual_mix_missing: unmatched energy took a grid average.",
        MARKET_BASIS,
    ),
    text(
        "embodied_basis",
        "Where embodied carbon comes from; `default_life`: the inventory's over the archetype's life.",
        ("inventory", "default_life", "archetype", "mixed", "none"),
    ),
    text("water_basis", "Where the water figure comes from.", ("measured", "partial", "none")),
    Field(
        "factor_age_years",
        INT,
        "year",
        "Age of the oldest factor that the site's figures take for want of a row for the day; 0: all hold.",
        ge=0,
        le=200,
    ),
    Field(
        "factor_flags",
        STRINGS,
        None,
        "Factor tables without a row for the day: `aged:` takes another year's, `missing:` has none of any year.",
    ),
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

INSTRUMENT: Final = Table(
    "silver/instrument", grain="one certificate, contract or supplier tariff", owner="carbon",
    key=("site_id", "instrument_id"),
    columns=(
        "site_id", "instrument_id", "instrument_type", "zone_id", "volume_kwh", "vintage_year",
        "instrument_intensity_gco2e_per_kwh", "technology", "retirement_id", "valid_from", "valid_to",
    ),
    not_null=("instrument_type", "zone_id", "instrument_intensity_gco2e_per_kwh", "valid_from"),
)  # fmt: skip

SCOPE1: Final = Table(
    "silver/scope1", grain="fuel burnt or refrigerant lost between two instants", owner="carbon",
    key=("site_id", "scope1_id"),
    columns=(
        "site_id", "scope1_id", "scope1_kind", "substance", "fuel_l", "leak_kg", "emissions_scope1_kgco2e",
        "gwp_set", "valid_from", "valid_to",
    ),
    not_null=("scope1_kind", "substance", "emissions_scope1_kgco2e", "gwp_set", "valid_from"),
)  # fmt: skip

VOLUME_INTERVAL: Final = Table(
    "silver/volume_interval", grain="one water or fuel meter over one interval", partition="date", owner="energy",
    key=("site_id", "meter_id", "interval_start"),
    columns=("site_id", "meter_id", "carrier", "interval_start", "date", "interval_s", "volume_l", "observed_s"),
    not_null=("date", "carrier", "interval_s", "observed_s"),
)  # fmt: skip

MARKET_YEAR: Final = Table(
    "gold/market_year", grain="one instrument of one reporting year: what it covers and what is left",
    owner="carbon", key=("site_id", "reporting_year", "instrument_id"),
    columns=(
        "site_id", "reporting_year", "instrument_id", "instrument_type", "volume_kwh", "consumption_kwh",
        "matched_kwh", "balance_kwh", "instrument_reason", "status",
    ),
    not_null=("instrument_type", "matched_kwh", "status"),
    warnings=("A provisional year spreads annual volumes by load; hours are not matched with generation.",),
)  # fmt: skip

KPI: Final = Table(
    "gold/kpi", grain="one KPI of one boundary over one calendar period; date is its first day",
    partition="date", owner="indicators", key=("date", "period", "site_id", "boundary", "kpi"),
    columns=(
        "date", "period", "site_id", "boundary", "kpi", "kpi_value", "kpi_unit", "kpi_basis", "kpi_reason",
        "pue_category", "edition", "is_interim", "numerator", "numerator_unit", "denominator",
        "denominator_unit", "coverage_ratio", "last_date", "status",
    ),
    not_null=("kpi_unit", "kpi_basis", "edition", "is_interim", "status"),
    warnings=("Interim values are no annual KPI of ISO/IEC 30134; categories do not mix in one trend.",),
)  # fmt: skip
