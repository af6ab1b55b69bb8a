"""The benchmark of the night: its logs and peers agree, its watch sees processes, its figures are ratios of a round."""

import sys
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest
from deltalake import write_deltalake

from bench import night
from bench.night import FLOOR, LOCAL, SPARK, Done, Rounds, Size, StageTime
from bench.night_inputs import SAMPLES, SENSORS, _write_logs
from bench.night_peers import PEERS, _duckdb, _lines, _polars_batch
from bench.watched import DRIVER, Watched, run

TWO = Size((8, 32), 10, 20_000)


def test_both_peers_tell_the_same_of_a_written_log(tmp_path: Path) -> None:
    _write_logs(tmp_path, ["n1", "n2"], range(2))
    files = sorted(tmp_path.glob("*.txt.gz"))
    (tmp_path / "out").mkdir()
    _, of_polars = _polars_batch(tmp_path / "out", 0, files)
    of_duckdb = _duckdb([files], tmp_path / "duck")
    key = ["node_id", "hour_start"]
    left, right = of_polars.sort(key), of_duckdb.sort(key)

    assert left.height == 48
    assert left["readings"].to_list() == right["readings"].to_list() == [60 * len(SENSORS)] * 48
    assert (left["energy_kwh"] - right["energy_kwh"]).abs().max() < 1e-12
    assert _lines(files[0]).height == SAMPLES * len(SENSORS)


def test_a_peer_that_differs_stops_the_benchmark(tmp_path: Path) -> None:
    hour = datetime(2025, 6, 3, tzinfo=UTC)
    ours = pl.DataFrame({"node_id": ["n1"], "hour_start": [hour], "readings": [600], "energy_kwh": [0.3]})
    write_deltalake(str(tmp_path / "same"), ours.to_arrow())
    write_deltalake(str(tmp_path / "other"), ours.with_columns(pl.lit(0.31).alias("energy_kwh")).to_arrow())

    night.check_equal(ours, tmp_path / "same", "a peer")
    with pytest.raises(SystemExit, match="1 of 1 node-hours differ"):
        night.check_equal(ours, tmp_path / "other", "a peer")


def test_a_command_is_watched_with_what_it_starts() -> None:
    work = "import subprocess, sys, time; subprocess.run([sys.executable, '-c', 'sum(range(10**7))']); time.sleep(0.5)"
    seen = run([sys.executable, "-c", work])

    assert seen.wall_s > 0.5
    assert seen.cpu_s > 0.05
    assert seen.peak_mib[DRIVER] > 1
    with pytest.raises(SystemExit, match="no such day"):
        run([sys.executable, "-c", "raise SystemExit('no such day')"])


def _done(wall_s: float, jobs: int = 0) -> Done:
    stages = (StageTime("bronze", wall_s / 2, jobs, 0), StageTime(night._BETWEEN, 0.0))
    return Done(Watched(wall_s, wall_s, "", {DRIVER: 100.0}), stages, 10)


def _rounds() -> Rounds:
    rounds = Rounds()
    for busy in (1.0, 3.0):
        rounds.add(FLOOR, Done(Watched(10 * busy, 10 * busy, "", {})))
        for engine, wall_s in ((SPARK, 20.0), (LOCAL, 8.0)):
            for number in (1, 2, 3):
                rounds.add(f"demo night {number}, {engine}", _done((wall_s + number) * busy, jobs=12))
            for nodes in TWO.fleets:
                rounds.add(f"{nodes} nodes, {engine}", _done((wall_s + nodes) * busy))
        for name in ("demo models", "demo tables"):
            rounds.add(name, Done(Watched(2 * busy, busy, "", {})))
        for nodes in TWO.fleets:
            for peer in PEERS:
                rounds.add(f"{nodes} nodes, {peer}", Done(Watched(nodes / 2 * busy, busy, "", {})))
        rounds.add(f"demo night 3 with history, {LOCAL}", _done(11.55 * busy))
    return rounds


def test_figures_are_ratios_of_a_round_and_miss_their_target_openly() -> None:
    rounds, parts = _rounds(), {"demo", "fleets", "history"}
    found = [
        *night.demo_figures(rounds, parts),
        *night.fleet_figures(rounds, TWO, parts),
        *night.more_figures(rounds, TWO, parts),
    ]
    figures = {one.name: one for one in found}

    assert figures["demo night on spark / floor, the worst of three"].value == pytest.approx(2.3)
    assert figures["demo night on spark / floor, the worst of three"].ok
    assert figures["Spark jobs of a demo night"].value == 12
    assert figures["make demo without its simulation / floor"].value == pytest.approx((21 + 22 + 23 + 4) / 10)
    assert figures["night of 32 nodes on local / faster peer"].value == pytest.approx(40 / 16)
    assert figures["night of 32 nodes on local / faster peer"].ok is False
    assert figures["a further reading, spark / faster peer"].value == pytest.approx(2.0)
    assert figures["third demo night with 10 days before it / without, local"].value == pytest.approx(1.05)
    assert all(one.rounds == 2 for one in found)


def test_the_picture_has_a_bar_for_each_night() -> None:
    svg = night.draw(_rounds())

    assert svg.startswith("<svg")
    assert "demo night 3, spark" in svg
    assert "bronze" in svg
