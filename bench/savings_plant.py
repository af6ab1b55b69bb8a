"""The building of the simulated site: what the meters would show for the nodes' power and a set point.

The same chain as the fleet simulator (losses, chiller with economiser, air handlers, pumps, tower) with a supply air
temperature that can move; hourly means. No planner knows these equations.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from bench.replay_queue import SLEEP, Segments
from bench.savings_inputs import Site
from lepton_etl.recommend.replay import Floats
from lepton_etl.simulator import facility as plant


@dataclass(frozen=True)
class Hours:
    """Mean power of each rack in each hour at the reference inlet, W, (racks, hours): awake, and asleep."""

    awake_w: Floats
    asleep_w: Floats


def rack_hours(site: Site, segments: Segments, hours: int) -> Hours:
    """Stretches of constant power into hours of racks; what lies beyond `hours` is left out."""
    racks = int(site.rack.max()) + 1
    edge = np.zeros((2, racks, hours + 2))
    power = segments.power_w * site.spread[segments.node]
    asleep = (segments.state == SLEEP).astype(np.int64)
    rack = site.rack[segments.node]
    for at_s, sign in ((segments.from_s, 1.0), (segments.to_s, -1.0)):
        # The integral of a step, taken at whole hours: all of the hours after it, and the part of its own.
        at = np.minimum(at_s / 3600.0, hours)
        whole = np.floor(at).astype(np.int64)
        part = at - whole
        np.add.at(edge, (asleep, rack, whole), sign * power * (1.0 - part))
        np.add.at(edge, (asleep, rack, whole + 1), sign * power * part)
    found = np.maximum(np.cumsum(edge, axis=2)[:, :, :hours], 0.0)
    found[found < 1e-6] = 0.0
    return Hours(found[0], found[1])


@dataclass(frozen=True)
class Metered:
    """Energy of each hour, kWh, true, and the hottest inlet, degC."""

    nodes_kwh: Floats
    it_kwh: Floats
    heat_kwh: Floats
    cooling_kwh: Floats
    facility_kwh: Floats
    hottest_inlet_c: Floats


def run_plant(
    told: dict[str, Any], site: Site, hours: Hours, supply_c: Floats, wet_bulb_c: Floats, rated_w: float
) -> Metered:
    """The site's energy at a supply temperature, degC, as it really was in each hour."""
    inlet_c = supply_c[None, :] + _rack_offset(site)[:, None]
    warm = 1.0 + told["leakage_per_k"] * (inlet_c - told["leakage_reference_c"])
    speed = 1.0 + told["fan_speed_per_k"] * np.maximum(inlet_c - told["fan_knee_c"], 0.0)
    answer = warm + told["fan_share"] * (speed**3 - 1.0)
    nodes_w = (hours.awake_w * answer + hours.asleep_w).sum(axis=0)
    sizes = plant.ratings(rated_w)
    it_w = nodes_w + told["overhead_it_ratio"] * rated_w
    pdu_w = plant.stage_loss_w(it_w, sizes.it_w, plant.PDU_LOSS)
    ups_w = plant.stage_loss_w(it_w + pdu_w, sizes.it_w, plant.UPS_LOSS)
    room_w = it_w + pdu_w + ups_w
    fans_w = plant.cube_w(sizes.crah_fans_w, 0.15 + 0.85 * room_w / sizes.cooling_w, 0.45)
    heat_w = room_w + fans_w
    chiller_w = _chiller_w(told, heat_w, supply_c, wet_bulb_c, sizes.cooling_w)
    pumps_w = plant.cube_w(sizes.pumps_w, heat_w / sizes.cooling_w, 0.5)
    warm_day = 1.0 + 0.01 * np.maximum(wet_bulb_c - 18.0, 0.0)
    tower_w = plant.cube_w(sizes.tower_fans_w, (heat_w + chiller_w) / (sizes.cooling_w * 1.2) * warm_day, 0.3)
    cooling_w = fans_w + chiller_w + pumps_w + tower_w
    low_w = room_w + cooling_w + told["management_ratio"] * rated_w
    total_w = low_w + plant.stage_loss_w(low_w, sizes.transformer_w, plant.TRANSFORMER_LOSS)
    active = hours.awake_w.sum(axis=1) > 0
    return Metered(
        nodes_w / 1000.0, it_w / 1000.0, heat_w / 1000.0, cooling_w / 1000.0, total_w / 1000.0,
        np.asarray(inlet_c[active].max(axis=0)),
    )  # fmt: skip


def _rack_offset(site: Site) -> Floats:
    racks = int(site.rack.max()) + 1
    return np.array([site.inlet_offset_k[site.rack == rack][0] for rack in range(racks)])


def _chiller_w(
    told: dict[str, Any], heat_w: Floats, supply_c: Floats, wet_bulb_c: Floats, capacity_w: float
) -> Floats:
    """The fleet simulator's chiller, its chilled water at the supply air less the coil's approach."""
    chilled_c = supply_c - told["coil_approach_k"]
    tower_c = wet_bulb_c + told["tower_approach_k"]
    rise_k = told["water_rise_k"]
    free = np.clip((chilled_c + rise_k - tower_c) / rise_k, 0.0, 1.0)
    part_load = heat_w * (1.0 - free) / capacity_w
    running = np.maximum(part_load, plant.SMALLEST_PART_LOAD)
    warmer_k = np.maximum(tower_c, 15.0) - plant.RATED_CONDENSER_C
    by_temperature = (1.0 + 0.024 * warmer_k + 0.0004 * warmer_k**2) * (
        1.0 + told["eir_per_chilled_k"] * (chilled_c - told["rated_chilled_c"])
    )
    shape = plant.EIR_BY_LOAD
    by_load = shape[0] + shape[1] * running + shape[2] * running**2
    return np.asarray(capacity_w / told["rated_cop"] * by_temperature * by_load * part_load / running)
