"""A log that is kept open is never older than the table."""

from __future__ import annotations

import shutil
from pathlib import Path

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from lepton_etl.lake.location import Location
from lepton_etl.lake.log_files import NewestLog


def _write(place: Path, number: int, mode: str = "append") -> None:
    write_deltalake(str(place), pa.table({"x": [number]}), mode=mode)  # type: ignore[call-overload]


def test_a_log_is_opened_again_after_each_commit_and_not_without_one(tmp_path: Path) -> None:
    place = tmp_path / "table"
    _write(place, 1)
    newest = NewestLog(Location.of(place))
    first = newest.get()
    assert newest.get() is first and newest.is_current()
    _write(place, 2)
    assert not newest.is_current()
    assert (newest.get().version(), first.version()) == (1, 0)
    assert newest.get() is newest.get()


def test_a_table_made_anew_or_mutated_through_the_log_is_opened_again(tmp_path: Path) -> None:
    place = tmp_path / "table"
    _write(place, 1)
    newest = NewestLog(Location.of(place))
    old = newest.get()
    shutil.rmtree(place)
    _write(place, 7)
    assert newest.get() is not old and newest.get().version() == 0
    assert newest.get().to_pyarrow_table()["x"].to_pylist() == [7]
    # Who writes through the object that he was given moves it on: others get one of the version that stands.
    write_deltalake(newest.get(), pa.table({"x": [8]}), mode="append")
    assert newest.get().version() == DeltaTable(str(place)).version() == 1
    shutil.rmtree(place)
    assert not newest.is_current()
