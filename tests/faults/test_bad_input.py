"""Each kind of bad delivery beside a good one: it is named, the good one is whole, and no other reading comes of it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from zoneinfo import ZoneInfo

import polars as pl
import pytest
import structlog

from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.logs import FILE, READING, REJECT
from pipelines import silver
from pipelines.engine import InlineEngine
from pipelines.nightly import run_night
from pipelines.stage import StageContext
from tests.faults.bad_input import RECIPES, SOURCES, File, good
from tests.faults.site import DAY, SmallSite, ipmi_text

# Draws of each kind: a kind has up to seven ways.
_DRAWS = 12


def came_of_it(site: SmallSite, files: list[File]) -> None:
    """Assert that the tables hold of each file exactly what must come of it, and count every record."""
    site.is_conserved()
    known = {str(path).rpartition("/")[2]: row for path, *row in site.lake.read(FILE).select(
        "path", "file_id", "state", "reason").iter_rows()}  # fmt: skip
    readings = site.lake.read(READING).filter(pl.col("quantity") == "node_power")
    rejects = site.lake.read(REJECT)
    for file in files:
        file_id, state, reason = known[file.name]
        of_file = readings.filter(pl.col("file_id") == file_id)
        got = Counter(zip(of_file["reading_time"], of_file["value"], strict=True))
        wanted = Counter(file.powers.items())
        told = set(rejects.filter(pl.col("file_id") == file_id)["reason"]) | {reason}
        where = f"{file.name}: {told - {None}}, {state}"
        # Never a reading that the file does not hold.
        extra = {time for time, _ in got - wanted}
        assert extra <= file.conflicts, f"{where}: {got - wanted}"
        if file.is_damaged:
            assert got == wanted or told != {None}, where
            continue
        assert not wanted - got, f"{where}: {wanted - got} of {file.content[:300]!r}"
        assert file.reasons <= told, f"{where}, not {set(file.reasons)}: {file.content[:300]!r}"
        assert bool(file.reasons) == (told != {None}), where


@pytest.mark.parametrize("row", RECIPES)
def test_what_is_bad_is_named_and_what_is_good_is_whole(tmp_path: Path, row: int) -> None:
    site = SmallSite(tmp_path, sources=SOURCES)
    rng = random.Random(row)
    files = [good(rng, "n1")]
    for draw in range(_DRAWS):
        files += [recipe(rng, f"n{2 + draw % 8}") for recipe in RECIPES[row]]
    # One name each: the draws of a kind are files of a few nodes.
    files = [replace(file, name=f"{number:02d}-{file.name}") for number, file in enumerate(files)]
    for file in files:
        site.deliver(file.name, file.content)
    site.bronze()
    came_of_it(site, files)
    assert site.bronze().notes == ("no new files",)


def test_a_day_of_bad_rows_alone_is_a_day_without_input(tmp_path: Path) -> None:
    site = SmallSite(tmp_path, sources=SOURCES)
    site.deliver("n1-2025-06-03.txt", b"garbage\n" * 20)
    site.deliver("n2-2025-06-03.csv", b"time,power,energy\nnever,-5,x\n")
    night = run_night(InlineEngine(), site.loaded(), Days.of(DAY))
    assert night.exit_code == Exit.NO_INPUT
    assert f"no reading of {DAY} was ever delivered; earlier days are untouched" in night.message
    assert site.lake.read(READING).is_empty() and site.lake.read(REJECT).height >= 3
    assert not site.lake.exists(INTERVAL)
    site.is_conserved()


def test_a_name_delivered_again_with_other_content_is_another_file(tmp_path: Path) -> None:
    site = SmallSite(tmp_path)
    for watts in (200, 300):
        site.deliver("n1-2025-06-03.txt", ipmi_text(watts))
        site.bronze()
    rows = site.lake.read(READING).filter(pl.col("quantity") == "node_power")
    assert sorted(rows["value"]) == [200, 201, 202, 300, 301, 302]
    assert rows["file_id"].n_unique() == 2
    site.is_conserved()


@pytest.mark.parametrize(
    ("local_day", "hours"), [(date(2025, 3, 30), 23), (date(2025, 6, 3), 24), (date(2025, 10, 26), 25)]
)
def test_a_local_day_has_its_own_hours_and_the_energy_of_all_of_them(
    tmp_path: Path, local_day: date, hours: int
) -> None:
    """Stamps with an offset: each hour of the clock change is itself, the one that comes twice too."""
    berlin = ZoneInfo("Europe/Berlin")
    start = datetime(local_day.year, local_day.month, local_day.day, tzinfo=berlin).astimezone(UTC)
    times = [(start + timedelta(minutes=m)).astimezone(berlin) for m in range(0, 60 * hours + 1, 5)]
    lines = [f"{time.isoformat()},200,{60_000 * number}" for number, time in enumerate(times)]
    site = SmallSite(tmp_path, sources=SOURCES)
    site.deliver(f"n1-{local_day}.local", "\n".join(["time,power,energy", *lines]).encode())
    assert site.bronze().rows_out == 2 * len(times)
    days = Days(local_day - timedelta(days=1), local_day)
    log = structlog.get_logger()
    silver.run(StageContext(site.lake, site.loaded(), days, "test", log, InlineEngine()))
    rows = site.lake.read(INTERVAL).filter(pl.col("device_id") == "node", pl.col("observed_s") > 0)
    of_day = rows.filter(
        pl.col("interval_start").dt.convert_time_zone("Europe/Berlin").dt.date() == local_day
    )
    assert of_day.height == 12 * hours
    assert of_day["energy_kwh"].sum() == pytest.approx(0.2 * hours, rel=1e-9)
    assert rows["energy_kwh"].sum() == pytest.approx(0.2 * hours, rel=1e-9)
