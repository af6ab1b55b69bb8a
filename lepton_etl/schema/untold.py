"""Why figures of gold have no formula: what `lepton-etl trace` and the data dictionary say in its place.

Every number of a gold table has a formula (schema/formulas.py) or stands here; a test holds that.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from lepton_etl.schema.declare import end_names

ALL_COLUMNS: Final = ("*",)
_MODEL: Final = "a model's answer: the row names model and version"
_FACTS: Final = "stands in the inventory, which silver/node keeps"
_LOAD: Final = "a mean of the intervals that sensors other than of power gave"
_BILLED: Final = "of a month in the site's zone or of an invoice's days, not of UTC days (billing.bill)"

# Reason -> table -> columns. Where a kernel makes it, its docstring has the equations and their source.
REASONS: Final[Mapping[str, Mapping[str, tuple[str, ...]]]] = {
    _MODEL: dict.fromkeys(
        ("gold/sensitivity", "gold/prediction", "gold/model_shift", "gold/forecast", "gold/job_power"),
        ALL_COLUMNS,
    ),
    "a state by its evidence, which the row lists": {
        "gold/state": ALL_COLUMNS,
        "gold/device_now": ALL_COLUMNS,
    },
    "an episode of residuals and sensor checks that the row explains": {"gold/anomaly": ALL_COLUMNS},
    "a proposal of an optimiser; its baseline and method stand in the row": {
        "gold/recommendation": ALL_COLUMNS
    },
    "measured against a baseline that is fitted on the days that the row names": {"gold/saving": ALL_COLUMNS},
    "a sum over decisions and states of a site, by trust.fairness": {"gold/tenant_burden": ALL_COLUMNS},
    "a parameter or error of a fit on the days that the row names": {"gold/facility_fit": ALL_COLUMNS},
    "of all meters of a site-hour together, reconciled by least squares (ledger.reconcile)": {
        "gold/meter_check": ALL_COLUMNS
    },
    "a difference of two published rows, both in gold/publication": {"gold/restatement": ALL_COLUMNS},
    "a sum over the known days of the period, by indicators.figures": {
        "gold/kpi": ("numerator", "denominator", "coverage_ratio"),
    },
    _BILLED: {
        "gold/cost_month": ("facility_energy_kwh", "energy_cost", "demand_cost", "fixed_cost"),
        "gold/bill_check": ALL_COLUMNS,
    },
    "a register's volume against the year's grid energy, best rank first (carbon.market.market_mix)": {
        "gold/market_year": ("volume_kwh", "consumption_kwh", "matched_kwh"),
    },
    "the tariff's price, by the metered energy of its intervals (billing.costs.hour_prices)": {
        "gold/site_cost": ("energy_price",),
    },
    "by the class of the site's import meters (billing.costs)": {"gold/site_cost": end_names("energy_cost")},
    "errors of all clusters of the site and of its meters together (facility.pue.with_overhead)": {
        "gold/cluster_hour": (*end_names("facility_energy_kwh"), *end_names("water_l")),
    },
    "errors of meters by their class, of nodes or of the fitted model, by facility_basis (facility.pue.with_pue)": {
        "gold/site_hour": end_names("facility_energy_kwh"),
    },
    "the 99th percentile over node-intervals (energy.aggregate.with_inlet_p99)": dict.fromkeys(
        ("gold/cluster_hour", "gold/cluster_day"), ("inlet_temp_p99_c",)
    ),
    "the oldest of the factors that the day takes (carbon.used_factors)": {
        "gold/cluster_hour": ("factor_age_years",)
    },
    "energy at the IT meter that no owner explains beyond sensor error (ledger.accounts)": {
        "gold/site_hour": ("unattributed_kwh",),
    },
    "weighted energy of heat, cooling, gas and fuel (facility.pue.site_carriers)": {
        "gold/site_hour": ("carrier_energy_kwh",),
    },
    "litres or kWh of generators by the factors of their fuel (carbon.emissions.source_ratios)": {
        "gold/site_hour": ("emissions_scope1_kgco2e",),
    },
    "an error of its terms, which the ledger adds term by term (ledger.accounts)": {
        "gold/energy_ledger": ("account_lower_kwh", "account_upper_kwh", "residual_sigma_kwh"),
    },
    "bytes of the nodes whose ports were seen (energy.transfer)": {
        "gold/transfer_hour": ("received_byte", "transmitted_byte"),
    },
    "bytes of the nodes that the run holds alone (attribution.transfer)": {
        "gold/job_energy": ("data_transferred_byte",)
    },
    _FACTS: {
        "gold/node_hour": ("expected_s", "rated_power_w", "idle_power_w"),
        "made/embodied_hour": ALL_COLUMNS,
    },
    "of silver/node_state and the intervals within it (energy.node_hours.off_hours)": {
        "gold/node_hour": ("off_s", "off_saved_kwh"),
    },
    "what the chassis draws beyond its nodes, by their energy (energy.node_hours)": {
        "gold/node_hour": ("chassis_shared_kwh",),
    },
    "of what filled the gap: ask for it_energy_imputed_kwh": {
        "gold/node_hour": ("imputed_s", "imputed_sigma_kwh")
    },
    # Ends of walks that are no figures of gold.
    _LOAD: {
        "silver/interval": ALL_COLUMNS,
        "made/node_interval": ALL_COLUMNS,
        "silver/weather_hour": ALL_COLUMNS,
        "silver/grid_hour": ALL_COLUMNS,
    },
    "errors of sensors by hardware class, of gold/node_hour": {"made/class_error": ALL_COLUMNS},
    "the kernel's split of the node's energy (docs/definitions.md section 5)": {
        "made/job_hour": ALL_COLUMNS,
        "made/node_split": ALL_COLUMNS,
    },
    "as the scheduler's energy plugin says": {"silver/job_run": ALL_COLUMNS},
    "of factor files, registers or settings of the day": {
        "made/market_mix": ALL_COLUMNS,
        "made/intensity_error": ALL_COLUMNS,
        "made/stated": ALL_COLUMNS,
    },
}
_BY_COLUMN: Final = {
    (table, column): reason
    for reason, tables in REASONS.items()
    for table, columns in tables.items()
    for column in columns
}


def reason_of(table: str, column: str) -> str | None:
    """Return why a column has no formula; None where nothing says it."""
    return _BY_COLUMN.get((table, column)) or _BY_COLUMN.get((table, "*"))
