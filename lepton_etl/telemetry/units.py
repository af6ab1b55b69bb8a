"""Raw units to the canonical unit of a quantity, as factor, divisor and offset that a column can be scaled by."""

import tokenize
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
import pint
import polars as pl

from lepton_etl.fields import QUANTITIES, ureg

# Words of tools and settings that pint spells otherwise or reads as something else (C coulomb, F farad).
ALIASES: Final[dict[str, str]] = {
    "%": "percent",
    "ratio": "dimensionless",
    "RPM": "revolutions_per_minute",
    "C": "degree_Celsius",
    "F": "degree_Fahrenheit",
}

# A divisor is preferred where it is whole: 35 percent / 100 is 0.35, 35 percent * 0.01 is not.
_WHOLE: Final = 1e-9


@dataclass(frozen=True, slots=True)
class Conversion:
    """canonical = raw * factor / divisor + offset."""

    factor: float
    divisor: float
    offset: float

    def apply(self, raw: float) -> float:
        """One value in the canonical unit."""
        return raw * self.factor / self.divisor + self.offset


@lru_cache(maxsize=4096)
def conversion(raw_unit: str, quantity: str) -> Conversion | None:
    """How values in `raw_unit` become the canonical unit of `quantity`; None if they cannot.

    Affine units (degF) are handled. An unknown quantity raises KeyError. Only units of settings and rule files come
    here, never text of a log: the rule tables say which logged words mean which unit.
    """
    canonical = ureg.Unit(QUANTITIES[quantity].unit)
    try:
        raw = ureg.Unit(ALIASES.get(raw_unit, raw_unit))
        offset = float(ureg.Quantity(0.0, raw).to(canonical).magnitude)
        slope = (float(ureg.Quantity(1000.0, raw).to(canonical).magnitude) - offset) / 1000.0
    except (pint.PintError, tokenize.TokenError, ValueError, TypeError, AttributeError, AssertionError):
        return None
    if offset == 0.0 and slope != 0.0:
        inverse = 1.0 / slope
        if inverse > 1.0 and abs(inverse - round(inverse)) < _WHOLE * inverse:
            return Conversion(1.0, float(round(inverse)), 0.0)
        if slope > 1.0 and abs(slope - round(slope)) < _WHOLE * slope:
            slope = float(round(slope))
    return Conversion(slope, 1.0, offset)


def with_value(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `value` = number * factor / divisor + offset; NaN where one of them is null.

    In NumPy, because polars divides by a column of one row, or a literal, through its reciprocal: 63.25 percent
    would be 0.6325 in a long file and 0.6325000000000001 in a short one.
    """
    number, factor, divisor, offset = (
        frame.get_column(name).cast(pl.Float64).to_numpy()
        for name in ("number", "factor", "divisor", "offset")
    )
    with np.errstate(all="ignore"):
        value = number * factor / divisor + offset
    return frame.with_columns(pl.Series("value", value))
