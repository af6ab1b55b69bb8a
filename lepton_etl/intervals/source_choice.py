"""Which channel speaks for the power of a row, and what else a row carries."""

from __future__ import annotations

from typing import Final

import numpy as np
import polars as pl

from lepton_etl.intervals.channels import runs_of
from lepton_etl.intervals.chassis import SUM_SENSOR
from lepton_etl.intervals.integrate import Ints
from lepton_etl.schema.common import PSU_OUTPUT

# What makes a row of silver/interval unique within a site.
ROW: Final = ["day", "node_id", "device_id", "interval_us"]
# A flag on such a row.
FLAGGED: Final = pl.Schema(
    {
        "day": pl.Int64,
        "node_id": pl.String,
        "device_id": pl.String,
        "interval_us": pl.Int64,
        "flag": pl.String,
    }
)

# A higher source must cover nearly as much of the interval as the best one does; a supply sum that lasted ten
# seconds does not displace a BMC that lasted five minutes.
COVER_RATIO: Final = 0.9

_SOURCE_INTERVAL: Final = ("day", "node_id", "energy_source", "interval_us")

# Of one source the counter misses nothing between samples, a mean little, an instant most.
_STATISTICS: Final = ("counter", "mean", "instant")

# Rank of what measures a node's input, best first. Source: docs/definitions.md section 2.
NODE_SOURCES: Final = (
    ("outlet_energy", "outlet_counter"),
    ("outlet_power", "outlet_power"),
    ("psu_input_power", "psu_input"),
    ("node_input_energy", "bmc"),
    ("node_input_power", "bmc"),
    ("node_energy", "bmc"),
    ("node_power", "bmc"),
    ("psu_output_power", PSU_OUTPUT),
)
MEASURED_TOTALS: Final = tuple(quantity for quantity, source in NODE_SOURCES if source != PSU_OUTPUT)
DEVICE_SOURCES: Final = tuple(
    (f"{stem}_{kind}", "device")
    for stem in ("psu_input", "chassis_input", "outlet", "cpu", "dram", "gpu", "fan")
    for kind in ("energy", "power")
)
# A component's power that was logged for the node as a whole stands at the component.
COMPONENT_OF: Final = {
    f"{stem}_{kind}": stem for stem in ("cpu", "dram", "gpu", "fan") for kind in ("energy", "power")
}

# quantity -> (column of the device's own row, column of the node's row).
ENVIRONMENT: Final = {
    "inlet_temperature": (None, "inlet_temp_c"),
    "cpu_temperature": ("device_temp_c", "cpu_temp_c"),
    "gpu_temperature": ("device_temp_c", "gpu_temp_c"),
    "cpu_utilisation": ("cpu_utilisation_ratio", "cpu_utilisation_ratio"),
    "gpu_utilisation": ("gpu_utilisation_ratio", "gpu_utilisation_ratio"),
    "gpu_memory_utilisation": ("memory_utilisation_ratio", None),
    "power_limit": ("power_limit_w", None),
    "clock": ("clock_hz", None),
    "fan_speed": (None, "fan_rpm"),
    "slowdown_temperature": ("slowdown_temp_c", None),
    "slowdown_margin": ("slowdown_margin_k", None),
}
ENVIRONMENT_COLUMNS: Final = (
    "device_temp_c", "inlet_temp_c", "cpu_utilisation_ratio", "gpu_utilisation_ratio",
    "memory_utilisation_ratio", "power_limit_w", "clock_hz", "fan_rpm", "slowdown_temp_c", "slowdown_margin_k",
)  # fmt: skip

INTERVAL_QUANTITIES: Final = tuple(
    sorted({name for name, _ in NODE_SOURCES} | {name for name, _ in DEVICE_SOURCES} | set(ENVIRONMENT))
)


def power_candidates(sensors: pl.DataFrame) -> pl.DataFrame:
    """Channels that can give a row its power: the columns of `sensors`, energy_source, rank.

    Rank 0 is best. Supplies and outlets stand at their own device and, summed, at device 'node'; what supplies give out
    speaks for the node by their sum alone.
    """
    is_output = pl.col("quantity") == "psu_output_power"
    rows = [
        {"quantity": quantity, "statistic": statistic, "at_node": at_node, "energy_source": source,
         "rank": place * len(_STATISTICS) + order}
        for at_node, sources in ((True, NODE_SOURCES), (False, DEVICE_SOURCES))
        for place, (quantity, source) in enumerate(sources)
        for order, statistic in enumerate(_STATISTICS)
        if (statistic == "counter") == quantity.endswith("_energy")
    ]  # fmt: skip
    spoken = sensors.filter(~is_output | (pl.col("sensor") == SUM_SENSOR))
    return spoken.with_columns((pl.col("device_id") == "node").alias("at_node")).join(
        pl.DataFrame(rows), on=["quantity", "statistic", "at_node"], how="inner"
    )


def choose_power(
    values: pl.DataFrame, candidates: pl.DataFrame, suspects: pl.DataFrame | None = None
) -> pl.DataFrame:
    """One power channel for each row: the best of those that cover at least COVER_RATIO of what any covers.

    A suspect (day, node_id, energy_source, interval_us) gives way where another source of its node speaks. Equal ranks
    go by sensor name. Result: the columns of `values` with those of `candidates`, one line for each ROW.
    """
    spoken = values
    if suspects is not None and suspects.height:
        of_node = suspects.select(*_SOURCE_INTERVAL, pl.lit("node").alias("device_id"), doubted=True)
        doubted = pl.col("doubted").is_not_null()
        whose = candidates.select("channel", "day", "node_id", "device_id", "energy_source")
        spoken = (
            values.join(whose, on="channel", how="inner")
            .join(of_node, on=[*_SOURCE_INTERVAL, "device_id"], how="left")
            .filter(~doubted | doubted.all().over(ROW))
            .select(values.columns)
        )
    return _best_of(spoken, candidates, ROW[:-1])


def _best_of(values: pl.DataFrame, candidates: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    """The line of `values` that speaks for each interval of a group of candidates, with its candidate's columns."""
    groups = candidates.select(by).unique().sort(by).with_row_index("group")
    ranked = candidates.select("channel", "rank", *by).join(groups, on=by, how="left").sort("rank", "channel")
    of, group = ranked["channel"].to_numpy(), ranked["group"].to_numpy()
    channel, slot = values["channel"].to_numpy(), slots(values["interval_us"].to_numpy())[0]
    observed_s = values["observed_s"].to_numpy()
    # Every channel's lines lie together and in time: taken channel by channel, best first, a stable sort keeps that.
    runs = runs_of(channel)
    first = np.full(max(int(channel.max(initial=-1)), int(of.max(initial=-1))) + 1, len(channel))
    size = np.zeros(len(first), dtype=np.int64)
    first[channel[runs]], size[channel[runs]] = runs, np.diff(runs, append=len(channel))
    rows = np.repeat(first[of] - np.cumsum(size[of]) + size[of], size[of]) + np.arange(int(size[of].sum()))
    row = np.repeat(group.astype(np.int64), size[of]) * (int(slot.max(initial=0)) + 1) + slot[rows]
    order = np.argsort(row, kind="stable")
    row, rows = row[order], rows[order]
    heads = runs_of(row)
    most_s = np.repeat(
        np.maximum.reduceat(observed_s[rows], heads) if len(rows) else observed_s[rows],
        np.diff(heads, append=len(row)),
    )
    covers = np.flatnonzero(observed_s[rows] >= COVER_RATIO * most_s)
    chosen = rows[covers[runs_of(row[covers])]]
    return values[chosen].join(candidates, on="channel", how="left", maintain_order="left")


def slots(interval_us: Ints) -> tuple[Ints, int, int]:
    """The number of each interval from the first, the first's start, and the distance of two; the numbers are small."""
    if not len(interval_us):
        return interval_us, 0, 1
    first = int(interval_us.min())
    since = interval_us - first
    step = max(1, int(np.gcd.reduce(since)))
    return since // step, first, step


def power_by_source(values: pl.DataFrame, candidates: pl.DataFrame) -> pl.DataFrame:
    """What each source of a node says: `choose_power` for each source by itself."""
    return _best_of(values, candidates.filter(pl.col("at_node")), [*ROW[:-1], "energy_source"])


def lowest_and_highest(values: pl.DataFrame, sensors: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    """`power_min_w`, `power_max_w` of each chosen row, null where the readings cannot say.

    A sensor that publishes its own minimum or maximum is believed; else it is the lowest and highest of the
    readings, unless they are means as long as the interval: those do not say how low the power went.
    """
    extremes = sensors.filter(pl.col("statistic").is_in(("min", "max"))).select(
        "channel", "day", "node_id", "device_id", "quantity", "statistic"
    )
    own = values.join(extremes, on="channel", how="inner")
    published = own.group_by(*ROW, "quantity", maintain_order=True).agg(
        pl.col("lowest").filter(pl.col("statistic") == "min").min().alias("own_min_w"),
        pl.col("highest").filter(pl.col("statistic") == "max").max().alias("own_max_w"),
    )
    fine = (pl.col("statistic") == "instant") | (pl.col("resolution_s") < pl.col("interval_s"))
    return chosen.join(published, on=[*ROW, "quantity"], how="left").with_columns(
        pl.coalesce("own_min_w", pl.when(fine).then(pl.col("lowest"))).alias("power_min_w"),
        pl.coalesce("own_max_w", pl.when(fine).then(pl.col("highest"))).alias("power_max_w"),
    )


def environment(values: pl.DataFrame, sensors: pl.DataFrame) -> pl.DataFrame:
    """Temperatures, utilisation, limits, clocks and fans of device rows and node rows, as interval means.

    A node's utilisation, fan speed and temperature are means over its devices. Its `device_temp_c` is that of
    its CPUs, else of its GPUs. Result: ROW, ENVIRONMENT_COLUMNS.
    """
    targets = [
        {"quantity": quantity, "to_node": to_node, "column": column}
        for quantity, columns in ENVIRONMENT.items()
        for to_node, column in zip((False, True), columns, strict=True)
        if column is not None
    ]
    means = sensors.filter(pl.col("statistic").is_in(("instant", "mean"))).join(
        pl.DataFrame(targets), on="quantity", how="inner"
    )
    # A reading logged for the node itself belongs to the node's row once.
    at_node = pl.col("device_id") == "node"
    own_columns = pl.col("column").is_in(ENVIRONMENT_COLUMNS)
    only_own = pl.col("quantity").is_in(
        [q for q, (_, node_column) in ENVIRONMENT.items() if node_column is None]
    )
    means = means.filter(pl.col("to_node") | ~at_node | (own_columns & only_own)).with_columns(
        pl.when(pl.col("to_node")).then(pl.lit("node")).otherwise(pl.col("device_id")).alias("device_id")
    )
    columns = (*ENVIRONMENT_COLUMNS, "cpu_temp_c", "gpu_temp_c")
    places = means.select(ROW[:-1]).unique().sort(ROW[:-1]).with_row_index("place")
    into = means.join(places, on=ROW[:-1], how="left").select(
        "channel",
        pl.col("place").cast(pl.Int64),
        pl.col("column").replace_strict(columns, range(len(columns)), return_dtype=pl.Int64),
    )
    slot, first, step = slots(values["interval_us"].to_numpy())
    said = values.select(
        "channel", (pl.col("integral") / pl.col("observed_s")).alias("mean"), pl.Series("slot", slot)
    ).join(into, on="channel", how="inner").sort("channel", maintain_order=True)  # fmt: skip
    slot_count = int(slot.max(initial=0)) + 1
    cell = (said["place"] * slot_count + said["slot"]).to_numpy() * len(columns) + said["column"].to_numpy()
    order = np.argsort(cell, kind="stable")
    cell, mean = cell[order], said["mean"].to_numpy()[order]
    heads = runs_of(cell)
    row, column = np.divmod(cell[heads], len(columns))
    lines = runs_of(row)
    found = np.full((len(lines), len(columns)), np.nan)
    line = np.repeat(np.arange(len(lines)), np.diff(lines, append=len(row)))
    if len(heads):
        found[line, column] = np.add.reduceat(mean, heads) / np.diff(heads, append=len(cell))
    place, slot = np.divmod(row[lines], slot_count)
    rows: pl.DataFrame = places[place]
    return (
        rows.select(ROW[:-1])
        .with_columns(
            pl.Series("interval_us", slot * step + first),
            *(pl.Series(name, found[:, at], nan_to_null=True) for at, name in enumerate(columns)),
        )
        .with_columns(pl.coalesce("device_temp_c", "cpu_temp_c", "gpu_temp_c").alias("device_temp_c"))
        .drop("cpu_temp_c", "gpu_temp_c")
    )  # fmt: skip
