"""What a replayed queue has to tell: jobs as they ran, promises to the head of the queue, what the nodes drew."""

from __future__ import annotations

from dataclasses import dataclass

from lepton_etl.optimize.replay.cluster import Floats, Ints, Setting
from lepton_etl.optimize.replay.state import Segments


@dataclass(frozen=True, slots=True)
class Reservation:
    """What the head of the queue was promised at `now_s`: to hold its nodes by `shadow_s` at the latest."""

    now_s: float
    job: int
    shadow_s: float


@dataclass(frozen=True, slots=True)
class Replayed:
    """Jobs as they ran, s: nodes given (`held_s`), running, done; their board power, W; and what the nodes drew.

    `final_w` is the cap a job
    ended with, None: none. `overrun` counts jobs that ran beyond the wall time granted: they are let run on.
    """

    held_s: Floats
    begin_s: Floats
    end_s: Floats
    hardware_class: Ints
    limit_s: Floats
    gpu_w: Floats
    overrun: int
    wakes: int
    settings: tuple[Setting, ...]
    final_w: tuple[float | None, ...]
    node_lists: tuple[tuple[int, ...], ...]
    reservations: tuple[Reservation, ...]
    segments: Segments
