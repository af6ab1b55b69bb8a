"""What putting small files together does when it cannot; without the JVM."""

from __future__ import annotations

from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from lepton_etl.lake import maintenance
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.fleet import GRID_HOUR

DAY = date(2025, 6, 3)


class LakeOfThen(Lake):
    """A lake whose logs stay as they were when they were first asked for."""

    def log(self, table: Table) -> DeltaTable:
        if not hasattr(self, "then"):
            self.then = super().log(table)
        return self.then


@pytest.fixture
def lakes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Lake, LakeOfThen]:
    """A lake with two small files of a day, and the same one as a writer sees it that opened it now."""
    monkeypatch.setattr(maintenance, "SMALL_FILES", 2)
    lake, then = Lake(tmp_path / "lake"), LakeOfThen(tmp_path / "lake")
    row = {
        "date": DAY, "hour_start": datetime(2025, 6, 3, tzinfo=UTC), "intensity_basis": "direct",
        "signal": "average", "flow": "consumption", "carbon_intensity_gco2e_per_kwh": 200.0,
        "is_estimated": False, "source_name": "grid",
    }  # fmt: skip
    for zone in ("AA", "BB"):
        lake.write_rows(GRID_HOUR, [row | {"zone_id": zone}])
    assert len(then.log(GRID_HOUR).file_uris()) == 2
    return lake, then


def test_a_commit_in_between_leaves_the_files_to_the_next_run(lakes: tuple[Lake, LakeOfThen]) -> None:
    lake, then = lakes
    lake.log(GRID_HOUR).delete("zone_id = 'AA'")
    assert maintenance.compact(then, GRID_HOUR) == []
    assert lake.read(GRID_HOUR)["zone_id"].to_list() == ["BB"]


def test_a_lost_file_is_no_commit_in_between(lakes: tuple[Lake, LakeOfThen]) -> None:
    _, then = lakes
    Path(then.log(GRID_HOUR).file_uris()[0].removeprefix("file://")).unlink()
    with pytest.raises(DeltaError) as raised:
        maintenance.compact(then, GRID_HOUR)
    assert not isinstance(raised.value, CommitFailedError)
