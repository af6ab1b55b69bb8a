"""Meters that speak in power, counters and energies of a window."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from math import sqrt
from typing import Any

import polars as pl
import pytest

from lepton_etl.days import Days
from lepton_etl.facility.meter_hours import facility_intervals
from lepton_etl.facility.pue import meter_hours
from lepton_etl.intervals.channels import READING_COLUMNS
from tests.unit.intervals.readings import POLICY, reading


def rows_of(
    readings: list[dict[str, Any]], kind: str, multiplier: float = 1.0, **more: Any
) -> list[dict[str, Any]]:
    """Intervals of one meter of which meters.csv says `more`."""
    facts = dict.fromkeys(("multiplier", "class_pct", "counter_max_kwh", "meter_peak_power_w"), pl.Float64)
    columns = {**READING_COLUMNS, "point": pl.String, "kind": pl.String, **facts}
    said = dict.fromkeys(facts) | {"point": "utility", "kind": kind, "multiplier": multiplier} | more
    frame = pl.DataFrame([row | said for row in readings], schema=columns)
    return facility_intervals(frame.to_arrow(), POLICY).to_pylist()


def test_a_counter_is_multiplied_by_the_ratio_of_its_transformer() -> None:
    counts = [reading(t, 1_000.0 * t, "facility_energy", statistic="counter") for t in (0, 300, 600)]
    rows = rows_of(counts, "counter", multiplier=40)
    assert [row["power_mean_w"] for row in rows] == [40_000.0, 40_000.0]
    assert sum(row["energy_kwh"] for row in rows) == pytest.approx(40_000 * 600 / 3.6e6)
    assert {(row["energy_source"], row["point"], row["meter_id"]) for row in rows} == {
        ("meter", "utility", "n1")
    }


def test_the_energy_of_a_window_is_spread_over_it() -> None:
    quarter = reading(0, 3.6e6, "facility_energy", statistic="mean", window_s=900.0)
    rows = rows_of([quarter], "interval")
    assert [row["energy_kwh"] for row in rows] == pytest.approx([1 / 3] * 3)
    assert {(row["energy_source"], row["observed_s"]) for row in rows} == {("interval_meter", 300.0)}


def test_an_energy_without_a_window_is_not_used() -> None:
    assert rows_of([reading(t, 3.6e6, "facility_energy") for t in (0, 300)], "interval") == []


def test_the_declared_kind_speaks() -> None:
    power = [reading(t, 500.0, "facility_power") for t in (0, 300)]
    counts = [reading(t, 400.0 * t, "facility_energy", statistic="counter") for t in (0, 300)]
    assert rows_of(power + counts, "power")[0]["power_mean_w"] == 500.0
    assert rows_of(power + counts, "counter")[0]["power_mean_w"] == 400.0


def test_resets_conflicts_and_gaps_are_flagged() -> None:
    counts = [
        reading(t, v, "facility_energy", statistic="counter") for t, v in ((0, 9e6), (60, 0.0), (120, 6e4))
    ]
    counts.append(reading(120, 7e4, "facility_energy", statistic="counter", file_rank=2))
    (row,) = rows_of(counts, "counter")
    assert row["flags"] == ["conflict", "counter_reset", "partial"]
    assert (row["observed_s"], row["power_mean_w"]) == (60.0, 1_000.0)


def test_a_meter_errs_by_its_class_and_without_one_nobody_knows() -> None:
    power = [reading(t, 360e3, "facility_power") for t in (0, 300)]
    (stated,) = rows_of(power, "power", class_pct=0.5)
    assert (stated["sensor_class"], stated["energy_kwh"]) == ("meter", pytest.approx(30.0))
    assert stated["gain_sigma_kwh"] == pytest.approx(30 * 0.005 / sqrt(3))
    assert stated["resolution_sigma_kwh"] == pytest.approx(10_000 / sqrt(12) * 300 / 3.6e6)
    assert stated["sampling_sigma_kwh"] == 0.0
    (unstated,) = rows_of(power, "power")
    assert (unstated["sensor_class"], unstated["gain_sigma_kwh"]) == (None, None)
    (feed,) = rows_of(power, "power", point="pdu_out")
    assert feed["sensor_class"] == "pdu"
    assert feed["gain_sigma_kwh"] == pytest.approx(30 * 0.0173)


def test_a_meter_of_32_bits_wraps() -> None:
    maximum = 2.0**32 / 1000
    counts = [
        reading(t, ((maximum - 1 + t / 300) % maximum) * 3.6e6, "facility_energy", statistic="counter")
        for t in (0, 300, 600)
    ]
    rows = rows_of(counts, "counter", multiplier=2, counter_max_kwh=maximum, meter_peak_power_w=50e3)
    assert [row["energy_kwh"] for row in rows] == pytest.approx([2.0, 2.0])
    assert [row["flags"] for row in rows] == [[], ["counter_wrap"]]
    reset = rows_of(counts, "counter", multiplier=2)
    assert [row["energy_kwh"] for row in reset] == pytest.approx([2.0])


def test_the_noise_of_an_hour_is_known_where_the_sampling_of_all_its_intervals_is() -> None:
    start = datetime(2025, 6, 3, tzinfo=UTC)
    meter = {"site_id": "s", "meter_id": "u", "parent_id": None, "point": "utility", "carrier": None, "sign": 1,
             "unit": "kWh", "serves": None, "class_pct": 1.0, "valid_from": start, "valid_to": None}  # fmt: skip
    times = pl.Series([start, start + timedelta(minutes=30)])
    for sampling, noise_kwh in (([0.3, 0.4], 0.5), ([0.3, None], None)):
        intervals = pl.DataFrame(
            {"site_id": "s", "meter_id": "u", "interval_start": times, "energy_kwh": [1.0, 1.0], "observed_s": 1800.0,
             "resolution_sigma_kwh": None, "sampling_sigma_kwh": sampling},
            schema_overrides={"resolution_sigma_kwh": pl.Float64, "sampling_sigma_kwh": pl.Float64},
        )  # fmt: skip
        hours = meter_hours(
            pl.DataFrame([meter], schema_overrides={"parent_id": pl.String}),
            intervals,
            Days.of(start.date()),
            0.9,
        )
        first = hours.sort("hour_start").row(0, named=True)
        assert first["noise_kwh"] == (None if noise_kwh is None else pytest.approx(noise_kwh))
