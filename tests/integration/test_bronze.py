"""Bronze on real files, in tasks of this process and of a pool, and real Delta: once and only once, nothing lost."""

from __future__ import annotations

import gzip
from collections.abc import Callable
from datetime import UTC, date, datetime
from pathlib import Path

import polars as pl
import pytest
import structlog
import yaml
from deltalake import write_deltalake

from lepton_etl.config.settings import Settings, load
from lepton_etl.days import Days
from lepton_etl.errors import ConfigurationError
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.logs import FILE, READING, REJECT
from pipelines import bronze
from pipelines.engine import LocalEngine
from pipelines.stage import StageContext, StageResult
from tests.integration.laying import lay_site

SNAPSHOT = """Timestamp: 2025-06-03 00:{minute:02d}:02 UTC
Sys Power                | {watts} Watts         | ok
Ambient Temp             | 22 degrees C      | ok
Host Power               | 0x00              | ok
CPU Power                | no reading        | ns
"""


def ipmi_text(watts: int = 200, snapshots: int = 3) -> bytes:
    return "".join(SNAPSHOT.format(minute=m, watts=watts + m) for m in range(snapshots)).encode()


@pytest.fixture
def site(tmp_path: Path) -> Settings:
    return lay_site(
        tmp_path,
        {
            "name": "bmc", "format": "ipmitool", "path": "landing/*.txt*",
            "node_id_from_path": r"(?P<node_id>[^/]+)-\d{4}-\d\d-\d\d\.txt",
        },
    )  # fmt: skip


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake")


@pytest.fixture
def run(lake: Lake, site: Settings) -> Callable[[], StageResult]:
    context = StageContext(lake, site, Days.of(date(2025, 6, 3)), "test", structlog.get_logger())
    return lambda: bronze.run(context)


def versions(lake: Lake) -> list[int | None]:
    return [lake.version(table) for table in (FILE, READING, REJECT)]


def deliver(lake: Lake, name: str, content: bytes) -> Path:
    path = Path(lake.root.uri).parent / "landing" / name
    path.write_bytes(content)
    return path


def counted(lake: Lake) -> None:
    """rows in == readings + rejects + duplicates + ignored, for every file, against the tables themselves."""
    readings = dict(lake.read(READING).group_by("file_id").len().iter_rows())
    rejects = dict(lake.read(REJECT).group_by("file_id").len().iter_rows())
    for row in lake.read(FILE).to_dicts():
        assert row["state"] != "planned"
        assert row["records"] == row["readings"] + row["rejects"] + row["duplicates"] + row["ignored"]
        if row["state"] != "duplicate":
            assert row["readings"] == readings.get(row["file_id"], 0)
            assert row["rejects"] == rejects.get(row["file_id"], 0)


def test_a_file_is_loaded_once_with_its_place(lake: Lake, run: Callable[[], StageResult]) -> None:
    path = deliver(lake, "n1-2025-06-03.txt.gz", gzip.compress(ipmi_text()))
    first = run()
    after = versions(lake)
    assert (first.rows_in, first.rows_out) == (12, 6)
    assert run().notes == ("no new files",)
    assert versions(lake) == after
    reading = lake.read(READING).filter(sensor="Sys Power").sort("reading_time").row(0, named=True)
    assert (reading["node_id"], reading["value"], reading["source_position"]) == ("n1", 200.0, 2)
    assert reading["reading_time"] == datetime(2025, 6, 3, 0, 0, 2, tzinfo=UTC)
    file = lake.read(FILE).to_dicts()[0]
    assert (file["path"], file["state"], file["ignored"]) == (str(path), "loaded", 6)
    counted(lake)


def test_a_truncated_gzip_is_discarded_by_name_and_the_rest_is_loaded(
    lake: Lake, run: Callable[[], StageResult]
) -> None:
    deliver(lake, "n1-2025-06-03.txt.gz", gzip.compress(ipmi_text()))
    bad = deliver(lake, "n2-2025-06-03.txt.gz", gzip.compress(ipmi_text(300))[:-20])
    result = run()
    assert any(f"file discarded: {bad} (truncated_gzip" in note for note in result.notes)
    reject = lake.read(REJECT).to_dicts()
    assert [(r["reason"], r["path"]) for r in reject] == [("truncated_gzip", str(bad))]
    assert lake.read(READING)["node_id"].unique().to_list() == ["n1"]
    # Delivered whole later, it is loaded.
    bad.write_bytes(gzip.compress(ipmi_text(300)))
    assert run().rows_out == 6
    counted(lake)


def test_the_same_content_under_another_name_counts_as_duplicates(
    lake: Lake, run: Callable[[], StageResult]
) -> None:
    deliver(lake, "n1-2025-06-03.txt", ipmi_text())
    deliver(lake, "n1-2025-06-03.txt.gz", gzip.compress(ipmi_text()))
    result = run()
    assert result.rows_out == 6
    deliver(lake, "n1-2025-06-03.txt.again", ipmi_text())
    assert run().rows_out == 0
    states = {
        row["path"].rsplit("/", 1)[1]: (row["state"], row["duplicates"]) for row in lake.read(FILE).to_dicts()
    }
    assert states["n1-2025-06-03.txt.again"] == ("duplicate", 12)
    assert sorted(state for state, _ in states.values()) == ["duplicate", "duplicate", "loaded"]
    assert lake.read(READING).height == 6
    counted(lake)


@pytest.fixture
def run_named_by_time(tmp_path: Path, lake: Lake, site: Settings) -> Callable[[], StageResult]:
    """Bronze of a source whose paths name a time."""
    keys = yaml.safe_load((tmp_path / "site.yaml").read_text())
    keys["sources"][0] |= {
        "node_id_from_path": r"(?P<node_id>n\d)-",
        "time_from_path": r"-(?P<time>\d{8}T\d{4})",
    }
    (tmp_path / "site.yaml").write_text(yaml.safe_dump(keys))
    settings = load(tmp_path / "site.yaml")
    context = StageContext(lake, settings, Days.of(date(2025, 6, 3)), "test", structlog.get_logger())
    return lambda: bronze.run(context)


UNSTAMPED = b"Sys Power                | 200 Watts         | ok\n"


def states(lake: Lake) -> dict[str, str]:
    return {row["path"].rsplit("/", 1)[1]: row["state"] for row in lake.read(FILE).to_dicts()}


def test_equal_snapshots_of_different_times_are_different_files(
    lake: Lake, run_named_by_time: Callable[[], StageResult]
) -> None:
    for name in (
        "n1-20250603T0000.txt",
        "n1-20250603T0005.txt",
        "n1-20250603T0005.txt.again",
        "n2-20250603T0005.txt",
    ):
        deliver(lake, name, UNSTAMPED)
    assert run_named_by_time().rows_out == 3
    deliver(lake, "n1-20250603T0010.txt", UNSTAMPED)
    deliver(lake, "n1-20250603T0000.txt.again", UNSTAMPED)
    assert run_named_by_time().rows_out == 1
    assert {name for name, state in states(lake).items() if state == "duplicate"} == {
        "n1-20250603T0000.txt.again", "n1-20250603T0005.txt.again",
    }  # fmt: skip
    times = lake.read(READING).filter(node_id="n1")["reading_time"].dt.minute().sort()
    assert times.to_list() == [0, 5, 10]
    counted(lake)


def test_a_text_that_stamps_its_readings_is_one_file_whatever_its_path_names(
    lake: Lake, run_named_by_time: Callable[[], StageResult]
) -> None:
    deliver(lake, "n1-20250603T0000.txt", ipmi_text())
    deliver(lake, "n1-20250603T0005.txt", ipmi_text())
    assert run_named_by_time().rows_out == 6
    deliver(lake, "n1-20250603T0010.txt", ipmi_text())
    assert run_named_by_time().rows_out == 0
    assert sorted(states(lake).values()) == ["duplicate", "duplicate", "loaded"]
    # Rows before the first stamp have the path's time: this is no longer the same text at another time.
    for minute in ("15", "20"):
        deliver(lake, f"n1-20250603T00{minute}.txt", UNSTAMPED + ipmi_text())
    assert run_named_by_time().rows_out == 14
    counted(lake)


def test_rejects_at_different_times_are_all_there(
    lake: Lake, run_named_by_time: Callable[[], StageResult]
) -> None:
    for minute in ("00", "05"):
        deliver(lake, f"n1-20250603T00{minute}.txt", b"Sys Power | 1e12 Watts | ok\n")
    run_named_by_time()
    assert lake.read(REJECT).height == 2


def test_a_lake_of_an_older_release_knows_its_files(
    lake: Lake, run_named_by_time: Callable[[], StageResult]
) -> None:
    deliver(lake, "n1-20250603T0000.txt", UNSTAMPED)
    deliver(lake, "n1-2025-06-03.txt", ipmi_text())
    run_named_by_time()
    # As it was: known by the bytes alone, whatever the path names, and no column for these.
    old = lake.read(FILE).with_columns(file_id=pl.coalesce("content_id", "file_id")).drop("content_id")
    write_deltalake(lake.at(FILE).uri, old.to_arrow(), mode="overwrite", schema_mode="overwrite")
    for name in ("n1-20250603T0000.txt.again", "n1-20250603T0005.txt"):
        deliver(lake, name, UNSTAMPED)
    for name in ("n1-20250603T0000.log.txt", "n1-2025-06-03.txt.again"):
        deliver(lake, name, ipmi_text())
    assert run_named_by_time().rows_out == 1
    assert {name for name, state in states(lake).items() if state == "loaded"} == {
        "n1-20250603T0000.txt", "n1-2025-06-03.txt", "n1-20250603T0005.txt",
    }  # fmt: skip


def test_a_node_has_one_name_however_it_is_spelt(
    lake: Lake, site: Settings, run: Callable[[], StageResult]
) -> None:
    site.fleet.inventory.write_text("node_id,cluster_id,valid_from\nn1,c1,2020-01-01\nn01,c1,2020-01-01\n")
    for number, name in enumerate(("n1", "N1.example.org.", "n1.example.org", "n001")):
        deliver(lake, f"{name}-2025-06-03.txt", ipmi_text(200 + number) + b"Sys Power | 1e12 Watts | ok\n")
    notes = run().notes
    assert set(lake.read(READING)["node_id"]) == set(lake.read(REJECT)["node_id"]) == {"n1", "n001"}
    assert any("N1.example.org. is n1, n1.example.org is n1" in note for note in notes)
    assert any("n001 and n01 and n1" in note for note in notes)
    counted(lake)


def test_a_pool_of_processes_loads_the_same(
    lake: Lake, site: Settings, run: Callable[[], StageResult]
) -> None:
    for number in range(5):
        deliver(lake, f"n{number}-2025-06-03.txt", ipmi_text(200 + number) + b"garbage\n")
    run()
    pooled = Lake(Path(lake.root.uri).parent / "pooled")
    with LocalEngine(2) as engine:
        context = StageContext(
            pooled,
            site,
            Days.of(date(2025, 6, 3)),
            "test",
            structlog.get_logger(),
            engine,
        )
        assert bronze.run(context).rows_out == 30
    for table in (FILE, READING, REJECT):
        kept = [name for name in table.columns if name not in ("ingest_time", "ingest_date")]
        order = [name for name in ("file_id", "path", "source_position") if name in kept]
        left, right = (one.read(table, columns=kept).sort(order) for one in (lake, pooled))
        assert left.equals(right) and left.height >= 5
    counted(pooled)


def test_identical_bytes_of_two_nodes_are_both_loaded(lake: Lake, run: Callable[[], StageResult]) -> None:
    deliver(lake, "n1-2025-06-03.txt", ipmi_text())
    deliver(lake, "n2-2025-06-03.txt", ipmi_text())
    assert run().rows_out == 12


@pytest.mark.parametrize("killed_after", ["plan", "stage", "readings", "rejects"])
def test_a_batch_killed_at_any_point_is_finished_once(
    lake: Lake, run: Callable[[], StageResult], killed_after: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    deliver(lake, "n1-2025-06-03.txt", ipmi_text() + b"garbage\n")

    class Killed(BaseException):
        pass

    def kill(*_: object, **__: object) -> None:
        raise Killed

    with monkeypatch.context() as patch:
        if killed_after == "plan":
            patch.setattr(bronze, "_stage", kill)
        elif killed_after == "stage":
            patch.setattr(lake, "append_staged", kill)
        elif killed_after == "readings":
            append = lake.append_staged
            patch.setattr(lake, "append_staged", lambda t, *a: kill() if t is REJECT else append(t, *a))
        else:
            patch.setattr(bronze, "_finished", kill)
        with pytest.raises(Killed):
            run()
    run()
    assert lake.read(READING).height == 6
    assert [r["reason"] for r in lake.read(REJECT).to_dicts()] == ["bad_line"]
    after = versions(lake)
    run()
    assert versions(lake) == after
    counted(lake)


def test_a_link_out_of_the_landing_folder_is_not_opened(lake: Lake, run: Callable[[], StageResult]) -> None:
    outside = Path(lake.root.uri).parent / "secret.txt"
    outside.write_bytes(ipmi_text())
    (Path(lake.root.uri).parent / "landing" / "n1-2025-06-03.txt").symlink_to(outside)
    assert run().rows_out == 0
    assert lake.read(FILE).to_dicts()[0]["reason"] == "symbolic_link"


def test_an_unreadable_landing_folder_stops_before_anything_is_read(
    lake: Lake, run: Callable[[], StageResult]
) -> None:
    (Path(lake.root.uri).parent / "landing").rmdir()
    with pytest.raises(ConfigurationError, match=r"sources\.bmc\.path"):
        run()


def test_statistics_prune_and_other_readers_agree(lake: Lake, run: Callable[[], StageResult]) -> None:
    deliver(lake, "n1-2025-06-03.txt", ipmi_text())
    run()
    found = lake.log(READING).to_pyarrow_table(columns=["node_id", "value", "reading_date"])
    assert found.num_rows == 6
    actions = lake.log(READING).get_add_actions(flatten=True)
    assert str(actions["min.reading_date"][0].as_py()) == "2025-06-03"
