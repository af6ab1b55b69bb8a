"""One real server, four months ahead: boosting beats the linear baseline, the nightly recalibration beats both.

The whole table is `make bench-models`; this is the quick look at the server with the shortest history.
"""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from bench.model_forward import alike_columns
from bench.model_inputs import BASE, MEMORY, biohpc_hours
from lepton_etl.models.candidates import CANDIDATES, inputs_of
from lepton_etl.models.features import TARGET
from lepton_etl.models.fusion import forward_block
from lepton_etl.models.metrics import Values, errors
from lepton_etl.models.recalibration import Recalibration, corrections
from tests.conftest import PROJECT, real_data

FOLDER = real_data() / "biohpc-gpu-servers"
NAMES = ("linear", "boosting_gentle")

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def hours() -> pd.DataFrame:
    if not FOLDER.exists():
        pytest.skip("no BioHPC data in LEPTON_REAL_DATA")
    rows = biohpc_hours(FOLDER, PROJECT / "conf" / "examples" / "biohpc-inventory.csv")
    return rows[rows["node_id"] == "cbsugpu08"].reset_index(drop=True)


@pytest.fixture(scope="module")
def members(hours: pd.DataFrame) -> pd.DataFrame:
    """Predictions of the twelfth to fifteenth month, each from the months before it."""
    block = hours["block"].to_numpy()
    inputs = inputs_of([*BASE, *MEMORY], hours)
    candidates = [CANDIDATES[name] for name in NAMES]
    return pd.concat(
        [forward_block(hours, block, now, inputs, candidates).predicted for now in np.unique(block)[12:16]]
    )


def _cv(measured: Values, predicted: Values) -> float:
    found = errors(measured, predicted).cv_rmse_ratio
    assert found is not None
    return 100 * found


def test_boosting_beats_the_linear_baseline_forward(hours: pd.DataFrame, members: pd.DataFrame) -> None:
    measured = hours.loc[members.index, TARGET].to_numpy()
    linear, boosted = (_cv(measured, members[name].to_numpy()) for name in NAMES)
    print(f"CV(RMSE) forward: linear {linear:.2f} %, boosting {boosted:.2f} %")
    assert boosted < 0.8 * linear
    assert boosted < 8


def test_recalibration_to_the_day_before_lowers_the_error(hours: pd.DataFrame, members: pd.DataFrame) -> None:
    rows = hours.loc[members.index]
    measured, predicted = rows[TARGET].to_numpy(), members["boosting_gentle"].to_numpy()
    settings = Recalibration()
    columns = alike_columns(list(BASE))
    corrected = predicted + corrections(rows, measured - predicted, columns, settings)
    print(f"CV(RMSE): base {_cv(measured, predicted):.2f} %, nightly {_cv(measured, corrected):.2f} %")
    assert _cv(measured, corrected) < _cv(measured, predicted)
    # What is measured on the last day changes nothing: it is predicted from the days before.
    last = (rows["date"] == rows["date"].max()).to_numpy()
    residual = np.where(last, 1.0, measured - predicted)
    again = predicted + corrections(rows, residual, columns, settings)
    np.testing.assert_array_equal(again, corrected)
