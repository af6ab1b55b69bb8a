"""Ways to make energy of samples, compared on real power: what each gives, and how far a sparse one is off."""

from __future__ import annotations

import csv
import gzip
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from lepton_etl.intervals.integrate import Segments, between_instants, by_interval
from tests.conftest import real_data
from tests.real.independent_harvard import ROW

HERE = Path(__file__).parent
HARVARD = real_data() / "harvard-ipmi-weather" / "ipmi"
FRONTIER = real_data() / "frontier-cdu-power" / "input_04-07-24_first16h.csv.gz"
HOUR_US = 3_600_000_000
MAX_GAP_S = 1_000

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not HARVARD.is_dir(), reason=f"no real data at {HARVARD} (LEPTON_REAL_DATA)"),
]


@dataclass(frozen=True)
class Log:
    """One sensor's day: seconds and watts."""

    time_s: NDArray[np.int64]
    power_w: NDArray[np.float64]

    def every(self, step: int) -> Log:
        return Log(self.time_s[::step], self.power_w[::step])

    @property
    def segments(self) -> Segments:
        zeros = np.zeros(len(self.time_s), dtype=np.int64)
        return between_instants(zeros, self.time_s * 1_000_000, self.power_w, zeros + MAX_GAP_S * 1_000_000)


def last_value_held(segments: Segments) -> Segments:
    """The same stretches with the value of their start: the rule that the trapezoid is compared with."""
    return replace(segments, value_end=segments.value_start)


def joules(segments: Segments) -> float:
    return float(by_interval(segments, HOUR_US).integral.sum())


def bmc_log(path: Path, sensor: str) -> Log:
    """One sensor of an ipmitool log; most lines are of others, so only its own are taken apart."""
    found: dict[int, float] = {}
    now = 0
    with gzip.open(path, "rt", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("Timestamp: "):
                now = round(datetime.fromisoformat(f"{line[11:30]}+00:00").timestamp())
            elif line.startswith(sensor) and (row := ROW.match(line)):
                found.setdefault(now, float(row[2]))
    times = sorted(found)
    return Log(np.asarray(times, dtype=np.int64), np.asarray([found[time] for time in times]))


@pytest.fixture(scope="module")
def logs() -> list[Log]:
    """The BMC totals of the real day that hold at least 200 readings and any power."""
    with (HERE / "harvard_energy.csv").open(encoding="utf-8", newline="") as lines:
        cases = [(row["node_id"], row["totals"].split("|")[0]) for row in csv.DictReader(lines)]
    found = [bmc_log(HARVARD / f"{node}-2025-06-03.txt.gz", name) for node, name in cases if name]
    return [log for log in found if len(log.power_w) >= 200 and log.power_w.any()]


def test_frontier_by_trapezoid_and_by_the_last_value() -> None:
    with gzip.open(FRONTIER, "rt", encoding="utf-8") as lines:
        rows = list(csv.reader(lines))
    loops = [place for place, name in enumerate(rows[0]) if name.startswith("power[")]
    time_s = np.asarray([round(float(row[0])) for row in rows[1:]], dtype=np.int64)
    power_w = np.asarray([sum(float(row[place]) for place in loops) for row in rows[1:]])
    segments = Log(time_s, power_w).segments
    assert (len(loops), time_s[-1]) == (25, 57_585)
    assert joules(segments) / 3.6e9 == pytest.approx(249.452, rel=1e-5)
    assert joules(last_value_held(segments)) / 3.6e9 == pytest.approx(249.489, rel=1e-5)
    # Mean power x runtime counts the last sample for a whole step more: SOURCE.md's 249.519.
    assert power_w.mean() * 57_600 / 3.6e9 == pytest.approx(249.519, rel=1e-5)


def test_trapezoid_and_mean_times_runtime_agree_on_the_minutes_of_a_bmc(logs: list[Log]) -> None:
    """Known tools found mean x runtime nearer than the sum of samples: with a reading a minute they hardly differ."""
    assert len(logs) > 20
    apart = []
    for log in logs:
        segments = log.segments
        seconds = float((segments.end_us - segments.start_us).sum()) / 1e6
        by_trapezoid = joules(segments)
        apart.append(
            (
                joules(last_value_held(segments)) / by_trapezoid - 1,
                float(log.power_w.mean()) * seconds / by_trapezoid - 1,
            )
        )
    held, mean = np.abs(np.asarray(apart)).max(axis=0)
    assert held < 0.0015 and mean < 0.0005
    assert np.median(np.abs(apart)) == 0.0, "most BMCs of the day stand still"


@pytest.mark.parametrize("step", [3, 5, 15])
def test_the_sampling_error_is_that_of_real_power_read_more_rarely(logs: list[Log], step: int) -> None:
    """Every third to fifteenth reading against all of them: the error that is stated is the error that is made."""
    made = stated = 0.0
    for log in logs:
        whole = np.r_[0.0, np.cumsum((log.power_w[1:] + log.power_w[:-1]) / 2 * np.diff(log.time_s))]
        sparse = log.every(step)
        segments = sparse.segments
        left = np.searchsorted(log.time_s, segments.start_us // 1_000_000)
        right = np.searchsorted(log.time_s, segments.end_us // 1_000_000)
        seconds = (segments.end_us - segments.start_us) / 1e6
        error = (segments.value_start + segments.value_end) / 2 * seconds - (whole[right] - whole[left])
        made += float((error**2).sum())
        stated += float((segments.variance * seconds**2).sum())
    assert 0.9 < np.sqrt(made / stated) < 1.0
