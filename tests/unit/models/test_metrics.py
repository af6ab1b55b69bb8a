from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from lepton_etl.models.metrics import as_lines, error_table, errors, is_busy, overall


def test_errors_by_hand() -> None:
    found = errors(np.array([1.0, 2.0, 3.0]), np.array([1.5, 2.0, 2.0]))
    assert found.rows == 3
    assert found.mape_ratio == pytest.approx((0.5 / 1 + 0 + 1 / 3) / 3)
    assert found.wape_ratio == pytest.approx(1.5 / 6)
    assert found.cv_rmse_ratio == pytest.approx(np.sqrt(1.25 / 2) / 2)
    assert found.nmbe_ratio == pytest.approx((-0.5 + 1.0) / (2 * 2))
    assert found.mae_kwh == pytest.approx(0.5)


def test_hours_of_zero_energy_leave_mape_but_not_wape() -> None:
    found = errors(np.array([0.0, 2.0]), np.array([1.0, 2.0]))
    assert found.mape_ratio == 0.0
    assert found.wape_ratio == pytest.approx(0.5)


def test_what_rows_do_not_allow_is_none() -> None:
    assert errors(np.zeros(0), np.zeros(0)).mape_ratio is None
    dark = errors(np.zeros(3), np.ones(3))
    assert (dark.mape_ratio, dark.wape_ratio, dark.cv_rmse_ratio, dark.mae_kwh) == (None, None, None, 1.0)


def test_unknown_load_is_not_busy() -> None:
    hours = pd.DataFrame(
        {"cpu_utilisation_ratio": [0.1, 0.09, np.nan], "gpu_utilisation_ratio": [np.nan, 0.5, np.nan]}
    )
    assert is_busy(hours, 0.10).tolist() == [True, True, False]
    assert is_busy(hours[["cpu_utilisation_ratio"]], 0.10).tolist() == [True, False, False]


def test_table_has_all_and_busy_hours_of_every_node() -> None:
    hours = pd.DataFrame({"node_id": ["n1", "n1", "n2"]})
    measured, predicted = np.array([1.0, 1.0, 4.0]), np.array([1.0, 2.0, 4.0])
    rows = error_table("forest", hours, measured, predicted, np.array([False, True, True]))
    assert [(r.node_id, r.hours, r.errors.rows) for r in rows] == [
        ("(all)", "all", 3), ("(all)", "busy", 2), ("n1", "all", 2), ("n1", "busy", 1), ("n2", "all", 1),
        ("n2", "busy", 1),
    ]  # fmt: skip
    assert overall(rows, "forest").wape_ratio == pytest.approx(1 / 6)
    lines = as_lines(rows)
    assert len(lines) == 7
    assert "16.67" in lines[1]
