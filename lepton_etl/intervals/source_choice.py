"""Which channel speaks for the power of a row, and what else a row carries."""

from __future__ import annotations

from typing import Final

import polars as pl

# What makes a row of silver/interval unique within a site.
ROW: Final = ["day", "node_id", "device_id", "interval_us"]

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
)
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
}
ENVIRONMENT_COLUMNS: Final = (
    "device_temp_c", "inlet_temp_c", "cpu_utilisation_ratio", "gpu_utilisation_ratio",
    "memory_utilisation_ratio", "power_limit_w", "clock_hz", "fan_rpm",
)  # fmt: skip

INTERVAL_QUANTITIES: Final = tuple(
    sorted({name for name, _ in NODE_SOURCES} | {name for name, _ in DEVICE_SOURCES} | set(ENVIRONMENT))
)


def power_candidates(sensors: pl.DataFrame) -> pl.DataFrame:
    """Channels that can give a row its power: the columns of `sensors`, energy_source, rank.

    Rank 0 is best. Supplies and outlets stand at their own device and, summed, at device 'node'.
    """
    rows = [
        {"quantity": quantity, "statistic": statistic, "at_node": at_node, "energy_source": source,
         "rank": place * len(_STATISTICS) + order}
        for at_node, sources in ((True, NODE_SOURCES), (False, DEVICE_SOURCES))
        for place, (quantity, source) in enumerate(sources)
        for order, statistic in enumerate(_STATISTICS)
        if (statistic == "counter") == quantity.endswith("_energy")
    ]  # fmt: skip
    return sensors.with_columns((pl.col("device_id") == "node").alias("at_node")).join(
        pl.DataFrame(rows), on=["quantity", "statistic", "at_node"], how="inner"
    )


def choose_power(
    values: pl.DataFrame, candidates: pl.DataFrame, suspects: pl.DataFrame | None = None
) -> pl.DataFrame:
    """One power channel for each row: the best of those that cover at least COVER_RATIO of what any covers.

    A suspect (day, node_id, energy_source, interval_us) gives way where another source of its node speaks. Equal ranks
    go by sensor name. Result: the columns of `values` with those of `candidates`, one line for each ROW.
    """
    spoken = values.join(candidates, on="channel", how="inner")
    if suspects is not None and suspects.height:
        of_node = suspects.select(*_SOURCE_INTERVAL, pl.lit("node").alias("device_id"), doubted=True)
        doubted = pl.col("doubted").is_not_null()
        spoken = (
            spoken.join(of_node, on=[*_SOURCE_INTERVAL, "device_id"], how="left")
            .filter(~doubted | doubted.all().over(ROW))
            .drop("doubted")
        )
    return spoken.pipe(_best_of, ROW)


def _best_of(spoken: pl.DataFrame, by: list[str]) -> pl.DataFrame:
    return (
        spoken.with_columns(pl.col("observed_s").max().over(by).alias("most_s"))
        .filter(pl.col("observed_s") >= COVER_RATIO * pl.col("most_s"))
        .sort(*by, "rank", "channel")
        .unique(by, keep="first", maintain_order=True)
        .drop("most_s")
    )


def power_by_source(values: pl.DataFrame, candidates: pl.DataFrame) -> pl.DataFrame:
    """What each source of a node says: `choose_power` for each source by itself."""
    at_node = candidates.filter(pl.col("at_node"))
    return values.join(at_node, on="channel", how="inner").pipe(_best_of, [*ROW, "energy_source"])


def lowest_and_highest(values: pl.DataFrame, sensors: pl.DataFrame, chosen: pl.DataFrame) -> pl.DataFrame:
    """`power_min_w`, `power_max_w` of each chosen row, null where the readings cannot say.

    A sensor that publishes its own minimum or maximum is believed; else it is the lowest and highest of the
    readings, unless they are means as long as the interval: those do not say how low the power went.
    """
    own = values.join(
        sensors.filter(pl.col("statistic").is_in(("min", "max"))).select(
            "channel", "day", "node_id", "device_id", "quantity", "statistic"
        ),
        on="channel", how="inner",
    )  # fmt: skip
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
    mean = pl.col("integral") / pl.col("observed_s")
    columns = (*ENVIRONMENT_COLUMNS, "cpu_temp_c", "gpu_temp_c")
    return (
        values.join(
            means.select("channel", "day", "node_id", "device_id", "column"), on="channel", how="inner"
        )
        .with_columns(mean.alias("mean"))
        .sort(*ROW, "channel")
        .group_by(ROW, maintain_order=True)
        .agg(*(pl.col("mean").filter(pl.col("column") == name).mean().alias(name) for name in columns))
        .with_columns(pl.coalesce("device_temp_c", "cpu_temp_c", "gpu_temp_c").alias("device_temp_c"))
        .drop("cpu_temp_c", "gpu_temp_c")
    )
