"""Declare one piece of advice, as every lever gives it: what to change on what, and the saving that it promises.

Emissions and money of the kWh saved follow by one stated method; the advice that performance states ask for stands
here too, as it promises nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from hashlib import sha256
from typing import Any, Final

from lepton_etl.days import Days
from lepton_etl.errors import LeptonError
from lepton_etl.schema.declare import GRAMS_PER_KILOGRAM
from lepton_etl.uncertainty import Estimate


class AdviceError(LeptonError):
    """An advice that contradicts itself."""


def next_day(day: date) -> tuple[datetime, datetime]:
    """Return the instants at which the UTC day after `day` begins and ends: a night advises the day to come."""
    start = Days.of(day).until_time
    return start, start + timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be changed; the whole site where all other parts are None."""

    site_id: str
    cluster_id: str | None = None
    node_id: str | None = None
    device_id: str | None = None
    job_id: str | None = None
    job_class: str | None = None


def id_of(lever: str, action: str, whose: Subject) -> str:
    """Return the id of a change of a subject."""
    parts = (
        whose.site_id, lever, action, whose.cluster_id, whose.node_id, whose.device_id, whose.job_id, whose.job_class,
    )  # fmt: skip
    return sha256("\x1f".join(part or "" for part in parts).encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True)
class Advice:
    """What a lever proposes over [window_start, window_end): energy in kWh, emissions in kgCO2e, money in `currency`.

    A saving that is not known is None. `carbon_method` is the one method behind the emissions, `none` without any;
    `parameters` are the action's numbers with their units in their names.
    """

    subject: Subject
    lever: str
    action: str
    advice: str
    window_start: datetime
    window_end: datetime
    baseline_kwh: float | None
    saving_kwh: Estimate | None
    promise_basis: str
    saving_kgco2e: Estimate | None = None
    saving_cost: Estimate | None = None
    slowdown_ratio: Estimate | None = None
    carbon_method: str = "none"
    currency: str | None = None
    guard_rail: str | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if (self.saving_kgco2e is None) != (self.carbon_method == "none"):
            raise AdviceError(
                f"{self.lever}: emissions and their method go together, not {self.carbon_method!r}"
            )
        if (self.saving_cost is None) != (self.currency is None):
            raise AdviceError(f"{self.lever}: money and its currency go together")

    @property
    def recommendation_id(self) -> str:
        """Return the same id every night for the same change of the same subject, whatever its numbers."""
        return id_of(self.lever, self.action, self.subject)

    def row(self) -> dict[str, Any]:
        """Return the columns of gold/recommendation that do not depend on the night."""
        whose = self.subject
        return {
            "recommendation_id": self.recommendation_id, "site_id": whose.site_id, "lever": self.lever,
            "action": self.action, "cluster_id": whose.cluster_id, "node_id": whose.node_id,
            "device_id": whose.device_id, "job_id": whose.job_id,
            "job_class": whose.job_class, "advice": self.advice,
            "action_json": json.dumps(dict(self.parameters), sort_keys=True, default=str),
            "window_start": self.window_start, "window_end": self.window_end, "baseline_kwh": self.baseline_kwh,
            **_columns("expected_saving", "_kwh", self.saving_kwh),
            **_columns("expected_saving", "_kgco2e", self.saving_kgco2e), "carbon_method": self.carbon_method,
            **_columns("expected_saving", "_cost", self.saving_cost), "currency": self.currency,
            **_columns("expected_slowdown", "_ratio", self.slowdown_ratio), "guard_rail": self.guard_rail,
            "promise_basis": self.promise_basis,
        }  # fmt: skip


def _columns(name: str, suffix: str, promise: Estimate | None) -> dict[str, float | None]:
    ends = (None, None, None) if promise is None else (promise.value, promise.lower, promise.upper)
    return dict(zip((f"{name}{suffix}", f"{name}_lower{suffix}", f"{name}_upper{suffix}"), ends, strict=True))


@dataclass(frozen=True, slots=True)
class SiteRates:
    """Emissions (location-based, g CO2e) and price (in `currency`) of a kWh at the site; None is not known.

    The ends are the 5th and 95th percentile of daily means: a change lasts for days, not for an hour.
    """

    intensity_g_per_kwh: Estimate | None = None
    price_per_kwh: Estimate | None = None
    currency: str | None = None


def valued(row: Mapping[str, Any], rates: SiteRates) -> dict[str, Any]:
    """Return a row of gold/recommendation with emissions and money of its kWh; what its lever states already stays.

    Ends multiply: lowest saving at the lowest worth. A saving below zero takes the other end.
    """
    found = dict(row)
    if row["expected_saving_kwh"] is None:
        return found
    kwh = Estimate(
        row["expected_saving_kwh"], row["expected_saving_lower_kwh"], row["expected_saving_upper_kwh"]
    )
    intensity, price = rates.intensity_g_per_kwh, rates.price_per_kwh
    if row["expected_saving_kgco2e"] is None and intensity is not None:
        found |= _columns("expected_saving", "_kgco2e", kwh.by(intensity.times(1 / GRAMS_PER_KILOGRAM)))
        found["carbon_method"] = "location"
    if row["expected_saving_cost"] is None and price is not None:
        found |= _columns("expected_saving", "_cost", kwh.by(price)) | {"currency": rates.currency}
    return found


# A state that came and went is no reason to do anything.
LEAST_H: Final = 1.0
# Other levers propose these, with figures; here they would stand twice.
LEFT_TO_OTHERS: Final = ("none", "release")


def state_advice(rows: Iterable[Mapping[str, Any]], day: date) -> list[Advice]:
    """Return advice from rows of a device's key, performance_state, adjustment, adjustment_reason and hours."""
    start, end = next_day(day)
    return [
        Advice(
            Subject(row["site_id"], row["cluster_id"], row["node_id"], row["device_id"]),
            "adjustment",
            row["adjustment"],
            f"{row['node_id']} {row['device_id']} was {row['performance_state'].replace('_', ' ')} for "
            f"{row['hours']:.1f} h: {row['adjustment_reason']}",
            start,
            end,
            None,
            None,
            "the device's state; what it saves is not known",
            parameters={"hours": round(row["hours"], 2), "state": row["performance_state"]},
        )
        for row in rows
        if row["adjustment"] not in LEFT_TO_OTHERS and row["hours"] >= LEAST_H
    ]
