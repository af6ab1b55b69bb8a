"""Each kind of bad delivery beside a good one: it is named, the good one is whole, and no other reading comes of it."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import polars as pl
import pytest

from lepton_etl.schema.logs import FILE, READING, REJECT
from tests.faults.bad_input import RECIPES, SOURCES, File, good
from tests.faults.site import SmallSite

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
