"""The SCI of a run: once, over all its days, on the row of the day on which it ended."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from lepton_etl.attribution.tenants import SCI_COLUMNS, tenant_day, with_sci
from lepton_etl.schema.jobs import JOB_ENERGY, JOB_RUN
from lepton_etl.schema.types import arrow_schema

FIRST, SECOND, THIRD = (date(2025, 6, day) for day in (3, 4, 5))


def run_key(job_id: str) -> dict[str, Any]:
    return {
        "site_id": "s", "cluster_id": "c", "job_id": job_id, "submit_time": datetime(2025, 6, 3, tzinfo=UTC),
        "restart": 0,
    }  # fmt: skip


def energy(job_id: str, day: date, emitted_kg: float | None, **more: Any) -> dict[str, Any]:
    row = dict.fromkeys(JOB_ENERGY.columns)
    return row | run_key(job_id) | {
        "date": day, "outcome": "completed", "attribution_basis": "none", "energy_basis": "measured",
        "status": "provisional", "sci_basis": "unknown", "emissions_location_kgco2e": emitted_kg,
        "embodied_kgco2e": 0.01, "held_s": 3600.0, "covered_s": 3600.0, "tenant_id": "t", **more,
    }  # fmt: skip


def run(job_id: str, day: date, start: datetime, end: datetime | None) -> dict[str, Any]:
    row = dict.fromkeys(JOB_RUN.columns)
    return row | run_key(job_id) | {"date": day, "outcome": "completed", "start_time": start, "end_time": end}


def at(day: date, hour: int) -> datetime:
    return datetime(day.year, day.month, day.day, hour, tzinfo=UTC)


def made(
    before: list[dict[str, Any]], today: list[dict[str, Any]], runs: list[dict[str, Any]]
) -> pl.DataFrame:
    jobs, earlier = (
        pl.DataFrame(arrow_schema(JOB_ENERGY).empty_table()) if not rows
        else pl.DataFrame(rows, schema=pl.DataFrame(arrow_schema(JOB_ENERGY).empty_table()).schema)
        for rows in (today, before)
    )  # fmt: skip
    schema = pl.DataFrame(arrow_schema(JOB_RUN).empty_table()).schema
    return with_sci(jobs, earlier.select(SCI_COLUMNS), pl.DataFrame(runs, schema=schema))


def sci(rows: pl.DataFrame) -> dict[tuple[str, date], tuple[float | None, str]]:
    return {(r["job_id"], r["date"]): (r["sci_gco2e_per_job"], r["sci_basis"]) for r in rows.to_dicts()}


def test_a_run_over_midnight_has_one_sci_of_both_its_days() -> None:
    span = (at(FIRST, 22), at(SECOND, 3))
    today, tomorrow = energy("1", FIRST, 0.2), energy("1", SECOND, 0.3)
    runs = [run("1", day, *span) for day in (FIRST, SECOND)]
    whole = (pytest.approx(1000 * (0.2 + 0.3 + 2 * 0.01)), "complete")
    assert sci(made([], [today], runs[:1])) == {("1", FIRST): (None, "running")}
    assert sci(made([today], [tomorrow], runs[1:])) == {("1", SECOND): whole}, "night by night"
    both = sci(made([], [today, tomorrow], runs))
    assert both == {("1", FIRST): (None, "running"), ("1", SECOND): whole}, "in one range"


def test_what_one_day_lacks_the_run_lacks() -> None:
    span = (at(FIRST, 22), at(THIRD, 3))
    runs = [run("1", THIRD, *span)]
    last = energy("1", THIRD, 0.3)
    assert sci(made([energy("1", FIRST, 0.2)], [last], runs))["1", THIRD] == (None, "unknown"), (
        "a day is missing"
    )
    days = [energy("1", FIRST, 0.2), energy("1", SECOND, None)]
    assert sci(made(days, [last], runs))["1", THIRD] == (None, "unknown"), "a day has no emissions"
    assert sci(made([], [last], [run("1", THIRD, at(THIRD, 1), None)]))["1", THIRD] == (None, "running")


def test_a_run_that_ends_at_midnight_ends_on_the_day_before() -> None:
    rows = made([], [energy("1", FIRST, 0.2)], [run("1", FIRST, at(FIRST, 22), at(SECOND, 0))])
    assert sci(rows)["1", FIRST] == (pytest.approx(210.0), "complete")


def test_a_tenants_sci_per_job_is_of_the_runs_that_ended() -> None:
    span, alone = (at(FIRST, 22), at(SECOND, 3)), (at(SECOND, 5), at(SECOND, 6))
    runs = [run("1", SECOND, *span), run("2", SECOND, *alone), run("3", SECOND, at(SECOND, 5), at(THIRD, 5))]
    today = [energy("1", SECOND, 0.3), energy("2", SECOND, 0.1), energy("3", SECOND, 9.0)]
    (tenant,) = tenant_day(made([energy("1", FIRST, 0.2)], today, runs), 0.9).to_dicts()
    assert tenant["job_count"] == 3
    assert tenant["sci_gco2e_per_job"] == pytest.approx((520 + 110) / 2)
    (running,) = tenant_day(made([], [energy("3", SECOND, 9.0)], runs[2:]), 0.9).to_dicts()
    assert running["sci_gco2e_per_job"] is None, "no run ended on the day"
