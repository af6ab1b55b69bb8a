"""A small fleet whose energy is known to follow load, and one MLflow store for the module."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.features import FEATURES
from lepton_etl.models.fit import Trained, order_rows, train
from lepton_etl.models.registry import Registry


@pytest.fixture(scope="session")
def settings() -> ModelSettings:
    return ModelSettings(trees=10, min_rows=100, slim=False)


@pytest.fixture(scope="session")
def lines(settings: ModelSettings) -> ModelSettings:
    """Lines alone, a third of the time: for tests of which hours teach and judge, not of how well."""
    return settings.model_copy(update={"candidates": ("linear",)})


@pytest.fixture(scope="session")
def hours() -> pd.DataFrame:
    """Ten days of four nodes in two classes: 100 W or 300 W idle plus load, no GPU, memory unknown."""
    random = np.random.default_rng(7)
    stamps = pd.date_range("2025-06-01", periods=240, freq="h", tz="UTC")
    frames = []
    for node, hardware_class, idle_w in (
        ("a1", "old", 100),
        ("a2", "old", 100),
        ("b1", "new", 300),
        ("b2", "new", 300),
    ):
        load = random.random(len(stamps))
        frame = pd.DataFrame({f.name: np.nan for f in FEATURES["node"]}, index=range(len(stamps)))
        frame = frame.assign(
            site_id="s", cluster_id="c", node_id=node, device_id="node", hour_start=stamps, date=stamps.date,
            hardware_class=hardware_class, rated_power_w=3.0 * idle_w, cpu_utilisation_ratio=load,
            inlet_temp_c=20 + random.random(len(stamps)), cpu_utilisation_min_ratio=load * 0.9,
            gpu_count=0.0, cpu_utilisation_max_ratio=load * 1.1,
            energy_kwh=(idle_w * (1 + 1.5 * load) + random.normal(0, 2, len(stamps))) / 1000,
        )  # fmt: skip
        frames.append(frame)
    return order_rows(pd.concat(frames, ignore_index=True))


@pytest.fixture(scope="session")
def trained(hours: pd.DataFrame, settings: ModelSettings) -> Trained:
    """What is trained on the fleet without a champion: seconds, and nothing that a test changes."""
    return train(hours, settings)


@pytest.fixture(scope="session")
def plain(hours: pd.DataFrame, lines: ModelSettings) -> Trained:
    """The same with lines alone: where a model is only stored, moved and read back, a small one does."""
    return train(hours, lines)


@pytest.fixture(scope="session")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Registry:
    folder: Path = tmp_path_factory.mktemp("mlflow")
    return Registry(f"sqlite:///{folder}/db/mlflow.db", str(folder / "artifacts"))
