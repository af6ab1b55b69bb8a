"""The decision model: probabilities of seven states from the evidence, carried from interval to interval.

A naive Bayes of stated likelihoods, so that every term can be read, tempered because terms of one interval are not
independent, in a filter of sticky states. A figure that is unknown contributes no term: probabilities stay nearer to
the prior. Sources: Rabiner, Proc. IEEE 77 (1989), forward recursion; Guo et al., ICML 2017, temperature scaling.
"""

from __future__ import annotations

from typing import Final

import numpy as np

from lepton_etl.fields.words import PERFORMANCE_STATES
from lepton_etl.states.evidence import EVIDENCE, Floats

STATES: Final = PERFORMANCE_STATES
PRIOR: Final = dict(zip(STATES, (0.80, 0.06, 0.04, 0.02, 0.03, 0.03, 0.02), strict=True))
# Centre and width of a figure in a state (student-t of 4 degrees: an outlier decides nothing alone); a state that says
# nothing about a figure shares the first, wide one. Under a cap a device runs at 97 to 100 % of it; boards slow down in
# the last kelvins before their limit; memory-bound kernels draw some 30 % less at full utilisation and clock.
LIKELIHOOD: Final[dict[str, dict[str, tuple[float, float]]]] = {
    "load": {"": (0.6, 0.4), "idle_but_drawing": (0.03, 0.03), "memory_bound": (0.9, 0.1), "power_capped": (0.9, 0.15),
             "thermally_throttled": (0.85, 0.2), "degraded": (0.8, 0.2)},
    "of_cap": {"": (0.70, 0.20), "power_capped": (0.985, 0.015), "memory_bound": (0.60, 0.12),
               "thermally_throttled": (0.75, 0.15), "degraded": (0.60, 0.15)},
    "clock": {"": (0.97, 0.03), "power_capped": (0.82, 0.14), "thermally_throttled": (0.75, 0.12),
              "memory_bound": (0.98, 0.03), "degraded": (0.72, 0.10), "failing_sensor": (0.97, 0.05)},
    "memory": {"": (0.45, 0.25), "memory_bound": (0.85, 0.10)},
    "heat_margin_k": {"": (25.0, 10.0), "thermally_throttled": (1.0, 2.0), "power_capped": (18.0, 8.0),
                      "idle_but_drawing": (40.0, 12.0)},
    "residual": {"": (0.0, 0.08), "power_capped": (-0.15, 0.25), "memory_bound": (-0.30, 0.12),
                 "thermally_throttled": (-0.30, 0.20), "idle_but_drawing": (0.60, 0.30), "degraded": (-0.35, 0.20),
                 "failing_sensor": (0.0, 0.60)},
    "frozen": {"": (0.5, 1.0), "failing_sensor": (7.0, 2.0)},
}  # fmt: skip
# Fitted on generated cases by log loss, see docs/states.md.
TEMPERATURE: Final = 0.15
STAY: Final = 0.95
NO_LIMIT: Final = -30.0
HOLD_MARGIN: Final = 0.2
_T_DEGREES: Final = 4.0


def log_terms(figures: dict[str, Floats]) -> dict[str, Floats]:
    """Log likelihood of each figure in each state, (states, devices, intervals); 0 where the figure is unknown."""
    found = {}
    for name in EVIDENCE:
        centres = LIKELIHOOD[name]
        value = figures[name]
        terms = np.zeros((len(STATES), *value.shape))
        for number, state in enumerate(STATES):
            centre, width = centres.get(state, centres[""])
            off = (value - centre) / width
            terms[number] = -(_T_DEGREES + 1) / 2 * np.log1p(off**2 / _T_DEGREES) - np.log(width)
        found[name] = np.where(np.isnan(value), 0.0, terms)
    # Nothing else than power at its limit tells a cap from other reasons to draw less: without a limit it is not said.
    capped = STATES.index("power_capped")
    found["of_cap"][capped][np.isnan(figures["of_cap"])] = NO_LIMIT
    return found


def probabilities(figures: dict[str, Floats], temperature: float = TEMPERATURE) -> Floats:
    """Probabilities (states, devices, intervals), in order of time; they sum to 1."""
    terms = log_terms(figures)
    total = temperature * np.sum(list(terms.values()), axis=0)
    prior = np.array([PRIOR[state] for state in STATES])[:, None]
    found = np.empty_like(total)
    before = np.broadcast_to(prior, total.shape[:2])
    for at in range(total.shape[2]):
        # What was believed, with a chance to have changed: the wait before a state flips.
        carried = STAY * before + (1 - STAY) * prior
        joint = np.log(carried) + total[:, :, at]
        joint = np.exp(joint - joint.max(axis=0))
        before = joint / joint.sum(axis=0)
        found[:, :, at] = before
    return np.asarray(found)


def held(chances: Floats) -> np.ndarray[tuple[int, int], np.dtype[np.int64]]:
    """Index of the state (devices, intervals): the likeliest; the last one stays if it trails by < HOLD_MARGIN."""
    best = chances.argmax(axis=0)
    states = np.empty(best.shape, dtype=np.int64)
    rows = np.arange(best.shape[0])
    for at in range(best.shape[1]):
        new = best[:, at]
        if at:
            last = states[:, at - 1]
            lead = chances[new, rows, at] - chances[last, rows, at]
            new = np.where(lead < HOLD_MARGIN, last, new)
        states[:, at] = new
    return states
