from __future__ import annotations

import numpy as np
import pandas as pd
from hypothesis import given, settings
from hypothesis import strategies as st

from bench.device_memory import memory_features, with_memory
from lepton_etl.models.features import FEATURES, TARGET, feature_names, refuse_power_features

NAMES = list(feature_names("node"))


def test_no_memory_is_made_from_power() -> None:
    for device in ("node", "gpu"):
        refuse_power_features(memory_features([f.name for f in FEATURES[device]]))


def test_target_and_later_hours_do_not_enter(hours: pd.DataFrame) -> None:
    added = [f.name for f in memory_features(NAMES)]
    table = with_memory(hours, NAMES)[added]
    changed = hours.assign(**{TARGET: 0.0})
    late = changed["hour_start"].dt.day > 5
    changed.loc[late, "cpu_utilisation_max_ratio"] = 0.0
    changed.loc[late, "inlet_temp_c"] = 90.0
    early = ~late
    pd.testing.assert_frame_equal(table[early], with_memory(changed, NAMES).loc[early, added])


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**32 - 1))
def test_the_order_of_rows_does_not_matter(hours: pd.DataFrame, seed: int) -> None:
    shuffled = hours.sample(frac=1, random_state=seed)
    table = with_memory(shuffled, NAMES)
    assert list(table.index) == list(shuffled.index)
    pd.testing.assert_frame_equal(table.sort_index(), with_memory(hours, NAMES).sort_index())


def test_lags_go_by_time_and_not_by_row() -> None:
    stamps = pd.to_datetime(["2025-06-01 00:00", "2025-06-01 01:00", "2025-06-01 04:00"], utc=True)
    rows = pd.DataFrame(dict.fromkeys(NAMES, np.nan), index=range(3)).assign(
        site_id="s", node_id="n", device_id="node", hour_start=stamps, hardware_class="c",
        cpu_utilisation_ratio=[0.1, 0.2, 0.3], cpu_utilisation_max_ratio=[0.5, 0.0, 0.0],
        inlet_temp_c=[20.0, 25.0, 22.0],
    )  # fmt: skip
    table = with_memory(rows, NAMES)
    np.testing.assert_array_equal(table["cpu_utilisation_lag1h_ratio"], [np.nan, 0.1, np.nan])
    np.testing.assert_array_equal(table["inlet_temp_24h_min_c"], [np.nan, 20.0, 20.0])
    np.testing.assert_array_equal(table["inlet_temp_excess_k"], [np.nan, 5.0, 2.0])
    np.testing.assert_array_equal(table["cpu_utilisation_active_24h_ratio"], [np.nan, 1.0, 0.5])
    # Only the hours before count: what the hour itself does is in its own columns.
    np.testing.assert_array_equal(table["cpu_utilisation_idle_hours"], [np.nan, 0.0, 3.0])
