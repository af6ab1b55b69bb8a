"""What a plan is made from: jobs, node groups, the hours of each site, and the objective."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
CarbonMethod = Literal["location_average", "market"]


@dataclass(frozen=True, slots=True)
class Signal:
    """A forecast by hour: expected value and the ends of its 90 % interval, each (H,); NaN is unknown.

    Ends that are NaN leave the expected value usable; what rests on it then has no interval.
    """

    expected: Floats
    lower: Floats
    upper: Floats


@dataclass(frozen=True, slots=True)
class SiteHours:
    """The hours of one site: marginal overhead, kW per kW of IT; grid intensity, kg/kWh; energy price, money/kWh.

    Sites of one `zone_id` share the errors of its intensity. `carbon_method` says what the intensity is.
    """

    site_id: str
    zone_id: str
    overhead_ratio: Floats
    intensity_kg_per_kwh: Signal | None = None
    price_per_kwh: Signal | None = None
    carbon_method: CarbonMethod = "location_average"


@dataclass(frozen=True, slots=True)
class NodeGroup:
    """Equal nodes of one site: units (GPUs, cores or nodes) free after what runs already, by hour (H,).

    `relative_speed` and `relative_power` compare classes: the same job takes duration / speed, and draws power x
    relative power. `marginal_power_w`: what the group itself adds per unit in use, beyond the jobs' own power (nodes
    woken from standby, fans), as (units up to, W per unit) with W rising; see `wake_power`.
    """

    group_id: str
    site_id: str
    cluster_id: str
    hardware_class: str
    unit: str
    capacity: Floats
    marginal_power_w: tuple[tuple[float, float], ...] = ()
    relative_speed: float = 1.0
    relative_power: float = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """A job that may wait: released at the begin of row `release_h`, done by the begin of row `deadline_h`.

    `group_id` is where it was submitted. `power_w` is the mean the whole job adds to the nodes there at the IT input,
    with its 90 % interval; `allowed` names the sites, clusters or groups it may run on (None: its own group alone);
    `transfer_kwh` is spent at the other site when it leaves its own.
    """

    job_id: str
    group_id: str
    release_h: int
    deadline_h: int
    duration_h: float
    units: float
    unit: str
    power_w: float
    power_lower_w: float
    power_upper_w: float
    preemptible: bool = False
    allowed: tuple[str, ...] | None = None
    transfer_kwh: float = 0.0


@dataclass(frozen=True, slots=True)
class Objective:
    """What is made small: a stated mix of facility kWh, kgCO2e and money; the weights state the mix.

    An hour counts at the `risk_quantile` of its forecast (0.5: as expected): above one half, hours of which less is
    known must promise more. One carbon method for the claim.
    """

    per_kwh: float = 0.0
    per_kgco2e: float = 0.0
    per_money: float = 0.0
    carbon_method: CarbonMethod = "location_average"
    risk_quantile: float = 0.55

    def __post_init__(self) -> None:
        weights = (self.per_kwh, self.per_kgco2e, self.per_money)
        if min(weights) < 0 or not max(weights) > 0 or not np.isfinite(weights).all():
            raise ValueError(f"weights {weights} of kWh, kgCO2e and money: none negative, one above 0")
        if not 0 < self.risk_quantile < 1:
            raise ValueError(f"risk quantile {self.risk_quantile}: between 0 and 1")

    @property
    def name(self) -> str:
        """energy, carbon or cost; or the mix with its weights."""
        named = {"energy": self.per_kwh, "carbon": self.per_kgco2e, "cost": self.per_money}
        used = {name: weight for name, weight in named.items() if weight > 0}
        return next(iter(used)) if len(used) == 1 else " + ".join(f"{w:g} {n}" for n, w in used.items())


@dataclass(frozen=True, slots=True)
class Problem:
    """All that a plan knows; `hours` is H."""

    jobs: tuple[Job, ...]
    groups: tuple[NodeGroup, ...]
    sites: tuple[SiteHours, ...]
    hours: int
    objective: Objective


def wake_power(
    idle_w: float, standby_w: float, units_per_node: float, nodes: int
) -> tuple[tuple[float, float], ...]:
    """`marginal_power_w` of a group whose empty nodes stand by: each unit in use carries its part of a node's waking.

    Where empty nodes stay on, their idle power moves with no plan: leave the curve empty.
    """
    return ((nodes * units_per_node, (idle_w - standby_w) / units_per_node),)


def rising_curve(units: Floats, power_w: Floats) -> tuple[tuple[float, float], ...]:
    """`marginal_power_w` of a measured curve of a group's power by units in use, (n,) each, units rising from 0.

    It is the lower convex hull: a curve that flattens is taken as straight between its ends, which is how a group of
    nodes filled one after the other behaves.
    """
    if len(units) < 2 or units[0] != 0 or not (np.diff(units) > 0).all():
        raise ValueError("units must rise from 0, two points at least")
    hull = [0]
    for at in range(1, len(units)):
        hull.append(at)
        while len(hull) > 2 and _slope(units, power_w, hull[-3], hull[-2]) >= _slope(
            units, power_w, hull[-2], hull[-1]
        ):
            del hull[-2]
    return tuple((float(units[b]), _slope(units, power_w, a, b)) for a, b in pairwise(hull))


def _slope(x: Floats, y: Floats, a: int, b: int) -> float:
    return float((y[b] - y[a]) / (x[b] - x[a]))
