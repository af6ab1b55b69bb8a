"""The replayed queue: energy is conserved, promises are kept, nodes wake before they work."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.replay_cluster import Jobs, Nodes, Run, Setting
from bench.replay_queue import (
    ON,
    SLEEP,
    IdleTimeout,
    LeastEnergy,
    NoCaps,
    Policy,
    Replayed,
    Reserve,
    UrgentFirst,
    replay_queue,
)
from lepton_etl.recommend.replay import ReplayError

NODES = Nodes(
    hardware_class=np.array([0, 0, 1, 1]),
    gpus=np.array([4, 4, 2, 2]),
    base_w=np.array([100.0, 100.0, 60.0, 60.0]),
    busy_w=np.full(4, 10.0),
    gpu_idle_w=np.array([25.0, 25.0, 30.0, 30.0]),
    sleep_w=np.full(4, 15.0),
    wake_w=np.full(4, 180.0),
    wake_s=240.0,
    shut_down_s=60.0,
)


@dataclass(frozen=True)
class Fixed:
    """Jobs that run for what they are told, at 200 W a board."""

    runtime_s: tuple[float, ...]

    def run(self, job: int, hardware_class: int, setting: Setting) -> Run:
        return Run(self.runtime_s[job], 200.0)


def jobs_of(rows: list[tuple[float, int, float]], allowed: tuple[bool, bool] = (True, True)) -> Jobs:
    """Jobs by (submitted s, GPUs, requested s)."""
    rows = sorted(rows)
    submit = np.array([row[0] for row in rows], dtype=np.float64)
    return Jobs(
        submit_s=submit,
        gpus=np.array([row[1] for row in rows], dtype=np.int64),
        allowed=np.array([allowed] * len(rows)).reshape(len(rows), 2),
        requested_s=np.array([row[2] for row in rows], dtype=np.float64),
        deadline_s=np.full(len(rows), np.inf),
        workload=np.zeros(len(rows), dtype=np.int64),
        release_s=submit,
    )


def ours(jobs: Jobs) -> Policy:
    return Policy(
        order=UrgentFirst(),
        placement=LeastEnergy(np.full((1, 2), 0.5), np.full((1, 2), 200.0), np.full(2, 35.0)),
        power_down=Reserve(np.ones((2, 24), dtype=np.int64), 900.0),
    )


row = st.tuples(
    st.integers(0, 20_000).map(float),
    st.sampled_from([1, 2, 3, 4, 8]),
    st.integers(300, 30_000).map(float),
)


@st.composite
def queues(draw: st.DrawFn) -> tuple[Jobs, Fixed]:
    rows = sorted(draw(st.lists(row, min_size=1, max_size=25)))
    shares = draw(st.lists(st.floats(0.05, 1.0), min_size=len(rows), max_size=len(rows)))
    jobs = jobs_of(rows)
    return jobs, Fixed(
        tuple(float(asked * share) for asked, share in zip(jobs.requested_s, shares, strict=True))
    )


def node_kwh(ran: Replayed) -> np.ndarray:
    return np.bincount(ran.segments.node, ran.segments.energy_kwh(), minlength=len(NODES))


@settings(max_examples=60, deadline=None)
@given(queues(), st.booleans())
def test_energy_is_conserved(queue: tuple[Jobs, Fixed], planned: bool) -> None:
    """Nodes sum to the site; the record has no hole and no overlap; boards' energy is what the jobs drew."""
    jobs, work = queue
    ran = replay_queue(NODES, jobs, work, ours(jobs) if planned else Policy(), until_s=50_000.0)
    segments = ran.segments
    end_s = segments.to_s.max()
    assert node_kwh(ran).sum() == pytest.approx(segments.energy_kwh().sum(), rel=1e-12)
    for node in range(len(NODES)):
        mine = segments.node == node
        order = np.argsort(segments.from_s[mine])
        starts, ends = segments.from_s[mine][order], segments.to_s[mine][order]
        assert starts[0] == 0.0 and ends[-1] == end_s
        np.testing.assert_array_equal(starts[1:], ends[:-1])
    held_h = sum(
        len(nodes) * _gpus(jobs, job, int(ran.hardware_class[job])) * (ran.end_s[job] - ran.begin_s[job])
        for job, nodes in enumerate(ran.node_lists)
    )
    busy_h = (segments.busy_gpus * (segments.to_s - segments.from_s)).sum()
    assert busy_h == pytest.approx(held_h, rel=1e-9)
    on = segments.state == ON
    idle_boards = NODES.gpus[segments.node] - segments.busy_gpus
    expected = (
        NODES.base_w[segments.node]
        + segments.busy_gpus * (10.0 + 200.0)
        + idle_boards * NODES.gpu_idle_w[segments.node]
    )
    np.testing.assert_allclose(segments.power_w[on], expected[on], rtol=1e-9)


def _gpus(jobs: Jobs, job: int, kind: int) -> int:
    return min(int(jobs.gpus[job]), (4, 2)[kind])


@settings(max_examples=100, deadline=None)
@given(queues())
def test_easy_never_delays_the_head(queue: tuple[Jobs, Fixed]) -> None:
    """A job that headed the queue holds its nodes no later than the first time it was promised."""
    jobs, work = queue
    ran = replay_queue(NODES, jobs, work, Policy())
    for promise in ran.reservations:
        assert ran.held_s[promise.job] <= promise.shadow_s + 1e-6


@settings(max_examples=60, deadline=None)
@given(queues(), st.booleans())
def test_no_more_boards_than_there_are(queue: tuple[Jobs, Fixed], planned: bool) -> None:
    """At every instant the jobs on a node hold at most its boards, and run only while it is on."""
    jobs, work = queue
    ran = replay_queue(NODES, jobs, work, ours(jobs) if planned else Policy())
    for node in range(len(NODES)):
        mine = [job for job, nodes in enumerate(ran.node_lists) if node in nodes]
        for at in [ran.held_s[job] for job in mine]:
            held = sum(
                _gpus(jobs, job, int(ran.hardware_class[job]))
                for job in mine
                if ran.held_s[job] <= at < ran.end_s[job]
            )
            assert held <= NODES.gpus[node]
    assert (ran.segments.busy_gpus[ran.segments.state != ON] == 0).all()
    assert (ran.held_s >= jobs.release_s).all() and np.isfinite(ran.end_s).all()


@settings(max_examples=20, deadline=None)
@given(queues())
def test_the_same_queue_gives_the_same_result(queue: tuple[Jobs, Fixed]) -> None:
    jobs, work = queue
    first, second = (replay_queue(NODES, jobs, work, ours(jobs)) for _ in range(2))
    np.testing.assert_array_equal(first.end_s, second.end_s)
    np.testing.assert_array_equal(first.segments.power_w, second.segments.power_w)


def test_a_sleeping_node_wakes_first() -> None:
    """A job on a sleeping site begins one wake after it was given its node, which draws its waking power until then."""
    jobs = jobs_of([(1000.0, 4, 3600.0)], allowed=(True, False))
    ran = replay_queue(NODES, jobs, Fixed((600.0,)), Policy(), asleep=True)
    assert ran.held_s[0] == 1000.0 and ran.begin_s[0] == 1240.0 and ran.wakes == 1
    waking = ran.segments.state == 2
    assert ran.segments.energy_kwh()[waking].sum() == pytest.approx(180.0 * 240.0 / 3.6e6)


def test_an_idle_node_sleeps_after_its_time() -> None:
    jobs = jobs_of([(0.0, 1, 600.0)])
    ran = replay_queue(NODES, jobs, Fixed((600.0,)), Policy(power_down=IdleTimeout(1800.0)), until_s=10_000.0)
    asleep = ran.segments.state == SLEEP
    assert sorted(ran.segments.from_s[asleep]) == [1860.0, 1860.0, 1860.0, 2460.0]


def test_backfill_fills_and_does_not_delay() -> None:
    """Behind a wide head a short job runs at once, a long one waits: known by hand."""
    nodes = Nodes(*(getattr(NODES, name)[:2] for name in ("hardware_class", "gpus", "base_w", "busy_w")),
                  *(getattr(NODES, name)[:2] for name in ("gpu_idle_w", "sleep_w", "wake_w")), 240.0, 60.0)  # fmt: skip
    rows = [(0.0, 4, 1000.0), (1.0, 8, 1000.0), (2.0, 4, 900.0), (3.0, 4, 1100.0)]
    jobs = replace(jobs_of(rows), allowed=np.ones((4, 1), dtype=bool))
    ran = replay_queue(nodes, jobs, Fixed((1000.0, 1000.0, 900.0, 1100.0)), Policy())
    assert ran.held_s.tolist() == [0.0, 1000.0, 2.0, 2000.0]


@pytest.mark.parametrize(
    ("gpus", "allowed", "words"),
    [
        (16, (True, True), "can never start"),
        (1, (False, False), "can never start"),
        (0, (True, True), "gpus is 0"),
    ],
)
def test_an_impossible_job_is_named(gpus: int, allowed: tuple[bool, bool], words: str) -> None:
    jobs = jobs_of([(0.0, 1, 600.0)])
    jobs = replace(jobs, gpus=np.array([gpus]), allowed=np.array([allowed]))
    with pytest.raises(ReplayError, match=f"job 0.*{words}"):
        replay_queue(NODES, jobs, Fixed((1.0,)), Policy())


@dataclass(frozen=True)
class Witness(NoCaps):
    """Writes down when each job was told to have begun."""

    told: dict[int, float] = field(default_factory=dict)

    def began(self, jobs: Jobs, job: int, hardware_class: int, run: Run, now_s: float) -> None:
        self.told[job] = now_s


def test_logs_count_from_when_a_job_begins_not_from_when_it_is_given_nodes() -> None:
    """Nodes asleep: a job's clock starts when they have woken, and so do the instants of what it logs."""
    jobs, witness = jobs_of([(10.0, 2, 900.0), (5000.0, 1, 900.0)]), Witness()
    ran = replay_queue(NODES, jobs, Fixed((600.0, 600.0)), Policy(caps=witness), asleep=True)
    assert witness.told == {0: ran.begin_s[0], 1: ran.begin_s[1]}
    assert witness.told[0] == 10.0 + NODES.wake_s > ran.held_s[0]
