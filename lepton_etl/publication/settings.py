"""When a changed figure is restated, and when the change is material."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field


class RestateSettings(BaseModel):
    """Limits of gold/restatement. A closed month's change is restated whatever its size."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    min_change_ratio: float = Field(
        default=0.001,
        ge=0,
        le=1,
        description="Change below which a provisional figure writes no restatement.",
    )
    material_ratio: float = Field(
        default=0.01, ge=0, le=1, description="Change from which a restatement is called material."
    )
