"""Logged power, clock and limits of GPUs at work -> caps to set, by job class and hardware class."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

import numpy as np
import pandas as pd

from lepton_etl.days import Days
from lepton_etl.optimize.advice import Advice, Promise, Subject
from lepton_etl.optimize.caps.blind import blind_choice
from lepton_etl.optimize.caps.choice import CapSettings, Range
from lepton_etl.optimize.caps.curves import CapCurve, curves_of
from lepton_etl.optimize.caps.oracle import CapFigures, cap_figures
from lepton_etl.optimize.settings import OptimizeSettings

# What `cap_advice` takes: GPU time at work of one job class under one limit. `work_rate` is clock x utilisation, Hz,
# the only measure of work that every GPU's logs hold; `newest_kwh` is the energy of the newest day.
COLUMNS: Final = (
    "site_id", "hardware_class", "user_name", "job_class", "power_limit_w", "power_w", "work_rate", "hours",
    "newest_kwh",
)  # fmt: skip
# Less time at work than this under a limit says nothing about it.
LEAST_H: Final = 2.0


def cap_advice(
    rows: pd.DataFrame, day: date, settings: OptimizeSettings
) -> tuple[list[Advice], tuple[str, ...]]:
    """Caps for job classes of the day after `day`, from COLUMNS; and why there are none for a hardware class."""
    asked = CapSettings(slowdown_max_ratio=settings.slowdown_max_ratio)
    known = rows[(rows["hours"] >= LEAST_H) & (rows["work_rate"] > 0)]
    found: list[Advice] = []
    notes: dict[str, None] = {}
    for (site_id, hardware_class), own in known.groupby(["site_id", "hardware_class"], sort=True):
        limits = sorted(own["power_limit_w"].unique())
        if len(limits) < 2:
            told = f"{limits[0]:.0f} W" if limits else "no limit"
            notes[f"no cap for {hardware_class}: logged under {told} alone; cap some runs to learn from"] = (
                None
            )
            continue
        curves = curves_of(_runs(own)).curves
        for (user, job_class), jobs in own.groupby(["user_name", "job_class"], sort=True):
            newest = float(jobs["newest_kwh"].sum())
            at_default = jobs[np.isclose(jobs["power_limit_w"], limits[-1])]
            if newest <= 0 or at_default.empty:
                continue
            power_w = float(np.average(at_default["power_w"], weights=at_default["hours"]))
            choice = blind_choice(
                curves, str(user), str(hardware_class), float(limits[-1]), power_w, asked, limits
            )
            if choice.power_limit_w is None or choice.saving_ratio is None or choice.slowdown_ratio is None:
                notes[f"no cap for {hardware_class}: {choice.reason}"] = None
                continue
            saving, slowdown = _promise(choice.saving_ratio), _promise(choice.slowdown_ratio)
            if saving is None or slowdown is None:
                notes[f"no cap for {hardware_class}: too little evidence for an interval"] = None
                continue
            start = Days.of(day).until_time
            found.append(
                Advice(
                    Subject(str(site_id), job_class=f"{job_class} on {hardware_class}"), "power_cap",
                    "set_power_limit",
                    f"cap {job_class} at {choice.power_limit_w:.0f} W on {hardware_class} (now "
                    f"{choice.default_limit_w:.0f} W): {saving.expected:.1%} less energy a unit of work, "
                    f"{slowdown.expected:.1%} slower",
                    start, start + timedelta(days=1), newest, saving.times(newest),
                    "other users' runs under caps on this hardware; clock x utilisation stands for work",
                    slowdown_ratio=slowdown,
                    guard_rail=f"slowdown at most {settings.slowdown_max_ratio:.0%}, else back to "
                    f"{choice.default_limit_w:.0f} W",
                    parameters={
                        "power_limit_w": choice.power_limit_w, "default_limit_w": choice.default_limit_w,
                        "hardware_class": str(hardware_class), **_products(curves, str(job_class)),
                    },
                )
            )  # fmt: skip
    return found, tuple(notes)


def _runs(own: pd.DataFrame) -> pd.DataFrame:
    """Rows as the curves take them: a unit of work is 1e9 clock cycles at full utilisation."""
    return pd.DataFrame(
        {
            "hardware_class": own["hardware_class"], "network_id": own["user_name"], "workload_id": own["job_class"],
            "power_limit_w": own["power_limit_w"], "time_per_work_s": 1e9 / own["work_rate"],
            "power_w": own["power_w"], "work": own["hours"] * 3600 * own["work_rate"] / 1e9,
        }
    )  # fmt: skip


def _products(curves: tuple[CapCurve, ...], job_class: str) -> dict[str, object]:
    """EDP and ED2P under the caps that this job class itself ran under, over those at the default limit."""
    for curve in curves:
        if curve.workload_id == job_class:
            figures = cap_figures(curve)
            last = figures[-1]
            return {
                "edp_ratio": {_cap(one): round(one.edp_js / last.edp_js, 4) for one in figures},
                "ed2p_ratio": {_cap(one): round(one.ed2p_js2 / last.ed2p_js2, 4) for one in figures},
            }
    return {}


def _cap(one: CapFigures) -> str:
    return f"{one.power_limit_w:.0f}"


def _promise(found: Range) -> Promise | None:
    if found.lower is None or found.upper is None:
        return None
    return Promise(found.expected, found.lower, found.upper)
