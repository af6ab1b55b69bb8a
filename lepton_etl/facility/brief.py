"""The facility equation as the brief states it, for arithmetic: E = E_h + E_c + E_m = k2 Q + k1 Q + E_m.

It is linear in the heat Q, so its minimum lies at Q = 0 and a total alone cannot tell k1 from k2: nothing is fitted
to or optimised on it (docs/definitions.md section 7). The model is fit.py, the operating point operating.py.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class LinearFacility:
    """k1 = E_c / Q, k2 = E_h / Q, and the constant management load of an hour, kWh."""

    k1_ratio: float
    k2_ratio: float
    management_kwh: float

    def energy_kwh(self, q_kwh: float) -> float:
        """Facility energy of an hour in which Q kWh of heat are removed. Source: docs/formulas.md section 1."""
        return self.k2_ratio * q_kwh + self.k1_ratio * q_kwh + self.management_kwh
