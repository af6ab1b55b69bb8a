"""Prices by local time, the peak of fifteen minutes, costs shared by facility energy, bills against invoices."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest

from lepton_etl.billing.bill import (
    Invoice,
    MonthCost,
    bill_check,
    cluster_months,
    month_cost,
    period_of,
    read_invoices,
)
from lepton_etl.billing.costs import Meters, cluster_costs, site_costs
from lepton_etl.billing.tariff import energy_prices, read_tariff, weekday_numbers
from lepton_etl.errors import ConfigurationError
from lepton_etl.schema.energy import CLUSTER_HOUR, SITE_HOUR
from lepton_etl.schema.fleet import FACILITY_INTERVAL, METER
from lepton_etl.schema.types import arrow_schema

CASES = Path(__file__).resolve().parents[2] / "cases" / "ledger"
BERLIN = "Europe/Berlin"
KOLKATA = "Asia/Kolkata"
HEAD = "tariff_id,charge,price,currency,weekdays,local_from,local_to,valid_from,valid_to\n"
FIRST = datetime(2025, 6, 1, tzinfo=UTC)


def tariff(tmp_path: Path, text: str) -> pa.Table:
    file = tmp_path / "tariff.csv"
    file.write_text(text, encoding="utf-8")
    return read_tariff(file, "s")


def price(prices: pa.Table, moment: str, zone: str = BERLIN) -> float | None:
    start = pl.Series([datetime.fromisoformat(moment)], dtype=pl.Datetime("us", "UTC"))
    found: float | None = energy_prices(prices, start, zone)[0]
    return found


@pytest.fixture(scope="module")
def prices() -> pa.Table:
    return read_tariff(CASES / "tariff.csv", "s")


@pytest.mark.parametrize(
    ("moment", "expected"),
    [
        ("2025-06-02T04:59Z", 0.20 + 0.05),  # Monday 06:59 in Berlin
        ("2025-06-02T05:00Z", 0.30 + 0.05),  # 07:00
        ("2025-06-02T20:00Z", 0.20 + 0.05),  # 22:00
        ("2025-06-07T12:00Z", 0.20 + 0.05),  # Saturday
        ("2025-03-30T00:59Z", 0.20 + 0.05),  # the night that loses an hour
        ("2024-12-31T22:59Z", None),  # before any row, local 23:59
        ("2024-12-31T23:00Z", 0.20 + 0.05),
    ],
)
def test_a_price_is_that_of_the_local_weekday_and_time_over_all_tariffs(
    prices: pa.Table, moment: str, expected: float | None
) -> None:
    assert price(prices, moment) == (None if expected is None else pytest.approx(expected))


def test_a_time_that_no_row_names_has_no_price(tmp_path: Path) -> None:
    row = "t,energy,0.3,EUR,mon-fri,07:00,22:00,2025-01-01,"
    assert price(tariff(tmp_path, f"{HEAD}{row}\n"), "2025-06-02T21:00Z") is None


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("t,energy,0.3,euro,,,,2025-01-01,", "currency"),
        ("t,energy,0.3,EUR,fri-mon,,,2025-01-01,", "weekdays"),
        ("t,energy,0.3,EUR,,22:00,06:00,2025-01-01,", "make two rows around midnight"),
        ("t,energy,0.3,EUR,,7:00,,2025-01-01,", "no time of day"),
        ("t,power,0.3,EUR,,,,2025-01-01,", "charge"),
        ("t,energy,0.3,EUR,sat,06:00,07:00,2025-06-01,", "holds at instants of line 2"),
        ("u,energy,0.3,USD,,,,2025-01-01,", "line 2 is in EUR"),
    ],
)
def test_a_wrong_row_is_refused_with_its_line(tmp_path: Path, row: str, what: str) -> None:
    first = "t,energy,0.1,EUR,,,,2025-01-01,"
    with pytest.raises(ConfigurationError, match=what) as caught:
        tariff(tmp_path, f"{HEAD}{first}\n{row}\n")
    assert ":3:" in str(caught.value)


def test_weekdays_are_ranges_and_lists() -> None:
    assert weekday_numbers("mon-wed, sun") == frozenset({1, 2, 3, 7})
    assert weekday_numbers("someday") is None


def meters(
    powers_w: Sequence[float | None], zone: str = "UTC", step_s: int = 300, start: datetime = FIRST
) -> Meters:
    """One utility meter over consecutive intervals; None is silent. Below it a second one that must not count."""
    listed = [
        {"site_id": "s", "meter_id": "main", "parent_id": None, "point": "utility", "carrier": "electricity",
         "sign": 1, "valid_from": datetime(2025, 1, 1, tzinfo=UTC)},
        {"site_id": "s", "meter_id": "sub", "parent_id": "main", "point": "utility", "carrier": "electricity",
         "sign": 1, "valid_from": datetime(2025, 1, 1, tzinfo=UTC)},
    ]  # fmt: skip
    rows = [
        {"site_id": "s", "meter_id": name, "point": "utility", "interval_start": start + timedelta(seconds=step_s * k),
         "interval_s": step_s, "energy_kwh": power * step_s / 3.6e6, "power_mean_w": power, "observed_s": float(step_s)}
        for name in ("main", "sub") for k, power in enumerate(powers_w) if power is not None
    ]  # fmt: skip
    return Meters(
        pa.Table.from_pylist(listed, schema=arrow_schema(METER)),
        pa.Table.from_pylist(rows, schema=arrow_schema(FACILITY_INTERVAL)),
        zone,
        0.9,
    )


def site_hours(*kwh: float | None, basis: str = "measured") -> pa.Table:
    rows = [
        {"site_id": "s", "date": FIRST.date(), "hour_start": FIRST + timedelta(hours=h), "facility_energy_kwh": e,
         "facility_energy_upper_kwh": e and 1.1 * e, "facility_basis": basis if e is not None else "none"}
        for h, e in enumerate(kwh)
    ]  # fmt: skip
    return pa.Table.from_pylist(rows, schema=arrow_schema(SITE_HOUR))


def flat(tmp_path: Path, demand: float = 0.0, fixed: float = 0.0) -> pa.Table:
    return tariff(
        tmp_path,
        "tariff_id,charge,price,currency,valid_from\nt,energy,0.25,EUR,2025-01-01\n"
        f"t,demand,{demand},EUR,2025-01-01\nt,fixed,{fixed},EUR,2025-01-01\n",
    )


def test_an_hour_costs_its_import_by_its_price(tmp_path: Path) -> None:
    found = site_costs(meters([12_000.0] * 12 + [6_000.0] * 12), flat(tmp_path), site_hours(15.0, 7.5))
    assert found["energy_cost"].to_list() == pytest.approx([3.0, 1.5])
    assert found["cost_basis"].to_list() == ["measured"] * 2
    assert set(found["currency"]) == {"EUR"}
    half = 0.9 * 0.02 * 3.0
    assert found["energy_cost_upper"][0] == pytest.approx(3.0 + half), (
        "a meter of unstated class is of class 2"
    )
    assert found["energy_cost_lower"][0] == pytest.approx(3.0 - half)


def test_an_hour_with_a_gap_has_no_cost_and_says_so(tmp_path: Path) -> None:
    found = site_costs(meters([12_000.0] * 10 + [None] * 2), flat(tmp_path), site_hours(12.0))
    assert (found["energy_cost"][0], found["cost_basis"][0]) == (None, "none")


def test_without_a_utility_meter_the_facility_energy_stands_for_the_import(tmp_path: Path) -> None:
    none = Meters(
        arrow_schema(METER).empty_table(), arrow_schema(FACILITY_INTERVAL).empty_table(), "UTC", 0.9
    )
    found = site_costs(none, flat(tmp_path), site_hours(10.0, None, basis="assumed"))
    assert found["energy_cost"].to_list() == [2.5, None]
    assert found["energy_cost_upper"].to_list() == [pytest.approx(2.75), None]
    assert found["cost_basis"].to_list() == ["assumed", "none"]


def test_a_price_that_changes_within_the_utc_hour_is_weighted_by_the_energy(prices: pa.Table) -> None:
    """In Kolkata 07:00 is 01:30 UTC: half of the hour's energy is at each price."""
    powers = [0.0] * 12 + [4_000.0] * 6 + [8_000.0] * 6
    found = site_costs(meters(powers, KOLKATA, start=FIRST + timedelta(days=1)), prices, monday_hours())
    assert found["energy_cost"][1] == pytest.approx(2.0 * 0.25 + 4.0 * 0.35)


def monday_hours() -> pa.Table:
    rows = [
        row | {"hour_start": row["hour_start"] + timedelta(days=1)}
        for row in site_hours(0.0, 6.0).to_pylist()
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(SITE_HOUR))


def cluster_hours(**kwh: float | None) -> pa.Table:
    rows = [
        {
            "site_id": "s",
            "cluster_id": name,
            "date": FIRST.date(),
            "hour_start": FIRST,
            "facility_energy_kwh": e,
            "facility_energy_upper_kwh": e and 1.05 * e,
        }
        for name, e in kwh.items()
    ]
    return pa.Table.from_pylist(rows, schema=arrow_schema(CLUSTER_HOUR))


def test_clusters_bear_the_cost_by_facility_energy_and_sum_to_the_site(tmp_path: Path) -> None:
    hours = site_hours(12.0)
    costs = site_costs(meters([12_000.0] * 12), flat(tmp_path), hours)
    found = cluster_costs(costs, hours, cluster_hours(a=9.0, b=3.0, c=None))
    assert found["energy_cost"].to_list() == [pytest.approx(2.25), pytest.approx(0.75), None]
    assert found["cost_basis"].to_list() == ["measured", "measured", "none"]
    assert found["energy_cost_upper"].to_list() == [
        pytest.approx(2.25 * 1.05),
        pytest.approx(0.75 * 1.05),
        None,
    ]


def test_the_peak_is_the_largest_quarter_not_the_largest_interval(tmp_path: Path) -> None:
    powers = [10_000.0] * 12
    powers[1] = 40_000.0  # one spike of 5 minutes
    powers[6:9] = [30_000.0] * 3
    cost = month_cost(meters(powers), flat(tmp_path, demand=8.0), FIRST, FIRST + timedelta(hours=1))
    assert cost.peak_w == pytest.approx(30_000.0)
    assert cost.peak_time == FIRST + timedelta(minutes=30)
    assert cost.demand == pytest.approx(240.0)


def test_intervals_of_an_hour_say_no_peak(tmp_path: Path) -> None:
    cost = month_cost(
        meters([9e3], step_s=3600), flat(tmp_path, demand=8.0), FIRST, FIRST + timedelta(hours=1)
    )
    assert cost.peak_w is None
    assert cost.demand is None
    assert cost.import_kwh == pytest.approx(9.0)


def test_a_charge_that_holds_half_the_month_is_charged_by_half(tmp_path: Path) -> None:
    half = tariff(
        tmp_path,
        "tariff_id,charge,price,currency,valid_from,valid_to\nt,energy,0,EUR,2025-01-01,\n"
        "t,fixed,100,EUR,2025-01-01,2025-06-01T12:00:00Z\n",
    )
    assert month_cost(meters([1e3] * 288), half, FIRST, FIRST + timedelta(days=1)).fixed == pytest.approx(
        50.0
    )


def checked(kwh: float | None, cost: float | None, **invoice: Any) -> dict[str, Any]:
    ledger = MonthCost(kwh, kwh or 40.0, 0 if kwh else 3, 1e3, FIRST, cost, 0.0, 0.0)
    billed = Invoice(month="2025-06", **invoice) if invoice else None
    return bill_check("s", "2025-06", ledger, "EUR", billed, 0.02)


def test_verdicts_on_energy_and_cost() -> None:
    row = checked(101.0, 26.0, invoice_kwh=100.0, invoice_cost=25.0, currency="EUR")
    assert (row["verdict"], row["cost_verdict"]) == ("agrees", "differs")
    assert (row["difference_kwh"], row["difference_ratio"]) == (1.0, 0.01)
    assert row["cost_difference_ratio"] == pytest.approx(0.04)


def test_a_month_with_gaps_is_incomplete_and_its_figure_unknown() -> None:
    row = checked(None, None, invoice_kwh=100.0)
    assert (row["ledger_kwh"], row["ledger_known_kwh"], row["ledger_basis"]) == (None, 40.0, "insufficient")
    assert (row["verdict"], row["missing_hours"], row["cost_verdict"]) == ("incomplete", 3, "no_invoice")


def test_another_currency_is_not_compared() -> None:
    row = checked(100.0, 25.0, invoice_kwh=100.0, invoice_cost=25.0, currency="USD")
    assert (row["verdict"], row["cost_verdict"], row["cost_difference"]) == ("agrees", "incomplete", None)


def test_a_month_begins_and_ends_at_local_midnight() -> None:
    invoice = Invoice(month="2025-03")
    start, end = period_of("2025-03", invoice, BERLIN)
    assert (start, end) == (datetime(2025, 2, 28, 23, tzinfo=UTC), datetime(2025, 3, 31, 22, tzinfo=UTC))
    other = Invoice(month="2025-06", first_day=date(2025, 5, 28), last_day=date(2025, 6, 27))
    assert period_of("2025-06", other, "UTC")[0] == datetime(2025, 5, 28, tzinfo=UTC)


def test_demand_is_shared_in_the_peaks_hour_and_the_fixed_charge_over_the_month(tmp_path: Path) -> None:
    powers = [8_000.0] * 12 + [16_000.0] * 12
    cost = month_cost(meters(powers), flat(tmp_path, 10.0, 12.0), FIRST, FIRST + timedelta(hours=2))
    hours = pl.DataFrame(
        {
            "site_id": ["s"] * 4,
            "cluster_id": ["a", "b", "a", "b"],
            "hour_start": pl.Series(
                [FIRST, FIRST, *[FIRST + timedelta(hours=1)] * 2], dtype=pl.Datetime("us", "UTC")
            ),
            "facility_energy_kwh": [8.0, 0.0, 4.0, 12.0],
            "energy_cost": [2.0, 0.0, 1.0, 3.0],
            "cost_basis": ["measured"] * 4,
        }
    )
    a, b = cluster_months("2025-06", cost, hours, "EUR", 2)
    assert (a["energy_cost"], b["energy_cost"]) == (3.0, 3.0)
    assert (a["demand_cost"], b["demand_cost"]) == (pytest.approx(40.0), pytest.approx(120.0))
    assert (a["fixed_cost"], b["fixed_cost"]) == (pytest.approx(6.0), pytest.approx(6.0))
    assert a["cost"] + b["cost"] == pytest.approx(cost.total)
    peak_of_a = (pl.col("cluster_id") == "a") & (pl.col("hour_start") != FIRST)
    unknown = hours.with_columns(pl.when(~peak_of_a).then("facility_energy_kwh").alias("facility_energy_kwh"))
    shares = [row["demand_cost"] for row in cluster_months("2025-06", cost, unknown, "EUR", 2)]
    assert shares == [None, None], "what the unknown one drew in the peak is not the other's"
    (short, _) = cluster_months("2025-06", cost, hours.head(3), "EUR", 2)
    assert (short["energy_cost"], short["cost_basis"]) == (3.0, "none")


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ("2025-13,,,,1,,", "month"),
        ("2025-06,2025-06-01,,,1,,", "stand together"),
        ("2025-06,2025-06-01,2025-01-01,,1,,", "no billed month"),
        ("2025-06,,,,-1,,", "invoice_kwh"),
        ("2025-06,,,,1,5,", "stand together"),
    ],
)
def test_a_wrong_invoice_is_refused_with_its_line(tmp_path: Path, row: str, what: str) -> None:
    file = tmp_path / "invoices.csv"
    head = "month,first_day,last_day,invoice_id,invoice_kwh,invoice_cost,currency\n"
    file.write_text(f"{head}2025-05,,,A1,10,2.5,EUR\n{row}\n", encoding="utf-8")
    with pytest.raises(ConfigurationError, match=what) as caught:
        read_invoices(file)
    assert ":3:" in str(caught.value)
