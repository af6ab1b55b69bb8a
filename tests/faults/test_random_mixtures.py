"""Random mixtures of bad input and random kills: killed anywhere, the next run gives the tables of a quiet one.

A seed draws some files of one day, and the write to the lake at which the night is killed by SIGKILL, of ten seeds each
in another tenth of the night. Two in `make test`, ten in CI (`SEEDS=10`), 200 in `make fault-test`; `SEED=n` runs one.
"""

from __future__ import annotations

import os
import random
import shutil
from pathlib import Path

import polars as pl
import pytest

from lepton_etl.lake.compare import compare_lakes
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.operations import RUN
from lepton_etl.schema.tables import TABLES
from tests.faults.bad_input import RECIPES, SOURCES, File, good
from tests.faults.site import DAY, SmallSite
from tests.faults.test_bad_input import came_of_it
from tests.nights import Ended, Kill, Nights

FEW, MANY = int(os.environ.get("SEEDS", "2")), 200
ALONE = os.environ.get("SEED")
SEEDS = [int(ALONE)] if ALONE else range(FEW)
# They write nothing but docs, and take nine tenths of such a night.
LEFT_OUT = ("gate", "train", "score", "forecast", "recommend", "report")
COMPARED = [name for name in TABLES if name.startswith(("bronze/", "silver/", "gold/"))]


def draw(rng: random.Random) -> list[File]:
    """One to three good files and some bad ones, each of a node of its own; one may come twice."""
    recipes = [good] * rng.randrange(1, 4)
    recipes += [rng.choice(RECIPES[rng.choice(list(RECIPES))]) for _ in range(rng.randrange(1, 6))]
    files = [recipe(rng, f"n{node}") for node, recipe in enumerate(recipes, 1)]
    rng.shuffle(files)
    return files


def versions(lake: Lake) -> dict[str, int | None]:
    return {name: lake.version(TABLES[name]) for name in COMPARED}


def the_oracle_holds(nights: Nights, seed: int, folder: Path) -> None:
    rng = random.Random(seed)
    folder.mkdir()
    site = SmallSite(folder, sources=SOURCES)
    files = draw(rng)
    for file in files:
        site.deliver(file.name, file.content)
    twice = rng.choice(files) if rng.random() < 0.3 else None
    if twice is not None:
        site.deliver(f"again-{twice.name}", twice.content)

    def night(kill: Kill | None = None) -> Ended:
        return nights.run(site.config, DAY, kill=kill, leave_out=LEFT_OUT)

    # Files are known by their place: both runs are made at the same one.
    quiet = night()
    assert quiet.exit_code == 0, quiet.message
    shutil.move(folder / "lake", folder / "quiet")
    # Another tenth of the night for each of ten seeds that follow one another.
    tenth = len(quiet.events) / 10
    at = 1 + int((seed % 10 + rng.random()) * tenth)
    killed = night(Kill(min(at, len(quiet.events) - 1)))
    # Whatever the kill left, a reader can read it.
    Lake(folder / "lake").as_published().read(TABLES["gold/node_hour"])
    again = night()
    assert again.exit_code == 0, again.message
    where = f"SEED={seed}, killed at event {len(killed.events)} of {len(quiet.events)}: {killed.events[-1]}"

    came_of_it(site, files)
    different = [
        line
        for one in compare_lakes(folder / "quiet", folder / "lake", only=COMPARED)
        if not one.equal
        for line in one.lines()
    ]
    assert different == [], where
    energy = site.lake.read(INTERVAL)["energy_kwh"].drop_nulls()
    assert energy.is_finite().all() and energy.is_between(0, 10).all(), where
    # The run that was killed is ended, no lease is left, and a third run has nothing to do.
    runs = site.lake.read(RUN)
    ended = set(runs.filter(pl.col("state") != "running")["run_id"])
    assert set(runs["run_id"]) == ended, where
    assert not list((folder / "lake" / "_leases").iterdir()), where
    before = versions(site.lake)
    assert night().exit_code == 0
    assert versions(site.lake) == before, where


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_anywhere_the_next_run_gives_the_tables_of_a_quiet_one(
    nights: Nights, tmp_path: Path, seed: int
) -> None:
    the_oracle_holds(nights, seed, tmp_path / "site")


@pytest.mark.fault
@pytest.mark.timeout(7200)
def test_two_hundred_mixtures(nights: Nights, tmp_path: Path) -> None:
    failed = {}
    for seed in range(FEW, MANY):
        folder = tmp_path / str(seed)
        try:
            the_oracle_holds(nights, seed, folder)
        except AssertionError as error:
            failed[seed] = str(error)[:500]
        shutil.rmtree(folder, ignore_errors=True)
    assert failed == {}, f"seeds {FEW} to {MANY - 1}; SEED=n runs one again"
