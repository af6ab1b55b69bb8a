"""What the logs say of each cap afterwards: energy-delay products, and the best cap with hindsight."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from lepton_etl.optimize.caps.curves import CapCurve


@dataclass(frozen=True, slots=True)
class CapFigures:
    """One cap of one workload, per unit of work; ratios against the default limit."""

    power_limit_w: float
    time_per_work_s: float
    energy_per_work_j: float
    edp_js: float
    ed2p_js2: float
    slowdown_ratio: float
    saving_ratio: float


def cap_figures(curve: CapCurve) -> tuple[CapFigures, ...]:
    """Each logged cap with EDP = E x T and ED2P = E x T squared.

    Source: Gonzalez and Horowitz, IEEE JSSC 31 (1996) 1277 (EDP); Martin, Nystroem and Penzes (2002) (ED2P).
    """
    rows = zip(
        curve.power_limit_w, curve.time_per_work_s, curve.energy_per_work_j, curve.slowdown_ratio,
        curve.saving_ratio, strict=True,
    )  # fmt: skip
    return tuple(
        CapFigures(float(w), float(t), float(e), float(e * t), float(e * t * t), float(s), float(v))
        for w, t, e, s, v in rows
    )


def oracle_cap_w(curve: CapCurve, slowdown_max_ratio: float) -> float:
    """The logged cap of least energy among those slowed down by at most `slowdown_max_ratio`; else the default."""
    allowed = curve.slowdown_ratio <= slowdown_max_ratio
    return float(curve.power_limit_w[np.argmin(np.where(allowed, curve.energy_per_work_j, np.inf))])


def oracle_saving_ratio(curves: Sequence[CapCurve], slowdown_max_ratio: float) -> float:
    """Mean over the workloads of what the oracle's cap saves of each one's energy; NaN for no curves."""
    if not curves:
        return float("nan")
    savings = [c.saving_ratio[c.at(oracle_cap_w(c, slowdown_max_ratio))] for c in curves]
    return float(np.mean(savings))
