"""Real answers of queries, Slurm's service, grids and weather decode as a plain Python reading of them says.

The counts are laid down in document_counts.csv.
"""

import csv
import gzip
import json
import os
from collections import Counter
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from lepton_etl.telemetry.decoded import Decoded, Origin
from lepton_etl.telemetry.formats import decode
from lepton_etl.telemetry.specs import spec_of

HERE = Path(__file__).parent
REAL = Path(os.environ.get("LEPTON_REAL_DATA", HERE.parents[1] / ".." / "shared" / "data")).resolve()
KEPLER = REAL / "kepler-prometheus-range" / "idle.json.gz"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not KEPLER.is_file(), reason="LEPTON_REAL_DATA has no kepler-prometheus-range"),
]

with (HERE / "document_counts.csv").open(newline="", encoding="utf-8") as counts_file:
    LAID_DOWN = {
        row.pop("file"): {name: int(count) for name, count in row.items()}
        for row in csv.DictReader(counts_file)
    }


def files(folder: str, pattern: str) -> list[Path]:
    return sorted((REAL / folder).glob(pattern))


def plain(path: Path) -> bytes:
    data = path.read_bytes()
    return gzip.decompress(data) if path.suffix == ".gz" else data


def decoded(path: Path, settings: dict[str, Any]) -> Decoded:
    """What the decoder makes of a file; counts as laid down."""
    origin = Origin("site", "source", path.name, None, "UTC", datetime(2026, 1, 1, tzinfo=UTC))
    result = decode(plain(path), origin, spec_of(settings))
    result.check()
    assert {
        "records": result.records,
        "readings": result.readings.num_rows,
        "jobs": result.jobs.num_rows,
        "rejects": result.rejects.num_rows,
        "duplicates": result.duplicates,
        "unmapped": sum(count for (_, reason), count in result.ignored.items() if reason == "unmapped"),
        "no_value": sum(count for (_, reason), count in result.ignored.items() if reason == "no_value"),
    } == LAID_DOWN[path.name]
    return result


def test_kepler_range_query() -> None:
    result = decoded(KEPLER, {"format": "prometheus"})
    scope = {
        "kepler_node_package_joules_total": ("cpu_energy", "cpu{package}"),
        "kepler_node_dram_joules_total": ("dram_energy", "dram{package}"),
        "kepler_node_gpu_joules_total": ("gpu_energy", "gpu{index}"),
        "kepler_node_platform_joules_total": ("node_energy", "node"),
    }
    expected, others = Counter[tuple[Any, ...]](), Counter[str]()
    for name, series in json.loads(plain(KEPLER)).items():
        for one in series:
            for stamp, value in one["values"]:
                labels = one["metric"]
                if name not in scope:
                    others[name] += 1
                    continue
                quantity, device = scope[name]
                device = f"{device.format_map(labels)}_{labels['mode']}"
                time = datetime.fromtimestamp(stamp, UTC)
                expected[("kind-fms-control-plane", device, quantity, "counter", time, float(value))] += 1
    columns = ("node_id", "device_id", "quantity", "statistic", "reading_time", "value")
    assert Counter(tuple(row[name] for name in columns) for row in result.readings.to_pylist()) == expected
    assert Counter({name: count for (name, _), count in result.ignored.items()}) == others


def test_slurm_jobs_of_the_service() -> None:
    path = REAL / "telegraf-hw" / "slurm__jobs.json"
    result = decoded(path, {"format": "slurm"})
    jobs = json.loads(plain(path))["jobs"]
    memory_mib = {"4000M": 4000, "16000M": 16000}

    def at(stamp: int) -> datetime:
        return datetime.fromtimestamp(stamp, UTC)

    assert result.jobs.to_pylist() == [
        {
            "cluster_name": "local",
            "job_id": str(job["job_id"]),
            "step_id": None,
            "restart": 0,
            "user_name": "atl001",
            "account": None,
            "partition": "atlas",
            "state": job["job_state"],
            "submit_time": at(job["submit_time"]),
            "start_time": at(job["start_time"]),
            # Of a job that runs the service writes when it is expected to end.
            "end_time": at(job["end_time"]) if job["job_state"] == "COMPLETED" else None,
            "node_list": job["nodes"],
            "node_count": 1,
            "cpu_count": job["cpus"],
            "gpu_count": None,
            "memory_byte": memory_mib[job["tres_alloc_str"].split("mem=")[1].split(",")[0]] * 2.0**20,
            "consumed_energy_j": None,
            "source_position": number,
        }
        for number, job in enumerate(jobs, start=1)
    ]


def test_slurm_nodes_without_an_energy_plugin_say_nothing() -> None:
    result = decoded(REAL / "telegraf-hw" / "slurm__nodes.json", {"format": "slurm"})
    assert result.structure_lines == 3
