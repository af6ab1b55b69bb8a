"""Polars: one lazy query a file, in as many processes as cores."""

from __future__ import annotations

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path

import polars as pl

from bench.measure import Run, timed


def run(kind: str, folder: Path, target: Path, cores: int) -> Run:
    files = sorted(path for path in folder.iterdir() if not path.name.startswith("."))
    # Spawned, because polars' threads do not survive a fork.
    with ProcessPoolExecutor(cores, mp_context=get_context("spawn")) as pool:
        list(pool.map(abs, range(cores)))
        one = partial(_one, kind, folder / ".mapping.csv", target)
        return timed(lambda: sum(pool.map(one, files)))


def _one(kind: str, mapping: Path, target: Path, file: Path) -> int:
    query = {"ipmitool": _ipmitool, "csv": _csv, "prometheus": _prometheus, "parquet": _parquet}[kind]
    mapped = (
        pl.read_csv(mapping).with_columns(
            pl.col("factor", "divisor", "offset", "not_measured").cast(pl.Float64)
        )
        if mapping.exists()
        else pl.DataFrame()
    )
    rows = query(file, mapped.lazy()).with_columns(pl.lit(file.name).alias("file")).collect()
    rows.write_parquet(target / f"{file.name}.parquet", compression="zstd", compression_level=1)
    return rows.height


def _lines(file: Path) -> pl.LazyFrame:
    return (
        pl.read_csv(
            file, separator="\x01", has_header=False, new_columns=["line"], quote_char=None, infer_schema=False,
            raise_if_empty=False,
        )
        .with_row_index("position", offset=1)
        .lazy()
    )  # fmt: skip


def _value(number: pl.Expr) -> pl.Expr:
    return number.cast(pl.Float64, strict=False) * pl.col("factor") / pl.col("divisor") + pl.col("offset")


def _ipmitool(file: Path, mapping: pl.LazyFrame) -> pl.LazyFrame:
    is_stamp = pl.col("line").str.starts_with("Timestamp:")
    fields = pl.col("line").str.splitn("|", 3)
    said = pl.col("said").str.splitn(" ", 2)
    stamp = pl.when(is_stamp).then(pl.col("line").str.slice(11, 19))
    return (
        _lines(file)
        .with_columns(stamp.forward_fill().alias("stamp"))
        .filter(~is_stamp)
        .with_columns(
            fields.struct[0].str.strip_chars_end().alias("sensor"), fields.struct[1].str.strip_chars().alias("said")
        )
        .join(mapping.select("sensor").unique(), on="sensor", how="semi")
        .with_columns(said.struct[0].alias("raw_value"), said.struct[1].alias("logged_unit"))
        .join(mapping, on=["sensor", "logged_unit"], how="inner", maintain_order="left")
        .with_columns(pl.col("raw_value").cast(pl.Float64, strict=False).alias("number"))
        .filter(pl.col("number").is_not_null() & pl.col("number").ne_missing(pl.col("not_measured")))
        .select(
            "position", "sensor", "quantity", "device_id", "raw_value", pl.col("logged_unit").alias("raw_unit"),
            pl.col("stamp").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", time_zone="UTC").alias("reading_time"),
            _value(pl.col("number")).alias("value"),
        )
    )  # fmt: skip


def _csv(file: Path, _: pl.LazyFrame) -> pl.LazyFrame:
    wide = pl.scan_csv(file, infer_schema=False, row_index_name="position", row_index_offset=2)
    time = pl.col("time").str.to_datetime("%Y-%m-%d %H:%M:%S", time_unit="us", time_zone="UTC")
    return (
        wide.unpivot(index=["position", "time"], variable_name="sensor", value_name="text")
        .select("position", "sensor", time.alias("reading_time"), pl.col("text").cast(pl.Float64).alias("value"))
    )  # fmt: skip


def _prometheus(file: Path, mapping: pl.LazyFrame) -> pl.LazyFrame:
    parts = pl.col("line").str.extract_groups(r" (?<value>\S+) (?<stamp>\d+)$")
    stamp = parts.struct["stamp"].cast(pl.Int64).cast(pl.Datetime("ms", "UTC")).cast(pl.Datetime("us", "UTC"))
    return (
        _lines(file)
        .with_columns(pl.col("line").str.splitn("{", 2).struct[0].alias("sensor"))
        .join(mapping, on="sensor", how="inner", maintain_order="left")
        .select(
            "position", "sensor", stamp.alias("reading_time"), _value(parts.struct["value"]).alias("value")
        )
        .filter(pl.col("value").is_not_null())
    )


def _parquet(file: Path, _: pl.LazyFrame) -> pl.LazyFrame:
    return (
        pl.scan_parquet(file, row_index_name="position", row_index_offset=1)
        .unpivot(index=["position", "time"], variable_name="sensor", value_name="value")
        .rename({"time": "reading_time"})
    )
