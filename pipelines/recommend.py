"""The lake after a night -> gold/recommendation: what to change, with what it promises and where it stands."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from typing import Any, Final

import numpy as np
import polars as pl
import pyarrow as pa

from lepton_etl.days import Days
from lepton_etl.lake import plain
from lepton_etl.lake.schema import arrow_schema
from lepton_etl.lake.store import Lake
from lepton_etl.lake.tables import SITE_HOUR
from lepton_etl.lake.tables.advice import DECISION, RECOMMENDATION
from lepton_etl.lake.tables.ledger import SITE_COST
from lepton_etl.optimize.advice import Promise
from lepton_etl.optimize.lifecycle import EXPIRED, REJECTED, Decision, standing
from lepton_etl.optimize.valuation import Worth, valued
from pipelines import levers
from pipelines.queue import waiting_jobs
from pipelines.savings import grade
from pipelines.stage import StageContext, StageResult

LEVERS: Final[tuple[Callable[[StageContext], levers.Found], ...]] = (
    levers.idle_nodes, levers.zombie_jobs, levers.device_states, levers.power_caps, levers.cooling,
    waiting_jobs,
)  # fmt: skip
# Days that a kWh's emissions and price rest on.
WORTH_DAYS: Final = 28
_SHOWN: Final = 3


def run(context: StageContext) -> StageResult:
    """Recommend for the day after the run's last; earlier days of a range keep what was recommended on them."""
    day, lake = context.days.end, context.lake
    worth = _worth(lake, day)
    found, notes = [], list[str]()
    for lever in LEVERS:
        told = lever(context)
        found += [valued(row, worth) for row in told.rows]
        notes += told.notes
    rows = standing(day, found, before(lake, day), decisions(lake))
    table = pa.Table.from_pylist(rows, schema=arrow_schema(RECOMMENDATION))
    written = lake.replace_few(
        RECOMMENDATION, Days.of(day), lake.spark.createDataFrame(table), allow_empty=True
    )
    graded, brought = grade(context, rows)
    done = (written,) if graded is None else (written, graded)
    return StageResult(
        rows_out=sum(one.rows for one in done), written=done, notes=(*_told(rows), *brought, *notes)
    )


def before(lake: Lake, day: date) -> list[dict[str, Any]]:
    """The rows of the newest night before the day."""
    nights = [one for one in plain.partitions(lake.root, RECOMMENDATION) if one < day.isoformat()]
    if not nights:
        return []
    found: list[dict[str, Any]] = plain.read(
        lake.root, RECOMMENDATION, Days.of(date.fromisoformat(max(nights)))
    ).to_pylist()
    return found


def decisions(lake: Lake) -> list[Decision]:
    """All that people have decided."""
    return [
        Decision(row["recommendation_id"], row["decision"], row["decided_time"], row["effective_time"])
        for row in plain.read(lake.root, DECISION).to_pylist()
    ]


def _worth(lake: Lake, day: date) -> Worth:
    """Mean and spread of the days' intensity and price at the site, by location."""
    days = Days(day - timedelta(days=WORTH_DAYS - 1), day)
    hours = pl.DataFrame(plain.read(lake.root, SITE_HOUR, days))
    costs = pl.DataFrame(plain.read(lake.root, SITE_COST, days))
    currencies = costs["currency"].drop_nulls().unique().to_list()
    price = _by_day(costs, "energy_price") if len(currencies) == 1 else None
    return Worth(
        _by_day(hours, "carbon_intensity_gco2e_per_kwh"), price, currencies[0] if price is not None else None
    )


def _by_day(rows: pl.DataFrame, name: str) -> Promise | None:
    daily = rows.drop_nulls(name).group_by("date").agg(pl.col(name).mean())[name].to_numpy()
    if not len(daily):
        return None
    low, high = np.quantile(daily, [0.05, 0.95])
    middle = float(np.mean(daily))
    return Promise(middle, min(float(low), middle), max(float(high), middle))


def _told(rows: list[dict[str, Any]]) -> list[str]:
    """How many stand, and the largest promises in words."""
    open_rows = [row for row in rows if row["recommendation_state"] not in (EXPIRED, REJECTED)]
    largest = sorted(
        open_rows, key=lambda row: (-(row["expected_saving_kwh"] or 0.0), row["recommendation_id"])
    )
    words = [
        f"{row['advice']} ({row['expected_saving_kwh']:.1f} kWh a day)"
        for row in largest[:_SHOWN]
        if row["expected_saving_kwh"]
    ]
    return [f"{len(open_rows):,} recommendations", *words]
