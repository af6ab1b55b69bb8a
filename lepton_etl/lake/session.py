"""The Spark session: one for the whole night, one for the whole test suite.

Under `spark-submit --properties-file conf/spark-defaults.conf` everything is set already. Started from Python (tests,
the console script), the same file is read here, so both ways run on the same settings.

A checkout has Delta's jars from its set-up. Installed from a wheel, the first session fetches them by Spark's own Ivy
into the user's cache; later ones take the files whose checksums hold, and need no network.
"""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from pyspark.errors import PySparkRuntimeError
from pyspark.sql import SparkSession

from lepton_etl.conf_files import conf_path, user_cache
from lepton_etl.errors import ConfigurationError
from lepton_etl.redaction import IS_SECRET

PROJECT: Final = Path(__file__).resolve().parents[2]
_HADOOP: Final = "spark.hadoop."
_DELTA: Final = "io.delta.sql.DeltaSparkSessionExtension"


def spark_session(app_name: str, extra: Mapping[str, str] | None = None) -> SparkSession:
    """The running session, or a new one. Raises ConfigurationError where Java or Delta Lake is not set up.

    `extra` are Spark settings that win over the file.
    """
    # Executors must start the interpreter of this environment, or they miss pyarrow and polars.
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.appName(app_name)
    if not _submitted():
        for key, value in spark_defaults().items():
            builder = builder.config(key, value)
    # A secret on Java's command line is everybody's, and one in Spark's settings goes into its event log.
    secrets = {key: value for key, value in (extra or {}).items() if _is_secret(key)}
    for key, value in (extra or {}).items():
        if key not in secrets:
            builder = builder.config(key, value)
    try:
        session = builder.getOrCreate()
    except PySparkRuntimeError as error:
        if error.getCondition() != "JAVA_GATEWAY_EXITED":
            raise
        raise ConfigurationError(
            "Spark's Java process did not start, its reason stands above",
            where=f"JAVA_HOME={os.environ.get('JAVA_HOME', '')}",
            remedy="name a Java 17 or newer in JAVA_HOME; the first start outside a checkout fetches Delta's jars "
            "and needs Maven Central",
        ) from error
    hadoop: Any = session.sparkContext._jsc.hadoopConfiguration()
    for key, value in secrets.items():
        hadoop.set(key.removeprefix(_HADOOP), value)
    if session.conf.get("spark.jars.ivy", "") == str(_jar_cache()):
        _check_fetched(session)
    if _DELTA not in (session.conf.get("spark.sql.extensions", "") or ""):
        raise ConfigurationError(
            "Delta Lake is not in spark.sql.extensions",
            where="spark-submit",
            remedy="add --properties-file conf/spark-defaults.conf",
        )
    return session


def _is_secret(key: str) -> bool:
    return key.startswith(_HADOOP) and IS_SECRET.search(key) is not None


def spark_defaults() -> dict[str, str]:
    """Return conf/spark-defaults.conf with its relative paths made good, wherever Python was started."""
    settings = read_properties(conf_path("spark-defaults.conf"))
    settings["spark.pyspark.python"] = sys.executable
    java = "spark.driver.extraJavaOptions"
    settings[java] = settings[java].replace("=conf/log4j2.properties", f"={conf_path('log4j2.properties')}")
    fetched = settings.pop("spark.jars").split(",")
    return settings | _delta_jars([PROJECT / jar for jar in fetched])


def _delta_jars(of_checkout: list[Path]) -> dict[str, str]:
    """Return the settings that bring Delta's jars: files that are there already, or what Ivy is to fetch."""
    if all(jar.is_file() for jar in of_checkout):
        return {"spark.jars": ",".join(map(str, of_checkout))}
    cache = _jar_cache()
    if not _wrong_jars(cache):
        return {"spark.jars": ",".join(str(cache / "jars" / name) for name in _checksums())}
    return read_properties(conf_path("delta-jars.conf")) | {
        "spark.jars.ivy": str(cache),
        "spark.jars.ivySettings": str(conf_path("ivysettings.xml")),
    }


def _check_fetched(session: SparkSession) -> None:
    """Stop the session whose jars are not the reviewed ones. Raises ConfigurationError naming them."""
    wrong = _wrong_jars(_jar_cache())
    if wrong:
        session.stop()
        raise ConfigurationError(
            f"absent, or not of the SHA-256 in conf/jars.sha256: {', '.join(wrong)}",
            where=str(_jar_cache()),
            remedy="remove that folder and run again; if it stays so, do not use what was served",
        )


def _jar_cache() -> Path:
    return user_cache() / "ivy"


def _checksums() -> dict[str, str]:
    """Return jar name -> SHA-256 of conf/jars.sha256."""
    lines = conf_path("jars.sha256").read_text(encoding="utf-8").splitlines()
    return {name: digest for digest, name in map(str.split, lines)}


def _wrong_jars(cache: Path) -> list[str]:
    """Return the names of the jars that are not there or not as reviewed."""
    return [name for name, digest in _checksums().items() if _sha256(cache / "jars" / name) != digest]


def _sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else ""


def read_properties(file: Path) -> dict[str, str]:
    """Key and value of each line, white space between them; `#` starts a comment line."""
    if not file.is_file():
        raise ConfigurationError(
            "the Spark defaults are missing",
            where=str(file),
            remedy="run from a checkout, or by spark-submit",
        )
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        text = line.strip()
        if text and not text.startswith("#"):
            key, value = text.split(maxsplit=1)
            found[key] = value
    return found


def _submitted() -> bool:
    # spark-submit starts Python with the address of its gateway.
    return "PYSPARK_GATEWAY_PORT" in os.environ
