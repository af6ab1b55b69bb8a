"""The building around the nodes: conversion chain, chiller, air handlers, pumps, tower, lighting.

Every array holds means over one minute, W, except where its name says another unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from lepton_etl.simulator.weather import Weather

Array = NDArray[np.float64]

# Part-load loss of each stage as shares of its rating: no-load, linear, square.
# Source: EN 62040-3 style double-conversion UPS near 95 % and dry transformers near 98.5 % at half load.
TRANSFORMER_LOSS: Final = (0.0030, 0.0, 0.0110)
UPS_LOSS: Final = (0.0120, 0.0150, 0.0160)
PDU_LOSS: Final = (0.0020, 0.0, 0.0120)

CHILLED_SUPPLY_C: Final = 14.0
CHILLED_RETURN_C: Final = 21.0
APPROACH_K: Final = 4.0  # tower water above wet bulb
RATED_COP: Final = 5.6
RATED_CONDENSER_C: Final = 29.4
# Energy input ratio by part load: 0.2229 + 0.3134 PLR + 0.4637 PLR^2, the shape of a centrifugal machine.
# Source: form of EnergyPlus Engineering Reference, Electric EIR chiller model.
EIR_BY_LOAD: Final = (0.2229, 0.3134, 0.4637)
SMALLEST_PART_LOAD: Final = 0.15
# The transformer's rating over the IT rating.
TRANSFORMER_RESERVE: Final = 1.6
# Heat that a litre of evaporated water carries away at 30 degC, Wh; the tower blows a litre down for every
# CONCENTRATION - 1 that evaporate.
EVAPORATION_WH_PER_L: Final = 675.0
CONCENTRATION: Final = 4.0


@dataclass(frozen=True, slots=True)
class Ratings:
    """Sizes of the plant, W, from the rated power of the nodes."""

    it_w: float
    transformer_w: float
    cooling_w: float
    crah_fans_w: float
    pumps_w: float
    tower_fans_w: float
    management_w: float
    storage_w: float
    network_w: float


@dataclass(frozen=True, slots=True)
class Facility:
    """Mean powers of each minute, W. demand = nodes + network + storage + losses + cooling + management.

    `heat_w` is what the chilled-water loop carries to the chillers, `make_up_l` the litres that the tower draws
    in the minute.
    """

    nodes_w: Array
    network_w: Array
    storage_w: Array
    pdu_loss_w: Array
    ups_loss_w: Array
    transformer_loss_w: Array
    chiller_w: Array
    crah_w: Array
    pump_w: Array
    tower_w: Array
    management_w: Array
    heat_w: Array
    make_up_l: Array

    @property
    def it_overhead_w(self) -> Array:
        """Network and storage, at their input."""
        return self.network_w + self.storage_w

    @property
    def conversion_loss_w(self) -> Array:
        """Transformer, UPS and PDU: everything between the utility meter and the IT input."""
        return self.pdu_loss_w + self.ups_loss_w + self.transformer_loss_w

    @property
    def cooling_w(self) -> Array:
        """Chiller, air handlers, pumps and tower."""
        return self.chiller_w + self.crah_w + self.pump_w + self.tower_w

    @property
    def ups_out_w(self) -> Array:
        """IT and the PDU loss: what the UPS delivers."""
        return self.nodes_w + self.it_overhead_w + self.pdu_loss_w

    @property
    def ups_in_w(self) -> Array:
        """UPS output and UPS loss."""
        return self.ups_out_w + self.ups_loss_w

    @property
    def low_voltage_w(self) -> Array:
        """What the transformer delivers."""
        return self.ups_in_w + self.cooling_w + self.management_w

    @property
    def demand_w(self) -> Array:
        """What the site uses, at the switchgear in front of the transformer."""
        return self.low_voltage_w + self.transformer_loss_w


def ratings(nodes_rated_w: float) -> Ratings:
    """A plant for these nodes, with the reserve that planners take."""
    it_w = nodes_rated_w * 1.15
    return Ratings(
        it_w=it_w,
        transformer_w=it_w * TRANSFORMER_RESERVE,
        cooling_w=it_w * 1.25,
        crah_fans_w=it_w * 0.060,
        pumps_w=it_w * 0.025,
        tower_fans_w=it_w * 0.020,
        management_w=it_w * 0.012 + 300.0,
        storage_w=it_w * 0.030,
        network_w=it_w * 0.022,
    )


def stage_loss_w(output_w: Array, rating_w: float, shares: tuple[float, float, float]) -> Array:
    """Loss of one conversion stage, W, by what it delivers."""
    load = output_w / rating_w
    return np.asarray(rating_w * (shares[0] + shares[1] * load + shares[2] * load**2), dtype=np.float64)


def chiller_w(heat_w: Array, wet_bulb_c: Array, capacity_w: float) -> Array:
    """Electric power of the chillers, W, for the heat to remove, W, at an outdoor wet bulb, degC.

    The tower takes the share of the heat that its water can take directly (free cooling); the rest is lifted
    at an energy input ratio that depends on condenser water (wet bulb + approach) and, not linearly, on part
    load. Below the smallest part load the machine cycles.
    Source: form of EnergyPlus' Electric EIR chiller (P = Q_ref x EIR_ref x f(T) x f(PLR)); water-side
    economiser by its temperature range.
    """
    tower_water_c = wet_bulb_c + APPROACH_K
    free = np.clip((CHILLED_RETURN_C - tower_water_c) / (CHILLED_RETURN_C - CHILLED_SUPPLY_C), 0.0, 1.0)
    lifted_w = heat_w * (1.0 - free)
    part_load = lifted_w / capacity_w
    running = np.maximum(part_load, SMALLEST_PART_LOAD)
    warmer_k = np.maximum(tower_water_c, 15.0) - RATED_CONDENSER_C
    by_temperature = 1.0 + 0.024 * warmer_k + 0.0004 * warmer_k**2
    by_load = EIR_BY_LOAD[0] + EIR_BY_LOAD[1] * running + EIR_BY_LOAD[2] * running**2
    cycling = part_load / running
    power_w = capacity_w / RATED_COP * by_temperature * by_load * cycling
    return np.asarray(power_w, dtype=np.float64)


def cube_w(rated_w: float, flow: Array, least: float) -> Array:
    """Fan or pump power at a share of full flow, never below `least`. Source: affinity law, P ~ flow^3."""
    return np.asarray(rated_w * np.clip(flow, least, 1.2) ** 3, dtype=np.float64)


def make_up_l(rejected_w: Array, wet_bulb_c: Array) -> Array:
    """Litres a minute that the tower draws to reject this heat, W: evaporation and blow-down.

    On cold days a part of the heat leaves as warm air instead of vapour.
    Source: evaporation = latent share x heat / enthalpy of evaporation; blow-down = evaporation /
    (cycles of concentration - 1).
    """
    latent_share = np.clip(0.55 + 0.018 * wet_bulb_c, 0.35, 0.95)
    evaporated = latent_share * rejected_w / 60.0 / EVAPORATION_WH_PER_L
    return np.asarray(evaporated * CONCENTRATION / (CONCENTRATION - 1.0), dtype=np.float64)


def facility(nodes_w: Array, site_weather: Weather, sizes: Ratings, local_offset_h: float) -> Facility:
    """The whole site, minute by minute, around the nodes' power.

    The heat to remove is all IT, PDU and UPS loss and the air handlers' own fans.
    """
    minutes = np.arange(len(nodes_w))
    local_hour = (minutes / 60.0 + local_offset_h) % 24.0
    wet_bulb = site_weather.wet_bulb_c[:-1]
    network_w = sizes.network_w * (0.75 + 0.25 * nodes_w / sizes.it_w)
    backup = np.where((local_hour >= 1.0) & (local_hour < 3.0), 1.15, 1.0)
    storage_w = sizes.storage_w * 0.8 * backup
    it_w = nodes_w + network_w + storage_w
    pdu_loss_w = stage_loss_w(it_w, sizes.it_w, PDU_LOSS)
    ups_loss_w = stage_loss_w(it_w + pdu_loss_w, sizes.it_w, UPS_LOSS)

    room_w = it_w + pdu_loss_w + ups_loss_w
    crah_w = cube_w(sizes.crah_fans_w, 0.15 + 0.85 * room_w / sizes.cooling_w, 0.45)
    heat_w = room_w + crah_w
    chillers_w = chiller_w(heat_w, wet_bulb, sizes.cooling_w)
    pump_w = cube_w(sizes.pumps_w, heat_w / sizes.cooling_w, 0.5)
    warm_day = 1.0 + 0.01 * np.maximum(wet_bulb - 18.0, 0.0)
    tower_w = cube_w(sizes.tower_fans_w, (heat_w + chillers_w) / (sizes.cooling_w * 1.2) * warm_day, 0.3)
    lights = np.where((local_hour >= 7.0) & (local_hour < 19.0), 1.25, 1.0)
    management_w = sizes.management_w * 0.8 * lights
    low_voltage_w = room_w + crah_w + chillers_w + pump_w + tower_w + management_w
    return Facility(
        nodes_w=nodes_w,
        network_w=network_w,
        storage_w=storage_w,
        pdu_loss_w=pdu_loss_w,
        ups_loss_w=ups_loss_w,
        transformer_loss_w=stage_loss_w(low_voltage_w, sizes.transformer_w, TRANSFORMER_LOSS),
        chiller_w=chillers_w,
        crah_w=crah_w,
        pump_w=pump_w,
        tower_w=tower_w,
        management_w=management_w,
        heat_w=heat_w,
        make_up_l=make_up_l(heat_w + chillers_w, wet_bulb),
    )
