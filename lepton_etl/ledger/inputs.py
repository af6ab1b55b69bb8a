"""What the ledger is made from: hours of meters, of nodes by owner, and of models; and its words."""

from __future__ import annotations

from typing import Final

import polars as pl

# IT equipment that serves all tenants, by what its feed `serves`.
SHARED_LOADS: Final = {"network": "data_transfer", "storage": "it_overhead", "service": "it_overhead"}
ACCOUNTS: Final = (
    "jobs", "idle", "chassis_shared", "data_transfer", "it_overhead", "conversion_loss", "cooling", "management",
    "unattributed",
)  # fmt: skip
IT_ACCOUNTS: Final = ("jobs", "idle", "chassis_shared", "data_transfer", "it_overhead", "unattributed")
OVERHEADS: Final = ("conversion_loss", "cooling", "management")

MEASURED: Final = "measured"
MODELLED: Final = "modelled"
PARTIAL: Final = "partial"
SILENT: Final = "silent"
UNMETERED: Final = "unmetered"

NODES_TERM: Final = "nodes"
# What is nothing but the difference of two sums of doubles is nothing.
NOTHING_KWH: Final = 1e-9
# A rest of the IT meter within three standard deviations is sensor error, and belongs to the residual.
SIGNIFICANT_SIGMAS: Final = 3.0

HOUR: Final = ["site_id", "hour_start"]

METERS: Final = pl.Schema(
    {
        "site_id": pl.String(),
        "hour_start": pl.Datetime("us", "UTC"),
        "meter_id": pl.String(),
        "point": pl.String(),
        "serves": pl.String(),
        "direction": pl.Float64(),
        "energy_kwh": pl.Float64(),
        "sigma_kwh": pl.Float64(),
    }
)
"""Hours of top-level electricity meters; `energy_kwh` is null where the meter was silent."""

IT_HOURS: Final = pl.Schema(
    {
        "site_id": pl.String(),
        "hour_start": pl.Datetime("us", "UTC"),
        "jobs_kwh": pl.Float64(),
        "idle_kwh": pl.Float64(),
        "storage_kwh": pl.Float64(),
        "network_kwh": pl.Float64(),
        "service_kwh": pl.Float64(),
        "chassis_shared_kwh": pl.Float64(),
        "unowned_kwh": pl.Float64(),
        "unlisted_kwh": pl.Float64(),
        "sigma_kwh": pl.Float64(),
        "is_known": pl.Boolean(),
    }
)
"""Energy of nodes by owner.

`unowned_kwh` is what nodes without job accounting draw beyond idle, `unlisted_kwh` that of nodes outside the inventory;
`sigma_kwh` is the error of the sum, `is_known` whether every expected node has an energy.
"""

MODELLED_HOURS: Final = pl.Schema(
    {
        "site_id": pl.String(),
        "hour_start": pl.Datetime("us", "UTC"),
        "part": pl.String(),
        "energy_kwh": pl.Float64(),
        "sigma_kwh": pl.Float64(),
    }
)
"""What stands in for a `part` (transformer, ups, pdu, cooling, management) whose meters are silent or missing."""
