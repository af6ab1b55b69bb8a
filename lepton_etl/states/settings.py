"""How closely the devices are watched."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class WatchSettings(BaseModel):
    """The streaming job `watch`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    trigger_s: int = Field(
        default=30, ge=1, le=600, description="Seconds from one look at the logs to the next."
    )
    window_s: int = Field(
        default=60, ge=10, le=300, description="Length of the means that a state is judged by, seconds."
    )
    look_back_s: int = Field(
        default=3600,
        ge=600,
        le=86_400,
        description="Files that were last written longer ago are not looked at, seconds.",
    )
    settle_s: float = Field(
        default=10.0,
        ge=0,
        le=600,
        description="A compressed file, a document or an object is read once it is unchanged for so long, seconds.",
    )
