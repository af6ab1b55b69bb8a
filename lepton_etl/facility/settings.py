"""Settings of the facility: the nameplate of the transformer, and what the fitted model must reach."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Transformer(BaseModel):
    """Nameplate of the site's transformer: loss = rated power x (no-load + load x (output / rated power)^2).

    Source: IEC 60076-1 (no-load loss at rated voltage, load loss at rated current, square in the current).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rated_power_w: float = Field(gt=0, le=2e9, description="Rated power of all transformers together, W.")
    no_load_loss_ratio: float = Field(ge=0, lt=0.1, description="Loss at no load over rated power.")
    load_loss_ratio: float = Field(ge=0, lt=0.1, description="Loss added at full load over rated power.")


class FacilityGates(BaseModel):
    """What the model must reach on later days to be used where the cooling meter is missing.

    Source: ASHRAE Guideline 14 (hourly data): CV(RMSE) at most 30 %, NMBE within 10 %.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    cv_rmse_max_ratio: float = Field(default=0.30, gt=0, le=1, description="Largest CV(RMSE), a ratio.")
    nmbe_max_ratio: float = Field(default=0.10, gt=0, le=1, description="Largest absolute NMBE, a ratio.")
    baseline_gain_ratio: float = Field(
        default=0.10, ge=0, lt=1, description="Share by which CV(RMSE) must lie below each baseline's."
    )


class FacilityModelSettings(BaseModel):
    """How the cooling and management energy of a site is fitted."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    look_back_days: int = Field(
        default=400, ge=2, description="Days before the night that a fit looks back on."
    )
    min_hours: int = Field(default=72, ge=24, description="Fewest metered hours of a fit.")
    test_ratio: float = Field(default=0.2, gt=0, lt=1, description="Share of the last days that test.")
    challenger_min_days: int = Field(
        default=30, ge=2, description="Days of hours from which the monotone challenger is tried."
    )
    knots_c: tuple[float, ...] = Field(
        default=(5.0, 10.0, 15.0, 20.0), description="Wet bulbs, degC, at which the cooling ratio may bend."
    )
    resamples: int = Field(
        default=200, ge=20, le=5000, description="Resamples of days that the intervals are made from."
    )
    seed: int = Field(default=20250603, ge=0, description="Seed of the resamples.")
    gates: FacilityGates = FacilityGates()

    @model_validator(mode="after")
    def _knots_rise(self) -> Self:
        if list(self.knots_c) != sorted(set(self.knots_c)):
            raise ValueError("knots_c must rise")
        return self
