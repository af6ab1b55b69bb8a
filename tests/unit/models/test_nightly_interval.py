"""The interval of a night: what it rests on, and how it follows what it missed."""

from __future__ import annotations

from datetime import date

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lepton_etl.models.nightly_interval import _quantile, night_ends

DAY = date(2025, 3, 20)


def _hours(days: int, load: float = 0.5, **more: object) -> pd.DataFrame:
    """Hours of one device up to DAY, predicted at 1 kWh, 10 % either way; earlier nights said 5 % either way."""
    stamps = pd.date_range(
        end=pd.Timestamp(DAY) + pd.Timedelta(hours=23), periods=24 * days, freq="h", tz="UTC"
    )
    return pd.DataFrame(
        {
            "site_id": "s", "node_id": "n", "device_id": "node", "hour_start": stamps, "date": stamps.date,
            "load_ratio": load, "energy_kwh": 1.0, "recalibrated_kwh": 1.0, "predicted_kwh": 1.0,
            "predicted_lower_kwh": 0.9, "predicted_upper_kwh": 1.1, "recalibrated_lower_kwh": 0.95,
            "recalibrated_upper_kwh": 1.05,
        }
        | more
    )  # fmt: skip


@given(
    st.lists(st.floats(-2, 2), max_size=12), st.floats(-2, 2) | st.just(float("nan")), st.floats(0.5, 0.99),
    st.integers(0, 99),
)  # fmt: skip
def test_the_quantile_is_that_of_the_residuals_with_the_model_s_end_among_them(
    residuals: list[float], end: float, level: float, seed: int
) -> None:
    weights = np.random.default_rng(seed).random(len(residuals))
    far = np.sort(residuals)
    every = sorted([*zip(far, weights, strict=True), (np.inf if np.isnan(end) else end, 1.0)])
    total, reached, wanted = sum(weight for _, weight in every), 0.0, np.nan
    for value, weight in every:
        reached += weight
        if reached >= level * total - 1e-12:
            wanted = value
            break
    found = _quantile(far, weights[None, :], np.array([end]), level)[0]
    assert found == pytest.approx(wanted) if np.isfinite(wanted) else np.isnan(found)


def test_a_first_day_has_the_model_s_ends_and_a_model_without_ends_none() -> None:
    ends = night_ends(_hours(1), DAY)
    assert ends == pytest.approx(np.tile([0.9, 1.1], (24, 1)))
    assert np.isnan(night_ends(_hours(1, predicted_lower_kwh=np.nan, predicted_upper_kwh=np.nan), DAY)).all()


def test_hours_alike_give_the_ends_and_where_nothing_was_alike_the_model_does() -> None:
    hours = _hours(20)
    past = hours["date"] < DAY
    hours.loc[past, "energy_kwh"] = 1.0 + 0.04 * np.sin(np.arange(past.sum()))
    alike = night_ends(hours, DAY)[-24:]
    assert (np.abs(alike - 1.0) < 0.045).all() and (np.abs(alike - 1.0) > 0.02).all()
    busy = hours.assign(load_ratio=np.where(past, 0.0, 1.0))
    assert night_ends(busy, DAY)[-24:] == pytest.approx(np.tile([0.9, 1.1], (24, 1)))
    # Days before `first` keep what their nights have said.
    assert night_ends(hours, DAY)[:-24] == pytest.approx(np.tile([0.95, 1.05], (past.sum(), 1)))


def test_what_was_missed_of_late_widens_the_next_day() -> None:
    hours = _hours(20)
    past = hours["date"] < DAY
    hours.loc[past, "energy_kwh"] = 1.0 + 0.1 * np.random.default_rng(1).normal(size=past.sum())
    missed = night_ends(hours, DAY)[-24:]
    held = night_ends(hours.assign(recalibrated_lower_kwh=0.8, recalibrated_upper_kwh=1.2), DAY)[-24:]
    assert (missed[:, 1] - missed[:, 0] > 1.2 * (held[:, 1] - held[:, 0])).all()


def test_the_day_itself_and_later_ones_never_enter() -> None:
    hours = _hours(20)
    other = hours.assign(energy_kwh=np.where(hours["date"] == DAY, 9.0, 1.0))
    assert night_ends(hours, DAY) == pytest.approx(night_ends(other, DAY))
