"""Energy and time per unit of work of each workload under each cap that it was logged under."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pandas as pd

Floats = npt.NDArray[np.float64]

COLUMNS: Final = (
    "hardware_class", "network_id", "workload_id", "power_limit_w", "time_per_work_s", "power_w"
)  # fmt: skip


@dataclass(frozen=True, slots=True, eq=False)
class CapCurve:
    """One workload on one hardware class; arrays of shape (k,), caps rising, the last one the class's default.

    `network_id` names what workloads share (the network, the program): two of one network are no independent
    evidence. Energy is that of the capped device alone.
    """

    hardware_class: str
    network_id: str
    workload_id: str
    power_limit_w: Floats
    time_per_work_s: Floats
    energy_per_work_j: Floats

    @property
    def default_limit_w(self) -> float:
        return float(self.power_limit_w[-1])

    @property
    def default_power_w(self) -> float:
        """Mean power under the default limit, W: what every uncapped run tells for free."""
        return float(self.energy_per_work_j[-1] / self.time_per_work_s[-1])

    @property
    def demand_ratio(self) -> float:
        """Mean power under the default limit over that limit."""
        return self.default_power_w / self.default_limit_w

    @property
    def cap_ratio(self) -> Floats:
        return self.power_limit_w / self.default_limit_w

    @property
    def slowdown_ratio(self) -> Floats:
        """Extra time per unit of work against the default limit; negative where it was faster."""
        slowdown: Floats = self.time_per_work_s / self.time_per_work_s[-1] - 1.0
        return slowdown

    @property
    def saving_ratio(self) -> Floats:
        """Energy per unit of work saved against the default limit."""
        saving: Floats = 1.0 - self.energy_per_work_j / self.energy_per_work_j[-1]
        return saving

    def at(self, power_limit_w: float) -> int:
        """Position of a logged cap; raises KeyError for one that was not logged."""
        found = np.flatnonzero(np.isclose(self.power_limit_w, power_limit_w))
        if not len(found):
            raise KeyError(
                f"{self.hardware_class} {self.workload_id}: nothing logged under {power_limit_w:g} W"
            )
        return int(found[0])


@dataclass(frozen=True, slots=True)
class Curves:
    """The curves, and what could not become one."""

    curves: tuple[CapCurve, ...]
    unusable_rows: int
    """Rows with a missing, infinite or not positive cap, time or power."""
    without_default: tuple[str, ...]
    """Workloads never logged under the highest limit of their class: there is nothing to compare them with."""

    def of(self, hardware_class: str) -> tuple[CapCurve, ...]:
        return tuple(c for c in self.curves if c.hardware_class == hardware_class)


def curves_of(runs: pd.DataFrame) -> Curves:
    """Curves of logged runs: a row is a run of `work` units (1 where there is no such column) under one cap.

    Columns: COLUMNS; `power_w` is the mean over the run, `time_per_work_s` its seconds per unit of work. Runs alike
    in workload and cap are joined by sums of energy, time and work. The default is the highest limit logged in the
    hardware class. Raises ValueError naming the columns that are missing.
    """
    missing = [name for name in COLUMNS if name not in runs.columns]
    if missing:
        raise ValueError(f"logged runs under caps: no column {', '.join(missing)}")
    numbers = runs[["power_limit_w", "time_per_work_s", "power_w"]].astype(np.float64)
    work = runs["work"].astype(np.float64) if "work" in runs.columns else pd.Series(1.0, runs.index)
    usable = (np.isfinite(numbers) & (numbers > 0)).all(axis=1) & np.isfinite(work) & (work > 0)
    kept = runs.loc[usable, ["hardware_class", "network_id", "workload_id", "power_limit_w"]].assign(
        work=work[usable],
        seconds=numbers["time_per_work_s"][usable] * work[usable],
        joules=numbers["time_per_work_s"][usable] * numbers["power_w"][usable] * work[usable],
    )
    keys = ["hardware_class", "network_id", "workload_id"]
    sums = kept.groupby([*keys, "power_limit_w"], sort=True).sum().reset_index()
    default_w = {str(c): float(w) for c, w in sums.groupby("hardware_class")["power_limit_w"].max().items()}
    found, without = [], []
    for (hardware, network, workload), rows in sums.groupby(keys, sort=True):
        caps_w = rows["power_limit_w"].to_numpy(np.float64)
        if caps_w[-1] != default_w[str(hardware)]:
            without.append(str(workload))
            continue
        per_work = rows[["seconds", "joules"]].to_numpy(np.float64) / rows[["work"]].to_numpy(np.float64)
        found.append(
            CapCurve(str(hardware), str(network), str(workload), caps_w, per_work[:, 0], per_work[:, 1])
        )
    return Curves(tuple(found), int((~usable).sum()), tuple(without))


def others(curves: Sequence[CapCurve], network_id: str) -> tuple[CapCurve, ...]:
    """The curves of every other network: the evidence for a workload that was never capped here."""
    return tuple(c for c in curves if c.network_id != network_id)
