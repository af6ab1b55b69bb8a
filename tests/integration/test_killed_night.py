"""A night that is killed by SIGKILL between two commits: its readers see the night before, its next run mends all."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from datetime import date
from pathlib import Path

import polars as pl
import pytest

from lepton_etl.lake.compare import compare_lakes
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR
from lepton_etl.schema.tables import TABLES
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.simulate import simulate
from tests.nights import Kill, Nights

GOLD = ("after gold/", "after ops/night")
# They commit to no table; the hours are too few to train on. The night is named before its report, so that stays.
LEFT_OUT = ("gate", "train")
FIRST, LAST = date(2025, 6, 3), date(2025, 6, 4)


@dataclass(frozen=True)
class Prepared:
    """A site after its first night, with the logs of the second and late ones of the first; and what comes of it."""

    nights: Nights
    site: Path
    before: Path
    undisturbed: Path
    commits: int


@pytest.fixture(scope="module")
def prepared(nights: Nights, tmp_path_factory: pytest.TempPathFactory) -> Prepared:
    folder = tmp_path_factory.mktemp("killed")
    # Files are known by their place: every night is made at the same one, and copies are kept beside it.
    site = folder / "site"
    plan = FleetPlan(
        seed=11,
        first_date=FIRST,
        days=2,
        clusters=(ClusterPlan(cluster_id="c01", nodes=2, hardware_class="cpu-2s"),),
        # Commits are as many of sparse logs.
        bmc_period_s=300,
    )
    simulate(plan, site)
    # The hours of the grid are a night late: emissions of the first day come with the second.
    late = (site / "landing").glob(f"grid/*{FIRST}*")
    held = {file: folder / f"held-{file.name}" for file in [*late, *(site / "landing").rglob(f"*{LAST}*")]}
    for file, place in held.items():
        file.rename(place)
    assert nights.run(site / "config.yaml", FIRST, leave_out=LEFT_OUT).exit_code == 0
    for file, place in held.items():
        place.rename(file)
    before = shutil.copytree(site, folder / "before")
    ended = nights.run(site / "config.yaml", LAST, leave_out=LEFT_OUT)
    assert ended.exit_code == 0
    undisturbed = shutil.copytree(site, folder / "undisturbed")
    return Prepared(nights, site, before, undisturbed, ended.count(*GOLD))


def seen(site: Path) -> dict[str, pl.DataFrame]:
    """Every gold table as a reader sees it, rows in a fixed order."""
    lake = Lake(site / "lake").as_published()
    found = {name: lake.read(table) for name, table in TABLES.items() if name.startswith("gold/")}
    return {name: rows.sort(rows.columns) for name, rows in found.items()}


def is_killed_and_mended(prepared: Prepared, commit: int) -> None:
    """Kill the night after this commit: the former night is seen; run again, all is as undisturbed."""
    site = prepared.site
    shutil.rmtree(site)
    shutil.copytree(prepared.before, site)
    prepared.nights.run(site / "config.yaml", LAST, kill=Kill(commit, GOLD), leave_out=LEFT_OUT)
    former = seen(prepared.before)
    for name, rows in seen(site).items():
        assert rows.equals(former[name]), f"{name} after commit {commit} of {prepared.commits}"
    assert prepared.nights.run(site / "config.yaml", LAST, leave_out=LEFT_OUT).exit_code == 0
    tables = [name for name in TABLES if name.startswith(("bronze/", "silver/", "gold/"))]
    different = [
        line
        for compared in compare_lakes(prepared.undisturbed / "lake", site / "lake", only=tables)
        if not compared.as_expected
        for line in compared.lines()
    ]
    assert different == []
    mended = seen(site)
    for name, rows in seen(prepared.undisturbed).items():
        assert mended[name].height == rows.height


def test_the_second_night_changes_what_the_first_said(prepared: Prepared) -> None:
    """Otherwise the tests below would see no difference."""
    former, after = seen(prepared.before), seen(prepared.undisturbed)
    first = pl.col("date") == FIRST
    assert former[CLUSTER_DAY.name].height > 0
    assert not former[CLUSTER_DAY.name].filter(first).equals(after[CLUSTER_DAY.name].filter(first))
    for table in (CLUSTER_DAY, NODE_HOUR):
        assert set(former[table.name]["date"]) == {FIRST}
        assert set(after[table.name]["date"]) == {FIRST, LAST}
    assert prepared.commits > 10


@pytest.mark.parametrize(
    "part", [pytest.param(0.0, marks=pytest.mark.fault), 0.5, pytest.param(1.0, marks=pytest.mark.fault)]
)
def test_a_night_killed_between_commits_is_not_seen_and_is_mended(prepared: Prepared, part: float) -> None:
    """After the first, a middle and the last commit of gold; the one after that names the night."""
    is_killed_and_mended(prepared, 1 + round(part * (prepared.commits - 2)))


@pytest.mark.slow
def test_a_night_killed_at_any_commit_is_not_seen_and_is_mended(prepared: Prepared) -> None:
    for commit in range(1, prepared.commits):
        is_killed_and_mended(prepared, commit)
