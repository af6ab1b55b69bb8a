"""Time stamps of logs to UTC instants: ISO 8601, a chrono format, or epochs; local wall clocks with their DST.

- Raw units to the canonical unit of a quantity, as factor, divisor and offset that a column can be scaled
  by.
"""

import tokenize
from datetime import UTC, datetime, timedelta
from functools import cache, lru_cache
from typing import Annotated, Final, Literal, NamedTuple
from zoneinfo import available_timezones

import numpy as np
import pint
import polars as pl
from pydantic import AfterValidator

from lepton_etl.schema.common import QUANTITIES
from lepton_etl.schema.declare import ureg

# Words of tools and settings that pint spells otherwise or reads as something else (C coulomb, F farad).
ALIASES: Final[dict[str, str]] = {
    "%": "percent",
    "ratio": "dimensionless",
    "RPM": "revolutions_per_minute",
    "C": "degree_Celsius",
    "F": "degree_Fahrenheit",
}

# A divisor is preferred where it is whole: 35 percent / 100 is 0.35, 35 percent * 0.01 is not.
_WHOLE: Final = 1e-9

known_zones: Final = cache(available_timezones)


def known_zone(name: str) -> str:
    """Return the IANA zone `name` if this machine knows it. Raises ValueError otherwise."""
    if name not in known_zones():
        raise ValueError("not an IANA time zone such as UTC or America/New_York")
    return name


Zone = Annotated[str, AfterValidator(known_zone)]


class Conversion(NamedTuple):
    """canonical = raw * factor / divisor + offset."""

    factor: float
    divisor: float
    offset: float


@lru_cache(maxsize=4096)
def conversion(raw_unit: str, quantity: str) -> Conversion | None:
    """Return how values in `raw_unit` become the canonical unit of `quantity`; None if they cannot.

    Affine units (degF) are handled. An unknown quantity raises KeyError. Only units of settings and rule files come
    here, never text of a log: the rule tables say which logged words mean which unit.
    """
    canonical = ureg.Unit(QUANTITIES[quantity].unit)
    try:
        raw = ureg.Unit(ALIASES.get(raw_unit, raw_unit))
        offset = float(ureg.Quantity(0.0, raw).to(canonical).magnitude)
        slope = (float(ureg.Quantity(1000.0, raw).to(canonical).magnitude) - offset) / 1000.0
    except (pint.PintError, tokenize.TokenError, ValueError, TypeError, AttributeError, AssertionError):
        return None
    if offset == 0.0 and slope != 0.0:
        inverse = 1.0 / slope
        if inverse > 1.0 and abs(inverse - round(inverse)) < _WHOLE * inverse:
            return Conversion(1.0, float(round(inverse)), 0.0)
        if slope > 1.0 and abs(slope - round(slope)) < _WHOLE * slope:
            slope = float(round(slope))
    return Conversion(slope, 1.0, offset)


def with_value(frame: pl.DataFrame) -> pl.DataFrame:
    """Add `value` = number * factor / divisor + offset; NaN where one of them is null.

    In NumPy, because polars divides by a column of one row, or a literal, through its reciprocal: 63.25 percent
    would be 0.6325 in a long file and 0.6325000000000001 in a short one.
    """
    number, factor, divisor, offset = (
        frame.get_column(name).cast(pl.Float64).to_numpy()
        for name in ("number", "factor", "divisor", "offset")
    )
    with np.errstate(all="ignore"):
        value = number * factor / divisor + offset
    return frame.with_columns(pl.Series("value", value))


EpochUnit = Literal["s", "ms", "us", "ns"]
Ambiguous = Literal["reject", "merged"]

_PLAIN_BYTES: Final = len("2025-06-03 00:00:02 UTC")
UTC_TIME: Final = pl.Datetime("us", "UTC")
MICROSECONDS_PER: Final[dict[str, float]] = {"s": 1e6, "ms": 1e3, "us": 1.0, "ns": 1e-3}
# Stamps outside are a clock that lost its battery (1970) or a wrong epoch unit, not a log of today.
EARLIEST_YEAR: Final = 2000
LATEST_YEAR: Final = 2100
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_FIRST_S, _END_S = (
    round(datetime(year, 1, 1, tzinfo=UTC).timestamp()) for year in (EARLIEST_YEAR, LATEST_YEAR + 1)
)

_ISO = (
    r"^(?<day>\d{4}-\d\d-\d\d)[T ](?<clock>\d\d:\d\d(?::\d\d(?:\.\d{1,9})?)?)"
    r" ?(?<zone>|Z|UTC|GMT|[+-]\d\d(?::?\d\d)?)$"
)


def parse_stamps(
    texts: pl.Series,
    *,
    timezone: str,
    format: str | None = None,
    epoch: EpochUnit | None = None,
    ambiguous: Ambiguous = "reject",
) -> pl.DataFrame:
    """Columns time (UTC, null where unusable), reason (bad_time, ambiguous_time, absent_time or null), merged (bool).

    `format` is a chrono format as polars takes it, `epoch` a unit; without both the text is ISO 8601.
    `timezone` is the IANA zone of stamps that carry none. A local time that happens twice is refused, or, when one
    row stands for both hours (`merged`), is the first of them with `merged` true.
    Source: docs/definitions.md section 9.
    """
    plain = None if epoch is None else _plain_epoch(texts, epoch)
    if plain is not None:
        return plain
    frame = pl.DataFrame({"text": texts.cast(pl.String).str.strip_chars()})
    if epoch is None and format is None:
        plain = _plain_utc(frame.get_column("text"))
        if plain is not None:
            return plain
    if epoch is not None:
        parsed = _from_epoch(frame, epoch).lazy()
    elif format is None:
        parsed = _from_iso(frame)
    else:
        parsed = _from_format(frame, format).lazy()
        timezone = (
            "UTC" if format.endswith("Z") else timezone
        )  # A literal Z says so, though chrono does not see it.
    return _to_utc(parsed, timezone, ambiguous)


def _plain_utc(texts: pl.Series) -> pl.DataFrame | None:
    """Return the answer where every text is `2025-06-03 00:00:02 UTC`, as most logs stamp; None where one is not.

    A fifth of the time of the general way, which a log of many short tables feels.
    """
    text = pl.col("text")
    # One select: a call of a series costs as much as a thousand stamps.
    found = pl.DataFrame({"text": texts}).select(
        text.str.slice(0, 19).str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", strict=False)
        .dt.replace_time_zone("UTC").alias("time"),
        pl.lit(None, dtype=pl.String).alias("reason"),
        pl.lit(False).alias("merged"),
        (text.str.ends_with(" UTC") & (text.str.len_bytes() == _PLAIN_BYTES)).alias("is_plain"),
    )  # fmt: skip
    time = found.get_column("time")
    if not found.height or not found.drop_in_place("is_plain").all() or time.null_count():
        return None
    if any(
        not EARLIEST_YEAR <= at.year <= LATEST_YEAR
        for at in (time.min(), time.max())
        if isinstance(at, datetime)
    ):
        return None
    return found


def _plain_epoch(texts: pl.Series, epoch: EpochUnit) -> pl.DataFrame | None:
    """Return the answer where every text is a whole number of a time that is believed in; None where one is not."""
    whole = texts.cast(pl.Int64, strict=False)
    if not len(whole) or whole.null_count():
        return None
    number = whole.to_numpy()
    per_s = round(1e6 / MICROSECONDS_PER[epoch])
    if number.min() < _FIRST_S * per_s or number.max() >= _END_S * per_s:
        return None
    micros = number // 1000 if epoch == "ns" else number * int(MICROSECONDS_PER[epoch])
    return pl.DataFrame({"time": micros}).select(
        pl.col("time").cast(UTC_TIME),
        pl.lit(None, dtype=pl.String).alias("reason"),
        pl.lit(False).alias("merged"),
    )


def micros_of(at: datetime) -> int:
    """Return an instant in microseconds from 1970-01-01 UTC."""
    return (at - _EPOCH) // timedelta(microseconds=1)


def says_a_day(format: str) -> bool:
    """Return whether a chrono format gives back the day of a stamp that it wrote itself.

    `%Z` does not count: chrono skips the name of a zone without heeding it.
    """
    if "%Z" in format:
        return False
    sample = pl.Series([datetime(2025, 6, 13, 14, 45, 6, tzinfo=UTC)], dtype=UTC_TIME)
    try:
        text = sample.dt.to_string(format.replace("%#z", "%z"))  # The former can only be read.
    except pl.exceptions.ComputeError:
        return False
    read = parse_stamps(text, timezone="UTC", format=format).get_column("time").dt.date()
    return read.to_list() == sample.dt.date().to_list()


def _from_epoch(frame: pl.DataFrame, epoch: EpochUnit) -> pl.DataFrame:
    """An epoch is UTC: only `instant` is filled. Whole numbers stay integers, so nanoseconds lose nothing here."""
    scale = MICROSECONDS_PER[epoch]
    whole = pl.col("text").cast(pl.Int64, strict=False)
    scaled = whole // 1000 if epoch == "ns" else whole * int(scale)
    fraction = pl.col("text").cast(pl.Float64, strict=False) * scale
    bounded = pl.when(fraction.abs() < 1e18).then(
        pl.when(whole.is_not_null()).then(scaled).otherwise(fraction.round().cast(pl.Int64, strict=False))
    )
    return frame.select(
        pl.lit(None, dtype=pl.Datetime("us")).alias("local"),
        bounded.cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias("instant"),
    )


def _from_iso(frame: pl.DataFrame) -> pl.LazyFrame:
    parts = frame.lazy().select(pl.col("text").str.extract_groups(_ISO)).unnest("text")
    naive = pl.concat_str(
        pl.col("day"), pl.lit(" "), pl.col("clock"), pl.when(pl.col("clock").str.len_bytes() == 5).then(pl.lit(":00"))
        .otherwise(pl.lit("")),
    ).str.to_datetime("%Y-%m-%d %H:%M:%S%.f", time_unit="us", strict=False)  # fmt: skip
    zone = pl.col("zone")
    digits = zone.str.replace_all(":", "").str.pad_end(5, "0")
    minutes = digits.str.slice(1, 2).cast(pl.Int64, strict=False) * 60 + digits.str.slice(3, 2).cast(
        pl.Int64, strict=False
    )
    shift = pl.when(zone.str.starts_with("-")).then(-minutes).when(zone.str.starts_with("+")).then(minutes)
    offset = pl.duration(minutes=shift.fill_null(0))
    return parts.with_columns(naive.alias("naive")).select(
        pl.when(zone == "").then(pl.col("naive")).alias("local"),
        pl.when(zone != "").then(pl.col("naive") - offset).dt.replace_time_zone("UTC").alias("instant"),
    )


def _from_format(frame: pl.DataFrame, format: str) -> pl.DataFrame:
    parsed = frame.get_column("text").str.to_datetime(format, time_unit="us", strict=False)
    zoned = isinstance(parsed.dtype, pl.Datetime) and parsed.dtype.time_zone is not None
    nothing = pl.Series([None], dtype=pl.Datetime("us")).new_from_index(0, len(parsed))
    if zoned:
        return pl.DataFrame({"local": nothing, "instant": parsed.dt.convert_time_zone("UTC")})
    return pl.DataFrame({"local": parsed, "instant": nothing.dt.replace_time_zone("UTC")})


def _to_utc(parsed: pl.LazyFrame, timezone: str, ambiguous: Ambiguous) -> pl.DataFrame:
    """Bring `local` to UTC in `timezone`, keep `instant`, and say why a stamp is unusable."""
    sane = pl.col("local").dt.year().is_between(EARLIEST_YEAR, LATEST_YEAR)
    local = pl.when(sane).then(pl.col("local"))
    first = local.dt.replace_time_zone(
        timezone, ambiguous="earliest", non_existent="null"
    ).dt.convert_time_zone("UTC")
    last = local.dt.replace_time_zone(timezone, ambiguous="latest", non_existent="null").dt.convert_time_zone(
        "UTC"
    )
    known = parsed.select(
        sane.fill_null(False).alias("sane"),
        first.alias("first"),
        (first != last).fill_null(False).alias("twice"),
        pl.when(pl.col("instant").dt.year().is_between(EARLIEST_YEAR, LATEST_YEAR))
        .then(pl.col("instant"))
        .alias("instant"),
    )
    refused = pl.col("twice") & pl.lit(ambiguous == "reject")
    reason = (
        pl.when(pl.col("instant").is_not_null())
        .then(None)
        .when(~pl.col("sane"))
        .then(pl.lit("bad_time"))
        .when(pl.col("first").is_null())
        .then(pl.lit("absent_time"))
        .when(refused)
        .then(pl.lit("ambiguous_time"))
    )
    return known.select(
        pl.when(~refused).then(pl.coalesce("instant", "first")).cast(UTC_TIME).alias("time"),
        reason.cast(pl.String).alias("reason"),
        (pl.col("twice") & pl.lit(ambiguous == "merged")).alias("merged"),
    ).collect()
