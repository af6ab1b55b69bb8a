"""What the performance states of a day's devices ask for: one advice a device and adjustment."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from typing import Any, Final

from lepton_etl.days import Days
from lepton_etl.optimize.advice import Advice, Subject

# A state that came and went is no reason to do anything.
LEAST_H: Final = 1.0
# What the levers of nodes and caps tell with figures; here it would stand twice.
LEFT_TO_OTHERS: Final = ("none", "release")


def state_advice(rows: Iterable[Mapping[str, Any]], day: date) -> list[Advice]:
    """Advice from rows of site_id, cluster_id, node_id, device_id, performance_state, adjustment, reason and hours."""
    start = Days.of(day).until_time
    return [
        Advice(
            Subject(row["site_id"], row["cluster_id"], row["node_id"], row["device_id"]),
            "adjustment",
            row["adjustment"],
            f"{row['node_id']} {row['device_id']} was {row['performance_state'].replace('_', ' ')} for "
            f"{row['hours']:.1f} h: {row['adjustment_reason']}",
            start,
            start + timedelta(days=1),
            None,
            None,
            "the device's state; what it saves is not known",
            parameters={"hours": round(row["hours"], 2), "state": row["performance_state"]},
        )
        for row in rows
        if row["adjustment"] not in LEFT_TO_OTHERS and row["hours"] >= LEAST_H
    ]
