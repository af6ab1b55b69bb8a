"""Settings of the model stage; `Settings.model` of the nightly run holds one of these."""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field

DeviceKind = Literal["node", "gpu"]
# Those of builders.CANDIDATES whose stored form holds nothing but what safe_load allows.
CandidateName = Literal[
    "linear",
    "forest",
    "extra_trees",
    "boosting",
    "boosting_gentle",
    "boosting_absolute",
    "boosting_log",
    "boosting_recent",
]


class GateSettings(BaseModel):
    """What a model must reach on the forward test to become champion.

    `champion_tolerance_ratio` is what it may be worse than the champion by over all, `scope_tolerance_ratio` in any one
    class or cluster of at least `min_test_rows` hours; `gap_max_ratio` what CV(RMSE) may grow by from the hours it was
    taught on to those after. Source: ASHRAE Guideline 14 (hourly data): CV(RMSE) at most 30 %, NMBE within 10 %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cv_rmse_max_ratio: float = Field(default=0.30, gt=0, le=1)
    nmbe_max_ratio: float = Field(default=0.10, gt=0, le=1)
    champion_tolerance_ratio: float = Field(default=0.02, ge=0, le=1)
    scope_tolerance_ratio: float = Field(default=0.10, ge=0, le=1)
    gap_max_ratio: float = Field(default=0.15, ge=0, le=1)
    min_test_rows: int = Field(default=24, ge=2)


class ModelSettings(BaseModel):
    """E = f(P, T, L) of one kind of device.

    `device` node: the node's own power, inlet temperature; gpu: GPU boards, die temperature.
    `train_days` looks back from the last day of the run (null: all days of the lake).
    `test_ratio` is the share of the last days that test; `min_rows` device-hours are needed to train at all.
    `candidates` are validated over `validation_blocks` of days; the smallest one within `small_model_tolerance_ratio`
    of the best is taken, or their fusion. Between trainings pass `retrain_after_days`, unless something has drifted.
    A hardware class of at least `class_min_rows` training hours may have a model of its own, taught on at most
    `class_max_rows`. With `slim` a smaller variant of the chosen model replaces it where it is within the tolerance.
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
    candidates: tuple[CandidateName, ...] = Field(
        default=("linear", "boosting_gentle", "boosting", "forest"), min_length=1
    )
    validation_blocks: int = Field(default=5, ge=3, le=24)
    small_model_tolerance_ratio: float = Field(default=0.01, ge=0, le=0.2)
    class_min_rows: int = Field(default=48, ge=20)
    class_max_rows: int = Field(default=50_000, ge=100)
    slim: bool = True
    retrain_after_days: int = Field(default=1, ge=1, le=366)
    trees: int = Field(default=40, ge=1, le=1000)
    min_samples_leaf: int = Field(default=5, ge=1)
    seed: int = Field(default=20250603, ge=0)
    gates: GateSettings = GateSettings()
