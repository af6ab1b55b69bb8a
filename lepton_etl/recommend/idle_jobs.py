"""Jobs that hold devices and do nothing, by name: device-hours of running jobs of one cluster -> advice."""

from __future__ import annotations

from datetime import date, timedelta
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.config.sections import OptimizeSettings
from lepton_etl.days import Days
from lepton_etl.recommend.advice import Advice, Promise, Subject
from lepton_etl.recommend.idle_nodes import IdleRules, JobHours, zombie_waste

# What `zombie_advice` takes: one row a job and hour of the day, of the devices that it holds.
COLUMNS: Final = (
    "site_id", "cluster_id", "job_id", "tenant_id", "hour_start", "energy_kwh", "utilisation_ratio", "node_ids",
)  # fmt: skip
# 90 % error of a board's energy where the inventory knows no better; docs/definitions.md section 3, BMC class.
_METER_ERROR: Final = 0.05
_DAY_H: Final = 24


def zombie_advice(rows: pl.DataFrame, day: date, settings: OptimizeSettings) -> list[Advice]:
    """Advice about jobs that still run at the end of `day` and whose devices did nothing in its last hours."""
    midnight = Days.of(day).from_time
    jobs, first = [], rows.row(0, named=True)
    tenants: dict[str, str | None] = {}
    for (job_id,), own in rows.group_by("job_id", maintain_order=True):
        hour = ((own["hour_start"] - midnight).dt.total_seconds() // 3600).to_numpy()
        energy, utilisation = np.full(_DAY_H, np.nan), np.full(_DAY_H, np.nan)
        energy[hour] = own["energy_kwh"].fill_null(np.nan).to_numpy()
        utilisation[hour] = own["utilisation_ratio"].fill_null(np.nan).to_numpy()
        nodes = sorted({node for names in own["node_ids"] for node in names})
        tenants[str(job_id)] = own["tenant_id"][0]
        jobs.append(
            JobHours(
                str(job_id), tuple(nodes), energy, energy * (1 - _METER_ERROR), energy * (1 + _METER_ERROR),
                utilisation,
            )
        )  # fmt: skip
    rules = IdleRules(zombie_h=settings.zombie_h, zombie_utilisation_ratio=settings.zombie_utilisation_ratio)
    start = midnight + timedelta(days=1)
    found = []
    for waste in zombie_waste(jobs, rules):
        a_day = _DAY_H / waste.hours
        whose = tenants[waste.subject_id]
        found.append(
            Advice(
                Subject(first["site_id"], first["cluster_id"], job_id=waste.subject_id), "zombie", "end_job",
                f"job {waste.subject_id}{f' of {whose}' if whose else ''} holds devices on {', '.join(waste.node_ids)} "
                f"and has used them at most to {settings.zombie_utilisation_ratio:.0%} for {waste.hours} h: ask its "
                "owner",
                start, start + timedelta(days=1), waste.baseline_kwh * a_day,
                Promise(waste.wasted_kwh, waste.wasted_lower_kwh, waste.wasted_upper_kwh).times(a_day),
                "measured energy of the boards that it holds, if it stays; what they draw at rest stays on unless "
                "others use them",
                guard_rail="its owner agrees", parameters={"nodes": list(waste.node_ids)},
            )
        )  # fmt: skip
    return found
