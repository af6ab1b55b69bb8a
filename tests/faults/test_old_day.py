"""What a night does with an older day that fails beside its own, and with a gate that was closed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import timedelta

import pytest

from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.lake.check import check_lake
from lepton_etl.lake.runs import waiting_days
from lepton_etl.schema.energy import CLUSTER_DAY
from pipelines import gate, gold
from pipelines.engine import InlineEngine, LocalEngine
from pipelines.nightly import run_night
from pipelines.stage import StageContext, StageResult
from tests.faults.site import DAY, SmallSite, day_text
from tests.nights import without

TONIGHT = DAY + timedelta(days=1)
# Too few hours to train a model of, which has no part in this.
NODES = (1, 2)
# Nor have the stages after publication, of which the last one names the night.
LEFT_OUT = ("forecast", "train", "diagnose", "recommend", "report")


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> SmallSite:
    """A site whose first day is published, with a copy of it beside."""
    folder = tmp_path_factory.mktemp("old_day") / "site"
    folder.mkdir()
    site = SmallSite(folder)
    for number in NODES:
        site.deliver(f"n{number}-{DAY}.txt", day_text(200, DAY))
    with without(*LEFT_OUT):
        first = run_night(InlineEngine(), site.loaded(), Days.of(DAY))
    assert first.exit_code == Exit.DONE, first.message
    shutil.copytree(folder, folder.with_name("published"))
    return site


@pytest.fixture
def site(published: SmallSite) -> Iterator[SmallSite]:
    """The site in its place, by which its files are known; what a test does to it is undone."""
    yield published
    shutil.rmtree(published.folder)
    shutil.copytree(published.folder.with_name("published"), published.folder)


def test_an_old_day_that_fails_stops_no_other(site: SmallSite, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in NODES:
        site.deliver(f"n{number}-{TONIGHT}.txt", day_text(210, TONIGHT))
    judge = gate.run

    def closed_for_the_old_day(context: StageContext) -> StageResult:
        if DAY in context.days:
            raise ValueError("the old day is bad")
        return judge(context)

    monkeypatch.setattr(gate, "run", closed_for_the_old_day)
    with without(*LEFT_OUT):
        night = run_night(InlineEngine(), site.loaded(), Days.of(TONIGHT))
    assert (night.exit_code, TONIGHT in set(site.lake.as_published().read(CLUSTER_DAY)["date"])) == (
        Exit.PUBLISHED_THEN_FAILED, True,
    )  # fmt: skip
    assert night.message == f"{TONIGHT} is published, {DAY} not: the old day is bad"
    assert list(waiting_days(site.lake)) == [DAY]
    assert list(check_lake(site.lake)) == []


def test_days_made_apart_take_no_fit_that_was_begun_for_them_together(
    site: SmallSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    for number in NODES:
        site.deliver(f"n{number}-{TONIGHT}.txt", day_text(210, TONIGHT))
    make, fits = gold.run, []

    def fails_for_the_old_day(context: StageContext) -> StageResult:
        fits.append((context.days.count, context.ahead.fit is not None))
        if DAY in context.days:
            raise ValueError("the old day is bad")
        return make(context)

    monkeypatch.setattr(gold, "run", fails_for_the_old_day)
    with LocalEngine(1) as engine, without(*LEFT_OUT):
        night = run_night(engine, site.loaded(), Days.of(TONIGHT))
    assert night.message == f"{TONIGHT} is published, {DAY} not: the old day is bad"
    assert fits == [(2, True), (1, False), (1, False)]


def test_gold_alone_does_not_pass_a_closed_gate(site: SmallSite) -> None:
    site.deliver(f"n1-{DAY}.late.txt", b"Timestamp: never\nSys Power | many Watts | ok\n" * 5000)
    assert run_night(InlineEngine(), site.loaded(), Days.of(DAY), "bronze").exit_code == Exit.DONE
    before = site.lake.version(CLUSTER_DAY)
    night = run_night(InlineEngine(), site.loaded(), Days.of(DAY), "gold")
    assert night.exit_code == Exit.QUALITY_GATE, night.message
    assert site.lake.version(CLUSTER_DAY) == before
