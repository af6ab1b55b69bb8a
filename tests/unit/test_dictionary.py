"""The field dictionary and the tables agree with themselves, with pint and with the committed page."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

from lepton_etl.schema.common import QUANTITIES
from lepton_etl.schema.declare import DOUBLE, INT, LONG, Field, Quantity, Table, ureg
from lepton_etl.schema.fields import FIELDS
from lepton_etl.schema.privacy import PERSONAL, PUBLIC, privacy_class
from lepton_etl.schema.tables import TABLES
from lepton_etl.schema.types import constraint

LIBRARY = Path(__file__).resolve().parents[2] / "lepton_etl"
SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "data_dictionary.py"
# What the end of a column's name says its unit is; the longest end that fits counts.
UNIT_OF_END = {
    "_gco2e_per_kwh": "gram_co2e / kilowatt_hour",
    "_gco2e_per_job": "gram_co2e",
    "_gco2e_per_gpu_hour": "gram_co2e / hour",
    "_kwh_per_w": "kilowatt_hour / watt",
    "_kwh_per_k": "kilowatt_hour / kelvin",
    "_margin_k": "kelvin",
    "_kgco2e": "kilogram_co2e",
    "_kg": "kilogram",
    "_kwh": "kilowatt_hour",
    "_ratio": "dimensionless",
    "_years": "year",
    "_rpm": "revolutions_per_minute",
    "_byte": "byte",
    "_j": "joule",
    "_h": "hour",
    "_hz": "hertz",
    "_w": "watt",
    "_c": "degree_Celsius",
    "_s": "second",
    "_l": "liter",
}
fields = pytest.mark.parametrize("field", FIELDS.values(), ids=lambda field: field.name)
tables = pytest.mark.parametrize("table", TABLES.values(), ids=lambda table: table.name)


@fields
def test_the_unit_parses_and_stands_at_the_end_of_the_name(field: Field) -> None:
    ends = [unit for end, unit in UNIT_OF_END.items() if field.name.endswith(end)]
    assert field.unit == (ends[0] if ends else None)
    if field.unit:
        assert ureg.Unit(field.unit) is not None


@pytest.mark.parametrize("quantity", QUANTITIES.values(), ids=lambda quantity: quantity.name)
def test_a_quantity_has_a_unit_and_a_range(quantity: Quantity) -> None:
    assert ureg.Unit(quantity.unit) is not None
    assert quantity.ge < quantity.le


@fields
def test_bounds_and_description_make_sense(field: Field) -> None:
    assert field.description.endswith(".")
    if field.ge is not None and field.le is not None:
        assert field.ge <= field.le
    if field.ge is not None or field.le is not None:
        assert field.type in (DOUBLE, INT, LONG)
        assert not field.one_of


@fields
def test_the_constraint_refuses_nan_and_lets_the_unknown_pass(field: Field) -> None:
    found = constraint(field)
    bounded = field.ge is not None or field.le is not None
    assert (found is not None) == (bounded or bool(field.one_of))
    if found is not None:
        assert found.startswith(f"{field.name} IS NULL OR ")
    if field.type == DOUBLE:
        # Spark holds NaN for the largest number: only an upper bound refuses it, only both refuse infinity.
        assert field.ge is not None
        assert (
            found
            == f"{field.name} IS NULL OR ({field.name} >= {field.ge!r} AND {field.name} <= {field.le!r})"
        )


@tables
def test_a_table_declares_columns_of_the_dictionary_once(table: Table) -> None:
    assert set(table.columns) <= set(FIELDS)
    assert len(table.columns) == len(set(table.columns))
    assert {*table.key, *table.not_null, *((table.partition,) if table.partition else ())} <= set(
        table.columns
    )
    assert bool(table.key) != table.append_only


@tables
def test_required_columns_are_the_key_and_what_is_added(table: Table) -> None:
    assert set(table.required) == {*table.key, *table.not_null}


def test_every_field_stands_in_a_table() -> None:
    used = {name for table in TABLES.values() for name in table.columns}
    assert set(FIELDS) - used == set()


def test_the_owner_of_a_table_is_a_room_of_the_library() -> None:
    rooms = {path.parent.name for path in LIBRARY.glob("*/__init__.py")}
    assert {table.owner for table in TABLES.values()} <= rooms


def test_the_page_is_up_to_date() -> None:
    spec = importlib.util.spec_from_file_location("data_dictionary", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.PAGE.read_text(encoding="utf-8") == script.page(), "run scripts/data_dictionary.py"


def test_each_column_has_one_class_and_no_name_of_a_host_or_file_is_public() -> None:
    assert not PERSONAL & PUBLIC
    assert set(FIELDS) >= PERSONAL | PUBLIC
    named = (
        "node_id",
        "device_id",
        "rack_id",
        "chassis_id",
        "meter_id",
        "sensor",
        "node_list",
        "path",
        "tenant_id",
    )
    assert {privacy_class(FIELDS[name]) for name in named} == {"internal"}
    assert {privacy_class(FIELDS[name]) for name in ("user_name", "job_id", "raw_text")} == {"personal"}
