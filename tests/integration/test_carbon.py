"""Carbon of hours: sources, three views on the same kWh, embodied carbon, water; one day of two clusters."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import polars as pl
import pytest

from lepton_etl.carbon.embodied import embodied_hours, embodied_parts, with_embodied, with_node_embodied
from lepton_etl.carbon.emissions import (
    GeneratorFactor,
    IntensityError,
    emission_days,
    location_emissions,
    source_ratios,
)
from lepton_etl.carbon.market import MarketMix, market_emissions
from lepton_etl.carbon.water import with_water
from lepton_etl.schema.declare import end_names
from lepton_etl.uncertainty import Z_EVEN, Z

YEAR_S = 31_557_600.0


def hour(of: int, day: int = 3) -> datetime:
    return datetime(2025, 6, day, of, tzinfo=UTC)


TIME = pl.Datetime("us", "UTC")


def frame(rows: list[tuple[Any, ...]], **schema: Any) -> pl.DataFrame:
    return pl.DataFrame(rows, schema=schema, orient="row")


@pytest.fixture(scope="module")
def hours() -> pl.DataFrame:
    """Site: 200 kWh an hour for 100 kWh IT; hour 1 with 50 kWh of sun and 30 kWh of diesel; 400 and 500 g/kWh."""
    number, text = pl.Float64, pl.String
    clusters = frame(
        [
            (date(2025, 6, 3), hour(h), "s", name, it, it * 1.1, 2 * it, 2.2 * it, 0.03, "measured")
            for h in (0, 1)
            for name, it in (("a", 75.0), ("b", 25.0))
        ],
        date=pl.Date, hour_start=TIME, site_id=text, cluster_id=text, it_energy_kwh=number,
        it_energy_upper_kwh=number, facility_energy_kwh=number, facility_energy_upper_kwh=number,
        share_half_ratio=number, facility_basis=text,
    )  # fmt: skip
    sites = frame(
        [("s", hour(0), 200.0, "measured", 200.0, None), ("s", hour(1), 200.0, "measured", 120.0, 30.0)],
        site_id=text, hour_start=TIME, facility_energy_kwh=number, facility_basis=text, utility_kwh=number,
        generator_kwh=number,
    )  # fmt: skip
    intensity = frame(
        [(hour(0), 400.0, 50.0, False), (hour(1), 500.0, 50.0, True)],
        hour_start=TIME, carbon_intensity_gco2e_per_kwh=number, upstream_gco2e_per_kwh=number, estimated=pl.Boolean,
    )  # fmt: skip
    water = frame(
        [("s", hour(0), 180.0, 1.8), ("s", hour(1), 60.0, 0.6)],
        site_id=text,
        hour_start=TIME,
        water_l=number,
        water_l_half=number,
    )
    mix = MarketMix(2025, 1e6, (), 0.25, 20.0, None, "residual_mix_missing")
    error = IntensityError(0.03, 0.4, 0.5)
    sources = source_ratios(sites, GeneratorFactor(2.7, 0.7))
    located = location_emissions(clusters, intensity, sources, error)
    embodied = embodied_hours(embodied_parts(nodes()))
    return with_water(with_embodied(market_emissions(located, [mix], error), embodied), water).with_columns(
        pl.lit(2).alias("factor_age_years"), pl.lit(["aged:grid_average"]).alias("factor_flags")
    )


def nodes() -> pl.DataFrame:
    """a1 lives on, a2 is retired early at 02:00, a3 has outlived its four years; b1's mass is unknown."""
    text, number = pl.String, pl.Float64
    lives = frame(
        [
            ("s", "a1", hour(0, 1), None, 1400.0, 4 * YEAR_S, "inventory"),
            ("s", "a2", hour(0, 1), hour(2), 1000.0, 4 * YEAR_S, "archetype"),
            ("s", "a3", datetime(2020, 1, 1, tzinfo=UTC), None, 1000.0, 4 * YEAR_S, "inventory"),
            ("s", "b1", hour(0, 1), None, None, 4 * YEAR_S, "none"),
        ],
        site_id=text, node_id=text, in_service_from=TIME, retired_at=TIME, embodied_te_kgco2e=number, life_s=number,
        embodied_basis=text,
    )  # fmt: skip
    rows = [
        ("s", name[0], name, hour(h), 3600.0)
        for h in (0, 1)
        for name in ("a1", "a2", "a3", "b1")
    ]  # fmt: skip
    hours = frame(rows, site_id=text, cluster_id=text, node_id=text, hour_start=TIME, expected_s=number)
    return with_node_embodied(hours, lives, {"inventory": 0.2, "archetype": 0.4})


@pytest.fixture(scope="module")
def found(hours: pl.DataFrame) -> dict[tuple[str, int], dict[str, Any]]:
    return {(row["cluster_id"], row["hour_start"].hour): row for row in hours.to_dicts()}


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


def test_upstream_errs_by_energy_and_by_what_the_life_cycle_adds(
    found: dict[tuple[str, int], dict[str, Any]],
) -> None:
    for of, by_estimate in ((0, 0.0), (1, Z * 0.4)):
        row = found["a", of]
        value = row["emissions_upstream_kgco2e"]
        half = value * (0.1**2 + (Z_EVEN * 0.5) ** 2 + by_estimate**2) ** 0.5
        assert row["emissions_upstream_upper_kgco2e"] == pytest.approx(value + half)
        assert row["emissions_upstream_lower_kgco2e"] == pytest.approx(max(value - half, 0.0))


def test_market_errs_by_what_one_more_kwh_emits_and_by_the_rest_alone(
    found: dict[tuple[str, int], dict[str, Any]],
) -> None:
    row = found["a", 0]
    by_energy, by_factor = 0.1 * 150 * 0.4, Z * 0.03 * 150 * 0.75 * 0.4
    half = (by_energy**2 + by_factor**2) ** 0.5
    assert row["emissions_market_upper_kgco2e"] == pytest.approx(row["emissions_market_kgco2e"] + half)


def test_water_errs_by_its_meter_and_by_the_clusters_share(
    found: dict[tuple[str, int], dict[str, Any]],
) -> None:
    row = found["a", 0]
    half = 135 * (0.03**2 + 0.01**2) ** 0.5
    assert row["water_upper_l"] == pytest.approx(135 + half)
    assert row["water_lower_l"] == pytest.approx(135 - half)


def test_masses_of_one_footprint_err_together(found: dict[tuple[str, int], dict[str, Any]]) -> None:
    row, hourly = found["a", 0], 3600 / (4 * YEAR_S)
    half = Z_EVEN * (0.2 * 1400 + 0.4 * 1000) * hourly
    assert row["embodied_upper_kgco2e"] == pytest.approx(2400 * hourly + half)
    assert found["b", 0]["embodied_upper_kgco2e"] is None


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


def test_a_day_is_the_sum_of_its_hours_with_correlated_errors(hours: pl.DataFrame) -> None:
    rows = {row["cluster_id"]: row for row in emission_days(hours, 0.9).to_dicts()}
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
    for name in ("emissions_market_kgco2e", "emissions_upstream_kgco2e", "embodied_kgco2e", "water_l"):
        for end in end_names(name):
            of_hours = hours.filter(pl.col("cluster_id") == "a")[end].sum()
            assert a[end] == pytest.approx(of_hours), end
    assert (a["factor_age_years"], a["factor_flags"]) == (2, ["aged:grid_average"])
    assert a["emissions_scope1_kgco2e"] is None, "one of two hours is below the limit"
