"""Air at the IT's inlets: the ASHRAE envelope with its humidity, and what IT power does as the air warms."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import psychrolib

from lepton_etl.facility.hours import Bools, Floats

# Rate of change of inlet air, K per hour. Source: ASHRAE TC 9.9, 5th edition (2021).
RAMP_LIMITS_K_PER_H: Final = {"tape": 5.0, "other": 20.0}


@dataclass(frozen=True, slots=True)
class Envelope:
    """Bounds of inlet air: dry bulb and dew point, degC, relative humidity as a ratio."""

    dry_bulb_c: tuple[float, float]
    dew_point_c: tuple[float, float]
    humidity_ratio: tuple[float, float]

    def holds(self, inlet_c: Floats, dew_point_c: float) -> Bools:
        """Whether air of this dew point is inside by dry bulb and relative humidity; NaN dew point: by dry bulb.

        The dew point's own bounds are not looked at: no supply temperature mends them (`dew_point_reason`).
        """
        low_c, high_c = self.dry_bulb_c
        inside = (inlet_c >= low_c - 1e-9) & (inlet_c <= high_c + 1e-9)
        if np.isfinite(dew_point_c):
            humid = relative_humidity(inlet_c, dew_point_c)
            inside &= (humid >= self.humidity_ratio[0]) & (humid <= self.humidity_ratio[1])
        return np.asarray(inside)

    def dew_point_reason(self, dew_point_c: Floats) -> str | None:
        """Hours, by row, in which the room's dew point itself is out of bounds; None: in none."""
        low_c, high_c = self.dew_point_c
        out = np.flatnonzero((dew_point_c < low_c) | (dew_point_c > high_c))
        if not len(out):
            return None
        worst = float(dew_point_c[out[np.argmax(np.abs(dew_point_c[out] - (low_c + high_c) / 2))]])
        return f"dew point {worst:.1f} degC outside {low_c:g} to {high_c:g} in {len(out)} h: humidity, not supply"


# Source: ASHRAE TC 9.9, Thermal Guidelines for Data Processing Environments, 5th edition (2021).
ENVELOPES: Final = {
    "recommended": Envelope((18.0, 27.0), (-9.0, 15.0), (0.0, 0.70)),
    "A1": Envelope((15.0, 32.0), (-12.0, 17.0), (0.08, 0.80)),
    "A2": Envelope((10.0, 35.0), (-12.0, 21.0), (0.08, 0.80)),
    "A3": Envelope((5.0, 40.0), (-12.0, 24.0), (0.08, 0.85)),
    "A4": Envelope((5.0, 45.0), (-12.0, 24.0), (0.08, 0.90)),
}


def relative_humidity(dry_bulb_c: Floats, dew_point_c: float) -> Floats:
    """Relative humidity, a ratio, at dry bulbs of any shape. Source: ASHRAE Handbook Fundamentals (2017), chapter 1."""
    psychrolib.SetUnitSystem(psychrolib.SI)
    # Air below its dew point is saturated; the library refuses it.
    flat = [
        psychrolib.GetRelHumFromTDewPoint(max(float(t), dew_point_c), dew_point_c) for t in dry_bulb_c.ravel()
    ]
    return np.asarray(flat, dtype=np.float64).reshape(dry_bulb_c.shape)


@dataclass(frozen=True, slots=True)
class InletResponse:
    """IT power by inlet temperature: server fans speed up above a knee, by the cube; leakage rises all along.

    `fan_ratio` is the fans' share of IT power at or below `fan_knee_c`; their speed rises by `fan_speed_per_k` of its
    value there for each kelvin above it, up to `fan_speed_max_ratio`. `leakage_per_k` is the share by which the rest
    rises per kelvin. Source: affinity law; ASHRAE TC 9.9 (2021) on server fans and leakage against inlet temperature.
    """

    fan_ratio: float
    fan_knee_c: float
    fan_speed_per_k: float
    fan_speed_max_ratio: float
    leakage_per_k: float

    def ratio(self, inlet_c: Floats) -> Floats:
        """IT power over that at the fans' knee, any shape."""
        speed = np.minimum(
            1 + self.fan_speed_per_k * np.maximum(inlet_c - self.fan_knee_c, 0.0), self.fan_speed_max_ratio
        )
        leakage = np.maximum(1 + self.leakage_per_k * (inlet_c - self.fan_knee_c), 0.0)
        return np.asarray(self.fan_ratio * speed**3 + (1 - self.fan_ratio) * leakage)
