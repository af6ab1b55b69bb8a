"""Jobs of history under simple rules: equal energy, known means, hindsight as the bound."""

from __future__ import annotations

import math
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.recommend.replay import (
    POLICIES,
    HistoryRules,
    ReplayError,
    job_rows,
    replay_site,
    spread,
    totals_row,
    window_means,
)

FIRST = datetime(2025, 6, 3, tzinfo=UTC)
LAST = FIRST + timedelta(days=3)


def hours(values: list[float], name: str, start: datetime = FIRST - timedelta(days=7)) -> pl.DataFrame:
    return pl.DataFrame(
        {"hour_start": [start + timedelta(hours=h) for h in range(len(values))], name: values}
    )


def days_like(day: list[float]) -> pl.DataFrame:
    return hours(day * 21, "carbon_intensity_gco2e_per_kwh")


def jobs(rows: list[tuple[float, float, int, float]]) -> pl.DataFrame:
    """Jobs by (submitted, h after FIRST; lasts h; nodes; kWh)."""
    return pl.DataFrame(
        {
            "job_id": [f"{number:04}" for number in range(len(rows))],
            "submit_time": [FIRST + timedelta(hours=row[0]) for row in rows],
            "start_time": [FIRST + timedelta(hours=row[0]) for row in rows],
            "end_time": [FIRST + timedelta(hours=row[0] + row[1]) for row in rows],
            "node_count": [row[2] for row in rows],
            "energy_kwh": [row[3] for row in rows],
        }
    )


DAY = [300.0] * 12 + [100.0] * 4 + [400.0] * 8


def test_known_totals_by_hand() -> None:
    """10 kWh over two hours from 10:30: 1.5 h at 300 and 0.5 h at 100 g/kWh; all at 100 by waiting."""
    one = jobs([(10.5, 2.0, 1, 10.0)])
    at_once = replay_site(one, 4, days_like(DAY), None, "run_at_once", FIRST, LAST)
    assert at_once.emissions_kgco2e == pytest.approx(10 * (0.75 * 300 + 0.25 * 100) / 1000)
    assert math.isnan(at_once.energy_cost) and at_once.delay_h == 0.0 and at_once.jobs_moved == 0
    for policy in ("planned", "clairvoyant", "threshold"):
        rules = HistoryRules(threshold_quantile=0.1)
        moved = replay_site(one, 4, days_like(DAY), None, policy, FIRST, LAST, rules)
        assert moved.emissions_kgco2e == pytest.approx(1.0), policy
        assert moved.delay_h == pytest.approx(1.5) and moved.jobs_moved == 1


def test_the_cheapest_window_goes_by_price() -> None:
    one = jobs([(10.0, 1.0, 1, 10.0)])
    price = hours(([0.3] * 22 + [0.1] * 2) * 21, "price")
    found = replay_site(one, 4, days_like(DAY), price, "cheapest_window", FIRST, LAST)
    assert found.energy_cost == pytest.approx(1.0) and found.delay_h == 12.0
    with pytest.raises(ReplayError, match="needs prices"):
        replay_site(one, 4, days_like(DAY), None, "cheapest_window", FIRST, LAST)


row = st.tuples(st.floats(0, 60), st.floats(0.1, 12), st.integers(1, 4), st.floats(0.1, 50))


@settings(max_examples=60, deadline=None)
@given(st.lists(row, min_size=1, max_size=12), st.integers(0, 2**32 - 1))
def test_equal_energy_and_hindsight_is_the_bound(
    rows: list[tuple[float, float, int, float]], seed: int
) -> None:
    """With room for all no rule emits less than hindsight over the same starts; none loses a job or a kWh."""
    rng = np.random.default_rng(seed)
    intensity = hours(rng.uniform(50, 600, 600).tolist(), "carbon_intensity_gco2e_per_kwh")
    price = hours(rng.uniform(0.1, 0.4, 600).tolist(), "price")
    found = {
        policy: replay_site(jobs(rows), 100, intensity, price, policy, FIRST, LAST) for policy in POLICIES
    }
    for policy, totals in found.items():
        assert totals.jobs_completed == len(rows)
        assert totals.energy_kwh == pytest.approx(found["run_at_once"].energy_kwh, rel=1e-12)
        assert totals.emissions_kgco2e >= found["clairvoyant"].emissions_kgco2e - 1e-9, policy
        assert totals.delay_h <= HistoryRules().flexibility_h + 1e-9
        assert totals.energy_cost >= found["cheapest_window"].energy_cost - 1e-9, policy


def test_capacity_is_kept_and_a_late_job_is_counted() -> None:
    """Two jobs of the whole site at once: the second starts when the first is over, and misses its deadline."""
    two = jobs([(0.0, 2.0, 4, 5.0), (0.0, 2.0, 4, 5.0)]).with_columns(
        deadline_time=pl.lit(FIRST + timedelta(hours=3))
    )
    found = replay_site(two, 4, days_like(DAY), None, "run_at_once", FIRST, LAST)
    assert found.delay_h == pytest.approx(1.0) and found.deadlines_missed == 1


def test_what_is_planned_sees_no_later_hour() -> None:
    """Changing hours after the release changes nothing that the planned rule chooses."""
    one = jobs([(10.0, 2.0, 1, 10.0)])
    later = days_like(DAY).with_columns(
        pl.when(pl.col("hour_start") > FIRST + timedelta(hours=10))
        .then(1000.0 - pl.col("carbon_intensity_gco2e_per_kwh"))
        .otherwise("carbon_intensity_gco2e_per_kwh")
        .alias("carbon_intensity_gco2e_per_kwh")
    )
    delays = {
        replay_site(one, 4, series, None, "planned", FIRST, LAST).delay_h
        for series in (days_like(DAY), later)
    }
    assert delays == {2.0}


def test_a_forecast_is_followed_from_its_origin_on() -> None:
    one = jobs([(10.0, 1.0, 1, 10.0)])
    told = hours(
        [500.0] * 10 + [50.0] + [500.0] * 20, "carbon_intensity_gco2e_per_kwh", FIRST + timedelta(hours=9)
    )
    for origin_h, delay_h in ((9, 9.0), (11, 2.0)):
        forecast = told.with_columns(origin_time=pl.lit(FIRST + timedelta(hours=origin_h)))
        found = replay_site(one, 4, days_like(DAY), None, "planned", FIRST, LAST, forecast=forecast)
        assert found.delay_h == delay_h


def test_unknown_intensity_is_unknown_emissions() -> None:
    found = replay_site(
        jobs([(70.0, 5.0, 1, 10.0)]), 4, days_like(DAY)[:240], None, "run_at_once", FIRST, LAST
    )
    assert math.isnan(found.emissions_kgco2e) and found.energy_kwh == 10.0
    assert totals_row("a", found)["site_id"] == "a"


@pytest.mark.parametrize(
    ("frame", "words"),
    [
        (jobs([(0.0, 1.0, 9, 1.0)]), "job 0000 holds more nodes"),
        (jobs([(0.0, -1.0, 1, 1.0)]), "job 0000 ends before"),
        (jobs([(0.0, 1.0, 1, math.nan)]), "job 0000 has no energy"),
    ],
)
def test_contradictions_are_named(frame: pl.DataFrame, words: str) -> None:
    with pytest.raises(ReplayError, match=words):
        replay_site(frame, 4, days_like(DAY), None, "run_at_once", FIRST, LAST)
    with pytest.raises(ReplayError, match="no policy 'best'"):
        replay_site(jobs([(0.0, 1.0, 1, 1.0)]), 4, days_like(DAY), None, "best", FIRST, LAST)


def test_two_rows_of_an_hour_are_refused() -> None:
    twice = pl.concat([days_like(DAY), days_like(DAY)])
    with pytest.raises(ReplayError, match="an hour has two rows"):
        replay_site(jobs([(0.0, 1.0, 1, 1.0)]), 4, twice, None, "run_at_once", FIRST, LAST)


@given(st.floats(0, 500), st.floats(0, 100))
def test_shares_sum_to_one(start_h: float, lasts_h: float) -> None:
    touched, share = spread(start_h, lasts_h)
    assert share.sum() == pytest.approx(1.0) and (share >= -1e-12).all() and touched[0] == math.floor(start_h)


def test_a_window_that_leaves_the_series_is_unknown() -> None:
    assert np.isnan(window_means(np.ones(4), np.array([3.5]), 1.0)).all()


def test_rows_of_runs_over_midnight() -> None:
    """Energy sums over the days of a run; a null day of facility energy makes it IT energy, and says so."""
    key = {"site_id": "a", "cluster_id": "c", "submit_time": FIRST, "restart": 0}
    energy = pl.DataFrame(
        [
            {**key, "job_id": "1", "facility_energy_kwh": 2.0, "it_energy_kwh": 1.5},
            {**key, "job_id": "1", "facility_energy_kwh": None, "it_energy_kwh": 1.0},
            {**key, "job_id": "2", "facility_energy_kwh": 3.0, "it_energy_kwh": 2.0},
        ]
    )
    ends = {"start_time": FIRST, "node_count": 1, "gpu_count": 1}
    runs = pl.DataFrame(
        [{**key, **ends, "job_id": job, "end_time": FIRST + timedelta(hours=5)} for job in ("1", "1", "2")]
    )
    found = job_rows(energy, runs).sort("job_id")
    assert found["energy_kwh"].to_list() == [2.5, 3.0]
    assert found["energy_basis"].to_list() == ["it", "facility"]
