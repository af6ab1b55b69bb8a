"""A small night of nodes that are off, asleep or silent: what scheduler, outlet and BMC say, and what is made of it."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from typing import Any

import polars as pl
import pytest

from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.errors import Exit
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.energy import CLUSTER_DAY, NODE_HOUR
from lepton_etl.schema.fleet import INTERVAL
from lepton_etl.schema.jobs import NODE_STATE
from pipelines.engine import InlineEngine
from pipelines.nightly import run_night

DAY = Days.of(date(2025, 6, 3))
# From midnight to midnight, so that the last interval of the day has an end.
POLLS = [DAY.from_time + timedelta(minutes=5 * number) for number in range(289)]
NOON = datetime(2025, 6, 3, 12, tzinfo=UTC)
SETTINGS = """
site: {{site_id: here, timezone: UTC}}
lake: {{root: {root}/lake}}
fleet: {{inventory: {root}/inventory.csv}}
quality: {{docs: {root}/quality}}
sources:
  - {{name: bmc, format: ipmitool, path: "{root}/bmc/*.txt", node_id_from_path: "(?P<node_id>[^/]+)\\\\.txt"}}
  - {{name: slurm, format: scontrol_node, path: "{root}/slurm/*.txt", sampling_period_s: 300,
      time_from_path: "(?P<time>[^/]+)\\\\.txt"}}
  - {{name: outlets, format: delimited, path: "{root}/outlets.csv", time: {{column: time}}, node_id: {{column: node}},
      device_id: {{value: node}}, readings: [{{column: watts, quantity: outlet_power, unit: W}}]}}
"""
# Whether the BMC speaks, its watts, the scheduler's word and the outlet's watts at a poll.
Told = tuple[float | None, str | None, float | None]
NODES: dict[str, Callable[[datetime], Told]] = {
    "off_at_noon": lambda at: (200.0, "IDLE", None) if at < NOON else (None, "IDLE+POWERED_DOWN", None),
    "on_but_silent": lambda at: (200.0 if at < NOON else None, "IDLE", None),
    "asleep_at_outlet": lambda at: (None, "IDLE", 200.0) if at < NOON else (None, "IDLE~", 8.0),
    "zero_and_off": lambda at: (0.0, "IDLE+POWERED_DOWN", None),
    "zero_and_on": lambda at: (0.0, "IDLE", None),
    "off_all_day": lambda at: (None, "IDLE+POWERED_DOWN", None),
    "unknown": lambda at: (200.0 if at < NOON else None, None, None),
}
STANDBY_W = 5.0


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Lake:
    root = tmp_path_factory.mktemp("sleep")
    for folder in ("bmc", "slurm"):
        (root / folder).mkdir()
    (root / "config.yaml").write_text(SETTINGS.format(root=root), encoding="utf-8")
    head = (
        "node_id,cluster_id,rack_id,hardware_class,rated_power_w,idle_power_w,embodied_kgco2e,lifetime_years,"
    )
    rows = [
        f"{node},blue,,web,500,100,,,2025-01-01,0,{STANDBY_W if 'noon' in node else ''}" for node in NODES
    ]
    (root / "inventory.csv").write_text("\n".join([f"{head}valid_from,gpu_count,standby_power_w", *rows, ""]))
    rounds, outlets = [], ["time,node,watts"]
    texts: dict[str, list[str]] = {node: [] for node in NODES}
    for at in POLLS:
        for node, says in NODES.items():
            bmc_w, state, outlet_w = says(at)
            if bmc_w is not None:
                texts[node].append(
                    f"Timestamp: {at:%Y-%m-%d %H:%M:%S} UTC\nSys Power | {bmc_w:.0f} Watts | ok\n"
                )
            if outlet_w is not None:
                outlets.append(f"{at:%Y-%m-%dT%H:%M:%SZ},{node},{outlet_w}")
            if state is not None:
                rounds.append(
                    f"NodeName={node} Arch=x86_64 CoresPerSocket=8\n   State={state} ThreadsPerCore=1\n\n"
                )
    for node, lines in texts.items():
        if lines:
            (root / "bmc" / f"{node}.txt").write_text("".join(lines), encoding="utf-8")
    (root / "slurm" / "2025-06-03T00:00:00.txt").write_text("".join(rounds), encoding="utf-8")
    (root / "outlets.csv").write_text("\n".join([*outlets, ""]), encoding="utf-8")
    for stage in ("bronze", "silver", "gold"):
        assert run_night(InlineEngine(), load(root / "config.yaml"), DAY, stage).exit_code == Exit.DONE
    return Lake(load(root / "config.yaml").lake.root)


def hour_of(lake: Lake, node: str, hour: int) -> dict[str, Any]:
    rows = lake.read(NODE_HOUR, DAY).filter(pl.col("node_id") == node, pl.col("hour_start").dt.hour() == hour)
    return rows.row(0, named=True)


def states_of(lake: Lake, node: str) -> list[tuple[float, str, str]]:
    """From which hour of the day on a state holds, and its basis; spans of a few minutes around noon left out."""
    rows = lake.read(NODE_STATE, DAY).filter(pl.col("node_id") == node).sort("from_time")
    long = rows.filter(pl.col("to_time") - pl.col("from_time") > timedelta(minutes=15))
    return [
        (row["from_time"].hour, row["node_state"], row["state_basis"]) for row in long.iter_rows(named=True)
    ]


def test_a_node_that_is_off_draws_its_standby_power_and_is_measured(lake: Lake) -> None:
    for hour, kwh in ((3, 0.2), (15, STANDBY_W / 1000)):
        row = hour_of(lake, "off_at_noon", hour)
        assert row["it_energy_kwh"] == row["it_energy_measured_kwh"] == pytest.approx(kwh)
        assert (row["energy_basis"], row["coverage_ratio"]) == ("measured", 1.0)
    row = hour_of(lake, "off_at_noon", 15)
    assert (row["energy_source"], row["flags"], row["off_s"]) == ("node_state", ["known_off"], 3600.0)
    assert row["off_saved_kwh"] == pytest.approx((100 - STANDBY_W) / 1000)
    assert row["it_energy_upper_kwh"] - row["it_energy_kwh"] == pytest.approx(
        1.6448536 * 0.1 * STANDBY_W / 1000
    )
    assert states_of(lake, "off_at_noon") == [(0, "on", "power"), (12, "asleep", "scheduler")]
    whole_day = hour_of(lake, "off_all_day", 3)
    assert (whole_day["it_energy_kwh"], whole_day["off_saved_kwh"]) == (0.0, pytest.approx(0.1))


def test_a_node_that_is_on_and_silent_is_no_node_that_draws_nothing(lake: Lake) -> None:
    for node, state in (("on_but_silent", ("on", "scheduler")), ("unknown", ("silent", "silence"))):
        row = hour_of(lake, node, 15)
        assert (row["it_energy_measured_kwh"], row["observed_s"]) == (None, 0.0)
        assert row["energy_basis"] in ("estimated", "none")
        assert row["off_s"] == (0.0 if state[0] == "on" else None)
        assert states_of(lake, node)[-1][1:] == state


def test_the_outlet_of_a_sleeping_node_is_measured_and_its_saving_visible(lake: Lake) -> None:
    row = hour_of(lake, "asleep_at_outlet", 15)
    assert (row["it_energy_kwh"], row["energy_source"]) == (pytest.approx(0.008), "outlet_power")
    assert (row["off_s"], row["off_saved_kwh"]) == (3600.0, pytest.approx(0.092))
    assert states_of(lake, "asleep_at_outlet") == [(0, "on", "power"), (12, "asleep", "power")]


def test_no_watts_are_measured_where_the_node_is_off_and_suspect_where_it_is_on(lake: Lake) -> None:
    zero, suspect = (hour_of(lake, node, 3) for node in ("zero_and_off", "zero_and_on"))
    assert (zero["it_energy_kwh"], zero["energy_source"], zero["flags"]) == (0.0, "bmc", [])
    assert (suspect["it_energy_measured_kwh"], suspect["flags"]) == (None, ["suspect_zero"])


def test_the_day_of_the_cluster_adds_its_sleep_up(lake: Lake) -> None:
    row = lake.read(CLUSTER_DAY, DAY).row(0, named=True)
    assert row["off_s"] == pytest.approx((24 + 24 + 12 + 12) * 3600, abs=1200)
    assert row["off_saved_kwh"] == pytest.approx(24 * 0.1 * 2 + 12 * (0.095 + 0.092), abs=0.03)


def test_each_interval_of_a_node_stands_once(lake: Lake) -> None:
    rows = lake.read(INTERVAL, DAY)
    assert rows.select(INTERVAL.key).is_duplicated().sum() == 0
    assert rows.filter(pl.col("node_id") == "off_all_day").height == 288
