"""`lepton-etl replay`: jobs of history under other start-time policies, in parallel over sites and policies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from math import isnan, nan
from typing import Any, Final

import polars as pl
from rich.console import Console
from rich.table import Table

from lepton_etl.config.settings import Settings
from lepton_etl.csv_cells import write_csv
from lepton_etl.days import Days
from lepton_etl.errors import NoInputError
from lepton_etl.lake.tables import Lake
from lepton_etl.recommend.replay import POLICIES, HistoryRules, job_rows, replay_site, totals_row
from lepton_etl.schema.diagnosis import FORECAST
from lepton_etl.schema.fleet import GRID_HOUR, NODE
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_RUN, RUN_KEY
from lepton_etl.schema.ledger import SITE_COST
from pipelines.engine import Engine
from pipelines.forecast import of_zone

# Beside the policy that was asked for stand the rule that does nothing and the bound that knows all.
BESIDE: Final = ("run_at_once", "clairvoyant")
# A job that finds no room may start so much later than it may wait.
ROOM_H: Final = 24
_WIDTH: Final = 140
_HEADINGS: Final = (
    "site", "policy", "jobs", "kWh", "kgCO2e", "saved", "of hindsight", "money", "delay h", "late", "moved",
)  # fmt: skip


@dataclass(frozen=True)
class Replayed:
    """Totals by site and policy, what they rest on, and what was left out."""

    rows: list[dict[str, Any]]
    basis: str
    notes: tuple[str, ...] = field(default=())


def run(
    lake: Lake, settings: Settings, policies: Sequence[str], days: Days, flexibility_h: float, engine: Engine
) -> Replayed:
    """Run the policies over the jobs that were submitted on the days; each may start so many hours later.

    Every site and policy is a task. Raises NoInputError where no job of the days has an energy, or no intensity is
    known.
    """
    rules = HistoryRules(flexibility_h=flexibility_h)
    jobs = _jobs(lake, days)
    if jobs.is_empty():
        raise NoInputError(
            f"no job of {days} has an energy and an end",
            where="gold/job_energy",
            remedy="choose other days",
        )
    intensity, basis = _intensity(lake, settings, days, rules)
    known, left_out = _within(jobs, intensity, flexibility_h)
    price, no_price = _price(lake, days, rules)
    without = (*left_out, *no_price)
    wanted = [one for one in dict.fromkeys((BESIDE[0], *policies, BESIDE[1])) if one in POLICIES]
    if price is None and "cheapest_window" in wanted:
        wanted.remove("cheapest_window")
        without = (*without, "cheapest_window needs prices: left out")
    nodes = dict(lake.read(NODE).group_by("site_id").agg(pl.col("node_id").n_unique()).iter_rows())
    work = _Replay(nodes, intensity, price, _forecast(lake, settings, days), days, rules)
    groups = [(own, policy) for _, own in known.sort("site_id").group_by("site_id", maintain_order=True)
              for policy in wanted]  # fmt: skip
    return Replayed(engine.map(work, groups), basis, without)


def show(done: Replayed, *, as_csv: bool) -> None:
    """The table on the terminal, or CSV; shares are of the saving that hindsight would have brought."""
    if as_csv:
        write_csv(sys.stdout, list(done.rows[0]), (row.values() for row in done.rows))
        return
    table = Table(title=f"Jobs of history under other policies; {done.basis}", title_justify="left")
    for heading in _HEADINGS:
        table.add_column(heading, justify="left" if heading in ("site", "policy") else "right")
    by_site = {
        row["site_id"]: [one for one in done.rows if one["site_id"] == row["site_id"]] for row in done.rows
    }
    for site_id, rows in by_site.items():
        once, best = (
            next(row["emissions_kgco2e"] for row in rows if row["policy"] == name) for name in BESIDE
        )
        for row in rows:
            saved = once - row["emissions_kgco2e"]
            share = saved / (once - best) if once > best else nan
            table.add_row(
                site_id, row["policy"], f"{row['jobs_completed']:,}", f"{row['energy_kwh']:,.1f}",
                _number(row["emissions_kgco2e"], ",.2f"), _number(saved / once if once > 0 else nan, ".1%"),
                _number(share, ".0%"), _number(row["energy_cost"], ",.2f"),
                f"{row['delay_h']:.1f}", f"{row['deadlines_missed']:,}", f"{row['jobs_moved']:,}",
            )  # fmt: skip
    console = Console(width=max(Console().width, _WIDTH))
    console.print(table)
    for note in (*done.notes, "shifting moves energy and saves none: kWh are equal by construction"):
        console.print(f"note: {note}")


def _number(value: float, form: str) -> str:
    """A figure, or a dash for the unknown."""
    return "-" if isnan(value) else format(value, form)


def _jobs(lake: Lake, days: Days) -> pl.DataFrame:
    """One row a run that was submitted on the days and has ended; its days may reach beyond them."""
    wide = Days(days.start, days.end + timedelta(days=7))
    submitted = pl.col("submit_time")
    inside = (submitted >= days.from_time) & (submitted < days.until_time)
    energy = lake.read(JOB_ENERGY, wide).filter(inside)
    runs = lake.read(JOB_RUN, wide).filter(inside)
    if energy.is_empty():
        return energy
    held = energy.group_by(RUN_KEY).agg(pl.col("node_held_h").sum())
    hours = (pl.col("end_time") - pl.col("start_time")).dt.total_seconds() / 3600
    # Jobs share nodes: what a run holds is nodes by reserved share.
    share = pl.when(hours > 0).then(pl.col("node_held_h") / hours).otherwise(0.0)
    made = job_rows(energy, runs).join(held, on=RUN_KEY, how="left", nulls_equal=True)
    return made.with_columns(share.alias("node_count"))


def _within(
    jobs: pl.DataFrame, intensity: pl.DataFrame, flexibility_h: float
) -> tuple[pl.DataFrame, tuple[str, ...]]:
    """Jobs whose whole window has an intensity, and how many have not: they cannot be compared."""
    end = intensity["hour_start"].max()
    assert isinstance(end, datetime)
    runtime = pl.col("end_time") - pl.col("start_time")
    latest = pl.col("submit_time") + runtime + timedelta(hours=flexibility_h + ROOM_H)
    known = jobs.filter(latest <= end + timedelta(hours=1))
    left_out = jobs.height - known.height
    note = f"{left_out:,} jobs left out: their window reaches beyond the known intensities, {end:%Y-%m-%d %H:%M} UTC"
    return known, ((note,) if left_out else ())


@dataclass(frozen=True)
class _Replay:
    """What a task does: the jobs of a site under one policy."""

    nodes: dict[str, int]
    intensity: pl.DataFrame
    price: pl.DataFrame | None
    forecast: pl.DataFrame | None
    days: Days
    rules: HistoryRules

    def __call__(self, group: tuple[pl.DataFrame, str]) -> dict[str, Any]:
        jobs, policy = group
        site_id = str(jobs["site_id"][0])
        price = None if self.price is None else self.price.filter(pl.col("site_id") == site_id)
        # A run may hold more than the inventory lists now.
        room = max(self.nodes.get(site_id, 0), *(int(one) + 1 for one in jobs["node_count"]))
        totals = replay_site(
            jobs, room, self.intensity, price, policy, self.days.from_time, self.days.until_time, self.rules,
            self.forecast,
        )  # fmt: skip
        return totals_row(site_id, totals)


def _intensity(lake: Lake, settings: Settings, days: Days, rules: HistoryRules) -> tuple[pl.DataFrame, str]:
    """Location-based hourly intensity of the site's zone, with the hours before that rules look back on."""
    grid = settings.grid
    if grid is None:
        raise NoInputError("no grid zone is stated", where="grid", remedy="state one in the settings")
    rows = of_zone(lake.read(GRID_HOUR, _around(days, rules)), grid)
    if not rows.height:
        raise NoInputError(f"no intensity of {grid.zone}", where="silver/grid_hour", remedy="load its hours")
    return (
        rows.select("hour_start", "carbon_intensity_gco2e_per_kwh").unique("hour_start").sort("hour_start"),
        f"location-based: {grid.zone}, average, direct, {grid.flow}",
    )


def _price(lake: Lake, days: Days, rules: HistoryRules) -> tuple[pl.DataFrame | None, tuple[str, ...]]:
    rows = lake.read(SITE_COST, _around(days, rules)).drop_nulls("energy_price")
    if not rows.height:
        return None, ("no tariff: money is not told",)
    return rows.select("site_id", "hour_start", pl.col("energy_price").alias("price")), ()


def _forecast(lake: Lake, settings: Settings, days: Days) -> pl.DataFrame | None:
    assert settings.grid is not None
    rows = lake.read(FORECAST, days).filter(pl.col("zone_id") == settings.grid.zone)
    return rows.select("origin_time", "hour_start", "carbon_intensity_gco2e_per_kwh") if rows.height else None


def _around(days: Days, rules: HistoryRules) -> Days:
    back = timedelta(days=rules.history_h // 24 + 1)
    return Days(days.start - back, days.end + timedelta(days=14))
