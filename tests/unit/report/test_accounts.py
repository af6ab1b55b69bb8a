"""The ledger and the tenants of the report, and how the page shows them."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest

from lepton_etl.report.data import ReportData
from lepton_etl.report.figures import account_rows, balance_row, meter_rows, tenant_rows
from lepton_etl.report.page import render
from lepton_etl.schema.jobs import TENANT_DAY
from lepton_etl.schema.ledger import ENERGY_LEDGER, METER_CHECK
from lepton_etl.schema.types import arrow_schema
from tests.pages import text_of


def line(hour: int, side: str, account: str, kwh: float | None, **more: Any) -> dict[str, Any]:
    return {
        "date": date(2025, 6, 3), "hour_start": datetime(2025, 6, 3, hour, tzinfo=UTC), "site_id": "s", "side": side,
        "ledger_account": account, "account_kwh": kwh, "account_basis": "measured" if kwh is not None else "silent",
        "status": "provisional", **more,
    }  # fmt: skip


LEDGER = pa.Table.from_pylist(
    [
        line(0, "source", "utility", 10.0),
        line(1, "source", "utility", 12.0),
        line(0, "account", "jobs", 6.0),
        line(1, "account", "jobs", 7.0),
        line(0, "account", "cooling", 3.5),
        line(1, "account", "cooling", None),
        line(0, "balance", "balance", 10.0, residual_kwh=0.5, balance_state="closed"),
        line(
            1,
            "balance",
            "balance",
            12.0,
            residual_kwh=5.0,
            balance_state="unverified",
            detail="not known: cooling",
        ),
    ],
    schema=arrow_schema(ENERGY_LEDGER),
)


def meter(day: int, name: str, kwh: float | None, verdict: str, **more: Any) -> dict[str, Any]:
    return {
        "date": date(2025, 6, day), "hour_start": datetime(2025, 6, day, tzinfo=UTC), "check_period": "day",
        "site_id": "s", "meter_id": name, "metered_kwh": kwh, "reconciled_kwh": kwh, "meter_verdict": verdict,
        "is_checked": verdict == "agrees", "check_basis": "meter class 0.5", "status": "provisional", **more,
    }  # fmt: skip


METERS = pa.Table.from_pylist(
    [
        meter(3, "lv", 10.0, "agrees", adjustment_sigma=0.5, detectable_ratio=0.031),
        meter(4, "lv", 11.0, "candidate", adjustment_sigma=-7.5, detectable_ratio=0.027),
        meter(3, "feed", 4.0, "agrees"),
        meter(4, "feed", None, "silent"),
        meter(3, "lv", 99.0, "culprit", check_period="hour"),
    ],
    schema=arrow_schema(METER_CHECK),
)


def tenant(name: str, kwh: float | None) -> dict[str, Any]:
    return {
        "site_id": "s", "cluster_id": "c", "tenant_id": name, "date": date(2025, 6, 3), "job_count": 2,
        "it_energy_kwh": kwh, "energy_basis": "measured", "status": "provisional",
    }  # fmt: skip


TENANTS = pa.Table.from_pylist(
    [tenant("a", 1.0), tenant("b", 3.0), tenant("b", 4.0), tenant("c", 2.0), tenant("c", None)],
    schema=arrow_schema(TENANT_DAY),
)


def test_accounts_are_sums_of_the_hours_that_know_them() -> None:
    rows = {row["ledger_account"]: row for row in account_rows(LEDGER)}
    assert list(rows) == ["utility", "jobs", "cooling"]
    assert rows["utility"]["account_kwh"] == pytest.approx(22.0)
    assert (rows["cooling"]["account_kwh"], rows["cooling"]["known_hours"], rows["cooling"]["hours"]) == (
        3.5,
        1,
        2,
    )
    assert rows["cooling"]["basis"] == "measured, silent"


def test_the_residual_is_that_of_judged_hours() -> None:
    row = balance_row(LEDGER)
    assert row is not None
    assert (row["residual_kwh"], row["account_kwh"]) == (0.5, 10.0)
    assert row["largest_ratio"] == pytest.approx(0.05)
    assert row["states"] == "1 closed, 1 unverified"


def test_a_meter_is_what_it_was_on_its_worst_day() -> None:
    first, second = meter_rows(METERS)
    assert (first["meter_id"], first["verdict"], first["metered_kwh"]) == ("lv", "candidate", 21.0)
    assert (first["adjustment_sigma"], first["detectable_ratio"]) == (7.5, 0.031)
    assert (second["meter_id"], second["verdict"], second["metered_kwh"]) == ("feed", "silent", None)
    assert meter_rows(METERS.slice(0, 0)) == []


def test_a_tenant_with_an_unknown_day_is_unknown_and_last() -> None:
    rows = tenant_rows(TENANTS)
    assert [(row["tenant_id"], row["it_energy_kwh"]) for row in rows] == [("b", 7.0), ("a", 1.0), ("c", None)]


def test_nothing_delivered_gives_nothing() -> None:
    empty = LEDGER.slice(0, 0)
    assert account_rows(empty) == []
    assert balance_row(empty) is None
    assert tenant_rows(TENANTS.slice(0, 0)) == []


def test_the_page_shows_both_or_says_that_there_is_none(made_up_report: Callable[..., ReportData]) -> None:
    page = text_of(render(made_up_report(ledger=LEDGER, tenants=TENANTS, meter_check=METERS)))
    assert "no balance that could fail: not known: cooling" in page
    assert "<td>7.5</td><td>3.1" in page
    assert "sources minus accounts" in page
    assert "1 closed, 1 unverified" in page
    assert "by reservation" in page
    bare = render(made_up_report())
    assert "No ledger of these days." in bare
    assert "No job accounting of these days was delivered." in bare
