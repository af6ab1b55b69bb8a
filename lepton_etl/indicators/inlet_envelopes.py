"""ASHRAE thermal envelopes of IT inlet air, and how hours of nodes lie in them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import polars as pl

from lepton_etl.energy.exact_sums import exact_sum


@dataclass(frozen=True, slots=True)
class Envelope:
    """Dry bulb bounds at the inlet, degC."""

    name: str
    low_c: float
    high_c: float


# Source: ASHRAE TC 9.9, 5th edition 2021, reference card.
RECOMMENDED: Final = Envelope("recommended", 18.0, 27.0)
ALLOWABLE: Final = {
    "A1": Envelope("A1", 15.0, 32.0),
    "A2": Envelope("A2", 10.0, 35.0),
    "A3": Envelope("A3", 5.0, 40.0),
    "A4": Envelope("A4", 5.0, 45.0),
}


ENVELOPES: Final = (RECOMMENDED, *ALLOWABLE.values())


@dataclass(frozen=True, slots=True)
class InletHours:
    """Hours of nodes by inlet temperature: known, inside each envelope, degree-hours over and under recommended."""

    known_h: float
    inside_h: Mapping[str, float]
    over_k_h: float
    under_k_h: float


def inlet_sums(inlet_c: pl.Expr, hours: pl.Expr) -> dict[str, pl.Expr]:
    """Return sums of hours of nodes by inlet dry bulb (degC): known_h, inside_<name>_h, over_k_h, under_k_h.

    Each is null where no inlet is known: 0 h inside an envelope is a finding, and needs a temperature. Humidity is not
    measured at the inlets, so the shares are an upper bound of being inside.
    """
    over, under = inlet_c - RECOMMENDED.high_c, RECOMMENDED.low_c - inlet_c
    addends = {
        "known_h": pl.when(inlet_c.is_not_null()).then(hours),
        **{f"inside_{one.name}_h": inlet_c.is_between(one.low_c, one.high_c) * hours for one in ENVELOPES},
        "over_k_h": over.clip(0.0) * hours,
        "under_k_h": under.clip(0.0) * hours,
    }
    return {name: exact_sum(addend) for name, addend in addends.items()}


def inlet_hours(row: Mapping[str, float | None]) -> InletHours | None:
    """The sums of inlet_sums as one value; None where no inlet is known."""
    known = {name: value for name, value in row.items() if value is not None}
    if "known_h" not in known:
        return None
    inside = {one.name: known[f"inside_{one.name}_h"] for one in ENVELOPES}
    return InletHours(known["known_h"], inside, known["over_k_h"], known["under_k_h"])
