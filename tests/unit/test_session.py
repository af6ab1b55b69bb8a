"""The settings of a Spark session started from Python, in a checkout and in an installed wheel."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path

import pytest

from lepton_etl.conf_files import conf_path
from lepton_etl.errors import ConfigurationError
from lepton_etl.lake import session

JARS = {"delta.jar": b"reviewed", "storage.jar": b"reviewed too"}


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An installation without a checkout's jars, two jars to fetch; the folder where Ivy puts them."""
    conf = tmp_path / "conf"
    conf.mkdir()
    for name in ("spark-defaults.conf", "delta-jars.conf", "ivysettings.xml", "log4j2.properties"):
        (conf / name).write_bytes(conf_path(name).read_bytes())
    sums = [f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in JARS.items()]
    (conf / "jars.sha256").write_text("".join(sums), encoding="utf-8")
    monkeypatch.setattr(session, "conf_path", lambda name: conf / name)
    monkeypatch.setattr(session, "PROJECT", tmp_path / "site-packages")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "lepton-etl" / "ivy"


def test_relative_paths_of_the_file_hold_from_any_folder(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = session.spark_defaults()
    assert settings["spark.pyspark.python"] == sys.executable
    log4j = settings["spark.driver.extraJavaOptions"].rpartition("-Dlog4j2.configurationFile=")[2]
    assert Path(log4j).is_absolute()
    assert Path(log4j).is_file()


def test_an_installed_wheel_lets_ivy_fetch_the_pinned_jars(installed: Path) -> None:
    settings = session.spark_defaults()
    assert "spark.jars" not in settings
    assert settings["spark.jars.packages"] == "io.delta:delta-spark_4.1_2.13:4.4.0"
    assert "org.slf4j:*" in settings["spark.jars.excludes"]
    assert settings["spark.jars.ivy"] == str(installed)
    assert Path(settings["spark.jars.ivySettings"]).is_file()


def test_fetched_jars_are_taken_without_ivy_while_their_checksums_hold(installed: Path) -> None:
    jars = installed / "jars"
    jars.mkdir(parents=True)
    for name, content in JARS.items():
        (jars / name).write_bytes(content)
    settings = session.spark_defaults()
    assert settings["spark.jars"] == f"{jars}/delta.jar,{jars}/storage.jar"
    assert "spark.jars.packages" not in settings
    (jars / "storage.jar").write_bytes(b"something else")
    assert "spark.jars.packages" in session.spark_defaults()


def test_a_checkouts_jars_come_first(
    installed: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "delta.jar").write_bytes(b"reviewed")
    defaults = tmp_path / "conf" / "spark-defaults.conf"
    lines = defaults.read_text(encoding="utf-8").splitlines()
    lines = [
        f"spark.jars  {tmp_path}/delta.jar" if line.startswith("spark.jars ") else line for line in lines
    ]
    defaults.write_text("\n".join(lines), encoding="utf-8")
    assert session.spark_defaults()["spark.jars"] == f"{tmp_path}/delta.jar"


def test_a_file_of_conf_that_is_missing_is_named() -> None:
    with pytest.raises(ConfigurationError, match=r"conf/nothing\.yaml is missing"):
        conf_path("nothing.yaml")
