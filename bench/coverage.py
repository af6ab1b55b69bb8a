"""Do the stated 90 % intervals hold the truth? One cluster-hour of each of many independently seeded fleets.

    python -m bench.coverage [--fleets 1000]

The simulator gives each fleet its jobs, nodes and power; its sensors err here, by an error common to the fleet's make
and one of each piece: even ones of every other fleet, Student's t with 5 degrees of the others, of the standard
deviation that the ledger takes for normal errors. The readings go through the silver kernel and gold's own functions;
what comes out is held against the truth: the energy of the hour by each class of sensors, and every published figure
(bench/figure_coverage.py) of fleets whose nodes have a BMC.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from math import sqrt
from typing import Final

import numpy as np
import polars as pl
from numpy.typing import NDArray

from bench.figure_coverage import coverages, drawn
from bench.measure import figure, print_figures, write
from lepton_etl.days import Days
from lepton_etl.energy.aggregate import group_parts, group_sums
from lepton_etl.energy.gaps import with_imputed
from lepton_etl.energy.node_hours import measured_node_hours, node_hours, node_intervals
from lepton_etl.intervals.channels import READING_COLUMNS
from lepton_etl.intervals.node_day import IntervalPolicy, intervals
from lepton_etl.intervals.readings import roster
from lepton_etl.intervals.sensor_classes import SensorClass, sensor_classes
from lepton_etl.intervals.usual_values import HISTORY_COLUMNS
from lepton_etl.ledger.accounts import IT_HOURS, METERS, meter_errors, modelled_hours, site_accounts
from lepton_etl.ledger.balance import ledger_rows
from lepton_etl.ledger.reconcile import NODE_HOURS, check_meters
from lepton_etl.registers.factors import load_factors
from lepton_etl.schema.fleet import NODE
from lepton_etl.schema.jobs import NODE_STATE
from lepton_etl.schema.types import arrow_schema
from lepton_etl.simulator import power
from lepton_etl.simulator.hardware import CLASSES
from lepton_etl.simulator.load import NodeTask, node_tasks
from lepton_etl.simulator.logs import sampled
from lepton_etl.simulator.node import node_days
from lepton_etl.simulator.placement import schedule
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.weather import supply_air_c, weather
from lepton_etl.uncertainty import Z

Floats = NDArray[np.float64]

DAY: Final = date(2025, 6, 3)
MIDNIGHT: Final = datetime(2025, 6, 3, tzinfo=UTC)
DAY_NUMBER: Final = (DAY - date(1970, 1, 1)).days
# The quantity by which a node's power reaches silver from each class of sensor.
NODE_QUANTITY: Final = {"outlet": "outlet_power", "psu": "psu_input_power", "bmc": "node_power"}
BOARD: Final = "gpu_board"
PERIOD_S: Final = 60
METER_CLASS_PCT: Final = 0.5
WANTED: Final = (0.87, 0.93)


@dataclass(frozen=True)
class NodeHour:
    """True power of one node around one hour, W: the node's and its boards', at the seconds of its collector."""

    fleet: int
    node_id: str
    hardware_class: str
    rated_w: float
    hour: int
    seconds: NDArray[np.int64]
    power_w: Floats
    boards_w: Floats
    energy_kwh: float
    boards_kwh: Floats


def fleets(count: int) -> Iterator[NodeHour]:
    """Nodes of `count` fleets, each of its own seed, hardware class, size and hour."""
    classes = sorted(CLASSES)
    for seed in range(count):
        rng = np.random.default_rng([seed, 90])
        hardware_class = classes[seed % len(classes)]
        cluster = ClusterPlan(cluster_id="c01", nodes=int(rng.integers(2, 7)), hardware_class=hardware_class)
        plan = FleetPlan(seed=seed, clusters=(cluster,), first_date=DAY)
        air, placed, hour = supply_air_c(weather(plan)), schedule(plan, cluster), int(rng.integers(1, 23))
        for task in node_tasks(cluster, placed):
            yield _node_hour(plan, task, air, seed, hour, int(rng.integers(PERIOD_S)))


def _node_hour(
    plan: FleetPlan, task: NodeTask, air_c: Floats, seed: int, hour: int, offset_s: int
) -> NodeHour:
    day = next(node_days(plan, task, air_c))
    start = hour * 3600
    seconds = np.arange(start - PERIOD_S + offset_s, start + 3600 + PERIOD_S, PERIOD_S)
    steps = slice(start // 10, start // 10 + 361)

    def kwh(series: Floats) -> Floats:
        inside = series[..., steps]
        return np.asarray((inside[..., 1:] + inside[..., :-1]).sum(axis=-1) * 5.0 / 3.6e6)

    return NodeHour(
        seed, f"f{seed:04d}-{task.node_id}", task.hardware.name, power.rated_power_w(task.hardware), hour, seconds,
        sampled(day.ac_power_w, seconds), sampled(day.gpu_power_w, seconds), float(kwh(day.ac_power_w)),
        kwh(day.gpu_power_w),
    )  # fmt: skip


def errors(sensor: SensorClass, fleet: int, count: int, name: str) -> Floats:
    """Relative gain errors of a fleet's `count` sensors of one class: of the make, and of each piece."""
    assert sensor.gain_sigma_ratio is not None
    rng = np.random.default_rng([fleet, sum(name.encode())])
    common, own = drawn(rng, fleet), drawn(rng, fleet, count)
    shared = sensor.shared_variance_ratio
    mixed = sqrt(shared) * common + np.sqrt(1 - shared) * own
    return np.asarray(sensor.gain_sigma_ratio * mixed, dtype=np.float64)


def readings_of(hours: list[NodeHour], classes: dict[str, SensorClass], name: str) -> pl.DataFrame:
    """READING_COLUMNS of all nodes as sensors of one class log them, rounded to 1 W."""
    frames = []
    for fleet, group in _by_fleet(hours).items():
        rows = [(node, "node", node.power_w) for node in group]
        if name == BOARD:
            rows = [(node, f"gpu{i}", watts) for node in group for i, watts in enumerate(node.boards_w)]
        gains = 1 + errors(classes[name], fleet, len(rows), name)
        for (node, device_id, watts), gain in zip(rows, gains, strict=True):
            frames.append(
                pl.DataFrame(
                    {
                        "node_id": node.node_id, "device_id": device_id, "value": np.rint(watts * gain),
                        "time_us": (DAY_NUMBER * 86_400 + node.seconds) * 1_000_000,
                    }
                )
            )  # fmt: skip
    quantity = "gpu_power" if name == BOARD else NODE_QUANTITY[name]
    return pl.concat(frames).select(
        pl.lit(DAY_NUMBER).alias("day"), "node_id", "device_id", pl.lit(quantity).alias("quantity"),
        pl.lit(quantity).alias("sensor"), pl.lit("instant").alias("statistic"), "value",
        pl.lit(0.0).alias("window_s"), "time_us", pl.lit(1).alias("multiplicity"), pl.lit(330.0).alias("max_gap_s"),
        pl.lit(None).alias("counter_max_j"), pl.lit(None).alias("spot_samples"), pl.lit(0).alias("file_rank"),
        pl.int_range(pl.len()).alias("source_position"),
    ).cast(READING_COLUMNS)  # fmt: skip


def _by_fleet(hours: list[NodeHour]) -> dict[int, list[NodeHour]]:
    found: dict[int, list[NodeHour]] = {}
    for node in hours:
        found.setdefault(node.fleet, []).append(node)
    return found


def inventory_of(hours: list[NodeHour]) -> pl.DataFrame:
    """silver/node: each fleet a cluster, each node listed for its hour alone."""
    start = [MIDNIGHT + timedelta(hours=node.hour) for node in hours]
    known = {
        "site_id": ["s"] * len(hours), "cluster_id": [f"f{node.fleet:04d}" for node in hours],
        "node_id": [node.node_id for node in hours], "hardware_class": [node.hardware_class for node in hours],
        "rated_power_w": [node.rated_w for node in hours], "valid_from": start,
        "valid_to": [at + timedelta(hours=1) for at in start],
    }  # fmt: skip
    schema = arrow_schema(NODE)
    empty = pl.DataFrame(schema.empty_table())
    return pl.concat([empty, pl.DataFrame(known)], how="diagonal_relaxed").select(schema.names)


def hours_of_nodes(hours: list[NodeHour], classes: dict[str, SensorClass], name: str) -> pl.DataFrame:
    """gold/node_hour of the nodes as sensors of one class log them."""
    nodes = inventory_of(hours)
    inventory = nodes.to_arrow().cast(arrow_schema(NODE))
    policy = IntervalPolicy("s", classes=classes)
    rows = intervals(
        readings_of(hours, classes, name).to_arrow(), pl.DataFrame(schema=HISTORY_COLUMNS).to_arrow(),
        roster(inventory), policy,
    )  # fmt: skip
    silver, days = pl.DataFrame(rows), Days.of(DAY)
    listed = pl.DataFrame(inventory)
    states = pl.DataFrame(arrow_schema(NODE_STATE).empty_table())
    measured = measured_node_hours(
        silver, node_intervals(silver), listed, days, idle_utilisation_ratio=0.05, states=states
    )
    # Without history nothing is imputed.
    return node_hours(with_imputed(measured, measured.clear(), None), 0.9)


def node_coverage(hours: list[NodeHour], rows: pl.DataFrame, shares: dict[str, float]) -> tuple[float, int]:
    """Share of cluster-hours whose true energy lies inside gold's interval, and their number."""
    by = ("date", "hour_start", "site_id", "cluster_id")
    found = group_sums(group_parts(rows, by, shares), by, 0.9)
    truth = pl.DataFrame(
        [(f"f{fleet:04d}", sum(node.energy_kwh for node in group)) for fleet, group in _by_fleet(hours).items()],
        schema=["cluster_id", "true_kwh"], orient="row",
    )  # fmt: skip
    held = found.join(truth, on="cluster_id", how="inner").filter(pl.col("it_energy_kwh").is_not_null())
    inside = held["true_kwh"].is_between(held["it_energy_lower_kwh"], held["it_energy_upper_kwh"])
    return int(inside.sum()) / held.height, held.height


def board_coverage(hours: list[NodeHour], classes: dict[str, SensorClass]) -> tuple[float, int]:
    """The same of single GPU boards: silver's three errors of a board's hour, one board a fleet."""
    with_boards = [node for node in hours if len(node.boards_kwh)]
    inventory = inventory_of(with_boards).to_arrow().cast(arrow_schema(NODE))
    rows = intervals(
        readings_of(with_boards, classes, BOARD).to_arrow(), pl.DataFrame(schema=HISTORY_COLUMNS).to_arrow(),
        roster(inventory), IntervalPolicy("s", classes=classes),
    )  # fmt: skip
    first = {group[0].node_id: group[0] for group in _by_fleet(with_boards).values()}
    boards = (
        pl.DataFrame(rows)
        .filter((pl.col("device_id") == "gpu0") & pl.col("node_id").is_in(list(first)))
        .filter(pl.col("interval_start").dt.hour() == pl.col("node_id").replace_strict(
            {name: node.hour for name, node in first.items()}, return_dtype=pl.Int8))
        .group_by("node_id")
        .agg(
            pl.col("energy_kwh", "gain_sigma_kwh", "resolution_sigma_kwh").sum(),
            pl.col("sampling_sigma_kwh").pow(2).sum().alias("sampling2"),
        )
    )  # fmt: skip
    sigma = np.sqrt(
        boards["gain_sigma_kwh"].to_numpy() ** 2
        + boards["resolution_sigma_kwh"].to_numpy() ** 2
        + boards["sampling2"].to_numpy()
    )
    truth = np.array([first[name].boards_kwh[0] for name in boards["node_id"]])
    inside = np.abs(boards["energy_kwh"].to_numpy() - truth) <= Z * sigma
    return float(inside.mean()), boards.height


def meter_coverage(hours: list[NodeHour]) -> tuple[float, int]:
    """The same of a class-0.5 meter before all nodes of a fleet, as the ledger books it."""
    rows = []
    for fleet, group in _by_fleet(hours).items():
        true_kwh = sum(node.energy_kwh for node in group)
        # As wide as an even error of the class, which the ledger takes for a normal one.
        bound = METER_CLASS_PCT / 100 * sqrt(2)
        error = np.random.default_rng([fleet, 5]).triangular(-bound, 0.0, bound)
        rows.append((f"f{fleet:04d}", MIDNIGHT, true_kwh, round(true_kwh * (1 + error), 3)))
    read = pl.DataFrame(rows, schema=["site_id", "hour_start", "true_kwh", "energy_kwh"], orient="row")
    listed = read.select(
        "site_id", pl.col("hour_start").cast(METERS["hour_start"]), pl.lit("u").alias("meter_id"),
        pl.lit("utility").alias("point"), pl.lit("site").alias("serves"), pl.lit(1.0).alias("direction"), "energy_kwh",
        pl.lit(METER_CLASS_PCT).alias("class_pct"), pl.lit(0.0).alias("noise_kwh"),
    )  # fmt: skip
    meters = meter_errors(listed).select(list(METERS))
    nothing = [
        pl.lit(None, type_).alias(name) for name, type_ in IT_HOURS.items() if name not in meters.columns[:2]
    ]
    it_hours = meters.select("site_id", "hour_start", *nothing).with_columns(pl.lit(0.0).alias("sigma_kwh"))
    accounts = site_accounts(meters, it_hours.select(list(IT_HOURS)), modelled_hours([]))
    nobody = pl.DataFrame(schema=NODE_HOURS)
    checks = check_meters(it_hours, meters, nobody, modelled_hours([]))
    ledger = pl.DataFrame(ledger_rows(accounts, checks)).filter(pl.col("ledger_account") == "utility")
    held = ledger.join(read, on="site_id", how="inner")
    inside = held["true_kwh"].is_between(held["account_lower_kwh"], held["account_upper_kwh"])
    return int(inside.sum()) / held.height, held.height


def main() -> None:
    """Print one line a sensor class, and write var/bench/coverage.json."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--fleets", type=int, default=1000)
    count = parser.parse_args().fleets
    factors = load_factors()
    classes = sensor_classes(factors, DAY)
    shares = {sensor: found.shared_variance_ratio for sensor, found in classes.items()}
    hours = list(fleets(count))
    rows = {name: hours_of_nodes(hours, classes, name) for name in NODE_QUANTITY}
    found = {name: node_coverage(hours, rows[name], shares) for name in NODE_QUANTITY}
    found[BOARD] = board_coverage(hours, classes)
    found["meter"] = meter_coverage(hours)
    low, high = WANTED
    figures = [
        figure(
            f"{name}: true energy inside the 90 % interval, {number} {'boards' if name == BOARD else 'cluster-hours'}",
            share, "ratio", 1, at_most=high, at_least=low,
        )
        for name, (share, number) in found.items()
    ]  # fmt: skip
    truth = {node.node_id: node.energy_kwh for node in hours}
    figures += [
        figure(
            f"{name}: truth inside the 90 % interval, {number} fleets",
            share,
            "ratio",
            1,
            at_most=high,
            at_least=low,
        )
        for name, (share, number) in coverages(rows["bmc"], truth, shares, factors, DAY).items()
    ]
    print_figures("90 % intervals of a simulated hour", figures)
    write("coverage", figures)


if __name__ == "__main__":
    main()
