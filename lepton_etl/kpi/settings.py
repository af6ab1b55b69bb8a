"""Settings of the KPIs and of the EU report: what no meter can say."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class EuReport(BaseModel):
    """What an operator declares for Delegated Regulation (EU) 2024/1364; null is reported as not available."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    installed_it_power_kw: float | None = Field(
        default=None, gt=0, description="PD_IT, installed information technology power demand."
    )
    floor_area_m2: float | None = Field(default=None, gt=0, description="S_DC, total floor area.")
    computer_room_area_m2: float | None = Field(
        default=None, gt=0, description="S_CR, computer room floor area."
    )
    battery_grid_power_kw: float | None = Field(
        default=None, ge=0, description="C_BtG, average battery capacity offered to the grid."
    )
    potable_water_ratio: float | None = Field(
        default=None, ge=0, le=1, description="Share of the water input that is potable."
    )
    waste_heat_temp_c: float | None = Field(
        default=None, ge=-20, le=150, description="T_WH, average temperature of waste heat."
    )
    intake_setpoint_temp_c: float | None = Field(
        default=None, ge=0, le=50, description="T_IN, average setpoint of the intake air."
    )
    refrigerants: tuple[str, ...] = Field(default=(), description="Types of refrigerants in use.")
    cooling_degree_days: float | None = Field(default=None, ge=0, description="CDD of the year.")


class KpiSettings(BaseModel):
    """What the KPIs need beyond the lake."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    ashrae_class: Literal["A1", "A2", "A3", "A4"] = Field(
        default="A1", description="Allowable envelope of the rack cooling index."
    )
    onsite_certificates_sold: bool = Field(
        default=False,
        description="Whether the certificates of own generation were sold: it then counts as renewable for the buyer.",
    )
    cfe_hours: Path | None = Field(
        default=None,
        description="CSV of hour_start, contracted_kwh, grid_cfe_ratio: what contracts delivered, the grid's share.",
    )
    reference_wet_bulb_c: tuple[float, ...] = Field(
        default=(0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
        min_length=1,
        description="Wet bulbs of the normalised PUE, equally weighted; sites compare that keep the same.",
    )
    reference_load_ratio: tuple[float, ...] = Field(
        default=(0.6, 0.8, 1.0, 1.2),
        min_length=1,
        description="IT energy over the fit's mean of the normalised PUE, each at every wet bulb.",
    )
    eu: EuReport = Field(default=EuReport(), description="Declarations of the EU report.")
