"""Labelled devices from physics that the decision model does not share: P = idle + span x activity x clock^2.4."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import numpy as np
import polars as pl
from numpy.typing import NDArray

from lepton_etl.schema.common import PERFORMANCE_STATES

START = datetime(2025, 6, 2, tzinfo=UTC)
PER_DAY = 288


@dataclass(frozen=True)
class Board:
    """One make of board; powers W, clock Hz, thermal resistance K/W."""

    idle_w: float
    rated_w: float
    clock_hz: float
    k_per_w: float
    inlet_c: float
    clock_power: float


def draw_board(rng: np.random.Generator) -> Board:
    rated = rng.uniform(250, 700)
    return Board(
        rated * rng.uniform(0.08, 0.2), rated, rng.uniform(1.2e9, 2.0e9), rng.uniform(30, 45) / rated,
        rng.uniform(18, 27), rng.uniform(2.0, 2.8),
    )  # fmt: skip


def device_days(seed: int, state: str, days: int = 3) -> tuple[pl.DataFrame, pl.DataFrame, NDArray[np.bool_]]:
    """A day in `state` from noon on, the days before as history, and where the label holds (of the last day)."""
    rng = np.random.default_rng([seed, PERFORMANCE_STATES.index(state)])
    board = draw_board(rng)
    length = days * PER_DAY
    task = np.repeat(rng.uniform(0.0, 1.0, length // 12 + 1), 12)[:length]
    load = np.clip(np.where(task < 0.25, 0.0, 0.45 + 0.55 * task) + rng.normal(0, 0.03, length), 0, 1)
    memory = np.clip(np.where(load > 0.1, rng.uniform(0.2, 0.6), 0.02) + rng.normal(0, 0.03, length), 0, 1)
    clock = np.where(load > 0.1, rng.normal(0.985, 0.008, length), 0.25)
    memory_factor, extra_w, cap = np.ones(length), np.zeros(length), board.rated_w * np.ones(length)
    at = np.arange(length) >= length - PER_DAY // 2
    temp_shift = np.zeros(length)
    if state == "memory_bound":
        load = np.where(at, rng.uniform(0.85, 1.0, length), load)
        memory, memory_factor = (
            np.where(at, rng.uniform(0.75, 0.97), memory),
            np.where(at, rng.uniform(0.6, 0.75), 1.0),
        )
        clock = np.where(at, rng.normal(0.985, 0.008, length), clock)
    if state in ("power_capped", "thermally_throttled", "degraded"):
        load = np.where(at, rng.uniform(0.8, 1.0, length), load)
        clock = np.where(at, 0.985, clock)
    if state == "idle_but_drawing":
        load = np.where(at, rng.uniform(0, 0.03, length), load)
        memory, clock = np.where(at, 0.02, memory), np.where(at, 0.9, clock)
        extra_w = at * board.rated_w * rng.uniform(0.08, 0.25)
    if state == "degraded":
        clock = np.where(at, rng.uniform(0.6, 0.8), clock)
    if state == "thermally_throttled":
        clock = np.where(at, rng.uniform(0.65, 0.9), clock)

    def power_at(clocks: NDArray[np.float64]) -> NDArray[np.float64]:
        activity = (2 * load - load**1.4) * np.where(load > 0.1, clocks, 1.0) ** board.clock_power
        return np.asarray(
            board.idle_w + 0.93 * (board.rated_w - board.idle_w) * activity * memory_factor + extra_w
        )

    power = power_at(clock)
    if state == "power_capped":
        cap = np.where(at, board.rated_w * rng.uniform(0.6, 0.8), cap)
        over = at & (power > cap)
        clock = np.where(over, clock * (cap / power) ** (1 / board.clock_power), clock)
        power = np.where(over, cap * rng.normal(0.988, 0.006, length), power)
        at &= over
    temp = board.inlet_c + 10 + board.k_per_w * power + temp_shift
    if state == "thermally_throttled":
        temp = np.where(at, 88 - rng.uniform(0, 2.5, length), temp)
    power = power * rng.normal(1, 0.012, length)
    if state == "failing_sensor":
        power = np.where(at, power[length - PER_DAY // 2 - 1], power)
    # A sensor that stands still while nothing happens shows nothing.
    frame = pl.DataFrame(
        {
            "site_id": "s", "cluster_id": "c", "node_id": f"{state}-{seed}", "device_id": "gpu0",
            "interval_start": [START + timedelta(minutes=5 * i) for i in range(length)],
            "date": [(START + timedelta(minutes=5 * i)).date() for i in range(length)],
            "power_mean_w": power, "power_limit_w": cap, "gpu_utilisation_ratio": load,
            "cpu_utilisation_ratio": [None] * length, "memory_utilisation_ratio": memory,
            "clock_hz": clock * board.clock_hz, "device_temp_c": temp,
        },
        schema_overrides={"cpu_utilisation_ratio": pl.Float64},
    )  # fmt: skip
    return frame[:-PER_DAY], frame[-PER_DAY:], at[-PER_DAY:]
