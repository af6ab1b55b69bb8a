"""Instruments, Scope 1, water and fuel, KPIs."""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables.declare import Table

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
    partition="date", owner="kpi", key=("date", "period", "site_id", "boundary", "kpi"),
    columns=(
        "date", "period", "site_id", "boundary", "kpi", "kpi_value", "kpi_unit", "kpi_basis", "kpi_reason",
        "pue_category", "edition", "is_interim", "numerator", "numerator_unit", "denominator",
        "denominator_unit", "coverage_ratio", "last_date", "status",
    ),
    not_null=("kpi_unit", "kpi_basis", "edition", "is_interim", "status"),
    warnings=("Interim values are no annual KPI of ISO/IEC 30134; categories do not mix in one trend.",),
)  # fmt: skip
