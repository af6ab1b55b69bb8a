"""Fields of the accounts, the balance, bills and tariffs."""

from __future__ import annotations

from typing import Final

from lepton_etl.fields.declare import DATE, DOUBLE, Field, count, energy, text, time, watts
from lepton_etl.fields.words import PUE_BASIS, VERDICTS

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
    _money("invoice_cost", "Amount that the invoice asks."),
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
