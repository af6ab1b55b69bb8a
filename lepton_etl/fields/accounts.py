"""Fields of imputation, of the accounts of a site-hour and of what is left against its meter."""

from __future__ import annotations

from typing import Final

from lepton_etl.fields.declare import DOUBLE, Field, energy, text

SIDES: Final = ("source", "account", "balance")
ACCOUNT_BASES: Final = ("measured", "modelled", "partial", "silent", "unmetered")


def _signed(name: str, description: str) -> Field:
    return Field(name, DOUBLE, "kilowatt_hour", description, ge=-1e9, le=1e9)


FIELDS: Final[tuple[Field, ...]] = (
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
    text("account_basis", "How the account is known.", ACCOUNT_BASES),
    text("detail", "Which meters are silent or which part is not metered."),
    _signed("residual_kwh", "Sources minus the known accounts; never part of an account."),
    energy("residual_sigma_kwh", "One standard deviation of the residual by the errors of all its sensors."),
    energy("residual_tolerance_kwh", "Largest residual that is let pass in the hour."),
    text(
        "balance_state",
        "closed: all known, residual tolerable; exceeded: not tolerable; silent: a feed is silent; open: never known.",
        ("closed", "exceeded", "silent", "open"),
    ),
    # Sources of a site-hour
    energy("utility_kwh", "Energy at the utility meters."),
    energy("pv_kwh", "Energy of on-site photovoltaics."),
    energy("generator_kwh", "Energy of on-site generators."),
    energy("battery_out_kwh", "Energy out of batteries."),
    energy("battery_in_kwh", "Energy into batteries."),
    energy("export_kwh", "Energy fed back to the grid."),
    _signed("overhead_kwh", "Conversion loss, cooling and management; null where one of them is unknown."),
    energy("shared_load_kwh", "Metered network, storage and service equipment outside clusters."),
    energy("unattributed_kwh", "IT energy outside clusters that no owner is known of."),
)
