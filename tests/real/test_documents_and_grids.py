"""Real answers of queries, Slurm's service, grids and weather decode as a plain Python reading of them says.

The counts are laid down in document_counts.csv.
"""

import csv
import io
import json
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lepton_etl.ingest.decoded import Decoded, Origin
from tests.conftest import real_data
from tests.decoding import decode, settings_of
from tests.real.laid_down import LaidDown, plain

REAL = real_data()
LAID_DOWN = LaidDown("document_counts.csv")
KEPLER = REAL / "kepler-prometheus-range" / "idle.json.gz"

pytestmark = [
    pytest.mark.real,
    pytest.mark.skipif(not KEPLER.is_file(), reason="LEPTON_REAL_DATA has no kepler-prometheus-range"),
]


def files(folder: str, pattern: str) -> list[Path]:
    return sorted((REAL / folder).glob(pattern))


def decoded(path: Path, settings: dict[str, Any]) -> Decoded:
    """What the decoder makes of a file of no node; counts as laid down."""
    return LAID_DOWN.decoded(path, settings, node_id=None)


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
            "record": "job",
            "node_id": None,
            "device_ids": None,
            "tenant_id": None,
            "cpu_time_s": None,
        }
        for number, job in enumerate(jobs, start=1)
    ]


def test_slurm_nodes_without_an_energy_plugin_say_nothing() -> None:
    result = decoded(REAL / "telegraf-hw" / "slurm__nodes.json", {"format": "slurm"})
    assert result.structure_lines == 3


EIA_ZONES = {"CISO": "US-CAL-CISO", "ERCO": "US-TEX-ERCO", "NYIS": "US-NY-NYIS", "PJM": "US-MIDA-PJM"}
FACTORS = {"WND": 11, "SUN": 41, "WAT": 24, "OIL": 650, "NG": 490, "COL": 820, "NUC": 12, "OTH": 230}
CALIFORNIA_CHANGED = datetime(2022, 6, 16, 7, tzinfo=UTC)


@pytest.mark.parametrize("path", files("grid-ci-eia930-2022", "*.csv.gz"), ids=lambda path: path.name)
def test_eia930_year(path: Path) -> None:
    authority = path.name.partition("_")[0]
    result = decoded(path, {"format": "eia930", "zone": EIA_ZONES[authority]})
    expected = []
    for position, row in enumerate(csv.DictReader(plain(path).decode().splitlines()), start=2):
        if not row["avg_CI"]:
            continue
        stamp = datetime.fromisoformat(row["timestamp"])
        starts = authority == "CISO" and stamp < CALIFORNIA_CHANGED
        # The intensity is the mean of the fuels' factors by what they generated: the value is its own proof.
        generation = {fuel: float(row[fuel] or 0) for fuel in FACTORS}
        mean = sum(FACTORS[fuel] * generation[fuel] for fuel in FACTORS) / sum(generation.values())
        assert mean == pytest.approx(float(row["avg_CI"]), rel=1e-9)
        expected.append((position, stamp if starts else stamp - timedelta(hours=1), float(row["avg_CI"])))
    assert [
        (r["source_position"], r["reading_time"], r["value"]) for r in result.readings.to_pylist()
    ] == expected
    assert set(result.readings["point"].to_pylist()) == {"lifecycle"}
    assert set(result.readings["device_id"].to_pylist()) == {EIA_ZONES[authority]}


def test_california_s_solar_noon_does_not_jump() -> None:
    path = REAL / "grid-ci-eia930-2022" / "CISO_NG_avgCI.csv.gz"
    result = decoded(path, {"format": "eia930", "zone": "US-CAL-CISO"})
    start_of = dict(
        zip(
            result.readings["source_position"].to_pylist(),
            result.readings["reading_time"].to_pylist(),
            strict=True,
        )
    )
    noons: dict[bool, list[float]] = {False: [], True: []}
    weight: dict[bool, float] = {False: 0.0, True: 0.0}
    for position, row in enumerate(csv.DictReader(plain(path).decode().splitlines()), start=2):
        stamp = datetime.fromisoformat(row["timestamp"])
        if position in start_of and abs(stamp - CALIFORNIA_CHANGED) < timedelta(days=31):
            local = start_of[position] - timedelta(hours=8)
            after = stamp >= CALIFORNIA_CHANGED
            noons[after].append((local.hour + 0.5) * float(row["SUN"]))
            weight[after] += float(row["SUN"])
    before, since = (sum(noons[after]) / weight[after] for after in (False, True))
    # Under half an hour apart: nearer to the same label than to one an hour off (without the exception it is 0.67 h).
    assert abs(before - since) < 0.5
    assert 11.5 < since < 12.5


@pytest.mark.parametrize("path", files("weather-openmeteo", "*.json.gz"), ids=lambda path: path.name)
def test_openmeteo_year(path: Path) -> None:
    result = decoded(path, {"format": "openmeteo"})
    answer = json.loads(plain(path))
    clock = timedelta(seconds=answer["utc_offset_seconds"])
    stamps = [datetime.fromisoformat(text).replace(tzinfo=UTC) - clock for text in answer["hourly"]["time"]]
    expected = {
        "outdoor_dry_bulb_temperature": answer["hourly"]["temperature_2m"],
        "relative_humidity": [percent / 100 for percent in answer["hourly"]["relative_humidity_2m"]],
    }
    readings = result.readings.to_pylist()
    for quantity, values in expected.items():
        found = [(r["reading_time"], r["value"]) for r in readings if r["quantity"] == quantity]
        assert found == list(zip(stamps, values, strict=True))
    assert {(r["device_id"], r["node_id"], r["statistic"]) for r in readings} == {
        ("weather", None, "instant")
    }


BIOHPC_COLUMNS = {
    "timezone": "America/New_York",
    "time": {"column": "timestamp", "format": "%Y-%m-%d %H:%M:%S%.f", "ambiguous": "merged"},
    "node_id": {"column": "name"},
    "device_id": {"value": "gpu"},
    "readings": [
        {
            "column": "powerave",
            "quantity": "gpu_power",
            "unit": "W",
            "statistic": "mean",
            "window_s": 3600,
            "multiplicity": 2,
        },
        {
            "column": "utilave",
            "quantity": "gpu_utilisation",
            "unit": "percent",
            "statistic": "mean",
            "window_s": 3600,
        },
    ],
}


def test_a_real_table_means_the_same_as_parquet() -> None:
    text = plain(REAL / "biohpc-gpu-servers" / "cbsugpu05_usage_stats.txt.gz").decode("utf-8-sig")
    origin = Origin("site", "source", "table", None, "UTC")
    settings = BIOHPC_COLUMNS | {"format": "delimited", "delimiter": "\t"}
    as_text = decode(text.encode(), origin, settings_of(settings))
    header, *rows = [line.split("\t") for line in text.splitlines() if line.count("\t") > 2]
    columns = dict(zip(header, zip(*rows, strict=True), strict=True))
    stamps = [datetime.fromisoformat(stamp) for stamp in columns["timestamp"]]
    table = pa.table(
        {
            "timestamp": pa.array(stamps, pa.timestamp("ms")),
            "name": pa.array(columns["name"]).dictionary_encode(),
            "powerave": pa.array(map(float, columns["powerave"])),
            "utilave": pa.array(map(float, columns["utilave"])),
        }
    )
    file = io.BytesIO()
    pq.write_table(table, file, row_group_size=5_000, write_page_checksum=True)
    as_parquet = decode(file.getvalue(), origin, settings_of(BIOHPC_COLUMNS | {"format": "parquet"}))
    as_parquet.check()
    same = (
        "node_id",
        "device_id",
        "quantity",
        "value",
        "window_s",
        "reading_time",
        "multiplicity",
        "statistic",
    )
    assert as_text.readings.num_rows == 46_742
    in_order = [("quantity", "ascending"), ("reading_time", "ascending"), ("value", "ascending")]
    found, wanted = (part.readings.select(same).sort_by(in_order) for part in (as_parquet, as_text))
    assert found.equals(wanted)
