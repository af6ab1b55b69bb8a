"""Every lever's answer in one form: whom to ask for what, the baseline, the promise with its interval, or why none.

Energy is the facility's: IT kWh times one plus the site's marginal overhead. A node's saving is valued at the hours in
which it falls; ends are products of ends, so they hold whatever the two errors have to do with one another.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np

from lepton_etl.optimize.consolidate import Consolidation
from lepton_etl.optimize.idle import Waste
from lepton_etl.optimize.schedule.inputs import Floats, Signal, SiteHours
from lepton_etl.optimize.schedule.outcome import Estimate
from lepton_etl.optimize.schedule.plan import Plan

Lever = Literal["shift", "consolidate", "idle", "excess", "zombie", "cooling"]
UNKNOWN = Estimate(float("nan"), float("nan"), float("nan"))
NO_DELAY = Estimate(0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Proposal:
    """One proposal. `parameters` are plain numbers and text, hours as rows of the forecast; NaN is unknown.

    `reason` set: nothing is proposed to be gained, and why. `delay_h` is how much later work ends.
    """

    lever: Lever
    subject_kind: Literal["job", "node", "site"]
    subject_id: str
    action: str
    parameters: dict[str, object] = field(default_factory=dict)
    baseline_kwh: float = float("nan")
    saving_kwh: Estimate = UNKNOWN
    saving_kgco2e: Estimate = UNKNOWN
    saving_money: Estimate = UNKNOWN
    delay_h: Estimate = NO_DELAY
    carbon_method: str | None = None
    reason: str | None = None


def from_plan(made: Plan) -> list[Proposal]:
    """Moved jobs with their promise, and the jobs that could not be planned with their reason."""
    found = []
    for job in made.jobs:
        if not job.moved and job.reason is None:
            continue
        start = job.hours[0] if job.hours else None
        delay = float("nan") if job.finish_delay_h is None else float(job.finish_delay_h)
        action = "run as before" if job.status != "planned" else f"run on {job.group_id} from hour {start}"
        told = job.savings
        found.append(
            Proposal(
                "shift", "job", job.job_id, action,
                {
                    "group_id": job.group_id, "hours": list(job.hours), "status": job.status,
                    "baseline_group_id": job.baseline_group_id, "baseline_hours": list(job.baseline_hours),
                },
                float("nan") if told is None else told.baseline.energy_kwh,
                UNKNOWN if told is None else told.energy_kwh,
                UNKNOWN if told is None else told.emissions_kgco2e,
                UNKNOWN if told is None else told.money,
                Estimate(delay, delay, delay), made.carbon_method, job.reason,
            )
        )  # fmt: skip
    return found


def from_consolidation(made: Consolidation, site: SiteHours) -> list[Proposal]:
    """Runs of power-down at one site, and the nodes that stay on with their reason."""
    found = []
    for run in made.runs:
        it_kwh = Estimate(run.saving_kwh, run.saving_lower_kwh, run.saving_upper_kwh)
        found.append(
            _valued(
                "consolidate", "node", run.node_id, f"drain, power down from hour {run.from_h} to {run.until_h}",
                {"from_h": run.from_h, "until_h": run.until_h, "cluster_id": run.cluster_id},
                run.baseline_kwh, it_kwh, range(run.from_h, run.until_h), site,
            )
        )  # fmt: skip
    kept = sorted(made.kept.items())
    return [*found, *(Proposal("consolidate", "node", name, "stay on", reason=why) for name, why in kept)]


def from_waste(wasted: Iterable[Waste], site: SiteHours) -> list[Proposal]:
    """Idle nodes and zombie jobs: what the hours ahead would waste as the last ones did, if nobody acts."""
    actions = {
        "idle": "power down or give work", "excess": "look at the node: it draws above its idle model",
        "zombie": "ask the owner, then end the job",
    }  # fmt: skip
    hours = range(len(site.overhead_ratio))
    return [
        _valued(
            one.kind, "job" if one.kind == "zombie" else "node", one.subject_id, actions[one.kind],
            {"node_ids": list(one.node_ids), "hours_seen": one.hours, "wasted_kwh": one.wasted_kwh},
            one.baseline_kwh / one.hours * len(hours),
            Estimate(
                *(end / one.hours * len(hours) for end in (one.wasted_kwh, one.wasted_lower_kwh, one.wasted_upper_kwh))
            ),
            hours, site,
        )
        for one in wasted
    ]  # fmt: skip


def cooling(
    site: SiteHours,
    supply_temp_c: Floats,
    flow_ratio: Floats,
    baseline_kwh: float,
    saving_kwh: Estimate,
    reason: str | None,
) -> Proposal:
    """A site's set points over the hours ahead; `saving_kwh` is the facility's already."""
    subject = ("cooling", "site", site.site_id)
    if reason is not None:
        return Proposal(*subject, "keep the set point", reason=reason)  # type: ignore[arg-type]
    hours = range(len(supply_temp_c))
    points: dict[str, object] = {"supply_temp_c": supply_temp_c.tolist(), "flow_ratio": flow_ratio.tolist()}
    return Proposal(
        "cooling", "site", site.site_id, "follow the set points", points, baseline_kwh, saving_kwh,
        _times(saving_kwh, site.intensity_kg_per_kwh, hours), _times(saving_kwh, site.price_per_kwh, hours),
        carbon_method=site.carbon_method,
    )  # fmt: skip


def _valued(
    lever: Lever,
    kind: Literal["job", "node", "site"],
    subject: str,
    action: str,
    parameters: dict[str, object],
    it_baseline_kwh: float,
    it_kwh: Estimate,
    hours: Sequence[int],
    site: SiteHours,
) -> Proposal:
    """A saving of IT energy spread evenly over `hours`, with the site's overhead, intensity and price of them."""
    whole = 1 + float(np.mean(site.overhead_ratio[list(hours)]))
    kwh = Estimate(it_kwh.value * whole, it_kwh.lower * whole, it_kwh.upper * whole)
    return Proposal(
        lever, kind, subject, action, parameters, it_baseline_kwh * whole, kwh,
        _times(kwh, site.intensity_kg_per_kwh, hours), _times(kwh, site.price_per_kwh, hours),
        carbon_method=site.carbon_method,
    )  # fmt: skip


def _times(kwh: Estimate, signal: Signal | None, hours: Sequence[int]) -> Estimate:
    if signal is None:
        return UNKNOWN
    rows = list(hours)
    mean, low, high = (float(np.mean(one[rows])) for one in (signal.expected, signal.lower, signal.upper))
    corners = [end * factor for end in (kwh.lower, kwh.upper) for factor in (low, high)]
    if not np.isfinite(corners).all():
        return Estimate(kwh.value * mean, float("nan"), float("nan"))
    return Estimate(kwh.value * mean, min(corners), max(corners))
