"""The accounts of a site-hour, bills and tariffs."""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables.declare import Table

TARIFF: Final = Table(
    "silver/tariff", grain="one price of a tariff while one row holds", owner="ledger",
    key=("site_id", "tariff_id", "charge", "weekdays", "local_from", "valid_from"),
    columns=(
        "site_id", "tariff_id", "charge", "price", "currency", "weekdays", "local_from", "local_to",
        "valid_from", "valid_to",
    ),
    not_null=("price", "currency", "local_to"),
)  # fmt: skip

COST_MONTH: Final = Table(
    "gold/cost_month", grain="one cluster over one billed month", key=("site_id", "cluster_id", "month"),
    owner="ledger",
    columns=(
        "site_id", "cluster_id", "month", "facility_energy_kwh", "energy_cost", "demand_cost", "fixed_cost",
        "cost", "currency", "cost_basis",
    ),
    not_null=("cost_basis",),
)  # fmt: skip

BILL_CHECK: Final = Table(
    "gold/bill_check", grain="one billed month of one site against its invoice", key=("site_id", "month"),
    owner="ledger",
    columns=(
        "site_id", "month", "first_day", "last_day", "invoice_id", "ledger_kwh", "ledger_known_kwh",
        "ledger_basis", "missing_hours", "invoice_kwh", "difference_kwh", "difference_ratio", "verdict",
        "demand_peak_w", "demand_peak_time", "energy_cost", "demand_cost", "fixed_cost", "cost", "currency",
        "invoice_cost", "cost_difference", "cost_difference_ratio", "cost_verdict",
    ),
    not_null=("first_day", "last_day", "ledger_basis", "missing_hours", "verdict", "cost_verdict"),
)  # fmt: skip

SITE_COST: Final = Table(
    "gold/site_cost", grain="the energy cost of one site over one hour", partition="date", owner="ledger",
    key=("site_id", "hour_start"),
    columns=("date", "hour_start", "site_id", "energy_price", "energy_cost", "currency", "cost_basis"),
    not_null=("date", "cost_basis"),
)  # fmt: skip

CLUSTER_COST: Final = Table(
    "gold/cluster_cost", grain="the energy cost of one cluster over one hour", partition="date", owner="ledger",
    key=("site_id", "cluster_id", "hour_start"),
    columns=("date", "hour_start", "site_id", "cluster_id", "energy_cost", "currency", "cost_basis"),
    not_null=("date", "cost_basis"),
)  # fmt: skip
