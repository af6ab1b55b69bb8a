"""Parquet files mapped by the settings: the same cells give the same readings as in a delimited file."""

import io
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.ingest import parquet
from lepton_etl.ingest.decoded import Decoded, Origin
from tests.decoding import decode, settings_of

ORIGIN = Origin("site", "source", "input.parquet", "n1", "Europe/Berlin")
SPEC: dict[str, Any] = {
    "format": "parquet",
    "time": {"column": "time"},
    "device_id": {"column": "gpu"},
    "readings": [
        {"column": "power", "quantity": "gpu_power", "unit": "W"},
        {"column": "utilisation", "quantity": "gpu_utilisation", "unit": "percent"},
    ],
    "no_value": ["", "n/a"],
}
ROWS = 40
TABLE: dict[str, Any] = {
    "time": pa.array([f"2025-06-03T00:{minute:02}:00Z" for minute in range(ROWS)]),
    "gpu": pa.array([f"gpu{minute % 2}" for minute in range(ROWS)]),
    "power": pa.array([60.5 + minute for minute in range(ROWS)]),
    "utilisation": pa.array([None if minute == 3 else minute for minute in range(ROWS)], pa.int32()),
    "note": pa.array([None if minute % 4 else "x" for minute in range(ROWS)]),
}


def written(columns: dict[str, Any], **options: Any) -> bytes:
    file = io.BytesIO()
    pq.write_table(pa.table(columns), file, **options)
    return file.getvalue()


def read(data: bytes, **changes: Any) -> Decoded:
    result = decode(data, ORIGIN, settings_of(SPEC | changes))
    result.check()
    return result


def times(column: pa.Array, **time: Any) -> Any:
    columns = {
        "time": column,
        "gpu": pa.array(["gpu0"] * len(column)),
        "power": pa.array([1.0] * len(column)),
    }
    readings = [SPEC["readings"][0]]
    result = read(written(columns), time={"column": "time"} | time, readings=readings)
    assert [reject["reason"] for reject in result.rejects.to_pylist()] in ([], ["ambiguous_time"])
    return result.readings["reading_time"].to_pylist()


def test_rows_become_readings_by_the_mapping() -> None:
    result = read(written(TABLE))
    assert result.records == 2 * ROWS + 10
    assert result.ignored == {("note", "unmapped"): 10, ("utilisation", "no_value"): 1}
    rows = sorted(result.readings.to_pylist(), key=lambda row: row["source_position"])
    first, second = rows[:2]
    assert (first["device_id"], first["quantity"], first["value"], first["raw_value"]) == (
        "gpu0",
        "gpu_power",
        60.5,
        "60.5",
    )
    assert first["reading_time"] == datetime(2025, 6, 3, tzinfo=UTC)
    assert (second["quantity"], second["value"], second["raw_unit"]) == ("gpu_utilisation", 0.0, "percent")
    assert [row["source_position"] for row in rows[:3]] == [1, 1, 2]


def test_the_same_cells_as_text_give_the_same_readings() -> None:
    file = io.BytesIO()
    pyarrow.csv.write_csv(pa.table(TABLE), file, pyarrow.csv.WriteOptions(quoting_style="none"))
    as_text = decode(file.getvalue(), ORIGIN, settings_of(SPEC | {"format": "delimited"}))
    columns = [name for name in as_text.readings.column_names if name != "source_position"]
    assert read(written(TABLE)).readings.select(columns).equals(as_text.readings.select(columns))


def test_values_that_are_none() -> None:
    changed = TABLE | {
        "power": pa.array(["5", "n/a", "", None, "NaN", "x", "1e9", "-1", *["7"] * (ROWS - 8)])
    }
    result = read(written(changed, use_dictionary=True))
    assert result.ignored[("power", "no_value")] == 3
    assert [(r["source_position"], r["reason"]) for r in result.rejects.to_pylist()] == [
        (5, "not_finite"), (6, "bad_number"), (7, "out_of_bounds"), (8, "out_of_bounds")
    ]  # fmt: skip
    assert result.rejects["raw_text"][1].as_py() == "power = x at 2025-06-03T00:05:00Z"


def test_stamps_with_a_zone_are_instants_and_others_local() -> None:
    instant = datetime(2025, 6, 3, 12, 30, 0, 250_000, tzinfo=UTC)
    moment = instant.replace(tzinfo=None)
    local = datetime(2025, 6, 3, 10, 30, 0, 250_000, tzinfo=UTC)
    assert times(pa.array([moment], pa.timestamp("ns", "Asia/Tokyo"))) == [instant]
    assert times(pa.array([moment], pa.timestamp("ms"))) == [local]
    assert times(pa.array([moment], pa.timestamp("us")), format="%d.%m.%Y") == [local]
    assert times(pa.array([date(2025, 6, 3)])) == [datetime(2025, 6, 2, 22, tzinfo=UTC)]
    assert times(pa.array([1_748_908_800]), epoch="s") == [datetime(2025, 6, 3, tzinfo=UTC)]
    assert times(pa.array([datetime(2025, 10, 26, 2, 30, tzinfo=UTC).replace(tzinfo=None)])) == []


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"power": None}, "missing_column"),
        ({"power": pa.array([[1.0]] * ROWS)}, "missing_column"),
        ({"time": pa.array([{"a": 1}] * ROWS)}, "missing_column"),
    ],
)
def test_a_file_without_the_columns_is_refused_whole(change: dict[str, Any], reason: str) -> None:
    columns = {name: values for name, values in (TABLE | change).items() if values is not None}
    result = read(written(columns))
    assert result.rejects["reason"].to_pylist() == [reason]
    assert result.readings.num_rows == 0


def test_two_columns_of_one_name_are_refused() -> None:
    file = io.BytesIO()
    pq.write_table(pa.Table.from_arrays([*TABLE.values(), TABLE["power"]], names=[*TABLE, "power"]), file)
    assert read(file.getvalue()).rejects["reason"].to_pylist() == ["ambiguous_column"]


@pytest.mark.parametrize("data", [b"", b"PAR1", b"PAR1" * 3, b"time,power\n1,2\n", b"\0" * 5000])
def test_what_is_no_parquet_is_one_reject(data: bytes) -> None:
    assert read(data).rejects["reason"].to_pylist() == ["unreadable_file"]


def test_a_file_cut_short_is_one_reject() -> None:
    data = written(TABLE)
    for size in (10, len(data) // 2, len(data) - 1):
        assert read(data[:size]).rejects["reason"].to_pylist() == ["unreadable_file"]


def test_a_damaged_page_fails_its_checksum() -> None:
    columns = TABLE | {"power": pa.array([float(minute) for minute in range(ROWS)])}
    data = written(
        columns, compression="none", use_dictionary=False, write_page_checksum=True, row_group_size=10
    )
    at = data.index(b"\0\0\0\0\0\x80\x41\x40")  # 35.0, in the last row group.
    result = read(data[:at] + b"\0\0\0\0\0\x80\x42\x40" + data[at + 8 :])
    assert result.rejects["reason"].to_pylist() == ["unreadable_file"]
    assert 37.0 not in result.readings["value"].to_pylist()


def test_a_damaged_page_header_loses_no_row_in_silence() -> None:
    """No checksum covers the headers: one that is damaged may say that its page holds nothing."""
    data = written(TABLE, write_page_checksum=True)
    column = pq.ParquetFile(io.BytesIO(data)).metadata.row_group(0).column(list(TABLE).index("power"))
    start = column.dictionary_page_offset or column.data_page_offset
    whole = read(data).readings["value"].to_pylist()
    for at in range(start, start + 24):
        for bit in range(8):
            result = read(data[:at] + bytes([data[at] ^ 1 << bit]) + data[at + 1 :])
            told = result.rejects["reason"].to_pylist()
            assert "unreadable_file" in told or result.readings["value"].to_pylist() == whole, (at, bit)


def test_large_files_come_in_bounded_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "BATCH_CELLS", 20)
    monkeypatch.setattr(parquet, "SPOOL_BYTES", 100)
    parts = list(settings_of(SPEC).read(iter([written(TABLE)]), ORIGIN))
    assert max(part.records for part in parts) <= 20
    assert sum(part.readings.num_rows for part in parts) == 2 * ROWS - 1


def test_a_file_without_rows_has_no_records() -> None:
    result = read(written({name: values[:0] for name, values in TABLE.items()}))
    assert (result.records, result.rejects.num_rows) == (0, 0)


@settings(max_examples=60, deadline=None)
@given(noise=st.lists(st.tuples(st.floats(0, 1), st.binary(min_size=1, max_size=4)), min_size=1, max_size=6))
def test_noise_raises_nothing(noise: list[tuple[float, bytes]]) -> None:
    data = bytearray(written(TABLE, row_group_size=10))
    for where, what in noise:
        at = int(where * len(data))
        data[at : at + len(what)] = what
    read(bytes(data))
