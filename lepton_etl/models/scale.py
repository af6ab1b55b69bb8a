"""Idle to rated: the scale on which devices of different classes look alike.

A pooled model learns x = (P - P_idle) / (P_rated - P_idle) and predicts for a class that it has never seen from
its inventory row: P = P_idle + x (P_rated - P_idle); without a known idle power the scale starts at 0.
Source: Fan, Weber, Barroso, ISCA 2007 (power between idle and peak as a function of utilisation alone).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
import pandas as pd

from lepton_etl.errors import ModelError
from lepton_etl.models.features import TARGET
from lepton_etl.models.metrics import Values

# Of a class without a nameplate: nearly the highest hour that it has shown; a single spike is no scale.
_SHOWN_QUANTILE: Final = 0.995
_WATT_PER_KILOWATT: Final = 1000.0


@dataclass(frozen=True, slots=True)
class Scale:
    """Energy of one hour at idle and at rated power, kWh, and whence: `inventory` or `history`."""

    idle_kwh: float
    rated_kwh: float
    basis: str

    def __post_init__(self) -> None:
        if not 0 <= self.idle_kwh < self.rated_kwh:
            raise ModelError(
                f"idle {self.idle_kwh} kWh and rated {self.rated_kwh} kWh give no scale",
                where="inventory",
                remedy="state 0 <= idle power < rated power of the class",
            )

    def normalised(self, energy_kwh: Values) -> Values:
        """(P - idle) / (rated - idle), dimensionless; below 0 under idle, above 1 over the nameplate."""
        return (energy_kwh - self.idle_kwh) / (self.rated_kwh - self.idle_kwh)

    def energy_kwh(self, normalised: Values) -> Values:
        return self.idle_kwh + normalised * (self.rated_kwh - self.idle_kwh)


def scale_of(rated_power_w: float | None, idle_power_w: float | None, history: pd.DataFrame) -> Scale:
    """The scale of one class: the inventory's where it knows, else what the class's `history` has shown.

    `history` are device-hours **before** the hours to predict. Without an idle power the scale starts at 0: the
    model then learns idle as a share of rated. Raises ModelError where there is neither nameplate nor history.
    """
    idle_kwh = (idle_power_w or 0.0) / _WATT_PER_KILOWATT
    if rated_power_w is not None and np.isfinite(rated_power_w):
        return Scale(idle_kwh, rated_power_w / _WATT_PER_KILOWATT, "inventory")
    shown = history[TARGET].dropna()
    if shown.empty:
        raise ModelError(
            "a class without rated power and without history cannot be scaled",
            where="inventory",
            remedy="add rated_power_w (nodes) or gpu_rated_power_w (boards) of the class to the inventory",
        )
    return Scale(idle_kwh, float(shown.quantile(_SHOWN_QUANTILE)), "history")


def idle_and_span(hours: pd.DataFrame) -> tuple[Values, Values]:
    """Idle energy of an hour and rated minus idle, kWh, (n,) each, from `rated_power_w` and `idle_power_w` of the rows.

    An unknown idle is 0: the model then learns idle as a share of rated. The span is NaN where rated is unknown or
    not above idle.
    """
    idle_kwh = hours["idle_power_w"].fillna(0.0).to_numpy(dtype=np.float64) / _WATT_PER_KILOWATT
    span_kwh = hours["rated_power_w"].to_numpy(dtype=np.float64) / _WATT_PER_KILOWATT - idle_kwh
    return idle_kwh, np.where(span_kwh > 0, span_kwh, np.nan)


def can_be_normalised(hours: pd.DataFrame) -> bool:
    """Whether the inventory gives every one of these hours a scale; one class without a nameplate spoils a pool."""
    return len(hours) > 0 and bool(np.isfinite(idle_and_span(hours)[1]).all())
