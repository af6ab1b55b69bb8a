"""The model of nodes without a sensor of their own, on a real server that has one: RAPL in, platform power to compare.

`python -m pytest tests/real/test_node_model.py -s` prints the figures that docs/methodology.md quotes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from numpy.typing import NDArray

from lepton_etl.days import Days
from lepton_etl.intervals.modelled_power import fitted_points
from lepton_etl.intervals.node_day import node_days
from lepton_etl.intervals.readings import ROSTER_COLUMNS
from lepton_etl.intervals.usual_values import SENSOR_DAY_COLUMNS
from tests.conftest import real_data
from tests.unit.intervals.readings import DAY, MODEL, POLICY, node, of_device, rows_of, series, table

KEPLER = real_data() / "kepler-node-power"
NAMES = ("package_power", "dram_power", "platform_power")
Floats = NDArray[np.float64]

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not KEPLER.is_dir(), reason=f"no real data at {KEPLER} (LEPTON_REAL_DATA)"),
]


@pytest.fixture(scope="module")
def box() -> pl.DataFrame:
    """Seconds from the first sample, package, DRAM and platform power in W of one box, every 3 s."""
    acpi, rapl = (
        pl.read_csv(KEPLER / f"nx12_preprocess_abs_default_{part}_Basic.csv.gz") for part in ("acpi", "rapl")
    )
    joined = acpi.select("timestamp", "platform_power").join(rapl, on="timestamp").sort("timestamp")
    return joined.select(pl.col("timestamp") - pl.col("timestamp").min(), *NAMES)


def line(parts: Floats, platform: Floats) -> tuple[float, float]:
    """Slope and intercept of platform power over its components, by least squares."""
    slope, rest = np.polyfit(parts, platform, 1)
    return float(slope), float(rest)


def logs(box: pl.DataFrame) -> list[dict[str, Any]]:
    """What RAPL alone says of the box."""
    return [
        one
        for name, quantity in (("package_power", "cpu_power"), ("dram_power", "dram_power"))
        for one in series(
            box["timestamp"].to_list(), box[name], quantity, device_id=quantity.removesuffix("_power")
        )
    ]


def test_the_stated_line_is_that_of_the_real_box_whichever_half_it_is_fitted_on(box: pl.DataFrame) -> None:
    parts = (box["package_power"] + box["dram_power"]).to_numpy()
    platform = box["platform_power"].to_numpy()
    half = len(parts) // 2
    for fitted_on, tried_on in ((slice(0, half), slice(half, None)), (slice(half, None), slice(0, half))):
        slope, rest = line(parts[fitted_on], platform[fitted_on])
        missed = platform[tried_on] - (slope * parts[tried_on] + rest)
        print(f"slope {slope:.3f}, rest {rest:.1f} W; on the other half: rms {missed.std():.1f} W of "
              f"{platform[tried_on].mean():.0f}, mean {missed.mean():+.1f} W")  # fmt: skip
        assert abs(slope - 1 - MODEL.component_loss_ratio) < 0.02
        assert abs(missed.mean()) < 2
    slope, rest = line(parts, platform)
    assert (slope - 1, rest) == (
        pytest.approx(MODEL.component_loss_ratio, abs=0.005),
        pytest.approx(86, abs=1),
    )


@pytest.mark.parametrize("facts", [{}, {"rest_power_w": 95.0}], ids=["class default", "stated 95 W"])
def test_the_energy_of_the_box_by_rapl_alone_holds_what_its_platform_measured(
    box: pl.DataFrame, facts: dict[str, Any]
) -> None:
    """The default rests on this very box, so it says only that the kernel does what the factors say."""
    modelled = of_device(rows_of(logs(box), node(gpu_count=0, **facts)))
    measured = of_device(rows_of(series(box["timestamp"].to_list(), box["platform_power"])))
    assert {row["energy_source"] for row in modelled} == {"modelled_sum"}
    energy, truth = (sum(row["energy_kwh"] for row in rows) for rows in (modelled, measured))
    half_width = 1.645 * sum(row["gain_sigma_kwh"] for row in modelled)
    print(
        f"{facts or 'default'}: {energy:.4f} +- {half_width:.4f} kWh, platform {truth:.4f} ({energy / truth - 1:+.1%})"
    )
    assert abs(energy - truth) < half_width < 0.35 * truth


def test_the_line_of_the_box_s_earlier_hour_holds_for_its_later_one(box: pl.DataFrame) -> None:
    """Fitted on the first 70 minutes, as a night would on the days before, and tried on the last 40."""
    earlier, later = (box.filter(pl.col("timestamp").is_between(*span)) for span in ((0, 4200), (4200, 9000)))
    past = pl.DataFrame(schema=SENSOR_DAY_COLUMNS)
    listed = node(gpu_count=0, hardware_class="nx12")
    both = logs(earlier) + series(earlier["timestamp"].to_list(), earlier["platform_power"])
    roster = pl.DataFrame([listed], schema=ROSTER_COLUMNS)
    made = node_days(table(both), past, roster, POLICY)
    sensors = made.sensor_days.with_columns(pl.from_epoch("on_day", "d").alias("date"))
    nodes = pl.DataFrame(
        {"node_id": ["n1"], "hardware_class": ["nx12"], "valid_from": [Days.of(DAY).from_time]}
    ).with_columns(valid_to=pl.lit(None, pl.Datetime("us", "UTC")))
    fitted = fitted_points(made.checks, sensors, nodes, MODEL)
    rows = of_device(rows_of(logs(later), listed, policy=replace(POLICY, fitted=fitted)))
    assert {flag for row in rows for flag in row["flags"]} <= {"modelled_fitted", "partial"}
    measured = of_device(rows_of(series(later["timestamp"].to_list(), later["platform_power"])))
    energy, truth = (sum(row["energy_kwh"] for row in part) for part in (rows, measured))
    half_width = 1.645 * sum(row["gain_sigma_kwh"] for row in rows)
    print(f"fitted: {energy:.4f} +- {half_width:.4f} kWh, platform {truth:.4f} ({energy / truth - 1:+.1%})")
    assert abs(energy - truth) < min(half_width, 0.05 * truth)
