"""What kWh saved are worth in emissions and money, by one stated method."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lepton_etl.fields import GRAMS_PER_KILOGRAM
from lepton_etl.optimize.advice import Promise


@dataclass(frozen=True, slots=True)
class Worth:
    """Of a kWh at the site: location-based g CO2e, and money in `currency`; None is not known.

    The ends are the 5th and 95th percentile of daily means: a change lasts for days, not for an hour.
    """

    intensity_g_per_kwh: Promise | None = None
    price_per_kwh: Promise | None = None
    currency: str | None = None


def valued(row: Mapping[str, Any], worth: Worth) -> dict[str, Any]:
    """A row of gold/recommendation with emissions and money of its kWh; what a lever said itself stays.

    Ends multiply: lowest saving at the lowest worth. A saving below zero takes the other end.
    """
    found = dict(row)
    if row["expected_saving_kwh"] is None:
        return found
    kwh = Promise(
        row["expected_saving_kwh"], row["expected_saving_lower_kwh"], row["expected_saving_upper_kwh"]
    )
    intensity, price = worth.intensity_g_per_kwh, worth.price_per_kwh
    if row["expected_saving_kgco2e"] is None and intensity is not None:
        found |= _columns("kgco2e", product(kwh, intensity.times(1 / GRAMS_PER_KILOGRAM)))
        found["carbon_method"] = "location"
    if row["expected_saving_cost"] is None and price is not None:
        found |= _columns("cost", product(kwh, price)) | {"currency": worth.currency}
    return found


def product(a: Promise, b: Promise) -> Promise:
    """The promise of a product: its ends are the least and the most that ends of both can make."""
    ends = [x * y for x in (a.lower, a.upper) for y in (b.lower, b.upper)]
    expected = a.expected * b.expected
    return Promise(expected, min(*ends, expected), max(*ends, expected))


def _columns(unit: str, promise: Promise) -> dict[str, float]:
    return {
        f"expected_saving_{unit}": promise.expected,
        f"expected_saving_lower_{unit}": promise.lower,
        f"expected_saving_upper_{unit}": promise.upper,
    }
