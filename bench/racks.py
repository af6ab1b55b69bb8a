"""A simulated rack as the anomaly room sees it: hourly node energy, expected by a model that learnt on earlier days."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Final

import numpy as np

from lepton_etl.diagnosis.anomalies import DeviceHours
from lepton_etl.simulator import power
from lepton_etl.simulator.hardware import GPU_400
from lepton_etl.simulator.load import node_tasks
from lepton_etl.simulator.node import node_days
from lepton_etl.simulator.placement import schedule
from lepton_etl.simulator.plan import ClusterPlan, FleetPlan
from lepton_etl.simulator.weather import supply_air_c, weather

LEARN_DAYS: Final = 30
BOUND_DAYS: Final = 35
JUDGED_DAYS: Final = 25
DAYS: Final = LEARN_DAYS + BOUND_DAYS + JUDGED_DAYS
FIRST: Final = date(2025, 3, 3)
# A board management controller: gain of each piece, and noise of an hour's mean.
_GAIN_SIGMA: Final = 0.02
_NOISE_SIGMA: Final = 0.003


def simulated_rack(seed: int, nodes: int) -> tuple[list[DeviceHours], list[DeviceHours], float]:
    """Hours that bound, hours to judge, and rated energy of an hour, kWh, of the nodes of one rack."""
    from sklearn.ensemble import HistGradientBoostingRegressor

    cluster = ClusterPlan(cluster_id="c01", nodes=nodes, hardware_class=GPU_400.name)
    plan = FleetPlan(seed=seed, clusters=(cluster,), first_date=FIRST, days=DAYS)
    air, placed = supply_air_c(weather(plan)), schedule(plan, cluster)
    rng = np.random.default_rng([seed, 7])
    seen = []
    for task in node_tasks(cluster, placed):
        kwh, load = [], []
        for done in node_days(plan, task, air):
            kwh.append(done.ac_power_w[:-1].reshape(24, -1).mean(axis=1) / 1000)
            load.append(
                np.column_stack(
                    [
                        one[:-1].reshape(24, -1).mean(axis=1)
                        for one in (done.gpu.mean(axis=0), done.cpu, done.on * 1.0)
                    ]
                )
            )
        energy = np.concatenate(kwh) * rng.normal(1, _GAIN_SIGMA) * rng.normal(1, _NOISE_SIGMA, DAYS * 24)
        seen.append((task.node_id, energy, np.concatenate(load)))
    learnt = slice(0, LEARN_DAYS * 24)
    model = HistGradientBoostingRegressor(max_iter=120, min_samples_leaf=20, random_state=1)
    model.fit(
        np.concatenate([x[learnt] for _, _, x in seen]), np.concatenate([e[learnt] for _, e, _ in seen])
    )
    start = datetime(FIRST.year, FIRST.month, FIRST.day, tzinfo=UTC)
    cut = (LEARN_DAYS + BOUND_DAYS) * 24
    whole = [
        DeviceHours(
            "s", "c01", "r1", name, "node", start, energy, np.asarray(model.predict(x)), x[:, :2].max(axis=1)
        )
        for name, energy, x in seen
    ]
    rated = power.rated_power_w(GPU_400) / 1000
    return [o.part(LEARN_DAYS * 24, cut) for o in whole], [o.part(cut, DAYS * 24) for o in whole], rated
