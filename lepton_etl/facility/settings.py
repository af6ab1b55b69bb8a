"""Settings of the facility: the nameplate of the transformer, and what the fitted model must reach."""

from __future__ import annotations

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class Transformer(BaseModel):
    """Nameplate of the site's transformer: loss = rated power x (no-load + load x (output / rated power)^2).

    Source: IEC 60076-1 (no-load loss at rated voltage, load loss at rated current, square in the current).
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rated_power_w: float = Field(gt=0, le=2e9, description="Rated power of all transformers together, W.")
    no_load_loss_ratio: float = Field(ge=0, lt=0.1, description="Loss at no load over rated power.")
    load_loss_ratio: float = Field(ge=0, lt=0.1, description="Loss added at full load over rated power.")


class OperatingSettings(BaseModel):
    """Design data of the air side, from which the best supply temperature and flow are computed."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    supply_temp_c: float = Field(ge=5, le=45, description="Present set point of the supply air, degC.")
    flow_ratio: float = Field(gt=0, le=1.5, description="Present air flow over rated flow.")
    fan_power_w: float = Field(gt=0, description="Power of all air handlers' fans at rated flow, W.")
    heat_w_per_k: float = Field(gt=0, description="Heat that the rated flow takes per kelvin, W/K.")
    outlet_max_c: float = Field(gt=5, le=80, description="Warmest air that may leave the IT, degC.")
    rise_k: float = Field(gt=0, le=40, description="Rise of the air through the IT at the needed flow, K.")
    flow_need_ratio: float = Field(gt=0, le=1.5, description="Flow over rated flow that the IT's fans draw.")
    recirculation_ratio: float = Field(
        ge=0, le=1, description="Share of missing flow that returns as hot air to the inlets."
    )
    chiller_gain_per_k: float = Field(
        ge=0, le=0.1, description="Share of chiller energy saved per kelvin of warmer supply."
    )
    it_knee_c: float = Field(ge=10, le=45, description="Inlet temperature above which IT power rises, degC.")
    it_rise_per_k: float = Field(
        ge=0, le=0.1, description="Share by which IT power rises per kelvin above the knee (fans, leakage)."
    )
    flow_min_ratio: float = Field(gt=0, le=1.5, description="Least flow that the fans allow.")
    flow_max_ratio: float = Field(gt=0, le=1.5, description="Most flow that the fans allow.")
    inlet_class: Literal["recommended", "A1", "A2", "A3", "A4"] = Field(
        description="ASHRAE envelope whose inlet bounds the deployable point keeps."
    )

    @model_validator(mode="after")
    def _flows_rise(self) -> Self:
        if not self.flow_min_ratio < self.flow_max_ratio:
            raise ValueError("flow_min_ratio must lie below flow_max_ratio")
        return self


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
    stage_days: int = Field(
        default=30, ge=2, description="Days before the night that curves of conversion losses look back on."
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
