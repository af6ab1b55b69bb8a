"""tariff.csv -> silver/tariff, and the price of an instant.

A tariff (supply, network) is a set of dated rows: `energy` prices by local weekday and time of day, `demand` charges on
the month's largest 15-minute mean, `fixed` charges a month. Several tariffs of one site add up.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import reduce
from itertools import combinations
from operator import add, or_
from pathlib import Path
from typing import Any, Final

import polars as pl
import pyarrow as pa

from lepton_etl.registers.inventory import cell_error, keyed_table, read_dated
from lepton_etl.schema.ledger import TARIFF

MINUTES_PER_DAY: Final = 1440
_REQUIRED: Final = ("tariff_id", "charge", "price", "currency", "valid_from")
_WEEKDAYS: Final = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")
_ALL_WEEK: Final = "mon-sun"
_CLOCK: Final = re.compile(r"([01]\d|2[0-3]):([0-5]\d)|(24):(00)")
_CURRENCY: Final = re.compile(r"[A-Z]{3}")


def read_tariff(path: Path, site_id: str) -> pa.Table:
    """The rows of silver/tariff of a tariff file, sorted by key.

    An empty weekdays cell is the whole week, empty times are the whole day. Raises ConfigurationError for a cell that
    cannot be what it says, two energy prices of one tariff at one instant, or two currencies.
    """
    rows = read_dated(path, TARIFF, _REQUIRED, _REQUIRED, site_id)
    for line, row in rows:
        row["weekdays"] = row["weekdays"] or _ALL_WEEK
        row["local_from"] = row["local_from"] or "00:00"
        row["local_to"] = row["local_to"] or "24:00"
        if not _CURRENCY.fullmatch(row["currency"]):
            raise cell_error(path, line, "currency", row["currency"], "no ISO 4217 code such as EUR")
        if row["currency"] != rows[0][1]["currency"]:
            raise cell_error(
                path, line, "currency", row["currency"], f"line {rows[0][0]} is in {rows[0][1]['currency']}"
            )
        if weekday_numbers(row["weekdays"]) is None:
            raise cell_error(path, line, "weekdays", row["weekdays"], "not such as mon-fri or sat,sun")
        for column in ("local_from", "local_to"):
            if not _CLOCK.fullmatch(row[column]):
                raise cell_error(path, line, column, row[column], "no time of day such as 07:00 or 24:00")
        if minute_of(row["local_to"]) <= minute_of(row["local_from"]):
            raise cell_error(
                path,
                line,
                "local_to",
                row["local_to"],
                "not after local_from",
                "make two rows around midnight",
            )
    _refuse_two_prices(path, rows)
    return keyed_table(rows, TARIFF)


def energy_prices(tariff: pa.Table, starts: pl.Series, zone: str) -> pl.Series:
    """The energy price at each instant (UTC), the sum over the tariffs that hold then.

    Null where no tariff holds, and where one holds but none of its rows names this weekday and time.
    """
    frame = local_clock(starts, zone)
    rows = [row for row in tariff.to_pylist() if row["charge"] == "energy"]
    if not rows:
        return pl.Series("energy_price", [None] * len(starts), dtype=pl.Float64)
    parts, holding = [], []
    for tariff_id in sorted({row["tariff_id"] for row in rows}):
        own = [row for row in rows if row["tariff_id"] == tariff_id]
        holds = reduce(or_, (_valid(row) for row in own))
        price = pl.coalesce(
            *(pl.when(_valid(row) & in_window(row)).then(pl.lit(row["price"], pl.Float64)) for row in own)
        )
        parts.append(pl.when(holds).then(price).otherwise(pl.lit(0.0)))
        holding.append(holds)
    total = pl.when(reduce(or_, holding)).then(reduce(add, parts))
    return frame.select(total.alias("energy_price")).to_series()


def local_clock(starts: pl.Series, zone: str) -> pl.DataFrame:
    """Instants (UTC) with local weekday (1 is Monday), minute of the day and date."""
    local = pl.col("start").dt.convert_time_zone(zone)
    return pl.DataFrame({"start": starts.dt.cast_time_unit("us")}).with_columns(
        local.dt.weekday().alias("weekday"),
        (local.dt.hour().cast(pl.Int32) * 60 + local.dt.minute()).alias("minute"),
        local.dt.date().alias("local_date"),
    )


def in_window(row: dict[str, Any]) -> pl.Expr:
    """Whether a row of `local_clock` lies on the tariff row's weekdays and between its times."""
    minute = pl.col("minute")
    return (
        pl.col("weekday").is_in(sorted(weekday_numbers(row["weekdays"]) or ()))
        & (minute >= minute_of(row["local_from"]))
        & (minute < minute_of(row["local_to"]))
    )


def weekday_numbers(text: str) -> frozenset[int] | None:
    """Weekdays such as `mon-fri` or `sat,sun` as numbers, 1 for Monday; None where the text says none."""
    found: set[int] = set()
    for part in text.lower().split(","):
        first, _, last = (name.strip() for name in part.partition("-"))
        if first not in _WEEKDAYS or (last and last not in _WEEKDAYS):
            return None
        start, end = _WEEKDAYS.index(first), _WEEKDAYS.index(last or first)
        if end < start:
            return None
        found |= set(range(start + 1, end + 2))
    return frozenset(found)


def minute_of(clock: str) -> int:
    """Minute of the day of a time such as 07:30; 24:00 is 1440."""
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def _valid(row: dict[str, Any]) -> pl.Expr:
    start = pl.col("start")
    after = start >= pl.lit(row["valid_from"]).dt.cast_time_unit("us")
    if row["valid_to"] is None:
        return after
    return after & (start < pl.lit(row["valid_to"]).dt.cast_time_unit("us"))


def _refuse_two_prices(path: Path, rows: Iterable[tuple[int, dict[str, Any]]]) -> None:
    priced = [(line, row) for line, row in rows if row["charge"] == "energy"]
    for (earlier, a), (line, b) in combinations(priced, 2):
        if a["tariff_id"] == b["tariff_id"] and _overlap(a, b):
            raise cell_error(
                path, line, "price", str(b["price"]), f"holds at instants of line {earlier} as well",
                "give the rows weekdays, times or validities that do not meet",
            )  # fmt: skip


def _overlap(a: dict[str, Any], b: dict[str, Any]) -> bool:
    share_days = (weekday_numbers(a["weekdays"]) or frozenset()) & (
        weekday_numbers(b["weekdays"]) or frozenset()
    )
    share_time = minute_of(a["local_from"]) < minute_of(b["local_to"]) and minute_of(
        b["local_from"]
    ) < minute_of(a["local_to"])
    share_validity = (a["valid_to"] is None or b["valid_from"] < a["valid_to"]) and (
        b["valid_to"] is None or a["valid_from"] < b["valid_to"]
    )
    return bool(share_days) and share_time and share_validity
