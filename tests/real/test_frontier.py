"""Frontier-scale coolant loops: their energy by the silver kernel, and what a facility model can learn from them.

The file holds the heat of 25 loops and the wet bulb of one day's first 16 hours, no cooling meter. So the model of the
site is refused, and its reference is tried on the real drivers with the simulator's building around them.
"""

from __future__ import annotations

import csv
import gzip
from datetime import UTC, date, datetime
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from lepton_etl.config.sections import FacilityModelSettings
from lepton_etl.facility.fit import fit_curve, why_not
from lepton_etl.facility.hours import PlantHours
from lepton_etl.facility.meter_hours import METER_COLUMNS, facility_intervals
from lepton_etl.intervals.channels import READING_COLUMNS
from lepton_etl.simulator.facility import facility, ratings
from lepton_etl.simulator.weather import Weather
from lepton_etl.uncertainty import cv_rmse, nmbe
from tests.conftest import real_data
from tests.unit.intervals.readings import POLICY

FILE = real_data() / "frontier-cdu-power" / "input_04-07-24_first16h.csv.gz"
DAY = date(2024, 4, 7)
WET_BULB = "OA Wetbulb Temp"
PUBLISHED_MWH = 249.452

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not FILE.is_file(), reason="LEPTON_REAL_DATA has no frontier-cdu-power"),
]


@pytest.fixture(scope="module")
def table() -> dict[str, NDArray[np.float64]]:
    """Columns of the file: seconds of the day, W of each loop, wet bulb in degC."""
    return columns(FILE)


def columns(path: Path) -> dict[str, NDArray[np.float64]]:
    with gzip.open(path, "rt", newline="") as file:
        rows = list(csv.DictReader(file))
    return {name: np.array([float(row[name]) for row in rows]) for name in rows[0]}


def loop_intervals(table: dict[str, NDArray[np.float64]]) -> pl.DataFrame:
    """Every loop as a heat meter that tells instants, through the kernel of silver/facility_interval."""
    day = (DAY - date(1970, 1, 1)).days
    time_us = day * 86_400_000_000 + (table["time"] * 1e6).astype(np.int64)
    loops = [name for name in table if name.startswith("power[")]
    assert len(loops) == 25
    readings = pl.concat(
        pl.DataFrame({"value": table[loop], "time_us": time_us}).with_columns(
            pl.lit(f"loop-{number:02d}").alias("node_id"),
            pl.int_range(pl.len()).alias("source_position"),
        )
        for number, loop in enumerate(loops, start=1)
    )
    facts = {
        "day": day, "device_id": "meter", "quantity": "heat_power", "sensor": "power", "statistic": "instant",
        "window_s": 0.0, "multiplicity": 1, "max_gap_s": 330.0, "file_rank": 1, "point": "chiller",
        "kind": "power", "multiplier": 1.0,
    }  # fmt: skip
    missing = [name for name in (*READING_COLUMNS, *METER_COLUMNS) if name not in readings.columns]
    full = readings.with_columns(pl.lit(facts.get(name)).alias(name) for name in missing)
    texts = {"point": pl.String(), "kind": pl.String()}
    schema = dict(READING_COLUMNS) | {name: texts.get(name, pl.Float64()) for name in METER_COLUMNS}
    found = pl.from_arrow(facility_intervals(full.cast(schema).to_arrow(), POLICY))
    assert isinstance(found, pl.DataFrame)
    return found


def test_the_loops_energy_is_the_published_one(table: dict[str, NDArray[np.float64]]) -> None:
    rows = loop_intervals(table)
    assert rows["energy_kwh"].sum() / 1000 == pytest.approx(PUBLISHED_MWH, rel=1e-5)
    seconds = rows.group_by("meter_id").agg(pl.col("observed_s").sum())
    assert seconds["observed_s"].to_list() == [57_585.0] * 25
    last = rows.filter(pl.col("interval_start") >= datetime(2024, 4, 7, 15, 55, tzinfo=UTC))
    assert set(last["observed_s"]) == {285.0}, "nothing is bridged behind the last reading"


def test_loops_without_a_cooling_meter_fit_no_model(table: dict[str, NDArray[np.float64]]) -> None:
    q_kwh = loop_intervals(table).sort("interval_start").group_by_dynamic("interval_start", every="1h").agg(
        pl.col("energy_kwh").sum()
    )["energy_kwh"].to_numpy()  # fmt: skip
    unknown = np.full(len(q_kwh), np.nan)
    hours = PlantHours(
        hour=np.arange(len(q_kwh)),
        it_kwh=q_kwh,
        wet_bulb_c=table[WET_BULB].reshape(-1, 240).mean(axis=1),
        cooling_kwh=unknown,
        management_kwh=unknown,
        overhead_kwh=unknown,
        loss_kwh=unknown,
        heat_kwh=unknown,
    )
    assert why_not(hours, FacilityModelSettings()) == (
        "0 hours with IT energy, wet bulb and overhead, 72 needed"
    )


def test_the_reference_on_real_drivers_forward_in_time(table: dict[str, NDArray[np.float64]]) -> None:
    """Real heat and wet bulb, the simulator's building: fitted on 12 hours, tested on the 4 that follow."""
    q_kwh = loop_intervals(table).group_by("interval_start").agg(pl.col("energy_kwh").sum()).sort(
        "interval_start"
    )["energy_kwh"].to_numpy()  # fmt: skip
    outside = table[WET_BULB].reshape(-1, 4).mean(axis=1)
    outside = np.append(outside, outside[-1])
    minutes_w = np.repeat(q_kwh * 12_000, 5)
    site = facility(
        minutes_w, Weather(outside + 4.0, outside, np.full(len(outside), 0.7)), ratings(27e6), -5.0
    )
    cooling_kwh = site.cooling_w.reshape(-1, 5).sum(axis=1) / 60_000
    wet_bulb_c = outside[:-1].reshape(-1, 5).mean(axis=1)
    train = np.arange(len(q_kwh)) < 12 * 12
    fit = fit_curve(
        q_kwh[train], wet_bulb_c[train], cooling_kwh[train], np.arange(train.sum()) // 12,
        knots_c=FacilityModelSettings().knots_c, with_constant=False, resamples=50, seed=1,
    )  # fmt: skip
    predicted = fit.curve.energy_kwh(q_kwh[~train], wet_bulb_c[~train])
    share = cooling_kwh[train].sum() / q_kwh[train].sum()
    errors = {
        "reference": (cv_rmse(cooling_kwh[~train], predicted), nmbe(cooling_kwh[~train], predicted)),
        "IT share": (
            cv_rmse(cooling_kwh[~train], share * q_kwh[~train]),
            nmbe(cooling_kwh[~train], share * q_kwh[~train]),
        ),
    }
    for name, (cv, bias) in errors.items():
        print(
            f"Frontier drivers, simulated cooling, 4 h forward, {name}: CV(RMSE) {cv:.1%}, NMBE {bias:+.1%}"
        )
    # Half a cold day teaches nothing about the warm hours behind it: the gates would not let this model pass.
    assert wet_bulb_c[~train].max() > wet_bulb_c[train].max()
    cv, _ = errors["reference"]
    assert cv is not None and cv > FacilityModelSettings().gates.cv_rmse_max_ratio
