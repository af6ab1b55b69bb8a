from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.errors import ModelError
from lepton_etl.models.candidates import Scale, scale_of

NOTHING = pd.DataFrame({"energy_kwh": []}, dtype=float)


def test_idle_is_nought_and_rated_is_one() -> None:
    scale = scale_of(300.0, 30.0, NOTHING)
    assert scale.basis == "inventory"
    np.testing.assert_allclose(scale.normalised(np.array([0.03, 0.165, 0.3])), [0, 0.5, 1], atol=1e-12)


@settings(deadline=None)
@given(st.floats(1, 5e4), st.floats(0, 0.9), st.floats(0, 2))
def test_there_and_back(rated_w: float, share: float, x: float) -> None:
    scale = scale_of(rated_w, share * rated_w, NOTHING)
    assert scale.normalised(scale.energy_kwh(np.array([x]))) == pytest.approx(x, abs=1e-9)


def test_without_nameplate_what_the_class_has_shown() -> None:
    history = pd.DataFrame({"energy_kwh": np.append(np.linspace(0.05, 0.3, 999), 5.0)})
    scale = scale_of(None, None, history)
    assert (scale.basis, scale.idle_kwh) == ("history", 0.0)
    assert scale.rated_kwh == pytest.approx(0.3, rel=0.01)


def test_neither_is_refused() -> None:
    with pytest.raises(ModelError, match="cannot be scaled"):
        scale_of(None, None, NOTHING)
    with pytest.raises(ModelError, match="give no scale"):
        Scale(0.4, 0.3, "inventory")
