"""Units to canonical ones, and stamps to UTC, against values known from elsewhere."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lepton_etl.ingest.units import conversion, parse_stamps, with_value
from lepton_etl.schema.common import QUANTITIES

NEW_YORK = ZoneInfo("America/New_York")


@pytest.mark.parametrize(
    ("raw", "unit", "quantity", "canonical"),
    [
        (61.5, "W", "gpu_power", 61.5),
        (812.4, "kW", "facility_power", 812_400.0),
        (26_120.0, "mW", "gpu_power", 26.12),
        (1_234_567.0, "mJ", "gpu_energy", 1234.567),
        (1.0, "kWh", "facility_energy", 3.6e6),
        (63.25, "percent", "gpu_utilisation", 0.6325),
        (14.25, "%", "gpu_utilisation", 0.1425),
        (0.09, "ratio", "gpu_utilisation", 0.09),
        (4450.0, "RPM", "fan_speed", 4450.0),
        (1410.0, "MHz", "clock", 1.41e9),
        (62.55, "g/kWh", "grid_intensity", 62.55),
        (1.0, "m**3", "water_volume", 1000.0),
    ],
)
def test_known_conversions_are_exact(raw: float, unit: str, quantity: str, canonical: float) -> None:
    change = conversion(unit, quantity)
    assert change is not None
    columns = {
        "number": [raw],
        "factor": [change.factor],
        "divisor": [change.divisor],
        "offset": [change.offset],
    }
    for rows in (1, 3):  # A column of one row is where polars would divide by a reciprocal.
        frame = pl.DataFrame({name: values * rows for name, values in columns.items()})
        assert with_value(frame).get_column("value").to_list() == [canonical] * rows


@pytest.mark.parametrize(
    ("raw", "unit", "quantity", "canonical"),
    [
        (32.0, "degF", "inlet_temperature", 0.0),
        (77.0, "degF", "inlet_temperature", 25.0),
        (-40.0, "degF", "inlet_temperature", -40.0),
        (300.0, "kelvin", "gpu_temperature", 26.85),
        (1.0, "lb/MWh", "grid_intensity", 0.45359237),
        (200.0, "refrigeration_ton", "heat_power", 703_370.7),
    ],
)
def test_known_conversions(raw: float, unit: str, quantity: str, canonical: float) -> None:
    change = conversion(unit, quantity)
    assert change is not None
    assert raw * change.factor / change.divisor + change.offset == pytest.approx(
        canonical, abs=1e-9, rel=1e-6
    )


@pytest.mark.parametrize("unit", ["V", "", "frobs", "((", "W W", "J"])
def test_a_unit_of_something_else_is_none(unit: str) -> None:
    assert conversion(unit, "node_power") is None


def test_every_canonical_unit_is_its_own() -> None:
    for name, quantity in QUANTITIES.items():
        change = conversion(quantity.unit, name)
        assert change is not None
        assert (change.factor, change.divisor, change.offset) == (1.0, 1.0, 0.0)


@settings(max_examples=60, deadline=None)
@given(
    local=st.datetimes(datetime(2001, 1, 1), datetime(2099, 1, 1)),  # noqa: DTZ001
    zone=st.sampled_from(["America/New_York", "Asia/Kolkata", "Australia/Lord_Howe", "Europe/Berlin", "UTC"]),
)
def test_local_stamps_agree_with_the_standard_library(local: datetime, zone: str) -> None:
    first, second = (local.replace(tzinfo=ZoneInfo(zone), fold=fold).astimezone(UTC) for fold in (0, 1))
    text = pl.Series([local.isoformat(sep=" ")])
    time, reason, _ = parse_stamps(text, timezone=zone).row(0)
    exists = first.astimezone(ZoneInfo(zone)).replace(tzinfo=None) == local
    if not exists:
        assert (time, reason) == (None, "absent_time")
    elif first != second:
        assert (time, reason) == (None, "ambiguous_time")
        merged_time, merged_reason, merged = parse_stamps(text, timezone=zone, ambiguous="merged").row(0)
        assert (merged_time, merged_reason, merged) == (min(first, second), None, True)
    else:
        assert (time, reason) == (first, None)


@pytest.mark.parametrize(
    ("text", "epoch", "time"),
    [
        ("1700000000", "s", datetime(2023, 11, 14, 22, 13, 20, tzinfo=UTC)),
        ("1700000000.25", "s", datetime(2023, 11, 14, 22, 13, 20, 250_000, tzinfo=UTC)),
        ("1700000000123", "ms", datetime(2023, 11, 14, 22, 13, 20, 123_000, tzinfo=UTC)),
        ("1700000000123456", "us", datetime(2023, 11, 14, 22, 13, 20, 123_456, tzinfo=UTC)),
        ("1700000000123456789", "ns", datetime(2023, 11, 14, 22, 13, 20, 123_456, tzinfo=UTC)),
        ("1700000000", "ms", None),
        ("nan", "s", None),
        ("99999999999999999999999", "s", None),
        ("", "s", None),
    ],
)
def test_epochs(text: str, epoch: str, time: datetime | None) -> None:
    found = parse_stamps(pl.Series([text]), timezone="America/New_York", epoch=epoch)  # type: ignore[arg-type]
    assert found.get_column("time").to_list() == [time]
    assert found.get_column("reason").to_list() == [None if time else "bad_time"]


@pytest.mark.parametrize(
    ("text", "format"),
    [
        ("03/Jun/2025 02:00:02", "%d/%b/%Y %H:%M:%S"),
        ("2025-06-02T20:00:02-0400", "%Y-%m-%dT%H:%M:%S%z"),
        ("2025-06-03T00:00:02Z", "%Y-%m-%dT%H:%M:%S%#z"),
        ("2025-06-03T00:00:02Z", "%Y-%m-%dT%H:%M:%SZ"),
    ],
)
def test_formats_with_and_without_an_offset(text: str, format: str) -> None:
    found = parse_stamps(pl.Series([text]), timezone="Europe/Berlin", format=format).get_column("time").item()
    assert found == datetime(2025, 6, 3, 0, 0, 2, tzinfo=UTC)


def test_a_day_of_the_clock_change_has_25_hours() -> None:
    start = datetime(2024, 11, 3, tzinfo=NEW_YORK).astimezone(UTC)
    end = datetime(2024, 11, 4, tzinfo=NEW_YORK).astimezone(UTC)
    stamps = parse_stamps(pl.Series(["2024-11-03 00:00", "2024-11-04 00:00"]), timezone="America/New_York")
    assert stamps.get_column("time").to_list() == [start, end]
    assert end - start == timedelta(hours=25)
