"""Our bronze stage, in a session that is already up: python -m bench.ours KIND INPUT LAKE."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any, Final

import structlog

from bench.measure import timed
from lepton_etl.config.settings import Settings
from lepton_etl.days import Days
from lepton_etl.lake.session import spark_session
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.logs import FILE, READING, REJECT
from pipelines import bronze
from pipelines.engine import Engine, SparkEngine
from pipelines.stage import StageContext

LOOP_READINGS: Final = (
    *(
        {"column": f"power[{number}]", "quantity": "heat_power", "unit": "W", "device": f"loop{number}"}
        for number in range(1, 26)
    ),
    {
        "column": "OA Wetbulb Temp",
        "quantity": "outdoor_wet_bulb_temperature",
        "unit": "degC",
        "device": "weather",
    },
)
SOURCES: Final[dict[str, dict[str, Any]]] = {
    "ipmitool": {
        "format": "ipmitool", "path": "*.txt.gz", "node_id_from_path": r"(?P<node_id>[^/]+)-\d{4}-\d\d-\d\d\.txt"
    },
    "large": {
        "format": "ipmitool", "path": "*.txt.gz", "node_id_from_path": r"(?P<node_id>[^/]+)-\d{4}-\d\d-\d\d\.txt"
    },
    "csv": {
        "format": "delimited",
        "path": "*.csv",
        "time": {"column": "time", "format": "%Y-%m-%d %H:%M:%S"},
        "readings": LOOP_READINGS,
    },
    "prometheus": {"format": "prometheus", "path": "*.prom", "node_id_from_path": r"(?P<node_id>gpu\d+)\.prom"},
    "parquet": {
        "format": "parquet",
        "path": "*.parquet",
        "time": {"column": "time"},
        "readings": LOOP_READINGS,
    },
}  # fmt: skip


def settings(kind: str, folder: Path, lake: Path) -> Settings:
    """Settings of a site with this one source."""
    source, inventory = SOURCES[kind], lake / "inventory.csv"
    # Bronze asks it for the names of nodes alone; those of these logs stand as they are. Not among the logs.
    inventory.parent.mkdir(parents=True, exist_ok=True)
    inventory.write_text("node_id\nnone\n", encoding="utf-8")
    return Settings.model_validate(
        {
            "site": {"site_id": "bench"},
            "lake": {"root": lake},
            "fleet": {"inventory": inventory},
            "sources": [{"name": "bench", **source, "path": f"{folder.resolve()}/{source['path']}"}],
        }
    )


def context(kind: str, folder: Path, target: Path, engine: Engine) -> StageContext:
    """What the stage asks for, with a lake whose tables exist, as in every night but the first."""
    lake = Lake(target)
    for table in (FILE, READING, REJECT):
        lake.ensure(table)
    now = datetime.now(UTC)
    return StageContext(
        lake, settings(kind, folder, target), Days(date(2025, 6, 3), date(2025, 6, 3)), f"bench-{now:%H%M%S}",
        structlog.get_logger(), engine,
    )  # fmt: skip


def main(kind: str, folder: Path, target: Path) -> None:
    cores = len(os.sched_getaffinity(0))
    spark = spark_session("bench", {"spark.master": f"local[{cores}]", "spark.driver.memory": "2g"})
    spark.sparkContext.setLogLevel("ERROR")
    ready = context(kind, folder, target, SparkEngine.of(spark))
    # That the workers start is not the work that is timed: they start once a night.
    ready.engine.map(_warm, range(cores))
    run = timed(lambda: bronze.run(ready).rows_out)
    print(json.dumps(asdict(run)))


def _warm(number: int) -> int:
    from lepton_etl.ingest.registry import formats

    return len(formats())


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]))
