"""The registry door on a real MLflow store in SQLite: what is logged, who is champion, what is never loaded."""

from __future__ import annotations

import json
import pickle
import runpy
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import typer
import yaml
from typer.testing import CliRunner

from lepton_etl import redaction
from lepton_etl.config.sections import ModelSettings
from lepton_etl.errors import ModelError, RegistryError
from lepton_etl.models import registry as module
from lepton_etl.models.cards import cards
from lepton_etl.models.features import FEATURES
from lepton_etl.models.fit import Trained
from lepton_etl.models.registry import Registry
from lepton_etl.models.stored import Version, checked_bytes, folder_sha256

# As it is: other tests take copies of what it made once.
MAKE = module._make
SCRIPT = Path(__file__).resolve().parents[3] / "jobs" / "consume.py"


class _Canary:
    """Touches a file when it is unpickled."""

    def __init__(self, file: Path) -> None:
        self.file = file

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.file,)


@pytest.fixture(scope="module")
def champion(registry: Registry, trained: Trained) -> Version:
    tags = {"training_key": "k1", "code_version": "1.2.3"}
    made = cards(trained, ModelSettings(trees=10, min_rows=100), tags)
    return registry.register("node-energy", trained, FEATURES["node"], {"trees": 10}, tags, made)


def _client(registry: Registry):  # type: ignore[no-untyped-def]
    from mlflow import MlflowClient

    return MlflowClient(tracking_uri=registry.tracking_uri, registry_uri=registry.tracking_uri)


def _folder_of(registry: Registry, version: Version) -> Path:
    """Where the version's model lies in the store."""
    source = _client(registry).get_model_version_download_uri(version.name, version.version)
    if source.startswith("models:/"):
        source = _client(registry).get_logged_model(source.removeprefix("models:/")).artifact_location
    return Path(source.removeprefix("file://"))


def test_champion_is_what_was_registered(registry: Registry, champion: Version) -> None:
    assert champion.tags["promotion"] == "promoted"
    found = registry.champion("node-energy")
    assert found is not None
    assert found.version == champion.version
    assert registry.latest("node-energy", "training_key", "k1") == champion
    assert registry.latest("node-energy", "training_key", "other") is None
    assert registry.champion("no-such-model") is None


def test_params_and_tags_hold_no_secret(
    registry: Registry, trained: Trained, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redaction, "_known", set())
    monkeypatch.setattr(redaction, "_values", None)
    redaction.remember(["k4n4ry-5ing5"])
    said = {"source": "postgresql://u:k4n4ry-5ing5@db/x", "note": "k4n4ry-5ing5"}
    found = registry.register("canary", trained, FEATURES["node"], said, said)
    run = _client(registry).get_run(found.run_id)
    assert run.data.params["note"] == "***"
    assert "k4n4ry" not in json.dumps([run.to_dictionary(), found.tags])


def test_run_carries_errors_units_signature_and_example(
    registry: Registry, champion: Version, tmp_path: Path
) -> None:
    client = _client(registry)
    run = client.get_run(champion.run_id)
    assert run.data.metrics["model.all.cv_rmse_ratio"] < run.data.metrics["class_mean.all.cv_rmse_ratio"]
    assert run.data.metrics["model_size_bytes"] > 10_000
    assert "power_mean_w" not in run.data.params["features"]
    columns = json.loads(
        Path(client.download_artifacts(champion.run_id, "columns.json", str(tmp_path))).read_text()
    )
    assert {c["name"]: c["unit"] for c in columns["columns"]}["inlet_temp_c"] == "degree_Celsius"
    assert columns["target"]["unit"] == "kilowatt_hour"
    model = yaml.safe_load((_folder_of(registry, champion) / "MLmodel").read_text())
    assert model["flavors"]["sklearn"]["serialization_format"] == "skops"
    assert [c["name"] for c in json.loads(model["signature"]["inputs"])] == [f.name for f in FEATURES["node"]]
    assert (_folder_of(registry, champion) / "input_example.json").is_file()


def test_a_version_has_its_cards(registry: Registry, champion: Version, tmp_path: Path) -> None:
    import mlflow

    folder = Path(
        mlflow.artifacts.download_artifacts(
            run_id=champion.run_id, dst_path=str(tmp_path), tracking_uri=registry.tracking_uri
        )
    )
    card = (folder / "model_card.md").read_text(encoding="utf-8")
    for said in (
        "# node-energy: energy of one node over one full hour, kWh", "- Decision: is champion", "- Code 1.2.3",
        "| candidate | CV(RMSE) |", "- cpu_utilisation_ratio: ", "A million predictions:", "on its training hours",
        "| hardware_class | old |", "| old | 96 |", "No class is scarce among the training rows",
    ):  # fmt: skip
        assert said in card, said
    groups = {(one["scope"], one["group"]): one["rows"] for one in registry.groups_of(champion)}
    assert groups == {("hardware_class", "old"): 96, ("hardware_class", "new"): 96, ("cluster_id", "c"): 192}
    rows = (folder / "error_card.csv").read_text(encoding="utf-8").splitlines()
    assert rows[0].startswith("dimension,bin,rows,") and any(
        row.startswith("hardware_class,old,") for row in rows
    )
    is_exported = champion.tags["onnx"] == "exported"
    assert (folder / "export" / "model.onnx").exists() is is_exported
    assert is_exported or champion.tags["onnx"].startswith("not exportable: ")


def test_the_alias_rolls_back_to_a_version_that_was_promoted(registry: Registry, trained: Trained) -> None:
    name = "rolled"
    for key in ("1", "2"):
        registry.register(name, trained, FEATURES["node"], {}, {"training_key": key})
    registry.register(name, trained.refused("made up"), FEATURES["node"], {}, {"training_key": "3"})
    registry.roll_back(name, "1", "errors doubled")
    now, left = registry.champion(name), registry.version(name, "2")
    assert now is not None and now.version == "1"
    assert left is not None
    assert (left.tags["promotion"], left.tags["promotion_reason"]) == ("rolled back", "errors doubled")
    with pytest.raises(ModelError, match="version 3 was never champion"):
        registry.roll_back(name, "3", "no")


def test_verified_model_predicts_as_the_trained_one(
    registry: Registry, champion: Version, trained: Trained, hours: pd.DataFrame
) -> None:
    model = registry.verified_model("node-energy")
    rows = hours.tail(20)
    expected = trained.mean.predict(rows[list(model.feature_names)])
    assert model.predict(rows) == pytest.approx(expected)
    assert model.predict(rows.iloc[:0]).shape == (0,)
    with pytest.raises(ModelError, match="columns missing: hardware_class"):
        model.predict(rows.drop(columns="hardware_class"))


def test_refused_model_is_registered_with_its_reason_and_moves_no_alias(
    registry: Registry, champion: Version, trained: Trained
) -> None:
    refused = registry.register("node-energy", trained.refused("CV too high"), FEATURES["node"], {}, {})
    assert refused.version != champion.version
    assert refused.tags["promotion"] == "refused"
    assert refused.tags["promotion_reason"] == "CV too high"
    present = registry.champion("node-energy")
    assert present is not None
    assert present.version == champion.version


def test_tampered_folder_is_refused_by_its_hash(registry: Registry, trained: Trained) -> None:
    version = registry.register("tampered", trained, FEATURES["node"], {}, {})
    example = _folder_of(registry, version) / "input_example.json"
    example.write_text(example.read_text() + " ")
    with pytest.raises(ModelError, match="SHA-256"):
        registry.verified_model("tampered")


def test_version_without_a_recorded_hash_is_refused(registry: Registry, trained: Trained) -> None:
    version = registry.register("unhashed", trained, FEATURES["node"], {}, {})
    _client(registry).delete_model_version_tag("unhashed", version.version, "model_sha256")
    with pytest.raises(ModelError, match="no tag model_sha256"):
        registry.verified_model("unhashed")


@pytest.mark.parametrize("serialization_format", ["pickle", "cloudpickle"])
def test_pickle_canary_never_runs(
    registry: Registry, trained: Trained, tmp_path: Path, serialization_format: str
) -> None:
    """Even with the hash recorded to fit: a pickled model is refused before it is read."""
    name = f"canary-{serialization_format}"
    version = registry.register(name, trained, FEATURES["node"], {}, {})
    folder, canary = _folder_of(registry, version), tmp_path / "canary"
    (folder / "model.skops").write_bytes(pickle.dumps(_Canary(canary)))
    described = yaml.safe_load((folder / "MLmodel").read_text())
    described["flavors"]["sklearn"]["serialization_format"] = serialization_format
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    _client(registry).set_model_version_tag(name, version.version, "model_sha256", folder_sha256(folder))
    with pytest.raises(ModelError, match="only skops is read"):
        registry.verified_model(name)
    assert not canary.exists()
    # The canary is alive: loaded the ordinary way it does run.
    pickle.loads((folder / "model.skops").read_bytes())  # noqa: S301
    assert canary.exists()


@pytest.fixture
def folder(registry: Registry, champion: Version, tmp_path: Path) -> Path:
    """A copy of the champion's folder, to be spoilt."""
    return shutil.copytree(_folder_of(registry, champion), tmp_path / "model")


def _check(folder: Path) -> None:
    checked_bytes(folder, folder_sha256(folder), "models:/x/1")


def test_types_outside_the_allow_list_are_refused_whatever_the_folder_trusts(folder: Path) -> None:
    import skops.io
    from sklearn.ensemble import GradientBoostingRegressor

    model = GradientBoostingRegressor(n_estimators=2).fit(np.zeros((4, 1)), np.arange(4.0))
    skops.io.dump(model, folder / "model.skops")
    described = yaml.safe_load((folder / "MLmodel").read_text())
    described["flavors"]["sklearn"]["skops_trusted_types"] = [
        "sklearn.ensemble._gb.GradientBoostingRegressor"
    ]
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    with pytest.raises(ModelError, match=r"allow-list: .*GradientBoostingRegressor"):
        _check(folder)


@pytest.mark.parametrize("name", ["model.pkl", "code/hook.py", "python_model.cloudpickle"])
def test_files_that_do_not_belong_are_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_bytes(b"x")
    with pytest.raises(ModelError, match=f"unexpected files: {name}"):
        _check(folder)


def test_code_paths_are_refused(folder: Path) -> None:
    described = yaml.safe_load((folder / "MLmodel").read_text())
    described["flavors"]["python_function"]["code"] = "code"
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    with pytest.raises(ModelError, match="code of its own"):
        _check(folder)


def test_a_folder_without_its_description_is_refused(folder: Path) -> None:
    (folder / "MLmodel").write_text("- 1\n")
    with pytest.raises(ModelError, match="no mapping"):
        _check(folder)
    (folder / "MLmodel").unlink()
    with pytest.raises(ModelError, match="MLmodel cannot be read"):
        _check(folder)


def test_a_model_of_another_scikit_learn_is_refused(folder: Path) -> None:
    described = yaml.safe_load((folder / "MLmodel").read_text())
    described["flavors"]["sklearn"]["sklearn_version"] = "1.2.2"
    (folder / "MLmodel").write_text(yaml.safe_dump(described))
    with pytest.raises(ModelError, match=r"stored by scikit-learn 1\.2\.2, here is"):
        _check(folder)


def test_symbolic_links_and_broken_archives_are_refused(folder: Path) -> None:
    (folder / "model.skops").write_bytes(b"not a zip")
    with pytest.raises(ModelError, match="no skops archive"):
        _check(folder)
    (folder / "model.skops").unlink()
    (folder / "model.skops").symlink_to(folder / "MLmodel")
    with pytest.raises(ModelError, match="symbolic link"):
        folder_sha256(folder)


def test_model_names_are_checked_before_they_reach_a_query(registry: Registry) -> None:
    with pytest.raises(ModelError, match="no model name"):
        registry.latest("x' OR name != '", "training_key", "k")


def test_a_run_of_before_has_no_groups_and_what_cannot_be_read_is_an_error(tmp_path: Path) -> None:
    import mlflow

    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db", str(tmp_path / "artifacts"))
    registry.make()
    client = mlflow.MlflowClient(registry.tracking_uri)
    experiment = client.get_experiment_by_name(registry.experiment)
    assert experiment is not None
    run_id = client.create_run(experiment.experiment_id).info.run_id
    assert registry.groups_of(Version("node-energy", "1", run_id)) == []
    with pytest.raises(RegistryError):
        registry.groups_of(Version("node-energy", "2", "no-such-run"))


def test_asking_a_store_that_nobody_made_does_not_make_it(tmp_path: Path) -> None:
    registry = Registry(f"sqlite:///{tmp_path}/mlflow.db")
    assert registry.champion("node-energy") is None
    assert registry.latest("node-energy", "promotion", "refused") is None
    assert registry.names(("facility-",)) == []
    assert not list(tmp_path.iterdir())


def test_two_processes_may_meet_on_a_fresh_store(tmp_path: Path) -> None:
    # One interpreter, which imports MLflow once, becomes two.
    code = (
        "import os, sys; from lepton_etl.models.registry import Registry, import_ahead\n"
        "import_ahead(); parent = os.getpid(); other = os.fork()\n"
        "registry = Registry(sys.argv[1]); registry.make(); print(registry.champion('node-energy'), flush=True)\n"
        "sys.exit(os.waitpid(other, 0)[1] if os.getpid() == parent else 0)"
    )
    command = [sys.executable, "-c", code, f"sqlite:///{tmp_path}/new/mlflow.db"]
    both = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert (both.returncode, both.stdout.split()) == (0, ["None", "None"]), both.stderr
    # Both saw a complete store.
    assert (tmp_path / "new" / "mlflow.db").stat().st_size > 0


def test_a_process_that_is_killed_as_it_makes_the_store_leaves_it_to_the_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """MLflow takes a database with some of its tables for one that it can make anew, and fails for ever."""
    code = (
        "import os, signal, sys, sqlalchemy\n"
        "from lepton_etl.models.registry import Registry\n"
        "def strike(_connection, _cursor, statement, *_):\n"
        "    if 'CREATE TABLE guardrails' in statement: os.kill(os.getpid(), signal.SIGKILL)\n"
        "sqlalchemy.event.listen(sqlalchemy.Engine, 'after_cursor_execute', strike)\n"
        "Registry(sys.argv[1]).make()"
    )
    uri = f"sqlite:///{tmp_path}/mlflow.db"
    killed = subprocess.run([sys.executable, "-c", code, uri], capture_output=True, check=False, timeout=300)
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    monkeypatch.setattr(module, "_make", MAKE)
    registry = Registry(uri)
    registry.make()
    assert registry.champion("node-energy") is None
    assert not list(tmp_path.glob("*.new*"))


def test_consumer_script_predicts_without_spark(
    registry: Registry, champion: Version, hours: pd.DataFrame, tmp_path: Path
) -> None:
    rows = hours.tail(5).drop(columns=["energy_kwh"])
    rows.to_csv(tmp_path / "rows.csv", index=False)
    command = [sys.executable, str(SCRIPT), "--tracking-uri", registry.tracking_uri]
    options = ["--rows", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "out.csv")]
    subprocess.run([*command, *options], check=True, capture_output=True, cwd=SCRIPT.parents[1])
    out = pd.read_csv(tmp_path / "out.csv")
    assert out["predicted_kwh"].to_numpy() == pytest.approx(
        registry.verified_model("node-energy").predict(rows)
    )
    assert out["model_version"].astype(str).unique().tolist() == [champion.version]


def test_consumer_script_says_columns_and_what_is_missing(registry: Registry, champion: Version) -> None:
    app = typer.Typer()
    app.command()(runpy.run_path(str(SCRIPT))["main"])
    at = ["--tracking-uri", registry.tracking_uri]
    said = CliRunner().invoke(app, [*at, "--columns"])
    assert "inlet_temp_c\tdegree_Celsius" in said.output
    lost = CliRunner().invoke(app, [*at, "--name", "lost", "--columns"])
    assert lost.exit_code == 1
    assert "models:/lost@champion: there is no such model" in lost.output
