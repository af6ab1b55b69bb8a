"""How figures are written: a unit people read, three to five digits, a dash for the unknown."""

from __future__ import annotations

from datetime import UTC, date, datetime, timedelta
from typing import Final
from zoneinfo import ZoneInfo

from lepton_etl.days import Days

DASH: Final = "–"
# Thin no-break space between digits and unit, so that a figure never wraps apart.
_GAP: Final = "\u202f"


def number(value: float | int | None, digits: int = 4) -> str:
    """`digits` significant digits with thousands separators; whole numbers of a count stay whole."""
    if value is None:
        return DASH
    if isinstance(value, int):
        return f"{value:,}"
    if value == 0:
        return "0"
    magnitude = _magnitude(value)
    decimals = max(0, digits - 1 - magnitude)
    return f"{value:,.{min(decimals, 6)}f}"


def _magnitude(value: float) -> int:
    return int(f"{abs(value):e}".split("e")[1])


def _scaled(value: float | None, steps: tuple[tuple[float, str], ...]) -> str:
    if value is None:
        return DASH
    for factor, unit in steps:
        if abs(value) >= factor:
            return f"{number(value / factor)}{_GAP}{unit}"
    factor, unit = steps[-1]
    return f"{number(value / factor)}{_GAP}{unit}"


def energy(kwh: float | None) -> str:
    """kWh up to 10,000, then MWh and GWh."""
    if kwh is None or abs(kwh) < 1e4:
        return _scaled(kwh, ((1.0, "kWh"),))
    return _scaled(kwh, ((1e6, "GWh"), (1e3, "MWh")))


def power(watt: float | None) -> str:
    return _scaled(watt, ((1e6, "MW"), (1e3, "kW"), (1.0, "W")))


def mass(kilogram: float | None) -> str:
    return _scaled(kilogram, ((1e3, "t\u00a0CO₂e"), (1.0, "kg\u00a0CO₂e")))


def intensity(grams: float | None) -> str:
    return DASH if grams is None else f"{number(grams, 3)}{_GAP}g/kWh"


def percent(ratio: float | None, decimals: int = 1) -> str:
    """A ratio in percent; anything below all of it never rounds up to 100 %."""
    if ratio is None:
        return DASH
    shown = f"{ratio * 100:.{decimals}f}"
    if ratio < 1 and float(shown) >= 100:
        shown = f"{100 - 10**-decimals:.{decimals}f}"
    elif float(shown) == 0:
        shown = shown.removeprefix("-")
    return f"{shown}{_GAP}%"


def temperature(celsius: float | None) -> str:
    return DASH if celsius is None else f"{celsius:.1f}{_GAP}°C"


def ratio(value: float | None) -> str:
    return DASH if value is None else f"{value:.3f}"


def size(count: int | None) -> str:
    if count is None or count < 1000:
        return DASH if count is None else f"{count}{_GAP}B"
    return _scaled(float(count), ((1e9, "GB"), (1e6, "MB"), (1e3, "kB"), (1.0, "B")))


def seconds(value: float | None) -> str:
    return DASH if value is None else f"{value:,.1f}{_GAP}s"


def utc_days(days: Days) -> str:
    if days.count == 1:
        return f"UTC day {days.start}"
    return f"{days.start} to {days.end} ({days.count:,} UTC days)"


def local_span(days: Days, timezone: str) -> str:
    """The same instants on the site's clock: "2025-06-02 20:00 to 2025-06-03 20:00, America/New_York"."""
    zone = ZoneInfo(timezone)
    start, end = (stamp.astimezone(zone) for stamp in (days.from_time, days.until_time))
    return f"{start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M}, {timezone}"


def local_dates(days: Days, timezone: str) -> tuple[date, date]:
    """First and last local calendar day that the UTC days touch."""
    zone = ZoneInfo(timezone)
    last = days.until_time - timedelta(microseconds=1)
    return days.from_time.astimezone(zone).date(), last.astimezone(zone).date()


def stamp(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
