"""Inventory and meters files: what is accepted, and where every mistake is shown."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import pytest

from lepton_etl.errors import ConfigurationError
from lepton_etl.intervals.channels import DAY_US
from lepton_etl.intervals.readings import OPEN_END_US, roster
from lepton_etl.registers.inventory import read_meters, read_nodes
from lepton_etl.schema.fleet import METER, NODE
from lepton_etl.schema.types import arrow_schema

NODE_HEADER = (
    "node_id,cluster_id,rack_id,hardware_class,rated_power_w,idle_power_w,embodied_kgco2e,lifetime_years,valid_from,"
    "valid_to,chassis_id,node_kind,gpu_count"
)
METER_HEADER = "meter_id,parent_id,point,carrier,sign,unit,multiplier,kind,label,valid_from,valid_to,site_id"


def write(folder: Path, header: str, *lines: str) -> Path:
    file = folder / "list.csv"
    file.write_text("\n".join((header, *lines)) + "\n", encoding="utf-8")
    return file


def test_nodes_are_typed_and_unknown_stays_null(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        "\ufeff" + NODE_HEADER,
        "b,blue,r1,xeon,500,80.5,1200,6,2025-01-01T02:00:00+02:00,,box,compute,4",
        "",
        "a,,,,,,,,2025-01-01,2025-06-01,,storage,",
    )
    table = read_nodes(file, "here")
    assert table.schema.equals(arrow_schema(NODE))
    first, second = table.to_pylist()
    assert [row["node_id"] for row in (first, second)] == ["a", "b"], "sorted by key"
    assert first["cluster_id"] == "_shared", "storage outside clusters"
    assert first["rated_power_w"] is None
    assert first["valid_to"] == datetime(2025, 6, 1, tzinfo=UTC)
    assert second["valid_from"] == datetime(2025, 1, 1, tzinfo=UTC)
    assert (second["idle_power_w"], second["gpu_count"], second["chassis_id"]) == (80.5, 4, "box")
    assert second["site_id"] == "here"


@pytest.mark.parametrize(
    ("line", "place", "what"),
    [
        ("a,blue,,,x,,,,2025-01-01,,,,", "rated_power_w", "'x': not a number"),
        ("a,blue,,,-1,,,,2025-01-01,,,,", "rated_power_w", "outside 0 .. 1e+06 watt"),
        ("a,blue,,,nan,,,,2025-01-01,,,,", "rated_power_w", "outside"),
        ("a,blue,,,,,,,01.02.2025,,,,", "valid_from", "not an ISO 8601 date"),
        ("a,blue,,,,,,,,,,,", "valid_from", "empty"),
        ("a,blue,,,,,,,2025-01-02,2025-01-01,,,", "valid_to", "not after valid_from"),
        ("a b,blue,,,,,,,2025-01-01,,,,", "node_id", "letters, digits"),
        ("a,_unlisted,,,,,,,2025-01-01,,,,", "cluster_id", "starting with a letter"),
        ("a,,,,,,,,2025-01-01,,,compute,", "cluster_id", "empty; only a node_kind of storage"),
        ("a,blue,,,,,,,2025-01-01,,,toaster,", "node_kind", "not one of compute"),
        ("a,blue,,,,,,,2025-01-01,,,,1.5", "gpu_count", "not a whole number"),
        ("a,blue,,,,,,,2025-01-01,,a,,", "chassis_id", "a node has this name"),
    ],
)
def test_a_wrong_cell_is_named_by_file_line_and_column(
    tmp_path: Path, line: str, place: str, what: str
) -> None:
    file = write(tmp_path, NODE_HEADER, "z,blue,,,,,,,2025-01-01,,,,", line)
    with pytest.raises(ConfigurationError) as caught:
        read_nodes(file, "here")
    assert caught.value.where == f"{file}:3:{place}"
    assert what in caught.value.what


@pytest.mark.parametrize(
    ("header", "what"),
    [
        (NODE_HEADER.replace("rated_power_w,", ""), "column missing: rated_power_w"),
        (NODE_HEADER + ",colour", "column unknown: colour"),
        (NODE_HEADER + ",rack_id", "column named twice: rack_id"),
        ("", "columns missing: node_id"),
    ],
)
def test_a_wrong_header_is_refused(tmp_path: Path, header: str, what: str) -> None:
    with pytest.raises(ConfigurationError, match=what) as caught:
        read_nodes(write(tmp_path, header), "here")
    assert caught.value.where.endswith("list.csv:1")


def test_ragged_lines_and_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"list.csv:2: 1 cells under 13 columns"):
        read_nodes(write(tmp_path, NODE_HEADER, "a"), "here")
    with pytest.raises(ConfigurationError, match="cannot read it"):
        read_nodes(tmp_path / "nowhere.csv", "here")
    (tmp_path / "latin.csv").write_bytes(b"node_id\xff\n")
    with pytest.raises(ConfigurationError, match="not a CSV file in UTF-8"):
        read_nodes(tmp_path / "latin.csv", "here")


def test_two_rows_of_a_node_never_hold_at_once(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        NODE_HEADER,
        "a,green,,,,,,,2025-02-01,,,,",
        "b,blue,,,,,,,2025-01-01,,,,",
        "a,blue,,,,,,,2025-01-01,,,,",
    )
    with pytest.raises(ConfigurationError, match="while line 4 still holds") as caught:
        read_nodes(file, "here")
    assert caught.value.where == f"{file}:2:node_id"


def test_the_roster_has_one_row_a_node_and_day(tmp_path: Path) -> None:
    file = write(
        tmp_path,
        NODE_HEADER,
        "a,blue,,,,,,,1970-01-03,1970-01-05T12:00:00Z,,,",
        "a,green,,,,,,,1970-01-05T12:00:00Z,,,,",
    )
    blue, green = roster(read_nodes(file, "here")).to_dicts()
    assert (blue["from_day"], blue["until_day"]) == (2, 3), "a row that begins within a day takes the day"
    assert (green["from_day"], green["from_us"], green["until_us"]) == (4, 4.5 * DAY_US, OPEN_END_US)


def test_meters_are_typed(tmp_path: Path) -> None:
    file = write(
        tmp_path, METER_HEADER, "main,,utility,electricity,1,kWh,40,counter,start,2025-01-01,,here",
        "pdu,main,pdu_out,electricity,1,kW,1,power,end,2025-01-01,,",
    )  # fmt: skip
    table = read_meters(file, "here")
    assert table.schema.equals(arrow_schema(METER))
    assert table.column("multiplier").to_pylist() == [40.0, 1.0]
    assert table.column("site_id").to_pylist() == ["here", "here"]


@pytest.mark.parametrize(
    ("line", "place", "what"),
    [
        ("m,,roof,electricity,1,kW,1,power,start,2025-01-01,,", "point", "not one of utility"),
        ("m,,utility,steam,1,kW,1,power,start,2025-01-01,,", "carrier", "not one of electricity"),
        ("m,,utility,electricity,0,kW,1,power,start,2025-01-01,,", "sign", "1 for energy drawn"),
        ("m,,utility,electricity,2,kW,1,power,start,2025-01-01,,", "sign", "outside"),
        ("m,,utility,electricity,1,quatloo,1,power,start,2025-01-01,,", "unit", "not a unit"),
        ("m,,utility,electricity,1,kW,,power,start,2025-01-01,,", "multiplier", "empty"),
        ("m,,utility,electricity,1,kW,1,sometimes,start,2025-01-01,,", "kind", "not one of interval"),
        ("m,x,utility,electricity,1,kW,1,power,start,2025-01-01,,", "parent_id", "no such meter"),
        ("m,m,utility,electricity,1,kW,1,power,start,2025-01-01,,", "parent_id", "not upstream of itself"),
        (
            "m,,utility,electricity,1,kW,1,power,start,2025-01-01,,there",
            "site_id",
            "the settings' site is here",
        ),
    ],
)
def test_a_wrong_meter_is_named(tmp_path: Path, line: str, place: str, what: str) -> None:
    file = write(tmp_path, METER_HEADER, line)
    with pytest.raises(ConfigurationError) as caught:
        read_meters(file, "here")
    assert caught.value.where == f"{file}:2:{place}"
    assert what in caught.value.what
