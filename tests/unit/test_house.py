"""The house holds together: locks, jars, Spark's settings, one version."""

from __future__ import annotations

import ast
import configparser
import hashlib
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pyspark
import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import lepton_etl

ROOT = Path(__file__).resolve().parents[2]
JARS = ROOT / "var" / "ivy" / "jars"
SPARK_JARS = Path(pyspark.__file__).parent / "jars"
LOCKS = ("requirements-uv.lock", "requirements-build.lock", "requirements.lock", "requirements-dev.lock")


def locked(lock: str) -> list[tuple[Requirement, list[str]]]:
    """Each requirement of a lock file with its hashes."""
    text = (ROOT / lock).read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for line in text.splitlines():
        if line and not line.lstrip().startswith("#"):
            requirement, *hashes = line.split("--hash=")
            found.append((Requirement(requirement.strip()), [digest.strip() for digest in hashes]))
    return found


def set_up_cfg() -> configparser.ConfigParser:
    config = configparser.ConfigParser()
    config.read(ROOT / "setup.cfg", encoding="utf-8")
    return config


def lines_of(text: str) -> list[str]:
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def spark_conf(name: str) -> dict[str, str]:
    lines = lines_of((ROOT / "conf" / name).read_text(encoding="utf-8"))
    pairs = [line.split(maxsplit=1) for line in lines]
    assert len({key for key, _ in pairs}) == len(pairs), "a key is set twice"
    return dict(pairs)


def listed_jars() -> dict[str, str]:
    lines = (ROOT / "conf" / "jars.sha256").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in map(str.split, lines)}


@pytest.mark.parametrize("lock", LOCKS)
def test_every_locked_package_is_exact_and_hashed(lock: str) -> None:
    requirements = locked(lock)
    assert requirements
    for requirement, hashes in requirements:
        assert re.fullmatch(r"==[^*,]+", str(requirement.specifier)), requirement
        assert requirement.url is None
        assert hashes, f"{requirement} has no hash"
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", digest) for digest in hashes), requirement


@pytest.mark.parametrize("lock", LOCKS)
def test_a_lock_names_no_host_and_no_folder(lock: str) -> None:
    text = (ROOT / lock).read_text(encoding="utf-8")
    assert not re.search(r"https?://|--(extra-)?index-url|--find-links|/tmp|/home", text)


def pins_of(lock: str) -> dict[str, Requirement]:
    return {canonicalize_name(pin.name): pin for pin, _ in locked(lock) if applies(pin.marker)}


@pytest.mark.parametrize(("lock", "extras"), [("requirements.lock", []), ("requirements-dev.lock", ["dev"])])
def test_the_lock_holds_what_setup_cfg_asks_for(lock: str, extras: list[str]) -> None:
    config = set_up_cfg()
    asked = lines_of(config["options"]["install_requires"])
    asked += [line for extra in extras for line in lines_of(config["options.extras_require"][extra])]
    pins = pins_of(lock)
    for line in asked:
        requirement = Requirement(line)
        pin = pins[canonicalize_name(requirement.name)]
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), f"{line}: {pin}"


def test_developers_have_the_users_packages_and_more() -> None:
    users, developers = pins_of("requirements.lock"), pins_of("requirements-dev.lock")
    assert {name: str(developers[name]) for name in users} == {name: str(pin) for name, pin in users.items()}


def test_users_need_no_test_tools() -> None:
    tools = {
        "pytest",
        "pytest-cov",
        "coverage",
        "hypothesis",
        "moto",
        "mypy",
        "ruff",
        "vulture",
        "pre-commit",
    }
    assert tools <= pins_of("requirements-dev.lock").keys()
    assert tools & pins_of("requirements.lock").keys() == set()


def imported(file: Path) -> set[str]:
    """Return the top-level modules that a file imports, wherever in it."""
    nodes = list(ast.walk(ast.parse(file.read_text(encoding="utf-8"))))
    names = [alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names]
    names += [
        node.module for node in nodes if isinstance(node, ast.ImportFrom) and node.module and not node.level
    ]
    return {name.partition(".")[0] for name in names}


def test_what_runs_import_is_in_the_users_lock() -> None:
    """A night that works here, beside the test tools, must not miss one of them elsewhere."""
    users = pins_of("requirements.lock").keys()
    brought_by = metadata.packages_distributions()
    # The compression of Python 3.14 is tried before its backport.
    own = {"lepton_etl", "pipelines", "compression"}
    missing = {
        f"{file.relative_to(ROOT)}: {module}"
        for folder in ("lepton_etl", "pipelines", "jobs")
        for file in (ROOT / folder).rglob("*.py")
        for module in imported(file) - sys.stdlib_module_names - own
        if not {canonicalize_name(name) for name in brought_by.get(module, [])} & users
    }
    assert missing == set()


def test_each_target_sets_up_what_it_needs() -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    needs = dict(re.findall(r"^([a-z-]+): (setup|setup-dev) ##", makefile, re.MULTILINE))
    assert {target for target, level in needs.items() if level == "setup"} == {"demo", "nightly", "report"}
    assert {
        "test",
        "test-slow",
        "test-real",
        "cluster-test",
        "lint",
        "check-lock",
        "bench-ingest",
    } <= needs.keys()


def applies(marker: Marker | None) -> bool:
    return marker is None or marker.evaluate()


def test_the_environment_is_the_locked_one() -> None:
    for lock in LOCKS:
        for pin, _ in locked(lock):
            if applies(pin.marker):
                assert f"=={metadata.version(pin.name)}" == str(pin.specifier), pin.name


def test_the_version_is_said_once() -> None:
    assert set_up_cfg()["metadata"]["version"] == "attr: lepton_etl.__version__"
    assert metadata.version("lepton_etl") == lepton_etl.__version__


def test_the_console_script_is_installed() -> None:
    (script,) = metadata.entry_points(group="console_scripts", name="lepton-etl")
    assert script.value == "lepton_etl.cli.main:run"


def test_delta_is_the_same_release_in_python_jars_and_settings() -> None:
    (pin,) = [line for line in lines_of(set_up_cfg()["options"]["install_requires"]) if "delta-spark" in line]
    release = pin.split("==")[1]
    assert spark_conf("delta-jars.conf")["spark.jars.packages"] == f"io.delta:delta-spark_4.1_2.13:{release}"
    assert f"io.delta_delta-spark_4.1_2.13-{release}.jar" in listed_jars()
    assert metadata.version("delta-spark") == release


def test_spark_takes_exactly_the_checked_jars() -> None:
    named = spark_conf("spark-defaults.conf")["spark.jars"].split(",")
    assert sorted(named) == sorted(f"var/ivy/jars/{name}" for name in listed_jars())


def test_the_fetched_jars_have_the_listed_checksums() -> None:
    present = {jar.name: hashlib.sha256(jar.read_bytes()).hexdigest() for jar in JARS.glob("*.jar")}
    assert present == listed_jars()


def test_no_second_copy_of_what_spark_ships() -> None:
    doubled = [name for name in listed_jars() if re.search("hadoop-client|parquet|log4j|slf4j|jackson", name)]
    assert doubled == []


def test_log4j_is_past_its_known_holes() -> None:
    """2.17.1 ends the Log4Shell family (CVE-2021-44832 the last of it); there is one log4j-core, Spark's."""
    (core,) = SPARK_JARS.glob("log4j-core-*.jar")
    version = tuple(int(part) for part in core.stem.removeprefix("log4j-core-").split("."))
    assert version >= (2, 24, 3)


def test_only_maven_central_is_asked_for_jars() -> None:
    text = (ROOT / "conf" / "ivysettings.xml").read_text(encoding="utf-8")
    assert re.findall(r"<(ibiblio|url|filesystem|chain)\b[^>]*name=\"(\w+)\"", text) == [
        ("ibiblio", "central")
    ]


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("spark.sql.files.ignoreCorruptFiles", "false"),
        ("spark.sql.files.ignoreMissingFiles", "false"),
        ("spark.sql.session.timeZone", "UTC"),
        ("spark.sql.ansi.enabled", "true"),
        ("spark.databricks.delta.snapshotPartitions", "2"),
        ("spark.ui.enabled", "false"),
    ],
)
def test_settings_that_must_not_drift(key: str, value: str) -> None:
    assert spark_conf("spark-defaults.conf")[key] == value


@pytest.mark.parametrize("name", ["spark-defaults.conf", "spark-secure.conf", "delta-jars.conf"])
def test_every_spark_setting_has_its_reason(name: str) -> None:
    """A comment stands above each block of settings."""
    explained = False
    for line in (ROOT / "conf" / name).read_text(encoding="utf-8").splitlines():
        if line.startswith("#"):
            explained = True
        elif not line:
            explained = False
        else:
            assert explained, line


@pytest.mark.parametrize(
    "key",
    [
        "spark.hadoop.fs.azure.sas.container.account",
        "spark.lepton.api_key",
        "spark.lepton.apiKey",
        "spark.ssl.keyPassphrase",
        "spark.hadoop.fs.s3a.access.key",
        "spark.hadoop.fs.s3a.secret.key",
        "spark.hadoop.fs.azure.account.key.x",
        "spark.authenticate.secret",
        "spark.lepton.connection_string",
        "MLFLOW_TRACKING_TOKEN",
        "MLFLOW_TRACKING_PASSWORD",
    ],
)
def test_secrets_are_redacted_by_key(key: str) -> None:
    pattern = spark_conf("spark-defaults.conf")["spark.redaction.regex"]
    assert "\\" not in pattern, "a properties file eats backslashes"
    assert re.search(pattern, key)


def test_ordinary_settings_are_not_redacted() -> None:
    pattern = spark_conf("spark-defaults.conf")["spark.redaction.regex"]
    assert not [key for key in spark_conf("spark-defaults.conf") if re.search(pattern, key)]


def test_a_password_in_an_address_is_redacted() -> None:
    pattern = spark_conf("spark-defaults.conf")["spark.redaction.string.regex"]
    assert re.search(pattern, "postgresql://lepton:canary@db.example/mlflow")
    assert not re.search(pattern, "hdfs://namenode:8020/lake at 12:30 by ops@example.org")


def test_the_secure_example_holds_no_secret() -> None:
    secure = spark_conf("spark-secure.conf")
    assert secure["spark.authenticate"] == "true"
    assert secure["spark.network.crypto.enabled"] == "true"
    assert secure["spark.io.encryption.enabled"] == "true"
    assert secure["spark.acls.enable"] == "true"
    assert secure["spark.network.crypto.saslFallback"] == "false"
    # It is used after the defaults: it must not open what these close.
    both = spark_conf("spark-defaults.conf") | secure
    assert both["spark.ui.enabled"] == "false" and "spark.redaction.regex" not in secure
    assert "spark.authenticate.secret" not in secure


def committed(*suffixes: str) -> Iterator[tuple[str, str]]:
    """Name and text of the files of the product and its pages; of tests only what they name in words is theirs."""
    for folder in ("lepton_etl", "pipelines", "jobs", "scripts", "bench", "conf", "docs", "."):
        for path in (ROOT / folder).glob("*" if folder == "." else "**/*"):
            if path.is_file() and path.suffix in suffixes:
                yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def test_a_server_of_mlflow_is_bound_to_loopback_wherever_one_is_started_or_shown() -> None:
    """Nothing here starts one; pages that show how bind it, and the serving of MLServer is never asked for."""
    starts = re.compile(r"mlflow (?:server|ui)\b[^\n`]*")
    found = {
        f"{name}: {one}"
        for name, text in committed(".py", ".md", ".yaml", ".cfg", "")
        for one in starts.findall(text)
        if "--host 127.0.0.1" not in one
    }
    assert found == set()
    asks = re.compile(r"enable.mlserver\s*=\s*True|--enable-mlserver", re.IGNORECASE)
    assert [name for name, text in committed(".py", ".md", ".yaml", "") if asks.search(text)] == []
    (pin,) = [line for line in lines_of(set_up_cfg()["options"]["install_requires"]) if "mlflow" in line]
    # What is known of how MLflow loads and serves holds for one minor release.
    assert (
        re.fullmatch(r"mlflow >=(\d+)\.(\d+)\.\d+,<\1\.\d+", pin)
        and metadata.version("mlflow") in Requirement(pin).specifier
    )


def test_sql_of_values_is_refused_by_the_linter_but_where_it_is_the_dictionarys_own_text() -> None:
    """S608 finds SQL put together from strings; the files that it leaves out are these, each with its reason."""
    ruff = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["ruff"]["lint"]
    assert "S" in ruff["select"] and not [
        rule for rule in ruff["ignore"] if rule.startswith("S6") and rule > "S607"
    ]
    spared = {name for name, rules in ruff["per-file-ignores"].items() if "S608" in rules or "S" in rules}
    assert spared == {"bench/**", "lepton_etl/quality/slices.py", "pipelines/gate.py"}
    with_noqa = [name for name, text in committed(".py") if "noqa: S608" in text]
    assert with_noqa == []


def test_nothing_committed_names_this_machine() -> None:
    """Only where this is a git checkout: an archive has nothing to list."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    home = re.escape(str(ROOT.parent))
    if home == re.escape("/"):
        pytest.skip("the checkout stands in the root folder")
    for name in filter(None, listed.stdout.split("\0")):
        path = ROOT / name
        if path.is_file() and path.suffix in {
            "",
            ".py",
            ".md",
            ".cfg",
            ".toml",
            ".conf",
            ".yaml",
            ".lock",
            ".xml",
        }:
            assert not re.search(rf"{home}/", path.read_text(encoding="utf-8")), name
