"""gold/site_hour, gold/energy_ledger and meters of earlier days -> gold/facility_fit, one model a site and day."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta
from typing import Any, Final

import polars as pl
import pyarrow as pa
from pyspark.sql import functions as F

from lepton_etl.days import Days
from lepton_etl.energy.facility import meter_hours
from lepton_etl.facility.fit import FacilityFit, fit_facility, why_not
from lepton_etl.facility.hours import PlantHours, plant_hours
from lepton_etl.facility.operating import operating_figure
from lepton_etl.facility.rows import fit_of, fit_row
from lepton_etl.facility.stages import StageLoss, fit_stage_loss
from lepton_etl.facility.stand_in import STAGES, stage_sums
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.store import Lake, Written
from lepton_etl.lake.tables import FACILITY_INTERVAL, METER, SITE_HOUR
from lepton_etl.lake.tables.accounts import ENERGY_LEDGER
from lepton_etl.lake.tables.facility import FACILITY_FIT
from pipelines.stage import StageContext

_ELECTRICITY: Final = "electricity"
_HEAT: Final = "heat"


def run_fit(context: StageContext) -> Written | None:
    """Fit the model of every site for each day of the context on the days before it; None: too few hours.

    Run it before the day's ledger and site hours, which take the day's fit where a meter is missing.
    """
    settings = context.settings.facility.model
    rows: list[dict[str, Any]] = []
    for day in context.days:
        before = _days_before(day, settings.look_back_days)
        meters = _days_before(day, settings.stage_days)
        heat = _meter_hours(context, meters, _HEAT)
        hours = plant_hours(
            context.lake.read_few(SITE_HOUR, before).toArrow(),
            context.lake.read_few(ENERGY_LEDGER, before).toArrow(),
            heat,
        )
        fitted = {site: found for site, found in hours.items() if why_not(found, settings) is None}
        if not fitted:
            continue
        curves = _stages(_meter_hours(context, meters, _ELECTRICITY))
        rows += [
            _row(context, day, site, found, curves.get(site, {})) for site, found in sorted(fitted.items())
        ]
    if not rows:
        return None
    table = pa.Table.from_pylist(rows, schema=arrow_schema(FACILITY_FIT))
    return context.lake.replace_few(FACILITY_FIT, context.days, context.lake.spark.createDataFrame(table))


def fits_of(lake: Lake, day: date) -> tuple[dict[str, FacilityFit], dict[str, dict[str, StageLoss]]]:
    """The fits that may be used on a day and the curves of their stages, by site; empty where there are none."""
    found = [fit_of(row) for row in lake.read_few(FACILITY_FIT, Days.of(day)).toArrow().to_pylist()]
    return {fit.site_id: fit for fit, _ in found}, {fit.site_id: stages for fit, stages in found}


def _row(
    context: StageContext, day: date, site_id: str, hours: PlantHours, stages: Mapping[str, StageLoss]
) -> dict[str, Any]:
    facility = context.settings.facility
    fit = fit_facility(site_id, hours, facility.model)
    operating = operating_figure(fit, facility.operating) if facility.operating else None
    return fit_row(day, fit, stages, operating)


def _days_before(day: date, count: int) -> Days:
    return Days(day - timedelta(days=count), day - timedelta(days=1))


def _meter_hours(context: StageContext, days: Days, carrier: str) -> pa.Table:
    """Hours of the top-level meters of one carrier."""
    lake, limit = context.lake, context.settings.energy.coverage_min_ratio
    of_carrier = F.coalesce("carrier", F.lit(_ELECTRICITY)) == carrier
    # meter_hours takes electricity alone; heat that a meter tells in kWh is counted by the same rule.
    meters = lake.read_few(METER).where(of_carrier).withColumn("carrier", F.lit(_ELECTRICITY))
    intervals = lake.read(FACILITY_INTERVAL, days)
    return meters.transform(meter_hours(intervals, days, limit)).toArrow()


def _stages(electricity: pa.Table) -> dict[str, dict[str, StageLoss]]:
    """Curves of the stages whose both sides are metered, by site."""
    meters = pl.from_arrow(electricity)
    assert isinstance(meters, pl.DataFrame)
    curves: dict[str, dict[str, StageLoss]] = {}
    for (site_id,), sums in stage_sums(meters).sort("site_id", "hour_start").group_by("site_id"):
        found = {
            part: fit_stage_loss(
                sums[before].fill_null(float("nan")).to_numpy(),
                sums[behind].fill_null(float("nan")).to_numpy(),
            )
            for part, (before, behind) in STAGES.items()
        }
        curves[str(site_id)] = {part: curve for part, curve in found.items() if curve is not None}
    return curves
