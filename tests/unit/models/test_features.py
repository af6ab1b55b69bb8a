from __future__ import annotations

import subprocess
import sys

import pytest

from lepton_etl.errors import ModelError
from lepton_etl.models.features import FEATURES, POWER_COLUMNS, Feature, refuse_power_features
from lepton_etl.schema.declare import ureg
from lepton_etl.schema.fields import FIELDS
from lepton_etl.schema.fleet import INTERVAL, NODE

ALL = [(device, feature) for device, features in FEATURES.items() for feature in features]


@pytest.mark.parametrize("device", FEATURES)
def test_no_statistic_of_power_is_a_feature(device: str) -> None:
    features = FEATURES[device]
    refuse_power_features(features)
    assert not {column for f in features for column in f.made_from} & POWER_COLUMNS
    assert [f.name for f in features if "power" in f.name] == ["rated_power_w", "idle_power_w"]


@pytest.mark.parametrize(
    ("name", "made_from"),
    [
        ("power_mean_w", "power_mean_w"),
        ("powermin", "power_min_w"),
        ("load_lag_1h", "power_mean_w"),
        ("idle_level", "energy_kwh"),
        ("last_hour_energy_kwh", "hidden"),
        ("draw_w", "hidden"),
        ("rated_power_w", "power_max_w"),
        ("idle_power_w", "power_min_w"),
        ("noise", "gain_sigma_kwh"),
    ],
)
def test_guard_refuses_power_under_any_name(name: str, made_from: str) -> None:
    with pytest.raises(ModelError, match="statistic of power"):
        refuse_power_features([Feature(name, "watt", "", (made_from,))])


def test_power_columns_are_all_of_the_interval_table() -> None:
    physical = {f.name for f in INTERVAL.fields if f.unit in ("watt", "kilowatt_hour")}
    # The limit is a setting of the device, no statistic of what it drew.
    assert physical - {"power_limit_w"} == POWER_COLUMNS


@pytest.mark.parametrize(("device", "feature"), ALL)
def test_features_come_from_declared_columns_in_their_units(device: str, feature: Feature) -> None:
    for column in feature.made_from:
        assert column in INTERVAL.columns or column in NODE.columns
        unit = FIELDS[column].unit
        if unit is not None:
            assert ureg.Unit(feature.unit) == ureg.Unit(unit)


def test_node_models_take_inlet_temperature_and_gpu_models_say_die() -> None:
    assert "device_temp_c" not in {f.name for f in FEATURES["node"]}
    die = next(f for f in FEATURES["gpu"] if f.name == "device_temp_c")
    assert "never for cooling" in die.description


def test_importing_the_room_loads_neither_mlflow_nor_sklearn_nor_spark() -> None:
    code = (
        "import sys, lepton_etl.models.registry, lepton_etl.models.fit, lepton_etl.models.registry\n"
        "print([m for m in ('mlflow', 'sklearn', 'pyspark', 'skops') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
