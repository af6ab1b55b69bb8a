"""The shapes of one sensor in ipmitool's and ipmiutil's outputs, as (sensor, reading).

| command | line |
| --- | --- |
| `ipmitool sdr` | `Ambient Temp     | 22 degrees C      | ok` |
| `ipmitool sdr elist` | `Ambient Temp     | 30h | ok  | 12.1 | 22 degrees C` |
| `ipmitool sensor` | `Ambient Temp     | 22.000     | degrees C  | ok    | na | ...` (ten columns) |
| `ipmitool -c sdr`, `-c sensor` | `Ambient Temp,22,degrees C,ok` |
| `ipmitool dcmi power reading` | `    Instantaneous power reading:                   220 Watts` |
| `ipmiutil sensor` | `0013 SDR Full 01 01 20 a 01 snum 30 Ambient Temp     = 18 OK   22.00 degrees C` |
| `ipmiutil sensor -c` | `0013 | Full | Temperature | 30 | Ambient Temp | 18 | OK | 22.00 C` |

Source: ipmitool(1) and its lib/ipmi_sdr.c, ipmi_sensor.c, ipmi_dcmi.c; isensor(8) of ipmiutil.
"""

import re
from typing import Final

import polars as pl

# The status of a reading: a threshold state, or the hexadecimal one of a discrete sensor.
_STATUS: Final = r"(?:ok|ns|na|us|n[cr]|cr|[lu]n[cr]|[lu]cr|0x[0-9a-fA-F]+)"
_DCMI_SENSOR: Final = (
    "(?:Instantaneous power reading|Minimum during sampling period|Maximum during sampling period|"
    "Average power reading over sample period)"
)
_DCMI: Final = rf"^\s*(?<sensor>{_DCMI_SENSOR})\s*:\s*(?<reading>.*)$"
_IPMIUTIL: Final = (
    r"^[0-9a-fA-F]{4} SDR \w+ .*? snum [0-9a-fA-F]{2} (?<sensor>.+?)\s*= [0-9a-fA-F]+ \S+\s+(?<reading>.*)$"
)
# What stands around the rows: the rest of a dcmi report, the head and foot of an ipmiutil table.
_HEADING: Final = (
    r"\s*(?:(?:IPMI timestamp|Sampling period|Power reading state is)\s*:.*|ipmiutil .*|isensor.*|_ID_ SDR_.*|"
    r"-- BMC version .*|ID  \| .*)"
)
# Stricter than `split`, which is only given files of this format: any table of three columns would do there.
LINE: Final = re.compile(
    "|".join(
        (
            r"Timestamp: .+",
            rf"[^|]+\|[^|]*\|\s*{_STATUS}\s*",  # sdr
            rf"[^|]+\|\s*[0-9A-F]{{2}}h\s*\|\s*{_STATUS}\s*\|\s*\d+\.\d+\s*\|[^|]*",  # sdr elist
            rf"[^|]+\|[^|]*\|[^|]*\|\s*{_STATUS}\s*(?:\|[^|]*){{6}}",  # sensor
            rf"[^,|=]+,[^,]*,(?:[^,]*,)?{_STATUS}(?:,.*)?",  # -c
            rf"\s*{_DCMI_SENSOR}\s*:.*",
            r"[0-9a-fA-F]{4} SDR \w+ .* snum .*",  # ipmiutil sensor
            r"[0-9a-fA-F]{4} \| \w+ *\|.*",  # ipmiutil sensor -c
            _HEADING,
        )
    )
)
"""A stamp line, or a line of one of the shapes above, to be matched in full."""

_SENSOR_COLUMNS: Final = 10
_ELIST_COLUMNS: Final = 5
_CANONICAL_COLUMNS: Final = 8


def split(texts: pl.Series) -> pl.DataFrame:
    """Columns line, sensor, reading (number and unit), is_row, is_heading; one row a text."""
    line = pl.col("line")
    bars = pl.col("bars").list
    commas = pl.col("commas").list
    # Two columns of a table that stand for one text; `na` and the states of discrete sensors have no unit.
    no_unit = pl.col("unit").is_in(["na", "discrete", ""]) | pl.col("number").is_in(["na", "no reading"])
    return (
        pl.DataFrame({"line": texts})
        .with_columns(
            line.str.split("|").list.eval(pl.element().str.strip_chars()).alias("bars"),
            line.str.split(",").list.eval(pl.element().str.strip_chars()).alias("commas"),
            line.str.extract_groups(_DCMI).alias("dcmi"),
            line.str.extract_groups(_IPMIUTIL).alias("ipmiutil"),
            line.str.contains(f"^{_HEADING}$").alias("is_heading"),
        )
        .with_columns(
            pl.when(bars.len() == _SENSOR_COLUMNS)
            .then(pl.lit("sensor"))
            .when(bars.len() == _CANONICAL_COLUMNS)
            .then(pl.lit("canonical"))
            .when(bars.len() == _ELIST_COLUMNS)
            .then(pl.lit("elist"))
            .when(bars.len() == 3)
            .then(pl.lit("sdr"))
            .when((bars.len() == 1) & commas.get(3, null_on_oob=True).str.contains(f"^{_STATUS}$"))
            .then(pl.lit("csv"))
            .when(pl.col("dcmi").struct["sensor"].is_not_null())
            .then(pl.lit("dcmi"))
            .when(pl.col("ipmiutil").struct["sensor"].is_not_null())
            .then(pl.lit("ipmiutil"))
            .alias("dialect")
        )
        .with_columns(
            pl.when(pl.col("dialect") == "sensor").then(bars.get(2, null_on_oob=True))
            .otherwise(commas.get(2, null_on_oob=True)).alias("unit"),
            pl.when(pl.col("dialect") == "sensor").then(bars.get(1, null_on_oob=True))
            .otherwise(commas.get(1, null_on_oob=True)).alias("number"),
        )
        .with_columns(
            pl.when(no_unit).then("number").otherwise(pl.concat_str("number", "unit", separator=" ")).alias("together")
        )
        .select(
            "line",
            _by_dialect(
                sdr=bars.get(0, null_on_oob=True), elist=bars.get(0, null_on_oob=True),
                sensor=bars.get(0, null_on_oob=True), canonical=bars.get(4, null_on_oob=True),
                csv=commas.get(0, null_on_oob=True), dcmi=pl.col("dcmi").struct["sensor"],
                ipmiutil=pl.col("ipmiutil").struct["sensor"].str.strip_chars(),
            ).alias("sensor"),
            _by_dialect(
                sdr=bars.get(1, null_on_oob=True), elist=bars.get(4, null_on_oob=True), sensor=pl.col("together"),
                canonical=bars.get(7, null_on_oob=True), csv=pl.col("together"),
                dcmi=pl.col("dcmi").struct["reading"].str.strip_chars(),
                ipmiutil=pl.col("ipmiutil").struct["reading"].str.strip_chars(),
            ).alias("reading"),
            pl.col("dialect").is_not_null().alias("is_row"),
            "is_heading",
        )
    )  # fmt: skip


def _by_dialect(**values: pl.Expr) -> pl.Expr:
    """The value of the line's own dialect; null where it has none."""
    return pl.coalesce(pl.when(pl.col("dialect") == name).then(value) for name, value in values.items())
