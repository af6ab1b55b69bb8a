"""What the simulated site's logs say of a cap: nothing without a reference, and less wrongly the longer it ran."""

from __future__ import annotations

import numpy as np
import pytest

from bench.replay_cluster import Trial
from bench.savings_truth import Curves, Truth

METERS = {"progress_noise": 0.015, "gpu_noise": 0.02}
CURVES = Curves(
    names=["one"],
    tasks=["one"],
    caps_w=[np.array([100.0, 200.0])],
    limits=[[np.array([100.0, 200.0])]],
    time=[[np.array([1.1, 1.0])]],
    power_w=[[np.array([95.0, 180.0])]],
    relative=np.ones((1, 1)),
)


def truth(work_s: float, jobs: int = 1) -> Truth:
    return Truth(CURVES, np.full(jobs, work_s), np.zeros(jobs, dtype=np.int64), METERS, 1.05, 3)


def test_time_and_energy_of_a_capped_run_are_the_tables() -> None:
    run = truth(36_000.0).run(0, 0, 100.0)
    assert (run.duration_s, run.gpu_w) == (pytest.approx(39_600.0), pytest.approx(95.0))


def test_without_an_uncapped_reference_nothing_is_known_of_a_slowdown() -> None:
    assert truth(36_000.0).run(0, 0, 100.0).measured == ()
    own = truth(36_000.0).run(0, 0, Trial(1200.0, lambda measured: (100.0, 3600.0)))
    assert own.measured and own.measured[0].end_s == pytest.approx(1200.0 + 3600.0)


def test_a_stretch_is_logged_when_it_is_over_and_not_below_one_window() -> None:
    run = truth(8000.0).knowing(np.full((1, 1), 100.0)).run(0, 0, 100.0)
    assert [one.end_s for one in run.measured] == pytest.approx([3600.0, 7200.0, 8800.0])
    assert [one.windows for one in run.measured] == [6.0, 6.0, 2.0]
    assert truth(500.0).knowing(np.full((1, 1), 100.0)).run(0, 0, 100.0).measured == ()


def test_errors_fall_with_windows_but_never_below_the_references() -> None:
    """200 jobs of 6 windows: 1.1 x 1.5 % / sqrt 6 of spread; their mean is off by the one error of the reference."""
    for windows in (4.0, 1e9):
        known = truth(3600.0 / 1.1, 200).knowing(np.full((1, 1), windows))
        found = np.array([known.run(job, 0, 100.0).measured[0].time_ratio for job in range(200)])
        assert found.std() == pytest.approx(1.1 * 0.015 / np.sqrt(6.0), rel=0.15)
        reference = 0.015 * float(known.free_error[0, 0, 0]) / np.sqrt(windows)
        assert found.mean() == pytest.approx(1.1 * (1.0 + reference), abs=0.0015)
