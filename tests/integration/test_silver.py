"""Silver on a lake: midnight, repeats, meters, grid, weather, usual values, and a second run without a commit."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import polars as pl
import pyarrow as pa
import pytest
import structlog
import yaml

from lepton_etl.config.settings import load
from lepton_etl.days import Days
from lepton_etl.lake.staging import stage
from lepton_etl.lake.tables import Lake
from lepton_etl.schema.declare import Table
from lepton_etl.schema.fleet import (
    FACILITY_INTERVAL,
    GRID_HOUR,
    INTERVAL,
    METER,
    NODE,
    SENSOR_DAY,
    WEATHER_HOUR,
)
from lepton_etl.schema.logs import READING
from lepton_etl.schema.types import arrow_schema
from pipelines import silver
from pipelines.engine import InlineEngine
from pipelines.stage import StageContext, StageResult

DAY = date(2025, 6, 3)
MIDNIGHT = datetime(2025, 6, 3, tzinfo=UTC)

INVENTORY = """\
node_id,cluster_id,rack_id,hardware_class,rated_power_w,idle_power_w,embodied_kgco2e,lifetime_years,valid_from,valid_to,chassis_id
n1,blue,r1,h,500,,,,2025-01-01,,box
n2,blue,r1,h,500,,,,2025-01-01,,box
n3,blue,r1,h,500,,,,2025-01-01,2025-06-03T12:00:00Z,
n3,green,r2,h,500,,,,2025-06-03T12:00:00Z,,
n4,green,r2,h,,,,,2025-01-01,,
n5,green,r2,h,500,100,,,2025-01-01,,
"""
METERS = """\
meter_id,site_id,parent_id,point,serves,carrier,sign,unit,multiplier,kind,label,class_pct,valid_from,valid_to
main,here,,utility,,electricity,1,kW,10,power,end,1,2025-01-01,
"""


def _reading(
    node_id: str | None, quantity: str, value: float, at: datetime, device_id: str = "node", **more: Any
) -> dict[str, Any]:
    file_id = sha256(str(more.pop("file", "a")).encode()).hexdigest()
    return {
        "site_id": "here", "node_id": node_id, "device_id": device_id, "quantity": quantity, "value": value,
        "statistic": "instant", "window_s": 0.0, "reading_time": at, "multiplicity": 1, "point": None,
        "sensor": quantity, "raw_value": str(value), "raw_unit": "", "source_name": "bmc", "file_id": file_id,
        "source_position": 1, "ingest_time": MIDNIGHT, "ingest_date": DAY, "reading_date": at.date(),
    } | more  # fmt: skip


def _every_minute(
    node_id: str, quantity: str, value: float, start: datetime, minutes: int, **more: Any
) -> list[Any]:
    return [
        _reading(node_id, quantity, value, start + timedelta(minutes=m), **more) for m in range(minutes + 1)
    ]


def _readings() -> list[dict[str, Any]]:
    noon = MIDNIGHT + timedelta(hours=12)
    rows = []
    # n1 runs across both midnights of the day; n2 and its chassis for an hour; n3 changes its cluster at noon.
    rows += _every_minute("n1", "node_power", 100.0, MIDNIGHT - timedelta(minutes=10), 24 * 60 + 20)
    rows += _every_minute("n2", "node_power", 200.0, noon, 60)
    rows += _every_minute("n3", "node_power", 360.0, noon - timedelta(minutes=30), 60)
    for node in ("n1", "n2"):
        rows += _every_minute(node, "chassis_input_power", 250.0, noon, 60, device_id="chassis")
    # n4 logs kW from the second day on and has no rating; n5, which has one, always did.
    for day, unit in ((-1, 1.0), (0, 1e-3), (1, 1e-3)):
        rows += _every_minute("n4", "node_power", 312.5 * unit, noon + timedelta(days=day), 60)
    rows += _every_minute("n5", "node_power", 0.312, noon, 60)
    rows += _every_minute("stray", "node_power", 50.0, noon, 10)
    # The same sensor and time from another file with another value: one of them loses.
    rows.append(_reading("n2", "node_power", 400.0, noon + timedelta(minutes=1), file="b"))
    for hour in range(24):
        at = MIDNIGHT + timedelta(hours=hour)
        mean = {"statistic": "mean", "window_s": 3600.0}
        # Labelled at the end of its window: this is the mean of the hour before `at + 1 h`.
        rows.append(
            _reading(None, "facility_power", 1000.0, at + timedelta(hours=1), "main", source_name="m", **mean)
        )
        rows.append(_reading(None, "facility_power", 7.0, at, "unknown", source_name="m", **mean))
        rows.append(
            _reading(
                None, "grid_intensity", 300.0 + hour, at, "ZONE", point="direct", source_name="g", **mean
            )
        )
        rows.append(
            _reading(None, "grid_intensity", 350.0, at, "ZONE", point="lifecycle", source_name="g", **mean)
        )
        rows.append(_reading(None, "grid_estimated", float(hour == 5), at, "ZONE", source_name="g", **mean))
        for minute, dry in ((0, 20.0), (30, 21.0)):
            stamp = at + timedelta(minutes=minute)
            rows.append(
                _reading(None, "outdoor_dry_bulb_temperature", dry, stamp, "weather", source_name="w")
            )
    return rows


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> StageContext:
    """A lake with bronze of three days, and the settings of its site."""
    return _context(tmp_path_factory.mktemp("silver"))


def _context(tmp_path: Path) -> StageContext:
    lake = Lake(tmp_path / "lake")
    (tmp_path / "inventory.csv").write_text(INVENTORY)
    (tmp_path / "meters.csv").write_text(METERS)
    (tmp_path / "landing").mkdir()
    config = {
        "site": {"site_id": "here"},
        "lake": {"root": "lake"},
        "fleet": {"inventory": "inventory.csv"},
        "facility": {"meters": "meters.csv"},
        "grid": {"zone": "ZONE", "intensity": "landing/grid/*.csv"},
        "sources": [
            {
                "name": "bmc",
                "format": "ipmitool",
                "path": "landing/*.txt",
                "node_id_from_path": "(?P<node_id>.*)",
            }
        ],
    }
    (tmp_path / "config.yaml").write_text(yaml.safe_dump(config))
    rows = pa.Table.from_pylist(_readings(), schema=arrow_schema(READING))
    lake.append_staged(READING, stage(lake.root, READING, rows), batch=1)
    return StageContext(
        lake, load(tmp_path / "config.yaml"), Days.of(DAY), "run", structlog.get_logger(), InlineEngine()
    )


@pytest.fixture(scope="module")
def ran(context: StageContext) -> tuple[StageResult, StageResult]:
    """Silver of the day, and once more."""
    return silver.run(context), silver.run(context)


def _rows(context: StageContext, table: Table, **equal: str) -> list[dict[str, Any]]:
    """The rows of the day in which each of these columns has the value."""
    rows = context.lake.read(table, Days.of(DAY))
    return rows.filter(*(pl.col(name) == value for name, value in equal.items())).to_dicts()


def test_silver_of_one_day(context: StageContext, ran: tuple[StageResult, StageResult]) -> None:
    first, second = ran

    assert {w.table for w in first.written if w.changed} == {
        t.name for t in (NODE, METER, INTERVAL, SENSOR_DAY, FACILITY_INTERVAL, GRID_HOUR, WEATHER_HOUR)
    }
    assert not [w.table for w in second.written if w.changed], "a second run commits nothing"
    assert first.notes == (
        "1 nodes are not in the inventory; they stand in cluster _unlisted: stray",
        "1 meters are not in the meters file; their readings are not used: unknown",
    )

    # Midnight: readings of the neighbouring days close the first and the last interval.
    n1 = _rows(context, INTERVAL, node_id="n1", device_id="node")
    assert len(n1) == 288
    assert sum(r["observed_s"] for r in n1) == 86_400
    assert sum(r["energy_kwh"] for r in n1) == pytest.approx(2.4, rel=1e-12)
    assert {r["date"] for r in n1} == {DAY}
    assert {tuple(r["flags"]) for r in n1} == {()}

    # One chassis, read by two nodes, counts once and never in a total.
    box = _rows(context, INTERVAL, device_id="chassis")
    assert {(r["node_id"], r["cluster_id"], r["counts_in_total"]) for r in box} == {("box", "blue", False)}
    assert sum(r["energy_kwh"] for r in box) == pytest.approx(0.25)

    n3 = _rows(context, INTERVAL, node_id="n3")
    assert {
        c: sum(r["energy_kwh"] for r in n3 if r["cluster_id"] == c) for c in ("blue", "green")
    } == pytest.approx({"blue": 0.18, "green": 0.18})

    stray = _rows(context, INTERVAL, node_id="stray")
    assert {(r["cluster_id"], r["counts_in_total"], tuple(r["flags"])) for r in stray} == {
        ("_unlisted", True, ("unlisted_node",))
    }

    # A power in kW is no energy: told by the day before, or by the rating.
    for node, flag in (("n4", "scale_changed"), ("n5", "scale_kw_as_w")):
        wrong = _rows(context, INTERVAL, node_id=node)
        assert len(wrong) == 13
        assert {(r["energy_kwh"], r["power_max_w"], tuple(r["flags"])) for r in wrong} == {
            (None, None, (flag,))
        }

    # Which file wins is the order of file ids, not of arrival.
    won = 200.0 if sha256(b"a").hexdigest() < sha256(b"b").hexdigest() else 400.0
    n2 = sorted(_rows(context, INTERVAL, node_id="n2", device_id="node"), key=lambda r: r["interval_start"])
    assert [r["conflicts"] for r in n2] == [1] + [0] * 11
    assert n2[0]["flags"] == ["conflict"]
    assert n2[0]["power_max_w"] == won


@pytest.mark.usefixtures("ran")
def test_meters_grid_and_weather(context: StageContext) -> None:
    meter = _rows(context, FACILITY_INTERVAL)
    assert {(r["meter_id"], r["point"], r["energy_source"]) for r in meter} == {("main", "utility", "meter")}
    assert len(meter) == 288, "hours labelled at their end fill exactly the day"
    assert sum(r["energy_kwh"] for r in meter) == pytest.approx(240.0), (
        "1 kW as logged, a transformer ratio of 10"
    )

    grid = _rows(context, GRID_HOUR)
    assert len(grid) == 48
    direct = {r["hour_start"].hour: r for r in grid if r["intensity_basis"] == "direct"}
    assert direct[7]["carbon_intensity_gco2e_per_kwh"] == 307.0
    assert [h for h, r in direct.items() if r["estimated"]] == [5]
    assert {(r["zone_id"], r["signal"], r["flow"], r["source_name"]) for r in grid} == {
        ("ZONE", "average", "consumption", "g")
    }

    weather = _rows(context, WEATHER_HOUR)
    assert [(r["outdoor_dry_bulb_temp_c"], r["outdoor_wet_bulb_temp_c"]) for r in weather] == [
        (20.5, None)
    ] * 24


@pytest.mark.usefixtures("ran")
def test_a_range_gives_the_days_that_single_nights_give(context: StageContext) -> None:
    """Three single nights, then the same days as one long range: nothing is left to commit."""
    one_day = timedelta(days=1)
    for day in (DAY - one_day, DAY + one_day):
        silver.run(replace(context, days=Days.of(day)))
    rows = _node_rows(context, "n1")
    assert {r["date"] for r in rows} == {DAY - one_day, DAY, DAY + one_day}
    assert sum(r["energy_kwh"] for r in rows) == pytest.approx(100 * (24 * 60 + 20) / 60 / 1000, rel=1e-12)

    # The day after is held against the days before it, of which the last spoke kW already.
    n4 = _node_rows(context, "n4")
    assert {(r["date"], tuple(r["flags"])) for r in n4 if r["energy_kwh"] is None} == {
        (day, ("scale_changed",)) for day in (DAY, DAY + one_day)
    }
    assert sum(r["energy_kwh"] for r in n4 if r["date"] == DAY - one_day) == pytest.approx(0.3125)

    again = silver.run(replace(context, days=Days(DAY - 21 * one_day, DAY + 21 * one_day)))
    assert not [w.table for w in again.written if w.changed]


def _node_rows(context: StageContext, node_id: str) -> list[dict[str, Any]]:
    rows = context.lake.read(INTERVAL)
    return rows.filter(pl.col("node_id") == node_id, pl.col("device_id") == "node").to_dicts()


def test_usual_values_come_from_sensor_days_and_once_from_bronze(tmp_path: Path) -> None:
    """An older lake has no sensor-days: the first night makes those of the days before, the next ones read them."""
    context, one_day = _context(tmp_path), timedelta(days=1)
    silver.run(context)
    said = context.lake.read(SENSOR_DAY).filter(pl.col("node_id") == "n4")
    assert dict(said.select("date", "typical_value").iter_rows()) == {
        DAY - one_day: 312.5,
        DAY: pytest.approx(0.3125),
    }
    assert said["reading_count"].to_list() == [61, 61]
    made = context.lake.version(SENSOR_DAY)

    # Whatever bronze holds of the day before now, its sensor-days stand.
    late = [_reading("n4", "node_power", 0.1, MIDNIGHT - timedelta(hours=h, minutes=m), file="late")
            for h in (1, 2, 3) for m in range(60)]  # fmt: skip
    rows = pa.Table.from_pylist(late, schema=arrow_schema(READING))
    context.lake.append_staged(READING, stage(context.lake.root, READING, rows), batch=2)
    again = silver.run(context)
    assert not [w.table for w in again.written if w.changed]
    assert context.lake.version(SENSOR_DAY) == made

    # The day before by itself replaces its own, and by its many tenths of a watt the next day is held no more.
    silver.run(replace(context, days=Days.of(DAY - one_day)))
    silver.run(context)
    assert context.lake.version(SENSOR_DAY) != made
    assert {tuple(r["flags"]) for r in _rows(context, INTERVAL, node_id="n4")} == {()}
