"""Typed settings of one site, validated before anything is read.

A settings file is YAML (see conf/examples). `${VAR}` and `${VAR:-default}` are replaced from the environment, and
`LEPTON__SECTION__KEY` overrides a key. Relative paths are resolved against the settings file's folder, so a run
does not depend on where it was started. Every error names the key, the value and what is allowed.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from stat import S_IMODE
from typing import TYPE_CHECKING, Any, Final, Literal, Self, TypeVar
from zoneinfo import ZoneInfo

import yaml
from pydantic import BaseModel, Field, ValidationError, model_validator
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from lepton_etl.config.sections import (
    AttributionSettings,
    AuditSettings,
    BillingSettings,
    CarbonSettings,
    CarrierSettings,
    FacilityModelSettings,
    Identifier,
    IngestSettings,
    KpiSettings,
    LedgerSettings,
    ModelSettings,
    OpenLineageSettings,
    OperatingSettings,
    OptimizeSettings,
    Place,
    PrivacySettings,
    RestateSettings,
    Section,
    StorageSettings,
    TariffSettings,
    Transformer,
    Umask,
    WatchSettings,
    ratio,
)
from lepton_etl.config.sources import SOURCES, AnySource, Source
from lepton_etl.errors import ConfigurationError
from lepton_etl.file_modes import UMASK
from lepton_etl.ingest.registry import setting
from lepton_etl.ingest.units import Zone
from lepton_etl.redaction import redact, remember_settings, without_user_info, written_secrets
from lepton_etl.registers.node_names import Rule as NodeNameRule

_VARIABLE: Final = re.compile(r"\$\{(?P<name>[A-Za-z_][A-Za-z0-9_]*)(?::-(?P<default>[^}]*))?\}")
_ENV_PREFIX: Final = "LEPTON__"
_SECONDS_PER_HOUR: Final = 3600
GRID_SOURCE: Final = "grid"

if TYPE_CHECKING:
    GridFormat = str
else:
    GridFormat = Literal[tuple(name for name, source in SOURCES.items() if "grid" in source.subjects)]


class Site(Section):
    site_id: Identifier = Field(description="Name of the site in every table.")
    timezone: Zone = setting("UTC", "IANA zone of local dates in the report.")

    @property
    def zone(self) -> ZoneInfo:
        return ZoneInfo(self.timezone)


class LakeSettings(Section):
    root: Place = Field(
        description="Folder of the Delta tables, or s3a://bucket/prefix with the options of section `storage`."
    )
    umask: Umask | None = setting(
        None,
        "Rights that new files and folders of a run do not get, octal, such as '027': nothing for others; null: as the "
        "process has it.",
    )


class MlflowSettings(Section):
    tracking_uri: str = setting("sqlite:///mlflow.db", "Any MLflow tracking URI.")
    artifact_location: str = setting("mlartifacts", "Where artifacts of a new experiment go.")
    experiment: Identifier = setting("lepton-etl", "MLflow experiment.")
    deadline_s: float = setting(
        60.0,
        "How long a question to the registry may take, seconds; the run asks no more after a miss.",
        gt=0,
    )


class Fleet(Section):
    inventory: Path = Field(description="CSV of nodes with valid-from dates.")
    node_names: NodeNameRule = setting(
        "inventory",
        "inventory: a name in logs is the listed node that differs by case, a trailing dot or the domain alone; "
        "as_logged: every spelling is a node of its own.",
    )


class Facility(Section):
    meters: Path | None = setting(None, "CSV of facility meters.")
    pue_assumed: float | None = setting(
        None, "PUE where none is metered; published with the basis `assumed`.", ge=1.0, le=10.0
    )
    transformer: Transformer | None = setting(
        None, "Nameplate of the transformer: its loss is booked by it, and its meters are held against it."
    )
    stages: tuple[Literal["transformer", "ups", "pdu"], ...] = setting(
        ("transformer", "ups", "pdu"),
        "Stages of conversion between the utility meter and the IT input; leave out what the site does not have.",
    )
    carriers: CarrierSettings = setting(
        CarrierSettings(), "Weights of heat, cooling, gas and fuel that enter at the point `utility`."
    )
    model: FacilityModelSettings = FacilityModelSettings()
    operating: OperatingSettings | None = setting(
        None, "Design data of the air side; with it the best operating point is reported."
    )


class Grid(Section):
    zone: str = Field(description="Zone id as the intensity files name it.", min_length=1)
    intensity: str = Field(description="Path pattern of the hourly intensity files.")
    format: GridFormat = setting(
        "electricitymaps",
        "Who wrote the files: Electricity Maps, EIA-930 (life-cycle intensity: upstream emissions alone), "
        "or a table with the columns time, intensity and if known zone and estimated.",
    )
    unit: str = setting("g/kWh", "Unit of the intensity; of grid_csv alone.")
    timezone: Zone = setting("UTC", "IANA zone of stamps that carry none; of grid_csv alone.")
    intensity_basis: Literal["direct", "lifecycle"] = setting("direct", "Basis that emissions take.")
    signal: Literal["average", "marginal"] = "average"
    flow: Literal["production", "consumption"] = "consumption"
    label: Literal["start", "end"] | None = setting(
        None, "Which end of the hour the stamp names; null: the end for eia930, else the start."
    )
    credit: str | None = setting(None, "Who made the data and under which licence.")

    @model_validator(mode="after")
    def _location_based_needs_direct_average(self) -> Self:
        if (self.intensity_basis, self.signal) != ("direct", "average"):
            raise ValueError("location-based emissions take intensity_basis direct and signal average only")
        return self

    @model_validator(mode="after")
    def _unit_belongs_to_grid_csv(self) -> Self:
        if self.format != "grid_csv" and (self.unit, self.timezone) != ("g/kWh", "UTC"):
            raise ValueError(f"unit and timezone are fixed by the publisher of {self.format}")
        return self

    @property
    def source(self) -> Source:
        """The source that reads the intensity files; a format takes what it has a setting for."""
        declared = SOURCES[self.format]
        own: dict[str, Any] = {
            "zone": self.zone,
            "unit": self.unit,
            "basis": self.intensity_basis,
            "label": self.label,
        }
        known = {
            key: value for key, value in own.items() if key in declared.model_fields and value is not None
        }
        return declared(
            name=GRID_SOURCE, path=self.intensity, credit=self.credit, timezone=self.timezone, **known
        )


class Energy(Section):
    interval_s: int = setting(300, "Length of a silver interval; divides 3600.", ge=10, le=3600)
    max_gap_s: float = setting(330.0, "Longest step that the trapezoid bridges.", gt=0, le=3600)
    coverage_min_ratio: float = ratio(0.9, "Least coverage at which a total is published.")
    idle_utilisation_ratio: float = ratio(0.05, "Utilisation below which a node is idle.")
    transfer_kwh_per_gbyte: float | None = setting(
        None,
        "Energy of the network for each 10^9 bytes through a node's ports, kWh; null: not known, and the energy by "
        "bytes is null.",
        ge=0,
    )
    sensor_gain_ratio: float | None = setting(
        None,
        "Gain error, one sigma, of node sensors for which the inventory has none; null: by the sensor's "
        "class (conf/factors/sensor_classes.csv).",
        ge=0,
        le=1,
    )

    @model_validator(mode="after")
    def _interval_divides_the_hour(self) -> Self:
        if _SECONDS_PER_HOUR % self.interval_s:
            raise ValueError(f"interval_s {self.interval_s} does not divide 3600")
        return self


class Quality(Section):
    expectations: Path | None = setting(None, "Folder of rule files; default: the ones shipped in conf/.")
    docs: Path = setting(Path("quality"), "Folder of the Data Docs, one below it for each run's days.")
    project: Path | None = setting(
        None, "Folder whose gx/ is the context of Great Expectations; default: that of the Data Docs."
    )


class Report(Section):
    folder: Path = setting(Path("report"), "Folder of the HTML pages.")


class Settings(BaseSettings):
    """Everything one night needs to know."""

    model_config = SettingsConfigDict(
        frozen=True, extra="forbid", env_prefix=_ENV_PREFIX, env_nested_delimiter="__", validate_default=True
    )

    site: Site
    lake: LakeSettings
    storage: StorageSettings = StorageSettings()
    mlflow: MlflowSettings = MlflowSettings()
    fleet: Fleet
    sources: tuple[AnySource, ...] = Field(min_length=1)
    facility: Facility = Facility()
    grid: Grid | None = None
    ingest: IngestSettings = IngestSettings()
    energy: Energy = Energy()
    carbon: CarbonSettings = CarbonSettings()
    kpi: KpiSettings = KpiSettings()
    quality: Quality = Quality()
    attribution: AttributionSettings = AttributionSettings()
    ledger: LedgerSettings = LedgerSettings()
    model: ModelSettings = ModelSettings()
    tariff: TariffSettings = TariffSettings()
    billing: BillingSettings = BillingSettings()
    restate: RestateSettings = RestateSettings()
    report: Report = Report()
    watch: WatchSettings = WatchSettings()
    optimize: OptimizeSettings = OptimizeSettings()
    privacy: PrivacySettings = PrivacySettings()
    audit: AuditSettings = AuditSettings()
    openlineage: OpenLineageSettings = OpenLineageSettings()
    spark: dict[str, str] = Field(
        default_factory=dict, description="Further Spark SQL settings of the session."
    )

    @model_validator(mode="after")
    def _source_names_are_unique(self) -> Self:
        names = [source.name for source in self.sources] + [GRID_SOURCE] * (self.grid is not None)
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(
                f"sources: two sources are called {', '.join(twice)} ('grid' is taken by section grid)"
            )
        return self

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        # The environment is the operator's last word: it wins over the file.
        return env_settings, init_settings

    @property
    def all_sources(self) -> tuple[Source, ...]:
        """The sources, with the grid's files as the last one."""
        if self.grid is None:
            return self.sources
        return (*self.sources, self.grid.source)

    @property
    def spark_options(self) -> dict[str, str]:
        """Settings of the session: section `spark`, and section `storage` in the words of the s3a connector."""
        modes = {} if self.lake.umask is None else {f"spark.executorEnv.{UMASK}": self.lake.umask}
        return self.storage.s3a() | modes | self.spark

    @property
    def digest(self) -> str:
        """SHA-256 of the settings in force, without credentials and without where keys lie, for the run record."""
        text = without_user_info(self.model_dump_json(exclude={"storage", "audit"}))
        return sha256(text.encode()).hexdigest()


def load(path: str | Path) -> Settings:
    """Return settings of a YAML file.

    Raises ConfigurationError naming the file, the key, the value and what is allowed.
    """
    file = Path(path)
    try:
        raw = yaml.safe_load(file.read_text(encoding="utf-8"))
    except OSError as error:
        what, remedy = f"cannot read the settings: {error.strerror}", "give --config an existing YAML file"
        raise ConfigurationError(what, where=str(file), remedy=remedy) from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        # The line itself may hold a secret, and is not shown.
        mark = getattr(error, "problem_mark", None)
        place = f" in line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        what = getattr(error, "problem", None) or type(error).__name__
        raise ConfigurationError(
            f"not YAML: {what}{place}", where=str(file), remedy="mend the syntax"
        ) from None
    if not isinstance(raw, dict):
        what = "the settings file is not a mapping"
        raise ConfigurationError(what, where=str(file), remedy="see conf/examples")
    used: dict[str, str] = {}
    expanded = _expand(raw, "", file, used)
    remember_settings(expanded)
    try:
        settings = Settings(**expanded)
    except ValidationError as error:
        remedy = "see conf/examples and docs/settings.md"
        # Without its cause, which shows every value in full.
        raise ConfigurationError(_explain(error, raw, used), where=str(file), remedy=remedy) from None
    remember_settings(settings.model_dump())
    _refuse_readable_secrets(raw, file)
    return _absolute(settings, file.resolve().parent)


def _refuse_readable_secrets(raw: Any, file: Path) -> None:
    """Raise ConfigurationError where the file holds a secret itself and others than its owner may read it."""
    mode = S_IMODE(file.stat().st_mode)
    written = list(written_secrets(raw)) if mode & 0o077 else []
    if written:
        raise ConfigurationError(
            f"key {written[0]} holds a secret, and others may read the file (mode {mode:04o})",
            where=str(file),
            remedy=f"write ${{VARIABLE}} and keep the secret in the environment, or chmod 600 {file}",
        )


def _expand(value: Any, key: str, file: Path, used: dict[str, str]) -> Any:
    """Replace `${VAR}` in every string, and put what was found in `used`.

    An unset variable without a default is an error that names key and variable.
    """
    if isinstance(value, dict):
        return {k: _expand(v, f"{key}.{k}" if key else str(k), file, used) for k, v in value.items()}
    if isinstance(value, list):
        return [_expand(v, f"{key}[{i}]", file, used) for i, v in enumerate(value)]
    if not isinstance(value, str):
        return value
    if "\0" in value:
        # No path, name or address holds one; what opens a file would cut it there or fail far from here.
        what, remedy = f"key {key} holds a NUL character", "write it without"
        raise ConfigurationError(what, where=str(file), remedy=remedy)

    def replacement(match: re.Match[str]) -> str:
        name, default = match["name"], match["default"]
        text = os.environ.get(name) or default
        if text is None:
            raise ConfigurationError(
                f"key {key}: value {value!r}: the environment variable {name} is not set",
                where=str(file),
                remedy=f"export {name} or write ${{{name}:-default}}",
            )
        used[name] = text
        return text

    return _VARIABLE.sub(replacement, value)


def _explain(error: ValidationError, raw: Any, used: Mapping[str, str]) -> str:
    """Return one line a mistake: key, value as it is written in the file, what is allowed."""
    lines = []
    for mistake in error.errors(include_url=False):
        key = ".".join(str(part) for part in mistake["loc"]) or "settings"
        what = mistake["msg"].removeprefix("Value error, ")
        written = repr(_written(raw, mistake["loc"]))
        for match in _VARIABLE.finditer(written):
            what = what.replace(used.get(match["name"], match[0]), match[0])
        if mistake["type"] == "extra_forbidden":
            what = "no such key"
        shown = "" if mistake["type"] == "missing" else f" = {_short(redact(written))}"
        lines.append(f"key {key}{shown}: {what}")
    return "; ".join(lines)


def _written(raw: Any, place: tuple[int | str, ...]) -> object:
    """The value at a place of the settings as the file writes it, or the variable that stands above the file."""
    found = raw
    for depth, part in enumerate(place, start=1):
        variable = _ENV_PREFIX + "__".join(map(str, place[:depth]))
        named = next((name for name in os.environ if name.upper() == variable.upper()), None)
        if named:
            return f"${{{named}}}"
        # The name of a format stands in the place of a source, and not in the file.
        with suppress(LookupError, TypeError):
            found = found[part]
    return found


def _short(text: str) -> str:
    return text if len(text) <= 60 else f"{text[:57]}..."


# Texts that are paths, patterns of paths or URIs; what is typed as a path needs no mention.
_PLACES: Final[dict[type[BaseModel], tuple[str, ...]]] = {
    LakeSettings: ("root",),
    PrivacySettings: ("published",),
    Source: ("path",),
    Grid: ("intensity",),
    MlflowSettings: ("tracking_uri", "artifact_location"),
}
Tree = TypeVar("Tree", bound=BaseModel)


def _absolute(tree: Tree, folder: Path) -> Tree:
    """Resolve relative paths against the settings file's folder, in all sections and sources."""
    places = {name for kind, names in _PLACES.items() if isinstance(tree, kind) for name in names}
    changed: dict[str, Any] = {}
    for name in type(tree).model_fields:
        value = getattr(tree, name)
        if isinstance(value, Path):
            changed[name] = Path(os.path.normpath(folder / value))
        elif name in places and value is not None:
            changed[name] = _absolute_place(value, folder)
        elif isinstance(value, Section):
            changed[name] = _absolute(value, folder)
        elif isinstance(value, tuple):
            changed[name] = tuple(
                _absolute(item, folder) if isinstance(item, Source) else item for item in value
            )
    return tree.model_copy(update=changed)


def _absolute_place(place: str, folder: Path) -> str:
    """Return a path or the file of a SQLite URI below the folder; any other URI as it is."""
    path = place.removeprefix("sqlite:///")
    if "://" in path or (path != place and path.startswith("/")):
        return place
    return place.removesuffix(path) + os.path.normpath(folder / path)
