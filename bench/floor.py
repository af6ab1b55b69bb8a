"""The floor: what reading every byte and finding the rows costs at the least. Frozen; not the project's decoder.

No rejects, no counting of what is left out, no bounds, no duplicates, no identity of files, no table: bytes to the
same long rows in Parquet, in one process a core.
"""

from __future__ import annotations

import csv
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv as arrow_csv
import pyarrow.parquet as pq
from isal import igzip_lib

from bench.measure import Run, timed

_UTC_US = pa.timestamp("us", "UTC")


def run(kind: str, folder: Path, target: Path, cores: int) -> Run:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    groups = [files[number::cores] for number in range(cores)]
    with ProcessPoolExecutor(cores) as pool:
        list(pool.map(_ready, range(cores)))

        def work() -> int:
            return sum(pool.map(_group, [kind] * cores, groups, [target] * cores, range(cores)))

        return timed(work)


def _ready(number: int) -> int:
    pa.set_cpu_count(1)
    return number


def _group(kind: str, files: list[Path], target: Path, number: int) -> int:
    mapping = _mapping(files[0].parent / ".mapping.csv")
    decode = {"ipmitool": _ipmitool, "csv": _csv, "prometheus": _prometheus, "parquet": _parquet}[kind]
    tables = [decode(file, mapping) for file in files]
    whole = pa.concat_tables(tables)
    pq.write_table(whole, target / f"rows-{number}.parquet", compression="zstd", compression_level=1)
    return int(whole.num_rows)


Mapping = dict[tuple[str, str], tuple[str, str, float, float, float, float | None]]


def _mapping(file: Path) -> Mapping:
    if not file.exists():
        return {}
    with file.open(newline="", encoding="utf-8") as lines:
        return {
            (row["sensor"], row["logged_unit"]): (
                row["quantity"], row["device_id"], float(row["factor"]), float(row["divisor"]), float(row["offset"]),
                float(row["not_measured"]) if row["not_measured"] else None,
            )
            for row in csv.DictReader(lines)
        }  # fmt: skip


def _lines(text: bytes) -> pa.LargeStringArray:
    ends = np.flatnonzero(np.frombuffer(text, np.uint8) == 10) + 1
    offsets = np.concatenate((np.zeros(1, np.int64), ends.astype(np.int64)))
    return pa.LargeStringArray.from_buffers(len(ends), pa.py_buffer(offsets), pa.py_buffer(text))


def _named(name: str, rows: int) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(np.zeros(rows, np.int32)), pa.array([name]))


def _ipmitool(file: Path, mapping: Mapping) -> pa.Table:
    encoded = _lines(igzip_lib.decompress(file.read_bytes(), flag=igzip_lib.DECOMP_GZIP)).dictionary_encode()
    codes = np.from_dlpack(encoded.indices)
    texts = encoded.dictionary.to_pylist()
    kind = np.zeros(len(texts), np.int8)
    times = np.zeros(len(texts), np.int64)
    meaning: list[tuple[str, str, str, str, str, float] | None] = [None] * len(texts)
    for code, text in enumerate(texts):
        if text.startswith("Timestamp: "):
            kind[code] = 1
            stamp = datetime.strptime(text[11:30], "%Y-%m-%d %H:%M:%S").replace(tzinfo=UTC)
            times[code] = int(stamp.timestamp()) * 1_000_000
            continue
        sensor, _, rest = text.partition("|")
        number, _, unit = rest.partition("|")[0].strip().partition(" ")
        found = mapping.get((sensor.strip(), unit))
        if found and float(number) != found[5]:
            kind[code] = 2
            quantity, device, factor, divisor, offset, _ = found
            meaning[code] = (
                sensor.strip(),
                quantity,
                device,
                number,
                unit,
                float(number) * factor / divisor + offset,
            )
    kinds = kind[codes]
    stamps, values = np.flatnonzero(kinds == 1), np.flatnonzero(kinds == 2)
    above = stamps[np.searchsorted(stamps, values) - 1]
    kept = np.flatnonzero(kind == 2)
    place = np.zeros(len(texts), np.int32)
    place[kept] = np.arange(len(kept))
    index = pa.array(place[codes[values]])
    columns = list(zip(*(meaning[code] for code in kept), strict=True)) or [()] * 6
    names = ("sensor", "quantity", "device_id", "raw_value", "raw_unit")
    return pa.table(
        {
            "file": _named(file.name, len(values)).cast(pa.string()),
            "position": pa.array(values + 1),
            "reading_time": pa.array(times[codes[above]]).cast(_UTC_US),
            "value": pa.array(columns[5], pa.float64()).take(index),
            **{name: pa.array(columns[i], pa.string()).take(index) for i, name in enumerate(names)},
        }
    )


def _long(file: Path, table: pa.Table, first: int) -> pa.Table:
    """A wide table (time, then a column a sensor) as long rows."""
    sensors = table.column_names[1:]
    rows = table.num_rows
    return pa.table(
        {
            "file": pa.repeat(file.name, rows * len(sensors)),
            "position": pa.array(np.tile(np.arange(first, first + rows), len(sensors))),
            "reading_time": pa.chunked_array(table["time"].chunks * len(sensors)).cast(_UTC_US),
            "value": pa.chunked_array([chunk for name in sensors for chunk in table[name].chunks]).cast(
                pa.float64()
            ),
            "sensor": pa.concat_arrays([pa.repeat(name, rows) for name in sensors]),
        }
    )


def _csv(file: Path, _: Mapping) -> pa.Table:
    stamps = arrow_csv.ConvertOptions(timestamp_parsers=["%Y-%m-%d %H:%M:%S"])
    serial = arrow_csv.ReadOptions(use_threads=False)
    return _long(file, arrow_csv.read_csv(file, read_options=serial, convert_options=stamps), first=2)


def _parquet(file: Path, _: Mapping) -> pa.Table:
    return _long(file, pq.read_table(file, use_threads=False), first=1)


def _prometheus(file: Path, mapping: Mapping) -> pa.Table:
    wanted = {sensor: change[2:5] for (sensor, _), change in mapping.items()}
    positions, stamps, values, sensors = [], [], [], []
    for position, line in enumerate(file.read_text().splitlines(), start=1):
        name = line.partition("{")[0]
        if name in wanted:
            _, value, stamp = line.rsplit(" ", 2)
            factor, divisor, offset = wanted[name]
            positions.append(position)
            stamps.append(int(stamp) * 1000)
            values.append(float(value) * factor / divisor + offset)
            sensors.append(name)
    return pa.table(
        {
            "file": pa.repeat(file.name, len(positions)),
            "position": pa.array(positions, pa.int64()),
            "reading_time": pa.array(stamps, pa.int64()).cast(_UTC_US),
            "value": pa.array(values, pa.float64()),
            "sensor": pa.array(sensors, pa.string()),
        }
    )
