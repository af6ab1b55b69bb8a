"""bronze/file lost, or restored from another time than the tables: no file is lost, none is counted twice."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from lepton_etl.errors import LakeError
from lepton_etl.lake.file_register import REBUILT, FileRegister
from lepton_etl.schema.logs import FILE, READING, REJECT
from tests.faults.site import SmallSite, ipmi_text


@pytest.fixture
def site(tmp_path: Path) -> SmallSite:
    """A site of two loaded batches; a copy of bronze after the first stands in `copy`."""
    found = SmallSite(tmp_path)
    found.deliver("n1-2025-06-03.txt", ipmi_text(200))
    found.bronze()
    shutil.copytree(tmp_path / "lake" / "bronze", tmp_path / "copy")
    found.deliver("n2-2025-06-03.txt", ipmi_text(300) + b"garbage\n")
    found.bronze()
    return found


def put_back(site: SmallSite, name: str) -> None:
    folder = site.folder / "lake" / name
    shutil.rmtree(folder)
    shutil.copytree(site.folder / "copy" / name.removeprefix("bronze/"), folder)


@pytest.mark.parametrize("fault", ["deleted", "restored"])
def test_a_register_behind_its_tables_loses_no_file(site: SmallSite, fault: str) -> None:
    if fault == "deleted":
        shutil.rmtree(site.folder / "lake" / FILE.name)
    else:
        put_back(site, FILE.name)
    site.deliver("n3-2025-06-03.txt", ipmi_text(400))
    said = site.bronze().notes[0]
    assert said.startswith("bronze/file version ") and "bronze/reading version 2, which holds batch 2" in said
    assert "the register is rebuilt" in said
    readings = site.lake.read(READING)
    assert readings["file_id"].value_counts()["count"].to_list() == [6, 6, 6]
    assert site.lake.read(REJECT).height == 1
    assert site.states()["n3-2025-06-03.txt"] == ("loaded", None)
    assert REBUILT in {reason for _, reason in site.states().values()}
    site.is_conserved()
    assert site.bronze().notes == ("no new files",)
    done = site.verb("tables", "check")
    assert done.returncode == 0, done.stdout


def test_a_plan_whose_number_another_batch_has_is_planned_anew(site: SmallSite) -> None:
    """A register restored from a copy that was taken in the middle of a batch."""
    put_back(site, FILE.name)
    site.deliver("n3-2025-06-03.txt", ipmi_text(400))
    planned = FileRegister(site.lake).of_batch(1)[0] | {"path": "gone.txt", "file_id": "0" * 64}
    site.lake.write_rows(FILE, [planned | {"batch": 2, "state": "planned"}])
    site.bronze()
    assert "gone.txt" not in site.states()
    assert site.lake.read(READING).height == 18
    site.is_conserved()


def test_tables_older_than_the_register_stop_the_night_and_are_read_again(site: SmallSite) -> None:
    put_back(site, READING.name)
    put_back(site, REJECT.name)
    site.deliver("n3-2025-06-03.txt", ipmi_text(400))
    with pytest.raises(
        LakeError, match=r"bronze/reading version 1: ends with batch 1, where bronze/file version"
    ):
        site.bronze()
    done = site.verb("tables", "rebuild-register")
    assert done.returncode == 0, done.stderr
    assert f"forgotten: {site.folder}/landing/n2-2025-06-03.txt" in done.stdout
    site.bronze()
    assert site.lake.read(READING).height == 18
    assert site.lake.read(REJECT).height == 1
    site.is_conserved()


def test_a_file_with_a_part_of_its_rows_is_named(site: SmallSite) -> None:
    put_back(site, READING.name)
    done = site.verb("tables", "rebuild-register")
    assert done.returncode == 1
    assert f"only a part of its rows stands in bronze: {site.folder}/landing/n2-2025-06-03.txt" in done.stdout
    assert "restore bronze/reading, bronze/reject and bronze/job from one copy" in done.stderr


def test_rows_that_are_not_in_the_commit_are_not_marked_loaded(
    site: SmallSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another writer, or a mended log: the number stands in the table, the rows do not."""
    append = type(site.lake).append_staged
    monkeypatch.setattr(
        type(site.lake), "append_staged", lambda lake, table, _, batch: append(lake, table, [], batch)
    )
    site.deliver("n3-2025-06-03.txt", ipmi_text(400))
    with pytest.raises(LakeError, match=r"of .*n3-2025-06-03.txt 0 of 6 rows; nothing is marked loaded"):
        site.bronze()
    assert FileRegister(site.lake).unfinished() == 3
    monkeypatch.undo()
    site.bronze()
    assert site.lake.read(READING).height == 18


@pytest.mark.parametrize("content", [b"", b'[{"loaded": {', b'[{"loaded": {"path": "x"}}]', b"\xff\xfe"])
def test_a_torn_staging_summary_is_made_again(site: SmallSite, content: bytes) -> None:
    site.deliver("n3-2025-06-03.txt", ipmi_text(400))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileRegister, "finish", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            site.bronze()
    FileRegister(site.lake).summary(3).write(content)
    site.bronze()
    assert site.lake.read(READING).height == 18
    site.is_conserved()
