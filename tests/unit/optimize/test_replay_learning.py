"""What the planner learns from logs: caps within the bound, habits, the reserve, the set point."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from lepton_etl.optimize.replay.caps import LearnedCaps
from lepton_etl.optimize.replay.cluster import Jobs, Measured, Nodes, Run, Trial
from lepton_etl.optimize.replay.cooling import CoolingLimits, CoolingPlanner
from lepton_etl.optimize.replay.habits import JobLog, break_even_s, habits, reserve_by_hour
from lepton_etl.optimize.replay.ours import shifted

NODES = Nodes(
    np.zeros(2, dtype=np.int64), np.full(2, 4), *(np.full(2, watt) for watt in (100.0, 10.0, 25.0, 15.0, 180.0)),
    240.0, 60.0,
)  # fmt: skip
JOBS = Jobs(
    submit_s=np.zeros(3), gpus=np.ones(3, dtype=np.int64), allowed=np.ones((3, 1), dtype=bool),
    requested_s=np.array([40_000.0, 40_000.0, 3000.0]), deadline_s=np.array([np.inf, 41_000.0, np.inf]),
    workload=np.zeros(3, dtype=np.int64), release_s=np.zeros(3),
)  # fmt: skip


def learner() -> LearnedCaps:
    return LearnedCaps(
        NODES,
        np.full((1, 1), 200.0),
        np.full((1, 1), 0.5),
        least_w=np.array([100.0]),
        most_w=np.array([250.0]),
    )


def tried(caps: LearnedCaps, slow_at: dict[float, float]) -> float | None:
    """One long job's trial; time over that without a cap by the share of 200 W. The cap that it keeps, W."""
    trial = caps.choose(JOBS, 0, 0, 0.0)
    assert isinstance(trial, Trial)
    measured: list[Measured] = []
    for _ in range(100):
        cap_w, lasts_s = trial.step(measured)
        if lasts_s == np.inf:
            caps.ended(JOBS, 0, 0, trial, Run(20_000.0, 180.0, tuple(measured), cap_w))
            return cap_w
        assert cap_w is not None
        measured.append(Measured(cap_w, 200.0, min(cap_w, 200.0), slow_at[round(cap_w / 200.0, 2)]))
    raise AssertionError("a trial that does not end")


def test_the_lowest_cap_within_the_bound_is_kept() -> None:
    caps = learner()
    assert tried(caps, {0.85: 1.0, 0.75: 1.01, 0.65: 1.2}) == pytest.approx(150.0)
    # Known by now: the next job runs with it at once, a job too short to try as well.
    assert caps.choose(JOBS, 0, 0, 0.0) == caps.choose(JOBS, 2, 0, 0.0) == pytest.approx(150.0)
    assert caps.time_ratio(0, 0, 150.0) == pytest.approx(1.01)


def test_a_cap_that_slows_beyond_the_bound_is_never_kept() -> None:
    assert tried(learner(), {0.85: 1.06, 0.92: 1.055}) is None


def test_a_cap_at_the_bound_is_not_sure_enough() -> None:
    assert tried(learner(), {0.85: 1.05, 0.92: 1.049}) is None


def test_no_cap_where_a_deadline_is_near_and_none_untried() -> None:
    caps = learner()
    assert caps.choose(JOBS, 1, 0, 0.0) is None
    assert caps.choose(JOBS, 2, 0, 0.0) is None


def test_a_board_below_its_lowest_limit_is_left_alone() -> None:
    caps = replace(learner(), free_w=np.full((1, 1), 90.0), cells={})
    assert caps.choose(JOBS, 0, 0, 0.0) is None


def log(runtime_s: list[float], kinds: list[int], workloads: list[int], named: list[bool]) -> JobLog:
    count = len(kinds)
    return JobLog(
        np.arange(count) * 3600.0, np.array(runtime_s), np.full(count, 1000.0), np.array(workloads), np.array(kinds),
        np.ones(count, dtype=np.int64), np.full(count, 200.0), ~np.array(named),
    )  # fmt: skip


def test_times_are_compared_on_jobs_that_name_no_class() -> None:
    """Named jobs ask for their own class's time: they would hide that class 1 is twice as fast."""
    fair = ([800.0, 400.0] * 50, [0, 1] * 50, [0] * 100, [False] * 100)
    named = ([800.0, 800.0] * 200, [0, 1] * 200, [0] * 400, [True] * 400)
    both = log(*(one + other for one, other in zip(fair, named, strict=True)))
    found = habits(both, 2, 2)
    assert found.used_ratio[0, 0] / found.used_ratio[0, 1] == pytest.approx(2.0, rel=0.02)
    # A workload that nobody has run is as its class.
    assert found.used_ratio[1, 0] == pytest.approx(0.8, rel=0.05)


def test_a_class_without_jobs_is_refused() -> None:
    with pytest.raises(ValueError, match="class 1"):
        habits(log([800.0], [0], [0], [False]), 1, 2)


def test_the_reserve_counts_hours_without_starts() -> None:
    """Eight boards begin each day at 03:00 local and nothing else does: two nodes of four then, none elsewhere."""
    begin = np.arange(20) * 86400.0
    starts = JobLog(
        begin, *(np.full(20, 100.0) for _ in range(2)), *(np.zeros(20, dtype=np.int64) for _ in range(2)),
        np.full(20, 8), np.full(20, 200.0), np.ones(20, dtype=bool),
    )  # fmt: skip
    found = reserve_by_hour(starts, np.array([4]), 3600.0, 20.0, 3.0, 0.9)
    assert found[0, 3] == 2 and found.sum() == 2


def test_break_even() -> None:
    """(240 s x 165 W + 60 s x 185 W) / 185 W, by hand."""
    assert break_even_s(200.0, 15.0, 180.0, 240.0, 60.0) == pytest.approx(274.05, abs=0.01)


LIMITS = CoolingLimits(21.0, 27.0, 18.0, 1.0, 2.0, 1.0)


def planner(slope: float) -> CoolingPlanner:
    """One that has seen 600 h at the usual set point; cooling over heat rises by `slope` a kelvin of lift."""
    made = CoolingPlanner(LIMITS)
    wet = np.linspace(0.0, 26.0, 600)
    heat = np.full(600, 30.0)
    cooling = heat * (0.05 + slope * np.maximum(wet - 21.0 + 10.0, 0.0))
    usual = np.full(600, 21.0)
    made.learn(heat, cooling, wet, usual, np.full(600, 20.0), np.full(600, 20.0))
    return made


@pytest.mark.parametrize("wet_bulb_c", [2.0, 15.0, 25.0])
@pytest.mark.parametrize("slope", [0.0, 0.01, 0.1])
def test_the_set_point_keeps_to_its_limits(slope: float, wet_bulb_c: float) -> None:
    """Never above what keeps the hottest inlet inside, never below the coldest supply, at most the ramp in an hour."""
    made, now_c = planner(slope), 21.0
    for _ in range(12):
        after_c = made.choose(now_c, 20.0, 24.0, wet_bulb_c)
        assert 18.0 <= after_c <= 27.0 - 2.0 - 1.0 and abs(after_c - now_c) <= 1.0 + 1e-9
        now_c = after_c


def test_warm_weather_raises_the_set_point_and_free_cooling_does_not() -> None:
    made = planner(0.03)
    assert made.choose(21.0, 20.0, 24.0, 24.0) > 21.0
    assert made.choose(21.0, 20.0, 24.0, 2.0) <= 21.0


def test_shifting_waits_for_the_lowest_hours_and_keeps_the_deadline() -> None:
    """An hour of work, cheap in the fifth hour from now; only the job with room before its deadline waits."""
    known = habits(log([1000.0], [0], [0], [False]), 1, 1)
    jobs = replace(JOBS, requested_s=np.full(3, 3600.0), deadline_s=np.array([np.inf, 36_000.0, 7200.0]))
    forecast = np.full((30, 48), 300.0)
    forecast[0, 4] = 100.0
    assert shifted(jobs, known, forecast, 3600.0, 3600.0, 1.05).tolist() == [0.0, 4 * 3600.0, 0.0]
