"""The lake's door without a session: staged files replace exactly their days, bounds are kept, files are found."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from lepton_etl.days import Days
from lepton_etl.errors import LakeError
from lepton_etl.lake.rows import Digest, digest, digest_scheme
from lepton_etl.lake.staging import StagedFile, StagedWriter, stage
from lepton_etl.lake.tables import Lake, read_files
from lepton_etl.schema.declare import Table
from lepton_etl.schema.fleet import GRID_HOUR
from lepton_etl.schema.jobs import JOB_RUN
from lepton_etl.schema.logs import READING
from lepton_etl.schema.types import arrow_schema

DAY = date(2025, 6, 3)
NEXT = DAY + timedelta(days=1)
BOTH = Days(DAY, NEXT)
INTENSITY = "carbon_intensity_gco2e_per_kwh"


def hours(intensity: float | None = 200.0, days: Sequence[date] = (DAY,)) -> pl.DataFrame:
    rows = [
        {
            "zone_id": "ZZ", "hour_start": datetime(day.year, day.month, day.day, hour, tzinfo=UTC), "date": day,
            "intensity_basis": "direct", "signal": "average", "flow": "consumption", INTENSITY: intensity,
            "is_estimated": False, "source_name": "grid",
        }
        for day in days
        for hour in range(24)
    ]  # fmt: skip
    return pl.DataFrame(pa.Table.from_pylist(rows, schema=arrow_schema(GRID_HOUR)))


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake(tmp_path / "lake", {"run_id": "r1"})


def staged(lake: Lake, rows: pl.DataFrame) -> list[StagedFile]:
    return stage(lake.root, GRID_HOUR, rows)


def parquet(lake: Lake) -> set[Path]:
    return set((Path(lake.root.uri) / GRID_HOUR.name).rglob("*.parquet")) - set(
        (Path(lake.root.uri) / GRID_HOUR.name / "_delta_log").rglob("*.parquet")
    )


def intensities(lake: Lake) -> dict[date, set[float | None]]:
    rows = lake.read(GRID_HOUR)
    return {day: set(rows.filter(pl.col("date") == day)[INTENSITY]) for day in rows["date"].unique().sort()}


def test_two_tasks_give_their_days_in_one_commit(lake: Lake) -> None:
    rows = hours(days=(DAY, NEXT))
    early = rows["hour_start"].dt.hour() < 12
    files = [*staged(lake, rows.filter(early)), *staged(lake, rows.filter(~early))]
    written = lake.commit(GRID_HOUR, BOTH, files)
    assert (written.rows, written.version, written.changed) == (48, 1, True)
    assert lake.read(GRID_HOUR).sort("hour_start").equals(rows.sort("hour_start"))
    assert lake.log(GRID_HOUR).history(1)[0]["run_id"] == "r1"


def test_equal_rows_make_no_commit_and_leave_no_file(lake: Lake) -> None:
    lake.commit(GRID_HOUR, BOTH, staged(lake, hours(days=(DAY, NEXT))))
    before = parquet(lake)
    again = hours(days=(DAY, NEXT)).sample(fraction=1.0, shuffle=True, seed=1)
    parts = [*staged(lake, again.head(20)), *staged(lake, again.tail(28))]
    written = lake.commit(GRID_HOUR, BOTH, parts)
    assert (written.rows, written.version, written.changed) == (48, 1, False)
    assert parquet(lake) == before


def test_only_the_day_whose_rows_differ_is_replaced(lake: Lake) -> None:
    lake.commit(GRID_HOUR, BOTH, staged(lake, hours(days=(DAY, NEXT))))
    before = {file.day: file.path for file in lake.files(GRID_HOUR)}
    fresh = pl.concat([hours(), hours(300.0, (NEXT,))])
    assert lake.commit(GRID_HOUR, BOTH, staged(lake, fresh)).changed
    after = {file.day: file.path for file in lake.files(GRID_HOUR)}
    assert after[DAY] == before[DAY] and after[NEXT] != before[NEXT]
    assert intensities(lake) == {DAY: {200.0}, NEXT: {300.0}}


def test_a_day_of_the_range_without_rows_is_emptied_and_the_others_stay(lake: Lake) -> None:
    later = NEXT + timedelta(days=1)
    lake.commit(GRID_HOUR, Days(DAY, later), staged(lake, hours(days=(DAY, NEXT, later))))
    lake.commit(GRID_HOUR, BOTH, staged(lake, hours()))
    assert set(intensities(lake)) == {DAY, later}


def test_nothing_is_refused_unless_told(lake: Lake) -> None:
    lake.commit(GRID_HOUR, Days.of(DAY), staged(lake, hours()))
    with pytest.raises(LakeError, match="refusing to replace the rows of 2025-06-03 by nothing"):
        lake.commit(GRID_HOUR, Days.of(DAY), [])
    assert lake.commit(GRID_HOUR, Days.of(DAY), [], allow_empty=True).changed
    assert lake.read(GRID_HOUR).is_empty()
    assert not lake.commit(GRID_HOUR, Days.of(DAY), [], allow_empty=True).changed


def test_a_file_of_another_day_is_refused(lake: Lake) -> None:
    with pytest.raises(LakeError, match="rows of 2025-06-04 do not belong to 2025-06-03"):
        lake.commit(GRID_HOUR, Days.of(DAY), staged(lake, hours(days=(DAY, NEXT))))


def test_rows_of_another_writer_are_compared_by_reading_them(lake: Lake) -> None:
    lake.ensure(GRID_HOUR)
    write_deltalake(
        lake.path(GRID_HOUR), hours().sort("hour_start", descending=True).to_arrow(), mode="append"
    )
    assert not lake.commit(GRID_HOUR, Days.of(DAY), staged(lake, hours())).changed
    assert not lake.replace(GRID_HOUR, Days.of(DAY), hours()).changed
    assert lake.commit(GRID_HOUR, Days.of(DAY), staged(lake, hours(None))).changed
    assert not lake.replace(GRID_HOUR, Days.of(DAY), hours(None)).changed


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -1.0, 2001.0])
def test_what_the_dictionary_does_not_allow_is_not_staged(lake: Lake, bad: float) -> None:
    with pytest.raises(LakeError, match=f"outside the bounds of the field dictionary: {INTENSITY}"):
        staged(lake, hours(bad))
    with pytest.raises(LakeError, match="outside the bounds"):
        lake.replace(GRID_HOUR, Days.of(DAY), hours(bad))


def test_words_and_required_columns_are_checked(lake: Lake) -> None:
    with pytest.raises(LakeError, match="bounds of the field dictionary: flow"):
        staged(lake, hours().with_columns(flow=pl.lit("other")))
    with pytest.raises(LakeError, match="required columns missing: zone_id"):
        staged(lake, hours().drop("zone_id"))
    with pytest.raises(LakeError, match="null in required columns: zone_id"):
        staged(lake, hours().with_columns(zone_id=pl.lit(None, pl.String)))
    with pytest.raises(LakeError, match="rows of another day than 2025-06-04"):
        StagedWriter(lake.root, GRID_HOUR, NEXT).write(hours())


def test_two_runs_of_other_days_commit_side_by_side(lake: Lake) -> None:
    lake.ensure(GRID_HOUR)
    days = [DAY + timedelta(days=n) for n in range(6)]
    commit = (
        "import sys, datetime as dt; from pathlib import Path\n"
        "from lepton_etl.lake.tables import Lake; from lepton_etl.days import Days\n"
        "from lepton_etl.schema.fleet import GRID_HOUR; import polars as pl\n"
        "day = dt.date.fromisoformat(sys.argv[2]); lake = Lake(Path(sys.argv[1]))\n"
        "rows = pl.read_parquet(sys.argv[3])\n"
        "for k in range(5):\n"
        "    lake.replace(GRID_HOUR, Days.of(day), rows.with_columns(is_estimated=pl.lit(k % 2 == 0)))\n"
    )
    files = []
    for day in days[:2]:
        file = Path(lake.root.uri) / f"{day}.rows"
        hours(days=(day,)).write_parquet(file)
        files.append(file)
    runs = [
        subprocess.Popen([sys.executable, "-c", commit, str(lake.root), str(day), str(file)])
        for day, file in zip(days, files, strict=False)
    ]
    assert [run.wait(60) for run in runs] == [0, 0]
    assert lake.read(GRID_HOUR).group_by("date").len().sort("date")["len"].to_list() == [24, 24]


def test_rows_and_version_are_those_of_ones_own_commit(lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever another run commits before the writer has looked again: the run record names what was written here."""
    before, commit = lake.commit(GRID_HOUR, Days.of(DAY), staged(lake, hours())), Lake._commit_days
    other = Lake(lake.root)

    def commit_then_another(self: Lake, *given: Any) -> None:
        commit(self, *given)
        if self is lake:
            other.replace(GRID_HOUR, Days.of(NEXT), hours(days=[NEXT]))

    monkeypatch.setattr(Lake, "_commit_days", commit_then_another)
    written = lake.replace(GRID_HOUR, Days.of(DAY), hours(300.0))
    assert (written.rows, written.version) == (24, before.version + 1)
    assert lake.version(GRID_HOUR) == before.version + 2


def test_a_table_of_an_older_release_gets_its_new_columns(lake: Lake) -> None:
    older = Table(
        GRID_HOUR.name, grain=GRID_HOUR.grain, key=GRID_HOUR.key, columns=GRID_HOUR.columns[:-1],
        owner=GRID_HOUR.owner, partition="date",
    )  # fmt: skip
    last = GRID_HOUR.columns[-1]
    lake.commit(older, Days.of(DAY), stage(lake.root, older, hours().drop(last)))
    with_null = hours().with_columns(pl.lit(None, hours().schema[last]).alias(last))
    assert not lake.commit(GRID_HOUR, Days.of(DAY), staged(lake, with_null)).changed, "null is what it had"
    assert read_files(GRID_HOUR, lake.files(GRID_HOUR))[last].null_count() == 24
    assert lake.commit(GRID_HOUR, Days.of(NEXT), staged(lake, hours(days=(NEXT,)))).changed
    assert lake.read(GRID_HOUR).select("date", last).unique().height == 2


def test_files_are_those_of_the_days(lake: Lake) -> None:
    assert lake.files(GRID_HOUR, BOTH) == []
    lake.commit(GRID_HOUR, BOTH, staged(lake, hours(days=(DAY, NEXT))))
    (file,) = lake.files(GRID_HOUR, Days.of(NEXT))
    assert (file.day, file.rows, Path(file.path).stat().st_size) == (NEXT, 24, file.size_bytes)
    rows = read_files(GRID_HOUR, [file], ["zone_id", "date"], where=pl.col("hour_start").dt.hour() > 20)
    assert rows.to_dict(as_series=False) == {"zone_id": ["ZZ"] * 3, "date": [NEXT] * 3}
    assert read_files(GRID_HOUR, []).columns == list(GRID_HOUR.columns)
    assert lake.inputs == {GRID_HOUR.name: 1}


def test_readings_are_found_by_the_day_of_the_reading(lake: Lake) -> None:
    """Bronze lies by the day it came; its files' statistics say of which days its readings are."""
    staged_files = []
    for day in (DAY, NEXT):
        at = datetime(day.year, day.month, day.day, 12, tzinfo=UTC)
        row = {
            "site_id": "s", "node_id": "n", "device_id": "node", "quantity": "node_power", "value": 200.0,
            "statistic": "instant", "window_s": 0.0, "reading_time": at, "multiplicity": 1, "file_id": f"f{day}",
            "reading_date": day, "ingest_time": at,
        }  # fmt: skip
        writer = StagedWriter(lake.root, READING, NEXT)
        writer.write(pa.Table.from_pylist([row]))
        file = writer.close()
        assert file is not None
        staged_files.append(file)
    assert lake.append_staged(READING, staged_files, 1).changed
    assert not lake.append_staged(READING, staged_files, 1).changed
    assert lake.newest_batch(READING) == 1
    (found,) = lake.files(READING, Days.of(DAY))
    assert (found.first_day, found.last_day, found.day) == (DAY, DAY, NEXT)
    assert read_files(READING, [found], ["reading_date", "ingest_date"]).row(0) == (DAY, NEXT)
    with pytest.raises(LakeError, match="batch 0 is older than batch 1"):
        lake.append_staged(READING, staged_files, 0)


@pytest.mark.parametrize("is_older", [False, True], ids=["with statistics", "of an older release"])
def test_a_key_of_whole_numbers_is_found_whether_or_not_its_file_has_statistics(
    lake: Lake, monkeypatch: pytest.MonkeyPatch, is_older: bool
) -> None:
    if is_older:
        monkeypatch.setattr(StagedWriter, "_pruning", lambda self: ["site_id", "job_id"])
    at = datetime(2025, 6, 3, 4, tzinfo=UTC)
    rows = [
        {"site_id": "s", "cluster_id": "c", "job_id": "7", "submit_time": at, "restart": restart, "date": day,
         "outcome": "completed", "start_time": at}
        for day, restart in ((DAY, 0), (DAY, 1), (NEXT, 2))
    ]  # fmt: skip
    files = stage(lake.root, JOB_RUN, pa.Table.from_pylist(rows, schema=arrow_schema(JOB_RUN)))
    assert ['"restart": ' in file.statistics for file in files] == [not is_older] * 2
    lake.commit(JOB_RUN, BOTH, files)
    for restart in range(3):
        for number in (restart, pa.scalar(restart), pa.scalar(restart, pa.int32())):
            found = lake.read(JOB_RUN, where=(pc.field("restart") == number) & (pc.field("job_id") == "7"))
            assert found["restart"].to_list() == [restart]
    found = lake.read(JOB_RUN, Days.of(NEXT), columns=["restart"], where=pc.field("restart") >= 0)
    assert found["restart"].to_list() == [2]


def test_a_long_history_is_kept_short_by_checkpoints(lake: Lake) -> None:
    for number in range(25):
        lake.commit(GRID_HOUR, Days.of(DAY), staged(lake, hours(float(number))))
    log = Path(lake.root.uri) / GRID_HOUR.name / "_delta_log"
    assert len(list(log.glob("*.checkpoint.parquet"))) >= 2
    assert intensities(lake) == {DAY: {24.0}}


def test_the_digest_knows_values_places_and_counts_in_any_order() -> None:
    rows = hours()
    assert digest(rows) == digest(rows.reverse())
    assert digest(rows.head(10)) + digest(rows.tail(14)) == digest(rows)
    assert digest(rows.with_columns(pl.lit(None).alias("new"))) == digest(rows)
    assert digest(rows.with_columns(pl.col(INTENSITY) + 1e-9)) != digest(rows)
    swapped = pl.DataFrame({"a": [None, 1.0], "b": [1.0, None]})
    assert digest(swapped) != digest(pl.DataFrame({"a": [1.0, 1.0], "b": [None, None]}))
    assert digest(rows.clear()) == Digest()


def test_names_as_dictionaries_are_the_rows_of_their_words(lake: Lake) -> None:
    words = hours().with_columns(source_name=pl.Series(["grid", "other"] * 12))
    plain = words.to_arrow().cast(arrow_schema(GRID_HOUR))
    coded = plain
    for name in ("zone_id", "source_name"):
        at = plain.schema.get_field_index(name)
        # Dictionaries of parts that came from different files, one with a word that no row has.
        parts = [
            pa.DictionaryArray.from_arrays(pc.index_in(part, value_set=known).cast(pa.int32()), known)
            for part in (plain[name].slice(0, 7).combine_chunks(), plain[name].slice(7).combine_chunks())
            for known in (pa.concat_arrays([pa.array(["unused"]), part.unique()[::-1]]),)
        ]
        coded = coded.set_column(at, name, pa.chunked_array(parts))
    assert pa.types.is_dictionary(coded.schema.field("source_name").type)
    (as_words,) = stage(lake.root, GRID_HOUR, plain)
    writer = StagedWriter(lake.root, GRID_HOUR, DAY)
    writer.write(coded)
    as_codes = writer.close()
    assert as_codes is not None
    assert as_codes.digest == as_words.digest
    assert as_codes.statistics == as_words.statistics
    found = [pq.read_table(f"{lake.root / GRID_HOUR.name}/{one.path}") for one in (as_words, as_codes)]
    assert found[0].equals(found[1])


def test_the_digest_is_the_same_in_another_process() -> None:
    code = "from lepton_etl.lake.rows import digest_scheme; print(digest_scheme())"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == digest_scheme()
