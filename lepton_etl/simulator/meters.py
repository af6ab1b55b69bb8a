"""The site's meters: what each of them measures, and the files that they write."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator.facility import Facility
from lepton_etl.simulator.faults import FaultRecord
from lepton_etl.simulator.on_site import Supply
from lepton_etl.simulator.plan import DAY_S, Fault, FleetPlan, LocalSource

Array = NDArray[np.float64]

COMPUTE_FEEDS: Final = ("pdu-a", "pdu-b")


@dataclass(frozen=True, slots=True)
class Meter:
    """One meter: `class_pct` is its accuracy class, percent of the reading; `source` the folder of its files."""

    meter_id: str
    parent_id: str
    point: str
    serves: str
    class_pct: float
    carrier: str = "electricity"
    source: str = "meters"

    @property
    def is_register(self) -> bool:
        """A totaliser in litres; any other meter tells the mean power of a window in kW."""
        return self.carrier in ("water", "fuel")


PLANT: Final = (
    Meter("utility-1", "", "utility", "site", 0.5),
    Meter("lv-1", "utility-1", "transformer_out", "site", 0.5),
    Meter("ups-1-in", "lv-1", "ups_in", "it", 0.5),
    Meter("ups-1-out", "ups-1-in", "ups_out", "it", 0.5),
    *(Meter(feed, "ups-1-out", "pdu_out", "it", 0.5) for feed in COMPUTE_FEEDS),
    Meter("pdu-net", "ups-1-out", "pdu_out", "network", 0.5),
    Meter("pdu-sto", "ups-1-out", "pdu_out", "storage", 0.5),
    Meter("chiller-1", "lv-1", "chiller", "site", 1.0),
    Meter("crah-1", "lv-1", "crah", "site", 1.0),
    Meter("pump-1", "lv-1", "pump", "site", 1.0),
    Meter("tower-1", "lv-1", "tower", "site", 1.0),
    Meter("house-1", "lv-1", "other", "management", 1.0),
    Meter("heat-1", "", "chiller", "site", 2.0, "heat", "heat"),
    Meter("water-1", "", "tower", "site", 2.0, "water", "water"),
)
OF_SOURCE: Final = {
    LocalSource.PV: (Meter("pv-1", "", "pv", "site", 0.5), Meter("export-1", "", "export", "site", 0.5)),
    LocalSource.BATTERY: (
        Meter("battery-1-out", "", "battery_out", "site", 0.5),
        Meter("battery-1-in", "", "battery_in", "site", 0.5),
    ),
    LocalSource.GENERATOR: (
        Meter("generator-1", "", "generator", "site", 1.0),
        Meter("fuel-1", "", "generator", "site", 2.0, "fuel", "fuel"),
    ),
}


def meters_of(plan: FleetPlan) -> tuple[Meter, ...]:
    """The plant's meters and those of the local sources that the plan has."""
    return (
        *PLANT,
        *(meter for kind in LocalSource if kind in plan.local_sources for meter in OF_SOURCE[kind]),
    )


def compute_feeds(plan: FleetPlan) -> dict[str, int]:
    """Number of the compute feed of each node: the racks of the site take the feeds in turn."""
    feeds: dict[str, int] = {}
    first_rack = 0
    for cluster in plan.clusters:
        for index, node_id in enumerate(cluster.node_ids()):
            feeds[node_id] = (first_rack + cluster.rack_of(index)) % len(COMPUTE_FEEDS)
        first_rack += cluster.rack_of(cluster.nodes - 1) + 1
    return feeds


def write_meters(
    plan: FleetPlan, site: Facility, supplied: Supply, feeds_w: Array, landing: Path
) -> tuple[int, list[FaultRecord]]:
    """landing/{meters,heat,water,fuel}/*-DATE.csv; number of files and records of injected faults.

    meters and heat: mean power of each window in kW, stamped by its start. water and fuel: a register in L at
    each start of a window. `feeds_w` is the power of the nodes on each compute feed, shape (feeds, minutes).
    """
    columns = {"meters": "power_kw", "heat": "heat_kw", "water": "register_l", "fuel": "register_l"}
    meters, series = meters_of(plan), _series(site, supplied, feeds_w)
    dropped = _dropped_feed(plan)
    files, faults = 0, []
    for source, column in columns.items():
        logged = {
            meter.meter_id: _logged(plan, meter, series[meter.meter_id])
            for meter in meters
            if meter.source == source
        }
        for day, date in enumerate(plan.dates if logged else []):
            silent = dropped[0] if dropped and source == "meters" and dropped[1] == day else None
            lines, lost = _day_lines(plan, day, f"time,meter_id,{column}", logged, silent)
            file = f"{source}/{source}-{date}.csv"
            (landing / file).write_text("\n".join(lines) + "\n", encoding="utf-8", newline="\n")
            files += 1
            if silent:
                start_s = plan.start_epoch_s + day * DAY_S
                faults.append(
                    FaultRecord(Fault.FEED_DROPPED, file, silent, start_s, start_s + DAY_S, lost, lost)
                )
    return files, faults


def _series(site: Facility, supplied: Supply, feeds_w: Array) -> dict[str, Array]:
    """What truly passes each meter, W by the minute; L by the minute of a register."""
    return {
        "utility-1": supplied.utility_w, "lv-1": site.low_voltage_w, "ups-1-in": site.ups_in_w,
        "ups-1-out": site.ups_out_w, **dict(zip(COMPUTE_FEEDS, feeds_w, strict=True)),
        "pdu-net": site.network_w, "pdu-sto": site.storage_w, "chiller-1": site.chiller_w,
        "crah-1": site.crah_w, "pump-1": site.pump_w, "tower-1": site.tower_w, "house-1": site.management_w,
        "heat-1": site.heat_w, "water-1": site.make_up_l, "pv-1": supplied.pv_w,
        "export-1": supplied.export_w, "battery-1-out": supplied.battery_out_w,
        "battery-1-in": supplied.battery_in_w, "generator-1": supplied.generator_w, "fuel-1": supplied.fuel_l,
    }  # fmt: skip


def _logged(plan: FleetPlan, meter: Meter, minutes: Array) -> list[str]:
    """The figure of each window of the plan as the meter writes it, its own gain error in it."""
    by_window = minutes.reshape(-1, plan.meter_period_s // 60) * _gain(plan, meter)
    if not meter.is_register:
        return [f"{kw:.4f}" for kw in (by_window.mean(axis=1) / 1000.0).tolist()]
    start_l = plan.rng("register", meter.meter_id).uniform(1e3, 1e5)
    register_l = start_l + np.concatenate(([0.0], np.cumsum(by_window.sum(axis=1))[:-1]))
    return [f"{litres:.3f}" for litres in register_l.tolist()]


def _gain(plan: FleetPlan, meter: Meter) -> float:
    """Reading over truth: 1, or anywhere within the accuracy class with equal chance, the same for ever."""
    if not plan.meter_class_error:
        return 1.0
    return 1.0 + float(plan.rng("meter class", meter.meter_id).uniform(-1.0, 1.0)) * meter.class_pct / 100.0


def _dropped_feed(plan: FleetPlan) -> tuple[str, int] | None:
    """Meter and day of the fault that leaves out a compute feed; the first feed has nodes in every plan."""
    if Fault.FEED_DROPPED not in plan.faults:
        return None
    return COMPUTE_FEEDS[0], int(plan.rng("faults", Fault.FEED_DROPPED).integers(plan.days))


def _day_lines(
    plan: FleetPlan, day: int, header: str, logged: dict[str, list[str]], silent: str | None
) -> tuple[list[str], int]:
    """Lines of one day's file and how many of the silent meter are missing."""
    per_day = DAY_S // plan.meter_period_s
    midnight = plan.start_time + timedelta(days=day)
    lines = [header]
    for window in range(per_day):
        stamp = (midnight + timedelta(seconds=window * plan.meter_period_s)).strftime("%Y-%m-%dT%H:%M:%SZ")
        lines += [
            f"{stamp},{meter_id},{figures[day * per_day + window]}"
            for meter_id, figures in logged.items()
            if meter_id != silent
        ]
    return lines, per_day if silent else 0
