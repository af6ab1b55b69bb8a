"""Settings: typed, checked before anything is read, every mistake named."""

from __future__ import annotations

import copy
import importlib.util
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from lepton_etl.config.settings import load
from lepton_etl.errors import ConfigurationError
from tests.conftest import PROJECT

GOOD: dict[str, Any] = {
    "site": {"site_id": "s1", "timezone": "Europe/Berlin"},
    "lake": {"root": "lake"},
    "mlflow": {"tracking_uri": "sqlite:///ml/flow.db", "artifact_location": "ml/artifacts"},
    "fleet": {"inventory": "inventory.csv"},
    "sources": [{"name": "bmc", "format": "ipmitool", "path": "landing/*.txt.gz"}],
    "grid": {"zone": "DE", "intensity": "grid/*.csv"},
}


def write(folder: Path, **changes: Any) -> Path:
    file = folder / "site.yaml"
    file.write_text(yaml.safe_dump(copy.deepcopy(GOOD) | changes))
    file.chmod(0o600)
    return file


def test_relative_paths_hold_from_the_settings_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir("/")
    settings = load(write(tmp_path))
    assert settings.lake.root == str(tmp_path / "lake")
    assert settings.mlflow.tracking_uri == f"sqlite:///{tmp_path}/ml/flow.db"
    assert settings.sources[0].path == f"{tmp_path}/landing/*.txt.gz"
    assert settings.grid is not None and settings.grid.intensity == f"{tmp_path}/grid/*.csv"


def test_absolute_paths_and_uris_stay(tmp_path: Path) -> None:
    mlflow = {"tracking_uri": "http://mlflow.example:5000", "artifact_location": "s3://bucket/x"}
    settings = load(write(tmp_path, mlflow=mlflow, lake={"root": "/srv/lake"}))
    assert settings.lake.root == "/srv/lake"
    assert (settings.mlflow.tracking_uri, settings.mlflow.artifact_location) == tuple(mlflow.values())


def test_variables_are_expanded_and_the_environment_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LAKES", "/srv/lakes")
    monkeypatch.setenv("LEPTON__ENERGY__INTERVAL_S", "600")
    settings = load(write(tmp_path, lake={"root": "${LAKES}/a"}, site={"site_id": "${NAME:-fallback}"}))
    assert settings.lake.root == "/srv/lakes/a"
    assert settings.site.site_id == "fallback"
    assert settings.energy.interval_s == 600


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        (
            {"site": {"site_id": "s1", "timezone": "CEST2"}},
            "key site.timezone = 'CEST2': not an IANA time zone",
        ),
        ({"site": {"site_id": "x; DROP"}}, "key site.site_id = 'x; DROP'"),
        ({"lakes": {"root": "x"}}, "key lakes = {'root': 'x'}: no such key"),
        ({"lake": {}}, "key lake.root: Field required"),
        ({"energy": {"interval_s": 700}}, "interval_s 700 does not divide 3600"),
        ({"energy": {"coverage_min_ratio": 1.5}}, "key energy.coverage_min_ratio = 1.5"),
        ({"facility": {"pue_assumed": 0.9}}, "key facility.pue_assumed = 0.9"),
        (
            {"grid": {"zone": "DE", "intensity": "x", "intensity_basis": "lifecycle"}},
            "direct and signal average only",
        ),
        ({"sources": []}, "key sources = []"),
        ({"sources": [GOOD["sources"][0], GOOD["sources"][0]]}, "two sources are called bmc"),
        ({"sources": [GOOD["sources"][0] | {"format": "ipmi"}]}, "ipmi"),
        ({"sources": [GOOD["sources"][0] | {"node_id_from_path": "(x"}]}, "no regular expression"),
        ({"sources": [GOOD["sources"][0] | {"node_id_from_path": "x"}]}, "has no group (?P<node_id>...)"),
        ({"lake": {"root": "${NOT_SET_ANYWHERE}"}}, "environment variable NOT_SET_ANYWHERE is not set"),
    ],
)
def test_a_mistake_names_key_value_and_what_is_allowed(
    tmp_path: Path, changes: dict[str, Any], said: str
) -> None:
    file = write(tmp_path, **changes)
    with pytest.raises(ConfigurationError) as caught:
        load(file)
    assert said in str(caught.value)
    assert str(file) in str(caught.value)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["- 1\n- 2\n", "site: [", "\x00"])
def test_what_is_no_mapping_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "site.yaml"
    file.write_text(text)
    with pytest.raises(ConfigurationError, match=r"site\.yaml"):
        load(file)


def test_the_digest_holds_no_password_and_changes_with_a_setting(tmp_path: Path) -> None:
    uri = "postgresql://user:{}@db.example/mlflow"
    one = load(write(tmp_path, mlflow={"tracking_uri": uri.format("a")}))
    other = load(write(tmp_path, mlflow={"tracking_uri": uri.format("b")}))
    changed = load(write(tmp_path, energy={"interval_s": 600}))
    assert one.digest == other.digest != changed.digest


@pytest.mark.parametrize(
    "file",
    sorted([*PROJECT.glob("conf/*.yaml"), *PROJECT.glob("conf/examples/*.yaml")]),
    ids=lambda f: f.name,
)
def test_every_shipped_settings_file_loads(file: Path) -> None:
    assert load(file).sources


def test_the_committed_schema_is_the_settings_own() -> None:
    spec = importlib.util.spec_from_file_location(
        "settings_schema", PROJECT / "scripts" / "settings_schema.py"
    )
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    committed = (PROJECT / "conf" / "settings.schema.json").read_text(encoding="utf-8")
    assert committed == script.schema(), "run scripts/settings_schema.py"


@pytest.mark.parametrize(
    "file",
    sorted([*PROJECT.glob("conf/*.yaml"), *PROJECT.glob("conf/examples/*.yaml")]),
    ids=lambda file: file.name,
)
def test_shipped_settings_fit_the_schema(file: Path) -> None:
    content = yaml.safe_load(file.read_text(encoding="utf-8"))
    schema = json.loads((PROJECT / "conf" / "settings.schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, schema)
    content["sources"][0]["foramt"] = "ipmitool"
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(content, schema)
