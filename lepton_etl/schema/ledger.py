"""Fields and tables of the ledger of a site-hour, and of tariffs, costs and bills."""

from __future__ import annotations

from typing import Final

from lepton_etl.schema.common import PUE_BASIS, VERDICTS
from lepton_etl.schema.declare import BOOLEAN, DATE, DOUBLE, Field, Table, count, energy, text, time, watts

SIDES: Final = ("source", "account", "balance")
ACCOUNT_BASES: Final = ("measured", "derived", "modelled", "assumed", "partial", "silent", "unmetered")


def _signed(name: str, description: str) -> Field:
    return Field(name, DOUBLE, "kilowatt_hour", description, ge=-1e9, le=1e9)


ACCOUNTS_FIELDS: Final[tuple[Field, ...]] = (
    # Imputation
    Field("imputed_s", DOUBLE, "second", "Seconds that were imputed.", ge=0.0, le=1e12),
    energy("imputed_sigma_kwh", "One standard deviation of the imputed energy; adds linearly over time."),
    text("imputation_basis", "What the imputed part rests on.", ("model", "history", "none")),
    energy("chassis_shared_kwh", "Share of what the chassis draws beyond its nodes, by the node's energy."),
    energy("it_energy_sigma_kwh", "One standard deviation of it_energy_kwh by all its errors."),
    # The ledger
    text("side", "Source of energy, account that it went to, or the balance of both.", SIDES),
    text("ledger_account", "Source or account of the ledger; 'balance' is the hour's sum."),
    _signed(
        "account_kwh", "Energy of the source or account; export and battery charge are negative sources."
    ),
    _signed("account_lower_kwh", "Lower end of the account's 90 % interval."),
    _signed("account_upper_kwh", "Upper end of the account's 90 % interval."),
    text(
        "account_basis",
        "How the account is known; derived: a loss that is the difference of two meters; assumed: by equipment class.",
        ACCOUNT_BASES,
    ),
    text("detail", "What the figure rests on, what is silent or not metered, what contradicts what."),
    _signed("residual_kwh", "Sources minus the known accounts; never part of an account."),
    energy("residual_sigma_kwh", "One standard deviation of the residual by the errors of all its sensors."),
    energy("residual_tolerance_kwh", "Three standard deviations of the residual."),
    text(
        "balance_state",
        "closed: the meters agree; violated: they contradict; silent: one is; unverified: nothing checks it.",
        ("closed", "violated", "silent", "unverified"),
    ),
    # Meters reconciled
    text("check_period", "Whether the meters of an hour or of a UTC day are reconciled.", ("hour", "day")),
    _signed("metered_kwh", "What the meter, the stage's loss curve or the nodes' sensors say of the period."),
    _signed("reconciled_kwh", "The nearest figure that fulfils the balances; null where none holds it."),
    Field(
        "adjustment_sigma",
        DOUBLE,
        None,
        "How much too high the figure reads by a factor, in standard deviations of that test.",
        ge=-1e9,
        le=1e9,
    ),
    Field(
        "detectable_ratio",
        DOUBLE,
        "dimensionless",
        "Smallest relative error of the figure that is beyond four standard deviations; null where nothing checks it.",
        ge=0.0,
        le=1e12,
    ),
    Field("is_checked", BOOLEAN, None, "Whether an error of half the figure would be seen."),
    text(
        "meter_verdict",
        "culprit: it alone explains the contradiction; candidate: it and others do; unchecked: nothing checks it.",
        ("agrees", "culprit", "candidate", "unchecked", "silent"),
    ),
    text(
        "check_basis", "What the figure's error rests on: the meter's class, a nameplate, a curve, a class."
    ),
    # Sources of a site-hour
    energy("utility_kwh", "Energy at the utility meters."),
    energy("pv_kwh", "Energy of on-site photovoltaics."),
    energy("generator_kwh", "Energy of on-site generators."),
    energy("battery_out_kwh", "Energy out of batteries."),
    energy("battery_in_kwh", "Energy into batteries."),
    energy("export_kwh", "Energy fed back to the grid."),
    energy("overhead_sigma_kwh", "One standard deviation of overhead_kwh by its meters and curves."),
    _signed("overhead_kwh", "Conversion loss, cooling and management; null where one of them is unknown."),
    energy("shared_load_kwh", "Metered network, storage and service equipment outside clusters."),
    energy("unattributed_kwh", "IT energy outside clusters that no owner is known of."),
)

_MAX_MONEY: Final = 1e12


def _money(name: str, description: str) -> Field:
    """An amount in the row's currency; below zero where prices are."""
    return Field(name, DOUBLE, None, description, ge=-_MAX_MONEY, le=_MAX_MONEY)


_MONEY: Final[tuple[Field, ...]] = (
    # Tariffs
    text("tariff_id", "Tariff that the row belongs to."),
    text(
        "charge",
        "What is charged: each kWh, the month's 15-minute peak in kW, or the month.",
        ("energy", "demand", "fixed"),
    ),
    _money("price", "Price in currency per kWh (energy), per kW and month (demand), per month (fixed)."),
    text("currency", "ISO 4217 code of every amount of the row."),
    text("weekdays", "Local weekdays on which the row holds, such as mon-fri or sat,sun."),
    text("local_from", "Local time of day from which the row holds, such as 07:00."),
    text("local_to", "Local time of day until which the row holds; 24:00 is the end of the day."),
    # Costs
    _money(
        "energy_price", "Mean energy price of the hour in currency per kWh, weighted by the metered energy."
    ),
    _money("energy_cost", "Energy by the price of its hour; of a cluster its share by facility energy."),
    _money("energy_cost_lower", "Lower end of the 90 % interval by the energy; a price has no error."),
    _money("energy_cost_upper", "Upper end of the 90 % interval by the energy; a price has no error."),
    _money(
        "demand_cost", "Demand charges of the month; of a cluster its share of the energy in the peak's hour."
    ),
    _money("fixed_cost", "Fixed charges of the month; of a cluster its share by facility energy."),
    _money("cost", "Energy, demand and fixed cost; null where one of them is unknown."),
    text("cost_basis", "Whether the cost rests on metered or on modelled facility energy.", PUE_BASIS),
    # Bills
    text("invoice_id", "Number of the invoice."),
    Field("first_day", DATE, None, "First local day that is billed."),
    Field("last_day", DATE, None, "Last local day that is billed."),
    energy("ledger_kwh", "Metered import of the period; null where an hour of it is unknown."),
    energy("ledger_known_kwh", "Metered import of the hours that are known."),
    text(
        "ledger_basis", "Whether every hour of the period is metered.", ("measured", "insufficient", "none")
    ),
    count("missing_hours", "Hours of the period without a metered import."),
    energy("invoice_kwh", "Energy that the invoice bills."),
    Field("difference_kwh", DOUBLE, "kilowatt_hour", "Ledger minus invoice.", ge=-1e9, le=1e9),
    Field("difference_ratio", DOUBLE, "dimensionless", "Difference over the invoice.", ge=-1e9, le=1e9),
    text("verdict", "Whether the energies agree within billing.tolerance_ratio.", VERDICTS),
    watts("demand_peak_w", "Largest 15-minute mean of the metered import."),
    time("demand_peak_time", "Start of the 15 minutes of the largest mean, UTC."),
    _money("invoice_cost", "Amount of the invoice."),
    _money("cost_difference", "Cost of the ledger minus the invoice's."),
    Field(
        "cost_difference_ratio",
        DOUBLE,
        "dimensionless",
        "Cost difference over the invoice's.",
        ge=-1e9,
        le=1e9,
    ),
    text("cost_verdict", "Whether the costs agree within billing.tolerance_ratio.", VERDICTS),
)

FIELDS: Final[tuple[Field, ...]] = (*_MONEY,)

_COLUMNS: Final = (
    "date", "hour_start", "site_id", "side", "ledger_account", "account_kwh", "account_lower_kwh", "account_upper_kwh",
    "account_basis", "detail", "residual_kwh", "residual_sigma_kwh", "residual_tolerance_kwh", "balance_state",
    "status",
)  # fmt: skip
_KEY: Final = ("site_id", "hour_start", "side", "ledger_account")
_NOT_NULL: Final = ("date", "account_basis", "status")

ENERGY_LEDGER: Final = Table(
    "gold/energy_ledger", grain="one source or account of a site-hour, and its balance", partition="date",
    owner="ledger", key=_KEY, columns=_COLUMNS, not_null=_NOT_NULL,
)  # fmt: skip

_CHECK_COLUMNS: Final = (
    "date", "hour_start", "check_period", "site_id", "meter_id", "point", "metered_kwh", "reconciled_kwh",
    "adjustment_sigma", "detectable_ratio", "is_checked", "meter_verdict", "check_basis", "detail", "status",
)  # fmt: skip
_CHECK_KEY: Final = ("site_id", "check_period", "hour_start", "meter_id")
_CHECK_NOT_NULL: Final = ("date", "is_checked", "meter_verdict", "check_basis", "status")

METER_CHECK: Final = Table(
    "gold/meter_check", grain="one meter, loss or sum of nodes of a site over an hour or a day, reconciled",
    partition="date", owner="ledger", key=_CHECK_KEY, columns=_CHECK_COLUMNS, not_null=_CHECK_NOT_NULL,
)  # fmt: skip

METER_CHECK_LAST: Final = Table(
    "ops/meter_check", grain="one line of gold/meter_check as last made, published or refused", partition="date",
    owner="ledger", key=_CHECK_KEY, columns=_CHECK_COLUMNS, not_null=_CHECK_NOT_NULL,
    warnings=("Refused nights stand here and nowhere else; read gold/meter_check for published figures.",),
)  # fmt: skip

LEDGER_CHECK: Final = Table(
    "ops/ledger_check", grain="one line of the ledger as last checked, published or refused", partition="date",
    owner="ledger", key=_KEY, columns=_COLUMNS, not_null=_NOT_NULL,
    warnings=("Refused nights stand here and nowhere else; read gold/energy_ledger for published figures.",),
)  # fmt: skip

TARIFF: Final = Table(
    "silver/tariff", grain="one price of a tariff while one row holds", owner="billing",
    key=("site_id", "tariff_id", "charge", "weekdays", "local_from", "valid_from"),
    columns=(
        "site_id", "tariff_id", "charge", "price", "currency", "weekdays", "local_from", "local_to",
        "valid_from", "valid_to",
    ),
    not_null=("price", "currency", "local_to"),
)  # fmt: skip

COST_MONTH: Final = Table(
    "gold/cost_month", grain="one cluster over one billed month", key=("site_id", "cluster_id", "month"),
    owner="billing",
    columns=(
        "site_id", "cluster_id", "month", "facility_energy_kwh", "energy_cost", "demand_cost", "fixed_cost",
        "cost", "currency", "cost_basis",
    ),
    not_null=("cost_basis",),
)  # fmt: skip

BILL_CHECK: Final = Table(
    "gold/bill_check", grain="one billed month of one site against its invoice", key=("site_id", "month"),
    owner="billing",
    columns=(
        "site_id", "month", "first_day", "last_day", "invoice_id", "ledger_kwh", "ledger_known_kwh",
        "ledger_basis", "missing_hours", "invoice_kwh", "difference_kwh", "difference_ratio", "verdict",
        "demand_peak_w", "demand_peak_time", "energy_cost", "demand_cost", "fixed_cost", "cost", "currency",
        "invoice_cost", "cost_difference", "cost_difference_ratio", "cost_verdict",
    ),
    not_null=("first_day", "last_day", "ledger_basis", "missing_hours", "verdict", "cost_verdict"),
)  # fmt: skip

SITE_COST: Final = Table(
    "gold/site_cost", grain="the energy cost of one site over one hour", partition="date", owner="billing",
    key=("site_id", "hour_start"),
    columns=("date", "hour_start", "site_id", "energy_price", "energy_cost", "currency", "cost_basis",
        "energy_cost_lower", "energy_cost_upper",
    ),
    not_null=("date", "cost_basis"),
)  # fmt: skip

CLUSTER_COST: Final = Table(
    "gold/cluster_cost", grain="the energy cost of one cluster over one hour", partition="date", owner="billing",
    key=("site_id", "cluster_id", "hour_start"),
    columns=("date", "hour_start", "site_id", "cluster_id", "energy_cost", "currency", "cost_basis",
        "energy_cost_lower", "energy_cost_upper",
    ),
    not_null=("date", "cost_basis"),
)  # fmt: skip
