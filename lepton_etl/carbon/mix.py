"""Average intensity of a generation mix: what each fuel made times its factor."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date

import numpy as np
from numpy.typing import NDArray

from lepton_etl.registers.factors import FactorSet


def mix_intensity(
    generation_mwh: Mapping[str, NDArray[np.float64]], factors: FactorSet, on: date
) -> NDArray[np.float64]:
    """Generation-weighted mean of the fuels' life-cycle factors, g/kWh, shape (hours,).

    `generation_mwh` has one array (hours,) a fuel of conf/factors/fuel_lifecycle.csv. NaN where a fuel of the hour is
    unknown or nothing was made. Life cycle: never a Scope 2 figure. Raises MissingFactorError for an unknown fuel.
    Source: EIA form 930; IPCC AR5 WG3 Annex III (medians).
    """
    made = np.stack(list(generation_mwh.values()))
    weights = np.array(
        [factors.get("fuel_lifecycle", valid_on=on, fuel=fuel).to("g/kWh") for fuel in generation_mwh]
    )
    total = made.sum(axis=0)
    grams = weights @ made
    mean = np.divide(grams, total, out=np.full(total.shape, np.nan), where=total > 0)
    return np.asarray(mean, dtype=np.float64)
