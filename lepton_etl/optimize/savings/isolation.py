"""A cap's saving on the capped devices themselves: energy per unit of work before and after.

IPMVP option B, retrofit isolation with all parameters measured: the boundary is the device, so neither weather nor
the rest of the site has a say.
"""

from __future__ import annotations

import numpy as np

from lepton_etl.optimize.savings.bootstrap import block_days, blocks, small_sample_factor
from lepton_etl.optimize.savings.grade import Grade, SavingSettings, judged
from lepton_etl.optimize.savings.guideline14 import Floats, fractional_uncertainty


def grade_isolated(
    before_kwh: Floats,
    before_work: Floats,
    after_kwh: Floats,
    after_work: Floats,
    settings: SavingSettings | None = None,
) -> Grade:
    """Days of the capped devices in order of time, (n,) and (m,); work in one unit, days without work left out.

    Saving = (energy per work before - after) x work after. Its interval is a circular block bootstrap of both
    periods' days; the Guideline 14 figure is left None: there is no regression that it could be of. The fractional
    uncertainty is the interval's half-width over the saving.
    """
    settings = settings or SavingSettings()
    for energy, work in ((before_kwh, before_work), (after_kwh, after_work)):
        if len(energy) != len(work) or not (np.isfinite(energy).all() and np.isfinite(work).all()):
            raise ValueError("savings: days need finite energy and work of one length")
        if (work <= 0).any() or (energy < 0).any():
            raise ValueError("savings: a day without work has no energy per work; energy is not negative")
    counts = (len(before_kwh), len(after_kwh), float(after_kwh.sum()))
    if len(before_kwh) < settings.reported_min_days or len(after_kwh) < settings.reported_min_days:
        return Grade(
            "insufficient baseline", f"{len(before_kwh)} days before, {len(after_kwh)} days after", *counts
        )
    expected = float(before_kwh.sum() / before_work.sum() * after_work.sum())
    saving = expected - float(after_kwh.sum())
    random = np.random.default_rng(settings.seed)
    before, before_factor = _ratios(before_kwh, before_work, settings.confidence, random)
    after, after_factor = _ratios(after_kwh, after_work, settings.confidence, random)
    missed = (before - after) * float(after_work.sum()) - saving
    tails = np.quantile(missed, [0.5 - settings.confidence / 2, 0.5 + settings.confidence / 2])
    low, high = tails * max(before_factor, after_factor)
    lower, upper = float(saving - high), float(saving - low)
    uncertainty = fractional_uncertainty((upper - lower) / 2, abs(saving))
    verdict, reason = judged(lower, upper, uncertainty, settings)
    return Grade(
        verdict, reason, *counts, expected, saving, saving / expected if expected > 0 else None, lower, upper,
        block_days(before_kwh / before_work, 1), uncertainty if np.isfinite(uncertainty) else None,
        model="energy per unit of work of the capped devices",
    )  # fmt: skip


def _ratios(
    energy_kwh: Floats, work: Floats, confidence: float, random: np.random.Generator
) -> tuple[Floats, float]:
    """Replicates of energy per work from whole blocks of days, (replicates,), and the factor for few blocks."""
    block = block_days(energy_kwh / work, 1)
    drawn = blocks(np.arange(len(work), dtype=np.float64), len(work), block, random).astype(np.int64)
    ratios: Floats = energy_kwh[drawn].sum(axis=1) / work[drawn].sum(axis=1)
    return ratios, small_sample_factor(len(work), block, confidence)
