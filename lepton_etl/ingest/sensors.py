"""The rule table: which raw sensor name is which quantity of which device. Rules are data (conf/sensors/), not code."""

import re
from collections.abc import Iterator, Mapping
from functools import cached_property, lru_cache
from pathlib import Path
from string import Formatter
from typing import Annotated, Any, Final, Literal, NamedTuple

import polars as pl
import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    ValidationError,
    model_validator,
)

from lepton_etl.conf_files import conf_path
from lepton_etl.errors import ConfigurationError
from lepton_etl.ingest.units import Conversion, conversion
from lepton_etl.schema.common import QUANTITIES, STATE_CODES, STATE_QUANTITIES

Statistic = Literal["instant", "mean", "min", "max", "counter"]

RULES_FOLDER: Final = conf_path("sensors")

NO_LABELS: Final[Mapping[str, str]] = {}
# What a cell means under its rule: columns of every decoder between the sensor and the value.
MEANING: Final = {
    "quantity": pl.String, "statistic": pl.String, "point": pl.String, "raw_unit": pl.String, "low": pl.Float64,
    "high": pl.Float64, "factor": pl.Float64, "divisor": pl.Float64, "offset": pl.Float64,
}  # fmt: skip


def meaning(
    quantity: str, statistic: str, point: str | None, raw_unit: str, change: Conversion | None
) -> tuple[object, ...]:
    """Return a row of MEANING: bounds of the field dictionary, and nulls for a unit that does not convert."""
    bounds = QUANTITIES[quantity]
    return quantity, statistic, point, raw_unit, bounds.ge, bounds.le, *(change or (None, None, None))


def literals(meant: tuple[object, ...]) -> list[pl.Expr]:
    """Return a row of MEANING as columns of one value."""
    return [
        pl.lit(value, dtype=kind).alias(name)
        for (name, kind), value in zip(MEANING.items(), meant, strict=True)
    ]


def as_tuple(value: Any) -> Any:
    """Return one string of a YAML file stands for a list of one."""
    return (value,) if isinstance(value, str) else value


def python_pattern(pattern: str) -> str:
    """Return a regular expression as Python's `re` takes it; ValueError otherwise."""
    try:
        re.compile(pattern)
    except re.error as error:
        raise ValueError(f"{pattern!r} is no regular expression: {error}") from error
    return pattern


def column_pattern(pattern: str) -> str:
    """Return a regular expression that runs on columns, without look-around; ValueError otherwise."""
    try:
        pl.Series([""]).str.contains(f"^(?:{pattern})$")
    except pl.exceptions.ComputeError as error:
        raise ValueError(f"{pattern!r} is no regular expression without look-around: {error}") from error
    return pattern


Pattern = Annotated[str, AfterValidator(python_pattern)]
ColumnPattern = Annotated[str, AfterValidator(column_pattern)]
Strings = Annotated[tuple[str, ...], BeforeValidator(as_tuple, json_schema_input_type=str | tuple[str, ...])]


class SensorRule(BaseModel):
    """One line of the table; the first rule whose `match` fits the whole sensor name wins."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Pattern = Field(description="Regular expression; it must fit the whole raw sensor name.")
    quantity: str = Field(description="Quantity of the field dictionary.")
    device: Strings = Field(
        default=("node",),
        description="Device template with named groups of `match` or labels, such as psu{n}; of several the first "
        "whose names are all there.",
    )
    unit: Strings = Field(
        description="Units that the sensor may have, in pint's names; any other is a reject."
    )
    unit_is: Mapping[str, str] = Field(
        default_factory=dict,
        description="What a unit as logged means for this sensor; goes before the table's own names.",
    )
    statistic: Statistic = "instant"
    not_measured: tuple[float, ...] = Field(
        default=(),
        description="Numbers, as logged, by which the sensor says that it has no value (0, 32767).",
    )
    states: Mapping[Pattern, str] = Field(
        default_factory=dict,
        description="Of node_state and power_state: regular expression that must fit the whole text, in lower case -> "
        "off, asleep, failed, maintenance, drained or on; the first that fits. Any other text is no value.",
    )
    point: str | None = Field(default=None, description="Where a power is taken.")
    labels: Mapping[str, Pattern] = Field(
        default_factory=dict,
        description="Label -> regular expression that must fit its whole value; the value of an absent label is empty. "
        "Their named groups serve the device templates.",
    )
    several: str | None = Field(
        default=None,
        description="Device template where a node has more than one such series: each is then a device beside the "
        "node, for which none of them speaks.",
    )
    repeated: Literal["device", "value"] | None = Field(
        default=None,
        description="Several series of one time say one figure: the partitions of a board (the first of a device is "
        "read), or the parts of a socket that all show its sensor (the first of a value). The others are ignored.",
    )

    @model_validator(mode="after")
    def _is_sound(self) -> "SensorRule":
        groups = {
            group
            for pattern in (self.match, *self.labels.values())
            for group in re.compile(pattern).groupindex
        }
        if self.quantity not in QUANTITIES:
            raise ValueError(f"quantity {self.quantity!r} is not in the field dictionary")
        if bool(self.states) != (self.quantity in STATE_QUANTITIES) or not set(self.states.values()) <= set(
            STATE_CODES
        ):
            raise ValueError(
                f"states are of {', '.join(STATE_QUANTITIES)}, and one of {', '.join(STATE_CODES)}"
            )
        for unit in self.unit:
            if conversion(unit, self.quantity) is None:
                raise ValueError(f"unit {unit!r} cannot be brought to {QUANTITIES[self.quantity].unit}")
        if not groups <= {name for template in self.device for name in template_names(template)}:
            raise ValueError(
                f"device {self.device} uses not every group of {self.match!r}: two devices would be one"
            )
        return self


class Mapped(NamedTuple):
    """What one sensor name stands for."""

    rule: int
    quantity: str
    devices: tuple[str, ...]
    """Device templates, groups of the name already filled in."""
    statistic: str
    point: str | None


class IndexLabel(BaseModel):
    """A metric whose value is the device's number: series with the same `key` label get it as label `name`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    metric: str
    key: str
    name: str


class NamesOfBmc(BaseModel):
    """A metric with one of its labels the BMC's own name of the sensor, which the rules of ipmitool.yaml map."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    match: Pattern
    label: str
    unit: str
    labels: Mapping[str, Pattern] = Field(default_factory=dict, description="What else its labels must fit.")

    def rules(self, table: "RuleTable") -> Iterator["SensorRule"]:
        """Yield the rules of a table of a BMC's names whose quantity has this unit, as rules of the metric."""
        for rule in table.rules:
            if conversion(self.unit, rule.quantity) is not None:
                own = {"match": self.match, "unit": (self.unit,), "unit_is": {}}
                labels = {**self.labels, self.label: _loose(rule.match)}
                yield rule.model_copy(update=own | {"labels": labels})


class RuleTable(BaseModel):
    """A file of conf/sensors: the rules, what a tool writes for units, and what it writes where there is no value."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    rules: tuple[SensorRule, ...] = Field(min_length=1)
    units: Mapping[str, str] = Field(default_factory=dict, description="Unit as logged -> pint's name of it.")
    no_value: tuple[str, ...] = Field(
        default=(), description="Texts, in lower case, that mean that there is no value."
    )
    no_value_pattern: ColumnPattern | None = Field(
        default=None, description="Whole texts that are no measurement."
    )
    loose_names: bool = Field(
        default=False, description="Whether a name fits in any case, and with _ where the rule has a blank."
    )
    index_labels: tuple[IndexLabel, ...] = ()
    bmc_names: tuple[NamesOfBmc, ...] = Field(
        default=(),
        description="Metrics of a BMC's sensors: the rules of ipmitool.yaml follow the table's own.",
    )

    @model_validator(mode="before")
    @classmethod
    def _with_names_of_bmc(cls, given: Any) -> Any:
        if not isinstance(given, Mapping) or not given.get("bmc_names"):
            return given
        table = load_rules(RULES_FOLDER / "ipmitool.yaml")
        metrics = [NamesOfBmc.model_validate(one) for one in given["bmc_names"]]
        named = [rule for metric in metrics for rule in metric.rules(table)]
        return {**given, "rules": [*given.get("rules", ()), *named], "bmc_names": ()}

    def find(
        self, sensor: str, labels: Mapping[str, str] = NO_LABELS, raw_unit: str | None = None
    ) -> Mapped | None:
        """The first rule that fits name and labels, its device templates filled with their groups (in lower case).

        Of several the first that knows the unit as logged, if one does.
        """
        fitting = (
            (number, groups + label_groups)
            for number, groups in _matches(self._patterns, sensor)
            if (label_groups := _label_groups(self.rules[number].labels, labels)) is not None
        )
        first = next(fitting, None)
        if first is not None and raw_unit and self.convert(first[0], raw_unit) is None:
            first = next((other for other in fitting if self.convert(other[0], raw_unit)), first)
        if first is None:
            return None
        number, groups = first
        rule = self.rules[number]
        devices = tuple(_fill(template, groups) for template in rule.device)
        return Mapped(number, rule.quantity, devices, rule.statistic, rule.point)

    def may_map(self, sensor: str) -> bool:
        """Return whether a rule fits the name, whatever it asks of the labels."""
        return bool(_matches(self._patterns, sensor))

    def is_no_value(self, text: str) -> bool:
        """Return whether a text without blanks around it says that there is no value."""
        if text.lower() in self.no_value:
            return True
        return self.no_value_pattern is not None and re.fullmatch(self.no_value_pattern, text) is not None

    def says_no_value(self, text: pl.Expr) -> pl.Expr:
        """`is_no_value` of a column."""
        word = text.str.to_lowercase().is_in(self.no_value)
        if self.no_value_pattern is None:
            return word
        return word | text.str.contains(f"^(?:{self.no_value_pattern})$")

    @cached_property
    def _patterns(self) -> tuple[str, ...]:
        return tuple(_loose(rule.match) if self.loose_names else rule.match for rule in self.rules)

    def convert(self, rule: int, raw_unit: str) -> Conversion | None:
        """Return how a unit as logged is converted under a rule; None is a unit mismatch."""
        sensor_rule = self.rules[rule]
        unit = sensor_rule.unit_is.get(raw_unit) or self.units.get(raw_unit, raw_unit)
        return conversion(unit, sensor_rule.quantity) if unit in sensor_rule.unit else None

    def meaning(self, mapped: Mapped, raw_unit: str) -> tuple[object, ...]:
        """Return the row of MEANING of a sensor with the unit as logged."""
        change = self.convert(mapped.rule, raw_unit)
        return meaning(mapped.quantity, mapped.statistic, mapped.point, raw_unit, change)

    def is_measured(self, rule: int, text: str) -> bool:
        """Return whether a number as logged is none by which the sensor of a rule says that it has no value."""
        blanks = self.rules[rule].not_measured
        try:
            return not blanks or float(text) not in blanks
        except ValueError:
            return True

    def state_code(self, rule: int, text: str) -> float | None:
        """Return what a text says of a node's state under a rule of states; None where it says none that is known."""
        fitting = (
            state for pattern, state in self.rules[rule].states.items() if re.fullmatch(pattern, text.lower())
        )
        return STATE_CODES.get(next(fitting, ""))

    def meanings(self, pairs: pl.DataFrame, labels: Mapping[str, str] = NO_LABELS) -> pl.DataFrame:
        """Return sensor, device_id, not_measured and MEANING of each distinct (sensor, raw_unit) that a rule fits.

        Rules run once a pair, not once a row.
        """
        rows = [
            (sensor, mapped.devices[0], self.rules[mapped.rule].not_measured, *self.meaning(mapped, raw_unit))
            for sensor, raw_unit in pairs.select("sensor", "raw_unit").unique().drop_nulls().iter_rows()
            if (mapped := self.find(sensor, labels, raw_unit)) is not None
        ]
        return pl.DataFrame(
            rows,
            schema={
                "sensor": pl.String, "device_id": pl.String, "not_measured": pl.List(pl.Float64), **MEANING,
            },
            orient="row",
        )  # fmt: skip


def _loose(pattern: str) -> str:
    """Return a pattern that fits in any case, and with an underscore for each of its blanks."""

    def blank_or(match: re.Match[str]) -> str:
        return "[ _]" if match[0] == " " else match[0].replace(" ", " _")

    return "(?i:" + re.sub(r"\[[^]]*\]| ", blank_or, pattern) + ")"


def template_names(template: str) -> list[str]:
    """Return the names in braces of a device template."""
    return [name for _, name, _, _ in Formatter().parse(template) if name]


Groups = tuple[tuple[str, str], ...]


@lru_cache(maxsize=1 << 16)
def _matches(patterns: tuple[str, ...], sensor: str) -> tuple[tuple[int, Groups], ...]:
    """Index of each pattern that fits the whole name, and its groups.

    Remembered, because a fleet's thousands of files name the same few hundred sensors.
    """
    matches = ((number, re.fullmatch(pattern, sensor)) for number, pattern in enumerate(patterns))
    return tuple((number, _groups(match)) for number, match in matches if match is not None)


def _label_groups(wanted: Mapping[str, str], labels: Mapping[str, str]) -> Groups | None:
    """Return the groups of a rule's label patterns; None if a label does not fit."""
    label_groups: Groups = ()
    for name, pattern in wanted.items():
        match = re.fullmatch(pattern, labels.get(name, ""))
        if match is None:
            return None
        label_groups += _groups(match)
    return label_groups


def _groups(match: re.Match[str]) -> Groups:
    return tuple((name, text.lower()) for name, text in match.groupdict().items() if text is not None)


def _fill(template: str, groups: Groups) -> str:
    for name, text in groups:
        template = template.replace("{" + name + "}", text)
    return template


@lru_cache(maxsize=32)
def load_rules(path: Path) -> RuleTable:
    """Read one file of conf/sensors.

    Raises ConfigurationError naming the file and what is wrong in it.
    """
    try:
        return RuleTable.model_validate(yaml.safe_load(path.read_text(encoding="utf-8")))
    except ValidationError as error:
        first = error.errors()[0]
        what = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
        remedy = "correct the rule; docs/formats.md shows the keys"
        raise ConfigurationError(what, where=str(path), remedy=remedy) from error
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        what = f"sensor rules cannot be read: {error}"
        raise ConfigurationError(what, where=str(path), remedy="name a file of conf/sensors") from error


def rules_or_file(value: Any) -> Any:
    """Return a path in the settings stands for the rule table in that file."""
    return load_rules(Path(value)) if isinstance(value, str | Path) else value


Rules = Annotated[RuleTable, BeforeValidator(rules_or_file, json_schema_input_type=str | RuleTable)]
