"""What the planner learns from logs: caps within the bound, habits, the reserve, the set point."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench.replay_cluster import Jobs, Measured, Nodes, Run, Trial
from bench.replay_policy import (
    CoolingLimits,
    CoolingPlanner,
    JobLog,
    LearnedCaps,
    break_even_s,
    habits,
    reserve_by_hour,
    shifted,
)

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
        free_windows=np.full((1, 1), 1e6),
    )


def tried(caps: LearnedCaps, time_ratio: Callable[[float], float], most: int = 400) -> float | None:
    """One long job's trial at 0 s, power at the cap; `time_ratio` by the cap, W. The cap that it keeps, W."""
    trial = caps.choose(JOBS, 0, 0, 0.0)
    assert isinstance(trial, Trial) and trial.window_s == 0.0
    measured: list[Measured] = []
    for _ in range(most):
        cap_w, lasts_s = trial.step(measured)
        if lasts_s == caps.look_again_s:
            caps.began(JOBS, 0, 0, Run(20_000.0, 180.0, tuple(measured), cap_w), 0.0)
            return cap_w
        assert cap_w is not None
        end_s = (len(measured) + 1) * lasts_s
        measured.append(Measured(cap_w, 200.0, min(cap_w, 200.0), time_ratio(cap_w), 1.0, end_s))
    raise AssertionError("a trial that does not end")


def bends_at(bend_w: float, slope: float) -> Callable[[float], float]:
    """No slowdown above a cap, below it `slope` a watt."""
    return lambda cap_w: 1.0 + slope * max(bend_w - cap_w, 0.0)


@given(st.floats(105.0, 245.0), st.floats(1e-4, 0.02))
def test_the_cap_that_is_kept_is_within_the_bound(bend_w: float, slope: float) -> None:
    """Wherever and however steeply a workload is slowed: never beyond 5 %, and what costs nothing is taken."""
    time_ratio, caps = bends_at(bend_w, slope), replace(learner(), trial_slowdown_ratio=1e9)
    kept = tried(caps, time_ratio)
    assert kept is None or time_ratio(kept) <= 1.05
    if bend_w < 190.0:
        assert kept is not None and kept <= bend_w + caps.grid_step * 200.0


def test_what_was_logged_is_known_from_its_own_time_on() -> None:
    """Not before a window is logged, and without waiting for the job's end; a job too short to try uses it too."""
    caps = learner()
    kept = tried(caps, bends_at(160.0, 0.01))
    assert kept is not None and kept < 165.0
    assert caps.choose(JOBS, 2, 0, 1199.0) is None
    assert isinstance(caps.choose(JOBS, 0, 0, 1199.0), Trial)
    assert caps.choose(JOBS, 0, 0, 1e5) == caps.choose(JOBS, 2, 0, 1e5) == pytest.approx(kept)
    assert caps.time_ratio(0, 0, kept) == pytest.approx(1.0 + 0.01 * max(160.0 - kept, 0.0))


def test_a_cap_that_slows_beyond_the_bound_is_never_kept() -> None:
    assert tried(learner(), lambda cap_w: 1.06) is None


def test_a_cap_at_the_bound_is_not_sure_enough() -> None:
    assert tried(replace(learner(), trial_slowdown_ratio=1e9), lambda cap_w: 1.05) is None


def test_trying_ends_where_it_has_cost_too_much() -> None:
    """Three times as slow under any cap: 1.5 % of 20 000 s are lost in the first window."""
    caps = learner()
    assert tried(caps, lambda cap_w: 3.0, most=3) is None
    assert caps.time_ratio(0, 0, 170.0) == pytest.approx(1.0)
    caps.choose(JOBS, 0, 0, 1e6)
    assert caps.time_ratio(0, 0, 170.0) == pytest.approx(3.0)


def test_without_earlier_logs_the_job_itself_is_the_reference() -> None:
    trial = replace(learner(), free_windows=np.zeros((1, 1)), cells={}).choose(JOBS, 0, 0, 0.0)
    assert isinstance(trial, Trial) and trial.window_s == 3600.0


def test_no_cap_where_a_deadline_is_near_and_none_untried() -> None:
    caps = learner()
    assert caps.choose(JOBS, 1, 0, 0.0) is None
    assert caps.choose(JOBS, 2, 0, 0.0) is None


def test_caps_keep_to_the_limits_that_the_board_takes() -> None:
    """Peaks of a load that draws less in the mean may be capped, but not below the board's lowest limit."""
    caps = replace(learner(), free_w=np.full((1, 1), 90.0), cells={})
    kept = tried(caps, lambda cap_w: 1.0)
    assert kept is None or 100.0 <= kept < 250.0
    alone = replace(learner(), least_w=np.array([250.0]), cells={})
    assert alone.choose(JOBS, 0, 0, 0.0) is None


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


def test_a_gain_below_the_models_own_error_does_not_move_the_set_point() -> None:
    """Free cooling: nothing to gain but a little leakage; from anywhere back to the usual point."""
    made = planner(0.0)
    assert made.choose(21.0, 20.0, 24.0, 2.0) == made.choose(22.0, 20.0, 24.0, 2.0) == 21.0
    assert replace(made, worth_ratio=0.0).choose(21.0, 20.0, 24.0, 2.0) < 21.0


def test_shifting_waits_for_the_lowest_hours_and_keeps_the_deadline() -> None:
    """An hour of work, cheap in the fifth hour from now; only the job with room before its deadline waits."""
    known = habits(log([1000.0], [0], [0], [False]), 1, 1)
    jobs = replace(JOBS, requested_s=np.full(3, 3600.0), deadline_s=np.array([np.inf, 36_000.0, 7200.0]))
    forecast = np.full((30, 48), 300.0)
    forecast[0, 4] = 100.0
    assert shifted(jobs, known, forecast, 3600.0, 3600.0, 1.05).tolist() == [0.0, 4 * 3600.0, 0.0]
