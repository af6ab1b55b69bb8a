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
from lepton_etl.facility.hours import Floats, PlantHours, plant_hours
from lepton_etl.facility.operating import operating_figure
from lepton_etl.facility.rows import fit_of, fit_row
from lepton_etl.facility.stages import StageLoss, fit_stage_loss
from lepton_etl.facility.stand_in import STAGES, stage_sums
from lepton_etl.lake import plain
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.store import Lake, Written
from lepton_etl.lake.tables import FACILITY_INTERVAL, METER, SITE_HOUR
from lepton_etl.lake.tables.accounts import ENERGY_LEDGER
from lepton_etl.lake.tables.facility import FACILITY_FIT
from pipelines.stage import StageContext

_ELECTRICITY: Final = "electricity"
_HEAT: Final = "heat"


def run_fit(context: StageContext) -> Written | None:
    """Fit the model of every site on the days before the context's; None: too few hours.

    All days of the context take the same fit: one that saw the first of them would change when the range is run
    again. Run it before the days' ledger and site hours, which take the fit where a meter is missing.
    """
    settings, root, first = context.settings.facility.model, context.lake.root, context.days.start
    before = _days_before(first, settings.look_back_days)
    site_hours = plain.read(root, SITE_HOUR, before)
    if site_hours.num_rows < settings.min_hours:
        return None
    meters = _meter_hours(context, _days_before(first, settings.stage_days))
    heat = meters.filter(pl.col("carrier") == _HEAT)
    hours = plant_hours(site_hours, plain.read(root, ENERGY_LEDGER, before), heat.to_arrow())
    curves = _stages(meters.filter(pl.col("carrier") == _ELECTRICITY))
    rows = [
        row
        for site_id, found in sorted(hours.items())
        if why_not(found, settings) is None
        for row in _rows(context, site_id, found, curves.get(site_id, {}))
    ]
    if not rows:
        return None
    table = pa.Table.from_pylist(rows, schema=arrow_schema(FACILITY_FIT))
    return context.lake.replace_few(FACILITY_FIT, context.days, context.lake.spark.createDataFrame(table))


def fits_of(lake: Lake, day: date) -> tuple[dict[str, FacilityFit], dict[str, dict[str, StageLoss]]]:
    """The fits that may be used on a day and the curves of their stages, by site; empty where there are none."""
    found = [fit_of(row) for row in lake.read_few(FACILITY_FIT, Days.of(day)).toArrow().to_pylist()]
    return {fit.site_id: fit for fit, _ in found}, {fit.site_id: stages for fit, stages in found}


def _rows(
    context: StageContext, site_id: str, hours: PlantHours, stages: Mapping[str, StageLoss]
) -> list[dict[str, Any]]:
    """The row of a site's fit for each day of the context."""
    facility = context.settings.facility
    fit = fit_facility(site_id, hours, facility.model)
    operating = operating_figure(fit, facility.operating) if facility.operating else None
    return [fit_row(day, fit, stages, operating) for day in context.days]


def _days_before(day: date, count: int) -> Days:
    return Days(day - timedelta(days=count), day - timedelta(days=1))


def _meter_hours(context: StageContext, days: Days) -> pl.DataFrame:
    """Hours of the top-level electricity and heat meters, each with its carrier."""
    lake, limit = context.lake, context.settings.energy.coverage_min_ratio
    carrier = F.coalesce("carrier", F.lit(_ELECTRICITY))
    meters = lake.read_few(METER).where(carrier.isin(_ELECTRICITY, _HEAT))
    # meter_hours takes electricity alone; heat in kWh is counted by the same rule.
    as_electricity = meters.withColumn("carrier", F.lit(_ELECTRICITY))
    hours = as_electricity.transform(meter_hours(lake.read(FACILITY_INTERVAL, days), days, limit))
    carriers = meters.select("site_id", "meter_id", carrier.alias("carrier")).distinct()
    found = pl.DataFrame(hours.join(carriers, ["site_id", "meter_id"], how="left").toArrow())
    return found


def _stages(meters: pl.DataFrame) -> dict[str, dict[str, StageLoss]]:
    """Curves of the stages whose both sides are metered, by site."""
    curves: dict[str, dict[str, StageLoss]] = {}
    for (site_id,), sums in stage_sums(meters).sort("site_id", "hour_start").group_by("site_id"):
        found = {
            part: fit_stage_loss(_floats(sums[before]), _floats(sums[behind]))
            for part, (before, behind) in STAGES.items()
        }
        curves[str(site_id)] = {part: curve for part, curve in found.items() if curve is not None}
    return curves


def _floats(column: pl.Series) -> Floats:
    return column.cast(pl.Float64).fill_null(float("nan")).to_numpy()
