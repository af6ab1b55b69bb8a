"""What size and time of a file do not tell: other bytes under both, and a collector whose clock is off."""

from __future__ import annotations

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from lepton_etl.schema.logs import READING
from tests.faults.site import DAY, SmallSite, ipmi_text


def swapped(path: Path, content: bytes) -> None:
    """Write other bytes of the same size, and put the time back."""
    before = path.stat()
    assert len(content) == before.st_size
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_other_bytes_with_the_same_size_and_time_are_found_and_read(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    path = site.deliver("n1-2025-06-03.txt", ipmi_text(200))
    site.bronze()
    assert site.bronze().notes == ("no new files",)
    swapped(path, ipmi_text(700))
    (note, *_) = site.bronze().notes
    assert note == f"{path} has other bytes than were read, with the same size and time: read as another file"
    watts = [value for value in site.lake.read(READING)["value"] if value >= 200]
    assert sorted(watts) == [200, 201, 202, 700, 701, 702]
    site.is_conserved()
    # Both are known now, and found once.
    assert site.bronze().notes == ("no new files",)


def test_the_sample_of_a_night_is_bounded_and_moves_with_its_day(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    paths = [site.deliver(f"n{n % 9 + 1}-2025-06-03.txt.{n:02d}", ipmi_text(100 + n)) for n in range(60)]
    for number, path in enumerate(paths):
        os.utime(path, (1_750_000_000 + number, 1_750_000_000 + number))
    site.bronze()
    for number, path in enumerate(paths):
        swapped(path, ipmi_text(500 + number))
    found: set[str] = set()
    for day in range(20):
        notes = site.bronze(day=DAY + timedelta(days=day)).notes
        new = {note.partition(" has other bytes")[0] for note in notes if " has other bytes" in note}
        assert len(new) <= 20
        found |= new
    assert len(found) > 30
    site.is_conserved()


@pytest.mark.parametrize(
    ("written", "said"),
    [
        (datetime(2025, 6, 3, 0, 3, tzinfo=UTC), None),
        (datetime(2025, 6, 2, 23, 50, tzinfo=UTC), None),
        (
            datetime(2025, 6, 2, 22, 0, tzinfo=UTC),
            "up to 2:02:02 after their file was written (1 files, such as",
        ),
    ],
)
def test_a_clock_that_is_ahead_is_said_aloud(tmp_path: Path, written: datetime, said: str | None) -> None:
    site = SmallSite(tmp_path)
    path = site.deliver("n1-2025-06-03.txt", ipmi_text())
    os.utime(path, (written.timestamp(), written.timestamp()))
    notes = [note for note in site.bronze().notes if note.startswith("clock: ")]
    assert len(notes) == (said is not None)
    if said is not None:
        assert said in notes[0]
        assert notes[0].endswith("the clock of its collector is off, or sources.bmc.timezone is wrong")


@pytest.mark.parametrize(
    ("named", "is_said"), [("2025-06-03", False), ("2025-06-02", False), ("2025-06-04", True)]
)
def test_readings_far_from_the_day_of_their_file_are_said_aloud(
    tmp_path: Path, named: str, is_said: bool
) -> None:
    source = {
        "name": "bmc", "format": "ipmitool", "path": "landing/*.txt", "node_id_from_path": r"(?P<node_id>n\d)-",
        "time_from_path": r"-(?P<time>\d{4}-\d\d-\d\d)\.txt",
    }  # fmt: skip
    site = SmallSite(tmp_path, settings={"sources": [source]})
    site.deliver(f"n1-{named}.txt", ipmi_text())
    notes = [note for note in site.bronze().notes if "from the day that its file names" in note]
    assert bool(notes) == is_said
    site.is_conserved()
