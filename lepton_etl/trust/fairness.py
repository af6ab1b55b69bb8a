"""Measure how evenly a night's burdens lie on tenants: caps, delays, waiting, placement, allocated overhead.

Each burden is compared with what it would be if it were shared out by what the tenants hold or use (the fair share):
a tenant's share over its fair share is 1 where it bears as much as all others. Jain's index of these quotients over
the tenants of a site is 1 where all are equal and 1/n where one bears everything.
Source: Jain, Chiu, Hawe, A Quantitative Measure of Fairness, DEC-TR-301 (1984).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import date
from typing import Any, Final

import numpy as np
import numpy.typing as npt
import polars as pl
import pyarrow as pa

from lepton_etl.attribution.tenants import UNKNOWN_TENANT
from lepton_etl.recommend.fair_share import Price
from lepton_etl.schema.declare import SECONDS_PER_HOUR
from lepton_etl.schema.recommend import TENANT_BURDEN
from lepton_etl.schema.types import arrow_schema

# What each burden would be shared out by, and whether it is an energy or a time.
_BASIS: Final[Mapping[str, tuple[str, str]]] = {
    "cap": ("gpu_hours", "burden_h"), "delay": ("pending_jobs", "burden_h"), "wait": ("started_jobs", "burden_h"),
    "placement": ("node_hours", "burden_kwh"), "overhead": ("it_energy", "burden_kwh"),
}  # fmt: skip
# Proposals in these states would be carried out.
_STANDING: Final = ("proposed", "accepted", "applied")
_SUMS: Final = {"site_id": pl.String, "tenant_id": pl.String, "burden": pl.Float64, "basis": pl.Float64}


def jain_index(values: npt.ArrayLike) -> float | None:
    """Return (sum x)^2 / (n sum x^2) of values none of which is negative; None of fewer than two, or of zeros alone."""
    x = np.asarray(values, dtype=np.float64)
    squares = float((x * x).sum())
    return float(x.sum()) ** 2 / (len(x) * squares) if len(x) > 1 and squares > 0 else None


def energy_burdens(tenants: pl.DataFrame) -> dict[str, pl.DataFrame]:
    """Return `placement` and `overhead` of a day's rows of gold/tenant_day, kWh.

    Placement: idle energy of the nodes that the tenant was placed on, by node-hours held. Overhead: facility less IT
    energy, by IT energy. What a cluster of the tenant lacks leaves the tenant's figure unknown.
    """
    overhead = pl.col("facility_energy_kwh") - pl.col("it_energy_kwh")
    return {
        "placement": _summed(tenants, pl.col("static_kwh"), pl.col("node_held_h")),
        "overhead": _summed(tenants, overhead, pl.col("it_energy_kwh")),
    }


def waits(runs: pl.DataFrame, day: date) -> pl.DataFrame:
    """Return the hours between submission and start of the runs that first started on the day, by runs."""
    first = runs.filter((pl.col("start_time").dt.date() == day) & (pl.col("restart") == 0))
    waited = (pl.col("start_time") - pl.col("submit_time")).dt.total_seconds() / SECONDS_PER_HOUR
    return _summed(first, waited.clip(lower_bound=0.0), pl.lit(1.0))


def delays(advised: Sequence[Mapping[str, Any]], pending: pl.DataFrame) -> pl.DataFrame:
    """Return the hours by which the proposals that stand delay jobs, by pending jobs (site_id, job_id, tenant_id)."""
    by_job = {
        row["job_id"]: max(float(json.loads(row["action_json"])["delay_h"] or 0.0), 0.0)
        for row in advised
        if row["lever"] == "shift" and row["recommendation_state"] in _STANDING
    }
    rows = pending.with_columns(
        pl.col("job_id").replace_strict(by_job, default=0.0, return_dtype=pl.Float64).alias("_h")
    )
    return _summed(rows, pl.col("_h"), pl.lit(1.0))


def slowdowns(advised: Sequence[Mapping[str, Any]], held: pl.DataFrame) -> pl.DataFrame:
    """Return the GPU-hours that the caps that stand would add, by GPU-hours held.

    `held` is site_id, tenant_id, job_class and gpu_h of the day.
    """
    caps = {
        row["job_class"]: max(float(row["expected_slowdown_ratio"] or 0.0), 0.0)
        for row in advised
        if row["lever"] == "power_cap" and row["recommendation_state"] in _STANDING
    }
    slower = pl.col("job_class").replace_strict(caps, default=0.0, return_dtype=pl.Float64)
    return _summed(held, slower * pl.col("gpu_h"), pl.col("gpu_h"))


def _summed(rows: pl.DataFrame, burden: pl.Expr, basis: pl.Expr) -> pl.DataFrame:
    """Return burden and basis by site and tenant; a burden that a row lacks is unknown for the tenant."""
    tenant = pl.col("tenant_id").fill_null(UNKNOWN_TENANT)
    return (
        rows.select(
            "site_id", tenant, burden.cast(pl.Float64).alias("burden"), basis.cast(pl.Float64).alias("basis")
        )
        .group_by("site_id", "tenant_id")
        .agg(
            pl.when(pl.col("burden").is_not_null().all()).then(pl.col("burden").sum()).alias("burden"),
            pl.col("basis").sum(),
        )
        .filter(pl.col("basis") > 0)
    )


def tenant_burdens(day: date, burdens: Mapping[str, pl.DataFrame], prices: Sequence[Price] = ()) -> pa.Table:
    """Return the rows of gold/tenant_burden; `burdens` are site_id, tenant_id, burden and basis by kind.

    A kind that nobody bears has no rows. Where one tenant's burden is unknown so are the shares and the index of all.
    """
    found: list[dict[str, Any]] = []
    for kind in _BASIS:
        price = next((one for one in prices if one.burden_kind == kind), None)
        for _, site in burdens.get(kind, pl.DataFrame(schema=_SUMS)).group_by("site_id", maintain_order=True):
            if price is not None or (site["burden"].fill_null(1.0) > 0).any():
                found += _shared(day, kind, site.sort("tenant_id"), price)
    return pa.Table.from_pylist(found, schema=arrow_schema(TENANT_BURDEN))


def _shared(day: date, kind: str, rows: pl.DataFrame, price: Price | None) -> list[dict[str, Any]]:
    basis_name, column = _BASIS[kind]
    burden, basis = (rows[name].to_numpy() for name in ("burden", "basis"))
    fair = basis / basis.sum()
    total = float(burden.sum())
    # NaN, unknown, is no sum above 0.
    share = burden / total if total > 0 else None
    of_all = {
        "date": day,
        "burden_kind": kind,
        "fair_share_basis": basis_name,
        "jain_index_ratio": None if share is None else jain_index(share / fair),
        "share_max_ratio": price and price.share_max_ratio,
        "forgone_saving_kwh": price and price.forgone_saving_kwh,
        "forgone_saving_ratio": price and price.forgone_saving_ratio,
    }
    return [
        of_all
        | {
            "site_id": row["site_id"],
            "tenant_id": row["tenant_id"],
            column: row["burden"],
            "burden_share_ratio": None if share is None else float(share[number]),
            "fair_share_ratio": float(fair[number]),
        }
        for number, row in enumerate(rows.to_dicts())
    ]
