"""The ledger and the tenants of the report: sums over the range, and what of it is unknown."""

from __future__ import annotations

from typing import Any, Final

import polars as pl
import pyarrow as pa

BALANCE: Final = "balance"
MOST_TENANTS: Final = 40
_ORDER: Final = (
    "utility", "pv", "generator", "battery_out", "export", "battery_in", "jobs", "idle", "chassis_shared",
    "data_transfer", "it_overhead", "conversion_loss", "cooling", "management", "unattributed",
)  # fmt: skip
_TENANT_SUMS: Final = (
    "it_energy_kwh", "it_energy_usage_kwh", "it_energy_equal_kwh", "wasted_energy_kwh", "facility_energy_kwh",
    "emissions_location_kgco2e", "embodied_kgco2e",
)  # fmt: skip


def account_rows(ledger: pa.Table) -> list[dict[str, Any]]:
    """gold/energy_ledger -> one row a source and account: energy of the hours that know it, their number, basis."""
    rows = pl.DataFrame(ledger).filter(pl.col("side") != BALANCE)
    if rows.is_empty():
        return []
    known = pl.col("account_kwh").is_not_null()
    sums = rows.group_by("side", "ledger_account").agg(
        pl.when(known.any()).then(pl.col("account_kwh").sum()).alias("account_kwh"),
        pl.len().alias("hours"),
        known.sum().alias("known_hours"),
        pl.col("account_basis").unique().sort().str.join(", ").alias("basis"),
    )
    order = pl.col("ledger_account").replace_strict({name: i for i, name in enumerate(_ORDER)}, default=99)
    return sums.sort(order, "ledger_account").to_dicts()


def balance_row(ledger: pa.Table) -> dict[str, Any] | None:
    """Sources and residual over the hours that are judged, and how many hours are in which state; None without any."""
    rows = pl.DataFrame(ledger).filter(pl.col("side") == BALANCE)
    if rows.is_empty():
        return None
    judged = rows.filter((pl.col("balance_state") != "open") & pl.col("residual_kwh").is_not_null())
    largest: Any = (judged["residual_kwh"] / judged["account_kwh"]).abs().max()
    states = dict(rows["balance_state"].value_counts().sort("balance_state").iter_rows())
    return {
        "account_kwh": judged["account_kwh"].sum() if judged.height else None,
        "residual_kwh": judged["residual_kwh"].sum() if judged.height else None,
        "largest_ratio": largest,
        "states": ", ".join(f"{count} {state}" for state, count in states.items()),
    }


def tenant_rows(tenants: pa.Table) -> list[dict[str, Any]]:
    """gold/tenant_day -> tenants over the range, the largest first; a figure that a day lacks is null."""
    frame = pl.DataFrame(tenants)
    if frame.is_empty():
        return []
    sums = [
        pl.when(pl.col(name).is_not_null().all()).then(pl.col(name).sum()).alias(name)
        for name in _TENANT_SUMS
    ]
    rows = frame.group_by("cluster_id", "tenant_id").agg(*sums, pl.col("job_count").sum())
    return rows.sort(
        "it_energy_kwh", "cluster_id", "tenant_id", descending=[True, False, False], nulls_last=True
    ).to_dicts()
