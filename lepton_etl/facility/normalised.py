"""PUE of a site under a weather and a load that are the same for all, so that sites compare."""

from __future__ import annotations

import numpy as np

from lepton_etl.facility.fit import FacilityFit, predict_overhead
from lepton_etl.facility.hours import Floats


def normalised_pue(
    fit: FacilityFit, reference_weather_c: Floats, reference_load_ratio: Floats
) -> float | None:
    """Ratio of sums of facility and IT energy over reference hours, by the site's fitted model.

    `reference_weather_c` are hourly wet bulbs, degC, `reference_load_ratio` the hours' IT energy over the mean of
    the fit's hours; equal shapes (n,), loads above 0. None where the fit is not accepted or the conversion loss is
    unknown. A model figure, never to be mixed with a measured PUE.
    Source: PUE = E_DC / E_IT, ISO/IEC 30134-2; weather normalisation as in ASHRAE Guideline 14, annex on
    whole-building models.
    """
    if len(reference_weather_c) != len(reference_load_ratio) or not len(reference_load_ratio):
        raise ValueError("reference weather and load must be of the same hours, at least one")
    if not fit.accepted or (fit.loss is None and fit.management_kwh is not None):
        return None
    it_kwh = reference_load_ratio * fit.mean_it_kwh
    overhead = predict_overhead(fit, it_kwh, reference_weather_c).total_kwh
    loss = (
        fit.loss.from_output(it_kwh) if fit.loss and fit.management_kwh is not None else np.zeros(len(it_kwh))
    )
    return float((it_kwh + overhead + loss).sum() / it_kwh.sum())
