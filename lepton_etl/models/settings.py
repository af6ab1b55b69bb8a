"""Settings of the model stage; `Settings.model` of the nightly run holds one of these."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DeviceKind = Literal["node", "gpu"]


class GateSettings(BaseModel):
    """What a model must reach on the forward test to become champion.

    Source: ASHRAE Guideline 14 (hourly data): CV(RMSE) at most 30 %, NMBE within 10 %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cv_rmse_max_ratio: float = Field(default=0.30, gt=0, le=1)
    nmbe_max_ratio: float = Field(default=0.10, gt=0, le=1)
    champion_tolerance_ratio: float = Field(default=0.02, ge=0, le=1)
    min_test_rows: int = Field(default=24, ge=2)


class ModelSettings(BaseModel):
    """E = f(P, T, L) of one kind of device.

    `device` node: the node's own power, inlet temperature; gpu: GPU boards, die temperature.
    `train_days` looks back from the last day of the run (null: all days of the lake).
    `test_ratio` is the share of the last days that test; `min_rows` device-hours are needed to train at all.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(default="node-energy", pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    device: DeviceKind = "node"
    train_days: int | None = Field(default=None, ge=2)
    test_ratio: float = Field(default=0.2, gt=0, lt=1)
    embargo_hours: int = Field(default=1, ge=0, le=24 * 31)
    min_rows: int = Field(default=200, ge=20)
    max_rows: int = Field(default=200_000, ge=100)
    coverage_min_ratio: float = Field(default=0.9, gt=0, le=1)
    busy_utilisation_ratio: float = Field(default=0.10, ge=0, le=1)
    trees: int = Field(default=50, ge=1, le=1000)
    min_samples_leaf: int = Field(default=10, ge=1)
    seed: int = Field(default=20250603, ge=0)
    gates: GateSettings = GateSettings()
