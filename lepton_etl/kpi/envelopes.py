"""ASHRAE thermal envelopes of IT inlet air, and how hours of nodes lie in them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

EDITION: Final = "ASHRAE TC 9.9, Thermal Guidelines, 5th edition 2021"


@dataclass(frozen=True, slots=True)
class Envelope:
    """Dry bulb bounds at the inlet, degC, and upper bounds of dew point (degC) and relative humidity (0..1)."""

    name: str
    low_c: float
    high_c: float
    dew_point_max_c: float
    humidity_max_ratio: float


# Source: ASHRAE TC 9.9, 5th edition 2021, reference card; recommended humidity where corrosive gases are low.
RECOMMENDED: Final = Envelope("recommended", 18.0, 27.0, 15.0, 0.70)
ALLOWABLE: Final = {
    "A1": Envelope("A1", 15.0, 32.0, 17.0, 0.80),
    "A2": Envelope("A2", 10.0, 35.0, 21.0, 0.80),
    "A3": Envelope("A3", 5.0, 40.0, 24.0, 0.85),
    "A4": Envelope("A4", 5.0, 45.0, 24.0, 0.90),
}


@dataclass(frozen=True, slots=True)
class InletHours:
    """Hours of nodes by inlet temperature: known, inside each envelope, degree-hours over and under recommended."""

    known_h: float
    inside_h: dict[str, float]
    over_k_h: float
    under_k_h: float


def inlet_hours(inlet_c: NDArray[np.float64], hours: NDArray[np.float64]) -> InletHours:
    """Sort node-hours into the envelopes by dry bulb alone; shapes (n,), degC and h; NaN is unknown.

    Humidity is not measured at the inlets, so the shares are an upper bound of being inside.
    """
    known = np.isfinite(inlet_c)
    temperature, weight = inlet_c[known], hours[known]
    inside = {
        one.name: float(weight[(temperature >= one.low_c) & (temperature <= one.high_c)].sum())
        for one in (RECOMMENDED, *ALLOWABLE.values())
    }
    over = np.maximum(temperature - RECOMMENDED.high_c, 0.0)
    under = np.maximum(RECOMMENDED.low_c - temperature, 0.0)
    return InletHours(
        float(weight.sum()), inside, float((over * weight).sum()), float((under * weight).sum())
    )


def rack_cooling_index(degree_hours: float, span_k_hours: float) -> float:
    """RCI = 1 - sum of temperature beyond recommended / (n x (allowable - recommended)); 1 is no excess.

    Source: Herrlin, Rack Cooling Effectiveness in Data Centers, ASHRAE Transactions 111(2), 2005.
    """
    return 1.0 - degree_hours / span_k_hours
