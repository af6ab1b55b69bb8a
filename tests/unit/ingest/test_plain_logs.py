"""Logs that nothing is wrong with are read by their distinct texts, and say what they say cell by cell."""

from datetime import UTC, datetime, timedelta
from io import BytesIO
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.ingest.decoded import Decoded, Origin
from tests.decoding import decode, settings_of

NOON = datetime(2025, 6, 3, 12, tzinfo=UTC)
SPEC: dict[str, Any] = {
    "format": "delimited",
    "time": {"column": "time"},
    "node_id": {"column": "host"},
    "readings": [
        {"column": "power", "quantity": "node_power", "unit": "kW", "words": {"off": 0}},
        {"column": "inlet", "quantity": "inlet_temperature", "unit": "degF", "device": "front"},
        {"column": "mean", "quantity": "node_power", "unit": "W", "statistic": "mean", "window_s": 300},
    ],
}
CELLS = ("0.25", "0.25", "-0", "1e3", " 7", "off", "OFF", "", "nan", "-", "x", "1e400", "99999999")
ROW = st.tuples(
    st.integers(0, 3),
    st.sampled_from(("n1", "n2", "")),
    *[st.sampled_from(CELLS)] * 3,
    st.sampled_from(("", "y")),
)


def read(content: bytes, spec: dict[str, Any]) -> Decoded:
    return decode(
        content,
        Origin("site", "source", "file", "n9" if spec["format"] == "prometheus" else None, "UTC"),
        settings_of(spec),
    )


def said(decoded: Decoded) -> tuple[object, ...]:
    counts = decoded.records, decoded.duplicates, dict(decoded.ignored), decoded.structure_lines
    return decoded.readings.to_pylist(), decoded.rejects.drop_columns("raw_text").to_pylist(), counts


@settings(max_examples=80, deadline=None)
@given(rows=st.lists(ROW, min_size=1, max_size=6), label=st.sampled_from(("start", "end")))
def test_cells_say_the_same_with_quotes_around_one_of_them(rows: list[tuple[Any, ...]], label: str) -> None:
    spec = SPEC | {"time": {"column": "time", "label": label}}
    lines = [[(NOON + timedelta(minutes=minute)).isoformat(), *cells] for minute, *cells in rows]
    plain = "\n".join(",".join(line) for line in [["time", "host", "power", "inlet", "mean", "note"], *lines])
    last = plain.rfind(",") + 1
    quoted = plain[:last] + f'"{plain[last:]}"'

    assert said(read(plain.encode(), spec)) == said(read(quoted.encode(), spec))


@settings(max_examples=50, deadline=None)
@given(
    power=st.lists(st.sampled_from((0.25, 0.25, -0.0, 1e3, None, float("nan"), 1e9)), min_size=1, max_size=8),
    numbers=st.sampled_from((pa.float64(), pa.float32(), pa.string())),
    devices=st.booleans(),
)
def test_columns_say_the_same_beside_a_row_that_is_refused(
    power: list[float | None], numbers: pa.DataType, devices: bool
) -> None:
    spec: dict[str, Any] = {
        "format": "parquet",
        "time": {"column": "time"},
        "readings": [
            {"column": "power", "quantity": "node_power", "unit": "W"},
            {
                "column": "inlet",
                "quantity": "inlet_temperature",
                "unit": "degC",
                "device": "front" if devices else None,
            },
        ],
    }
    times: list[datetime | None] = [NOON + timedelta(minutes=place) for place in range(len(power))]

    def columns(extra: int) -> Decoded:
        table = pa.table(
            {
                "time": pa.array(times + [None] * extra, pa.timestamp("us", "UTC")),
                "power": pa.array(power + [1.0] * extra, pa.float64()).cast(numbers),
                "inlet": pa.array([*range(len(power)), *[1] * extra], pa.int32()),
                "other": pa.array([None] * len(times) + [None] * extra, pa.string()),
            }
        )
        content = BytesIO()
        pq.write_table(table, content)
        return read(content.getvalue(), spec)

    alone, beside = columns(0), columns(1)
    assert beside.rejects.num_rows == alone.rejects.num_rows + 2
    assert alone.readings.to_pylist() == beside.readings.to_pylist()
    assert alone.ignored == beside.ignored


LABELS = ('gpu="0"', 'gpu="1",Hostname="n1"', 'gpu="0",modelName="A100 80GB"', 'device="x"', "")
METRICS = (
    "DCGM_FI_DEV_POWER_USAGE",
    "DCGM_FI_DEV_GPU_TEMP",
    "DCGM_FI_DEV_SM_CLOCK",
    "other_total",
    "node_load1",
)
SAMPLE = st.tuples(
    st.sampled_from(METRICS), st.sampled_from(LABELS),
    st.sampled_from(("71.5", "71.5", "64", "NaN", "1e9", "-5", "+Inf")),
    st.sampled_from((1748908800, 1748908860, 1748908860)),
)  # fmt: skip


@settings(max_examples=150, deadline=None)
@given(
    samples=st.lists(SAMPLE, min_size=1, max_size=8), scale=st.sampled_from((1, 1000)), twice=st.booleans()
)
def test_samples_say_the_same_beside_a_line_that_is_refused(
    samples: list[tuple[str, str, str, int]], scale: int, twice: bool
) -> None:
    lines = [f"{metric}{{{labels}}} {value} {stamp * scale}" for metric, labels, value, stamp in samples]
    text = (
        "\n".join([*["# TYPE DCGM_FI_DEV_POWER_USAGE gauge", ""] * twice, *lines, *lines[:1] * twice]) + "\n"
    )

    alone, beside = (read(content.encode(), {"format": "prometheus"}) for content in (text, f"{text}!\n"))
    assert beside.rejects.num_rows == alone.rejects.num_rows + 1
    assert alone.readings.to_pylist() == beside.readings.to_pylist()
    assert (alone.ignored, alone.duplicates) == (beside.ignored, beside.duplicates)
    assert alone.structure_lines == beside.structure_lines
