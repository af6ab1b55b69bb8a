"""Model the power of nodes that no sensor measures as a whole: from their supplies' outputs, or from their components.

A node whose own sensor spoke on the day is not modelled: its gaps are imputed from its history. What stands here is
marked: `energy_source` is psu_output or modelled_sum, and the interval is as wide as the model is poor.
Source: docs/definitions.md section 2; docs/methodology.md, "Nodes without a sensor of their own".
"""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from datetime import date
from math import sqrt
from typing import Final

import polars as pl

from lepton_etl.intervals.chassis import SupplyLoss
from lepton_etl.intervals.sensor_checks import AGREES, COMPONENTS, Arbitration
from lepton_etl.intervals.sensor_classes import SensorClasses
from lepton_etl.registers.factors import FactorSet
from lepton_etl.schema.common import MODELLED_SOURCES, MODELLED_SUM

_FACTOR_TABLE: Final = "node_power"
_PART: Final = r"^(cpu|dram|gpu)(\d*)"
_STEMS: Final = ("cpu", "dram", "gpu")
_NODE_DAY: Final = ["day", "node_id"]
_NODE_INTERVAL: Final = [*_NODE_DAY, "interval_us"]
# Components that are nearly all of the power leave nothing to tell the two apart by.
MOST_OF_POWER: Final = 0.97
# Below so many nodes their spread says little.
LEAST_NODES: Final = 5
_GIB: Final = 2.0**30
# What of the inventory the model reads.
FACTS: Final = (
    "hardware_class", "rated_power_w", "idle_power_w", "rest_power_w", "gpu_count", "gpu_rated_power_w",
    "gpu_idle_power_w", "cpu_idle_power_w", "memory_idle_power_w", "memory_total_byte",
)  # fmt: skip

# Why a node with components has no power, as flags of its rows.
NO_CPU: Final = "unmodelled_cpu"
NO_GPU: Final = "unmodelled_gpu"
NO_MEMORY: Final = "unmodelled_memory"
NO_REST: Final = "unmodelled_rest"
MISSING: Final = {
    NO_CPU: "GPU boards alone are read; fill idle_power_w, rated_power_w, gpu_idle_power_w and gpu_rated_power_w",
    NO_GPU: "gpu_count of the inventory is empty, or not as many boards are read",
    NO_MEMORY: "no DRAM sensor; fill memory_total_byte or memory_idle_power_w",
    NO_REST: "fill rest_power_w, or the idle powers of node, CPUs, memory and GPU",
}
"""What the inventory would have to say, by flag."""

FITTED_COLUMNS: Final = pl.Schema(
    {
        "hardware_class": pl.String,
        "kinds": pl.String,
        "boards": pl.Int64,
        "fitted_power_w": pl.Float64,
        "fitted_parts_w": pl.Float64,
        "fitted_sigma_w": pl.Float64,
    }
)
"""By hardware class, kinds of components (`cpu+dram+gpu`) and boards: a point of node power over components."""


@dataclass(frozen=True, slots=True)
class NodeModel:
    """The rows of conf/factors/node_power.csv by name."""

    component_loss_ratio: float
    component_loss_sigma_ratio: float
    rest_power_w: float
    rest_sigma_w: float
    stated_sigma_ratio: float
    idle_sigma_ratio: float
    fitted_sigma_ratio: float
    memory_power_w_per_gib: float
    memory_sigma_ratio: float
    supply_fixed_loss_w: float
    supply_loss_ratio: float

    @property
    def supply_loss(self) -> SupplyLoss:
        return SupplyLoss(self.supply_fixed_loss_w, self.supply_loss_ratio)


def node_model(factors: FactorSet, valid_on: date) -> NodeModel:
    """The parameters of the day. Raises MissingFactorError."""
    found = {
        field.name: factors.get(_FACTOR_TABLE, valid_on=valid_on, parameter=field.name).value
        for field in fields(NodeModel)
    }
    return NodeModel(**found)


def with_modelled(
    found: Arbitration,
    ambiguous: pl.DataFrame,
    inventory: pl.DataFrame,
    model: NodeModel,
    classes: SensorClasses,
    fitted: pl.DataFrame,
) -> Arbitration:
    """Add rows at device 'node' for listed node-days that have components and no chosen source of their own.

    `ambiguous` are node-days (day, node_id) whose sensors contradict each other: no model decides between them.

    P = A + (1 + k) (C - c): C are the components (CPU packages, memory, GPU boards), k what regulators, fans and
    supplies lose with them, and (c, A) a point of that line, the first known of: `rest_power_w` of the inventory at
    c = 0; `fitted` (FITTED_COLUMNS) of nodes of the class with a sensor of their own; `idle_power_w` at the components'
    idle powers; of a node without GPUs, a class default. GPU boards alone: what the node without them draws lies
    between its idle and its rated power, evenly. One sigma in `model_sigma`, W s, a column that is null for measured
    rows. A flag says which point was taken, or, on the row of the first component, what is missing.
    """
    at_node = pl.col("device_id") == "node"
    measured = pl.concat([found.chosen.filter(at_node).select(_NODE_DAY), ambiguous])
    parts = found.chosen.join(measured, on=_NODE_DAY, how="anti")
    judged = judged_sums(parts, inventory, model, classes, fitted)
    if judged is None:
        return found
    is_known = pl.col("power_w").is_not_null()
    rows = judged.filter(is_known).select(
        *_NODE_INTERVAL,
        pl.lit("node").alias("device_id"),
        pl.lit(MODELLED_SUM).alias("energy_source"),
        pl.lit("mean").alias("statistic"),
        pl.lit(1, found.chosen.schema["multiplicity"]).alias("multiplicity"),
        (pl.col("power_w") * pl.col("observed_s")).alias("integral"),
        (pl.col("sigma_w") * pl.col("observed_s")).alias("model_sigma"),
        "observed_s",
        "resolution_s",
        "sampling",
    )
    flags = judged.with_columns(
        pl.when(is_known).then(pl.lit("node")).otherwise("device_id").alias("device_id")
    )
    return replace(
        found,
        chosen=pl.concat([found.chosen, rows], how="diagonal"),
        doubts=pl.concat([found.doubts, flags.select(found.doubts.columns)]),
    )


def judged_sums(
    chosen: pl.DataFrame,
    inventory: pl.DataFrame,
    model: NodeModel,
    classes: SensorClasses,
    fitted: pl.DataFrame,
) -> pl.DataFrame | None:
    """Return the components of node-intervals with what `with_modelled` makes of them; None without a component.

    power_w = point_w + (1 + loss_ratio) * beyond_w, and `flag` as there.
    """
    parts = chosen.filter(pl.col("device_id").str.contains(_PART))
    if parts.is_empty():
        return None
    return _judged(_sums(parts, classes).pipe(_with_facts, inventory, fitted), model, classes)


def fitted_points(
    checks: pl.DataFrame, sensors: pl.DataFrame, nodes: pl.DataFrame, model: NodeModel
) -> pl.DataFrame:
    """Return FITTED_COLUMNS from the nodes of a class that have both a sensor of their own and components.

    `checks` are rows of silver/sensor_check of earlier days, `sensors` of silver/sensor_day, `nodes` of silver/node. A
    node's day gives power and components by their median ratio and offset; a node is the mean of its days, the point
    the mean of its class's nodes. Its error: that of their sensors, which they share, and their spread around the line;
    of fewer than LEAST_NODES at least that of an idle power.
    """
    day = ["node_id", "date"]
    power = pl.col("offset_w") / (pl.col("median_ratio") - 1.0)
    seen = checks.filter(
        (pl.col("check_source") == COMPONENTS)
        & ~pl.col("against_source").is_in(MODELLED_SOURCES)
        & (pl.col("sensor_verdict") == AGREES)
        & (pl.col("median_ratio") < MOST_OF_POWER)
        & (pl.col("offset_w") < 0)
    ).select(*day, power.alias("power"), (power * pl.col("median_ratio")).alias("parts"))
    stem, number = (pl.col("device_id").str.extract(_PART, group) for group in (1, 2))
    composed = (
        sensors.filter(pl.col("quantity").str.contains(r"^(cpu|dram|gpu)_(power|energy)$"))
        .select(*day, stem.alias("stem"), number.alias("number"))
        .drop_nulls()
        .group_by(day)
        .agg(*_composition(pl.col("number"), pl.lit(0)))
    )
    holds = (pl.col("valid_from").dt.date() <= pl.col("date")) & (
        pl.col("valid_to").is_null() | (pl.col("valid_to").dt.date() > pl.col("date"))
    )
    classes = nodes.select("node_id", "hardware_class", "valid_from", "valid_to").drop_nulls("hardware_class")
    by = ["hardware_class", "kinds", "boards"]
    of_nodes = (
        seen.join(composed, on=day, how="inner")
        .join(classes, on="node_id", how="inner")
        .filter(holds)
        .group_by(*by, "node_id")
        .agg(pl.col("power", "parts").mean())
        .sort(*by, "node_id")
    )
    beside = pl.col("power") - (1.0 + model.component_loss_ratio) * pl.col("parts")
    shared = pl.col("fitted_power_w") * model.fitted_sigma_ratio
    spread = _hypot(shared, pl.col("spread").fill_null(0.0) * (1.0 + 1.0 / pl.col("nodes")).sqrt())
    few = pl.max_horizontal(spread, pl.col("fitted_power_w") * model.idle_sigma_ratio)
    return (
        of_nodes.group_by(by, maintain_order=True)
        .agg(
            pl.col("power").mean().alias("fitted_power_w"), pl.col("parts").mean().alias("fitted_parts_w"),
            beside.std().alias("spread"), pl.len().alias("nodes"),
        )
        .with_columns(pl.when(pl.col("nodes") < LEAST_NODES).then(few).otherwise(spread).alias("fitted_sigma_w"))
        .select(list(FITTED_COLUMNS)).cast(FITTED_COLUMNS)
    )  # fmt: skip


def _sums(parts: pl.DataFrame, classes: SensorClasses) -> pl.DataFrame:
    """Power of CPUs, memory and GPU boards by node-interval in which all parts that the node shows on the day speak.

    A part that is told as a whole and in pieces (`cpu` beside `cpu0`, `gpu0` beside what is inside it) counts once.
    """
    stem, number = (pl.col("device_id").str.extract(_PART, group) for group in (1, 2))
    numbered = pl.col("number") != ""
    watts = pl.col("integral") / pl.col("observed_s") * pl.col("multiplicity")
    told = (
        parts.with_columns(
            stem.alias("stem"), number.alias("number"), (pl.col("device_id") == stem + number).alias("plain"),
            watts.alias("watts"),
        )
        .filter(numbered | ~numbered.any().over(*_NODE_DAY, "stem"))
        .filter(pl.col("plain") | ~pl.col("plain").any().over(*_NODE_DAY, "stem", "number"))
    )  # fmt: skip
    of_day = told.group_by(_NODE_DAY).agg(
        pl.col("device_id").n_unique().alias("parts"), *_composition(pl.col("number"), pl.col("multiplicity"))
    )
    unseen = pl.when(pl.col("stem") == "gpu").then(1.0 - classes["gpu_board"].sampled_ratio).otherwise(0.0)
    return (
        told.sort(*_NODE_INTERVAL, "device_id")
        .group_by(_NODE_INTERVAL, maintain_order=True)
        .agg(
            pl.len().alias("present"),
            pl.col("device_id").first(),
            pl.col("observed_s").min(),
            pl.col("resolution_s").max(),
            (pl.col("sampling") * unseen * pl.col("multiplicity") ** 2).sum(),
            *(pl.col("watts").filter(pl.col("stem") == stem).sum().alias(f"{stem}_w") for stem in _STEMS),
        )
        .join(of_day, on=_NODE_DAY, how="left", maintain_order="left")
        .filter(pl.col("present") == pl.col("parts"))
    )


def _composition(number: pl.Expr, multiplicity: pl.Expr) -> tuple[pl.Expr, pl.Expr]:
    """Of the components of a node on a day, by their `stem`: which kinds there are, and how many GPU boards."""
    is_gpu, numbered = pl.col("stem") == "gpu", number != ""
    boards = pl.max_horizontal(
        number.filter(is_gpu & numbered).n_unique(),
        multiplicity.filter(is_gpu & ~numbered).max().fill_null(0),
    )
    return pl.col("stem").unique().sort().str.join("+").alias("kinds"), boards.cast(pl.Int64).alias("boards")


def _with_facts(sums: pl.DataFrame, inventory: pl.DataFrame, fitted: pl.DataFrame) -> pl.DataFrame:
    """Add what the inventory says of the node on the day, and what is fitted for its class."""
    listed = (
        sums.select(_NODE_DAY).unique()
        .join(inventory.select("node_id", "from_day", "until_day", *FACTS), on="node_id", how="inner")
        .filter(pl.col("day").is_between("from_day", "until_day"))
        .drop("from_day", "until_day")
    )  # fmt: skip
    return sums.join(listed, on=_NODE_DAY, how="inner", maintain_order="left").join(
        fitted, on=["hardware_class", "kinds", "boards"], how="left", maintain_order="left"
    )


def _judged(sums: pl.DataFrame, model: NodeModel, classes: SensorClasses) -> pl.DataFrame:
    """Add `power_w`, `sigma_w` and `flag`: where the line is held, or what is missing."""
    has_cpu, has_dram = (pl.col("kinds").str.contains(stem) for stem in ("cpu", "dram"))
    boards, count = pl.col("boards"), pl.col("gpu_count")
    # A count that nobody states is what speaks; where no board speaks either, there may be boards all the same.
    all_boards = pl.when(count.is_null()).then(boards > 0).otherwise(boards == count)
    memory = pl.coalesce(
        "memory_idle_power_w", pl.col("memory_total_byte") * (model.memory_power_w_per_gib / _GIB)
    )
    memory_w = pl.when(has_dram).then("dram_w").otherwise(memory)
    parts_w = pl.col("cpu_w") + memory_w + pl.col("gpu_w")
    gpus_idle_w = pl.when(boards == 0).then(0.0).otherwise(boards * pl.col("gpu_idle_power_w"))
    idle_parts_w = pl.col("cpu_idle_power_w") + pl.col("memory_idle_power_w") + gpus_idle_w
    stated, idle = pl.col("rest_power_w"), pl.col("idle_power_w")
    is_stated, is_fitted = stated.is_not_null(), pl.col("fitted_power_w").is_not_null()
    is_idle, is_plain = (idle > idle_parts_w).fill_null(value=False), boards == 0

    def first(*values: pl.Expr | float) -> pl.Expr:
        """The value of the first point of the line that is known."""
        at_stated, at_fitted, at_idle, at_default = (
            value if isinstance(value, pl.Expr) else pl.lit(value) for value in values
        )
        return (
            pl.when(is_stated).then(at_stated).when(is_fitted).then(at_fitted)
            .when(is_idle).then(at_idle).when(is_plain).then(at_default)
        )  # fmt: skip

    beyond_w = parts_w - first(0.0, pl.col("fitted_parts_w"), idle_parts_w, 0.0)
    point = first(stated, pl.col("fitted_power_w"), idle, model.rest_power_w)
    power = point + (1.0 + model.component_loss_ratio) * beyond_w
    point_sigma = first(
        stated * model.stated_sigma_ratio, pl.col("fitted_sigma_w"), idle * model.idle_sigma_ratio,
        model.rest_sigma_w,
    )  # fmt: skip
    rapl, board = (classes[name].gain_sigma_ratio or 0.0 for name in ("rapl", "gpu_board"))
    memory_sigma = pl.when(has_dram).then(rapl).otherwise(model.memory_sigma_ratio)
    sigma = _hypot(
        point_sigma, beyond_w * model.component_loss_sigma_ratio,
        pl.col("cpu_w") * rapl, memory_w * memory_sigma, pl.col("gpu_w") * board,
    )  # fmt: skip
    # Without the CPU: the node beside its boards, between its idle and its rated power, evenly.
    lowest = idle - gpus_idle_w
    span = pl.col("rated_power_w") - boards * pl.col("gpu_rated_power_w") - lowest
    host = pl.when((lowest > 0) & (span > 0)).then(lowest + span * 0.5)
    without_cpu = pl.when(all_boards).then(host)
    how = first(*(pl.lit(f"modelled_{name}") for name in ("stated", "fitted", "idle", "default")))
    flag = (
        pl.when(~all_boards).then(pl.lit(NO_GPU))
        .when(~has_cpu).then(pl.when(host.is_null()).then(pl.lit(NO_CPU)).otherwise(pl.lit("modelled_host")))
        .when(memory_w.is_null()).then(pl.lit(NO_MEMORY))
        .otherwise(pl.coalesce(how, pl.lit(NO_REST)))
    )  # fmt: skip
    return sums.with_columns(
        pl.when(has_cpu & all_boards).then(power).otherwise(pl.when(~has_cpu).then(without_cpu + pl.col("gpu_w")))
        .alias("power_w"),
        pl.when(has_cpu).then(sigma).otherwise(_hypot(span * (1 / sqrt(12)), pl.col("gpu_w") * board))
        .alias("sigma_w"),
        pl.when(has_cpu).then(point).otherwise(without_cpu).alias("point_w"),
        pl.when(has_cpu).then(beyond_w).otherwise("gpu_w").alias("beyond_w"),
        pl.when(has_cpu).then(model.component_loss_ratio).otherwise(0.0).alias("loss_ratio"),
        flag.alias("flag"),
    )  # fmt: skip


def _hypot(*sigmas: pl.Expr) -> pl.Expr:
    return pl.sum_horizontal(sigma.pow(2) for sigma in sigmas).sqrt()
