"""The Spark session: one for the whole night, one for the whole test suite.

Under `spark-submit --properties-file conf/spark-defaults.conf` everything is set already. Started from Python (tests,
the console script), the same file is read here, so both ways run on the same settings.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from pyspark.sql import SparkSession

from lepton_etl.errors import ConfigurationError

PROJECT: Final = Path(__file__).resolve().parents[2]
DEFAULTS: Final = PROJECT / "conf" / "spark-defaults.conf"
_DELTA: Final = "io.delta.sql.DeltaSparkSessionExtension"


def spark_session(app_name: str, extra: Mapping[str, str] | None = None) -> SparkSession:
    """The running session, or a new one. Raises ConfigurationError where Delta Lake is not set up.

    `extra` are Spark settings that win over the file.
    """
    # Executors must start the interpreter of this environment, or they miss pyarrow and polars.
    os.environ["PYSPARK_PYTHON"] = sys.executable
    builder = SparkSession.builder.appName(app_name)
    if not _submitted():
        for key, value in read_properties(DEFAULTS).items():
            builder = builder.config(key, _from_project(key, value))
    for key, value in (extra or {}).items():
        builder = builder.config(key, value)
    session = builder.getOrCreate()
    if _DELTA not in (session.conf.get("spark.sql.extensions", "") or ""):
        raise ConfigurationError(
            "Delta Lake is not in spark.sql.extensions",
            where="spark-submit",
            remedy="add --properties-file conf/spark-defaults.conf",
        )
    return session


def _from_project(key: str, value: str) -> str:
    """Relative paths of the file hold from the project's folder, wherever Python was started."""
    if key == "spark.jars":
        return ",".join(str(PROJECT / jar) for jar in value.split(","))
    if key == "spark.pyspark.python":
        return sys.executable
    return value.replace("=conf/log4j2.properties", f"={PROJECT / 'conf' / 'log4j2.properties'}")


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
