"""Carbon on Spark frames: sources, three views on the same kWh, embodied carbon, water; one day of two clusters."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest
from pyspark.sql import DataFrame, SparkSession

from lepton_etl.carbon.embodied import embodied_hours, with_embodied, with_node_embodied
from lepton_etl.carbon.emissions import (
    GeneratorFactor,
    IntensityError,
    emission_days,
    source_ratios,
    with_location_emissions,
)
from lepton_etl.carbon.market import MarketMix, with_market_emissions
from lepton_etl.carbon.water import with_water
from lepton_etl.uncertainty import Z

pytestmark = pytest.mark.spark

YEAR_S = 31_557_600.0


def hour(of: int, day: int = 3) -> datetime:
    return datetime(2025, 6, day, of, tzinfo=UTC)


@pytest.fixture(scope="module")
def hours(spark: SparkSession) -> DataFrame:
    """Site: 200 kWh an hour for 100 kWh IT; hour 1 with 50 kWh of sun and 30 kWh of diesel; 400 and 500 g/kWh."""
    clusters = spark.createDataFrame(
        [
            (date(2025, 6, 3), hour(h), "s", name, it, it * 1.1, 2 * it, "measured")
            for h in (0, 1)
            for name, it in (("a", 75.0), ("b", 25.0))
        ],
        "date date, hour_start timestamp, site_id string, cluster_id string, it_energy_kwh double, "
        "it_energy_upper_kwh double, facility_energy_kwh double, facility_basis string",
    )
    sites = spark.createDataFrame(
        [("s", hour(0), 200.0, "measured", 200.0, None), ("s", hour(1), 200.0, "measured", 120.0, 30.0)],
        "site_id string, hour_start timestamp, facility_energy_kwh double, facility_basis string, "
        "utility_kwh double, generator_kwh double",
    )
    intensity = spark.createDataFrame(
        [(hour(0), 400.0, 50.0, False), (hour(1), 500.0, 50.0, True)],
        "hour_start timestamp, carbon_intensity_gco2e_per_kwh double, upstream_gco2e_per_kwh double, "
        "estimated boolean",
    )
    water = spark.createDataFrame(
        [("s", hour(0), 180.0), ("s", hour(1), 60.0)], "site_id string, hour_start timestamp, water_l double"
    )
    mix = MarketMix(2025, 1e6, (), 0.25, 20.0, None, "residual_mix_missing")
    sources = source_ratios(sites, GeneratorFactor(2.7, 0.7))
    return (
        clusters.transform(with_location_emissions(intensity, sources, IntensityError(0.03, 0.4)))
        .transform(with_market_emissions([mix]))
        .transform(with_embodied(nodes(spark).transform(embodied_hours)))
        .transform(with_water(water))
        .persist()
    )


def nodes(spark: SparkSession) -> DataFrame:
    """a1 lives on, a2 is retired early at 02:00, a3 has outlived its four years; b1's mass is unknown."""
    lives = spark.createDataFrame(
        [
            ("s", "a1", hour(0, 1), None, 1400.0, 4 * YEAR_S, "inventory"),
            ("s", "a2", hour(0, 1), hour(2), 1000.0, 4 * YEAR_S, "archetype"),
            ("s", "a3", datetime(2020, 1, 1, tzinfo=UTC), None, 1000.0, 4 * YEAR_S, "inventory"),
            ("s", "b1", hour(0, 1), None, None, 4 * YEAR_S, "none"),
        ],
        "site_id string, node_id string, in_service_from timestamp, retired_at timestamp, "
        "embodied_te_kgco2e double, life_s double, embodied_basis string",
    )
    rows = [
        ("s", name[0], name, hour(h), 3600.0)
        for h in (0, 1)
        for name in ("a1", "a2", "a3", "b1")
    ]  # fmt: skip
    frame = spark.createDataFrame(
        rows,
        "site_id string, cluster_id string, node_id string, hour_start timestamp, expected_s double",
    )
    return frame.transform(with_node_embodied(lives))


@pytest.fixture(scope="module")
def found(hours: DataFrame) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["cluster_id"], row["hour_start"].hour): row.asDict() for row in hours.collect()}


def test_own_generation_is_not_charged_at_the_grids_intensity(
    found: dict[tuple[str, int], dict[str, Any]],
) -> None:
    assert found["a", 0]["emissions_location_kgco2e"] == pytest.approx(150 * 0.4)
    assert found["a", 0]["emissions_scope1_kgco2e"] is None, "no generator ran"
    sunny = found["a", 1]
    assert sunny["grid_import_kwh"] == pytest.approx(0.75 * 120)
    assert sunny["emissions_location_kgco2e"] == pytest.approx(0.75 * 120 * 0.5)
    assert sunny["emissions_scope1_kgco2e"] == pytest.approx(0.75 * 30 * 0.7)
    assert sunny["emissions_basis"] == "estimated"


def test_errors_of_energy_and_factor_meet_in_quadrature(
    found: dict[tuple[str, int], dict[str, Any]],
) -> None:
    row = found["a", 0]
    half = 60 * (0.1**2 + (Z * 0.03) ** 2) ** 0.5
    assert row["emissions_location_upper_kgco2e"] == pytest.approx(60 + half)
    assert row["emissions_location_lower_kgco2e"] == pytest.approx(60 - half)


def test_market_and_location_stay_apart(found: dict[tuple[str, int], dict[str, Any]]) -> None:
    row = found["a", 0]
    assert row["emissions_market_kgco2e"] == pytest.approx(150 * (0.25 * 20 + 0.75 * 400) / 1000)
    assert row["market_basis"] == "residual_mix_missing"
    assert row["emissions_location_kgco2e"] == pytest.approx(60)


def test_embodied_is_amortised_and_the_rest_written_off_on_early_retirement(
    found: dict[tuple[str, int], dict[str, Any]],
) -> None:
    hourly = 3600 / (4 * YEAR_S)
    assert found["a", 0]["embodied_kgco2e"] == pytest.approx((1400 + 1000) * hourly)
    served = (hour(2) - hour(0, 1)).total_seconds() / (4 * YEAR_S)
    rest = 1000 * (1 - served)
    assert found["a", 1]["embodied_kgco2e"] == pytest.approx((1400 + 1000) * hourly + rest)
    assert found["a", 0]["embodied_basis"] == "mixed"
    assert (found["b", 0]["embodied_kgco2e"], found["b", 0]["embodied_basis"]) == (None, "none")


def test_water_follows_it_energy_and_not_pue(found: dict[tuple[str, int], dict[str, Any]]) -> None:
    """mlco2/codecarbon multiplied WUE by energy x PUE: that would give twice the meter's litres here."""
    litres = [found[key]["water_l"] for key in (("a", 0), ("b", 0))]
    assert litres == pytest.approx([135.0, 45.0])
    assert litres[0] / found["a", 0]["it_energy_kwh"] == pytest.approx(180 / 100)


def test_a_day_is_the_sum_of_its_hours_with_correlated_errors(hours: DataFrame) -> None:
    rows = {row["cluster_id"]: row.asDict() for row in hours.transform(emission_days(0.9)).collect()}
    a = rows["a"]
    assert a["emissions_location_kgco2e"] == pytest.approx(60 + 45)
    assert a["grid_import_kwh"] == pytest.approx(150 + 90)
    assert a["carbon_intensity_gco2e_per_kwh"] == pytest.approx(105_000 / 240)
    by_energy, by_factor = 0.1 * 105, Z * (0.03 * 60 + 0.4 * 45)
    half = (by_energy**2 + by_factor**2) ** 0.5
    assert a["emissions_location_upper_kgco2e"] == pytest.approx(105 + half)
    assert a["market_basis"] == "residual_mix_missing"
    assert a["water_l"] == pytest.approx(135 + 45)
    assert rows["b"]["embodied_basis"] == "none"
    assert a["emissions_scope1_kgco2e"] is None, "one of two hours is below the limit"
