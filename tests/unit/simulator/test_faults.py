"""Injected faults: each is really in the files, and its record says how much."""

from __future__ import annotations

import gzip
import zlib
from datetime import timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from lepton_etl.config import settings
from lepton_etl.ingest.decoded import Decoded, Origin
from lepton_etl.simulator.plan import Fault
from lepton_etl.simulator.simulate import Summary
from tests.decoding import decode

Spoilt = tuple[Path, Summary]


def records_of(out: Path, kind: Fault) -> list[dict[str, object]]:
    """The truth's records of one kind of fault."""
    faults = pl.read_parquet(out / "truth/fault.parquet")
    return list(faults.filter(pl.col("kind") == kind.value).iter_rows(named=True))


def decoded(out: Path, file: str) -> Decoded:
    """One landed log through the decoder of its source."""
    config = settings.load(out / "config.yaml")
    source = next(source for source in config.all_sources if f"/{file.split('/')[1]}/" in source.path)
    node_id = Path(file).name.split("-2025")[0]
    result = decode(
        gzip.decompress((out / file).read_bytes()), Origin("s", source.name, file, node_id, "UTC"), source
    )
    result.check()
    return result


def test_every_fault_asked_for_is_there(spoilt: Spoilt) -> None:
    out, summary = spoilt
    faults = pl.read_parquet(out / "truth/fault.parquet")
    assert set(faults["kind"]) == {fault.value for fault in Fault}
    assert summary.fault_records == faults.height
    assert all((out / file).is_file() for file in faults["file"])


def test_a_clean_fleet_has_no_fault(clean: Path) -> None:
    assert pl.read_parquet(clean / "truth/fault.parquet").height == 0


def test_gaps_leave_hours_out(spoilt: Spoilt) -> None:
    out, _ = spoilt
    for record in records_of(out, Fault.GAPS):
        times = decoded(out, str(record["file"])).readings["reading_time"].to_pylist()
        start, end = record["from_time"], record["to_time"]
        assert end - start >= timedelta(hours=2)  # type: ignore[operator]
        assert start in times
        assert end in times
        assert not [time for time in times if start < time < end]


def test_repeats_are_exact_and_counted(spoilt: Spoilt) -> None:
    out, _ = spoilt
    for record in records_of(out, Fault.DUPLICATES):
        assert decoded(out, str(record["file"])).duplicates == record["records"]


def test_each_bad_line_is_one_reject(spoilt: Spoilt) -> None:
    out, _ = spoilt
    for record in records_of(out, Fault.BAD_LINES):
        rejects = decoded(out, str(record["file"])).rejects
        assert rejects.num_rows == record["count"] == record["records"]
        assert set(rejects["reason"].to_pylist()) == {"bad_line", "bad_number"}


def test_exactly_one_file_is_cut(spoilt: Spoilt) -> None:
    out, _ = spoilt
    (record,) = records_of(out, Fault.TRUNCATED_GZIP)
    broken = []
    for path in sorted(out.glob("landing/*/*.gz")):
        try:
            gzip.decompress(path.read_bytes())
        except (EOFError, zlib.error):
            broken.append(str(path.relative_to(out)))
    assert broken == [record["file"]]


def test_counters_restart_where_the_record_says(spoilt: Spoilt) -> None:
    out, _ = spoilt
    for record in records_of(out, Fault.COUNTER_RESETS):
        readings = pl.from_arrow(decoded(out, str(record["file"])).readings)
        assert isinstance(readings, pl.DataFrame)
        counters = readings.filter(pl.col("quantity") == "gpu_energy").sort("device_id", "reading_time")
        falls = 0
        for _, gpu in counters.group_by("device_id"):
            fell = np.flatnonzero(np.diff(gpu["value"].to_numpy()) < 0)
            falls += len(fell)
            for index in fell:
                assert (
                    gpu["reading_time"][int(index)]
                    < record["from_time"]
                    <= gpu["reading_time"][int(index) + 1]
                )
        assert falls == record["count"]


@pytest.mark.parametrize("source", ["ipmi", "prom"])
def test_untouched_files_stay_clean(spoilt: Spoilt, source: str) -> None:
    out, _ = spoilt
    touched = set(pl.read_parquet(out / "truth/fault.parquet")["file"])
    untouched = [
        path for path in sorted(out.glob(f"landing/{source}/*")) if str(path.relative_to(out)) not in touched
    ]
    assert untouched
    for path in untouched:
        result = decoded(out, str(path.relative_to(out)))
        assert (result.rejects.num_rows, result.duplicates) == (0, 0)
