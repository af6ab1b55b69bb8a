"""Advise on jobs that hold devices and do nothing, by name, from device-hours of the running jobs of one cluster."""

from __future__ import annotations

from datetime import date
from typing import Final

import numpy as np
import polars as pl

from lepton_etl.config.sections import OptimizeSettings
from lepton_etl.days import Days
from lepton_etl.recommend.advice import Advice, Subject, next_day
from lepton_etl.recommend.idle_nodes import DAY_H, newest_run
from lepton_etl.uncertainty import Estimate, Z

# What `zombie_advice` takes: one row a job and hour of the day, of the devices that it holds. The utilisation is the
# largest of its devices', so that one busy device clears it.
COLUMNS: Final = (
    "site_id", "cluster_id", "job_id", "tenant_id", "hour_start", "energy_kwh", "utilisation_ratio", "node_ids",
)  # fmt: skip
# One sigma of a board's gain, as conf/factors/sensor_classes.csv has it of the class gpu_board.
BOARD_GAIN_SIGMA_RATIO: Final = 0.0289


def zombie_advice(rows: pl.DataFrame, day: date, settings: OptimizeSettings) -> list[Advice]:
    """Return advice about jobs that still run at the end of `day` and whose devices did nothing in its last hours.

    Where the energy or the utilisation of the newest hour is unknown, nothing is said. The largest waste comes first.
    """
    midnight = Days.of(day).from_time
    (start, end), first = next_day(day), rows.row(0, named=True)
    limit = settings.zombie_utilisation_ratio
    found: list[tuple[float, str, Advice]] = []
    for (name,), own in rows.group_by("job_id", maintain_order=True):
        hour = ((own["hour_start"] - midnight).dt.total_seconds() // 3600).to_numpy()
        energy_kwh, utilisation = np.full(DAY_H, np.nan), np.full(DAY_H, np.nan)
        energy_kwh[hour] = own["energy_kwh"].fill_null(np.nan).to_numpy()
        utilisation[hour] = own["utilisation_ratio"].fill_null(np.nan).to_numpy()
        run = newest_run((utilisation <= limit) & np.isfinite(energy_kwh))
        if len(run) < settings.zombie_h:
            continue
        job_id, tenant_id = str(name), own["tenant_id"][0]
        nodes = sorted({node for names in own["node_ids"] for node in names})
        # One gain for all hours: their errors add up.
        wasted_kwh, half = float(energy_kwh[run].sum()), Z * BOARD_GAIN_SIGMA_RATIO
        wasted = Estimate(wasted_kwh, (1 - half) * wasted_kwh, (1 + half) * wasted_kwh)
        advice = Advice(
            Subject(first["site_id"], first["cluster_id"], job_id=job_id), "zombie", "end_job",
            f"job {job_id}{f' of {tenant_id}' if tenant_id else ''} holds devices on {', '.join(nodes)} and has used "
            f"them at most to {limit:.0%} for {len(run)} h: ask its owner",
            start, end, wasted_kwh * DAY_H / len(run), wasted.times(DAY_H / len(run)),
            "measured energy of the boards that it holds, if it stays; what they draw at rest stays on unless others "
            "use them",
            guard_rail="its owner agrees", parameters={"nodes": nodes},
        )  # fmt: skip
        found.append((-wasted_kwh, job_id, advice))
    return [advice for *_, advice in sorted(found, key=lambda one: one[:2])]
