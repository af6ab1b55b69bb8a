"""What changes in the landing folder between its listing and its reading: nothing hangs, nothing outside is read."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest
import yaml

from lepton_etl.lake.file_register import FileRegister
from lepton_etl.schema.logs import READING, REJECT
from pipelines.engine import InlineEngine, R, T
from tests.faults.site import SmallSite, ipmi_text


class Swapping(InlineEngine):
    """Swaps a file when the folder was listed, or when the batch was planned."""

    def __init__(self, swap: Callable[[], None], before_call: int) -> None:
        super().__init__()
        self.swap, self.left = swap, before_call

    def map(self, work: Callable[[T], R], items: Sequence[T], attempts: int = 1) -> list[R]:
        self.left -= 1
        if self.left == 0:
            self.swap()
        return super().map(work, items, attempts)


@pytest.fixture
def site(tmp_path: Path) -> SmallSite:
    found = SmallSite(tmp_path)
    found.deliver("n1-2025-06-03.txt", ipmi_text(200))
    found.deliver("n2-2025-06-03.txt", ipmi_text(300))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "n2-2025-06-03.txt").write_bytes(ipmi_text(300))
    return found


@pytest.mark.timeout(120)
@pytest.mark.parametrize("call", [1, 2], ids=["after listing", "after planning"])
@pytest.mark.parametrize("kind", ["symbolic_link", "not_a_regular_file"])
def test_a_file_swapped_after_it_was_listed_is_not_read(site: SmallSite, kind: str, call: int) -> None:
    path = site.folder / "landing" / "n2-2025-06-03.txt"

    def swap() -> None:
        path.unlink()
        if kind == "symbolic_link":
            path.symlink_to(site.folder / "outside" / path.name)
        else:
            os.mkfifo(path)

    notes = site.bronze(Swapping(swap, call)).notes
    assert f"file discarded: {path} ({kind})" in notes
    assert site.lake.read(READING)["node_id"].unique().to_list() == ["n1"]
    site.is_conserved()


def test_a_folder_swapped_for_a_link_is_not_followed_out(tmp_path: Path) -> None:
    site = SmallSite(tmp_path, sources=[{"name": "deep", "format": "ipmitool", "path": "landing/*/*.log"}])
    inner = tmp_path / "landing" / "n2"
    inner.mkdir()
    (inner / "a.log").write_bytes(ipmi_text(300))
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside" / "a.log").write_bytes(ipmi_text(300))

    def swap() -> None:
        inner.rename(tmp_path / "landing" / "old")
        inner.symlink_to(tmp_path / "outside")

    site.bronze(Swapping(swap, 1))
    assert site.states() == {"a.log": ("discarded", "outside_landing")}


def test_a_name_that_is_no_text_is_set_aside(site: SmallSite) -> None:
    name = os.fsencode(site.folder / "landing") + b"/n3-\xff\xfe-2025-06-03.txt"
    Path(os.fsdecode(name)).write_bytes(ipmi_text(400))
    site.bronze()
    assert site.states()["n3-\\xff\\xfe-2025-06-03.txt"] == ("discarded", "name_not_utf8")
    assert site.lake.read(READING).height == 12
    assert site.bronze().notes == ("no new files",)
    site.is_conserved()


def test_a_planned_file_whose_source_was_renamed_is_set_aside_and_read_anew(site: SmallSite) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(FileRegister, "summary", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        with pytest.raises(KeyboardInterrupt):
            site.bronze()
    settings = yaml.safe_load(site.config.read_text())
    settings["sources"][0]["name"] = "bmc2"
    site.config.write_text(yaml.safe_dump(settings))
    notes = site.bronze().notes
    assert f"file discarded: {site.folder}/landing/n1-2025-06-03.txt (source_not_in_settings)" in notes
    assert site.lake.read(READING)["source_name"].unique().to_list() == ["bmc2"]
    assert site.lake.read(REJECT)["reason"].unique().to_list() == ["source_not_in_settings"]
    assert site.lake.read(READING).height == 12
    site.is_conserved()
