"""The sections of the settings that rooms read by themselves; `settings` puts them into one tree."""

from __future__ import annotations

import re
import warnings
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from lepton_etl.ingest.registry import setting

_IDENTIFIER: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")


def _identifier(value: str) -> str:
    if not _IDENTIFIER.fullmatch(value):
        raise ValueError("letters, digits, '_', '.', '-', at most 63, starting with a letter or digit")
    return value


Identifier = Annotated[str, AfterValidator(_identifier)]


def _place(value: str) -> str:
    if "://" in value and not re.fullmatch(r"s3a?://[^/@]+/[^/].*", value):
        raise ValueError("a folder, or s3a://bucket/prefix")
    return value


Place = Annotated[
    str,
    BeforeValidator(lambda value: str(value) if isinstance(value, Path) else value),
    AfterValidator(_place),
]
"""A folder, or the URI of a place in an object store."""


def ratio(default: float, description: str | None = None) -> Any:
    """Return a setting that is a ratio, 0 to 1."""
    return setting(default, description, ge=0, le=1)


class Section(BaseModel):
    """One section of the settings: nothing unknown in it, nothing changed after."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def _umask(value: str | None) -> str | None:
    if value is not None and not re.fullmatch(r"0?[0-7]{3}", value):
        raise ValueError("three octal digits in quotes, such as '027'")
    return value


Umask = Annotated[str, AfterValidator(_umask)]
"""The rights that new files and folders do not get, in octal digits."""


class StorageSettings(Section):
    """How the object store of the lake and of the landing is opened; none of it is needed for folders.

    Without keys the environment (AWS_ACCESS_KEY_ID and the like) and the machine's role are asked.
    """

    endpoint: str | None = setting(None, "URL of a store that is not AWS.", pattern=r"^https?://")
    region: str | None = setting(None, "Region of the bucket.")
    access_key: str | None = setting(None, "Access key; write ${VARIABLE} and keep it in the environment.")
    secret_key: str | None = setting(None, "Secret key; write ${VARIABLE} and keep it in the environment.")
    session_token: str | None = setting(None, "Token of temporary keys.")

    @model_validator(mode="after")
    def _keys_are_a_pair(self) -> Self:
        if (self.access_key is None) != (self.secret_key is None):
            raise ValueError("access_key and secret_key are given together, or neither")
        return self

    def named(self) -> dict[str, str]:
        """Return the options that are set, by their names here."""
        return {name: value for name, value in self.model_dump().items() if value is not None}

    def s3a(self) -> dict[str, str]:
        """Return the options that are set, as Spark passes them to Hadoop's s3a connector."""
        words = {"region": "endpoint.region"}
        return {
            f"spark.hadoop.fs.s3a.{words.get(name, name.replace('_', '.'))}": value
            for name, value in self.named().items()
        }


class AuditSettings(Section):
    """How the audit chain is signed and where its roots are copied to; without a key it stands unsigned and says so.

    The environment variable LEPTON_AUDIT_SECRET (32 random bytes in base64) goes before the file.
    """

    key_file: Path | None = setting(
        None,
        "File with the Ed25519 key that signs each day's root, readable by its owner alone; `lepton-etl audit key` "
        "makes one.",
    )
    anchor: Path | None = setting(
        None,
        "File, or Git repository of the auditor's, to which each signed root is appended: outside of the lake, best "
        "on another machine.",
    )


class OpenLineageSettings(Section):
    """Where events of runs, tables and columns are sent for a data catalogue; with neither, nowhere, at no cost."""

    file: Path | None = setting(None, "File to which each event is appended, a JSON line.")
    url: str | None = setting(
        None, "URL of a consumer that takes events at api/v1/lineage, such as Marquez.", pattern=r"^https?://"
    )
    api_key: str | None = setting(
        None, "Key of that consumer; write ${VARIABLE} and keep it in the environment."
    )
    namespace: str | None = setting(None, "Namespace of the jobs; null: the site_id.")

    @model_validator(mode="after")
    def _one_place(self) -> Self:
        if self.file is not None and self.url is not None:
            raise ValueError("file or url, not both")
        return self


class IngestSettings(Section):
    """Section `ingest` of the settings."""

    file_memory_mib: int = setting(
        4096,
        "Memory that decoding one file may add to its process, MiB; a file that needs more is discarded by name.",
        # A process that reads its first file imports the decoders too.
        ge=256,
        le=1 << 20,
    )


class AttributionSettings(Section):
    """Section `attribution` of the settings."""

    longest_run_d: float = setting(
        31.0, "Days after its start up to which a run without a known end counts as running.", gt=0, le=366
    )
    idle_gpu_utilisation_ratio: float = ratio(
        0.01, "Utilisation below which the energy of a held GPU is wasted energy."
    )


class CarbonSettings(Section):
    """Where the factors and registers stand, and which market the site buys in."""

    factors: Path | None = setting(
        None, "Folder of factor tables; default: the ones shipped in conf/factors."
    )
    own_factors: Path | None = setting(
        None,
        "The site's own factors, such as a newer year: a CSV file named as the table, or a folder of such; its rows "
        "go before those of the same table for the days on which they hold.",
    )
    instruments: Path | None = setting(None, "CSV of certificates, contracts and supplier tariffs.")
    scope1: Path | None = setting(None, "CSV of fuel burnt and refrigerant lost.")
    market_zone: str | None = setting(
        None, "Market boundary of instruments and the residual mix; default: grid.zone.", min_length=1
    )
    average_zone: str | None = setting(
        None,
        "Zone of conf/factors/grid_average.csv that unmatched energy takes where there is no residual "
        "mix; null: the hour's location-based intensity.",
        min_length=1,
    )
    annual_consumption_kwh: float | None = setting(
        None,
        "Grid energy expected in a calendar year, which annual volumes are spread over until the year "
        "is closed; null: extrapolated from the year to date.",
        gt=0,
    )
    gwp_set: Literal["AR5", "AR6"] = setting("AR6", "Set of global warming potentials.")
    generator_fuel: Literal["diesel"] | None = setting(
        None, "Fuel of the site's generators; null: their emissions are unknown."
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

    cv_rmse_max_ratio: float = setting(0.30, "Largest CV(RMSE), a ratio.", gt=0, le=1)
    nmbe_max_ratio: float = setting(0.10, "Largest absolute NMBE, a ratio.", gt=0, le=1)
    baseline_gain_ratio: float = setting(
        0.10, "Share by which CV(RMSE) must lie below each baseline's.", ge=0, lt=1
    )


class CarrierSettings(Section):
    """What another energy carrier counts in facility energy and PUE; with a null both are unknown where it is metered.

    Source: ISO/IEC 30134-2, EN 50600-4-2: fuels by their heat content, fluids for cooling by heat meter times the
    factor of the system that provides them.
    """

    cooling_ratio: float | None = setting(
        None, "Energy that the supplier's plant takes for one kWh of cooling delivered, kWh/kWh.", ge=0, le=10
    )
    heat_ratio: float | None = setting(
        None, "Energy that the supplier's plant takes for one kWh of heat delivered, kWh/kWh.", ge=0, le=10
    )
    fuel_kwh_per_l: float | None = setting(
        None, "Heat content of fuel metered by volume, kWh/L: diesel 9.9, bioethanol 6.0.", gt=0, le=20
    )


class FacilityModelSettings(Section):
    """How the cooling and management energy of a site is fitted."""

    look_back_days: int = setting(400, "Days before the night that a fit looks back on.", ge=2)
    stage_days: int = setting(
        30, "Days before the night that curves of conversion losses look back on.", ge=2
    )
    min_hours: int = setting(72, "Fewest metered hours of a fit.", ge=24)
    test_ratio: float = setting(0.2, "Share of the last days that test.", gt=0, lt=1)
    challenger_min_days: int = setting(30, "Days of hours from which the monotone challenger is tried.", ge=2)
    knots_c: tuple[float, ...] = setting(
        (5.0, 10.0, 15.0, 20.0), "Wet bulbs, degC, at which the cooling ratio may bend."
    )
    resamples: int = setting(200, "Resamples of days that the intervals are made from.", ge=20, le=5000)
    seed: int = setting(20250603, "Seed of the resamples.", ge=0)
    gates: FacilityGates = FacilityGates()

    @model_validator(mode="after")
    def _knots_rise(self) -> Self:
        if list(self.knots_c) != sorted(set(self.knots_c)):
            raise ValueError("knots_c must rise")
        return self


class EuReport(Section):
    """What an operator declares for Delegated Regulation (EU) 2024/1364; what is null is reported as not available."""

    name: str | None = setting(None, "Name of the data centre (annex I, 1 a).")
    owner_name: str | None = setting(None, "Name of the owner.")
    owner_contact: str | None = setting(None, "Contact details of the owner.")
    operator_name: str | None = setting(None, "Name of the operator.")
    operator_contact: str | None = setting(None, "Contact details of the operator.")
    lau_code: str | None = setting(None, "Code of the local administrative unit, as Eurostat publishes it.")
    data_centre_type: Literal["enterprise", "colocation", "co-hosting"] | None = setting(
        None, "Type of data centre by its main operation."
    )
    structure: Literal["structure", "group of structures"] | None = setting(
        None, "Whether the data centre is one structure or a group of them."
    )
    offers_both: bool | None = setting(None, "Whether both colocation and co-hosting are offered.")
    operation_month: str | None = setting(
        None, "Year and month of entry into operation, as 2019-05.", pattern=r"^\d{4}-(0[1-9]|1[0-2])$"
    )
    redundancy_high_voltage: str | None = setting(
        None, "Redundancy of the electrical infrastructure at high voltage, such as N+1 or 2N."
    )
    redundancy_low_voltage: str | None = setting(None, "The same at low voltage (line-up).")
    redundancy_rack: str | None = setting(None, "The same at rack level.")
    redundancy_cooling_room: str | None = setting(None, "Redundancy of the cooling at room level.")
    redundancy_cooling_rack: str | None = setting(None, "Redundancy of the cooling at rack level.")
    installed_it_power_kw: float | None = setting(
        None, "PD_IT, installed information technology power demand, a weighted average of the year.", gt=0
    )
    it_power_metric: Literal["installed", "rated"] = setting(
        "installed", "Whether PD_IT is the installed or the rated power demand."
    )
    floor_area_m2: float | None = setting(None, "S_DC, total floor area.", gt=0)
    computer_room_area_m2: float | None = setting(None, "S_CR, computer room floor area.", gt=0)
    grid_functions: tuple[str, ...] = setting(
        (), "Functions offered to the electrical grid, such as peak shifting; `none` where there are none."
    )
    battery_grid_power_kw: float | None = setting(
        None, "C_BtG, average battery capacity offered to the grid.", ge=0
    )
    potable_water_ratio: float | None = setting(None, "Share of the water input that is potable.", ge=0, le=1)
    water_category: Literal[1, 2] | None = setting(None, "WUE category by which the water is metered.")
    waste_heat_temp_c: float | None = setting(
        None, "T_WH, average temperature of waste heat.", ge=-20, le=150
    )
    intake_setpoint_temp_c: float | None = setting(
        None, "T_IN, average setpoint of the intake air.", ge=0, le=50
    )
    refrigerants: tuple[str, ...] = setting((), "Types of refrigerants in use.")
    cooling_degree_days: float | None = setting(
        None, "CDD of the year, base 21 degC; null: by the weather that the site reads.", ge=0
    )
    server_sert_performance: float | None = setting(
        None, "C_SERV, sum of the SERT active state performance of all servers on 31 December.", ge=0
    )
    server_area_ratio: float | None = setting(
        None, "Share of the computer room's area that C_SERV covers.", ge=0, le=1
    )
    storage_capacity_pb: float | None = setting(
        None, "C_STOR, raw capacity of all storage devices on 31 December, PB.", ge=0
    )
    storage_area_ratio: float | None = setting(
        None, "Share of the computer room's area that C_STOR covers.", ge=0, le=1
    )
    bandwidth_in_gbyte_per_s: float | None = setting(
        None, "B_IN, provisioned bandwidth of incoming traffic, averaged over the year, GB/s.", ge=0
    )
    bandwidth_out_gbyte_per_s: float | None = setting(None, "B_OUT, the same of outgoing traffic.", ge=0)
    traffic_in_ebyte: float | None = setting(None, "T_IN, incoming data of the year, EB.", ge=0)
    traffic_out_ebyte: float | None = setting(None, "T_OUT, outgoing data of the year, EB.", ge=0)


class KpiSettings(Section):
    """What the KPIs need beyond the lake."""

    ashrae_class: Literal["A1", "A2", "A3", "A4"] = setting(
        "A1", "Allowable envelope of the rack cooling index."
    )
    onsite_certificates_sold: bool = setting(
        False,
        "Whether the certificates of own generation were sold: it then counts as renewable for the buyer.",
    )
    cfe_hours: Path | None = setting(
        None, "CSV of hour_start, contracted_kwh, grid_cfe_ratio: what contracts delivered, the grid's share."
    )
    reference_wet_bulb_c: tuple[float, ...] = setting(
        (0.0, 5.0, 10.0, 15.0, 20.0, 25.0),
        "Wet bulbs of the normalised PUE, equally weighted; keep them equal at sites that are compared.",
        min_length=1,
    )
    reference_load_ratio: tuple[float, ...] = setting(
        (0.6, 0.8, 1.0, 1.2),
        "IT energy over the fit's mean of the normalised PUE, each at every wet bulb.",
        min_length=1,
    )
    eu: EuReport = setting(EuReport(), "Declarations of the EU report.")


class LedgerSettings(Section):
    """Limits of the closed ledger; beyond them a night ends with exit code 3 and gold stays as it was.

    So does one whose meters contradict each other, which has no limit of its own: the meters' classes and the losses'
    errors say it. A residual inside three standard deviations of its own error is never refused.
    """

    residual_max_ratio: float = ratio(
        0.05, "Largest |residual| of a day over its sources: what a silent feed may hide."
    )
    unattributed_max_ratio: float = ratio(
        0.10, "Largest share of a day's IT energy without an owner; checked where there is job accounting."
    )

    @model_validator(mode="before")
    @classmethod
    def _without_limit_of_an_hour(cls, given: Any) -> Any:
        """Take settings of older releases: an hour is judged by its meters' errors now."""
        if isinstance(given, dict) and "residual_hour_max_ratio" in given:
            warnings.warn("ledger.residual_hour_max_ratio has no effect any more: remove it", stacklevel=2)
            return {name: value for name, value in given.items() if name != "residual_hour_max_ratio"}
        return given


class TariffSettings(Section):
    """What a kWh, a kW and a month cost."""

    file: Path | None = setting(None, "CSV of prices (docs/methodology.md, bills and tariffs).")


class BillingSettings(Section):
    """Invoices that gold/bill_check compares with the ledger."""

    invoices: Path | None = setting(None, "CSV of invoices, one row a billed month.")
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
]


class GateSettings(Section):
    """What a model must reach on the forward test to become champion.

    `champion_tolerance_ratio` is what it may be worse than the champion by over all, `scope_tolerance_ratio` in any one
    class, cluster or tenant of at least `min_test_rows` hours, `parity_max_ratio` how far the CV(RMSE) of two of these
    may lie apart beyond chance; `gap_max_ratio` what CV(RMSE) may grow by from its training hours to those after.
    Source: ASHRAE Guideline 14 (hourly data): CV(RMSE) at most 30 %, NMBE within 10 %.
    """

    cv_rmse_max_ratio: float = Field(default=0.30, gt=0, le=1)
    nmbe_max_ratio: float = Field(default=0.10, gt=0, le=1)
    champion_tolerance_ratio: float = ratio(0.02)
    scope_tolerance_ratio: float = ratio(0.10)
    parity_max_ratio: float = ratio(0.30)
    gap_max_ratio: float = ratio(0.12)
    min_test_rows: int = Field(default=24, ge=2)


class ModelSettings(Section):
    """E = f(P, T, L) of one kind of device.

    `device` node: the node's own power, inlet temperature; gpu: GPU boards, die temperature.
    `train_days` looks back from the last day of the run (null: all days of the lake); an hour `half_life_days` older
    than the newest teaches half as much (null: all alike).
    `test_ratio` is the share of the last days that test; `min_rows` device-hours are needed to train at all.
    `candidates` are validated over `validation_blocks` of days; the smallest one within `small_model_tolerance_ratio`
    of the best is taken, or their fusion. Between trainings pass `retrain_after_days`, unless its error has grown
    or more than a tenth of the hours is new.
    A hardware class of at least `class_min_rows` training hours may have a model of its own, taught on at most
    `class_max_rows`. With `slim` a smaller variant of the chosen model replaces it where it is within the tolerance.
    """

    name: str = Field(default="node-energy", pattern=r"^[a-z][a-z0-9_-]{0,62}$")
    device: DeviceKind = "node"
    train_days: int | None = Field(default=None, ge=2)
    half_life_days: float | None = Field(default=60.0, ge=1)
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
    retrain_after_days: int = Field(default=7, ge=1, le=366)
    trees: int = Field(default=40, ge=1, le=1000)
    min_samples_leaf: int = Field(default=5, ge=1)
    seed: int = Field(default=20250603, ge=0)
    gates: GateSettings = GateSettings()


class PowerDownSettings(Section):
    """Nodes may be put to sleep: their standby power and what waking takes, as measured or from the vendor's sheet."""

    standby_power_w: float = Field(ge=0, le=1e4, description="Power of a sleeping node, W.")
    wake_s: float = Field(
        ge=0, le=86_400, description="Time from the command to wake a node until it takes jobs, seconds."
    )
    wake_kwh: float = Field(ge=0, le=100, description="Energy of waking a node once, kWh.")
    demand_quantile_ratio: float = setting(
        0.95, "Quantile of the busy nodes of like hours that stays served.", gt=0.5, lt=1
    )
    reserve_nodes: int = setting(1, "Nodes of each cluster that stay on beyond demand.", ge=0)
    reserve_ratio: float = ratio(0.05, "Share of each cluster that stays on as well.")
    least_on_per_rack: int = setting(1, "Nodes of each rack that are never put to sleep.", ge=0)


class ShiftSettings(Section):
    """Jobs that may start later: which, by how long, and what the plan minimises."""

    partitions: tuple[str, ...] = Field(min_length=1, description="Partitions whose pending jobs may wait.")
    max_delay_h: int = setting(24, "Longest delay of a job's end, hours.", ge=1, le=96)
    objective: Literal["energy", "carbon", "cost"] = setting(
        "carbon", "What the plan minimises: energy, carbon or cost."
    )
    preemptible: bool = setting(False, "Whether such jobs may pause and go on.")


class OptimizeSettings(Section):
    """Levers and their guard-rails; a lever without its data makes no proposal and gives the reason."""

    history_days: int = setting(28, "Days that usual demand and idle power rest on.", ge=7, le=366)
    slowdown_max_ratio: float = ratio(0.05, "Most that a cap may slow a job down by.")
    idle_h: int = setting(6, "Hours without a job after which a node is reported as idle.", ge=1, le=24)
    zombie_h: int = setting(
        3, "Hours without utilisation after which a job is reported as a zombie.", ge=1, le=24
    )
    zombie_utilisation_ratio: float = setting(
        0.02, "Utilisation up to which a job counts as unused.", ge=0, le=0.5
    )
    baseline_days: int = setting(60, "Days before a change that its baseline is fitted on.", ge=14, le=366)
    tenant_share_max_ratio: float | None = setting(
        None,
        "Largest share of all advised delay, and of all slowdown by caps, that one tenant may bear; null: no limit.",
        gt=0,
        le=1,
    )
    power_down: PowerDownSettings | None = setting(None, "Sleeping nodes; null: not possible here.")
    shift: ShiftSettings | None = setting(None, "Jobs that may wait; null: none.")


def _pod_user(value: str) -> str:
    try:
        groups = re.compile(value).groupindex
    except re.error as error:
        raise ValueError(f"{value!r} is no regular expression: {error}") from error
    if "user" not in groups:
        raise ValueError(f"{value!r} has no group (?P<user>...)")
    return value


class PrivacySettings(Section):
    """People in job accounting. Users always have pseudonyms; their names lie in a sealed map (docs/privacy.md)."""

    tenants: Literal["named", "pseudonyms"] = setting(
        "named",
        "Whether tables name tenants (accounts, namespaces), as bills need, or give them pseudonyms too.",
    )
    pod_user: Annotated[str, AfterValidator(_pod_user)] | None = setting(
        r"^jupyter-(?P<user>.+)$",
        "Regular expression of names of pods that hold a person's name, its group `user`; by default those of "
        "JupyterHub. null: only people whom the lake knows are found there.",
    )
    policy: Path | None = setting(
        None, "Policy of who may read which published tables (YAML); null: conf/policies/access.yaml."
    )
    published: Place | None = setting(
        None,
        "Folder or URI of the published schemas, a folder an audience; null: `<lake.root>-published`.",
    )
    key_file: Path | None = setting(
        None,
        "File with the key of the map, readable by its owner alone; null: `<lake.root>.people-key`, made with the "
        "first name. LEPTON_PEOPLE_SECRET of the environment goes before it.",
    )


class RestateSettings(Section):
    """Limits of gold/restatement. A closed month's change is restated whatever its size."""

    min_change_ratio: float = ratio(0.001, "Change below which a provisional figure writes no restatement.")
    material_ratio: float = ratio(0.01, "Change from which a restatement is called material.")


class WatchSettings(Section):
    """The streaming job `watch`."""

    trigger_s: int = setting(30, "Time from one reading of the logs to the next, seconds.", ge=1, le=600)
    window_s: int = setting(60, "Length of the means that a state is judged by, seconds.", ge=10, le=300)
    look_back_s: int = setting(
        3600, "Files that were last written longer ago are left out, seconds.", ge=600, le=86_400
    )
    settle_s: float = setting(
        10.0,
        "How long a compressed file, a document or an object must be unchanged before it is read, seconds.",
        ge=0,
        le=600,
    )
