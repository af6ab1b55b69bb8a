"""A consumer with mlflow, scikit-learn and skops alone gets mean, lower and upper end of the champion."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from lepton_etl.config.sections import ModelSettings
from lepton_etl.models.features import FEATURES, feature_names
from lepton_etl.models.fit import train
from lepton_etl.models.registry import Registry
from lepton_etl.models.stored import OUTPUTS
from tests.conftest import PROJECT
from tests.integration.test_wheel import UV, run
from tests.unit.models.conftest import hours, settings

__all__ = ["hours", "settings"]
pytestmark = pytest.mark.slow

_ASK = """
import importlib.util, json, sys
import mlflow, pandas as pd
assert importlib.util.find_spec("lepton_etl") is None
mlflow.set_tracking_uri(sys.argv[1])
model = mlflow.pyfunc.load_model("models:/node-energy@champion")
rows = pd.DataFrame(**json.load(open(sys.argv[2]))["dataframe_split"])
rows["cpu_utilisation_ratio"] = rows["cpu_utilisation_ratio"].astype("int64")
names = [one.name for one in model.metadata.get_output_schema()]
print(json.dumps([names, model.predict(rows).tolist()]))
"""


def test_a_stranger_gets_mean_lower_and_upper(
    hours: pd.DataFrame, settings: ModelSettings, tmp_path: Path
) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    tags = {
        "training_key": "k",
        "test_until": "2025-06-10T23:00:00+00:00",
        "training_table_sha256": "ab" * 32,
    }
    version = registry.register("node-energy", train(hours, settings), FEATURES["node"], {}, tags)
    client = registry._connected()
    run_of = client.get_run(version.run_id)
    assert run_of.info.run_name == "node-energy until 2025-06-10"
    assert run_of.inputs.dataset_inputs[0].dataset.digest == ("ab" * 32)[:36]
    said = client.get_registered_model("node-energy").description
    assert "inlet_temp_c (degree_Celsius)" in said and "predicted_lower_kwh" in said

    rows = hours[list(feature_names("node"))].head(3).assign(cpu_utilisation_ratio=[0, 1, 1], gpu_count=0)
    expected = registry.verified_model("node-energy").intervals(rows)
    asked = tmp_path / "rows.json"
    split = {"columns": list(rows), "data": rows.astype(object).where(rows.notna(), None).to_numpy().tolist()}
    asked.write_text(json.dumps({"dataframe_split": split}), encoding="utf-8")

    run([UV, "venv", "--quiet", "--python", sys.executable, "env"], tmp_path)
    packages = ["--constraint", str(PROJECT / "requirements.lock"), "mlflow", "scikit-learn", "skops"]
    python = tmp_path / "env" / "bin" / "python"
    install = [UV, "pip", "install", "--quiet", "--python", str(python), *packages]
    try:
        run([*install, "--offline"], tmp_path)
    except AssertionError:
        run(install, tmp_path)
    names, answer = json.loads(run([str(python), "-c", _ASK, registry.tracking_uri, str(asked)], tmp_path))
    assert tuple(names) == OUTPUTS
    np.testing.assert_allclose(answer, expected, rtol=1e-9)
    assert (expected[:, 1] < expected[:, 0]).all() and (expected[:, 0] < expected[:, 2]).all()

    predicted = tmp_path / "predicted.json"
    command = [
        "models",
        "predict",
        "--env-manager",
        "local",
        "-m",
        "models:/node-energy@champion",
        "-t",
        "json",
    ]
    run(
        [str(python), "-m", "mlflow", *command, "-i", str(asked), "-o", str(predicted)],
        tmp_path, MLFLOW_TRACKING_URI=registry.tracking_uri,
    )  # fmt: skip
    served = json.loads(predicted.read_text(encoding="utf-8"))["predictions"]
    np.testing.assert_allclose(served, expected, rtol=1e-9)
