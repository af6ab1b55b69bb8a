"""One piece of advice as a lever gives it: what to change on what, and what that promises."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from hashlib import sha256
from typing import Any

from lepton_etl.errors import LeptonError


@dataclass(frozen=True, slots=True)
class Promise:
    """An expected figure with its 90 % interval; the unit is said where it stands."""

    expected: float
    lower: float
    upper: float

    def __post_init__(self) -> None:
        if not self.lower <= self.expected <= self.upper:
            raise AdviceError(f"{self.expected:g} lies outside {self.lower:g} to {self.upper:g}")

    def times(self, factor: float) -> Promise:
        """The promise in another unit, or of a share; a negative factor turns the ends round."""
        ends = sorted((self.lower * factor, self.upper * factor))
        return Promise(self.expected * factor, ends[0], ends[1])


class AdviceError(LeptonError):
    """A lever made a promise that contradicts itself."""


@dataclass(frozen=True, slots=True)
class Subject:
    """What is to be changed; a site where all parts are None."""

    site_id: str
    cluster_id: str | None = None
    node_id: str | None = None
    device_id: str | None = None
    job_id: str | None = None
    job_class: str | None = None


@dataclass(frozen=True, slots=True)
class Advice:
    """What a lever proposes over [window_start, window_end): energy in kWh, emissions in kgCO2e, money in `currency`.

    A figure that is not known is None. `carbon_method` is the one method behind the emissions, `none` without any;
    `parameters` are the action's numbers with their units in their names.
    """

    subject: Subject
    lever: str
    action: str
    advice: str
    window_start: datetime
    window_end: datetime
    baseline_kwh: float | None
    saving_kwh: Promise | None
    promise_basis: str
    saving_kgco2e: Promise | None = None
    saving_cost: Promise | None = None
    slowdown_ratio: Promise | None = None
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
        """The same every night for the same change of the same subject, whatever its numbers."""
        whose = self.subject
        parts = (
            whose.site_id,
            self.lever,
            self.action,
            whose.cluster_id,
            whose.node_id,
            whose.device_id,
            whose.job_id,
            whose.job_class,
        )
        return sha256("\x1f".join(part or "" for part in parts).encode()).hexdigest()[:16]

    def row(self) -> dict[str, Any]:
        """The columns of gold/recommendation that do not depend on the night."""
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


def _columns(name: str, suffix: str, promise: Promise | None) -> dict[str, float | None]:
    ends = (None, None, None) if promise is None else (promise.expected, promise.lower, promise.upper)
    return dict(zip((f"{name}{suffix}", f"{name}_lower{suffix}", f"{name}_upper{suffix}"), ends, strict=True))
