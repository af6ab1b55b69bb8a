"""The sections of the settings that rooms read by themselves; `settings` puts them into one tree."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def _identifier(value: str) -> str:
    if not _IDENTIFIER.fullmatch(value):
        raise ValueError("letters, digits, '_', '.', '-', at most 63, starting with a letter or digit")
    return value


Identifier = Annotated[str, AfterValidator(_identifier)]


def ratio(default: float, description: str | None = None) -> Any:
    """A setting that is a ratio, 0 to 1."""
    return Field(default, ge=0, le=1, description=description)


class Section(BaseModel):
    """One section of the settings: nothing unknown in it, nothing changed after."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


class AttributionSettings(Section):
    """Section `attribution` of the settings."""

    longest_run_d: float = Field(
        default=31.0,
        gt=0,
        le=366,
        description="Days after its start until which a run without a known end is believed to go on.",
    )
    idle_gpu_utilisation_ratio: float = ratio(
        0.01, "Utilisation below which a held GPU does nothing: wasted energy."
    )


class CarbonSettings(Section):
    """Where the factors and registers stand, and which market the site buys in."""

    factors: Path | None = Field(
        default=None, description="Folder of factor tables; default: the ones shipped in conf/factors."
    )
    instruments: Path | None = Field(
        default=None, description="CSV of certificates, contracts and supplier tariffs."
    )
    scope1: Path | None = Field(default=None, description="CSV of fuel burnt and refrigerant lost.")
    market_zone: str | None = Field(
        default=None,
        min_length=1,
        description="Market boundary of instruments and the residual mix; default: grid.zone.",
    )
    average_zone: str | None = Field(
        default=None,
        min_length=1,
        description="Zone of conf/factors/grid_average.csv that unmatched energy takes where there is no residual "
        "mix; null: the hour's location-based intensity.",
    )
    annual_consumption_kwh: float | None = Field(
        default=None,
        gt=0,
        description="Grid energy expected in a calendar year, which annual volumes are spread over until the year "
        "is closed; null: extrapolated from the year to date.",
    )
    gwp_set: Literal["AR5", "AR6"] = Field(default="AR6", description="Set of global warming potentials.")
    generator_fuel: Literal["diesel"] | None = Field(
        default=None, description="Fuel of the site's generators; null: their emissions are unknown."
    )


class Transformer(Section):
    """Nameplate of the site's transformer: loss = rated power x (no-load + load x (output / rated power)^2).

    Source: IEC 60076-1 (no-load loss at rated voltage, load loss at rated current, square in the current).
    """

    rated_power_w: float = Field(gt=0, le=2e9, description="Rated power of all transformers together, W.")
    no_load_loss_ratio: float = Field(ge=0, lt=0.1, description="Loss at no load over rated power.")
    load_loss_ratio: float = Field(ge=0, lt=0.1, description="Loss added at full load over rated power.")


class OperatingSettings(Section):
    """Design data of the air side, from which the best supply temperature and flow are computed."""

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


class FacilityGates(Section):
    """What the model must reach on later days to be used where the cooling meter is missing.

    Source: ASHRAE Guideline 14 (hourly data): CV(RMSE) at most 30 %, NMBE within 10 %.
    """

    cv_rmse_max_ratio: float = Field(default=0.30, gt=0, le=1, description="Largest CV(RMSE), a ratio.")
    nmbe_max_ratio: float = Field(default=0.10, gt=0, le=1, description="Largest absolute NMBE, a ratio.")
    baseline_gain_ratio: float = Field(
        default=0.10, ge=0, lt=1, description="Share by which CV(RMSE) must lie below each baseline's."
    )


class FacilityModelSettings(Section):
    """How the cooling and management energy of a site is fitted."""

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


class EuReport(Section):
    """What an operator declares for Delegated Regulation (EU) 2024/1364; null is reported as not available."""

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


class KpiSettings(Section):
    """What the KPIs need beyond the lake."""

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


class LedgerSettings(Section):
    """Limits of the closed ledger; beyond them a night ends with exit code 3 and gold stays as it was.

    A residual inside three standard deviations of its own error is never refused: the meters cannot tell it
    from zero.
    """

    residual_max_ratio: float = ratio(0.05, "Largest |residual| of a day over its sources.")
    residual_hour_max_ratio: float = ratio(0.15, "Largest |residual| of an hour over its sources.")
    unattributed_max_ratio: float = ratio(
        0.10, "Largest share of a day's IT energy without an owner; judged where jobs are accounted."
    )


class TariffSettings(Section):
    """What a kWh, a kW and a month cost."""

    file: Path | None = Field(
        default=None, description="CSV of prices (docs/methodology.md, bills and tariffs)."
    )


class BillingSettings(Section):
    """The invoices that gold/bill_check holds against the ledger."""

    invoices: Path | None = Field(default=None, description="CSV of invoices, one row a billed month.")
    tolerance_ratio: float = ratio(0.02, "Difference to the invoice up to which the two agree.")


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


class GateSettings(Section):
    """What a model must reach on the forward test to become champion.

    `champion_tolerance_ratio` is what it may be worse than the champion by over all, `scope_tolerance_ratio` in any one
    class or cluster of at least `min_test_rows` hours; `gap_max_ratio` what CV(RMSE) may grow by from the hours it was
    taught on to those after. Source: ASHRAE Guideline 14 (hourly data): CV(RMSE) at most 30 %, NMBE within 10 %.
    """

    cv_rmse_max_ratio: float = Field(default=0.30, gt=0, le=1)
    nmbe_max_ratio: float = Field(default=0.10, gt=0, le=1)
    champion_tolerance_ratio: float = ratio(0.02)
    scope_tolerance_ratio: float = ratio(0.10)
    gap_max_ratio: float = ratio(0.15)
    min_test_rows: int = Field(default=24, ge=2)


class ModelSettings(Section):
    """E = f(P, T, L) of one kind of device.

    `device` node: the node's own power, inlet temperature; gpu: GPU boards, die temperature.
    `train_days` looks back from the last day of the run (null: all days of the lake).
    `test_ratio` is the share of the last days that test; `min_rows` device-hours are needed to train at all.
    `candidates` are validated over `validation_blocks` of days; the smallest one within `small_model_tolerance_ratio`
    of the best is taken, or their fusion. Between trainings pass `retrain_after_days`, unless something has drifted.
    A hardware class of at least `class_min_rows` training hours may have a model of its own, taught on at most
    `class_max_rows`. With `slim` a smaller variant of the chosen model replaces it where it is within the tolerance.
    """

    name: str = Field(default="node-energy", pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    device: DeviceKind = "node"
    train_days: int | None = Field(default=None, ge=2)
    test_ratio: float = Field(default=0.2, gt=0, lt=1)
    embargo_hours: int = Field(default=1, ge=0, le=24 * 31)
    min_rows: int = Field(default=200, ge=20)
    max_rows: int = Field(default=200_000, ge=100)
    coverage_min_ratio: float = Field(default=0.9, gt=0, le=1)
    busy_utilisation_ratio: float = ratio(0.10)
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


class PowerDownSettings(Section):
    """Nodes may be put to sleep: what that brings and costs, as measured or from the vendor's sheet."""

    standby_power_w: float = Field(ge=0, le=1e4, description="Power of a sleeping node, W.")
    wake_s: float = Field(ge=0, le=86_400, description="From the wish to a node that takes jobs, seconds.")
    wake_kwh: float = Field(ge=0, le=100, description="Energy of one waking, kWh.")
    demand_quantile_ratio: float = Field(
        default=0.95, gt=0.5, lt=1, description="Quantile of the busy nodes of like hours that stays served."
    )
    reserve_nodes: int = Field(
        default=1, ge=0, description="Nodes of each cluster that stay on beyond demand."
    )
    reserve_ratio: float = ratio(0.05, "Share of each cluster that stays on as well.")
    least_on_per_rack: int = Field(
        default=1, ge=0, description="Nodes of each rack that are never put to sleep."
    )


class ShiftSettings(Section):
    """Jobs that may wait: which, how long, and what for."""

    partitions: tuple[str, ...] = Field(min_length=1, description="Partitions whose pending jobs may wait.")
    max_delay_h: int = Field(default=24, ge=1, le=96, description="Longest delay of a job's end, hours.")
    objective: Literal["energy", "carbon", "cost"] = Field(
        default="carbon", description="What is to be least."
    )
    preemptible: bool = Field(default=False, description="Whether such jobs may pause and go on.")


class OptimizeSettings(Section):
    """Levers and their guard-rails; a lever whose data the site does not state proposes nothing and says so."""

    history_days: int = Field(
        default=28, ge=7, le=366, description="Days that usual demand and idle power rest on."
    )
    slowdown_max_ratio: float = ratio(0.05, "Most that a cap may slow a job down by.")
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


class RestateSettings(Section):
    """Limits of gold/restatement. A closed month's change is restated whatever its size."""

    min_change_ratio: float = ratio(0.001, "Change below which a provisional figure writes no restatement.")
    material_ratio: float = ratio(0.01, "Change from which a restatement is called material.")


class WatchSettings(Section):
    """The streaming job `watch`."""

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
