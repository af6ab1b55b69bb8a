"""The closed ledger of a site-hour."""

from __future__ import annotations

from typing import Final

from lepton_etl.lake.tables.declare import Table

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

LEDGER_CHECK: Final = Table(
    "ops/ledger_check", grain="one line of the ledger as last checked, published or refused", partition="date",
    owner="ledger", key=_KEY, columns=_COLUMNS, not_null=_NOT_NULL,
    warnings=("Refused nights stand here and nowhere else; read gold/energy_ledger for published figures.",),
)  # fmt: skip
