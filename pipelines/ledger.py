"""The closed ledger of the days: owners of IT energy, meters and models -> accounts, residual, verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import polars as pl
import pyarrow as pa
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from lepton_etl.energy.intervals import UNLISTED_CLUSTER
from lepton_etl.energy.owners import owner_hours
from lepton_etl.errors import LedgerError
from lepton_etl.facility.stand_in import STAGES, modelled_overhead, modelled_stages
from lepton_etl.fields.words import BOUNDARY
from lepton_etl.lake.store import Lake, Written
from lepton_etl.lake.tables import INTERVAL
from lepton_etl.lake.tables.accounts import LEDGER_CHECK
from lepton_etl.ledger.accounts import Accounts, site_accounts
from lepton_etl.ledger.balance import BALANCE, Finding, findings, ledger_rows
from lepton_etl.ledger.inputs import IT_ACCOUNTS, IT_HOURS, METERS, NOTHING_KWH, OVERHEADS
from lepton_etl.ledger.losses import class_sigma_ratio, modelled_hours, transformer_losses
from pipelines.facility_fit import fits_of
from pipelines.stage import StageContext

_HOUR: Final = ["site_id", "hour_start"]
_SHOWN: Final = 6


@dataclass(frozen=True)
class Ledger:
    """Accounts of the context's days, their rows, and what forbids to publish them."""

    accounts: Accounts
    owners: pl.DataFrame
    rows: pa.Table
    findings: tuple[Finding, ...]

    def site_columns(self) -> pl.DataFrame:
        """One row a site-hour: sources, overhead, shared load, unattributed energy and residual."""
        rows = pl.DataFrame(self.rows)
        wide = rows.filter(pl.col("side") != BALANCE).pivot(
            on="ledger_account", index=_HOUR, values="account_kwh"
        )
        missing = [
            name for name in (*BOUNDARY, *OVERHEADS, *IT_ACCOUNTS) if name not in wide.columns
        ]  # fmt: skip
        wide = wide.with_columns(pl.lit(None, pl.Float64).alias(name) for name in missing)
        whole = rows.filter(pl.col("ledger_account").is_in(list(OVERHEADS))).group_by(_HOUR).agg(
            pl.col("account_basis").is_in(("measured", "modelled")).all().alias("is_whole")
        )  # fmt: skip
        balance = rows.filter(pl.col("side") == BALANCE).select(
            *_HOUR, "residual_kwh", "residual_sigma_kwh", "balance_state"
        )
        metered = self._metered_shared()
        in_clusters = self.owners.select(
            *_HOUR, pl.col("unowned_kwh").fill_null(0.0).alias("in_clusters_kwh")
        )
        outside = pl.col("unattributed") - pl.col("in_clusters_kwh")
        return (
            wide.join(whole, on=_HOUR, how="left")
            .join(balance, on=_HOUR, how="left")
            .join(metered, on=_HOUR, how="left")
            .join(in_clusters, on=_HOUR, how="left")
            .select(
                *_HOUR,
                *(pl.col(name).abs().alias(f"{name}_kwh") for name in BOUNDARY),
                pl.when("is_whole").then(pl.sum_horizontal(*OVERHEADS)).alias("overhead_kwh"),
                "shared_load_kwh",
                pl.when(outside > NOTHING_KWH).then(outside).alias("unattributed_kwh"),
                "residual_kwh",
                "residual_sigma_kwh",
                "balance_state",
            )
        )

    def _metered_shared(self) -> pl.DataFrame:
        """Network, storage and service equipment at meters; what nodes' sensors say of it has its node-hours."""
        terms = self.accounts.terms
        at_meter = pl.col("account").is_in(("data_transfer", "it_overhead")) & pl.col("term").str.starts_with(
            "meter:"
        )
        return (
            terms.filter(at_meter)
            .sort("term")
            .group_by(_HOUR, maintain_order=True)
            .agg(pl.col("value_kwh").sum().alias("shared_load_kwh"))
        )


def ledger(
    context: StageContext,
    node_hours: DataFrame,
    meter_hours: DataFrame,
    drivers: DataFrame,
    node_split: DataFrame | None,
) -> Ledger:
    """Node-hours, meter-hours, hours of sites, the split by jobs (None: no accounting) and models -> the ledger.

    `drivers` has, of each site-hour, `it_energy_sigma_kwh` of the nodes' sum, and what the facility model is driven by:
    it_energy_kwh and outdoor_wet_bulb_temp_c.
    """
    settings = context.settings
    meters = _meters(meter_hours)
    owners = _owners(context, node_hours, drivers, node_split)
    accounts = site_accounts(meters, owners, _modelled(context, meters, drivers))
    rows = ledger_rows(accounts, settings.ledger)
    found = findings(rows, accounts, settings.ledger, has_jobs=node_split is not None)
    return Ledger(accounts, owners, rows, tuple(found))


def checked(lake: Lake, context: StageContext, book: Ledger) -> Written:
    """Keep the ledger as checked, and refuse the days that break a limit. Raises LedgerError (exit code 3)."""
    written = lake.replace_few(
        LEDGER_CHECK, context.days, lake.spark.createDataFrame(book.rows), allow_empty=True
    )
    if book.findings:
        first = book.findings[0]
        shown = "; ".join(f"{one.site_id} {one.when}: {one.text}" for one in book.findings[:_SHOWN])
        more = len(book.findings) - _SHOWN
        raise LedgerError(
            shown + (f"; and {more} more" if more > 0 else ""),
            where=f"ledger of {first.site_id}",
            remedy="gold is untouched; see ops/ledger_check of these days, mend meters.csv, the inventory or the "
            "silent feed, and run the same command again",
        )
    return written


def _owners(
    context: StageContext, node_hours: DataFrame, drivers: DataFrame, node_split: DataFrame | None
) -> pl.DataFrame:
    lake = context.lake
    unlisted = lake.read(INTERVAL, context.days).where(F.col("cluster_id") == UNLISTED_CLUSTER)
    sums = drivers.select(*_HOUR, F.col("it_energy_sigma_kwh").alias("sigma_kwh"))
    rows = node_hours.transform(owner_hours(node_split, unlisted)).join(sums, _HOUR, how="left")
    found = pl.DataFrame(rows.toArrow())
    known = (pl.col("unknown_nodes") == 0).alias("is_known")
    return (
        found.with_columns(known, pl.col("sigma_kwh").fill_null(0.0))
        .select(list(IT_HOURS))
        .cast(IT_HOURS)
        .sort(_HOUR)
    )


def _meters(hours: DataFrame) -> pl.DataFrame:
    found = pl.DataFrame(hours.toArrow())
    # A meter without a class errs by an amount that nobody stated: it adds nothing to the interval.
    ratio = class_sigma_ratio(1.0) * pl.col("class_pct").fill_null(0.0)
    return (
        found.with_columns((pl.col("energy_kwh") * ratio).alias("sigma_kwh"))
        .select(list(METERS))
        .cast(METERS)
        .sort(*_HOUR, "meter_id")
    )


def _modelled(context: StageContext, meters: pl.DataFrame, drivers: DataFrame) -> pl.DataFrame:
    """What stands in for meters: curves and models fitted on the days before, then the transformer's nameplate."""
    plate = context.settings.facility.transformer
    hours = pl.DataFrame(drivers.toArrow())
    parts = []
    for day in context.days:
        fits, stages = fits_of(context.lake, day)
        of_day = pl.col("hour_start").dt.date() == day
        parts.append(_with_class_error(modelled_stages(meters.filter(of_day), stages), meters))
        parts.append(modelled_overhead(hours.filter(of_day), fits))
    if plate is not None:
        parts.append(
            transformer_losses(
                meters, plate.rated_power_w, plate.no_load_loss_ratio, plate.load_loss_ratio
            )
        )  # fmt: skip
    return modelled_hours(parts)


def _with_class_error(stages: pl.DataFrame, meters: pl.DataFrame) -> pl.DataFrame:
    """The error of a stage's curve with that of the meters it was fitted on: their gains are in it for good."""
    variance = (
        meters.sort("meter_id")
        .group_by(*_HOUR, "point", maintain_order=True)
        .agg(pl.col("sigma_kwh").pow(2).sum().alias("variance"))
    )
    sides = pl.DataFrame(
        [(part, point) for part, pair in STAGES.items() for point in pair],
        schema={"part": pl.String, "point": pl.String},
        orient="row",
    )
    of_part = (
        sides.join(variance, on="point", how="inner")
        .sort("point")
        .group_by(*_HOUR, "part", maintain_order=True)
        .agg(pl.col("variance").sum())
    )
    sigma = (pl.col("sigma_kwh").pow(2) + pl.col("variance").fill_null(0.0)).sqrt()
    return (
        stages.join(of_part, on=[*_HOUR, "part"], how="left")
        .with_columns(sigma.alias("sigma_kwh"))
        .drop("variance")
    )
