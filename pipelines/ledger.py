"""Close the ledger of the days: owners of IT energy, meters and models -> accounts, residual, verdict.

The facility's model is fitted on site-hours, ledger and meters of earlier days, one model a site and day.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta
from typing import Any, Final

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from lepton_etl.config.settings import Facility
from lepton_etl.days import Days
from lepton_etl.energy.owners import owner_hours
from lepton_etl.errors import LedgerError
from lepton_etl.facility.fit import FacilityFit, StageLoss, fit_facility, why_not
from lepton_etl.facility.hours import Floats, PlantHours, plant_hours
from lepton_etl.facility.modelled_meters import (
    STAGES,
    default_stages,
    fitted_stages,
    modelled_overhead,
    modelled_stages,
    nameplate_losses,
    stage_sums,
    usual_loads,
)
from lepton_etl.facility.pue import meter_hours
from lepton_etl.facility.set_points import operating_figure
from lepton_etl.facility.stored_fit import fit_of, fit_row
from lepton_etl.intervals.node_day import UNLISTED_CLUSTER
from lepton_etl.lake.location import Location
from lepton_etl.lake.tables import Lake, Written
from lepton_etl.ledger.accounts import (
    ASSUMED,
    IT_ACCOUNTS,
    IT_HOURS,
    KNOWN,
    METERS,
    NOTHING_KWH,
    OVERHEADS,
    Accounts,
    meter_errors,
    modelled_hours,
    site_accounts,
)
from lepton_etl.ledger.balance import BALANCE, Finding, findings, ledger_rows, meter_check_rows, node_hours
from lepton_etl.ledger.reconcile import check_meters
from lepton_etl.schema.common import BOUNDARY
from lepton_etl.schema.energy import SITE_HOUR
from lepton_etl.schema.facility import FACILITY_FIT
from lepton_etl.schema.fleet import FACILITY_INTERVAL, INTERVAL, METER
from lepton_etl.schema.ledger import ENERGY_LEDGER, LEDGER_CHECK, METER_CHECK_LAST
from lepton_etl.schema.types import arrow_schema
from lepton_etl.uncertainty import Z
from pipelines.stage import Read, StageContext

_ELECTRICITY: Final = "electricity"
_HEAT: Final = "heat"


@dataclass(frozen=True)
class _Fitting:
    """The fits of the days, by whoever can reach the lake."""

    root: Location
    days: Days
    facility: Facility
    coverage_min_ratio: float

    def __call__(self) -> Read[pa.Table | None]:
        lake = Lake(self.root)
        return Read(self._table(lake), lake.inputs)

    def _table(self, lake: Lake) -> pa.Table | None:
        """Fit the model of every site on the days before; None: too few hours.

        All days take the same fit: one that saw the first of them would change when the range is run again.
        """
        settings, first = self.facility.model, self.days.start
        before = _days_before(first, settings.look_back_days)
        site_hours = lake.read(SITE_HOUR, before)
        if site_hours.height < settings.min_hours:
            return None
        meters = _meter_hours(lake, _days_before(first, settings.stage_days), self.coverage_min_ratio)
        heat = meters.filter(pl.col("carrier") == _HEAT)
        hours = plant_hours(site_hours, lake.read(ENERGY_LEDGER, before), heat)
        curves = _stages(meters.filter(pl.col("carrier") == _ELECTRICITY))
        rows = [
            row
            for site_id, found in sorted(hours.items())
            if why_not(found, settings) is None
            for row in self._rows(site_id, found, curves.get(site_id, {}))
        ]
        return pa.Table.from_pylist(rows, schema=arrow_schema(FACILITY_FIT)) if rows else None

    def _rows(self, site_id: str, hours: PlantHours, stages: Mapping[str, StageLoss]) -> list[dict[str, Any]]:
        """The row of a site's fit for each day."""
        fit = fit_facility(site_id, hours, self.facility.model)
        operating = operating_figure(fit, self.facility.operating) if self.facility.operating else None
        return [fit_row(day, fit, stages, operating) for day in self.days]


def begin_fit(context: StageContext) -> Callable[[], Read[pa.Table | None]]:
    """Begin the fit aside, where there is a process for it; of gold it reads days before the context's alone."""
    settings = context.settings
    fitting = _Fitting(context.lake.root, context.days, settings.facility, settings.energy.coverage_min_ratio)
    return context.engine.aside(fitting)


def run_fit(context: StageContext) -> Written | None:
    """Commit the fits; None: too few hours. The days' ledger and site hours take them where a meter is missing."""
    read = (context.ahead.fit or begin_fit(context))()
    context.lake.inputs |= read.versions
    return None if read.made is None else context.lake.replace(FACILITY_FIT, context.days, read.made)


def fits_of(lake: Lake, day: date) -> tuple[dict[str, FacilityFit], dict[str, dict[str, StageLoss]]]:
    """The fits that may be used on a day and the curves of their stages, by site; empty where there are none."""
    found = [fit_of(row) for row in lake.read(FACILITY_FIT, Days.of(day)).to_dicts()]
    return {fit.site_id: fit for fit, _ in found}, {fit.site_id: stages for fit, stages in found}


def _days_before(day: date, count: int) -> Days:
    return Days(day - timedelta(days=count), day - timedelta(days=1))


def _meter_hours(lake: Lake, days: Days, coverage_min_ratio: float) -> pl.DataFrame:
    """Hours of the top-level electricity and heat meters, each with its carrier."""
    return meter_hours(lake.read(METER), lake.read(FACILITY_INTERVAL, days), days, coverage_min_ratio)


def _stages(meters: pl.DataFrame) -> dict[str, dict[str, StageLoss]]:
    """Curves of the stages whose both sides are metered, by site."""
    curves: dict[str, dict[str, StageLoss]] = {}
    for (site_id,), sums in stage_sums(meters).sort("site_id", "hour_start").group_by("site_id"):
        before, behind = ({part: _floats(sums[sides[at]]) for part, sides in STAGES.items()} for at in (0, 1))
        curves[str(site_id)] = fitted_stages(before, behind)
    return curves


def _floats(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()


_HOUR: Final = ["site_id", "hour_start"]
_SHOWN: Final = 6


@dataclass(frozen=True)
class Ledger:
    """Accounts of the context's days, their rows, those of the meters reconciled, and what forbids to publish them."""

    accounts: Accounts
    owners: pl.DataFrame
    rows: pa.Table
    meter_rows: pa.Table
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
            # A class's range says what such equipment may lose, not what this site does: it is nobody's share.
            pl.col("account_basis").is_in([name for name in KNOWN if name != ASSUMED]).all().alias("is_whole"),
            ((pl.col("account_upper_kwh") - pl.col("account_kwh")) / Z).pow(2).sum().sqrt().alias("sigma_kwh"),
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
                pl.when("is_whole").then("sigma_kwh").alias("overhead_sigma_kwh"),
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
    owner_parts: pl.DataFrame,
    meters: pl.DataFrame,
    drivers: pl.DataFrame,
    *,
    has_jobs: bool,
) -> Ledger:
    """Energy of nodes by owner (parts of site-hours), meter-hours, hours of sites and models -> the ledger.

    `has_jobs` says whether a cluster has job accounting.
    `drivers` has, of each site-hour, `it_energy_sigma_kwh` of the nodes' sum, and what the facility model is driven by:
    it_energy_kwh and outdoor_wet_bulb_temp_c.
    """
    settings = context.settings
    metered = _meters(meters)
    owners = _owners(context, owner_parts, drivers)
    sums = stage_sums(metered)
    accounts = site_accounts(metered, owners, _modelled(context, metered, sums, drivers))
    nodes = node_hours(accounts, owners)
    usual = _modelled(context, metered, usual_loads(sums, nodes), drivers)
    checks = check_meters(owners.select(_HOUR), metered, nodes, usual)
    rows = ledger_rows(accounts, checks)
    found = findings(rows, accounts, checks, settings.ledger, has_jobs=has_jobs)
    return Ledger(accounts, owners, rows, meter_check_rows(checks), tuple(found))


def checked(context: StageContext, book: Ledger) -> tuple[Written, ...]:
    """Keep ledger and meters as checked, and refuse the days that break a limit. Raises LedgerError (exit code 3)."""
    lake, days = context.lake, context.days
    written = (
        lake.replace(LEDGER_CHECK, days, book.rows, allow_empty=True),
        lake.replace(METER_CHECK_LAST, days, book.meter_rows, allow_empty=True),
    )
    if book.findings:
        first = book.findings[0]
        shown = "; ".join(f"{one.site_id} {one.when}: {one.text}" for one in book.findings[:_SHOWN])
        more = len(book.findings) - _SHOWN
        raise LedgerError(
            shown + (f"; and {more} more" if more > 0 else ""),
            where=f"ledger of {first.site_id}",
            remedy="gold is untouched; see ops/ledger_check and ops/meter_check of these days, mend the meter, "
            "meters.csv, the inventory or the silent feed, and run the same command again",
        )
    return written


def _owners(context: StageContext, parts: pl.DataFrame, drivers: pl.DataFrame) -> pl.DataFrame:
    outside = pc.field("cluster_id") == UNLISTED_CLUSTER
    unlisted = context.lake.read(
        INTERVAL, context.days,
        columns=["site_id", "interval_start", "counts_in_total", "energy_kwh"], where=outside,
    )  # fmt: skip
    sigma = drivers.select(*_HOUR, pl.col("it_energy_sigma_kwh").alias("sigma_kwh"))
    known = (pl.col("unknown_nodes") == 0).alias("is_known")
    return (
        owner_hours(parts, unlisted)
        .join(sigma, on=_HOUR, how="left")
        .with_columns(known)
        .select(list(IT_HOURS))
        .cast(IT_HOURS)
        .sort(_HOUR)
    )


def _meters(hours: pl.DataFrame) -> pl.DataFrame:
    return meter_errors(hours).select(list(METERS)).cast(METERS).sort(*_HOUR, "meter_id")


def _modelled(
    context: StageContext, meters: pl.DataFrame, sums: pl.DataFrame, drivers: pl.DataFrame
) -> pl.DataFrame:
    """What stands in for meters: by nameplate, by what was fitted on the days before, by the range of a class.

    `sums` (stage_sums) are the loads that losses go by.
    """
    facility = context.settings.facility
    parts = [] if facility.transformer is None else [nameplate_losses(sums, facility.transformer)]
    for day in context.days:
        fits, stages = fits_of(context.lake, day)
        of_day = pl.col("hour_start").dt.date() == day
        parts.append(_with_class_error(modelled_stages(sums.filter(of_day), stages), meters))
        parts.append(modelled_overhead(drivers.filter(of_day), fits))
    nodes = drivers.select(*_HOUR, pl.col("it_energy_kwh").alias("energy_kwh"))
    parts.append(default_stages(sums, nodes, facility.stages))
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
