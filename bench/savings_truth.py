"""What jobs of the simulated site really do under a cap, by real tables, and what their logs say of it."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np
import polars as pl

from bench.replay_cluster import Measured, Run, Setting, Trial
from lepton_etl.recommend.replay import Floats, Ints

_ROW: Final = ["dataset", "network", "batch_size", "optimizer"]
_WINDOW_S: Final = 600.0
_LOGGED_S: Final = 3600.0


@dataclass(frozen=True)
class Curves:
    """Real cap curves of the rows that all boards' tables have; time is relative to that at the highest cap.

    `caps_w[class]` the limits that the table knows; `time` and `power_w` [workload][class] at those it has, by cap.
    `relative[workload, class]`: time at the highest cap over that of the fastest class.
    """

    names: list[str]
    tasks: list[str]
    caps_w: list[Floats]
    limits: list[list[Floats]]
    time: list[list[Floats]]
    power_w: list[list[Floats]]
    relative: Floats

    def at(self, workload: int, kind: int, cap_w: float | None) -> tuple[float, float]:
        """Time over that without a cap, and mean power, W, at a cap; linear between the table's caps."""
        limits, time, power = (
            part[workload][kind] for part in (self.limits, self.time, self.power_w)
        )  # fmt: skip
        cap = float(limits[-1]) if cap_w is None else cap_w
        return float(np.interp(cap, limits, time)), float(np.interp(cap, limits, power))


def curves(data: Path, site: dict[str, Any]) -> Curves:
    """Read the power-limit tables of all board classes."""
    tables = [pl.read_csv(data / kind["gpu_table"]) for kind in site["nodes"]["classes"].values()]
    common = tables[0].select(_ROW).unique()
    for table in tables[1:]:
        common = common.join(table.select(_ROW).unique(), on=_ROW)
    common = common.sort(_ROW)
    limits: list[list[Floats]] = []
    time: list[list[Floats]] = []
    power: list[list[Floats]] = []
    top = np.empty((len(common), len(tables)))
    for number in range(len(common)):
        rows = [table.join(common[number], on=_ROW).sort("power_limit") for table in tables]
        limits.append([row["power_limit"].cast(pl.Float64).to_numpy() for row in rows])
        epoch = [row["time_per_epoch"].to_numpy() for row in rows]
        top[number] = [one[-1] for one in epoch]
        time.append([one / one[-1] for one in epoch])
        power.append([row["average_power"].to_numpy() for row in rows])
    return Curves(
        names=["/".join(map(str, row)) for row in common.rows()],
        tasks=["/".join(map(str, row[:2])) for row in common.rows()],
        caps_w=[np.sort(table["power_limit"].unique().cast(pl.Float64).to_numpy()) for table in tables],
        limits=limits,
        time=time,
        power_w=power,
        relative=top / top.min(axis=1, keepdims=True),
    )


@dataclass(frozen=True)
class Truth:
    """What a job really does: `work_s` on the fastest class, and the cap curves of its workload.

    Stretches under a cap are logged with the errors of the frozen file, which fall with the root of the ten-minute
    windows; so is the uncapped reference, whose errors (progress and power, in sigmas of one window) stay the same.
    """

    curves: Curves
    work_s: Floats
    workload: Ints
    meters: dict[str, float]
    gpu_gain: float
    seed: int
    free_windows: Floats = field(default_factory=lambda: np.zeros((0, 0)))
    free_error: Floats = field(default_factory=lambda: np.zeros((0, 0, 2)))

    def knowing(self, windows: Floats) -> Truth:
        """The same where earlier logs hold so many uncapped windows, (workloads, classes), as a reference."""
        rng = np.random.default_rng([self.seed, 6])
        return replace(self, free_windows=windows, free_error=rng.normal(0.0, 1.0, (*windows.shape, 2)))

    def run(self, job: int, hardware_class: int, setting: Setting) -> Run:
        """Duration and mean board power; every stretch under a cap is logged with the power and progress it had."""
        workload = int(self.workload[job])
        left = float(self.work_s[job] * self.curves.relative[workload, hardware_class])
        free = self.curves.at(workload, hardware_class, None)
        if setting is None:
            return Run(left * free[0], free[1])
        rng = np.random.default_rng([self.seed, job])
        measured: list[Measured] = []
        lasts = min(left, setting.window_s) if isinstance(setting, Trial) else 0.0
        logged = float(self.free_windows[workload, hardware_class]) if self.free_windows.size else 0.0
        # One reference for all stretches of a job: the earlier logs', or the uncapped start of this one.
        own = np.floor(lasts / _WINDOW_S)
        error = self.free_error[workload, hardware_class] if logged else rng.normal(0.0, 1.0, 2)
        error = error / np.sqrt(max(logged or own, 1.0))
        duration, joule, left = lasts, lasts * free[1], left - lasts
        cap_w: float | None = None
        while left > 1e-9:
            cap_w, longest_s = setting.step(measured) if isinstance(setting, Trial) else (setting, _LOGGED_S)
            time, power = self.curves.at(workload, hardware_class, cap_w)
            lasts = min(left * time, longest_s)
            duration, joule, left = duration + lasts, joule + lasts * power, left - lasts / time
            windows = float(np.floor(lasts / _WINDOW_S + 1e-9))
            if cap_w is not None and windows and (logged or own):
                measured.append(self._sensed(rng, cap_w, free, (time, power), windows, duration, error))
        return Run(duration, joule / duration, tuple(measured), cap_w)

    def _sensed(
        self, rng: np.random.Generator, cap_w: float, free: tuple[float, float], capped: tuple[float, float],
        windows: float, end_s: float, reference_error: Floats,
    ) -> Measured:  # fmt: skip
        noise = rng.normal(0.0, 1.0, 2) / np.sqrt(windows)
        speed = 1.0 + self.meters["progress_noise"] * np.array([reference_error[0], noise[0]])
        power = self.gpu_gain * (1.0 + self.meters["gpu_noise"] * np.array([reference_error[1], noise[1]]))
        ratio = capped[0] / free[0] * speed[0] / speed[1]
        return Measured(
            cap_w, float(free[1] * power[0]), float(capped[1] * power[1]), float(ratio), windows, end_s
        )
