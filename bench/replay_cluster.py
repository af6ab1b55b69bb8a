"""The cluster of a replay: its nodes, its jobs, and what a job does when it runs.

Bench only. The product's replay (`lepton_etl/recommend/replay.py`) moves starts and knows no nodes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from lepton_etl.recommend.replay import Floats, Ints, ReplayError

Flags = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Nodes:
    """The nodes in inventory order, one value each; powers at the IT input, W.

    A node draws `base_w` + `busy_w` per running board + the boards' own power when on, `sleep_w` asleep, `wake_w` for
    `wake_s` while it wakes, and its idle power for `shut_down_s` on its way to sleep.
    """

    hardware_class: Ints
    gpus: Ints
    base_w: Floats
    busy_w: Floats
    gpu_idle_w: Floats
    sleep_w: Floats
    wake_w: Floats
    wake_s: float
    shut_down_s: float

    def __len__(self) -> int:
        return len(self.gpus)

    @property
    def classes(self) -> int:
        """How many hardware classes there are."""
        return int(self.hardware_class.max()) + 1

    @property
    def idle_w(self) -> Floats:
        """Power of a node that is on and runs nothing, W."""
        return np.asarray(self.base_w + self.gpus * self.gpu_idle_w, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Jobs:
    """Jobs by submission; `allowed` is (jobs, classes), seconds count from the start of the replay.

    `requested_s` is the wall time a user asked for, `deadline_s` infinite where there is none, `workload` the class of
    the job as its owner names it. `release_s` is when a job may start at the earliest: its submission unless held.
    """

    submit_s: Floats
    gpus: Ints
    allowed: Flags
    requested_s: Floats
    deadline_s: Floats
    workload: Ints
    release_s: Floats

    def __len__(self) -> int:
        return len(self.submit_s)


@dataclass(frozen=True, slots=True)
class Measured:
    """What the logs of a stretch say: its cap, board power without and with it, W, time with it over without.

    It was `windows` of ten minutes long and was logged `end_s` seconds after its job began.
    """

    cap_w: float
    free_w: float
    capped_w: float
    time_ratio: float
    windows: float = 1.0
    end_s: float = 0.0


@dataclass(frozen=True, slots=True)
class Trial:
    """A run that starts with `window_s` without a cap (may be 0) and then asks `step` what comes, until it is done.

    `step` gets the windows measured so far in this job and gives a cap in W (None: no cap) and how long to keep it, s;
    an infinite time keeps it to the end.
    """

    window_s: float
    step: Callable[[Sequence[Measured]], tuple[float | None, float]]


Setting = float | Trial | None


@dataclass(frozen=True, slots=True)
class Run:
    """How long a job runs in one setting, s, the mean power of each of its boards, W, and the windows it measured.

    `final_w` is the cap that the job ended with.
    """

    duration_s: float
    gpu_w: float
    measured: tuple[Measured, ...] = ()
    final_w: float | None = None


class Workloads(Protocol):
    """What really happens when a job runs; a policy never sees it but through what a run has logged."""

    def run(self, job: int, hardware_class: int, setting: Setting) -> Run:
        """The run of a job on boards of a class, with a power cap in W, a trial, or none."""


def checked(nodes: Nodes, jobs: Jobs) -> None:
    """Raise ReplayError naming the job that can never start, or the field that contradicts."""
    if not len(nodes):
        raise ReplayError("the site has no nodes: nothing can run")
    if np.any(np.diff(jobs.submit_s) < 0):
        late = int(np.argmax(np.diff(jobs.submit_s) < 0)) + 1
        raise ReplayError(f"job {late} was submitted before the one ahead of it: sort jobs by submission")
    if np.any(jobs.release_s < jobs.submit_s):
        raise ReplayError(
            f"job {int(np.argmax(jobs.release_s < jobs.submit_s))} is released before it is submitted"
        )
    for column, bad in (
        ("gpus", jobs.gpus < 1),
        ("requested_s", ~(np.isfinite(jobs.requested_s) & (jobs.requested_s > 0))),
    ):
        if bad.any():
            raise ReplayError(
                f"job {int(np.argmax(bad))}: {column} is {getattr(jobs, column)[np.argmax(bad)]}"
            )
    room = np.array([nodes.gpus[nodes.hardware_class == one].sum() for one in range(nodes.classes)])
    fits = (jobs.allowed & (room[None, :] >= _rounded(nodes, jobs))).any(axis=1)
    if not fits.all():
        job = int(np.argmax(~fits))
        raise ReplayError(
            f"job {job} asks for {int(jobs.gpus[job])} GPUs of classes {np.flatnonzero(jobs.allowed[job]).tolist()}; "
            f"these have {room[jobs.allowed[job]].tolist()}: it can never start"
        )


def _rounded(nodes: Nodes, jobs: Jobs) -> Ints:
    """GPUs of the whole nodes that a job takes, (jobs, classes); a job below a node's size keeps its own."""
    size = np.array([nodes.gpus[nodes.hardware_class == one].max() for one in range(nodes.classes)])
    gpus = jobs.gpus[:, None]
    return np.asarray(np.where(gpus <= size, gpus, -(-gpus // size) * size), dtype=np.int64)
