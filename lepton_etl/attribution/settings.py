"""What the settings say about jobs."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class AttributionSettings(BaseModel):
    """Section `attribution` of the settings."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)

    longest_run_d: float = Field(
        default=31.0,
        gt=0,
        le=366,
        description="Days after its start until which a run without a known end is believed to go on.",
    )
    idle_gpu_utilisation_ratio: float = Field(
        default=0.01,
        ge=0,
        le=1,
        description="Utilisation below which a held GPU does nothing: wasted energy.",
    )
