"""The interval of a cluster's facility energy: what each input's error moves, by finite differences."""

from __future__ import annotations

import math
from datetime import UTC, datetime

import polars as pl
import pytest

from lepton_etl.facility.pue import site_meters, with_overhead, with_pue
from lepton_etl.uncertainty import Z

HOUR = datetime(2025, 6, 3, tzinfo=UTC)
HALF_A, HALF_B, SIGMA = 6.0, 4.0, 0.5
TOGETHER = 0.4
# The error of the sum of both clusters, which err together by this correlation.
HALF_IT = (HALF_A**2 + HALF_B**2 + 2 * TOGETHER * HALF_A * HALF_B) ** 0.5


def rows(a_kwh: float, b_kwh: float, meter_kwh: float, basis: str) -> dict[str, dict[str, float]]:
    """Clusters a and b: `meter_kwh` is the site's utility meter, the overhead's meters, or an assumed PUE."""
    nodes = a_kwh + b_kwh
    facility = {"partial": meter_kwh, "assumed": nodes * meter_kwh, "measured": nodes + meter_kwh}[basis]
    known: dict[str, float | None] = {
        "facility_energy_kwh": facility,
        "facility_energy_upper_kwh": facility + Z * SIGMA,
        "it_energy_kwh": nodes,
        "it_energy_upper_kwh": nodes + HALF_IT,
        "it_energy_sigma_kwh": HALF_IT / Z,
        "overhead_kwh": meter_kwh if basis == "measured" else None,
        "overhead_sigma_kwh": SIGMA if basis == "measured" else None,
        "it_metered_kwh": nodes if basis == "measured" else None,
        "carrier_energy_kwh": 0.0,
        "pue_ratio": facility / nodes,
    }
    numbers = pl.DataFrame([known], schema=dict.fromkeys(known, pl.Float64))
    site = numbers.with_columns(
        pl.lit("s").alias("site_id"), pl.lit(HOUR).alias("hour_start"), pl.lit(basis).alias("pue_basis"),
        pl.lit(None, pl.Int32).alias("pue_category"),
    )  # fmt: skip
    clusters = pl.DataFrame(
        {
            "site_id": ["s", "s"], "hour_start": [HOUR, HOUR], "cluster_id": ["a", "b"],
            "it_energy_kwh": [a_kwh, b_kwh], "it_energy_upper_kwh": [a_kwh + HALF_A, b_kwh + HALF_B],
        }
    )  # fmt: skip
    return {row["cluster_id"]: row for row in with_overhead(clusters, site).to_dicts()}


@pytest.mark.parametrize(
    ("basis", "meter_kwh", "meter_half"),
    [("partial", 150.0, Z * SIGMA), ("measured", 45.0, Z * SIGMA), ("assumed", 1.5, 0.0)],
)
def test_the_interval_is_what_the_errors_move(basis: str, meter_kwh: float, meter_half: float) -> None:
    step = 1e-5
    base = rows(80.0, 20.0, meter_kwh, basis)["a"]
    value = base["facility_energy_kwh"]
    moved = [
        rows(80.0 + step, 20.0, meter_kwh, basis), rows(80.0, 20.0 + step, meter_kwh, basis),
        rows(80.0, 20.0, meter_kwh + step, basis),
    ]  # fmt: skip
    slopes = [(one["a"]["facility_energy_kwh"] - value) / step for one in moved]
    of_a, of_b, of_meter = (
        slope * by for slope, by in zip(slopes, (HALF_A, HALF_B, meter_half), strict=True)
    )
    half = (of_a**2 + of_b**2 + 2 * TOGETHER * of_a * of_b + of_meter**2) ** 0.5
    assert base["facility_energy_upper_kwh"] - value == pytest.approx(half, rel=1e-4)
    assert value - base["facility_energy_lower_kwh"] == pytest.approx(half, rel=1e-4)
    of_share = [0.2 / 80.0 * HALF_A, -1 / 100.0 * HALF_B]
    share2 = of_share[0] ** 2 + of_share[1] ** 2 + 2 * TOGETHER * of_share[0] * of_share[1]
    assert base["share_half_ratio"] == pytest.approx(share2**0.5)


@pytest.mark.parametrize("pdus", [1, 2])
def test_it_energy_at_meters_has_their_interval_and_not_that_of_the_nodes(pdus: int) -> None:
    hour = {"site_id": "s", "hour_start": HOUR, "date": HOUR.date()}
    drawn = [("utility", 40.0), *[("pdu_out", energy_kwh) for energy_kwh in (12.0, 18.0)[:pdus]]]
    meters = pl.DataFrame([
        hour | {"meter_id": f"m{at}", "point": point, "carrier": "electricity", "class_pct": 1.0, "noise_kwh": 0.0,
                "direction": 1.0 if point == "utility" else None, "energy_kwh": energy_kwh, "serves": None}
        for at, (point, energy_kwh) in enumerate(drawn)
    ])  # fmt: skip
    nodes = pl.DataFrame([
        hour | {"it_energy_kwh": 11.0, "it_energy_lower_kwh": 10.9, "it_energy_upper_kwh": 11.1,
                "energy_basis": "measured"}
    ])  # fmt: skip
    carriers = pl.DataFrame(
        schema={name: meters.schema[name] for name in hour} | {"carrier_energy_kwh": pl.Float64}
    )
    (row,) = with_pue(nodes, site_meters(meters), carriers, None).to_dicts()
    metered_kwh = sum(energy_kwh for point, energy_kwh in drawn if point == "pdu_out")
    # One meter errs evenly within its class; of two the errors add as variances do.
    half_kwh = 0.9 * 0.12 if pdus == 1 else 1.6449 * math.hypot(0.12, 0.18) / math.sqrt(3)
    assert row["it_energy_kwh"] == metered_kwh
    assert row["it_energy_upper_kwh"] - metered_kwh == pytest.approx(half_kwh, rel=1e-4)
    assert metered_kwh - row["it_energy_lower_kwh"] == pytest.approx(half_kwh, rel=1e-4)
    # Where no meter stands near the IT input, what the nodes' sensors say stands.
    (row,) = with_pue(
        nodes, site_meters(meters.filter(pl.col("point") == "utility")), carriers, None
    ).to_dicts()
    assert (row["it_energy_lower_kwh"], row["it_energy_kwh"], row["it_energy_upper_kwh"]) == (
        10.9,
        11.0,
        11.1,
    )
