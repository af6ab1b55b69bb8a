"""What the site allows its recommendations to propose."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class PowerDownSettings(BaseModel):
    """Nodes may be put to sleep: what that brings and costs, as measured or from the vendor's sheet."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    standby_power_w: float = Field(ge=0, le=1e4, description="Power of a sleeping node, W.")
    wake_s: float = Field(ge=0, le=86_400, description="From the wish to a node that takes jobs, seconds.")
    wake_kwh: float = Field(ge=0, le=100, description="Energy of one waking, kWh.")
    demand_quantile_ratio: float = Field(
        default=0.95, gt=0.5, lt=1, description="Quantile of the busy nodes of like hours that stays served."
    )
    reserve_nodes: int = Field(
        default=1, ge=0, description="Nodes of each cluster that stay on beyond demand."
    )
    reserve_ratio: float = Field(
        default=0.05, ge=0, le=1, description="Share of each cluster that stays on as well."
    )
    least_on_per_rack: int = Field(
        default=1, ge=0, description="Nodes of each rack that are never put to sleep."
    )


class ShiftSettings(BaseModel):
    """Jobs that may wait: which, how long, and what for."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    partitions: tuple[str, ...] = Field(min_length=1, description="Partitions whose pending jobs may wait.")
    max_delay_h: int = Field(default=24, ge=1, le=96, description="Longest delay of a job's end, hours.")
    objective: Literal["energy", "carbon", "cost"] = Field(
        default="carbon", description="What is to be least."
    )
    preemptible: bool = Field(default=False, description="Whether such jobs may pause and go on.")


class OptimizeSettings(BaseModel):
    """Levers and their guard-rails; a lever whose data the site does not state proposes nothing and says so."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    history_days: int = Field(
        default=28, ge=7, le=366, description="Days that usual demand and idle power rest on."
    )
    slowdown_max_ratio: float = Field(
        default=0.05, ge=0, le=1, description="Most that a cap may slow a job down by."
    )
    idle_h: int = Field(default=6, ge=1, le=24, description="Hours without a job from which a node is named.")
    zombie_h: int = Field(
        default=3, ge=1, le=24, description="Hours without utilisation from which a job is named."
    )
    zombie_utilisation_ratio: float = Field(
        default=0.02, ge=0, le=0.5, description="Utilisation up to which a job does nothing."
    )
    baseline_days: int = Field(
        default=60, ge=14, le=366, description="Days before a change that it is measured by."
    )
    power_down: PowerDownSettings | None = Field(
        default=None, description="Sleeping nodes; null: not possible here."
    )
    shift: ShiftSettings | None = Field(default=None, description="Jobs that may wait; null: none.")
