"""Spans of time in which schedulers and power commands say what nodes do, and the energy of nodes that are off."""

from __future__ import annotations

from collections.abc import Collection
from typing import TYPE_CHECKING, Final

import polars as pl

from lepton_etl.intervals.channels import DAY_US
from lepton_etl.intervals.integrate import MICROSECONDS
from lepton_etl.schema.common import KNOWN_OFF, STATE_CODES, STATE_QUANTITIES
from lepton_etl.schema.declare import JOULES_PER_KWH

if TYPE_CHECKING:
    from lepton_etl.intervals.node_day import IntervalPolicy

STATE_READINGS: Final = pl.Schema(
    {
        "node_id": pl.String, "quantity": pl.String, "time_us": pl.Int64, "value": pl.Float64, "max_gap_s": pl.Float64,
    }
)  # fmt: skip
SPANS: Final = pl.Schema(
    {
        "node_id": pl.String, "from_us": pl.Int64, "until_us": pl.Int64, "node_state": pl.String,
        "state_basis": pl.String,
    }
)  # fmt: skip
"""What is said of nodes: spans of one node do not meet, and what nobody speaks of is in none."""

KNOWN_OFF_FLAG: Final = "known_off"
# One sigma of a standby power that the inventory states, as of its idle power. Source: docs/methodology.md, section 2.
STANDBY_SIGMA_RATIO: Final = 0.1


def state_spans(said: pl.DataFrame) -> pl.DataFrame:
    """STATE_READINGS -> SPANS by node and time.

    What is said holds until the next word of the same kind, at most its source's longest step. Of several words at one
    time the highest code holds. A power command that reads off or on goes before a scheduler's sleep; a node that both
    say to be off because it sleeps is asleep. Else the scheduler's word holds.
    """
    if said.is_empty():
        return pl.DataFrame(schema=SPANS)
    kind = ["node_id", "quantity"]
    ends_at = pl.col("time_us") + (pl.col("max_gap_s") * MICROSECONDS).cast(pl.Int64)
    words = (
        said.group_by(*kind, "time_us")
        .agg(pl.col("value", "max_gap_s").max())
        .sort(*kind, "time_us")
        .with_columns(until_us=pl.min_horizontal(ends_at, pl.col("time_us").shift(-1).over(kind)))
    )
    cuts = pl.concat([words.select("node_id", at="time_us"), words.select("node_id", at="until_us")])
    pieces = (
        cuts.unique()
        .sort("node_id", "at")
        .with_columns(until_us=pl.col("at").shift(-1).over("node_id"))
        .drop_nulls("until_us")
        .sort("at")
    )
    for quantity in STATE_QUANTITIES:
        own = words.filter(pl.col("quantity") == quantity).sort("time_us")
        word = own.select(
            "node_id", "time_us", pl.col("value").alias(quantity), pl.col("until_us").alias("_until")
        )
        pieces = (
            pieces.join_asof(word, left_on="at", right_on="time_us", by="node_id", check_sortedness=False)
            .with_columns(pl.when(pl.col("at") < pl.col("_until")).then(quantity).alias(quantity))
            .drop("time_us", "_until")
        )
    power, scheduler = pl.col("power_state"), pl.col("node_state")
    off, asleep, on = (STATE_CODES[name] for name in ("off", "asleep", "on"))
    by_power = (power == off) | ((power == on) & (scheduler == asleep)) | scheduler.is_null()
    code = (
        pl.when((power == off) & (scheduler == asleep)).then(asleep)
        .when(by_power).then(power).otherwise(scheduler)
    )  # fmt: skip
    basis = pl.when(by_power).then(pl.lit(STATE_QUANTITIES["power_state"])).otherwise(
        pl.lit(STATE_QUANTITIES["node_state"])
    )  # fmt: skip
    names = {value: name for name, value in STATE_CODES.items()}
    told = (
        pieces.filter(power.is_not_null() | scheduler.is_not_null())
        .select(
            "node_id", pl.col("at").alias("from_us"), "until_us",
            code.replace_strict(names, return_dtype=pl.String).alias("node_state"), basis.alias("state_basis"),
        )
        .sort("node_id", "from_us")
    )  # fmt: skip
    same = ["node_id", "node_state", "state_basis"]
    follows = (pl.struct(same) == pl.struct(same).shift()) & (pl.col("from_us") == pl.col("until_us").shift())
    return (
        told.group_by(*same, (~follows.fill_null(value=False)).cum_sum().alias("_run"), maintain_order=True)
        .agg(pl.col("from_us").first(), pl.col("until_us").last())
        .select(list(SPANS))
    )


def off_spans(spans: pl.DataFrame) -> pl.DataFrame:
    """The SPANS in which a node is known to be off, asleep or not: its silence is no gap, and 0 W of it is measured."""
    return spans.filter(pl.col("node_state").is_in(["off", "asleep"]))


def with_known_off(
    intervals: pl.DataFrame,
    off: pl.DataFrame,
    inventory: pl.DataFrame,
    policy: IntervalPolicy,
    days: Collection[int],
) -> pl.DataFrame:
    """Return rows of silver/interval with the energy of nodes that are off and of which nothing is read.

    `off` are SPANS of nodes that are off, `inventory` has ROSTER_COLUMNS, `days` are days since 1970. A whole interval
    within a span draws the inventory's `standby_power_w`, else 0 W. What was read stays as it is, and so does what was
    read and refused.
    """
    step = policy.interval_us
    first, end = -(-pl.col("from_us") // step) * step, pl.col("until_us") // step * step
    watts = pl.col("standby_power_w").fill_null(0.0)
    energy = watts * (policy.interval_s / JOULES_PER_KWH)
    place = pl.col("interval_us").is_between("listed_us", "listed_until_us", closed="left")
    known = (
        off.with_columns(interval_us=pl.int_ranges(first, end, step))
        .select("node_id", "interval_us")
        .explode("interval_us", empty_as_null=False, keep_nulls=False)
        .filter((pl.col("interval_us") // DAY_US).is_in(list(days)))
        .join(
            inventory.select(
                "node_id", "cluster_id", "standby_power_w", listed_us="from_us", listed_until_us="until_us"
            ),
            on="node_id",
            how="inner",
        )
        .filter(place)
        .unique(["node_id", "interval_us"], keep="last", maintain_order=True)
    )
    if known.is_empty():
        return intervals
    key = ["node_id", "device_id", "interval_start"]
    silent = pl.col("energy_kwh").is_null() & (pl.col("flags").list.len() == 0)
    said = {
        "energy_kwh": energy, "power_min_w": watts, "power_mean_w": watts, "power_max_w": watts,
        "observed_s": pl.lit(float(policy.interval_s)), "energy_source": pl.lit(KNOWN_OFF),
        "gain_sigma_kwh": energy * STANDBY_SIGMA_RATIO, "resolution_sigma_kwh": pl.lit(0.0),
        "sampling_sigma_kwh": pl.lit(0.0), "flags": pl.lit([KNOWN_OFF_FLAG], pl.List(pl.String)),
    }  # fmt: skip
    rows = known.select(
        pl.lit(policy.site_id).alias("site_id"), "cluster_id", "node_id", pl.lit("node").alias("device_id"),
        pl.from_epoch("interval_us", "us").dt.replace_time_zone("UTC").alias("interval_start"),
        pl.from_epoch(pl.col("interval_us") // DAY_US, "d").alias("date"),
        pl.lit(policy.interval_s).alias("interval_s"), pl.lit(value=True).alias("counts_in_total"),
        pl.lit(1).alias("multiplicity"), pl.lit(0).alias("conflicts"),
        *(value.alias(name) for name, value in said.items()),
    )  # fmt: skip
    schema = intervals.schema
    rows = rows.select(
        (pl.col(name) if name in rows.columns else pl.lit(None)).cast(kind).alias(name)
        for name, kind in schema.items()
    )
    filled = intervals.join(rows.select(*key, *said), on=key, how="left", suffix="_off")
    is_off = silent & pl.col("energy_kwh_off").is_not_null()
    kept = filled.with_columns(
        pl.when(is_off).then(f"{name}_off").otherwise(name).alias(name) for name in said
    ).select(schema.names())
    new = rows.join(intervals.select(key), on=key, how="anti")
    return pl.concat([kept, new]).sort("cluster_id", "node_id", "device_id", "interval_start")
